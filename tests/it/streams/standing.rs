//! The GET stream: what a server says on its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::start;
use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::message;
use crate::harness::recorder::{Gate, Reply, Step};
use crate::harness::sse::End;

fn changed(kind: &str) -> String {
    message::event(&message::notification(&format!("notifications/{kind}/list_changed"), "{}"))
}

#[tokio::test]
async fn notifications_reach_the_client() {
    let gate = Gate::new();
    let held = gate.clone();
    let (_recorder, gateway) = start("", move |seen| {
        (seen.method == "GET").then(|| {
            Reply::Stream(vec![
                Step::Send(changed("tools")),
                Step::Wait(held.clone()),
                Step::Send(changed("prompts")),
                Step::Wait(Gate::new()),
            ])
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.get(None).await.stream();
    let first = stream.message().await.expect("a notification");
    assert_eq!(first["method"], "notifications/tools/list_changed");
    gate.open();
    let second = stream.message().await.expect("a notification");
    assert_eq!(second["method"], "notifications/prompts/list_changed");
    assert!(stream.last_id.is_some(), "events carry ids");
}

/// 405 from the server stays 405: clients must not take a stream for granted.
#[tokio::test]
async fn a_server_without_get_streams_keeps_its_405() {
    let (_recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    assert_eq!(client.get(None).await.answer().status, 405);
}

#[tokio::test]
async fn a_get_without_a_session_is_refused() {
    let (_recorder, gateway) = start("", |_| None).await;
    let status = Client::legacy(&gateway).get(None).await.answer().status;
    assert!([400, 405].contains(&status), "{status}");
}

/// The server's stream breaks: the client's stays, and the next event arrives on it.
#[tokio::test]
async fn a_broken_server_stream_is_opened_again_behind_the_clients() {
    let opened = AtomicUsize::new(0);
    let (recorder, gateway) = start("", move |seen| {
        if seen.method != "GET" {
            return None;
        }
        let number = opened.fetch_add(1, Ordering::SeqCst);
        let event = message::event(&message::notification(
            "notifications/x",
            &format!(r#"{{"n":{number}}}"#),
        ));
        let last = if number < 2 { Step::Cut } else { Step::Wait(Gate::new()) };
        Some(Reply::Stream(vec![Step::Send("retry: 10\n\n".into()), Step::Send(event), last]))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.get(None).await.stream();
    for number in 0..3 {
        let message =
            stream.find("the next event", |message| message["method"] == "notifications/x").await;
        assert_eq!(message["params"]["n"], number);
    }
    assert_eq!(recorder.seen().iter().filter(|seen| seen.method == "GET").count(), 3);
}

/// What may have been missed in a gap that cannot be resumed is asked for again by the client,
/// because it is told that it changed.
#[tokio::test]
async fn after_a_gap_the_client_is_told_to_look_again() {
    let opened = AtomicUsize::new(0);
    let (_recorder, gateway) = start("", move |seen| {
        (seen.method == "GET").then(|| {
            let first = opened.fetch_add(1, Ordering::SeqCst) == 0;
            let last = if first { Step::Cut } else { Step::Wait(Gate::new()) };
            Reply::Stream(vec![Step::Send("retry: 10\n\n".into()), last])
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    client.ask(1, "resources/subscribe", r#"{"uri":"test://watched"}"#).await;
    let mut stream = client.get(None).await.stream();
    let mut told = std::collections::BTreeSet::new();
    while told.len() < 2 {
        let message = stream.message().await.expect("the stream goes on");
        let method = message["method"].as_str().unwrap_or_default();
        let uri = message["params"]["uri"].as_str();
        match method {
            "notifications/tools/list_changed" => told.insert("tools"),
            "notifications/resources/updated" if uri == Some("test://watched") => {
                told.insert("resource")
            }
            _ => false,
        };
    }
}

/// The newest GET receives; the older one ends in order.
#[tokio::test]
async fn the_newest_stream_receives() {
    let gate = Gate::new();
    let held = gate.clone();
    let (_recorder, gateway) = start("", move |seen| {
        (seen.method == "GET").then(|| {
            Reply::Stream(vec![
                Step::Wait(held.clone()),
                Step::Send(changed("tools")),
                Step::Wait(Gate::new()),
            ])
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut older = client.get(None).await.stream();
    let mut newer = client.get(None).await.stream();
    assert_eq!(older.end().await, End::Clean);
    gate.open();
    let message = newer.message().await.expect("a notification");
    assert_eq!(message["method"], "notifications/tools/list_changed");
}

/// Clean ends with a new id each time: some clients count an unchanged id as no progress, and
/// survive only one abrupt end.
#[tokio::test]
async fn streams_are_rotated() {
    let (recorder, gateway) =
        start("streams: { rotate_after: 10s, keepalive: 5s, retry: 300ms }", |seen| {
            (seen.method == "GET").then(|| Reply::Stream(vec![Step::Wait(Gate::new())]))
        })
        .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut stream = client.get(ids.last().map(String::as_str)).await.stream();
        assert_eq!(stream.end().await, End::Clean);
        ids.push(stream.last_id.clone().expect("an id to come back with"));
    }
    assert_ne!(ids[0], ids[1]);
    let opened = recorder.seen().iter().filter(|seen| seen.method == "GET").count();
    assert_eq!(opened, 1, "the stream at the server is the binding's, not the client's");
}

/// A client that is away for a moment misses nothing.
#[tokio::test]
async fn a_standing_stream_is_resumed() {
    let (first, second) = (Gate::new(), Gate::new());
    let held = [first.clone(), second.clone()];
    let (_recorder, gateway) = start("", move |seen| {
        (seen.method == "GET").then(|| {
            Reply::Stream(vec![
                Step::Wait(held[0].clone()),
                Step::Send(changed("tools")),
                Step::Wait(held[1].clone()),
                Step::Send(changed("prompts")),
                Step::Wait(Gate::new()),
            ])
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.get(None).await.stream();
    first.open();
    stream.message().await.expect("a notification");
    let id = stream.last_id.clone();
    drop(stream);
    second.open();
    let mut resumed = client.get(id.as_deref()).await.stream();
    let message = resumed.message().await.expect("what was missed");
    assert_eq!(message["method"], "notifications/prompts/list_changed");
}

/// DELETE comes while one GET waits for the server and another waits behind it: neither leaves a
/// stream at the server.
#[tokio::test]
async fn no_stream_outlives_its_session() {
    let (recorder, gateway) =
        start("", |seen| (seen.method == "GET").then(|| Reply::after(&Gate::new(), Reply::Cut)))
            .await;
    let client = Client::legacy(&gateway).initialized().await;
    let (_first, _second, deleted) = tokio::join!(
        client.get(None),
        async {
            recorder.wait_for("a GET", 1, |seen| seen.method == "GET").await;
            client.get(None).await
        },
        async {
            recorder.wait_for("a GET", 1, |seen| seen.method == "GET").await;
            // Long enough that the second GET is mostly there; too short, and there is less to see.
            tokio::time::sleep(Duration::from_millis(300)).await;
            client.delete().await
        }
    );
    assert_eq!(deleted.status, 200);
    eventually("the end of every stream at the server", || {
        let opened = recorder.seen().iter().filter(|seen| seen.method == "GET").count();
        (recorder.abandoned() == opened).then_some(())
    })
    .await;
}

/// A GET too may be the first to hear that the server has forgotten the session, in whichever words.
#[tokio::test]
async fn a_get_for_a_lost_session_establishes_it_again() {
    let (recorder, gateway) = start("", |seen| {
        if seen.method != "GET" {
            return None;
        }
        if seen.header("mcp-session-id") == Some("server-session-1") {
            let text = "Bad Request: Server not initialized";
            return Some(Reply::refused(400, message::error("null", -32000, text)));
        }
        Some(Reply::Stream(vec![Step::Send(changed("tools")), Step::Wait(Gate::new())]))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.get(None).await.stream();
    let first = stream.message().await.expect("a notification");
    assert_eq!(first["method"], "notifications/tools/list_changed");
    assert_eq!(recorder.rpc("initialize").len(), 2);
}

/// A server that knows no session when it is asked for a stream has no streams. Asking on would cost
/// the client its state there each time.
#[tokio::test]
async fn a_server_that_knows_no_session_on_get_is_not_asked_again() {
    let (recorder, gateway) = start("", |seen| {
        (seen.method == "GET")
            .then(|| Reply::refused(404, message::error("null", -32001, "Session not found")))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    assert_eq!(client.get(None).await.answer().status, 405);
    assert_eq!(client.get(None).await.answer().status, 405);
    assert_eq!(recorder.rpc("initialize").len(), 2);
    assert_eq!(client.call(1, "tool").await["id"], 1);
}
