//! What opens a breaker, and what does not.

use std::time::Duration;

use holdfast_engine::breaker::{Cause, Outcome, Params, Phase, Why};

use super::rig::{Rig, SECOND};

#[test]
fn five_failures_in_a_row_open_it_and_four_do_not() {
    let mut rig = Rig::new(Params::default());
    for _ in 0..3 {
        rig.calls(Outcome::Failure, 4);
        assert_eq!(rig.phase(), Phase::Closed);
        rig.calls(Outcome::Success, 200);
    }
    rig.calls(Outcome::Failure, 5);
    let [opened] = rig.transitions()[..] else { panic!("one transition") };
    assert_eq!((opened.from, opened.to), (Phase::Closed, Phase::Open));
    assert_eq!(opened.cause, Cause::InARow(5));
    assert!(rig.breaker.evidence().opened);
}

/// Nor do they where answers that have begun go on: those will be counted when they end, which may take long.
#[test]
fn five_failures_beside_ten_answers_that_go_on_do_not_open_it() {
    let mut rig = Rig::new(Params::default());
    let mut streams: Vec<_> = (0..10).map(|_| rig.admit().expect("closed")).collect();
    for stream in &mut streams {
        rig.breaker.begun(stream, rig.now, 0);
    }
    rig.wait(600 * SECOND);
    rig.calls(Outcome::Failure, 5);
    assert_eq!(rig.phase(), Phase::Closed);
    rig.calls(Outcome::Failure, 5);
    assert_eq!(rig.phase(), Phase::Open, "as many as there are");
}

/// A share of failures opens it that never comes in a row; not before there are enough calls, and not
/// below what chance explains.
#[test]
fn a_rate_opens_it_when_it_is_clearly_too_high() {
    let mut rig = Rig::new(Params::default());
    for call in 1..=200 {
        rig.calls(if call % 2 == 0 { Outcome::Failure } else { Outcome::Success }, 1);
        if rig.phase() == Phase::Open {
            assert_eq!(call, 50, "the minimum volume");
            break;
        }
    }
    assert_eq!(rig.transitions()[0].cause, Cause::Rate { failed: 25, calls: 50 });

    // 6 % of a few hundred is no more than chance, and of many thousands it is.
    let mut rig = Rig::new(Params::default());
    let opened = (1..=100_000).find(|call| {
        rig.calls(if call % 17 == 0 { Outcome::Failure } else { Outcome::Success }, 1);
        rig.phase() == Phase::Open
    });
    assert!((3_000..30_000).contains(&opened.expect("it opens")), "{opened:?}");
}

#[test]
fn what_is_older_than_the_window_is_forgotten() {
    let params = Params { window: 60 * SECOND, slow: 5 * SECOND, ..Params::default() };
    let mut rig = Rig::new(params);
    for _ in 0..7 {
        rig.calls(Outcome::Failure, 1);
        rig.calls(Outcome::Success, 6);
    }
    assert_eq!((rig.breaker.status().calls, rig.breaker.status().failed), (49, 7));
    rig.wait(58 * SECOND);
    assert_eq!(rig.breaker.status().calls, 49, "within a thirtieth of the window");
    rig.wait(2 * SECOND);
    assert_eq!((rig.breaker.status().calls, rig.breaker.status().failed), (0, 0));
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.phase(), Phase::Closed);
}

/// A breaker that counts only what has ended sees nothing for as long as a call may hang.
#[test]
fn calls_that_hang_open_it_while_none_of_them_has_ended() {
    let params = Params { slow: 8 * SECOND, ..Params::default() };
    let mut rig = Rig::new(params);
    rig.calls(Outcome::Success, 1000);
    rig.wait(SECOND);
    let hanging: Vec<_> = (0..5).map(|_| rig.admit().expect("closed")).collect();
    rig.wait(8 * SECOND - Duration::from_millis(1));
    assert_eq!(rig.phase(), Phase::Closed);
    rig.wait(SECOND + Duration::from_millis(1));
    assert_eq!(rig.phase(), Phase::Open, "an eighth after `slow`");
    assert_eq!(rig.transitions()[0].cause, Cause::InARow(5));
    // However they end then, it changes nothing.
    for permit in hanging {
        rig.settle(permit, Outcome::Success);
    }
    assert_eq!(rig.phase(), Phase::Open);
}

