//! What clients of one server lost here that the control plane has not been told of.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Fleet;

/// Calls that were received within so long of each other count as received together: two outages are further apart.
const TOGETHER: Duration = Duration::from_millis(100);
/// So many times are told apart between two looks; then a call counts as received with the nearest.
const TIMES: usize = 64;

/// Counts between two looks of the control plane; it outlasts a configuration.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    any: AtomicBool,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// When calls were received that are in doubt, and how many at each time.
    unknown: Vec<(Instant, u32)>,
    /// By the mark of the instance that was left.
    moved: BTreeMap<u32, u32>,
}

/// What clients of a server lost since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Lost {
    /// Calls that may have an effect and were given up without knowing whether they ran: how long ago they were
    /// received, and how many of them then.
    pub unknown: Vec<(Duration, u32)>,
    /// Sessions that went to another instance, by the place of the one that they left.
    pub moved: Vec<(usize, u32)>,
}

// === impl Losses ===

impl Losses {
    /// A call that may have an effect ended, and nobody knows whether it ran.
    pub(crate) fn unknown(&self, received: Instant) {
        let counts = &mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let away = |at: Instant| {
            at.saturating_duration_since(received).max(received.saturating_duration_since(at))
        };
        let is_full = counts.unknown.len() >= TIMES;
        let nearest = counts.unknown.iter_mut().min_by_key(|(at, _)| away(*at));
        match nearest.filter(|(at, _)| is_full || away(*at) < TOGETHER) {
            Some((at, count)) => (*at, *count) = ((*at).min(received), count.saturating_add(1)),
            None => counts.unknown.push((received, 1)),
        }
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
        let unknown = counts.unknown.into_iter();
        let unknown = unknown.map(|(at, count)| (now.saturating_duration_since(at), count));
        Some(Lost { unknown: unknown.collect(), moved: moved.collect() })
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
        let before = |ms| now.checked_sub(Duration::from_millis(ms)).unwrap();
        for ms in [50, 3_000, 3_050, 0, 1_500] {
            losses.unknown(before(ms));
        }
        losses.moved(server.mark(1));
        losses.moved(server.mark(1));
        // Of one that the configuration has no more.
        losses.moved(0);
        let lost = fleet.take_lost(0).unwrap();
        assert_eq!(lost.moved, [(1, 2)]);
        let counts: Vec<u32> = lost.unknown.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 2, 1], "each by its time: {lost:?}");
        let ages = [50, 3_050, 1_500].map(Duration::from_millis);
        assert!(lost.unknown.iter().zip(ages).all(|((age, _), least)| *age >= least), "{lost:?}");
        assert_eq!(fleet.take_lost(0), None);
    }

    #[test]
    fn of_many_times_those_that_are_near_each_other_count_as_one() {
        let (losses, now) = (Losses::default(), Instant::now());
        for second in 0..500 {
            losses.unknown(now.checked_sub(Duration::from_secs(second)).unwrap());
        }
        let counts = losses.counts.lock().unwrap();
        assert_eq!(counts.unknown.len(), TIMES);
        assert_eq!(counts.unknown.iter().map(|(_, count)| count).sum::<u32>(), 500);
        let oldest = counts.unknown.iter().map(|(at, _)| *at).min();
        assert_eq!(oldest, now.checked_sub(Duration::from_secs(499)));
    }
}
