//! A token bucket for requests per minute.
//!
//! Kept as one instant (the time at which the bucket is full again) instead of a count, so that it
//! needs no timer, no floating point, and no refill while nobody calls.

use std::time::{Duration, Instant};

/// One principal's or server's allowance.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The time one token takes to come back.
    interval: Duration,
    /// How far `full_at` may lie ahead after a take.
    depth: Duration,
    /// When the bucket is full again; `None` while it never was used.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket of `burst` tokens that gets `per_minute` new ones a minute. Both count as 1 if
    /// they are 0.
    #[must_use]
    pub fn new(per_minute: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(60) / per_minute.max(1);
        Self { interval, depth: interval * burst.max(1), full_at: None }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// When there is none: the time after which there is one, never zero.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval;
        let ahead = full_at.duration_since(now);
        if ahead > self.depth {
            return Err(ahead - self.depth);
        }
        self.full_at = Some(full_at);
        Ok(())
    }

    /// Whether the bucket is full, so that forgetting it changes nothing.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }
}
