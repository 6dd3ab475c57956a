//! Both ends against each other, over real sockets.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::json;

use super::*;

fn serving() -> Serving {
    serve(TcpListener::bind("127.0.0.1:0").unwrap(), 2).unwrap()
}

fn short(address: SocketAddr) -> LoadPlan {
    let mut plan = LoadPlan::new(address);
    plan.connections = 4;
    plan.threads = 2;
    plan.warm_up = Duration::from_millis(50);
    plan.duration = Duration::from_millis(250);
    plan
}

fn clean(plan: &LoadPlan) -> LoadReport {
    let report = load(plan).unwrap();
    assert_eq!(report.errors, 0, "{report}");
    assert!(report.calls > 0, "{report}");
    assert!(
        report.p50_us > 0.0 && report.p50_us <= report.p99_us && report.p99_us <= report.max_us
    );
    report
}

#[test]
fn every_dialect_gets_results() {
    let server = serving();
    for dialect in [Dialect::Legacy, Dialect::Sessionless, Dialect::Modern] {
        clean(&LoadPlan { dialect, ..short(server.address()) });
    }
}

#[test]
fn the_answer_is_as_large_as_asked_for() {
    let server = serving();
    let mut plan = short(server.address());
    let small = clean(&plan);
    plan.arguments = json!({ "bytes": 64 * 1024 });
    let large = clean(&plan);
    let per_call = |report: &LoadReport| report.body_bytes as f64 / report.calls as f64;
    assert_eq!(per_call(&large) - per_call(&small), (64 * 1024 - DEFAULT_BYTES) as f64);
}

#[test]
fn a_stream_of_events_is_read_to_its_result() {
    let server = serving();
    let mut plan = short(server.address());
    plan.tool = "events".to_owned();
    let report = clean(&plan);
    // 19 progress notifications and a result.
    assert!(report.body_bytes / report.calls > 19 * 100, "{report:?}");
}

#[test]
fn an_announcement_comes_to_every_stream() {
    let server = serving();
    let mut plan = short(server.address());
    plan.connections = 8;
    let report = fan_out(&plan).unwrap();
    assert_eq!(report.errors, 0, "{report}");
    assert!(report.calls > 0 && report.calls.is_multiple_of(8), "{report}");
}

#[test]
fn held_sessions_keep_their_streams() {
    let server = serving();
    let plan = short(server.address());
    let held = hold(&plan, 100, Holding::Stream).unwrap();
    assert!(format!("{held:?}").contains("streams: 100"), "{held:?}");
    assert!(format!("{:?}", hold(&plan, 3, Holding::Session).unwrap()).contains("streams: 0"));
}

#[test]
fn an_open_loop_makes_the_calls_that_were_due() {
    let server = serving();
    let mut plan = short(server.address());
    plan.pace = Pace::Open { per_second: 400.0 };
    plan.warm_up = Duration::from_millis(100);
    plan.duration = Duration::from_millis(500);
    let report = clean(&plan);
    // Calls number 40 to 239 are due in the counted part, however slow the machine is.
    assert_eq!(report.calls, 200, "{report:?}");
}

#[test]
fn an_open_loop_counts_the_wait_for_a_stalled_server() {
    // The listener never accepts, but the kernel's backlog does: calls are sent and unanswered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = short(listener.local_addr().unwrap());
    plan.dialect = Dialect::Sessionless;
    plan.pace = Pace::Open { per_second: 100.0 };
    plan.grace = Duration::from_millis(200);
    let report = load(&plan).unwrap();
    assert_eq!(report.calls, 0);
    // 30 calls were due; four went out on the four connections.
    assert_eq!(report.errors_by_kind.unanswered, 4, "{report}");
    assert_eq!(report.errors_by_kind.not_started, 26, "{report}");
}

/// A result that comes after its client has left is none.
#[test]
fn a_client_that_has_waited_for_long_enough_leaves_and_its_call_has_failed() {
    let manners = Manners::default();
    manners.set(Manner::Hang);
    let server = serve_with(TcpListener::bind("127.0.0.1:0").unwrap(), 1, &manners).unwrap();
    let mut plan = short(server.address());
    plan.dialect = Dialect::Sessionless;
    plan.pace = Pace::Open { per_second: 100.0 };
    plan.patience = Some(Duration::from_millis(50));
    let report = load(&plan).unwrap();
    let kinds = &report.errors_by_kind;
    assert_eq!((report.calls, kinds.unanswered, kinds.not_started), (0, 0, 0), "{report:?}");
    assert!(kinds.given_up > 0, "{report:?}");
}

#[test]
fn failures_are_counted_by_kind() {
    let server = serving();
    let mut plan = short(server.address());
    plan.headers = vec![("Content-Length".to_owned(), "1".to_owned())];
    plan.dialect = Dialect::Sessionless;
    // Two lengths that differ: hyper answers 400 and closes.
    let report = load(&plan).unwrap();
    assert_eq!(report.calls, 0);
    assert!(report.errors_by_kind.status + report.errors_by_kind.broken > 0, "{report}");
    assert!(report.first_error.is_some());
}

#[test]
fn a_run_against_nothing_ends_at_once() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    assert!(matches!(load(&short(address)), Err(LoadError::Connect { .. })));
}

#[test]
fn a_senseless_plan_is_refused() {
    let address = "127.0.0.1:1".parse().unwrap();
    for pace in [Pace::Open { per_second: 0.0 }, Pace::Open { per_second: f64::NAN }] {
        assert!(matches!(load(&LoadPlan { pace, ..short(address) }), Err(LoadError::Plan(_))));
    }
    let none = LoadPlan { connections: 0, ..short(address) };
    assert!(matches!(load(&none), Err(LoadError::Plan(_))));
}

/// Calls against a server in each manner that the generator can tell from the others.
#[test]
fn a_server_fails_as_it_is_told_to() {
    let manners = Manners::default();
    let server = serve_with(TcpListener::bind("127.0.0.1:0").unwrap(), 2, &manners).unwrap();
    let mut plan = short(server.address());
    plan.dialect = Dialect::Sessionless;
    for manner in [Manner::HalfStream, Manner::Reset, Manner::Close] {
        manners.set(manner.clone());
        let report = load(&plan).unwrap();
        let kinds = &report.errors_by_kind;
        assert!(report.calls == 0 && kinds.broken > 0, "{manner:?}: {report}");
    }
    manners.set(Manner::Forget);
    let report = load(&plan).unwrap();
    assert!(report.calls > 0 && report.errors_by_kind.status > 0, "{report}");
    plan.pace = Pace::Open { per_second: 100.0 };
    plan.grace = Duration::from_millis(200);
    manners.set(Manner::Freeze);
    let report = load(&plan).unwrap();
    assert!(report.calls == 0 && report.errors_by_kind.unanswered > 0, "{report}");
}
