//! When the next check is due.
//!
//! A failed check is tried again soon, `retries` times, before it counts: one lost packet is no news.
//! Below a score of 75 checks run twice as often, below 40 four times, so that both the end and the
//! recovery are noticed early; never more often than once in [`LEAST`]. Every wait is up to a tenth
//! shorter or longer, so that a hundred servers that were configured alike are not all checked at once.
//!
//! | after | next |
//! |---|---|
//! | start | within one interval, at random |
//! | a failure, tries left | a retry, after a tenth of the interval |
//! | a failure, no tries left | it counts; next round |
//! | a success | it counts; next round |

use std::time::Duration;

/// No two checks of one instance are nearer to each other than this.
pub const LEAST: Duration = Duration::from_millis(200);

/// How often an instance is checked. Times are as configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rhythm {
    /// From one round to the next while all is well.
    pub interval: Duration,
    /// How often a failed round is tried again before it counts.
    pub retries: u32,
}

/// What the planner remembers of an instance: how often its present round has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    failed: u32,
}

/// What comes after a round of checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// How long to wait before the next round, or the retry.
    pub wait: Duration,
    /// Whether the round that just ended counts; otherwise it is tried again.
    pub counts: bool,
}

// === impl Schedule ===

impl Schedule {
    /// An instance that was not checked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait before the first round: anything up to one interval. `random` is any 64 random
    /// bits.
    #[must_use]
    pub fn first(rhythm: Rhythm, random: u64) -> Duration {
        scaled(rhythm.interval, random)
    }

    /// A round ended. `score`: 0 to 100, as believed so far; `random`: any 64 random bits.
    #[must_use]
    pub fn ended(&mut self, passed: bool, score: u8, rhythm: Rhythm, random: u64) -> Next {
        if !passed && self.failed < rhythm.retries {
            self.failed += 1;
            return Next { wait: jittered(rhythm.interval / 10, random), counts: false };
        }
        self.failed = 0;
        Next { wait: jittered(interval(rhythm.interval, score), random), counts: true }
    }
}

/// From one round to the next at this score of 0 to 100.
#[must_use]
pub fn interval(interval: Duration, score: u8) -> Duration {
    let faster = match score {
        75.. => 1,
        40.. => 2,
        _ => 4,
    };
    // Whoever configures a shorter interval than the least gets it while all is well.
    (interval / faster).max(LEAST.min(interval))
}

/// Nine to eleven tenths of a wait.
fn jittered(wait: Duration, random: u64) -> Duration {
    wait - wait / 10 + scaled(wait / 5, random)
}

/// `random` on the scale of 0 to `most`.
fn scaled(most: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    let scaled = (u128::from(random) * (u128::from(nanos) + 1)) >> 64;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RHYTHM: Rhythm = Rhythm { interval: Duration::from_secs(10), retries: 2 };
    const HALF: u64 = u64::MAX / 2;

    fn near(wait: Duration, secs: f64) -> bool {
        (wait.as_secs_f64() - secs).abs() < 1e-6
    }

    #[test]
    fn a_failure_counts_after_its_retries() {
        let mut schedule = Schedule::new();
        for _ in 0..2 {
            let next = schedule.ended(false, 100, RHYTHM, HALF);
            assert!(!next.counts && near(next.wait, 1.0), "{next:?}");
        }
        let next = schedule.ended(false, 100, RHYTHM, HALF);
        assert!(next.counts && near(next.wait, 10.0), "{next:?}");
        assert!(!schedule.ended(false, 0, RHYTHM, HALF).counts, "and starts over");
    }

    #[test]
    fn a_success_ends_the_round_at_once() {
        let mut schedule = Schedule::new();
        assert!(!schedule.ended(false, 100, RHYTHM, HALF).counts);
        assert!(schedule.ended(true, 100, RHYTHM, HALF).counts);
        assert!(!schedule.ended(false, 100, RHYTHM, HALF).counts);
        let none = Rhythm { retries: 0, ..RHYTHM };
        assert!(Schedule::new().ended(false, 100, none, HALF).counts);
    }

    #[test]
    fn what_is_ill_is_checked_more_often() {
        let ten = Duration::from_secs(10);
        let seconds = [100, 75, 74, 40, 39, 0].map(|it| interval(ten, it).as_secs_f64());
        assert_eq!(seconds, [10.0, 10.0, 5.0, 5.0, 2.5, 2.5]);
        assert_eq!(interval(Duration::from_millis(500), 0), LEAST);
        assert_eq!(interval(Duration::from_millis(100), 0), Duration::from_millis(100));
    }

    proptest! {
        #[test]
        fn waits_stay_within_a_tenth(random: u64, score in 0u8..=100, millis in 200u64..3_600_000) {
            let rhythm = Rhythm { interval: Duration::from_millis(millis), retries: 0 };
            let next = Schedule::new().ended(true, score, rhythm, random);
            let plain = interval(rhythm.interval, score);
            prop_assert!(next.wait >= plain - plain / 10 - Duration::from_nanos(10));
            prop_assert!(next.wait <= plain + plain / 10 + Duration::from_nanos(10));
            prop_assert!(Schedule::first(rhythm, random) <= rhythm.interval);
        }
    }
}
