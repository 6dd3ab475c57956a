//! What happened on the cluster port, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start, by how a connection ended its handshake.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) proven: AtomicU64,
    pub(crate) garbage: AtomicU64,
    pub(crate) unproven: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) wrong_node: AtomicU64,
}

/// One reading of [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections.
    pub accepted: u64,
    /// Those that proved the secret and meant this node.
    pub proven: u64,
    /// Those that spoke no TLS 1.3, not our protocol, or sent no valid message.
    pub garbage: u64,
    /// Those whose proof was wrong: another secret, or somebody in between.
    pub unproven: u64,
    /// Those that were not done in time.
    pub timed_out: u64,
    /// Those that had to go because too many were unfinished.
    pub evicted: u64,
    /// Those that proved the secret and meant another node, or an earlier incarnation of this one.
    pub wrong_node: u64,
}

impl Counters {
    /// Reads all of them; not one instant, but none goes back.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts {
            accepted: self.accepted.load(Relaxed),
            proven: self.proven.load(Relaxed),
            garbage: self.garbage.load(Relaxed),
            unproven: self.unproven.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            wrong_node: self.wrong_node.load(Relaxed),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
