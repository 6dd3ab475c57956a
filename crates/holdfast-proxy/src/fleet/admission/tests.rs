//! Places that are given back once, quarantines that end, and who goes first after that.

use std::task::{Context, Wake, Waker};

use futures_util::poll;
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::limits::bulkhead::HANGS;

use super::*;
use crate::fleet::testing::{fleet, late};
use crate::fleet::{At, Fleet, Verdict};

const USER: BulkheadClass = BulkheadClass::User;
const SECOND: Duration = Duration::from_secs(1);

fn with(bulkheads: &str) -> Arc<Fleet> {
    fleet(&text(bulkheads))
}

fn text(bulkheads: &str) -> String {
    format!(
        r#"servers: {{ one: {{ url: "http://127.0.0.1:1/mcp" }} }}
bulkheads: {{ {bulkheads} }}"#
    )
}

fn one(fleet: &Fleet) -> &Arc<ServerFleet> {
    fleet.server("one").unwrap()
}

async fn admit(server: &Arc<ServerFleet>, tool: u32) -> Result<Admitted, NotAdmitted> {
    server.admit_calls(1, USER, ToolKey(tool), late()).await
}

fn status(server: &ServerFleet, now: Instant) -> ClassStatus {
    let classes = server.gate.status(&server.name, now);
    classes.into_iter().find(|(class, _)| *class == USER).unwrap().1
}

/// So many calls of a tool entered then.
fn entered(server: &ServerFleet, tool: u32, calls: u32, then: Instant) {
    let mut state = server.gate.lock();
    for _ in 0..calls {
        assert_eq!(state.bulkheads.enter(id(USER), ToolKey(tool), then), Entry::Entered);
    }
}

/// A call that ends as soon as nobody listens any more for another one's turn.
struct EndsThen(Mutex<Option<Admitted>>);

