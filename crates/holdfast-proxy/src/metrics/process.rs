//! What the process itself uses, read from the kernel when a scrape asks.
//!
//! A figure that cannot be read (no `/proc`, as outside Linux) is left out rather than shown as 0.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

/// Resource use of this process at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ProcessUsage {
    /// CPU time used by all threads since the start, in seconds, user and system together.
    pub cpu_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Most file descriptors that the process may have open.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl ProcessUsage {
    /// Reads the figures now.
    #[must_use]
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(),
            resident_bytes: status_field(&status, "VmRSS:").map(|kib| kib * 1024),
            // Reading the directory opens one more descriptor, which is not the gateway's.
            open_fds: std::fs::read_dir("/proc/self/fd")
                .ok()
                .map(|dir| (dir.count() as u64).saturating_sub(1)),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _hard)| soft),
            threads: status_field(&status, "Threads:"),
        }
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// The number in a line such as `VmRSS:   1234 kB`.
fn status_field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_of_everything() {
        let usage = ProcessUsage::read();
        assert!(usage.cpu_seconds.is_some_and(|s| s >= 0.0));
        assert!(usage.resident_bytes.is_some_and(|b| b > 100_000));
        assert!(usage.open_fds.is_some_and(|n| n >= 1));
        assert!(usage.max_fds >= usage.open_fds);
        assert!(usage.threads.is_some_and(|n| n >= 1));
    }

    #[test]
    fn fields_are_found_by_their_key() {
        let status = "Name:\tx\nVmRSS:\t  1234 kB\nThreads:\t7\n";
        assert_eq!(status_field(status, "VmRSS:"), Some(1234));
        assert_eq!(status_field(status, "Threads:"), Some(7));
        assert_eq!(status_field(status, "VmSwap:"), None);
    }
}
