//! The atoms of every metric: counters and gauges that threads can bump without meeting each other.
//!
//! Each worker thread of the data plane has its own shard, on cache lines of its own, so a bump is
//! one uncontended atomic add. Reading sums the shards; only a scrape or the status page reads.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Most shards a metric is split into; more threads than this share.
const MAX_SHARDS: usize = 16;

/// Two cache lines: adjacent-line prefetch pulls lines in pairs on common processors.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// How many shards the metrics of this process have: a power of two.
pub(crate) fn shard_count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.next_power_of_two().min(MAX_SHARDS)
}

/// The calling thread's shard out of `count` (a power of two).
#[inline]
pub(crate) fn shard(count: usize) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! { static MINE: Cell<usize> = const { Cell::new(usize::MAX) } }
    MINE.with(|mine| {
        let mut index = mine.get();
        if index == usize::MAX {
            // Threads are numbered as they first count something, which spreads them evenly.
            index = NEXT.fetch_add(1, Relaxed) & (MAX_SHARDS - 1);
            mine.set(index);
        }
        index & (count - 1)
    })
}

/// A number that only rises while the process lives.
#[derive(Debug)]
pub struct Counter {
    shards: Box<[Padded<AtomicU64>]>,
}

/// A number of things that are there now.
///
/// It either moves by guards ([`Gauge::enter`]) or is set from outside ([`Gauge::set`]); one gauge
/// uses one of the two.
#[derive(Debug)]
pub struct Gauge {
    // An Arc per shard: a guard's reference count then lives on the shard's lines as well, and
    // entering never touches a line that another core writes.
    shards: Box<[Arc<Padded<AtomicI64>>]>,
}

/// One thing that counts in a [`Gauge`] until it is dropped.
#[derive(Debug)]
#[must_use = "dropping the guard takes the thing out of the gauge again"]
pub struct GaugeGuard {
    shard: Arc<Padded<AtomicI64>>,
}

// === impl Counter ===

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.shards[shard(self.shards.len())].0.fetch_add(n, Relaxed);
    }

    /// The total so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.shards.iter().map(|s| s.0.load(Relaxed)).sum()
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self { shards: (0..shard_count()).map(|_| Padded::default()).collect() }
    }
}

// === impl Gauge ===

impl Gauge {
    /// Counts one more thing until the guard is dropped, on whatever thread that happens.
    #[inline]
    pub fn enter(&self) -> GaugeGuard {
        let shard = Arc::clone(&self.shards[shard(self.shards.len())]);
        shard.0.fetch_add(1, Relaxed);
        GaugeGuard { shard }
    }

    /// Sets the gauge to `n`. Not for gauges that guards move.
    pub fn set(&self, n: usize) {
        self.shards[0].0.store(i64::try_from(n).unwrap_or(i64::MAX), Relaxed);
    }

    /// How many there are now; never below zero.
    #[must_use]
    pub fn get(&self) -> usize {
        let sum: i64 = self.shards.iter().map(|s| s.0.load(Relaxed)).sum();
        usize::try_from(sum).unwrap_or(0)
    }
}

impl Default for Gauge {
    fn default() -> Self {
        Self { shards: (0..shard_count()).map(|_| Arc::default()).collect() }
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.shard.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_sums_what_all_threads_added() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1_000).for_each(|_| counter.inc()));
            }
        });
        assert_eq!(counter.get(), 20_000);
    }

    #[test]
    fn a_guard_may_be_dropped_on_another_thread() {
        let gauge = Gauge::default();
        let guards: Vec<_> = (0..5).map(|_| gauge.enter()).collect();
        assert_eq!(gauge.get(), 5);
        std::thread::spawn(move || drop(guards)).join().unwrap();
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_set_gauge_shows_the_last_value_from_any_thread() {
        let gauge = Gauge::default();
        std::thread::scope(|scope| {
            scope.spawn(|| gauge.set(7)).join().unwrap();
            scope.spawn(|| gauge.set(3)).join().unwrap();
        });
        assert_eq!(gauge.get(), 3);
    }
}
