//! How many calls pass where not every one does.

use std::time::Duration;

use holdfast_engine::breaker::{Outcome, Params, Phase, Why};

use super::rig::{Rig, SECOND};

/// With the outcomes withheld, of ten thousand calls a tenth passes, give or take a point.
#[test]
fn half_open_lets_a_tenth_pass() {
    for seed in 0..50 {
        for every in [0, 1, 2].map(Duration::from_millis) {
            let mut rig = Rig::half_open(Params { slow: 60 * SECOND, ..Params::default() });
            rig.rng.0 = seed;
            let mut held = Vec::new();
            for _ in 0..10_000 {
                held.extend(rig.admit());
                rig.now += every;
            }
            assert_eq!(rig.phase(), Phase::HalfOpen);
            assert!((900..=1100).contains(&held.len()), "seed {seed}: {}", held.len());
            // It is in fact nearly exact: the share does not depend on luck.
            assert!((983..=1017).contains(&held.len()), "seed {seed}: {}", held.len());
        }
    }
}

/// The calls that pass do not come in a rhythm: a client with one of its own is not always hit.
#[test]
fn the_tenth_that_passes_is_not_every_tenth() {
    let mut rig = Rig::half_open(Params::default());
    let passed: Vec<usize> = (0..10_000).filter(|_| rig.admit().is_ok()).collect();
    let mut by_place = [0; 10];
    for call in &passed {
        by_place[call % 10] += 1;
    }
    assert!(by_place.iter().all(|n| (60..=140).contains(n)), "{by_place:?}");
}

#[test]
fn however_few_calls_there_are_one_passes_per_interval() {
    let params = Params { probe_interval: 2 * SECOND, ..Params::default() };
    for gap in [Duration::from_millis(300), SECOND, 2 * SECOND, 7 * SECOND] {
        let mut rig = Rig::half_open(params);
        let mut last = rig.now;
        rig.calls(Outcome::SessionLost, 1);
        let mut longest = Duration::ZERO;
        for _ in 0..500 {
            rig.now += gap;
            if let Ok(permit) = rig.admit() {
                longest = longest.max(rig.now - last);
                last = rig.now;
                // It says nothing, so the state stays.
                rig.settle(permit, Outcome::SessionLost);
            }
        }
        assert!(longest < 2 * SECOND + gap, "{gap:?}: {longest:?} without a probe");
        assert!(rig.now - last < 2 * SECOND, "{gap:?}: none at the end");
    }
}

/// What passes because nothing else did is part of the share, not beside it.
#[test]
fn of_few_calls_one_passes_per_interval_and_no_more() {
    let mut rig = Rig::half_open(Params { slow: 600 * SECOND, ..Params::default() });
    let mut passed = 0;
    for _ in 0..1000 {
        passed += u32::from(rig.admit().is_ok());
        rig.now += SECOND / 5;
    }
    assert!((195..=205).contains(&passed), "{passed} in 200 s");
}

/// A call that was admitted and given up tried nothing, and the next one may.
#[test]
fn a_probe_that_is_given_up_is_made_up_for() {
    let mut rig = Rig::half_open(Params::default());
    for _ in 0..100 {
        let permit = rig.admit().expect("nobody has tried it");
        rig.breaker.abandon(permit, rig.now, 0);
    }
    let _under_way = rig.admit().expect("nobody has tried it");
    let refused = rig.admit().expect_err("somebody tries it");
    assert_eq!((refused.why, refused.retry_after), (Why::HalfOpen, SECOND));
}

#[test]
fn nothing_passes_while_it_is_open_and_the_time_to_wait_is_true() {
    let mut rig = Rig::open(Params::default());
    loop {
        let refused = rig.admit().expect_err("open");
        if refused.retry_after <= Duration::from_millis(2) {
            break;
        }
        assert_eq!(refused.why, Why::Open);
        let mut early = rig.breaker.clone();
        let before = rig.now + refused.retry_after - Duration::from_nanos(1);
        assert!(early.admit(before, 0).is_err());
        assert!(rig.breaker.clone().admit(rig.now + refused.retry_after, 0).is_ok());
        rig.wait(refused.retry_after / 2);
    }
}

#[test]
fn the_share_of_a_recovery_is_that_of_its_step() {
    let mut rig = Rig::recovering(Params::default());
    for step in 1..=9 {
        assert_eq!(rig.breaker.status().share, step * 100);
        let passed = (0..10_000).filter(|_| rig.admit().is_ok()).count();
        let expected = usize::from(step) * 1000;
        assert!(passed.abs_diff(expected) <= 17, "{step}: {passed}");
        // They are forgotten, not answered late.
        let now = rig.now;
        rig.breaker.reconfigure(Params { slow: 31 * SECOND, ..Params::default() }, now);
        rig.breaker.reconfigure(Params::default(), now);
        rig.wait(30 * SECOND);
    }
    assert_eq!(rig.breaker.status().share, 1000);
    assert_eq!((0..1000).filter(|_| rig.admit().is_ok()).count(), 1000);
}

/// A session that is in the share stays in it: every one of its calls passes, as long as the share does not shrink, and
/// what passes of the others' is the share still.
#[test]
fn calls_of_a_session_that_is_in_the_share_all_pass() {
    let params = Params { slow: 600 * SECOND, ..Params::default() };
    assert_eq!(params.first_share(), 100);
    let mut rig = Rig::half_open(params);
    let lots = |rig: &mut Rig, lot| {
        let chance = rig.rng.next();
        rig.breaker.admit_with(Some(lot), rig.now, chance).is_ok()
    };
    assert!((0..1000).all(|_| lots(&mut rig, 99)));
    let passed = (0..10_000).filter(|_| lots(&mut rig, 100)).count();
    assert!((983..=1017).contains(&passed), "{passed}");
    // The third success ends the state; each step lets a tenth more in.
    for _ in 0..3 {
        rig.breaker.observe(Outcome::Success, rig.now, 0);
    }
    for step in 1..=9 {
        assert_eq!((rig.phase(), rig.breaker.status().share), (Phase::Recovering, step * 100));
        assert!((0..100).all(|_| lots(&mut rig, step * 100 - 1)));
        assert!((0..100).any(|_| !lots(&mut rig, step * 100)), "step {step}");
        rig.wait(30 * SECOND);
    }
}

#[test]
fn the_first_share_is_the_smaller_of_what_is_tried_with_and_a_step() {
    for (share, first) in [(0.0, 1), (0.01, 10), (0.1, 100), (0.5, 100), (f64::NAN, 1)] {
        let params = Params { half_open_share: share, ..Params::default() };
        assert_eq!(params.first_share(), first, "{share}");
    }
}
