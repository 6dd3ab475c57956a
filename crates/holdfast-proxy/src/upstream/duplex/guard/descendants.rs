//! Everything below a process, found in `/proc`.
//!
//! Parents are read and not process groups or sessions, because a daemon leaves both but cannot
//! leave its line of parents: when one dies, the subreaper takes its place.

use std::collections::HashMap;
use std::{fs, io};

use nix::unistd::Pid;

/// A living process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) group: Pid,
}

/// The living descendants of `root`, without itself. Zombies do not count: they hold nothing and go
/// when their parent does.
///
/// # Errors
/// `/proc` cannot be listed. A process that ends while it is looked at is left out.
pub(super) fn of(root: Pid) -> io::Result<Vec<Process>> {
    let mut children: HashMap<i32, Vec<Entry>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(entry) = parse(pid, &String::from_utf8_lossy(&stat)) {
            children.entry(entry.parent).or_default().push(entry);
        }
    }

    let mut found = Vec::new();
    let mut open = vec![root.as_raw()];
    while let Some(parent) = open.pop() {
        // Removed, so that a pid reused while the list was read cannot make this go in circles.
        for entry in children.remove(&parent).unwrap_or_default() {
            open.push(entry.pid);
            if entry.alive {
                found.push(Process {
                    pid: Pid::from_raw(entry.pid),
                    group: Pid::from_raw(entry.group),
                });
            }
        }
    }
    Ok(found)
}

struct Entry {
    pid: i32,
    parent: i32,
    group: i32,
    alive: bool,
}

/// `pid (name) state parent group …`; the name may hold spaces and parentheses.
fn parse(pid: i32, stat: &str) -> Option<Entry> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_ascii_whitespace();
    let alive = !matches!(words.next()?, "Z" | "X");
    Some(Entry {
        pid,
        parent: words.next()?.parse().ok()?,
        group: words.next()?.parse().ok()?,
        alive,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let entry = parse(7, "7 (a) b (c)) S 3 5 5 0 -1").expect("a stat line");
        assert_eq!((entry.parent, entry.group, entry.alive), (3, 5, true));
    }

    #[test]
    fn a_zombie_is_not_alive() {
        assert!(!parse(7, "7 (x) Z 3 5 5 0 -1").expect("a stat line").alive);
    }

    #[test]
    fn a_line_that_is_cut_is_left_out() {
        assert!(parse(7, "7 (x) S").is_none());
    }
}
