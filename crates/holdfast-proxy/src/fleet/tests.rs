//! The fleet from outside: what its states do to calls, and what is heard of them.

mod held;
mod left;
mod ramp;
mod reach;
mod streams;
mod turned;

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_config::BulkheadClass;
use holdfast_engine::balance::Set;
use holdfast_engine::breaker::{Override, Phase};
use holdfast_engine::class::CallClass;
use holdfast_engine::failover::{Failover, Phase as Stage};
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::limits::bulkhead::ToolKey;

use super::testing::{fleet, late};
use super::*;

mod tools;

const ONE: &str = r#"servers: { one: { url: "http://127.0.0.1:1/mcp" } }"#;
/// In turn: what the other strategies go by takes microseconds here.
const PAIR: &str = r#"servers: { pair: { balance: { strategy: round_robin }, instances: [
    { id: a, url: "http://127.0.0.1:1/mcp" }, { id: b, url: "http://127.0.0.1:2/mcp" } ] } }"#;

fn ask(class: CallClass) -> Ask<'static> {
    Ask { class, ..Ask::opening(None, Set::default()) }
}

fn fail(server: &Arc<ServerFleet>, instance: usize, outcome: Outcome, times: u32) {
    for _ in 0..times {
        server.enter(instance, &ask(CallClass::Read)).unwrap().settle(outcome);
    }
}

fn chosen(server: &Arc<ServerFleet>, class: CallClass, calls: usize) -> [usize; 2] {
    let mut counts = [0; 2];
    for _ in 0..calls {
        let attempt = server.choose(&ask(class)).unwrap();
        counts[attempt.instance()] += 1;
        attempt.settle(Outcome::Answered);
    }
    counts
}

fn phase(server: &ServerFleet, instance: usize) -> Phase {
    server.snapshot().instances[instance].breaker.phase
}

#[test]
fn failures_in_a_row_open_an_instance_and_the_refusal_says_for_how_long() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    fail(server, 0, Outcome::Status, 4);
    assert_eq!(phase(server, 0), Phase::Closed);
    fail(server, 0, Outcome::Broken, 1);
    assert_eq!(phase(server, 0), Phase::Open);
    let refused = server.choose(&ask(CallClass::Write)).unwrap_err();
    assert_eq!(refused.why, Why::Breaker);
    assert!(refused.retry_after > Duration::from_secs(20), "{:?}", refused.retry_after);
    assert!(!refused.may_be_over_soon);
    assert!(server.is_shut());
}

#[test]
fn what_says_nothing_of_an_instance_opens_nothing() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    for outcome in [Outcome::Answered, Outcome::Void, Outcome::Unreachable] {
        fail(server, 0, outcome, 20);
        assert_eq!(phase(server, 0), Phase::Closed, "{outcome:?}");
    }
    // A client that leaves says nothing either.
    for _ in 0..20 {
        drop(server.enter(0, &ask(CallClass::Read)).unwrap());
    }
    assert_eq!(phase(server, 0), Phase::Closed);
    assert_eq!(server.snapshot().instances[0].in_flight, 0);
}

#[test]
fn a_rest_that_was_asked_for_is_given_and_is_no_failure() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    fail(server, 0, Outcome::Busy(Some(Duration::from_secs(7))), 1);
    let refused = server.choose(&ask(CallClass::Read)).unwrap_err();
    assert_eq!(refused.why, Why::BackPressure);
    assert!(refused.retry_after > Duration::from_secs(5), "{:?}", refused.retry_after);
    assert_eq!(phase(server, 0), Phase::Closed);
}

#[test]
fn calls_go_where_nothing_is_open_and_to_both_otherwise() {
    let fleet = fleet(PAIR);
    let server = fleet.server("pair").unwrap();
    let counts = chosen(server, CallClass::Read, 100);
    assert!(counts.iter().all(|count| *count >= 30), "{counts:?}");
    fail(server, 0, Outcome::Status, 5);
    assert_eq!(chosen(server, CallClass::Read, 50), [0, 50]);
    assert!(!server.is_shut());
    assert!(!server.takes(0, 1) && server.other_than(0, 1));
    fail(server, 1, Outcome::Status, 5);
    let refused = server.choose(&ask(CallClass::Read)).unwrap_err();
    assert!(refused.reason.contains("2 of 2 instances"), "{}", refused.reason);
    assert_eq!(refused.reasons, ["a", "b"].map(|it| (it.into(), "breaker open")));
}

