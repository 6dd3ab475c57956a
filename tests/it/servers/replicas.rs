//! One of two replicas is bad: Reads have their results all the same, Writes run at most once, and the
//! bad one is left alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::process::binary;
use crate::harness::recorder::{Feed, Gate, Recorder, Reply, Seen, Step};
use crate::harness::sample::Sample;

use super::{calls, faulty, pair, reads, write};

const READS: &str = ", tools: { echo: read }";

async fn start(fault: &str, settings: &str) -> (Sample, Sample, Gateway) {
    let (good, bad) = (Sample::start(&[]).await, faulty(fault).await);
    let settings = pair(&good, &bad, &format!("{READS}{settings}"));
    let gateway = Setup::new().server("main", &settings).start().await;
    (good, bad, gateway)
}

/// What the clients of a server with one bad replica see.
async fn reads_succeed(fault: &str, settings: &str) -> Gateway {
    let (_good, _bad, gateway) = start(fault, settings).await;
    let made = calls().div_ceil(8) * 8;
    let (good, first_bad) = reads(&Client::modern(&gateway), calls()).await;
    let share = good as f64 / made as f64;
    assert!(share >= 0.9998, "{good} of {made} with {fault}: {first_bad:?}");
    gateway
}

#[tokio::test]
async fn that_answers_nothing_but_500() {
    let gateway = reads_succeed(r#"{"kind":"status","status":500}"#, "").await;
    // What reached it: what was under way when it began, and hardly anything since, since who fails
    // fast is taken for slow, and who fails five times in a row is left alone.
    let repeated =
        gateway.metric(r#"holdfast_server_attempts_repeated_total{server_id="main"}"#).await;
    assert!((1.0..=30.0).contains(&repeated), "{repeated}");
}

#[tokio::test]
async fn that_answers_garbage_or_half_of_it_or_resets() {
    for fault in [r#"{"kind":"garbage"}"#, r#"{"kind":"half_body"}"#, r#"{"kind":"reset"}"#] {
        reads_succeed(fault, "").await;
    }
}

#[tokio::test]
async fn that_asks_for_fewer_calls() {
    reads_succeed(r#"{"kind":"status","status":429,"retry_after":30}"#, "").await;
}

/// A Read that hangs is taken elsewhere once its instance is known to hang.
#[tokio::test]
async fn that_hangs() {
    let settings = ", breaker: { slow_call: 1s, consecutive_failures: 3 }";
    reads_succeed(r#"{"kind":"hang"}"#, settings).await;
}

/// Few calls that hang open no breaker, and their clients have their results all the same.
#[tokio::test]
async fn that_hangs_and_meets_few_calls() {
    let settings = ", breaker: { slow_call: 1s }, timeout: 20s, balance: { strategy: round_robin }";
    let (_good, _bad, gateway) = start(r#"{"kind":"hang"}"#, settings).await;
    let client = Client::modern(&gateway);
    for id in 0..4 {
        let answer = client.call(id, "echo").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    let repeated =
        gateway.metric(r#"holdfast_server_attempts_repeated_total{server_id="main"}"#).await;
    assert!(repeated >= 1.0, "{repeated}");
    let closed = r#"holdfast_breaker_state{server_id="main",instance="b",state="closed"}"#;
    assert_eq!(gateway.metric(closed).await, 1.0);
}

#[tokio::test]
async fn that_is_gone() {
    let (good, mut gone) = (Sample::start(&[]).await, Sample::start(&[]).await);
    gone.kill();
    let gateway = Setup::new().server("main", &pair(&good, &gone, READS)).start().await;
    let made = calls().div_ceil(8) * 8;
    assert_eq!(reads(&Client::modern(&gateway), calls()).await, (made, None));
    // It comes back without a pause of its own making.
    gone.restart().await;
    let away = r#"holdfast_instance_unreachable{server_id="main",instance="b"}"#;
    gateway.wait_metric(away, |away| away == 0.0).await;
}

/// Whatever becomes of a Write, it does not run twice.
#[tokio::test]
async fn that_fails_writes_after_it_ran_them() {
    let rule = r#"{"method":"tools/call","tool":"write","always":true,"execute":true,"fault":{"kind":"reset"}}"#;
    let (good, bad) = (Sample::start(&[]).await, Sample::start(&["--behaviour", rule]).await);
    let gateway = Setup::new().server("main", &pair(&good, &bad, "")).start().await;
    let client = Client::modern(&gateway);
    let (mut ran, mut unknown) = (0, 0);
    for number in 0..60 {
        let key = format!("w{number}");
        let answer = client.post(&write(number, &key)).await.response().await;
        let executions = good.executions("write", &key) + bad.executions("write", &key);
        match answer["error"]["code"].as_i64() {
            None => ran += 1,
            Some(code) => {
                assert_eq!(code, -31002, "{answer}");
                unknown += 1;
            }
        }
        assert_eq!(executions, 1, "{answer}");
    }
    assert!(ran >= 40, "{ran}");
    assert!((1..=10).contains(&unknown), "it opens after five: {unknown}");
}

/// The other servers' calls do not meet any of it.
#[tokio::test]
async fn beside_a_server_that_is_well() {
    let (good, bad) = (Sample::start(&[]).await, faulty(r#"{"kind":"hang"}"#).await);
    let well = format!(r#"{{ url: "http://{}/mcp", tools: {{ echo: read }} }}"#, good.address);
    let hung = format!(r#"{{ url: "http://{}/mcp", tools: {{ echo: read }} }}"#, bad.address);
    let gateway = Setup::new()
        .server("well", &well)
        .server("hung", &hung)
        .section("bulkheads: { user: { concurrency: 8, queue: 8, queue_timeout: 20s } }")
        .start()
        .await;
    let hanging: Vec<_> = (0..16)
        .map(|id| {
            let client = Client::modern(&gateway).at("/mcp/hung");
            tokio::spawn(async move { client.call(id, "echo").await })
        })
        .collect();
    let waits = r#"holdfast_bulkhead_waiting{server_id="hung",class="user"}"#;
    gateway.wait_metric(waits, |waiting| waiting == 8.0).await;
    // One more is refused at once, and the calls of the other server have all their room.
    let refused = Client::modern(&gateway).at("/mcp/hung").call(99, "echo").await;
    assert_eq!(refused["error"]["code"], -31003, "{refused}");
    assert_eq!(refused["error"]["data"]["mayHaveRun"], false, "{refused}");
    assert!(refused["error"]["data"]["retryAfterMs"].as_u64().is_some(), "{refused}");
    let client = Client::modern(&gateway).at("/mcp/well");
    let made = 64;
    assert_eq!(reads(&client, made).await, (made, None));
    drop(hanging);
}

/// A session whose instance dies goes on at the other one, and its client is told what that means.
#[tokio::test]
async fn with_a_session_at_the_one_that_dies() {
    let (mut a, mut b) = (Sample::start(&[]).await, Sample::start(&[]).await);
    let gateway = Setup::new().server("main", &pair(&a, &b, READS)).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut standing = client.get(None).await.stream();
    let first = client.call(1, "whoami").await;
    assert!(first.get("result").is_some(), "{first}");
    // Whichever it is: the other one is there.
    let in_flight = |id: &str| format!(r#"holdfast_sessions_moved_total{{server_id="{id}"}}"#);
    let before = gateway.metric(&in_flight("main")).await;
    a.kill();
    let after_a = client.call(2, "echo").await;
    assert!(after_a.get("result").is_some(), "{after_a}");
    let mut moved = after_a;
    if gateway.metric(&in_flight("main")).await == before {
        a.restart().await;
        b.kill();
        moved = client.call(3, "echo").await;
    }
    let note = &moved["result"]["_meta"]["io.holdfast/session"];
    assert_eq!(note["stateLost"], true, "{moved}");
    assert_ne!(note["movedFrom"], note["movedTo"], "{moved}");
    let told = standing.find("the note", |it| it["method"] == "notifications/message").await;
    assert_eq!(told["params"]["data"]["session"], *note, "{told}");
    // Once is enough.
    let next = client.call(4, "echo").await;
    assert!(next["result"]["_meta"].get("io.holdfast/session").is_none(), "{next}");
}

/// A client that listens and calls nothing hears the new primary after a failover, not only once it calls.
#[tokio::test]
async fn with_a_client_that_only_listens_to_the_one_that_is_left() {
    let speaks = |who: &'static str| {
        let feed = Feed::new();
        let said = feed.clone();
        let reply = move |seen: &Seen| {
            let follow = Step::Follow(said.clone(), 0);
            (seen.method == "GET").then(|| Reply::Stream(vec![follow]))
        };
        feed.say(message::event(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":"{who}"}}}}"#
        )));
        (feed, reply)
    };
    let ((_a_says, a), (_b_says, b)) = (speaks("a speaks"), speaks("b speaks"));
    let (a, b) = (Recorder::scripted(a).await, Recorder::scripted(b).await);
    let settings = format!(
        "{{ instances: [ {{ id: a, role: primary, url: \"{}\" }}, {{ id: b, role: secondary, url: \"{}\" }} ], \
         health: {{ interval: 500ms, timeout: 500ms, retries: 0, checks: [ {{ type: connect }} ] }} }}",
        a.url(),
        b.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut standing = client.get(None).await.stream();
    let from = |who: &'static str| move |it: &serde_json::Value| it["params"]["data"] == who;
    standing.find("the primary", from("a speaks")).await;
    let well = r#"holdfast_control_instance_verdict{server="main",instance="b"}"#;
    gateway.wait_metric(well, |verdict| verdict == 0.0).await;
    let admin = gateway.admin.to_string();
    let order = move || {
        let mut command = std::process::Command::new(binary());
        command.args(["failover", "main", "--to", "b", "--yes", "--admin", &admin]).output()
    };
    let ordered = tokio::task::spawn_blocking(order).await.expect("no panic").expect("its output");
    assert!(ordered.status.success(), "{}", String::from_utf8_lossy(&ordered.stderr));
    standing.find("the new primary", from("b speaks")).await;
    let opened = |it: &Recorder| it.seen().iter().filter(|seen| seen.rpc() == "initialize").count();
    assert_eq!((opened(&a), opened(&b)), (1, 1));
}

/// What a running call meets whose session is being ended says nothing about its server.
#[tokio::test]
async fn with_sessions_that_end_in_the_middle_of_their_calls() {
    // When the server is asked to end the session, and when it has.
    let gates = || (Gate::new(), Gate::new());
    let now = Arc::new(Mutex::new(gates()));
    let present = Arc::clone(&now);
    let recorder = Recorder::scripted(move |seen| {
        let (asked, ended) = present.lock().expect("nobody panics").clone();
        if seen.method == "DELETE" {
            // A server that ends a session cuts its calls first.
            asked.open();
            return Some(Reply::after(&ended, Reply::Status(200)));
        }
        (seen.tool() == "slow").then(|| Reply::after(&asked, Reply::Cut))
    })
    .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    for number in 1..=8 {
        let (asked, ended) = gates();
        *now.lock().expect("nobody panics") = (asked, ended.clone());
        let client = Client::legacy(&gateway).initialized().await;
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(1, "slow").await });
        eventually("the call", || (recorder.calls("slow").len() >= number).then_some(())).await;
        let deleting = tokio::spawn(async move { client.delete().await });
        let answer = call.await.expect("an answer");
        assert_eq!(answer["error"]["code"], -31002, "{answer}");
        ended.open();
        deleting.await.expect("the session has ended");
    }
    let closed = r#"holdfast_breaker_state{server_id="main",instance="1",state="closed"}"#;
    assert_eq!(gateway.metric(closed).await, 1.0);
    let client = Client::legacy(&gateway).initialized().await;
    let answer = client.call(1, "quick").await;
    assert!(answer.get("result").is_some(), "{answer}");
}

/// A gateway before two that allows three repeats at once and opens no breaker.
async fn sparing(one: &Recorder, other: &Recorder) -> Gateway {
    let settings = format!(
        r#"{{ instances: [ {{ id: a, url: "{}" }}, {{ id: b, url: "{}" }} ], tools: {{ look: read }},
             breaker: {{ consecutive_failures: 15, failure_rate: 1 }} }}"#,
        one.url(),
        other.url()
    );
    Setup::new()
        .server("main", &settings)
        .section("retry_budget: { share: 0, at_least: 3 }")
        .start()
        .await
}

/// So many Reads side by side.
fn looks(gateway: &Gateway, many: usize) -> Vec<tokio::task::JoinHandle<serde_json::Value>> {
    let client = Client::modern(gateway);
    let call = |id| {
        let client = client.clone();
        tokio::spawn(async move { client.call(id, "look").await })
    };
    (0..many).map(call).collect()
}

/// So many repeats at once, and no more: the others wait for a while and end as their first attempt did.
#[tokio::test]
async fn repeats_are_no_more_than_their_budget() {
    let (gate, seen) = (Gate::new(), Arc::new(Mutex::new(BTreeSet::new())));
    let server = || {
        let (gate, seen) = (gate.clone(), Arc::clone(&seen));
        Recorder::scripted(move |call: &Seen| {
            if call.tool() != "look" {
                return None;
            }
            // The first sending of each call fails, and the second one hangs.
            Some(match seen.lock().unwrap().insert(call.id()) {
                true => Reply::refused(500, String::new()),
                false => Reply::after(
                    &gate,
                    Reply::json(message::result(call.id(), r#"{"content":[]}"#)),
                ),
            })
        })
    };
    let (one, other) = (server().await, server().await);
    let gateway = sparing(&one, &other).await;
    let calls = looks(&gateway, 8);
    let denied = r#"holdfast_repeats_denied_total{server_id="main"}"#;
    gateway.wait_metric(denied, |it| it == 5.0).await;
    assert_eq!(one.calls("look").len() + other.calls("look").len(), 8 + 3);
    gate.open();
    let mut good = 0;
    for call in calls {
        let answer = call.await.unwrap();
        good += usize::from(answer.get("result").is_some());
    }
    assert_eq!(good, 3);
}

/// One that is being answered takes nobody's place, however long it streams.
#[tokio::test]
async fn a_repeat_that_has_begun_leaves_its_place_in_the_budget() {
    let (gate, seen) = (Gate::new(), Arc::new(Mutex::new(BTreeSet::new())));
    let server = || {
        let (gate, seen) = (gate.clone(), Arc::clone(&seen));
        Recorder::scripted(move |call: &Seen| {
            // The first sending of each call fails, and the second one begins and goes on for long.
            (call.tool() == "look").then(|| match seen.lock().unwrap().insert(call.id()) {
                true => Reply::refused(500, String::new()),
                false => Reply::streamed(call, [Step::Wait(gate.clone())]),
            })
        })
    };
    let (one, other) = (server().await, server().await);
    let gateway = sparing(&one, &other).await;
    let calls = looks(&gateway, 5);
    // Three in a second or two, and these are no more under way after that.
    eventually("every call's second sending", || {
        (one.calls("look").len() + other.calls("look").len() == 5 + 5).then_some(())
    })
    .await;
    gate.open();
    for call in calls {
        let answer = call.await.unwrap();
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(gateway.metric(r#"holdfast_repeats_denied_total{server_id="main"}"#).await, 0.0);
}

/// Three Reads of each of these sessions have their results.
async fn threes(clients: &[Client], first: usize) {
    for (number, client) in clients.iter().enumerate() {
        for read in 0..3 {
            let answer = client.call(first + number * 3 + read, "echo").await;
            assert!(answer.get("result").is_some(), "session {number}, Read {read}: {answer}");
        }
    }
}

/// It takes its calls back bit by bit, and no session pays for that: neither one that was opened there by its share, nor
/// one that has been there since before it failed.
#[tokio::test]
async fn that_recovers_refuses_no_session_a_call() {
    let failing = Arc::new(AtomicBool::new(false));
    let failing_now = || {
        let fails = Arc::clone(&failing);
        Recorder::scripted(move |seen| {
            let fails = fails.load(Ordering::SeqCst) && seen.rpc() == "tools/call";
            fails.then(|| Reply::refused(500, String::new()))
        })
    };
    let (a, b, c) = (Recorder::start().await, failing_now().await, failing_now().await);
    let both = || {
        (
            b.calls("echo").len() + c.calls("echo").len(),
            b.rpc("initialize").len() + c.rpc("initialize").len(),
        )
    };
    let settings = format!(
        r#"{{ instances: [ {{ id: a, url: "{}" }}, {{ id: b, url: "{}" }}, {{ id: c, url: "{}" }} ],
            tools: {{ echo: read }}, balance: {{ strategy: round_robin }}, breaker: {{ open_for: 1s, probe_interval: 100ms }} }}"#,
        a.url(),
        b.url(),
        c.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let mut old = Vec::new();
    for _ in 0..12 {
        old.push(Client::legacy(&gateway).initialized().await);
    }
    assert!(both().1 > 4);
    failing.store(true, Ordering::SeqCst);
    let state = |instance: &str, state: &str| {
        format!(
            r#"holdfast_breaker_state{{server_id="main",instance="{instance}",state="{state}"}}"#
        )
    };
    let (mut b_open, mut c_open) = (false, false);
    let modern = Client::modern(&gateway);
    for id in 0.. {
        let answer = modern.call(id, "echo").await;
        assert!(answer.get("result").is_some(), "{answer}");
        b_open |= gateway.metric(&state("b", "open")).await == 1.0;
        c_open |= gateway.metric(&state("c", "open")).await == 1.0;
        if b_open && c_open {
            break;
        }
    }
    failing.store(false, Ordering::SeqCst);
    for instance in ["b", "c"] {
        gateway.wait_metric(&state(instance, "open"), |open| open == 0.0).await;
    }
    let (before, opened) = both();
    let mut new = Vec::new();
    for number in 0..30 {
        let client = Client::legacy(&gateway).initialized().await;
        threes(std::slice::from_ref(&client), 2000 + number * 3).await;
        new.push(client);
    }
    let (calls, opened) = (both().0 - before, both().1 - opened);
    assert!(opened > 0, "none was opened there, which would show that they are well");
    assert_eq!(calls, 3 * opened, "each stayed there");
    threes(&old, 4000).await;
    threes(&new, 5000).await;
    assert_eq!(gateway.metric(&state("b", "closed")).await, 0.0, "it takes its time");
}
