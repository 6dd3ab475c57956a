//! One random error in a hundred opens no breaker with the defaults, in 100,000 calls.

use std::collections::BinaryHeap;
use std::time::Duration;

use holdfast_engine::breaker::{Outcome, Params, Permit, Phase};

use super::rig::{Rig, SECOND};

const CALLS: u64 = 100_000;
const SEEDS: u64 = 10;

/// How a client calls: so far apart on average, and how long a success and an error take.
struct Load {
    gap: Duration,
    success: Duration,
    error: Duration,
}

/// A call that will end then.
struct Ends {
    at: Duration,
    permit: Permit,
    outcome: Outcome,
}

impl PartialEq for Ends {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Ends {}
impl PartialOrd for Ends {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ends {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The earliest is the greatest: a heap gives that one first.
        other.at.cmp(&self.at)
    }
}

/// Calls that come and end at random; how often the breaker opened.
fn openings(load: &Load, percent_errors: u64, seed: u64) -> usize {
    let mut rig = Rig::new(Params::default());
    rig.rng.0 = seed;
    let start = rig.now;
    let mut arrives = Duration::ZERO;
    let mut under_way: BinaryHeap<Ends> = BinaryHeap::new();
    let mut openings = 0;
    for _ in 0..CALLS {
        arrives += load.gap * u32::try_from(rig.rng.below(200)).expect("small") / 100;
        while under_way.peek().is_some_and(|first| first.at <= arrives) {
            let ends = under_way.pop().expect("peeked");
            rig.now = start + ends.at;
            rig.settle(ends.permit, ends.outcome);
        }
        rig.now = start + arrives;
        let errs = rig.rng.below(100) < percent_errors;
        if let Ok(permit) = rig.admit() {
            let takes = if errs { load.error } else { load.success };
            let at = arrives + takes * u32::try_from(50 + rig.rng.below(100)).expect("small") / 100;
            let outcome = if errs { Outcome::Failure } else { Outcome::Success };
            under_way.push(Ends { at, permit, outcome });
        }
        openings += rig.transitions().iter().filter(|it| it.to == Phase::Open).count();
    }
    openings
}

fn loads() -> Vec<(&'static str, Load)> {
    let ms = Duration::from_millis;
    vec![
        ("a thousand a second", Load { gap: ms(1), success: ms(20), error: ms(20) }),
        ("errors at once, slow answers", Load { gap: ms(1), success: ms(5000), error: ms(1) }),
        ("slow errors, quick answers", Load { gap: ms(10), success: ms(5), error: ms(10_000) }),
        // The window holds a few hundred calls, always others.
        ("two a second", Load { gap: ms(500), success: ms(50), error: ms(50) }),
        ("one in ten seconds", Load { gap: 10 * SECOND, success: ms(50), error: ms(50) }),
    ]
}

#[test]
fn one_error_in_a_hundred_opens_nothing() {
    for (name, load) in loads() {
        for seed in 0..SEEDS {
            assert_eq!(openings(&load, 1, seed), 0, "{name}, seed {seed}");
        }
    }
}

/// The same simulation sees a server that is bad.
#[test]
fn one_in_five_opens_it_under_every_load_that_fills_the_window() {
    for (name, load) in loads() {
        for seed in 0..3 {
            assert!(openings(&load, 20, seed) > 0, "{name}, seed {seed}");
        }
    }
}
