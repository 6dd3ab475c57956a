//! What clients of one server lost here that the control plane has not been told of.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Fleet;

/// Counts between two looks of the control plane; it outlasts a configuration.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    any: AtomicBool,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    unknown: u32,
    oldest: Option<Instant>,
    /// By the mark of the instance that was left.
    moved: BTreeMap<u32, u32>,
}

/// What clients of a server lost since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lost {
    /// Calls that may have an effect and were given up without knowing whether they ran.
    pub unknown: u32,
    /// How long ago the first of them was received.
    pub oldest: Duration,
    /// Sessions that went to another instance, by the place of the one that they left.
    pub moved: Vec<(usize, u32)>,
}

// === impl Losses ===

impl Losses {
    /// A call that may have an effect ended, and nobody knows whether it ran.
    pub(crate) fn unknown(&self, received: Instant) {
        let counts = &mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.unknown = counts.unknown.saturating_add(1);
        counts.oldest = Some(counts.oldest.map_or(received, |known| known.min(received)));
        self.any.store(true, Ordering::Release);
    }

    /// A session went to another instance than the one with this mark.
    pub(crate) fn moved(&self, from: u32) {
        let counts = &mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.moved.entry(from).or_default();
        *count = count.saturating_add(1);
        self.any.store(true, Ordering::Release);
    }
}

// === impl Fleet ===

impl Fleet {
    /// What clients of a server lost since this was last asked; `None`: nothing.
    #[must_use]
    pub fn take_lost(&self, server: usize) -> Option<Lost> {
        let server = self.servers.get(server)?;
        let losses = &server.counts.losses;
        if !losses.any.swap(false, Ordering::AcqRel) {
            return None;
        }
        let counts = {
            let mut counts = losses.counts.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *counts)
        };
        let now = Instant::now();
        // One that the configuration has no more has no name that the others know.
        let moved = counts.moved.into_iter();
        let moved = moved.filter_map(|(mark, count)| Some((server.place(mark)?, count)));
        Some(Lost {
            unknown: counts.unknown,
            oldest: counts.oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
            moved: moved.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::fleet;
    use super::*;

    const PAIR: &str = r#"servers: { pair: { instances: [
        { id: a, url: "http://127.0.0.1:1/mcp" }, { id: b, url: "http://127.0.0.1:2/mcp" } ] } }"#;

    #[test]
    fn what_clients_lost_is_told_once() {
        let fleet = fleet(PAIR);
        let server = fleet.server("pair").unwrap();
        assert_eq!(fleet.take_lost(0), None);
        let (losses, now) = (&server.counts.losses, Instant::now());
        losses.unknown(now);
        losses.unknown(now.checked_sub(Duration::from_secs(3)).unwrap());
        losses.moved(server.mark(1));
        losses.moved(server.mark(1));
        // Of one that the configuration has no more.
        losses.moved(0);
        let lost = fleet.take_lost(0).unwrap();
        assert_eq!((lost.unknown, &lost.moved[..]), (2, &[(1, 2)][..]));
        assert!(lost.oldest >= Duration::from_secs(3), "{lost:?}");
        assert_eq!(fleet.take_lost(0), None);
    }
}
