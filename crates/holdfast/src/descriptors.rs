//! Open files: a connection costs one, and many systems allow 1,024 unless asked for more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Besides connections: pipes of processes, listeners, runtimes, files of the node itself.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one and says so where that is too little for as many connections as
/// `settings` let in. Calls go out on connections of their own, so each may need two.
pub(crate) fn raise(connections: usize, settings: &str) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let allowed = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let needed = (connections as u64).saturating_mul(2).saturating_add(OTHERS);
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "too few open files for {settings}: raise the hard limit (LimitNOFILE= of a systemd unit, \
             --ulimit nofile= of a container, ulimit -Hn of a shell) to {needed}, or lower {settings}"
        );
    }
}