impl Wake for EndsThen {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

/// It gives up, and what runs ends between its last two steps.
#[tokio::test]
async fn a_call_that_gives_up_while_it_is_let_in_gives_one_place_back() {
    let fleet = with("user: { concurrency: 2, queue: 5 }");
    let server = one(&fleet);
    let first = admit(server, 0).await.unwrap();
    let _second = admit(server, 0).await.unwrap();
    let ends = Arc::new(EndsThen(Mutex::new(Some(first))));
    {
        let mut waiting = std::pin::pin!(admit(server, 0));
        assert!(poll!(waiting.as_mut()).is_pending());
        let waker = Waker::from(Arc::clone(&ends));
        let mut state = server.gate.lock();
        let told = state.waiting.values_mut().next().expect("it waits");
        assert!(told.poll_closed(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(ends);
    assert_eq!(status(server, Instant::now()).running, 1, "the second one's place is its own");
}

/// Nobody calls any more: it ends all the same, for whoever looks.
#[test]
fn a_quarantine_ends_though_nobody_calls() {
    let fleet = with("quarantine: 30s, user: { concurrency: 4, queue: 0 }");
    let (server, now) = (one(&fleet), Instant::now());
    entered(server, 1, 4, now);
    entered(server, 2, 1, now + HANGS);
    assert_eq!(status(server, now + HANGS).quarantined, 1);
    let mut state = server.gate.lock();
    state.leave(id(USER), ToolKey(1), 4, false);
    state.leave(id(USER), ToolKey(2), 1, true);
    drop(state);
    assert_eq!(status(server, now + HANGS + 29 * SECOND).quarantined, 1);
    assert_eq!(status(server, now + HANGS + 31 * SECOND).quarantined, 0);
    assert_eq!(server.gate.lock().quarantined, [0; BulkheadClass::ALL.len()], "and it is logged");
}

/// Who waits was told for how long.
#[tokio::test]
async fn a_shorter_wait_is_for_those_who_come_after_it() {
    let before = with("user: { concurrency: 1, queue: 5, queue_timeout: 30s }");
    let held = admit(one(&before), 0).await.unwrap();
    let server = Arc::clone(one(&before));
    let mut waiting = std::pin::pin!(admit(&server, 0));
    assert!(poll!(waiting.as_mut()).is_pending());
    let shorter = text("user: { concurrency: 1, queue: 5, queue_timeout: 1ms }");
    let config = holdfast_config::parse(&shorter, "test", &|_| None).unwrap();
    let now = Instant::now() + SECOND;
    let after = Fleet::new(&config, Some(&before), |_| Arc::default(), now);
    after.begin(&before, now);
    assert_eq!(status(one(&after), now).waiting, 1);
    drop(held);
    assert!(waiting.await.is_ok());
}

/// They go at once: it takes no time to see that.
#[tokio::test]
async fn who_was_kept_out_goes_with_the_call_that_shows_it() {
    let fleet = with("user: { concurrency: 4, queue: 5 }");
    let (server, now) = (one(&fleet), Instant::now());
    entered(server, 1, 4, now - HANGS - SECOND);
    let mut waiting = std::pin::pin!(admit(server, 2));
    assert!(poll!(waiting.as_mut()).is_pending());
    std::thread::sleep(Duration::from_millis(100));
    let mut newcomer = std::pin::pin!(admit(server, 3));
    assert!(poll!(newcomer.as_mut()).is_ready() && poll!(waiting.as_mut()).is_ready());
}

/// While the server is poorly, each of a batch's calls is one of the background's quarter.
#[tokio::test]
async fn a_batch_of_the_background_has_no_more_than_a_quarter() {
    let fleet = with("background: { concurrency: 8, queue: 8 }");
    let server = one(&fleet);
    let batch = |calls| server.admit_calls(calls, BulkheadClass::Background, ToolKey(0), late());
    assert!(batch(3).await.is_ok());
    let verdict = Verdict { opinion: Some(Opinion::Degraded), score: 50, why: "test".into() };
    fleet.judge(At { server: 0, instance: 0 }, verdict);
    let refused = batch(3).await.unwrap_err();
    assert!(matches!(refused, NotAdmitted::Degraded { .. }), "{refused:?}");
    let two = batch(2).await.unwrap();
    assert!(batch(1).await.is_err());
    drop(two);
    assert!(batch(1).await.is_ok());
}

/// Those that wait when it becomes so are no exception.
#[tokio::test]
async fn who_waits_in_the_background_is_held_to_the_quarter() {
    let fleet = with("background: { concurrency: 8, queue: 8 }");
    let server = one(&fleet);
    let call = || server.admit_calls(1, BulkheadClass::Background, ToolKey(0), late());
    let judge = |opinion, score| {
        let verdict = Verdict { opinion: Some(opinion), score, why: "test".into() };
        fleet.judge(At { server: 0, instance: 0 }, verdict);
    };
    let mut running = Vec::new();
    for _ in 0..8 {
        running.push(call().await.unwrap());
    }
    let mut waiting = std::pin::pin!(call());
    let mut last = std::pin::pin!(call());
    assert!(poll!(waiting.as_mut()).is_pending() && poll!(last.as_mut()).is_pending());
    judge(Opinion::Degraded, 50);
    running.truncate(2);
    assert!(poll!(waiting.as_mut()).is_pending(), "two are a quarter");
    running.truncate(1);
    let one_more = poll!(waiting.as_mut());
    assert!(one_more.is_ready() && poll!(last.as_mut()).is_pending());
    // It is well again: so is whoever waits.
    judge(Opinion::Healthy, 90);
    assert!(poll!(last.as_mut()).is_ready());
}

/// A slow batch says nothing of what else is no tool.
#[test]
fn batches_and_what_is_no_tool_are_told_apart() {
    let fleet = with("");
    let server = one(&fleet);
    let keys = [server.shelf_of(None), server.shelf_of(Some("tool")), server.shelf_of_batch()];
    let keys = keys.map(|it| it.key);
    assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2], "{keys:?}");
    let off = with("quarantine: 0s");
    assert_eq!(one(&off).shelf_of_batch().key, one(&off).shelf_of(None).key);
}

/// Its repeats are a share of the calls that ask it something.
#[tokio::test]
async fn what_lasts_makes_no_room_for_repeats() {
    let fleet = with("user: { concurrency: 2000 }");
    let server = one(&fleet);
    let listens: Vec<_> = (0..1000).map(|_| server.let_in(true)).collect();
    assert_eq!(server.gate.repeats(), (0, 3));
    // One that is repeated all the same is counted, and its end is no call's.
    assert!(listens[0].may_repeat(1).is_ok());
    assert_eq!(server.gate.repeats(), (1, 3));
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(admit(server, 0).await.unwrap());
    }
    drop(listens);
    assert_eq!(server.gate.repeats().1, 20);
    drop(calls);
}

/// What stands in line before the queue, as after a failover's pause.
async fn late_in(server: &Arc<ServerFleet>, tool: u32) -> Result<Admitted, NotAdmitted> {
    server.admit_late(USER, ToolKey(tool), 1, late()).await
}

/// The place in the queue that it takes is free for the one that gave up, and nobody else comes or goes.
#[tokio::test]
async fn who_stands_before_the_queue_is_told_that_one_has_gone_from_it() {
    let fleet = with("quarantine: 0s, user: { concurrency: 1, queue: 1 }");
    let server = one(&fleet);
    let running = admit(server, 0).await.unwrap();
    let mut queued = Box::pin(admit(server, 0));
    assert!(poll!(queued.as_mut()).is_pending());
    let mut first = std::pin::pin!(late_in(server, 0));
    assert!(poll!(first.as_mut()).is_pending());
    let mut second = std::pin::pin!(late_in(server, 0));
    assert!(poll!(second.as_mut()).is_pending());
    drop(running);
    assert!(poll!(first.as_mut()).is_pending(), "in the queue");
    assert!(poll!(second.as_mut()).is_pending(), "before it");
    // It was let in and gives up before it hears of that.
    drop(queued);
    let _first = poll!(first.as_mut());
    assert!(poll!(second.as_mut()).is_pending());
    assert_eq!(server.gate.lock().waiting.len(), 1, "in the queue");
}

/// There is no queue in which somebody would see that.
#[tokio::test(start_paused = true)]
async fn who_stands_in_line_alone_sees_that_a_tool_hangs() {
    let fleet = with("quarantine: 30s, user: { concurrency: 4, queue: 0 }");
    let (server, now) = (one(&fleet), Instant::now());
    entered(server, 1, 4, now - HANGS + Duration::from_millis(50));
    let mut first = std::pin::pin!(late_in(server, 2));
    assert!(poll!(first.as_mut()).is_pending());
    std::thread::sleep(Duration::from_millis(100));
    tokio::time::advance(Duration::from_millis(300)).await;
    assert!(poll!(first.as_mut()).is_ready());
}