#[test]
fn an_instance_that_failed_a_call_comes_last_for_it() {
    let fleet = fleet(PAIR);
    let server = fleet.server("pair").unwrap();
    let mut avoid = Set::default();
    avoid.insert(0);
    for _ in 0..20 {
        let ask = Ask { avoid, ..ask(CallClass::Read) };
        assert_eq!(server.choose(&ask).unwrap().instance(), 1);
    }
    avoid.insert(1);
    let ask = Ask { avoid, ..ask(CallClass::Read) };
    assert!(server.choose(&ask).is_ok(), "better again there than nowhere");
}

#[test]
fn what_the_group_finds_unhealthy_is_left_out_and_left() {
    let fleet = fleet(PAIR);
    let server = fleet.server("pair").unwrap();
    let at = fleet.at("pair", "a").unwrap();
    let verdict = |opinion, score| Verdict { opinion: Some(opinion), score, why: "test".into() };
    fleet.judge(at, verdict(Opinion::Unhealthy, 10));
    assert_eq!(chosen(server, CallClass::Write, 20), [0, 20]);
    assert!(!server.takes(0, 1));
    fleet.judge(at, verdict(Opinion::Healthy, 100));
    assert!(server.takes(0, 1));
}

#[test]
fn a_recovery_that_has_ended_is_followed_by_no_slow_start() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    let length = Duration::from_millis(1);
    fleet.say(0, Some(0), Word::Opened { length, generation: 1 });
    fleet.say(0, Some(0), Word::Released { generation: 2 });
    // A part of the calls try it.
    while phase(server, 0) == Phase::HalfOpen {
        let Ok(attempt) = server.choose(&ask(CallClass::Read)) else { continue };
        attempt.settle(Outcome::Answered);
    }
    assert_eq!(phase(server, 0), Phase::Recovering);
    let now = Instant::now() + Duration::from_secs(3600);
    server.instances[0].steer(|it| it.tick(now, 0), |_| {});
    assert_eq!(phase(server, 0), Phase::Closed);
    assert_eq!(server.instances[0].back_for(now), None);
}

#[test]
fn the_cluster_opens_for_all_and_takes_it_back() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    let length = Duration::from_secs(10);
    assert!(fleet.say(0, Some(0), Word::Opened { length, generation: 1 }));
    assert!(server.is_shut());
    assert!(fleet.say(0, Some(0), Word::Released { generation: 2 }));
    assert!(!server.is_shut());
    assert_eq!(phase(server, 0), Phase::HalfOpen);
}

const FAILING_OVER: &str = r#"servers: { main: { instances: [
    { id: a, url: "http://127.0.0.1:1/mcp", role: primary },
    { id: b, url: "http://127.0.0.1:2/mcp", role: secondary } ] } }"#;

#[test]
fn one_instance_serves_where_a_server_fails_over() {
    let fleet = fleet(FAILING_OVER);
    let server = fleet.server("main").unwrap();
    assert_eq!(chosen(server, CallClass::Read, 20), [20, 0]);
    assert!(server.takes(0, 7) && !server.takes(1, 7));
    let mut moved = Failover::new("a");
    moved.active = "b".to_owned();
    fleet.route(0, Arc::new(moved));
    assert_eq!(chosen(server, CallClass::Write, 20), [0, 20]);
    assert!(!server.takes(0, 7) && server.takes(1, 7));
    // Where its new instance takes no calls, a session is not let to the old one.
    fail(server, 1, Outcome::Status, 5);
    assert_eq!(server.enter(0, &ask(CallClass::Write)).unwrap_err().why, Why::Paused);
    assert_eq!(server.choose(&ask(CallClass::Write)).unwrap_err().why, Why::Breaker);
}