/// The order in which successes end does not matter, but that in which their calls were admitted.
#[test]
fn a_success_that_was_admitted_earlier_and_ends_later_takes_nothing_back() {
    let mut rig = Rig::new(Params { slow: 8 * SECOND, ..Params::default() });
    let early = rig.admit().expect("closed");
    rig.wait(2 * SECOND);
    let hanging: Vec<_> = (0..10).map(|_| rig.admit().expect("closed")).collect();
    rig.wait(2 * SECOND);
    rig.calls(Outcome::Success, 1);
    rig.settle(early, Outcome::Success);
    rig.wait(8 * SECOND);
    assert_eq!((rig.phase(), rig.breaker.status().failed), (Phase::Closed, 10));
    drop(hanging);
}

/// What hangs is not under way for ever: it does not keep later failures from counting.
#[test]
fn calls_that_hung_once_hide_nothing_afterwards() {
    let params = Params { slow: 8 * SECOND, failure_rate: 1.0, ..Params::default() };
    let mut rig = Rig::new(params);
    let hanging: Vec<_> = (0..1000).map(|_| rig.admit().expect("closed")).collect();
    // So that they are not in a row.
    rig.calls(Outcome::Success, 1);
    rig.wait(10 * SECOND);
    rig.calls(Outcome::Failure, 4);
    assert_eq!(rig.phase(), Phase::Closed);
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.phase(), Phase::Open);
    drop(hanging);
}

/// Quick errors among slow answers: a row has to be a tenth of what is under way.
#[test]
fn a_row_of_failures_says_little_while_a_lot_is_under_way() {
    let mut rig = Rig::new(Params { failure_rate: 1.0, ..Params::default() });
    let _under_way: Vec<_> = (0..200).map(|_| rig.admit().expect("closed")).collect();
    rig.calls(Outcome::Failure, 19);
    assert_eq!(rig.phase(), Phase::Closed);
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.phase(), Phase::Open);
}

/// One tool that hangs among calls that work is a share of failures, not a server that is gone.
#[test]
fn calls_that_hang_beside_others_that_succeed_are_not_in_a_row() {
    let params = Params { slow: 8 * SECOND, ..Params::default() };
    let mut rig = Rig::new(params);
    for round in 0..400 {
        if round % 20 == 0 {
            // Ten at once: each would be five in a row and more.
            for _ in 0..10 {
                let _hangs = rig.admit().expect("closed");
            }
        }
        rig.calls(Outcome::Success, 25);
        rig.wait(SECOND);
        assert_eq!(rig.phase(), Phase::Closed, "after {round} s");
    }
    let status = rig.breaker.status();
    assert_eq!((status.calls, status.failed), (10_200, 200), "all that hang are counted");
}

/// A server that stops answering has answered a moment before: what hangs was sent within milliseconds of it.
#[test]
fn calls_that_hang_right_after_good_ones_are_in_a_row() {
    let slow = 3 * SECOND;
    for clients in [5, 12, 200, 3000] {
        let mut rig = Rig::new(Params { slow, ..Params::default() });
        for _ in 0..40 {
            rig.calls(Outcome::Success, clients);
            rig.wait(Duration::from_millis(50));
        }
        // The last answers come while the first that hang are under way.
        let last: Vec<_> = (0..clients).map(|_| rig.admit().expect("closed")).collect();
        let mut hang = Vec::new();
        for permit in last {
            rig.settle(permit, Outcome::Success);
            hang.push(rig.admit().expect("closed"));
        }
        rig.wait(slow + slow / 8);
        assert_eq!(rig.phase(), Phase::Open, "{clients} clients");
    }
}

#[test]
fn an_overdue_call_is_counted_once_however_it_ends() {
    let params = Params { slow: 8 * SECOND, ..Params::default() };
    let outcomes = [
        Outcome::Success,
        Outcome::Failure,
        Outcome::NotReached,
        Outcome::SessionLost,
        Outcome::BackPressure { retry_after: Duration::ZERO },
    ];
    for outcome in outcomes {
        let mut rig = Rig::new(params);
        let permit = rig.admit().expect("closed");
        rig.wait(9 * SECOND);
        assert_eq!((rig.breaker.status().calls, rig.breaker.status().failed), (1, 1));
        rig.settle(permit, outcome);
        let status = rig.breaker.status();
        assert_eq!((status.calls, status.failed, status.not_reached), (1, 1, 0), "{outcome:?}");
        let given_up = rig.admit().expect("closed");
        rig.wait(9 * SECOND);
        rig.breaker.abandon(given_up, rig.now, 0);
        assert_eq!(rig.breaker.status().failed, 2, "who gives up late does not hide a hang");
    }
}

