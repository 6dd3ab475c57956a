//! What the calls themselves say about an instance.
//!
//! Three indicators: the mean response time of the last 30 s (weight 0.3; 500 ms is fine), the share
//! of errors in the last 60 s (0.4; 5 % is fine), the share of connections that came about in the last
//! 120 s (0.3; 95 % is fine). Beside them three that a check reads from the instance, over 300 s
//! ([`super::resources`]): CPU (0.2; 90 %), memory (0.15; 85 %), waiting for I/O (0.1; 50 %). Each is
//! worth 1 up to its threshold and falls to 0 where it is hopeless ([`Thresholds`]); the score is the mean
//! by weight of what is known. Of the calls what is not known counts as well where a resource is known:
//! it is secondary, and a busy processor alone does not make an instance that nobody calls a bad one.
//!
//! # What comes of it
//! It is what a node's calls say in its vote ([`super::votes`]); a judgement below [`POOR`] keeps the node
//! from voting "healthy"; and the balancer of this node gives the instance a smaller share ([`share`]).
//!
//! # Cost
//! [`Passive`] is 25 slots of five seconds in a ring, each four words. An attempt adds to two words of
//! one slot. No lock, no allocation, no list of samples. Two threads that meet at the turn of a slot
//! may lose or misplace a few calls out of thousands; the score is a guide, not a ledger.
//! A slot is as wide as one sixth of the shortest window, and a window is its full slots and the
//! running one: 30 s are 30 to 35.
//!
//! # Time makes nothing worse
//! A window ends with its last call, and says nothing once that is older than the window is long. Would it
//! end with the present, a burst of errors among many good calls would outlast those that came before it:
//! of an instance that nobody calls any more it would be found a minute later that most of its calls fail.
//! What was before the instance began to serve is forgotten ([`Passive::forget`]).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::percent;
use super::score::between;
use crate::breaker::clearly_above;

/// The width of a slot, in milliseconds.
const SLOT: u64 = 5_000;
/// 120 s of full slots, and the running one.
const SLOTS: usize = 25;
/// Fewer calls than this in a window say nothing.
pub const LEAST_CALLS: u32 = 5;
/// A node whose judgement of an instance is below this, 0 to 1, does not find it healthy: errors count
/// for that from 20 calls in a minute on.
pub const POOR: f64 = 0.7;
/// Fewer calls than this in a minute do not show that too many of them fail.
const LEAST_TO_FAIL: u32 = 20;

/// How an attempt ended, as far as the instance is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// An answer, be it an application's error: after so many microseconds.
    Answered {
        /// From the sending to the answer's head, in microseconds.
        micros: u64,
    },
    /// A fault of the instance: a status of 5xx, garbage, a reset, no answer in time.
    Failed {
        /// From the sending to the fault, in microseconds.
        micros: u64,
    },
    /// No connection came about.
    NotConnected,
    /// The instance asked for a pause (429, or 503 with Retry-After). No fault, no answer.
    PushedBack,
}

/// What the calls of the last two minutes say. Fed by every thread at once.
#[derive(Debug, Default)]
pub struct Passive {
    slots: [Slot; SLOTS],
}

/// Five seconds. A word of counts holds two of 32 bits: of the former kind below, the latter above.
#[derive(Debug, Default)]
struct Slot {
    /// Which five seconds, counted from the caller's zero, plus one; 0: never used.
    which: AtomicU64,
    /// Calls that were sent; of them those that failed.
    calls: AtomicU64,
    /// Microseconds of all calls that were sent.
    micros: AtomicU64,
    /// Attempts to send; of them those without a connection.
    connects: AtomicU64,
}

/// What a window holds.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Indicators {
    /// The mean response time of the last 30 s, in milliseconds; none with too few calls.
    pub response_ms: Option<f64>,
    /// The share of errors in the last 60 s, 0 to 1; none with too few calls.
    pub error_rate: Option<f64>,
    /// The share of attempts of the last 120 s that had a connection, 0 to 1; none with too few.
    pub connected: Option<f64>,
    /// The instance's CPU over 300 s, 0 to 1, if a check reads it.
    pub cpu: Option<f64>,
    /// Its memory over 300 s, 0 to 1, if a check reads it.
    pub memory: Option<f64>,
    /// Its wait for I/O over 300 s, 0 to 1, if a check reads it.
    pub io_wait: Option<f64>,
    /// Calls of the 60 s up to the last call.
    pub calls: u32,
    /// Whether there was an attempt in the last 30 s.
    pub called_lately: bool,
}

