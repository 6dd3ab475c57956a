//! The way back: how long it stays open, what closes it, and the steps.

use std::time::Duration;

use holdfast_engine::breaker::{Breaker, Cause, Outcome, Override, Params, Phase};

use super::rig::{Rig, SECOND};

#[test]
fn three_successes_in_a_row_end_half_open_and_one_failure_opens_it_again() {
    let mut rig = Rig::half_open(Params::default());
    rig.transitions();
    rig.calls(Outcome::Success, 2);
    assert_eq!(rig.phase(), Phase::HalfOpen);
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.phase(), Phase::Open);
    rig.wait(60 * SECOND);
    rig.calls(Outcome::Success, 2);
    assert_eq!(rig.phase(), Phase::HalfOpen, "those of before do not count");
    rig.calls(Outcome::Success, 1);
    assert_eq!(rig.phase(), Phase::Recovering);
    let causes: Vec<Cause> = rig.transitions().iter().map(|it| it.cause).collect();
    assert_eq!(causes, [Cause::ProbeFailed, Cause::TimePassed, Cause::ProbesSucceeded]);
}

/// A probe that hangs is a probe that failed, without anybody's saying so.
#[test]
fn a_probe_that_hangs_opens_it_again() {
    let mut rig = Rig::half_open(Params { slow: 8 * SECOND, ..Params::default() });
    let _hangs = rig.admit().expect("the first passes");
    rig.wait(9 * SECOND);
    assert_eq!(rig.phase(), Phase::Open);
}

#[test]
fn the_time_it_stays_open_doubles_up_to_a_limit_and_differs_from_node_to_node() {
    let params = Params { open_for: SECOND, open_at_most: 60 * SECOND, ..Params::default() };
    for (chance, quarter) in [(0, 0), (u64::MAX / 2, 125), (u64::MAX, 250)] {
        let mut rig = Rig::new(params);
        let mut times = Vec::new();
        for _ in 0..9 {
            for _ in 0..5 {
                rig.breaker.observe(Outcome::Failure, rig.now, chance);
            }
            let until = rig.breaker.status().open_until.expect("open");
            times.push((until - rig.now).as_millis());
            rig.wait(until - rig.now);
        }
        let expected: Vec<u128> = [1, 2, 4, 8, 16, 32, 48, 48, 48]
            .iter()
            .map(|step| step * 1000 + step * quarter)
            .collect();
        assert!(times.iter().zip(&expected).all(|(is, says)| is.abs_diff(*says) <= 1), "{times:?}");
    }
}

#[test]
fn after_a_recovery_it_opens_for_the_shortest_time_again() {
    let mut rig = Rig::half_open(Params::default());
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.breaker.status().strikes, 2);
    rig.wait(60 * SECOND);
    rig.calls(Outcome::Success, 3);
    assert_eq!(rig.breaker.status().strikes, 2, "not before it has recovered");
    rig.wait(300 * SECOND);
    assert_eq!((rig.phase(), rig.breaker.status().strikes), (Phase::Closed, 0));
}

#[test]
fn a_recovery_takes_ten_steps_in_its_time_and_then_it_is_closed() {
    let mut rig = Rig::recovering(Params::default());
    let begun = rig.now;
    let mut shares = Vec::new();
    while rig.phase() == Phase::Recovering {
        let share = rig.breaker.status().share;
        if shares.last() != Some(&share) {
            shares.push(share);
        }
        rig.calls(Outcome::Success, 5);
        rig.wait(SECOND / 2);
    }
    assert_eq!(shares, [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]);
    let took = rig.now - begun;
    assert!((300 * SECOND..302 * SECOND).contains(&took), "{took:?}");
    assert_eq!(rig.transitions().last().expect("closed").cause, Cause::Recovered);
}

#[test]
fn a_recovery_without_calls_ends_in_time_too() {
    let mut rig = Rig::recovering(Params::default());
    rig.wait(300 * SECOND - Duration::from_nanos(1));
    assert_eq!((rig.phase(), rig.breaker.status().share), (Phase::Recovering, 1000));
    rig.wait(Duration::from_nanos(1));
    assert_eq!(rig.phase(), Phase::Closed);
}

#[test]
fn a_step_that_is_degraded_goes_back_one_and_from_the_first_it_opens() {
    let mut rig = Rig::recovering(Params::default());
    rig.wait(65 * SECOND);
    assert_eq!(rig.breaker.status().share, 300);
    rig.transitions();
    for share in [200, 100] {
        rig.calls(Outcome::Success, 1);
        rig.calls(Outcome::Failure, 2);
        assert_eq!((rig.phase(), rig.breaker.status().share), (Phase::Recovering, share));
        let [back] = rig.transitions()[..] else { panic!("one transition") };
        assert_eq!((back.from, back.to), (Phase::Recovering, Phase::Recovering));
        assert_eq!(back.cause, Cause::Degraded { failed: 2, calls: 3 });
    }
    // A step that was gone back to lasts as long as any.
    rig.wait(30 * SECOND - Duration::from_nanos(1));
    assert_eq!(rig.breaker.status().share, 100);
    rig.calls(Outcome::Success, 1);
    rig.calls(Outcome::Failure, 2);
    assert_eq!(rig.phase(), Phase::Open);
    assert!(rig.breaker.evidence().opened);
}

