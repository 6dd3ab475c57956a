//! When the next check is due.
//!
//! A failed check is tried again soon, `retries` times, before it counts: one lost packet is no news.
//! A round fails where it is worse than what is believed: one that is as poorly as before is no news.
//! Once a round has counted as failed, the next one comes as soon and counts at once: it is what decides.
//! Where a score calls for it ([`Bars`]: below 75) checks run twice as often, where it calls for a failover
//! (below 40) four times, so that both the end and the recovery are noticed early; never more often than once in [`LEAST`]. Every wait is up to a tenth
//! shorter or longer, so that a hundred servers that were configured alike are not all checked at once.
//!
//! | after | next |
//! |---|---|
//! | start | within one interval, at random |
//! | a failure after a good round, tries left | a retry, a tenth of the interval after the last try began |
//! | a failure after a good round, no tries left | it counts; next round as soon as a retry |
//! | a failure after a bad round that is not believed yet | the same |
//! | a success, or what is believed already | it counts; next round |
//!
//! # How long a frozen instance goes unnoticed
//! Of one that takes connections and says nothing, every try lasts `timeout` (3 s). With the defaults
//! (15 s, 2 retries, 2 rounds) the first bad sign comes at most 16.5 + 3 s after the freeze, and three
//! more tries of 3.2 s each follow: it is believed 9.6 s after the first sign and 29.1 s after the freeze
//! at most. Where calls hang meanwhile, a check does not wait for its interval ([`Silence`]).

use std::time::{Duration, Instant};

use super::{Bars, Measure};

/// No two checks of one instance are nearer to each other than this.
pub const LEAST: Duration = Duration::from_millis(200);

/// How often an instance is checked. Times are as configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rhythm {
    /// From one round to the next while all is well.
    pub interval: Duration,
    /// How often a failed round is tried again before it counts.
    pub retries: u32,
    /// At which scores it is checked more often.
    pub bars: Bars,
}

/// What the planner remembers of an instance: how often its present round has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    failed: u32,
    /// The last round that counted failed: it was worse than what is believed.
    bad: bool,
}

/// How a round of checks ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// It is no worse than what is believed.
    pub passed: bool,
    /// How long it took.
    pub took: Duration,
}

/// Calls that are at an instance while it answers none: a reason to look at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Silence {
    /// When a call was last answered, in milliseconds.
    answered_at: u64,
    since: Option<Instant>,
    /// How many calls were there when it was told; 0: it was not.
    told: u64,
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
    pub fn ended(&mut self, round: Round, score: u8, rhythm: Rhythm, random: u64) -> Next {
        if !round.passed && !self.bad && self.failed < rhythm.retries {
            self.failed += 1;
            return Next { wait: soon(round, rhythm, random), counts: false };
        }
        (self.failed, self.bad) = (0, !round.passed);
        Next {
            wait: jittered(interval(rhythm.interval, score, &rhythm.bars), random),
            counts: true,
        }
    }
}

// === impl Silence ===