/// An indicator's weight, up to where it is fine, and from where it is hopeless.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Threshold {
    /// What it counts.
    pub weight: f64,
    /// Worth 1 up to here.
    pub fine: f64,
    /// Worth 0 from here on.
    pub hopeless: f64,
}

/// The thresholds of all indicators.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Thresholds {
    /// Of the response time, in milliseconds.
    pub response_ms: Threshold,
    /// Of the error rate.
    pub error_rate: Threshold,
    /// Of the share of connections that came about.
    pub connected: Threshold,
    /// Of the CPU.
    pub cpu: Threshold,
    /// Of the memory.
    pub memory: Threshold,
    /// Of the wait for I/O.
    pub io_wait: Threshold,
}

/// One of the indicators.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Indicator {
    /// The response time.
    ResponseTime,
    /// The share of errors.
    ErrorRate,
    /// The share of connections that came about.
    Connections,
    /// The instance's CPU.
    Cpu,
    /// Its memory.
    Memory,
    /// Its wait for I/O.
    IoWait,
}

/// What the indicators come to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Judgement {
    /// 0 to 1.
    pub score: f64,
    /// What takes most off, and its value; none if nothing does.
    pub mostly: Option<(Indicator, f64)>,
    /// It is below [`POOR`], and not for a few calls that may have failed by chance.
    pub poor: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        let of = |weight, fine, hopeless| Threshold { weight, fine, hopeless };
        Self {
            response_ms: of(0.3, 500.0, 5_000.0),
            error_rate: of(0.4, 0.05, 0.5),
            connected: of(0.3, 0.95, 0.5),
            cpu: of(0.2, 0.90, 1.0),
            memory: of(0.15, 0.85, 1.0),
            io_wait: of(0.1, 0.50, 1.0),
        }
    }
}

// === impl Passive ===

impl Passive {
    /// Nothing was called yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An attempt ended at `now`: milliseconds since any zero that stays the same and is no later.
    pub fn ended(&self, ended: Ended, now: u64) {
        let slot = self.slot(now);
        let (micros, failed) = match ended {
            Ended::Answered { micros } => (micros, 0),
            Ended::Failed { micros } => (micros, 1),
            Ended::NotConnected => {
                slot.connects.fetch_add(1 | 1 << 32, Relaxed);
                return;
            }
            Ended::PushedBack => {
                slot.connects.fetch_add(1, Relaxed);
                return;
            }
        };
        slot.connects.fetch_add(1, Relaxed);
        slot.calls.fetch_add(1 | failed << 32, Relaxed);
        // A call of an hour would fit a million times.
        slot.micros.fetch_add(micros.min(3_600_000_000), Relaxed);
    }

    /// What the windows that end at `now` hold. The instance's own readings are the caller's to add.
    #[must_use]
    pub fn read(&self, now: u64) -> Indicators {
        let (calls, _, micros) = self.sum(now, 30_000, |it| &it.calls);
        let response_ms = (calls >= LEAST_CALLS).then(|| micros as f64 / 1e3 / f64::from(calls));
        let (calls, failed, _) = self.sum(now, 60_000, |it| &it.calls);
        let share = |part: u32, of: u32| f64::from(part) / f64::from(of);
        let error_rate = (calls >= LEAST_CALLS).then(|| share(failed.min(calls), calls));
        let (connects, refused, _) = self.sum(now, 120_000, |it| &it.connects);
        let connected =
            (connects >= LEAST_CALLS).then(|| 1.0 - share(refused.min(connects), connects));
        let called_lately = self.sum(now, 30_000, |it| &it.connects).0 > 0;
        Indicators {
            response_ms,
            error_rate,
            connected,
            calls,
            called_lately,
            ..Indicators::default()
        }
    }

    /// Nothing was called yet, from here on: the instance begins to serve, and what its calls met before
    /// says nothing of that. Of calls that end just now a few may stay.
    pub fn forget(&self) {
        for slot in &self.slots {
            slot.which.store(0, Relaxed);
        }
    }

    /// The slot of `now`, emptied if it held an earlier time.
    fn slot(&self, now: u64) -> &Slot {
        let which = now / SLOT + 1;
        let slot = &self.slots[(which % SLOTS as u64) as usize];
        let held = slot.which.load(Relaxed);
        // Whoever wins the exchange empties the slot; a thread that lags keeps its hands off.
        if held < which && slot.which.compare_exchange(held, which, Relaxed, Relaxed).is_ok() {
            slot.calls.store(0, Relaxed);
            slot.micros.store(0, Relaxed);
            slot.connects.store(0, Relaxed);
        }
        slot
    }

