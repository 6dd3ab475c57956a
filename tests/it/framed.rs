//! Clients whose connection is their session: what one message does must not hold up the others.

use crate::harness::client::Client;
use crate::harness::duplex::Duplex;
use crate::harness::eventually;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen, Step};

const MALFORMED: usize = 2000;

/// More than the connection runs at once.
const CALLS: usize = 300;

/// Refusals of what nobody reads yet must not stop the gateway from writing what it has.
#[tokio::test]
async fn a_client_may_write_much_before_it_reads() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut duplex = Duplex::websocket(gateway.address, "/mcp").await;
    for _ in 0..MALFORMED {
        duplex.send("{").await;
    }
    duplex.send(&message::modern_call("\"last\"", "echo")).await;
    let mut refused = 0;
    loop {
        let message = duplex.message().await.expect("the connection stays open");
        if message["id"] == "last" {
            break;
        }
        assert_eq!(message["error"]["code"], -32700, "{message}");
        refused += 1;
    }
    assert_eq!(refused, MALFORMED);
}

/// A call that runs may be waiting for the message behind one that waits for its turn.
#[tokio::test]
async fn calls_that_wait_do_not_hold_up_other_messages() {
    let gate = Gate::new();
    let held = gate.clone();
    let recorder = Recorder::scripted(move |seen| {
        (seen.tool() == "slow").then(|| {
            let progress = r#"{"progressToken":"p","progress":1}"#;
            let progress = message::notification("notifications/progress", progress);
            let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
            Reply::Stream(vec![
                Step::Send(message::event(&progress)),
                Step::Wait(held.clone()),
                Step::Send(message::event(&answer)),
            ])
        })
    })
    .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut duplex = Duplex::websocket(gateway.address, "/mcp").await;
    let opened = duplex.ask(&message::initialize(message::LEGACY)).await;
    assert!(opened.get("result").is_some(), "{opened}");
    for id in 0..CALLS {
        duplex.send(&message::call(id, "slow")).await;
    }
    duplex.send(&message::notification("notifications/roots/list_changed", "{}")).await;
    let behind = |seen: &Seen| seen.rpc() == "notifications/roots/list_changed";
    recorder.wait_for("the message behind the calls", 1, behind).await;
    assert!(recorder.calls("slow").len() < CALLS, "some calls were to wait");
    gate.open();
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < CALLS {
        let message = duplex.message().await.expect("the connection stays open");
        if let Some(id) = message["id"].as_u64() {
            assert!(message.get("result").is_some(), "{message}");
            assert!(answered.insert(id), "answered twice: {message}");
        }
    }
}

/// A call that has not had its turn is cancelled without its server's help, and never sent.
#[tokio::test]
async fn a_waiting_call_that_is_cancelled_is_never_sent() {
    let gate = Gate::new();
    let held = gate.clone();
    let recorder = Recorder::scripted(move |seen| {
        let answer = message::result(seen.id(), r#"{"content":[]}"#);
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::json(answer)))
    })
    .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut duplex = Duplex::websocket(gateway.address, "/mcp").await;
    let opened = duplex.ask(&message::initialize(message::LEGACY)).await;
    assert!(opened.get("result").is_some(), "{opened}");
    for id in 0..256 {
        duplex.send(&message::call(id, "slow")).await;
    }
    duplex.send(&message::call(1000, "taken_back")).await;
    let params = r#"{"requestId":1000}"#;
    duplex.send(&message::notification("notifications/cancelled", params)).await;
    duplex.send(&message::notification("notifications/roots/list_changed", "{}")).await;
    let behind = |seen: &Seen| seen.rpc() == "notifications/roots/list_changed";
    recorder.wait_for("the message behind it", 1, behind).await;
    gate.open();
    for _ in 0..256 {
        let message = duplex.message().await.expect("the connection stays open");
        assert_ne!(message["id"], 1000, "{message}");
    }
    let last = duplex.ask(&message::call("\"last\"", "echo")).await;
    assert!(last.get("result").is_some(), "{last}");
    assert!(recorder.calls("taken_back").is_empty());
    assert!(recorder.rpc("notifications/cancelled").is_empty());
}

#[tokio::test]
async fn an_initialize_that_nobody_answers_is_answered() {
    for client in ["websocket", "sse"] {
        let recorder = Recorder::scripted(|seen| {
            (seen.rpc() == "initialize").then(|| Reply::after(&Gate::new(), Reply::Cut))
        })
        .await;
        let settings = format!(r#"{{ url: "{}", timeout: 1s }}"#, recorder.url());
        let gateway = Setup::new().server("main", &settings).start().await;
        let mut duplex = match client {
            "sse" => Duplex::sse(gateway.address, "/sse").await,
            _ => Duplex::websocket(gateway.address, "/mcp").await,
        };
        let response = duplex.ask(&message::initialize(message::LEGACY)).await;
        assert_eq!(response["error"]["code"], -31005, "{client}: {response}");
    }
}

/// The open connection is the session's use, whether or not anything is said on it.
#[tokio::test]
async fn a_quiet_connection_keeps_its_session() {
    let recorder = Recorder::scripted(|seen| {
        (seen.method == "GET").then(|| Reply::refused(405, String::new()))
    })
    .await;
    let gateway = Setup::http(&recorder.url()).section("sessions: { ttl: 10s }").start().await;
    let mut framed = [
        Duplex::sse(gateway.address, "/sse").await,
        Duplex::websocket(gateway.address, "/mcp").await,
    ];
    for duplex in &mut framed {
        duplex.ask(&message::initialize(message::LEGACY)).await;
    }
    let kept = recorder.live_sessions();
    // A younger session of a client without a connection expires before they are asked about.
    let _other = Client::legacy(&gateway).initialized().await;
    assert_eq!(recorder.live_sessions().len(), kept.len() + 1);
    gateway.wait_metric("holdfast_sessions_expired_total", |expired| expired >= 1.0).await;
    eventually("the end of the other session", || {
        (recorder.live_sessions().len() <= kept.len()).then_some(())
    })
    .await;
    assert_eq!(recorder.live_sessions(), kept);
    for duplex in &mut framed {
        let answer = duplex.ask(&message::call(1, "echo")).await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(recorder.rpc("initialize").len(), kept.len() + 1);
}

/// Where no answer may be given, the connection ends as it does for an HTTP client.
#[tokio::test]
async fn a_discover_that_cannot_be_answered_closes_the_connection() {
    for client in ["websocket", "sse"] {
        let recorder =
            Recorder::scripted(|seen| (seen.rpc() == "server/discover").then_some(Reply::Cut))
                .await;
        let gateway = Setup::http(&recorder.url()).start().await;
        let mut duplex = match client {
            "sse" => Duplex::sse(gateway.address, "/sse").await,
            _ => Duplex::websocket(gateway.address, "/mcp").await,
        };
        let params = format!("{{{}}}", message::META);
        duplex.send(&message::request(1, "server/discover", &params)).await;
        assert_eq!(duplex.message().await, None, "{client}");
    }
}
