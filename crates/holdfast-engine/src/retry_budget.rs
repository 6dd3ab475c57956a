//! How many repetitions a server gets beside the calls that it gets anyway.
//!
//! Repeating helps one call and hurts all of them when the server is overloaded. So repetitions are a
//! share of the calls that are *active*, under way or begun within the last second. A repetition
//! counts for as long, so that a server that fails at once, with never more than one call under way,
//! is not asked many times more often than its clients ask. A few are always allowed: the share of a
//! trickle is none.
//!
//! What was not sent, because there was no connection or a breaker refused it, goes elsewhere without
//! being charged: it cost the server nothing.

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

    /// Goes on with other settings; what is under way still counts.
    pub fn reconfigure(&mut self, params: Params) {
        self.params = params;
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

    /// The same for a call that is being repeated, whose repetition is given up for the next one: that takes its
    /// place. If the next one may not begin the present one goes on, and keeps its place.
    ///
    /// # Errors
    /// As [`try_repeat`](Self::try_repeat).
    pub fn try_instead(&mut self, attempts: u32, now: Instant) -> Result<(), NoRetry> {
        let before = self.repeating;
        self.repeat_ended();
        let may = self.try_repeat(attempts, now);
        if may.is_err() {
            self.repeating = before;
        }
        may
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget() -> (RetryBudget, Instant) {
        let now = Instant::now();
        (RetryBudget::new(Params::default(), now), now)
    }

    #[test]
    fn a_fifth_of_the_active_calls_is_repeated_and_three_always() {
        let (mut budget, now) = budget();
        budget.began(now);
        assert_eq!((0..10).filter(|_| budget.try_repeat(1, now).is_ok()).count(), 3);
        assert_eq!(budget.try_repeat(1, now), Err(NoRetry::Budget));
        for _ in 1..100 {
            budget.began(now);
        }
        assert_eq!((budget.used(), budget.allowed()), (3, 20));
        assert_eq!((0..100).filter(|_| budget.try_repeat(2, now).is_ok()).count(), 17);
    }

    #[test]
    fn a_call_is_sent_three_times_at_most() {
        let (mut budget, now) = budget();
        for (attempts, expected) in [(1, Ok(())), (2, Ok(())), (3, Err(NoRetry::Attempts))] {
            assert_eq!(budget.try_repeat(attempts, now), expected);
        }
        assert_eq!(budget.used(), 2, "what is refused is not counted");
    }

    /// Calls that hang are active for as long as they do, and so are their repetitions.
    #[test]
    fn what_is_under_way_counts_however_long_it_takes() {
        let (mut budget, now) = budget();
        for _ in 0..50 {
            budget.began(now);
        }
        for _ in 0..10 {
            budget.try_repeat(1, now).unwrap();
        }
        let later = now + Duration::from_secs(60);
        assert_eq!(budget.try_repeat(1, later), Err(NoRetry::Budget));
        budget.repeat_ended();
        assert_eq!(budget.try_repeat(1, later), Ok(()));
        for _ in 0..50 {
            budget.ended();
        }
        assert_eq!(budget.allowed(), 3);
    }

    /// A server that fails at once has never more than one call under way, and is not asked three
    /// times as often for that.
    #[test]
    fn quick_failures_are_repeated_no_more_than_a_fifth_of_them() {
        let (mut budget, start) = budget();
        let (calls, mut repeated) = (100_000, 0);
        for call in 0..calls {
            let now = start + Duration::from_millis(call);
            budget.began(now);
            for attempts in 1.. {
                if budget.try_repeat(attempts, now).is_err() {
                    break;
                }
                budget.repeat_ended();
                repeated += 1;
            }
            budget.ended();
        }
        assert!(repeated <= calls / 5, "{repeated} of {calls}");
        assert!(repeated > calls / 10, "{repeated} of {calls}");
    }

    /// What hangs and may not go elsewhere yet is still under way where it is.
    #[test]
    fn a_repetition_that_may_not_be_given_up_for_the_next_one_keeps_its_place() {
        let (mut budget, now) = budget();
        for _ in 0..3 {
            budget.try_repeat(1, now).unwrap();
        }
        let later = now + Duration::from_secs(60);
        assert_eq!(budget.try_instead(3, later), Err(NoRetry::Attempts));
        assert_eq!((budget.used(), budget.try_repeat(1, later)), (3, Err(NoRetry::Budget)));
        // The next one needs no place beside the one that it takes.
        assert_eq!(budget.try_instead(2, later), Ok(()));
        assert_eq!((budget.used(), budget.try_repeat(1, later)), (3, Err(NoRetry::Budget)));
        budget.reconfigure(Params { at_least: 1, ..Params::default() });
        assert_eq!(budget.try_instead(2, later), Err(NoRetry::Budget));
        for left in [2, 1, 0] {
            budget.repeat_ended();
            assert_eq!(budget.repeating, left);
        }
    }

    #[test]
    fn settings_that_make_no_sense_allow_the_least() {
        for share in [f64::NAN, -1.0, 0.0] {
            let now = Instant::now();
            let mut budget = RetryBudget::new(Params { share, ..Params::default() }, now);
            for _ in 0..1000 {
                budget.began(now);
            }
            assert_eq!(budget.allowed(), 3);
        }
        let (mut budget, _) = budget();
        budget.ended();
        budget.repeat_ended();
        assert_eq!((budget.used(), budget.allowed()), (0, 3));
    }

    #[test]
    fn other_settings_count_what_is_under_way() {
        let (mut budget, now) = budget();
        for _ in 0..100 {
            budget.began(now);
        }
        for _ in 0..10 {
            budget.try_repeat(1, now).unwrap();
        }
        budget.reconfigure(Params { share: 0.05, at_least: 1, attempts: 3 });
        assert_eq!((budget.used(), budget.allowed()), (10, 5));
        assert_eq!(budget.try_repeat(1, now), Err(NoRetry::Budget));
        budget.reconfigure(Params { share: 0.5, at_least: 1, attempts: 1 });
        assert_eq!(budget.try_repeat(1, now), Err(NoRetry::Attempts));
    }

    proptest! {
        /// At no time are more repetitions under way than a fifth of the active calls, or three.
        #[test]
        fn never_more_than_the_share(steps in prop::collection::vec((0u8..6, 0u64..400), 1..400)) {
            let (mut budget, mut now) = budget();
            let (mut under_way, mut repeating) = (0u32, 0u32);
            let mut begun: Vec<Instant> = Vec::new();
            for (step, wait) in steps {
                now += Duration::from_millis(wait);
                match step {
                    0 | 1 => {
                        budget.began(now);
                        begun.push(now);
                        under_way += 1;
                    }
                    2 if under_way > 0 => {
                        budget.ended();
                        under_way -= 1;
                    }
                    3 if budget.try_repeat(1, now).is_ok() => {
                        repeating += 1;
                        let two = Duration::from_secs(2);
                        let lately = begun.iter().filter(|at| now - **at < two).count();
                        let active = under_way.max(u32::try_from(lately).unwrap());
                        prop_assert!(repeating <= (active / 5).max(3));
                    }
                    4 if repeating > 0 => {
                        budget.repeat_ended();
                        repeating -= 1;
                    }
                    // Whatever comes of it, as many are under way as before.
                    5 if repeating > 0 => {
                        let _ = budget.try_instead(1, now);
                        prop_assert!(budget.repeating == repeating);
                    }
                    _ => {}
                }
            }
        }
    }
}