#[test]
fn while_a_failover_may_be_decided_its_clients_see_a_pause() {
    let fleet = fleet(FAILING_OVER);
    let server = fleet.server("main").unwrap();
    fail(server, 0, Outcome::Broken, 5);
    let refused = server.choose(&ask(CallClass::Write)).unwrap_err();
    assert_eq!(refused.why, Why::Breaker);
    assert!(refused.may_be_over_soon, "b is there");
}

/// The active instance was taken out of the configuration, and the group has not moved the server yet.
#[test]
fn the_primary_serves_while_the_active_instance_is_configured_no_more() {
    let fleet = fleet(FAILING_OVER);
    let server = fleet.server("main").unwrap();
    fleet.route(0, Arc::new(Failover::new("gone")));
    assert_eq!(chosen(server, CallClass::Write, 20), [20, 0]);
    assert!(server.takes(0, 7) && server.has_moved_on(1, 7) && !server.has_moved_on(0, 7));
}

#[tokio::test]
async fn calls_wait_while_a_failover_holds_them_and_then_go_to_the_other_one() {
    let fleet = fleet(FAILING_OVER);
    let server = Arc::clone(fleet.server("main").unwrap());
    let mut holding = Failover::new("a");
    holding.phase = Stage::FailingOver(pausing());
    fleet.route(0, Arc::new(holding.clone()));
    assert_eq!(server.choose(&ask(CallClass::Read)).unwrap_err().why, Why::Paused);
    let waiting = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.is_ok() }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    holding.phase = Stage::SecondaryActive;
    holding.active = "b".to_owned();
    fleet.route(0, Arc::new(holding));
    assert!(waiting.await.unwrap());
    assert_eq!(server.choose(&ask(CallClass::Read)).unwrap().instance(), 1);
}

/// What follows fails as any call does.
#[test]
fn where_an_instance_begins_to_serve_what_its_calls_met_before_counts_no_more() {
    let fleet = fleet(FAILING_OVER);
    let server = fleet.server("main").unwrap();
    fleet.route(0, Arc::new(Failover::new("a")));
    fail(server, 0, Outcome::Status, 5);
    let at = fleet.at("main", "a").unwrap();
    fleet.route(0, Arc::new(Failover::new("b")));
    let before = fleet.sight(at);
    assert!(before.is_open && before.indicators.calls == 5, "{before:?}");
    fleet.route(0, Arc::new(Failover::new("a")));
    let after = fleet.sight(at);
    assert!(!after.is_open && after.indicators.calls == 0, "{after:?}");
    assert_eq!(phase(server, 0), Phase::Closed);
    fail(server, 0, Outcome::Status, 5);
    assert_eq!(phase(server, 0), Phase::Open);
}

fn pausing() -> holdfast_engine::failover::Move {
    use holdfast_engine::failover::{Manner, Move, Stage};
    Move {
        from: "a".to_owned(),
        to: "b".to_owned(),
        manner: Manner::Immediate,
        stage: Stage::Pause,
        began: 0,
        checked: false,
        cause: String::new(),
    }
}

#[tokio::test]
async fn a_full_class_queues_so_many_and_refuses_the_rest_at_once() {
    let yaml =
        format!("{ONE}\nbulkheads: {{ user: {{ concurrency: 2, queue: 1, queue_timeout: 10s }} }}");
    let fleet = fleet(&yaml);
    let server = Arc::clone(fleet.server("one").unwrap());
    let first = server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap();
    let _second = server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap();
    let third = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await }
    });
    while server.snapshot().classes.iter().all(|(_, status)| status.waiting == 0) {
        tokio::task::yield_now().await;
    }
    let refused = server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap_err();
    assert!(matches!(refused, NotAdmitted::Full { waited: false, .. }), "{refused:?}");
    // Another class has room of its own.
    assert!(server.admit_calls(1, BulkheadClass::Critical, ToolKey(0), late()).await.is_ok());
    drop(first);
    let third = third.await.unwrap().unwrap();
    drop(third);
}