impl Silence {
    /// Looks at `now`, about once a second. Whether an instance is to be checked at once: so many calls
    /// are at it, and for `timeout` none was answered. Told once in each silence, and once more when
    /// calls came on top of those that are there, as a listener's stream is all day. `last`: how old the
    /// last check is; one younger than half an interval is good enough, so checks double at most.
    pub fn look(
        &mut self,
        in_flight: u64,
        answered_at: u64,
        last: Duration,
        rhythm: Rhythm,
        timeout: Duration,
        now: Instant,
    ) -> bool {
        let is_more = self.told > 0 && in_flight > self.told;
        // The caller adds two clocks up, which may be a few milliseconds apart each time.
        let is_same = answered_at.abs_diff(self.answered_at) <= 100;
        if in_flight == 0 || !is_same || is_more {
            *self = Self { answered_at, since: None, told: 0 };
        }
        if in_flight == 0 || self.told > 0 {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let silent = now.saturating_duration_since(since) >= timeout;
        let tells = silent && last >= rhythm.interval / 2;
        if tells {
            self.told = in_flight;
        }
        tells
    }
}

/// How long to wait before a retry, or before a round that may be the one that decides.
#[must_use]
pub fn soon(round: Round, rhythm: Rhythm, random: u64) -> Duration {
    let pause = rhythm.interval / 10;
    // What timed out has waited already.
    jittered(pause, random).saturating_sub(round.took).max(LEAST.min(pause))
}

/// From one round to the next at this score of 0 to 100.
#[must_use]
pub fn interval(interval: Duration, score: u8, bars: &Bars) -> Duration {
    let faster = match bars.measure(score) {
        Measure::Nothing => 1,
        Measure::Watch | Measure::Degrade => 2,
        Measure::FailOver | Measure::Emergency => 4,
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

    const BARS: Bars = Bars { watch: 75, degrade: 60, fail_over: 40, emergency: 20 };
    const RHYTHM: Rhythm = Rhythm { interval: Duration::from_secs(10), retries: 2, bars: BARS };
    const HALF: u64 = u64::MAX / 2;

    const GOOD: Round = Round { passed: true, took: Duration::ZERO };
    const BAD: Round = Round { passed: false, took: Duration::ZERO };

    fn near(wait: Duration, secs: f64) -> bool {
        (wait.as_secs_f64() - secs).abs() < 1e-6
    }

    #[test]
    fn a_failure_counts_after_its_retries() {
        let mut schedule = Schedule::new();
        for _ in 0..2 {
            let next = schedule.ended(BAD, 100, RHYTHM, HALF);
            assert!(!next.counts && near(next.wait, 1.0), "{next:?}");
        }
        let next = schedule.ended(BAD, 100, RHYTHM, HALF);
        assert!(next.counts && near(next.wait, 10.0), "{next:?}");
        assert!(schedule.ended(BAD, 0, RHYTHM, HALF).counts, "after a bad round at once");
        assert!(schedule.ended(GOOD, 0, RHYTHM, HALF).counts);
        assert!(!schedule.ended(BAD, 100, RHYTHM, HALF).counts, "and starts over");
    }

    #[test]
    fn a_try_that_took_its_time_is_followed_at_once() {
        let took = |secs| Round { passed: false, took: Duration::from_secs(secs) };
        assert!(near(soon(took(0), RHYTHM, HALF), 1.0));
        assert_eq!(soon(took(3), RHYTHM, HALF), LEAST);
    }

    #[test]
    fn calls_without_an_answer_are_told_once_and_again_when_others_come() {
        let start = Instant::now();
        let mut silence = Silence::default();
        let mut look = |secs: u64, in_flight, answered_at, last| {
            let (last, now) = (Duration::from_secs(last), start + Duration::from_secs(secs));
            silence.look(in_flight, answered_at, last, RHYTHM, Duration::from_secs(3), now)
        };
        assert!(!look(0, 1, 7_000, 9), "it begins");
        assert!(!look(2, 1, 7_000, 9));
        assert!(look(3, 1, 7_000, 9), "for the time-out");
        assert!(!look(9, 1, 7_000, 9), "once");
        assert!(!look(10, 2, 7_000, 9), "another call");
        assert!(!look(13, 2, 7_000, 4), "it was just looked at");
        assert!(look(14, 2, 7_000, 5));
        assert!(!look(15, 2, 8_000, 9), "one was answered");
        assert!(look(18, 2, 8_000, 9));
        assert!(!look(19, 0, 8_000, 9), "nobody waits");
        assert!(!look(60, 1, 8_000, 9), "a new silence");
    }

    #[test]
    fn a_success_ends_the_round_at_once() {
        let mut schedule = Schedule::new();
        assert!(!schedule.ended(BAD, 100, RHYTHM, HALF).counts);
        assert!(schedule.ended(GOOD, 100, RHYTHM, HALF).counts);
        assert!(!schedule.ended(BAD, 100, RHYTHM, HALF).counts);
        let none = Rhythm { retries: 0, ..RHYTHM };
        assert!(Schedule::new().ended(BAD, 100, none, HALF).counts);
    }

    #[test]
    fn what_is_ill_is_checked_more_often() {
        let ten = Duration::from_secs(10);
        let seconds = [100, 75, 74, 40, 39, 0].map(|it| interval(ten, it, &BARS).as_secs_f64());
        assert_eq!(seconds, [10.0, 10.0, 5.0, 5.0, 2.5, 2.5]);
        let other = Bars { watch: 100, fail_over: 100, ..BARS };
        assert_eq!(interval(ten, 99, &other).as_secs_f64(), 2.5, "as configured");
        assert_eq!(interval(Duration::from_millis(500), 0, &BARS), LEAST);
        assert_eq!(interval(Duration::from_millis(100), 0, &BARS), Duration::from_millis(100));
    }

    proptest! {
        #[test]
        fn waits_stay_within_a_tenth(random: u64, score in 0u8..=100, millis in 200u64..3_600_000) {
            let rhythm = Rhythm { interval: Duration::from_millis(millis), retries: 0, bars: BARS };
            let next = Schedule::new().ended(GOOD, score, rhythm, random);
            let plain = interval(rhythm.interval, score, &BARS);
            prop_assert!(next.wait >= plain - plain / 10 - Duration::from_nanos(10));
            prop_assert!(next.wait <= plain + plain / 10 + Duration::from_nanos(10));
            prop_assert!(Schedule::first(rhythm, random) <= rhythm.interval);
        }

        /// However calls come and go: they bring a check forward only where some wait and none was answered for
        /// the whole time-out, not while the last check is younger than half an interval, and once in a silence,
        /// unless more wait than then. And where all that is so, they do. Each look: how long after the one
        /// before, how many calls there are, whether one was answered, and how old the last check is.
        #[test]
        fn a_silence_is_told_once_and_never_beside_a_young_check(
            looks in proptest::collection::vec((0u64..4, 0u64..4, 0u8..5, 0u64..12), 1..80),
        ) {
            let timeout = Duration::from_secs(3);
            let (mut now, mut answered_at) = (Instant::now(), 7_000);
            let mut silence = Silence::default();
            // Since when calls wait in vain, and how many there were when that was told.
            let (mut since, mut told) = (None, None);
            for (after, in_flight, answered, last) in looks {
                now += Duration::from_secs(after);
                if in_flight == 0 || answered == 0 {
                    answered_at += 1_000;
                    (since, told) = (None, None);
                }
                if in_flight > 0 {
                    since = since.or(Some(now));
                }
                // Two clocks are added up: what comes of it is some milliseconds off each time.
                let read = answered_at + u64::from(answered) * 10;
                let age = Duration::from_secs(last);
                let tells = silence.look(in_flight, read, age, RHYTHM, timeout, now);
                let lasts = since.is_some_and(|since| now - since >= timeout);
                let is_old = age >= RHYTHM.interval / 2;
                if tells {
                    prop_assert!(in_flight > 0 && lasts, "told {since:?} at {now:?}");
                    prop_assert!(is_old, "the last check was {age:?} ago");
                    prop_assert!(told.is_none_or(|told| in_flight > told), "told again");
                    told = Some(in_flight);
                } else if lasts && is_old {
                    prop_assert!(told.is_some(), "it should have been told at {now:?}");
                }
                // More came: they wait for a time-out of their own.
                if told.is_some_and(|told| in_flight > told) {
                    (since, told) = (Some(now), None);
                }
            }
        }
    }
}
