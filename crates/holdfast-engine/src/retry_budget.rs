//! How many repetitions a server gets beside the calls that it gets anyway.
//!
//! Repeating helps one call and hurts all of them when the server is overloaded. So repetitions are a
//! share of the calls that are *active*, under way or begun within the last second. A repetition
//! counts for as long, so that a server that fails at once, with never more than one call under way,
//! is not asked many times more often than its clients ask. A few are always allowed: the share of a
//! trickle is none.

use std::time::{Duration, Instant};

/// The settings.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Params {
    /// Repetitions per active call: 0 to 1.
    pub share: f64,
    /// So many are allowed whatever the share.
    pub at_least: u32,
    /// How often a call is sent at most, the first time included.
    pub attempts: u32,
}

/// The budget of one server, on one node.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    params: Params,
    under_way: u32,
    repeating: u32,
    /// Calls and repetitions begun in the last second and in this one.
    begun: [u32; 2],
    repeated: [u32; 2],
    second_ends: Instant,
}

/// Why a call is not repeated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NoRetry {
    /// It was sent often enough.
    Attempts,
    /// Enough others are repeated.
    Budget,
}

const SECOND: Duration = Duration::from_secs(1);

// === impl RetryBudget ===

impl RetryBudget {
    /// An unused budget.
    #[must_use]
    pub fn new(params: Params, now: Instant) -> Self {
        Self {
            params,
            under_way: 0,
            repeating: 0,
            begun: [0; 2],
            repeated: [0; 2],
            second_ends: now + SECOND,
        }
    }

    /// A call begins; once per call, not per attempt. [`ended`](Self::ended) follows, whatever happens.
    pub fn began(&mut self, now: Instant) {
        self.roll(now);
        self.under_way = self.under_way.saturating_add(1);
        self.begun[1] = self.begun[1].saturating_add(1);
    }

    /// A call is over.
    pub fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Whether a call that was sent `attempts` times may be sent once more. If so it is counted, and
    /// [`repeat_ended`](Self::repeat_ended) follows.
    ///
    /// # Errors
    /// Why not. Whether its class may be repeated at all is [`crate::repeat`]'s question.
    pub fn try_repeat(&mut self, attempts: u32, now: Instant) -> Result<(), NoRetry> {
        if attempts >= self.params.attempts {
            return Err(NoRetry::Attempts);
        }
        self.roll(now);
        if self.used() >= self.allowed() {
            return Err(NoRetry::Budget);
        }
        self.repeating = self.repeating.saturating_add(1);
        self.repeated[1] = self.repeated[1].saturating_add(1);
        Ok(())
    }

    /// A repetition is over.
    pub fn repeat_ended(&mut self) {
        self.repeating = self.repeating.saturating_sub(1);
    }

    /// Repetitions that are under way or were begun lately.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.repeating.max(self.repeated[0].saturating_add(self.repeated[1]))
    }

    /// How many there may be.
    #[must_use]
    pub fn allowed(&self) -> u32 {
        let active = self.under_way.max(self.begun[0].saturating_add(self.begun[1]));
        let share = self.params.share.clamp(0.0, 1.0) * f64::from(active);
        // A float cast saturates; what is not a number is no share.
        (share as u32).max(self.params.at_least)
    }

    fn roll(&mut self, now: Instant) {
        if now < self.second_ends {
            return;
        }
        let next = now < self.second_ends + SECOND;
        for counts in [&mut self.begun, &mut self.repeated] {
            *counts = [if next { counts[1] } else { 0 }, 0];
        }
        self.second_ends = if next { self.second_ends + SECOND } else { now + SECOND };
    }
}

impl Default for Params {
    fn default() -> Self {
        Self { share: 0.2, at_least: 3, attempts: 3 }
    }
}
