//! A node that takes over another configuration while it serves: no call, stream or session is lost by
//! it, what is gone is said to be gone, and what cannot be taken over changes nothing.

mod servers;
mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Step};
use crate::harness::sample::Sample;
use crate::harness::wire::Conn;

fn url(sample: &Sample) -> String {
    format!("http://{}/mcp", sample.address)
}

fn write(id: &str, key: &str, ms: u32) -> String {
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}","ms":{ms}}}}}"#);
    message::request(format!("\"{id}\""), "tools/call", &params)
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    Conn::open(address).await.exchange(request).await.text()
}

/// Calls without a pause until it is told to end; how many had a result, and every answer that was none.
fn caller(
    client: Client,
    name: &'static str,
    over: &Arc<AtomicBool>,
) -> tokio::task::JoinHandle<(usize, Vec<Value>)> {
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let (mut good, mut bad) = (0, Vec::new());
        while !over.load(Ordering::Relaxed) {
            let id = format!("{name}-{good}");
            let answer = client.post(&write(&id, &id, 0)).await.response().await;
            assert_eq!(answer["id"], id, "{answer}");
            match answer.get("result") {
                Some(_) => good += 1,
                None => bad.push(answer),
            }
        }
        (good, bad)
    })
}

#[tokio::test]
async fn twenty_reloads_cost_no_call_no_stream_and_no_session() {
    let (one, two) = (Sample::start(&[]).await, Sample::start(&[]).await);
    let round = |number: usize| {
        let (a, b, more) = (url(&one), url(&two), number % 2);
        // Settings of every kind, and a server that comes and goes.
        let (first, second) = match more {
            0 => (format!(r#"{{ id: a, url: "{a}" }}"#), format!(r#"{{ id: b, url: "{b}" }}"#)),
            _ => (
                format!(r#"{{ id: b, url: "{b}", weight: 3 }}"#),
                format!(r#"{{ id: a, url: "{a}" }}"#),
            ),
        };
        let (timeout, keepalive) = (600 + number, 5 + more);
        let pair = format!(
            r#"{{ timeout: {timeout}s, tools: {{ write: {{ effect: write }} }}, instances: [ {first}, {second} ] }}"#
        );
        let setup = Setup::new()
            .section(&format!("streams: {{ commit_after: 100ms, keepalive: {keepalive}s }}"))
            .section(&format!("limits: {{ in_flight: {} }}", 5000 + number))
            .section(&format!("bulkheads: {{ user: {{ concurrency: {} }} }}", 100 + number))
            .server("pair", &pair);
        if more == 0 { setup } else { setup.server("other", &format!(r#"{{ url: "{a}" }}"#)) }
    };
    let mut gateway = round(0).start().await;
    let client = || Client::legacy(&gateway).at("/mcp/pair");
    let (steady, long) = (client().initialized().await, client().initialized().await);
    let over = Arc::new(AtomicBool::new(false));
    let callers =
        [caller(steady.clone(), "a", &over), caller(client().initialized().await, "b", &over)];
    let mut stream = long.post(&write("long", "long", 600_000)).await.stream();
    let executed = || one.executions("write", "long") + two.executions("write", "long");
    eventually("the long call runs", || (executed() == 1).then_some(())).await;
    for number in 1..=20 {
        let next = round(number);
        assert!(gateway.reconfigure(next).await, "reload {number}:\n{}", gateway.log());
    }
    over.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for running in callers {
        let (good, bad) = running.await.unwrap();
        assert!(bad.is_empty(), "{} of {} calls failed: {:?}", bad.len(), good + bad.len(), bad[0]);
        calls += good;
    }
    assert!(calls >= 20, "{calls} calls");
    // The one that began before the first of them still runs, at the server that it began at.
    assert_eq!(executed(), 1, "it ran again");
    let cancelled = message::notification("notifications/cancelled", r#"{"requestId":"long"}"#);
    assert_eq!(long.post(&cancelled).await.answer().status, 202);
    let last = stream.find("its end", |message| message["id"] == "long").await;
    assert!(last.get("error").is_some() || last.get("result").is_some(), "{last}");
    assert_eq!(gateway.metric("holdfast_sessions_restored_total").await, 0.0);
    assert_eq!(steady.call(1, "echo").await["id"], 1);
}

#[tokio::test]
async fn a_call_in_flight_ends_with_the_settings_under_which_it_began() {
    let gate = Gate::new();
    let held = gate.clone();
    let recorder = Recorder::scripted(move |seen| {
        let answer = message::result(seen.id(), r#"{"content":[]}"#);
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::json(answer)))
    })
    .await;
    let setup = |timeout: &str, header: &str| {
        let url = recorder.url();
        Setup::new().server(
            "main",
            &format!(r#"{{ url: "{url}", timeout: {timeout}, headers: {{ x-key: {header} }} }}"#),
        )
    };
    let mut gateway = setup("10m", "first").start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(1, "slow").await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    assert!(gateway.reconfigure(setup("1s", "second")).await);
    // A call that begins now is given less time, and the new credential.
    let late = client.call(2, "slow").await;
    assert_eq!(late["error"]["code"], -31005, "{late}");
    let keys: Vec<_> =
        recorder.calls("slow").iter().map(|seen| seen.header("x-key").map(str::to_owned)).collect();
    assert_eq!(keys, [Some("first".to_owned()), Some("second".to_owned())]);
    gate.open();
    let answer = running.await.unwrap();
    assert!(answer.get("result").is_some(), "{answer}");
}

#[tokio::test]
async fn limits_hold_from_the_next_call_on() {
    let recorder = Recorder::start().await;
    let setup = |limits: &str| Setup::http(&recorder.url()).section(limits);
    let mut gateway = setup("limits: {}").start().await;
    let client = Client::modern(&gateway);
    for id in 0..5 {
        assert!(client.call(id, "tool").await.get("result").is_some());
    }
    assert!(gateway.reconfigure(setup("limits: { requests_per_minute: 1, burst: 1 }")).await);
    assert!(client.call(6, "tool").await.get("result").is_some());
    let refused = client.call(7, "tool").await;
    assert_eq!(refused["error"]["code"], -31003, "{refused}");
    assert!(gateway.reconfigure(setup("limits: { body: 1KiB }")).await);
    assert!(client.call(8, "tool").await.get("result").is_some());
    let large = format!(r#"{{"name":"{}","arguments":{{}}}}"#, "x".repeat(2000));
    let answer = client.post(&message::request(9, "tools/call", &large)).await.answer();
    assert_eq!(answer.status, 413, "{}", answer.text());
}

#[tokio::test]
async fn keys_that_are_taken_out_open_nothing_any_more() {
    let recorder = Recorder::start().await;
    let key =
        |principal: &str, digest: &str| format!("{{ principal: {principal}, sha256: {digest} }}");
    let setup = |keys: &[String]| {
        Setup::http(&recorder.url()).section(&format!("auth: {{ keys: [ {} ] }}", keys.join(", ")))
    };
    // Of `alice-key-one` and `bob-key-one`.
    let alice = key("alice", "9ed640183e3b3b77fe8db34e151b54cb8895cdfa4be23c9d56c2f5735a057610");
    let bob = key("bob", "b714c4186a91a889fe7e99a025340982d5dd0b81e1e0dedf8aab52b45ea50089");
    let mut gateway = setup(std::slice::from_ref(&alice)).start().await;
    let as_alice = Client::legacy(&gateway).with("X-API-Key", "alice-key-one");
    let as_bob = Client::legacy(&gateway).with("X-API-Key", "bob-key-one");
    let session = as_alice.clone().initialized().await;
    assert_eq!(as_bob.initialize().await.status, 401);
    assert!(gateway.reconfigure(setup(&[alice, bob.clone()])).await);
    assert!(session.call(1, "tool").await.get("result").is_some());
    let bobs = as_bob.initialized().await;
    assert!(gateway.reconfigure(setup(&[bob])).await);
    let refused = session.post(&message::call(2, "tool")).await.answer();
    assert_eq!(refused.status, 401, "{}", refused.text());
    assert!(bobs.call(3, "tool").await.get("result").is_some());
}

/// The same on one connection, which keeps what its last head meant: under the configuration of that time.
#[tokio::test]
async fn what_a_connection_knows_of_its_client_ends_with_the_configuration() {
    let recorder = Recorder::start().await;
    // Of `alice-key-one` and `bob-key-one`.
    let alice = "{ principal: alice, sha256: 9ed640183e3b3b77fe8db34e151b54cb8895cdfa4be23c9d56c2f5735a057610 }";
    let bob = "{ principal: bob, sha256: b714c4186a91a889fe7e99a025340982d5dd0b81e1e0dedf8aab52b45ea50089 }";
    let setup = |key: &str, header: &str| {
        let settings = format!("{{ url: {}, headers: {{ X-Which: {header} }} }}", recorder.url());
        let setup = Setup::new().server("only", &settings);
        setup.section(&format!("auth: {{ keys: [ {key} ] }}"))
    };
    let mut gateway = setup(alice, "one").start().await;
    let client = Client::modern(&gateway).with("X-API-Key", "alice-key-one");
    let mut conn = Conn::open(gateway.address).await;
    let mut call = async |id: usize| {
        let body = message::modern_call(id, "tool");
        conn.exchange(client.request("POST", &[], Some(&body))).await.status
    };
    for id in 0..5 {
        assert_eq!(call(id).await, 200);
    }
    assert!(gateway.reconfigure(setup(alice, "two")).await);
    for id in 5..10 {
        assert_eq!(call(id).await, 200);
    }
    let which: Vec<_> =
        recorder.calls("tool").iter().map(|it| it.header("x-which").map(str::to_owned)).collect();
    let (one, two) = (Some("one".to_owned()), Some("two".to_owned()));
    assert_eq!(which, [vec![one; 5], vec![two; 5]].concat());
    assert!(gateway.reconfigure(setup(bob, "two")).await);
    for id in 10..15 {
        assert_eq!(call(id).await, 401);
    }
    assert!(gateway.reconfigure(setup(alice, "two")).await);
    assert_eq!(call(15).await, 200);
    assert_eq!(recorder.calls("tool").len(), 11);
}

#[tokio::test]
async fn what_cannot_be_taken_over_changes_nothing() {
    let recorder = Recorder::start().await;
    let setup = || Setup::http(&recorder.url());
    let mut gateway = setup().start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let other = Recorder::start().await;
    let elsewhere = |section: &str| Setup::http(&other.url()).section(section);
    // One setting that needs a restart among others that do not: none is taken.
    assert!(!gateway.reconfigure(elsewhere("node: { id: another }")).await);
    let log = gateway.log();
    assert!(log.contains("a running node cannot change node.id from"), "{log}");
    assert!(log.contains("restart the nodes with the new file one after another"), "{log}");
    // Not a configuration: every problem of it is told.
    assert!(!gateway.reconfigure(elsewhere("limits: { bdoy: 1, sessions: -1 }")).await);
    let log = gateway.log();
    assert!(log.contains("limits.bdoy") && log.contains("limits.sessions"), "{log}");
    assert!(!gateway.reload_text("servers: [").await);
    assert!(client.call(1, "tool").await.get("result").is_some());
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_standing_stream_stays_open_over_a_reload() {
    let gate = Gate::new();
    let held = gate.clone();
    let recorder = Recorder::scripted(move |seen| {
        let changed = message::notification("notifications/tools/list_changed", "{}");
        (seen.method == "GET").then(|| {
            Reply::Stream(vec![
                Step::Wait(held.clone()),
                Step::Send(message::event(&changed)),
                Step::Wait(Gate::new()),
            ])
        })
    })
    .await;
    let mut gateway = Setup::http(&recorder.url()).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.get(None).await.stream();
    recorder.wait_for("the stream at the server", 1, |seen| seen.method == "GET").await;
    for number in 1..=3 {
        let next = Setup::http(&recorder.url())
            .section(&format!("retry_budget: {{ at_least: {} }}", 3 + number));
        assert!(gateway.reconfigure(next).await);
    }
    gate.open();
    let told = stream.message().await.expect("the stream goes on");
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(recorder.seen().iter().filter(|seen| seen.method == "GET").count(), 1);
}
