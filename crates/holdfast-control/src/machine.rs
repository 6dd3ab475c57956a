//! What is read of the machine that the node runs on: processors, memory, disk, certificates in files.
//!
//! A container's limits count before the machine's: the tightest of the node's own control group and
//! those above it (cgroup v2, as mounted at `/sys/fs/cgroup`), and the machine as a whole besides, since
//! a neighbour that takes all of it leaves the node nothing. What cannot be read (no `/proc`, no limit,
//! no data directory) has no value; nothing is guessed.

use std::path::{Path, PathBuf};

use tokio::time::Instant;

/// Where the kernel shows control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// A disk counts as no larger than this, 20 GiB: a share says how much a node has left only while the
/// disk is small. 98 % of a large one leave more than all nodes of a cluster write in a year.
const LARGEST_DISK: f64 = 20.0 * 1024.0 * 1024.0 * 1024.0;

/// What can be asked how the machine is.
pub(crate) trait Senses: Send + 'static {
    /// Reads everything now. Blocks as long as files take.
    fn read(&mut self) -> Reading;
}

/// Reads it, and remembers what the next reading is compared with.
#[derive(Debug)]
pub(crate) struct Machine {
    data_dir: Option<PathBuf>,
    certificates: Vec<PathBuf>,
    /// The node's own control group and those above it.
    groups: Vec<PathBuf>,
    last: Option<Spent>,
}

/// One reading; shares are 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Reading {
    /// Since the reading before.
    pub(crate) cpu: Option<f64>,
    pub(crate) memory: Option<f64>,
    pub(crate) disk: Option<f64>,
    /// When the first of the certificates ends, in seconds since the Unix epoch.
    pub(crate) certificate: Option<u64>,
}

/// Processor time so far.
#[derive(Clone, Debug)]
struct Spent {
    at: Instant,
    machine: Option<Ticks>,
    /// By group with a quota: microseconds used, and how many processors it may use.
    groups: Vec<(PathBuf, u64, f64)>,
}

/// The first line of `/proc/stat`, in ticks of all processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ticks {
    busy: u64,
    all: u64,
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(data_dir: Option<PathBuf>, certificates: Vec<PathBuf>) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let groups = group_of(&own).map(|own| with_parents(Path::new(GROUPS), own));
        Self { data_dir, certificates, groups: groups.unwrap_or_default(), last: None }
    }

    fn spent(&self) -> Spent {
        let group = |path: &PathBuf| {
            let processors = quota(&read(path.join("cpu.max")))?;
            let used = field(&read(path.join("cpu.stat")), "usage_usec")?;
            Some((path.clone(), used, processors))
        };
        Spent {
            at: Instant::now(),
            machine: ticks(&read("/proc/stat")),
            groups: self.groups.iter().filter_map(group).collect(),
        }
    }

    fn memory_of_groups(&self) -> Option<f64> {
        let share = |path: &PathBuf| {
            let limit = read(path.join("memory.max"));
            let current = read(path.join("memory.current"));
            memory_of_group(&limit, &current, &read(path.join("memory.stat")))
        };
        self.groups.iter().filter_map(share).reduce(f64::max)
    }
}

impl Senses for Machine {
    fn read(&mut self) -> Reading {
        let spent = self.spent();
        let cpu = self.last.as_ref().and_then(|last| spent.share_since(last));
        self.last = Some(spent);
        let ends = |path: &PathBuf| holdfast_proxy::tls::expiry::of_pem(&std::fs::read(path).ok()?);
        Reading {
            cpu,
            memory: worse(self.memory_of_groups(), memory_of_machine(&read("/proc/meminfo"))),
            disk: self.data_dir.as_deref().and_then(disk),
            certificate: self.certificates.iter().filter_map(ends).min(),
        }
    }
}

// === impl Spent ===

impl Spent {
    /// The share of what the node may use that was used since `earlier`: by its groups, or by all.
    fn share_since(&self, earlier: &Self) -> Option<f64> {
        let passed = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        let of_group = |(path, used, processors): &(PathBuf, u64, f64)| {
            let before = earlier.groups.iter().find(|it| it.0 == *path)?.1;
            let used = used.saturating_sub(before) as f64 / 1e6;
            (passed > 0.0).then(|| used / (passed * processors))
        };
        let groups = self.groups.iter().filter_map(of_group).reduce(f64::max);
        let machine = self.machine.zip(earlier.machine).and_then(|(now, before)| {
            let all = now.all.saturating_sub(before.all);
            (all > 0).then(|| now.busy.saturating_sub(before.busy) as f64 / all as f64)
        });
        worse(groups, machine).map(|share| share.clamp(0.0, 1.0))
    }
}

fn worse(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// How full a directory's disk is, as a process without privileges meets it.
fn disk(path: &Path) -> Option<f64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    // What is reserved for the administrator is neither used nor to be had.
    let used = stat.blocks().saturating_sub(stat.blocks_free());
    let bytes = |blocks| blocks as f64 * stat.fragment_size() as f64;
    full(bytes(used), bytes(stat.blocks_available()))
}

/// The share of a disk that is in use, of a large one the share of its last [`LARGEST_DISK`].
fn full(used: f64, available: f64) -> Option<f64> {
    let counted = (used + available).min(LARGEST_DISK);
    (counted > 0.0).then(|| 1.0 - available.min(counted) / counted)
}

// What the kernel's files say.

