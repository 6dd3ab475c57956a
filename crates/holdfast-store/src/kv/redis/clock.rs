//! The time of Redis as this node reckons it between two heartbeats.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::kv::millis;

/// Milliseconds since the Unix epoch.
#[derive(Debug)]
pub(super) enum Clock {
    /// Redis' time, gone on with by this machine's steady clock.
    Redis {
        started: Instant,
        /// Redis' time at `started`; until Redis has said it, this machine's.
        epoch: AtomicU64,
    },
    /// Stands still; scripts are given it too.
    #[cfg(test)]
    Manual(AtomicU64),
}

impl Clock {
    pub(super) fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::Redis { started: Instant::now(), epoch: AtomicU64::new(millis(since)) }
    }

    pub(super) fn now(&self) -> u64 {
        match self {
            Self::Redis { started, epoch } => {
                epoch.load(Ordering::Relaxed).saturating_add(millis(started.elapsed()))
            }
            #[cfg(test)]
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Redis said that it was `time` between `asked` and now.
    pub(super) fn heard(&self, asked: Instant, time: u64) {
        match self {
            Self::Redis { started, epoch } => {
                let middle = asked + asked.elapsed() / 2;
                let since = millis(middle.saturating_duration_since(*started));
                epoch.store(time.saturating_sub(since), Ordering::Relaxed);
            }
            #[cfg(test)]
            Self::Manual(_) => {}
        }
    }

    /// The time that scripts are given: 0, Redis' own.
    pub(super) fn given(&self) -> u64 {
        match self {
            Self::Redis { .. } => 0,
            #[cfg(test)]
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_what_redis_said_and_goes_on() {
        let clock = Clock::start();
        clock.heard(Instant::now(), 5_000_000);
        let now = clock.now();
        assert!((5_000_000..5_060_000).contains(&now), "{now}");
        clock.heard(Instant::now(), 1_000);
        assert!(clock.now() < 61_000, "another server's clock may be behind");
    }
}
