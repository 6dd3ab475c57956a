//! The lease as the data plane sees it: one atomic load and one look at the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Whether this node may act on its own. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct Lease {
    start: Instant,
    /// Nanoseconds after `start`; 0 is no lease.
    until: Arc<AtomicU64>,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), until: Arc::default() }
    }

    /// Whether the node holds a lease now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.nanos(Instant::now()) < self.until.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, until: Option<Instant>) {
        self.until.store(until.map_or(0, |it| self.nanos(it)), Ordering::Release);
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lease_is_held_from_its_grant_to_its_end() {
        let lease = Lease::new();
        let same = lease.clone();
        assert!(!lease.holds());
        lease.set(Some(Instant::now() + Duration::from_secs(3600)));
        assert!(lease.holds() && same.holds());
        lease.set(Some(Instant::now()));
        assert!(!lease.holds());
        lease.set(None);
        assert!(!lease.holds());
    }
}
