//! What the store was asked to do, counted. Reads that this node answers by itself do not count.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Operations {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) durable: Counter,
    pub(crate) touches: Counter,
    pub(crate) scripts: Counter,
    pub(crate) groups: Counter,
    /// Asks a store that may be away while the node runs.
    pub(crate) takes_writes: OnceLock<TakesWrites>,
}

pub(crate) struct TakesWrites(Box<dyn Fn() -> bool + Send + Sync>);

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions that the group or Redis was asked.
    pub reads: u64,
    /// Writes that need not last: hints.
    pub writes: u64,
    /// Writes that are answered once they last: sessions, journal, streams, placements.
    pub durable: u64,
    /// Deadlines moved.
    pub touches: u64,
    /// Scripts that Redis was sent, repetitions included.
    pub scripts: u64,
    /// Groups of durable writes that Redis was sent, each with one `WAIT` if replicas acknowledge.
    pub groups: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Operations {
    /// The counters now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            reads: self.reads.get(),
            writes: self.writes.get(),
            durable: self.durable.get(),
            touches: self.touches.get(),
            scripts: self.scripts.get(),
            groups: self.groups.get(),
        }
    }

    /// Whether the store takes writes, as far as this node knows without asking it; `None` where the node has
    /// it in itself, or in its own group.
    #[must_use]
    pub fn takes_writes(&self) -> Option<bool> {
        self.takes_writes.get().map(|it| (it.0)())
    }
}

impl TakesWrites {
    pub(crate) fn new(ask: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(ask))
    }
}

impl fmt::Debug for TakesWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TakesWrites").field(&(self.0)()).finish()
    }
}

impl Counter {
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
