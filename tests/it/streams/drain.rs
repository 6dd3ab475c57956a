//! SIGTERM: what runs is finished, what stands ends in order, and then the process ends by itself.

use std::time::Duration;

use super::start;
use crate::harness::client::Client;
use crate::harness::duplex::Duplex;
use crate::harness::eventually;
use crate::harness::gateway::Setup;
use crate::harness::message::{self, META};
use crate::harness::recorder::{Gate, Recorder, Reply, Step};
use crate::harness::sse::End;
use crate::harness::wire::Conn;

#[tokio::test]
async fn a_drain_finishes_calls_and_ends_streams() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, mut gateway) = start("", move |seen| {
        if seen.tool() == "slow" {
            let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
            return Some(Reply::after(&held, Reply::json(answer)));
        }
        if seen.rpc() == "subscriptions/listen" {
            let params = r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":"sub"}}"#;
            let acknowledged =
                message::notification("notifications/subscriptions/acknowledged", params);
            let send = Step::Send(message::event(&acknowledged));
            return Some(Reply::Stream(vec![send, Step::Wait(Gate::new())]));
        }
        (seen.method == "GET").then(|| Reply::Stream(vec![Step::Wait(Gate::new())]))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut standing = client.get(None).await.stream();
    let params = format!(r#"{{"notifications":{{"toolsListChanged":true}},{META}}}"#);
    let body = message::request("\"sub\"", "subscriptions/listen", &params);
    let mut listening = Client::modern(&gateway).post(&body).await.stream();
    listening.message().await.expect("the acknowledgement");
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(1, "slow").await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;

    gateway.terminate();

    assert_eq!(standing.end().await, End::Clean);
    let completion = listening.message().await.expect("the completion result");
    assert_eq!(completion["id"], "sub", "{completion}");
    assert_eq!(completion["result"]["resultType"], "complete", "{completion}");
    assert_eq!(listening.end().await, End::Clean);
    assert!(!gateway.has_ended(), "the call is still running");
    gate.open();
    assert_eq!(call.await.unwrap()["id"], 1);
    assert!(gateway.ended().await.success());
}

/// A legacy client that has lost its connection comes back for the rest, or its call is to run to its end at
/// least.
#[tokio::test]
async fn a_drain_waits_for_a_call_whose_client_is_away() {
    let gate = Gate::new();
    let held = gate.clone();
    // So that it is soon seen that the client is gone.
    let (recorder, mut gateway) = start("streams: { keepalive: 1s }", move |seen| {
        // A client that closes before it has read all of it breaks the connection, and not only its half.
        let large = format!(r#"{{"level":"info","data":"{}"}}"#, "x".repeat(400_000));
        let large = message::event(&message::notification("notifications/message", &large));
        let steps = [Step::Send(large), Step::Wait(held.clone())];
        (seen.tool() == "slow").then(|| Reply::streamed(seen, steps))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.post(&message::call(1, "slow")).await.stream();
    stream.message().await.expect("what it says first");
    drop(stream);
    gateway.wait_metric("holdfast_streams", |now| now == 0.0).await;
    gateway.terminate();
    eventually("nobody is let in", || {
        std::net::TcpStream::connect(client.address).is_err().then_some(())
    })
    .await;
    // Whoever does not wait for it is gone by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!gateway.has_ended(), "the call is still running");
    gate.open();
    assert!(gateway.ended().await.success());
    assert_eq!(recorder.abandoned(), 0, "the server was left in the middle of its answer");
}

/// But not for one that gets no further without its client.
#[tokio::test]
async fn a_drain_does_not_wait_for_a_client_to_come_back() {
    for full in [false, true] {
        let gate = Gate::new();
        let held = gate.clone();
        let recorder = Recorder::scripted(move |seen| {
            if seen.tool() != "slow" {
                return None;
            }
            let log = |text: &str| {
                let params = format!(r#"{{"level":"info","data":"{text}"}}"#);
                message::notification("notifications/message", &params)
            };
            let mut steps = vec![Step::Send(message::event_with_id("one", &log("first")))];
            steps.push(Step::Wait(held.clone()));
            if full {
                // More than waits for a client, and than its connection takes before its end is seen.
                let large = message::event(&log(&"x".repeat(80_000)));
                steps.extend((0..100).map(|_| Step::Send(large.clone())));
                steps.push(Step::Wait(Gate::new()));
            }
            // The end before the answer: the client is to come back, and the rest is asked for then.
            Some(Reply::Stream(steps))
        })
        .await;
        let mut gateway = Setup::http(&recorder.url())
            .listen("drain_deadline: 5m")
            .section("limits: { stream_queue: 64KiB }")
            .start()
            .await;
        let client = Client::legacy(&gateway).initialized().await;
        let mut stream = client.post(&message::call(1, "slow")).await.stream();
        stream.message().await.expect("what it says first");
        drop(stream);
        gate.open();
        gateway.terminate();
        assert!(gateway.ended().await.success());
    }
}

/// A call that does not end is given up on at the deadline, with an answer.
#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let recorder = Recorder::scripted(|seen| {
        (seen.tool() == "slow").then(|| Reply::after(&Gate::new(), Reply::Cut))
    })
    .await;
    let mut gateway = Setup::http(&recorder.url()).listen("drain_deadline: 1s").start().await;
    let client = Client::legacy(&gateway).speaking("2025-06-18").initialized().await;
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call("\"w\"", "slow").await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    gateway.terminate();
    let response = call.await.unwrap();
    assert_eq!(response["id"], "w", "{response}");
    assert_eq!(response["error"]["code"], -31002, "{response}");
    assert!(gateway.ended().await.success());
}

/// Draining shows in readiness before it shows to clients.
#[tokio::test]
async fn a_draining_node_is_not_ready() {
    let (recorder, gateway) =
        start("", |seen| (seen.tool() == "slow").then(|| Reply::after(&Gate::new(), Reply::Cut)))
            .await;
    let client = Client::legacy(&gateway).speaking("2025-06-18").initialized().await;
    let mut calling = Conn::open(gateway.address).await;
    calling.send(client.request("POST", &[], Some(&message::call(1, "slow")))).await;
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    // A connection from before the drain: new ones may be refused.
    let mut asking = Conn::open(gateway.address).await;
    let ready = format!("GET /health/ready HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
    assert_eq!(asking.exchange(&ready).await.status, 200);
    gateway.terminate();
    let refused = crate::harness::within("readiness", async {
        loop {
            let Ok(stream) = tokio::net::TcpStream::connect(gateway.address).await else {
                return None;
            };
            let mut conn = Conn::over(stream);
            if !conn.try_send(&ready).await {
                return None;
            }
            match conn.answer().await {
                Some(answer) if answer.status == 200 => {}
                Some(answer) => return Some(answer.status),
                None => return None,
            }
        }
    })
    .await;
    assert!(refused.is_none_or(|status| status == 503), "{refused:?}");
}

/// The worker that closes the node's sessions waits for the calls of all the others.
#[tokio::test]
async fn a_drain_waits_for_the_calls_of_every_worker() {
    use crate::harness::sample::{ExecutionLog, stdio};
    let log = ExecutionLog::new();
    let mut gateway =
        Setup::new().server("main", &stdio(&log, "drain")).listen("workers: 8").start().await;
    let mut calls = Vec::new();
    for key in ["a", "b"] {
        let client = Client::legacy(&gateway).initialized().await;
        let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}","ms":1500}}}}"#);
        calls.push(tokio::spawn(async move { client.ask(1, "tools/call", &params).await }));
        eventually("the execution", || log.pid(key)).await;
    }
    gateway.terminate();
    for call in calls {
        let response = call.await.unwrap();
        assert!(response.get("result").is_some(), "{response}");
    }
    assert!(gateway.ended().await.success());
}

/// A connection that is no HTTP any more is drained like the others.
#[tokio::test]
async fn a_drain_finishes_what_runs_on_a_websocket() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, mut gateway) = start("", move |seen| {
        if seen.rpc() == "subscriptions/listen" {
            let params = r#"{"_meta":{"io.modelcontextprotocol/subscriptionId":"sub"}}"#;
            let acknowledged =
                message::notification("notifications/subscriptions/acknowledged", params);
            let send = Step::Send(message::event(&acknowledged));
            return Some(Reply::Stream(vec![send, Step::Wait(Gate::new())]));
        }
        let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::json(answer)))
    })
    .await;
    let mut duplex = Duplex::websocket(gateway.address, "/mcp").await;
    let params = format!(r#"{{"notifications":{{"toolsListChanged":true}},{META}}}"#);
    duplex.send(&message::request("\"sub\"", "subscriptions/listen", &params)).await;
    duplex.message().await.expect("the acknowledgement");
    duplex.send(&message::modern_call(1, "slow")).await;
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;

    gateway.terminate();

    let completion = duplex.message().await.expect("the completion result");
    assert_eq!(completion["id"], "sub", "{completion}");
    assert!(!gateway.has_ended(), "the call is still running");
    gate.open();
    let answer = duplex.message().await.expect("the answer");
    assert_eq!(answer["id"], 1, "{answer}");
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(duplex.message().await, None);
    assert!(gateway.ended().await.success());
}

/// The deadline holds for calls on every transport.
#[tokio::test]
async fn a_drain_answers_framed_clients_at_its_deadline() {
    for client in ["websocket", "sse"] {
        let recorder = Recorder::scripted(|seen| {
            (seen.tool() == "slow").then(|| Reply::after(&Gate::new(), Reply::Cut))
        })
        .await;
        let mut gateway = Setup::http(&recorder.url()).listen("drain_deadline: 1s").start().await;
        let mut duplex = match client {
            "sse" => Duplex::sse(gateway.address, "/sse").await,
            _ => Duplex::websocket(gateway.address, "/mcp").await,
        };
        duplex.ask(&message::initialize(message::LEGACY)).await;
        duplex.send(&message::call("\"w\"", "slow")).await;
        recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
        gateway.terminate();
        let response = duplex.message().await.expect("an answer");
        assert_eq!(response["id"], "w", "{client}: {response}");
        assert_eq!(response["error"]["code"], -31002, "{client}: {response}");
        assert!(gateway.ended().await.success());
    }
}