/// What is no reason to open is no reason to go back: at one error in a hundred it recovers.
#[test]
fn a_recovery_gets_through_with_a_few_random_errors() {
    let mut longest = Duration::ZERO;
    for seed in 0..100 {
        let mut rig = Rig::recovering(Params::default());
        rig.rng.0 = seed;
        let begun = rig.now;
        let mut opened = 0;
        while rig.phase() != Phase::Closed {
            rig.now += Duration::from_millis(20);
            assert!(rig.now - begun < 3600 * SECOND, "seed {seed}: never");
            let errs = rig.rng.below(100) == 0;
            let Ok(permit) = rig.admit() else { continue };
            rig.settle(permit, if errs { Outcome::Failure } else { Outcome::Success });
            opened += rig.transitions().iter().filter(|it| it.to == Phase::Open).count();
        }
        longest = longest.max(rig.now - begun);
        assert!(opened <= 2, "seed {seed}: opened {opened} times");
    }
    assert!(longest < 600 * SECOND, "{longest:?}");
}

/// What went wrong on the way is not held against it afterwards.
#[test]
fn what_failed_during_a_recovery_is_forgotten_when_it_is_over() {
    let mut rig = Rig::recovering(Params::default());
    rig.wait(280 * SECOND);
    for _ in 0..4 {
        rig.calls(Outcome::Success, 1);
        rig.calls(Outcome::Failure, 2);
    }
    rig.calls(Outcome::Success, 60);
    while rig.phase() == Phase::Recovering {
        rig.wait(SECOND);
    }
    rig.calls(Outcome::Failure, 1);
    assert_eq!((rig.phase(), rig.breaker.status().failed), (Phase::Closed, 1));
}

#[test]
fn five_failures_in_a_row_open_a_recovering_breaker() {
    let mut rig = Rig::recovering(Params::default());
    rig.wait(250 * SECOND);
    rig.calls(Outcome::Success, 500);
    rig.calls(Outcome::Failure, 4);
    assert_eq!(rig.phase(), Phase::Recovering);
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.phase(), Phase::Open);
    assert_eq!(rig.breaker.status().strikes, 2);
}

#[test]
fn without_a_time_for_it_there_is_no_recovery() {
    let mut rig = Rig::half_open(Params { recover_for: Duration::ZERO, ..Params::default() });
    rig.calls(Outcome::Success, 3);
    assert_eq!(rig.phase(), Phase::Closed);
    assert_eq!(rig.breaker.status().strikes, 0);
}

#[test]
fn an_operators_word_stands_above_everything_and_a_newer_one_above_that() {
    let mut rig = Rig::new(Params::default());
    let now = rig.now;
    assert!(rig.breaker.force(Override::Closed, 7, now));
    rig.calls(Outcome::Failure, 100);
    assert!(rig.breaker.opened_by_cluster(now + 60 * SECOND, 1, now, 0));
    assert_eq!(rig.phase(), Phase::ForcedClosed);
    assert!(!rig.breaker.force(Override::Open, 7, now), "an older word");
    assert!(rig.breaker.force(Override::Open, 8, now));
    assert_eq!(rig.phase(), Phase::ForcedOpen);
    rig.wait(86_400 * SECOND);
    assert!(rig.admit().is_err());
    assert!(rig.breaker.force(Override::Automatic, 9, rig.now));
    assert_eq!(rig.phase(), Phase::Closed, "as an operator had it before");
    // Said twice it is said once: nothing that was counted is lost.
    let mut rig = Rig::new(Params::default());
    assert!(rig.breaker.force(Override::Closed, 1, now));
    rig.calls(Outcome::Success, 10);
    assert!(rig.breaker.force(Override::Closed, 2, now));
    assert_eq!((rig.transitions().len(), rig.breaker.status().calls), (1, 10));
}

#[test]
fn the_later_of_two_times_counts_when_the_cluster_opens_what_is_open() {
    for (word, expected) in [(1, 30), (30, 30), (45, 45)] {
        let mut rig = Rig::new(Params::default());
        for _ in 0..5 {
            rig.breaker.observe(Outcome::Failure, rig.now, 0);
        }
        assert!(rig.breaker.opened_by_cluster(rig.now + word * SECOND, 1, rig.now, 0));
        assert_eq!(rig.breaker.status().open_until, Some(rig.now + expected * SECOND));
    }
}

#[test]
fn other_settings_keep_the_state_and_the_same_ones_keep_everything() {
    let mut rig = Rig::new(Params::default());
    rig.calls(Outcome::Failure, 4);
    rig.breaker.reconfigure(Params::default(), rig.now);
    assert_eq!(rig.breaker.status().in_a_row, 4);
    let now = rig.now;
    rig.breaker.reconfigure(Params { consecutive_failures: 2, ..Params::default() }, now);
    assert_eq!((rig.phase(), rig.breaker.status().in_a_row), (Phase::Closed, 0));
    rig.calls(Outcome::Failure, 2);
    assert_eq!(rig.phase(), Phase::Open);
}

#[test]
fn transitions_wait_for_who_takes_them_and_are_bounded() {
    let mut rig = Rig::new(Params::default());
    for generation in 1..100 {
        let what = if generation % 2 == 0 { Override::Open } else { Override::Closed };
        rig.breaker.force(what, generation, rig.now);
    }
    let taken = rig.transitions();
    assert_eq!(taken.len(), 8);
    assert!(taken.windows(2).all(|pair| pair[0].to == pair[1].from), "the newest, in order");
    assert_eq!(taken.last().map(|it| it.to), Some(Phase::ForcedClosed));
    assert_eq!(Breaker::new(Params::default(), rig.now).take_transition(), None);
}