/// Its client does not read: it is not over, and holds nobody up.
#[tokio::test]
async fn a_call_that_gives_its_place_away_gives_it_once() {
    let yaml = format!("{ONE}\nbulkheads: {{ user: {{ concurrency: 1, queue: 5 }} }}");
    let fleet = fleet(&yaml);
    let server = Arc::clone(fleet.server("one").unwrap());
    let first = server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap();
    first.leave();
    first.leave();
    let second = server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap();
    drop(first);
    let running = |server: &ServerFleet| -> u32 {
        server.snapshot().classes.iter().map(|(_, status)| status.running).sum()
    };
    assert_eq!(running(&server), 1, "the second one's place is its own");
    drop(second);
    assert_eq!(running(&server), 0);
}

#[tokio::test]
async fn a_call_that_leaves_the_queue_leaves_no_trace() {
    let yaml = format!("{ONE}\nbulkheads: {{ user: {{ concurrency: 1, queue: 5 }} }}");
    let fleet = fleet(&yaml);
    let server = Arc::clone(fleet.server("one").unwrap());
    let held = server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap();
    {
        let waiting = server.admit_calls(1, BulkheadClass::User, ToolKey(0), late());
        let mut waiting = std::pin::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    }
    drop(held);
    let user = |server: &ServerFleet| {
        let classes = server.snapshot().classes;
        classes.into_iter().find(|(class, _)| *class == BulkheadClass::User).unwrap().1
    };
    assert_eq!((user(&server).running, user(&server).waiting), (0, 0));
    assert!(server.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.is_ok());
}

#[tokio::test]
async fn a_call_is_refused_while_something_that_its_server_depends_on_is_open() {
    let fleet = fleet(
        r#"servers:
  base: { url: "http://127.0.0.1:1/mcp" }
  middle: { url: "http://127.0.0.1:2/mcp", depends_on: [base] }
  top: { url: "http://127.0.0.1:3/mcp", depends_on: [middle] }"#,
    );
    let top = fleet.server("top").unwrap();
    assert!(top.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.is_ok());
    fail(fleet.server("base").unwrap(), 0, Outcome::Status, 5);
    let refused = top.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap_err();
    assert!(
        matches!(&refused, NotAdmitted::Needs { server, .. } if &**server == "base"),
        "{refused:?}"
    );
    // What nothing depends on goes on.
    assert!(
        fleet
            .server("base")
            .unwrap()
            .admit_calls(1, BulkheadClass::User, ToolKey(0), late())
            .await
            .is_ok()
    );
}

/// What stands by is never called, and is not what anybody depends on.
#[tokio::test]
async fn a_standby_that_is_well_is_no_server_to_depend_on() {
    let fleet = fleet(
        r#"servers:
  base: { instances: [ { id: a, url: "http://127.0.0.1:1/mcp", role: primary },
    { id: b, url: "http://127.0.0.1:2/mcp", role: secondary } ] }
  top: { url: "http://127.0.0.1:3/mcp", depends_on: [base] }"#,
    );
    let (base, top) = (fleet.server("base").unwrap(), fleet.server("top").unwrap());
    let admitted =
        async || top.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.map(drop);
    let at = fleet.at("base", "a").unwrap();
    let verdict = |opinion, score| Verdict { opinion: Some(opinion), score, why: "test".into() };
    fleet.judge(at, verdict(Opinion::Unhealthy, 10));
    assert!(
        matches!(admitted().await, Err(NotAdmitted::Needs { .. })),
        "the group finds it unwell"
    );
    assert!(!base.snapshot().shut, "this node could call it");
    fleet.judge(at, verdict(Opinion::Healthy, 100));
    assert!(admitted().await.is_ok());
    fail(base, 0, Outcome::Status, 5);
    assert!(base.snapshot().shut);
    assert!(matches!(admitted().await, Err(NotAdmitted::Needs { .. })), "its breaker is open");
    fleet.route(0, Arc::new(Failover::new("b")));
    assert!(admitted().await.is_ok(), "the other one serves");
}

