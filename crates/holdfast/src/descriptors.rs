//! Open files: a connection costs one, and many systems allow 1,024 unless asked for more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Besides clients: connections to servers, pipes of processes, listeners, runtimes.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one and says so where that is too little for `connections`.
pub(crate) fn raise(connections: usize) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let allowed = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let wanted = (connections as u64).saturating_add(OTHERS);
    if allowed < wanted {
        tracing::warn!(
            allowed,
            wanted,
            "limits.connections needs more open files than the system allows (ulimit -n)"
        );
    }
}