    /// Both counts and the microseconds of the slots that reach into the window before the last call; nothing
    /// if that is not in the window before now.
    fn sum(&self, now: u64, window: u64, of: fn(&Slot) -> &AtomicU64) -> (u32, u32, u64) {
        let (now, slots) = (now / SLOT + 1, window / SLOT);
        let is_used = |slot: &&Slot| of(slot).load(Relaxed) != 0;
        let used = self.slots.iter().filter(is_used).map(|slot| slot.which.load(Relaxed));
        let lately = now.saturating_sub(slots).max(1)..=now;
        let last = used.filter(|which| lately.contains(which)).max();
        let (mut all, mut bad, mut micros) = (0_u32, 0_u32, 0_u64);
        let Some(last) = last else { return (all, bad, micros) };
        let first = last.saturating_sub(slots).max(1);
        for slot in &self.slots {
            if (first..=last).contains(&slot.which.load(Relaxed)) {
                let counts = of(slot).load(Relaxed);
                all = all.saturating_add(counts as u32);
                bad = bad.saturating_add((counts >> 32) as u32);
                micros = micros.saturating_add(slot.micros.load(Relaxed));
            }
        }
        (all, bad, micros)
    }
}

// === impl Indicators ===

impl Indicators {
    /// Whether more of the last minute's calls fail than this share of 0 to 1, by more than chance
    /// explains: 20 calls at least, and three standard deviations above the share.
    ///
    /// One random error in a hundred does not come to a share of 0.1. It would take 7 failed calls of
    /// 20, which chance brings in one minute out of 1.4 thousand million; 19 of 100 and 185 of 1,500 are
    /// rarer by many orders of magnitude. And a majority of the nodes would have to see that at once.
    #[must_use]
    pub fn fail_above(&self, share: f64) -> bool {
        let failed = self.error_rate.map(|it| (it * f64::from(self.calls)).round() as u32);
        self.are_enough() && failed.is_some_and(|failed| clearly_above(failed, self.calls, share))
    }

    /// Whether there were so many calls in the last minute that it says something if few of them fail.
    #[must_use]
    pub fn are_enough(&self) -> bool {
        self.calls >= LEAST_TO_FAIL
    }

    /// Whether what calls there were in the last minute speak for the instance, be they few: there was an
    /// answer to most of them, and a share of at most `share` failed.
    #[must_use]
    pub fn succeed(&self, share: f64) -> bool {
        self.are_enough() || self.error_rate.is_some_and(|rate| rate <= share)
    }

    /// What the indicators come to; none if none is known.
    #[must_use]
    pub fn judge(&self, thresholds: &Thresholds) -> Option<Judgement> {
        let is_read = self.cpu.or(self.memory).or(self.io_wait).is_some();
        let called =
            |value: Option<f64>, it: Threshold| value.or_else(|| is_read.then_some(it.fine));
        let Thresholds { response_ms, error_rate, connected, .. } = *thresholds;
        let parts = [
            (Indicator::ResponseTime, called(self.response_ms, response_ms), response_ms),
            (Indicator::ErrorRate, called(self.error_rate, error_rate), error_rate),
            (Indicator::Connections, called(self.connected, connected), connected),
            (Indicator::Cpu, self.cpu, thresholds.cpu),
            (Indicator::Memory, self.memory, thresholds.memory),
            (Indicator::IoWait, self.io_wait, thresholds.io_wait),
        ];
        let (mut total, mut lost, mut by_chance, mut most) = (0.0, 0.0, 0.0, (0.0, None));
        for (indicator, value, it) in parts {
            let Some(value) = value else { continue };
            let loses = it.weight * (1.0 - between(it.fine, it.hopeless, value));
            total += it.weight;
            lost += loses;
            if indicator == Indicator::ErrorRate && !self.fail_above(it.fine) {
                by_chance = loses;
            }
            if loses > most.0 {
                most = (loses, Some((indicator, value)));
            }
        }
        (total > 0.0).then(|| Judgement {
            score: 1.0 - lost / total,
            mostly: most.1,
            poor: percent(1.0 - (lost - by_chance) / total) < percent(POOR),
        })
    }
}