#[tokio::test]
async fn an_instance_that_refuses_is_left_alone_until_it_answers_a_knock() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let fleet = fleet(&format!(r#"servers: {{ one: {{ url: "http://127.0.0.1:{port}/mcp" }} }}"#));
    let server = fleet.server("one").unwrap();
    fail(server, 0, Outcome::Unreachable, 1);
    let refused = server.choose(&ask(CallClass::Write)).unwrap_err();
    assert_eq!(refused.why, Why::Away);
    assert!(refused.may_be_over_soon, "its clients see a pause");
    let _back = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let back = async {
        while server.choose(&ask(CallClass::Write)).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.unwrap();
    assert_eq!(phase(server, 0), Phase::Closed, "nothing has failed");
}

#[tokio::test]
async fn the_control_plane_hears_of_every_instance_that_failed() {
    let fleet = fleet(PAIR);
    let server = fleet.server("pair").unwrap();
    let at = fleet.at("pair", "b").unwrap();
    fail(server, 1, Outcome::Garbled, 1);
    assert_eq!(fleet.changed().await, [at]);
    let heard = fleet.changed();
    let mut heard = std::pin::pin!(heard);
    assert!(futures_util::poll!(heard.as_mut()).is_pending());
    fail(server, 0, Outcome::TimedOut, 1);
    assert_eq!(heard.await.len(), 1);
    let sight = fleet.sight(at);
    assert_eq!((sight.in_flight, sight.evidence.calls, sight.evidence.failed), (0, 1, 1));
}

#[test]
fn a_hanging_instance_that_is_tried_gets_no_more_than_a_few_calls() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    let length = Duration::from_millis(1);
    fleet.say(0, Some(0), Word::Opened { length, generation: 1 });
    fleet.say(0, Some(0), Word::Released { generation: 2 });
    let hanging: Vec<Attempt> =
        (0..1000).filter_map(|_| server.choose(&ask(CallClass::Read)).ok()).collect();
    assert!((1..=3).contains(&hanging.len()), "{}", hanging.len());
}

#[test]
fn a_hang_is_a_failure_after_45_seconds_unless_the_configuration_says_otherwise() {
    for (settings, seconds) in
        [("", 45), (", timeout: 10s", 10), (", timeout: 1h, breaker: { slow_call: 5m }", 300)]
    {
        let text = format!(r#"servers: {{ one: {{ url: "http://127.0.0.1:1/mcp"{settings} }} }}"#);
        let config = holdfast_config::parse(&text, "test", &|_: &str| None).expect("good settings");
        let slow = server::params(&config.servers["one"]).slow;
        assert_eq!(slow, Duration::from_secs(seconds), "{settings}");
    }
}

// --- connections ---

const TWO_EACH: &str = r#"servers: { pair: { balance: { strategy: round_robin },
    pool: { max_connections: 2, queue: 2 }, instances: [
    { id: a, url: "http://127.0.0.1:1/mcp" }, { id: b, url: "http://127.0.0.1:2/mcp" } ] } }"#;

fn read() -> Ask<'static> {
    Ask { opens: false, ..ask(CallClass::Read) }
}

/// A call with its place in the queue, and the reason why it is told no more.
type Waits = tokio::task::JoinHandle<(InLine, Result<(), String>)>;

/// Waits, in a task, for a connection to this instance, or to any.
async fn waits(server: &Arc<ServerFleet>, only: Option<usize>, mut line: InLine) -> Waits {
    let server = Arc::clone(server);
    let waiting = tokio::spawn(async move {
        let busy = match only {
            Some(only) => server.enter(only, &read()),
            None => server.choose(&read()),
        };
        let waited = line.wait(&server, false, busy.unwrap_err()).await;
        (line, waited.map_err(|refused| refused.reason))
    });
    tokio::task::yield_now().await;
    waiting
}

fn line() -> InLine {
    InLine::until(tokio::time::Instant::now() + Duration::from_secs(5))
}