#[test]
fn a_slow_success_is_a_failure_and_a_late_one_keeps_a_hang_in_a_row() {
    let params = Params { slow: 8 * SECOND, ..Params::default() };
    let mut rig = Rig::new(params);
    let permits: Vec<_> = (0..5).map(|_| rig.admit().expect("closed")).collect();
    rig.now += 8 * SECOND;
    for permit in permits {
        assert_eq!(rig.phase(), Phase::Closed);
        rig.settle(permit, Outcome::Success);
    }
    assert_eq!(rig.phase(), Phase::Open);
    let mut rig = Rig::new(params);
    let permits: Vec<_> = (0..5).map(|_| rig.admit().expect("closed")).collect();
    rig.now += 8 * SECOND - Duration::from_nanos(1);
    for permit in permits {
        rig.settle(permit, Outcome::Success);
    }
    assert_eq!((rig.phase(), rig.breaker.status().failed), (Phase::Closed, 0));
}

#[test]
fn a_client_that_leaves_in_time_and_a_lost_session_say_nothing() {
    let mut rig = Rig::new(Params::default());
    for _ in 0..1000 {
        let permit = rig.admit().expect("closed");
        rig.breaker.abandon(permit, rig.now, 0);
        rig.calls(Outcome::SessionLost, 1);
    }
    rig.calls(Outcome::Failure, 4);
    rig.calls(Outcome::SessionLost, 100);
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.phase(), Phase::Open, "they do not end a row either");
    assert_eq!(rig.breaker.status().calls, 5);
}

#[test]
fn back_pressure_refuses_for_as_long_as_the_server_asks_and_is_no_failure() {
    let mut rig = Rig::new(Params::default());
    rig.calls(Outcome::Failure, 4);
    let permits: Vec<_> = (0..20).map(|_| rig.admit().expect("closed")).collect();
    for (at, permit) in permits.into_iter().enumerate() {
        // The longest counts, in whatever order they come.
        let retry_after = SECOND * if at == 10 { 9 } else { 2 };
        rig.settle(permit, Outcome::BackPressure { retry_after });
    }
    assert_eq!((rig.phase(), rig.breaker.status().failed), (Phase::Closed, 4));
    let refused = rig.admit().expect_err("held");
    assert_eq!((refused.why, refused.retry_after), (Why::BackPressure, 9 * SECOND));
    rig.now += 9 * SECOND - Duration::from_nanos(1);
    assert!(rig.admit().is_err());
    rig.now += Duration::from_nanos(1);
    let permit = rig.admit().expect("the time is over");
    // A server that asks for a year gets a minute.
    let year = 365 * 86_400 * SECOND;
    rig.settle(permit, Outcome::BackPressure { retry_after: year });
    assert_eq!(rig.admit().expect_err("held").retry_after, 60 * SECOND);
    assert_eq!(rig.breaker.status().held_until, Some(rig.now + 60 * SECOND));
    rig.wait(60 * SECOND);
    assert_eq!(rig.breaker.status().held_until, None);
    assert!(rig.transitions().is_empty());
}

/// What may be this node's own network opens its breaker and is not told.
#[test]
fn a_server_that_is_not_reached_opens_the_breaker_and_is_not_evidence_for_others() {
    let mut rig = Rig::new(Params::default());
    rig.calls(Outcome::NotReached, 5);
    assert_eq!(rig.phase(), Phase::Open);
    assert_eq!(rig.transitions()[0].cause, Cause::NotReachedInARow(5));
    let evidence = rig.breaker.evidence();
    assert_eq!((evidence.opened, evidence.calls, evidence.failed), (false, 0, 0));
    // The probe that does not get through either keeps it so.
    rig.calls(Outcome::NotReached, 1);
    assert_eq!(rig.phase(), Phase::Open);
    assert!(!rig.breaker.evidence().opened);
    // The probe that gets through and fails is evidence.
    rig.calls(Outcome::Failure, 1);
    assert_eq!(rig.phase(), Phase::Open);
    assert!(rig.breaker.evidence().opened);
}