// === impl Judgement ===

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of 100", percent(self.score))?;
        match self.mostly {
            Some((indicator, value)) => write!(f, ", by its {}", indicator.show(value)),
            None => Ok(()),
        }
    }
}

/// The score by which a balancer shares calls out: what the group finds, less what this node's calls and
/// readings take off it. What is well by the group is not left out for that: no less than `floor`. All
/// from 0 to 1.
#[must_use]
pub fn share(found: f64, judged: Option<f64>, floor: f64) -> f64 {
    let less = found * judged.unwrap_or(1.0);
    less.max(floor.min(found))
}

// === impl Indicator ===

impl Indicator {
    /// A value of it with its name and unit, for people.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::ResponseTime => format!("{} of {value:.0} ms", self.label()),
            Self::ErrorRate | Self::Connections | Self::Cpu | Self::Memory | Self::IoWait => {
                format!("{} of {:.0} %", self.label(), value * 100.0)
            }
        }
    }

    /// The words for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ResponseTime => "response time",
            Self::ErrorRate => "error rate",
            Self::Connections => "connections",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::IoWait => "i/o wait",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAST: Ended = Ended::Answered { micros: 20_000 };
    const FAULT: Ended = Ended::Failed { micros: 20_000 };

    fn fed(calls: &[(Ended, u64)]) -> Passive {
        let passive = Passive::new();
        for (ended, at) in calls {
            passive.ended(*ended, *at);
        }
        passive
    }

    #[test]
    fn a_few_good_calls_speak_for_the_instance_and_a_few_bad_ones_do_not() {
        let of = |good: usize, bad: usize| {
            let calls = [vec![(FAST, 1_000); good], vec![(FAULT, 1_000); bad]].concat();
            fed(&calls).read(1_000).succeed(0.1)
        };
        assert!(of(5, 0) && of(19, 1) && of(0, 20), "twenty say what they say by `fail_above`");
        assert!(!of(4, 0), "too few to know");
        assert!(!of(3, 2));
    }

    #[test]
    fn each_indicator_looks_back_on_its_own_window() {
        let passive = Passive::new();
        for _ in 0..10 {
            passive.ended(Ended::Failed { micros: 2_000_000 }, 1_000);
            passive.ended(Ended::NotConnected, 1_000);
        }
        let seen = passive.read(1_000);
        assert_eq!(seen.response_ms, Some(2_000.0));
        assert_eq!((seen.error_rate, seen.connected, seen.calls), (Some(1.0), Some(0.5), 10));
        let at = |secs: u64| {
            let seen = passive.read(secs * 1_000);
            (seen.response_ms.is_some(), seen.error_rate.is_some(), seen.connected.is_some())
        };
        assert_eq!(at(34), (true, true, true));
        assert_eq!(at(35), (false, true, true));
        assert_eq!(at(64), (false, true, true));
        assert_eq!(at(65), (false, false, true));
        assert_eq!(at(124), (false, false, true));
        assert_eq!(at(125), (false, false, false));
    }

    /// The good calls before a burst of errors are as old as it is to who looks a minute later.
    #[test]
    fn errors_among_many_good_calls_weigh_no_more_when_those_have_grown_old() {
        let calls = [vec![(FAST, 1_000); 1_000], vec![(FAULT, 6_000); 30]].concat();
        let passive = fed(&calls);
        assert!(!passive.read(6_000).fail_above(0.1));
        for second in 7..90 {
            let seen = passive.read(second * 1_000);
            assert!(!seen.fail_above(0.1), "{second} s: {seen:?}");
            assert_eq!(seen.called_lately, second < 40, "{second} s");
        }
    }

    #[test]
    fn what_was_forgotten_says_nothing_and_what_comes_after_it_does() {
        let passive = fed(&[(FAULT, 1_000); 30]);
        passive.forget();
        assert_eq!(passive.read(1_500), Indicators::default());
        (0..10).for_each(|_| passive.ended(FAST, 2_000));
        let seen = passive.read(2_000);
        assert_eq!((seen.error_rate, seen.calls), (Some(0.0), 10));
    }

    proptest! {
        #[test]
        fn time_alone_makes_no_instance_worse(
            calls in proptest::collection::vec((0_u64..60_000, 1_usize..40, any::<bool>()), 1..12),
            later in 0_u64..120_000,
        ) {
            let mut calls = calls;
            calls.sort_by_key(|it| it.0);
            let passive = Passive::new();
            for (at, times, fails) in &calls {
                (0..*times).for_each(|_| passive.ended(if *fails { FAULT } else { FAST }, *at));
            }
            let last = calls.last().expect("one at least").0;
            let (at_once, later) = (passive.read(last), passive.read(last + later));
            prop_assert!(at_once.fail_above(0.1) || !later.fail_above(0.1));
            prop_assert!(at_once.error_rate >= later.error_rate);
        }
    }

    #[test]
    fn the_ring_comes_round_and_forgets() {
        let passive = fed(&[(FAULT, 0); 50]);
        let later = 5_000 * SLOTS as u64;
        for _ in 0..10 {
            passive.ended(FAST, later);
        }
        let seen = passive.read(later);
        assert_eq!((seen.error_rate, seen.calls), (Some(0.0), 10));
    }

    #[test]
    fn a_thread_that_lags_a_whole_ring_destroys_nothing() {
        let later = 5_000 * SLOTS as u64;
        let passive = fed(&[(FAST, later); 10]);
        passive.ended(FAST, 0);
        assert_eq!(passive.read(later).calls, 11);
    }

    #[test]
    fn few_calls_say_nothing_and_push_back_is_no_fault() {
        let few = Indicators { calls: 4, called_lately: true, ..Indicators::default() };
        assert_eq!(fed(&[(FAULT, 0); 4]).read(0), few);
        let seen = fed(&[(Ended::PushedBack, 0); 100]).read(0);
        assert_eq!((seen.error_rate, seen.connected), (None, Some(1.0)));
    }

    #[test]
    fn one_error_in_a_hundred_is_not_too_many_of_any_number_of_calls() {
        let fail = |failed: u32, calls: u32| {
            let error_rate = Some(f64::from(failed) / f64::from(calls));
            Indicators { error_rate, calls, ..Indicators::default() }.fail_above(0.1)
        };
        assert!(!fail(19, 19), "too few calls");
        let table = [(20, 7), (100, 19), (1_500, 185), (100_000, 10_285)];
        for (calls, failed) in table {
            assert!(fail(failed, calls) && !fail(failed - 1, calls), "{failed} of {calls}");
        }
        assert!(!fail(1_000, 100_000));
        assert!(!Indicators::default().fail_above(0.1));
    }

    #[test]
    fn the_judgement_weighs_what_is_known_and_names_what_costs_most() {
        let thresholds = Thresholds::default();
        assert_eq!(Indicators::default().judge(&thresholds), None);
        let fine = Indicators {
            response_ms: Some(500.0),
            error_rate: Some(0.05),
            connected: Some(0.95),
            cpu: Some(0.9),
            memory: Some(0.85),
            io_wait: Some(0.5),
            calls: 100,
            called_lately: true,
        };
        assert_eq!(
            fine.judge(&thresholds),
            Some(Judgement { score: 1.0, mostly: None, poor: false })
        );
        let failing =
            Indicators { error_rate: Some(0.6), cpu: None, memory: None, io_wait: None, ..fine };
        let judged = failing.judge(&thresholds).unwrap();
        assert!((judged.score - 0.6).abs() < 1e-9, "{judged:?}");
        assert_eq!(judged.mostly, Some((Indicator::ErrorRate, 0.6)));
        assert_eq!(judged.to_string(), "60 of 100, by its error rate of 60 %");
    }

    /// Each of them at its threshold, in the middle, and where it is hopeless, while the others are fine
    /// or not known: what the row's weight takes off.
    #[test]
    fn every_indicator_takes_off_what_its_weight_says() {
        type Put = fn(&mut Indicators, f64);
        let table: [(Put, [f64; 3], f64, bool); 6] = [
            (|it, value| it.response_ms = Some(value), [500.0, 2_750.0, 5_000.0], 0.3, true),
            (|it, value| it.error_rate = Some(value), [0.05, 0.275, 0.5], 0.4, true),
            (|it, value| it.connected = Some(value), [0.95, 0.725, 0.5], 0.3, true),
            (|it, value| it.cpu = Some(value), [0.9, 0.95, 1.0], 0.2, false),
            (|it, value| it.memory = Some(value), [0.85, 0.925, 1.0], 0.15, false),
            (|it, value| it.io_wait = Some(value), [0.5, 0.75, 1.0], 0.1, false),
        ];
        for (put, values, weight, is_primary) in table {
            let total = if is_primary { 1.0 } else { 1.0 + weight };
            for (value, lost) in values.into_iter().zip([0.0, 0.5, 1.0]) {
                let mut seen = Indicators {
                    response_ms: Some(1.0),
                    error_rate: Some(0.0),
                    connected: Some(1.0),
                    ..Indicators::default()
                };
                put(&mut seen, value);
                let judged = seen.judge(&Thresholds::default()).unwrap();
                let expected = 1.0 - lost * weight / total;
                assert!((judged.score - expected).abs() < 1e-9, "{value}: {judged:?}");
                // Nobody calls it: a resource weighs no more for that.
                let mut idle = Indicators::default();
                put(&mut idle, value);
                let idle = idle.judge(&Thresholds::default()).unwrap().score;
                let expected = if is_primary { 1.0 - lost } else { expected };
                assert!((idle - expected).abs() < 1e-9, "{value}: {idle}");
            }
        }
    }

    #[test]
    fn what_is_poor_begins_below_seventy_and_takes_more_than_chance() {
        let of = |response_ms, error_rate, cpu, calls| {
            let seen = Indicators {
                response_ms: Some(response_ms),
                error_rate: Some(error_rate),
                connected: Some(1.0),
                cpu,
                calls,
                ..Indicators::default()
            };
            seen.judge(&Thresholds::default()).unwrap().poor
        };
        assert!(!of(1.0, 0.0, None, 100));
        assert!(!of(60_000.0, 0.0, None, 100), "slow by nature: 70");
        assert!(of(60_000.0, 0.0, Some(0.99), 100), "slow, and no processor left: 60");
        assert!(of(1.0, 0.5, None, 20), "half of the calls fail: 60");
        assert!(!of(1.0, 1.0, None, 19), "too few of them");
        assert!(of(60_000.0, 0.0, Some(1.0), 5));
        let all = Indicators {
            cpu: Some(1.0),
            memory: Some(1.0),
            io_wait: Some(1.0),
            ..Indicators::default()
        };
        let judged = all.judge(&Thresholds::default()).unwrap();
        assert!(judged.poor && percent(judged.score) == 68, "{judged:?}");
    }

    #[test]
    fn the_calls_make_a_share_smaller_and_leave_nobody_out() {
        let cases = [
            (1.0, None, 1.0),
            (1.0, Some(0.8), 0.8),
            (1.0, Some(0.0), 0.51),
            (0.9, Some(0.9), 0.81),
            // What the group finds unwell is left out by the group's word.
            (0.4, Some(1.0), 0.4),
            (0.4, Some(0.1), 0.4),
        ];
        for (found, judged, expected) in cases {
            let share = share(found, judged, 0.51);
            assert!((share - expected).abs() < 1e-9, "{found} {judged:?}: {share}");
        }
    }

    /// What an attempt costs: `cargo test --release -p holdfast-engine --lib cost -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn cost() {
        let passive = Passive::new();
        let begin = std::time::Instant::now();
        for now in 0..1_000_000 {
            std::hint::black_box(&passive).ended(FAST, std::hint::black_box(now / 100));
        }
        println!("an attempt: {} ns", begin.elapsed().as_nanos() / 1_000_000);
        let begin = std::time::Instant::now();
        for now in 0..100_000 {
            std::hint::black_box(std::hint::black_box(&passive).read(now));
        }
        println!("a look: {} ns", begin.elapsed().as_nanos() / 100_000);
        println!("{} bytes", size_of::<Passive>());
    }

    proptest! {
        /// On one thread nothing is lost: the ring holds exactly what fell into its slots.
        #[test]
        fn nothing_is_lost_and_nothing_stays(steps in prop::collection::vec((0u64..7_000, any::<bool>()), 1..400)) {
            let passive = Passive::new();
            let (mut now, mut all) = (0, Vec::new());
            for (step, fails) in steps {
                now += step;
                all.push((now, fails));
                passive.ended(if fails { FAULT } else { FAST }, now);
                let first = (now / SLOT).saturating_sub(12);
                let inside = || all.iter().filter(|(at, _)| at / SLOT >= first);
                let seen = passive.read(now);
                prop_assert_eq!(seen.calls as usize, inside().count());
                if let Some(rate) = seen.error_rate {
                    let failed = inside().filter(|(_, fails)| *fails).count();
                    prop_assert!((rate - failed as f64 / inside().count() as f64).abs() < 1e-9);
                }
            }
        }
    }
}