fn fill(server: &Arc<ServerFleet>) -> Vec<Attempt> {
    let all: Vec<Attempt> = (0..4).map(|_| server.choose(&read()).unwrap()).collect();
    assert_eq!(server.choose(&read()).unwrap_err().why, Why::Connections);
    all
}

fn leaves(all: &mut Vec<Attempt>, instance: usize) {
    let at = all.iter().position(|it| it.instance() == instance).unwrap();
    drop(all.swap_remove(at));
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_connections_wait_in_order_and_each_where_it_belongs() {
    let fleet = fleet(TWO_EACH);
    let server = fleet.server("pair").unwrap();
    let mut all = fill(server);
    let bound = waits(server, Some(0), line()).await;
    let any = waits(server, None, line()).await;
    let (_, full) = waits(server, None, line()).await.await.unwrap();
    assert!(full.unwrap_err().ends_with("as many calls as may wait for one"));
    // There is room at the second: that is for the one that can go there.
    leaves(&mut all, 1);
    assert_eq!(server.choose(&read()).unwrap_err().why, Why::Connections);
    let (mut next, waited) = any.await.unwrap();
    assert!(waited.is_ok() && next.is_next() && !bound.is_finished());
    all.push(server.choose(&Ask { kept: true, ..read() }).unwrap());
    next.steps_out();
    // At the first nobody overtakes the one that waits for it.
    leaves(&mut all, 0);
    assert_eq!(server.enter(0, &read()).unwrap_err().why, Why::Connections);
    let (mut next, _) = bound.await.unwrap();
    all.push(server.enter(0, &Ask { kept: true, ..read() }).unwrap());
    next.steps_out();
    drop(all);
    let idle = server.snapshot().instances.iter().all(|it| it.in_flight == 0);
    assert!(idle && server.waiting() == 0);
    // No failure was counted anywhere.
    assert_eq!([phase(server, 0), phase(server, 1)], [Phase::Closed, Phase::Closed]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_used_is_the_next_ones_and_a_wait_ends() {
    let fleet = fleet(TWO_EACH);
    let server = fleet.server("pair").unwrap();
    let mut all = fill(server);
    let (first, second) =
        (waits(server, Some(0), line()).await, waits(server, Some(0), line()).await);
    leaves(&mut all, 0);
    let (first, waited) = first.await.unwrap();
    assert!(waited.is_ok() && first.is_next());
    // Its client leaves with the connection in its hand.
    drop(first);
    let (mut next, waited) = second.await.unwrap();
    assert!(waited.is_ok() && next.is_next());
    all.push(server.enter(0, &Ask { kept: true, ..read() }).unwrap());
    next.steps_out();
    // In vain.
    let (_, waited) = waits(server, Some(0), line()).await.await.unwrap();
    assert!(waited.unwrap_err().ends_with("none was free in time"));
    assert_eq!(server.waiting(), 0);
    // Its client leaves while it waits.
    let gone = waits(server, Some(0), line()).await;
    assert_eq!(server.waiting(), 1);
    gone.abort();
    let _ = gone.await;
    assert_eq!(server.waiting(), 0);
    drop(all);
    assert!(server.enter(0, &read()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_before_calls_go_that_may_be_waiting_for_it() {
    let fleet = fleet(TWO_EACH);
    let server = fleet.server("pair").unwrap();
    let mut all = fill(server);
    let first = waits(server, Some(0), line()).await;
    let opening = {
        let server = Arc::clone(server);
        let ask = Ask::opening(Some(0), Set::default());
        tokio::spawn(async move { server.choose_in_line(&ask).await.unwrap().instance() })
    };
    tokio::task::yield_now().await;
    assert_eq!(server.waiting(), 2);
    leaves(&mut all, 0);
    assert_eq!(opening.await.unwrap(), 0);
    // It is over, and the call is next; what it opens for itself it does not wait for.
    let (mut next, _) = first.await.unwrap();
    assert!(next.is_next());
    assert_eq!(server.enter(0, &read()).unwrap_err().why, Why::Connections);
    drop(server.choose_in_line(&Ask::opening(Some(0), Set::default())).await.unwrap());
    all.push(server.enter(0, &Ask { kept: true, ..read() }).unwrap());
    next.steps_out();
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_looks_again_when_it_could_go_elsewhere_and_keeps_its_place() {
    let fleet = fleet(TWO_EACH);
    let server = fleet.server("pair").unwrap();
    // The second stands by: what is free there is of no use.
    fleet.route(0, Arc::new(Failover::new("a")));
    let mut all: Vec<Attempt> = (0..2).map(|_| server.choose(&read()).unwrap()).collect();
    let (first, second) = (waits(server, None, line()).await, waits(server, None, line()).await);
    assert!(!first.is_finished() && !second.is_finished());
    // Nothing ends at the first, and all go over.
    fleet.route(0, Arc::new(Failover::new("b")));
    let (mut first, waited) = first.await.unwrap();
    assert!(waited.is_ok() && !first.is_next());
    all.push(server.choose(&read()).unwrap());
    all.push(server.choose(&read()).unwrap());
    assert_eq!([2, 3].map(|at: usize| all[at].instance()), [1, 1]);
    // Both wait again, the second sooner: it was behind the first, and is.
    let (second, _) = second.await.unwrap();
    let second = waits(server, None, second).await;
    let again = waits(server, None, std::mem::replace(&mut first, line())).await;
    leaves(&mut all, 1);
    tokio::task::yield_now().await;
    assert!(again.is_finished() && !second.is_finished());
}

/// Whoever looks sees what the time has done, and so does everybody that it concerns.
#[tokio::test]
async fn a_breaker_that_turns_while_somebody_looks_turns_for_all() {
    let fleet = fleet(&TWO_EACH.replace("max_connections: 2", "max_connections: 1"));
    let server = fleet.server("pair").unwrap();
    let length = Duration::from_millis(10);
    fleet.say(0, Some(0), Word::Opened { length, generation: 1 });
    let mut news = fleet.news();
    let _busy = server.enter(1, &read()).unwrap();
    let waiting = waits(server, Some(1), line()).await;
    assert!(!waiting.is_finished());
    std::thread::sleep(2 * length);
    assert_eq!(phase(server, 0), Phase::HalfOpen);
    let half_open = Phase::HalfOpen.label();
    let turned = server.counts.each_turned().find(|(to, _)| *to == half_open);
    assert_eq!(turned, Some((half_open, 1)));
    let news = news.try_recv().expect("the control plane hears of it");
    assert!(matches!(news.change, Change::Breaker(it) if it.to == Phase::HalfOpen), "{news:?}");
    // Whoever waits for a connection looks again where it could go.
    let (line, waited) = waiting.await.unwrap();
    assert!(waited.is_ok() && !line.is_next());
}

/// Each of its calls has a place, or none has one.
#[tokio::test]
async fn a_batch_takes_a_place_for_each_of_its_calls() {
    let yaml = format!("{ONE}\nbulkheads: {{ user: {{ concurrency: 4, queue: 4 }} }}");
    let fleet = fleet(&yaml);
    let server = fleet.server("one").unwrap();
    let running =
        || server.snapshot().classes.iter().map(|(_, status)| status.running).sum::<u32>();
    let batch = |calls| server.admit_calls(calls, BulkheadClass::User, ToolKey(0), late());
    let three = batch(3).await.unwrap();
    assert_eq!(running(), 3);
    let refused = batch(2).await.unwrap_err();
    assert!(matches!(refused, NotAdmitted::Full { waited: false, .. }), "{refused:?}");
    assert_eq!(running(), 3, "it has kept none");
    let one = batch(1).await.unwrap();
    three.leave();
    drop(three);
    assert_eq!(running(), 1);
    drop(one);
    let refused = batch(5).await.unwrap_err();
    let NotAdmitted::TooMany { calls, concurrency, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((calls, concurrency, running()), (5, 4, 0));
    assert_eq!(batch(4).await.map(|_| running()).unwrap(), 4);
    assert_eq!(running(), 0);
}