/// The path of the process's own control group in the one hierarchy of version 2.
fn group_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// A group and all above it, the root included.
fn with_parents(root: &Path, group: &str) -> Vec<PathBuf> {
    let own = root.join(group.trim_start_matches('/'));
    own.ancestors().take_while(|it| it.starts_with(root)).map(Path::to_owned).collect()
}

/// `cpu.max`: how many processors the group may use; none without a limit.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// A line such as `usage_usec 1234`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The share of a group's memory that is in use and cannot be had back by forgetting files.
fn memory_of_group(limit: &str, current: &str, stat: &str) -> Option<f64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let files = field(stat, "inactive_file").unwrap_or(0);
    (limit > 0).then(|| current.saturating_sub(files) as f64 / limit as f64)
}

/// `/proc/meminfo`: the share of the machine's memory that no process can have any more.
fn memory_of_machine(text: &str) -> Option<f64> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let (all, available) = (kib("MemTotal")?, kib("MemAvailable")?);
    (all > 0).then(|| all.saturating_sub(available) as f64 / all as f64)
}

/// `/proc/stat`: idle are the fourth and the fifth figure (waiting for disks); the last two are part of
/// the first two.
fn ticks(text: &str) -> Option<Ticks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let figures: Vec<u64> =
        line.split_whitespace().take(8).map_while(|it| it.parse().ok()).collect();
    let idle = figures.get(3)? + figures.get(4).copied().unwrap_or(0);
    let all = figures.iter().sum();
    Some(Ticks { busy: all - idle, all })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_kernels_files_are_read_as_they_are_written() {
        assert_eq!(
            group_of("12:cpu:/x\n0::/system.slice/holdfast.service\n"),
            Some("/system.slice/holdfast.service")
        );
        assert_eq!(group_of("12:cpu:/x\n"), None);
        let root = Path::new("/groups");
        let groups = with_parents(root, "/a/b");
        assert_eq!(groups, ["/groups/a/b", "/groups/a", "/groups"].map(PathBuf::from));
        assert_eq!(with_parents(root, "/"), ["/groups"].map(PathBuf::from));
        for (text, expected) in
            [("max 100000\n", None), ("50000 100000\n", Some(0.5)), ("", None), ("0 0", None)]
        {
            assert_eq!(quota(text), expected, "{text}");
        }
        assert_eq!(field("usage_usec 12\nuser_usec 7\n", "user_usec"), Some(7));
        assert_eq!(field("usage_usec_more 12\n", "usage_usec"), None);
        let stat = "anon 5\ninactive_file 200\n";
        for (limit, current, expected) in
            [("1000\n", "700\n", Some(0.5)), ("max\n", "700\n", None), ("1000", "", None)]
        {
            assert_eq!(memory_of_group(limit, current, stat), expected, "{limit} {current}");
        }
        let meminfo = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    250 kB\n";
        assert_eq!(memory_of_machine(meminfo), Some(0.75));
        assert_eq!(memory_of_machine("MemTotal: 1000 kB\n"), None);
        let stat = "cpu  10 1 9 70 10 0 0 0 5 5\ncpu0 1 1 1 1\n";
        assert_eq!(ticks(stat), Some(Ticks { busy: 20, all: 100 }));
        assert_eq!(ticks("intr 1"), None);
    }

    #[test]
    fn processors_count_by_the_tightest_group_and_the_machine() {
        let at = Instant::now();
        let spent = |s: u64, busy, all, groups: &[(&str, u64, f64)]| Spent {
            at: at + Duration::from_secs(s),
            machine: Some(Ticks { busy, all }),
            groups: groups.iter().map(|it| (PathBuf::from(it.0), it.1, it.2)).collect(),
        };
        let before = spent(0, 100, 1_000, &[("a", 5_000_000, 0.5), ("b", 9_000_000, 4.0)]);
        // Two seconds: 0.8 s of half a processor, 1.6 s of four; the machine at 30 %.
        let now = spent(2, 400, 2_000, &[("a", 5_800_000, 0.5), ("b", 10_600_000, 4.0)]);
        assert_eq!(now.share_since(&before), Some(0.8));
        let now = spent(2, 1_000, 2_000, &[("a", 5_100_000, 0.5)]);
        assert_eq!(now.share_since(&before), Some(0.9));
        let now = spent(2, 400, 2_000, &[("a", 8_000_000, 0.5)]);
        assert_eq!(now.share_since(&before), Some(1.0), "no more than all");
        assert_eq!(spent(0, 100, 1_000, &[]).share_since(&before), None, "no time has passed");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_can_be_read() {
        let mut machine = Machine::new(Some(std::env::temp_dir()), Vec::new());
        let first = machine.read();
        assert_eq!((first.cpu, first.certificate), (None, None));
        for share in [first.memory, first.disk] {
            assert!(share.is_some_and(|it| (0.0..=1.0).contains(&it)), "{first:?}");
        }
    }

    #[test]
    fn of_a_large_disk_the_last_part_counts() {
        let gib = |used: f64, available: f64| {
            let bytes = 1024.0 * 1024.0 * 1024.0;
            full(used * bytes, available * bytes)
        };
        assert_eq!(gib(7.5, 2.5), Some(0.75), "a small one: its share");
        assert_eq!(gib(245.0, 5.0), Some(0.75), "98 % of a large one");
        assert_eq!(gib(249.0, 1.0), Some(0.95));
        assert_eq!(gib(100.0, 150.0), Some(0.0), "enough is left");
        assert_eq!((gib(1.0, 0.0), gib(300.0, 0.0)), (Some(1.0), Some(1.0)));
        assert_eq!(gib(0.0, 0.0), None, "no disk");
    }
}