#[test]
fn the_two_kinds_of_failure_are_rows_of_their_own() {
    let mut rig = Rig::new(Params { minimum_calls: 1000, ..Params::default() });
    for _ in 0..20 {
        // A failure shows that the server was reached; not reaching it does not make it better.
        rig.calls(Outcome::NotReached, 4);
        rig.calls(Outcome::Failure, 1);
        if rig.phase() == Phase::Open {
            break;
        }
    }
    assert_eq!(rig.transitions()[0].cause, Cause::InARow(5));

    let mut rig = Rig::new(Params::default());
    for call in 0..60 {
        rig.calls(if call % 3 == 0 { Outcome::NotReached } else { Outcome::Success }, 1);
    }
    let cause = rig.transitions()[0].cause;
    assert!(matches!(cause, Cause::NotReachedRate { calls: 50.., .. }), "{cause:?}");
}

/// A call that ended after its breaker had opened, closed and opened belongs to another time.
#[test]
fn stragglers_neither_close_nor_open_anything() {
    let mut rig = Rig::new(Params::default());
    let old: Vec<_> = (0..40).map(|_| rig.admit().expect("closed")).collect();
    rig.calls(Outcome::Failure, 5);
    let mut old = old.into_iter();
    let mut straggle = |rig: &mut Rig, outcome| {
        for permit in old.by_ref().take(5) {
            rig.settle(permit, outcome);
        }
    };
    let known = rig.breaker.status();
    straggle(&mut rig, Outcome::Success);
    straggle(&mut rig, Outcome::Failure);
    assert_eq!(rig.breaker.status(), known, "what opened it stays as it was");
    rig.wait(38 * SECOND);
    straggle(&mut rig, Outcome::Success);
    straggle(&mut rig, Outcome::Failure);
    assert_eq!(rig.phase(), Phase::HalfOpen);
    rig.calls(Outcome::Success, 3);
    straggle(&mut rig, Outcome::Failure);
    assert_eq!((rig.phase(), rig.breaker.status().failed), (Phase::Recovering, 0));
}

#[test]
fn a_cold_start_has_no_recovery() {
    let mut rig = Rig::new(Params::default());
    assert_eq!((rig.phase(), rig.breaker.status().share), (Phase::Closed, 1000));
    assert!((0..10_000).all(|_| rig.admit().is_ok()));
}

#[test]
fn clocks_that_are_read_a_little_out_of_order_do_no_harm() {
    let mut rig = Rig::new(Params { slow: SECOND, ..Params::default() });
    for call in 0..10_000u64 {
        let ahead = rig.now + Duration::from_micros(call * 700 + call % 7 * 5_000);
        let permit = rig.breaker.admit(ahead, call).expect("closed");
        let behind = ahead - Duration::from_micros(call % 11 * 400);
        rig.breaker.settle(permit, Outcome::Success, behind, call);
    }
    rig.wait(100 * SECOND);
    assert_eq!((rig.breaker.status().calls, rig.breaker.status().failed), (10_000, 0));
}

#[test]
fn settings_out_of_range_do_no_harm() {
    let zero = Params {
        enabled: true,
        consecutive_failures: 0,
        failure_rate: f64::NAN,
        minimum_calls: 0,
        window: Duration::ZERO,
        slow: Duration::ZERO,
        open_for: Duration::ZERO,
        open_at_most: Duration::ZERO,
        half_open_share: f64::NAN,
        probe_interval: Duration::ZERO,
        successes_to_close: 0,
        recover_for: Duration::ZERO,
        back_pressure_at_most: Duration::ZERO,
    };
    let huge = Params {
        enabled: true,
        consecutive_failures: u32::MAX,
        failure_rate: f64::INFINITY,
        minimum_calls: u32::MAX,
        window: Duration::MAX,
        slow: Duration::MAX,
        open_for: Duration::MAX,
        open_at_most: Duration::MAX,
        half_open_share: f64::INFINITY,
        probe_interval: Duration::MAX,
        successes_to_close: u32::MAX,
        recover_for: Duration::MAX,
        back_pressure_at_most: Duration::MAX,
    };
    for params in [zero, huge] {
        let mut rig = Rig::new(params);
        for outcome in [Outcome::Failure, Outcome::Success, Outcome::NotReached] {
            for _ in 0..10 {
                if let Ok(permit) = rig.admit() {
                    rig.settle(permit, outcome);
                    rig.breaker.observe(
                        Outcome::BackPressure { retry_after: Duration::MAX },
                        rig.now,
                        u64::MAX,
                    );
                }
                rig.wait(86_400 * SECOND);
            }
        }
        assert!(rig.admit().is_ok());
    }
}
