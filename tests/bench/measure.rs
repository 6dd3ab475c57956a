//! What the kernel knows of a process: time on the CPU and memory.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Error;

/// Nanoseconds that all threads of these processes have spent on a CPU.
pub(crate) fn cpu_ns(pids: &[u32]) -> u64 {
    let mut total = 0;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    total
}

/// Bytes of memory that these processes hold.
pub(crate) fn rss(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

/// A process and its children.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut family = vec![pid];
    family.extend(listed.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    family
}

/// Thousands of connections need as many descriptors as there may be.
pub(crate) fn raise_descriptors() -> Result<(), Error> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// The middle value; of an even number of values the mean of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        many if many % 2 == 1 => values[many / 2],
        many => f64::midpoint(values[many / 2 - 1], values[many / 2]),
    }
}
