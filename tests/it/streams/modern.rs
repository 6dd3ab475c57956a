//! The modern era's streams: closing one is a cancellation, and `subscriptions/listen` stands.

use super::start;
use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::message::{self, META};
use crate::harness::recorder::{Gate, Reply, Seen, Step};
use crate::harness::sse::End;
use crate::harness::wire::Conn;

#[tokio::test]
async fn a_client_that_leaves_has_cancelled() {
    let (recorder, gateway) =
        start("streams: { commit_after: 10ms, modern_grace: 10ms }", |seen| {
            (seen.tool() == "slow").then(|| Reply::after(&Gate::new(), Reply::Cut))
        })
        .await;
    let client = Client::modern(&gateway);
    // Once after the stream was committed …
    let stream = client.post(&message::modern_call(1, "slow")).await.stream();
    drop(stream);
    eventually("the cancellation at the server", || (recorder.abandoned() == 1).then_some(()))
        .await;
    // … and once while the answer is still being waited for.
    let mut conn = Conn::open(gateway.address).await;
    let body = message::modern_call(2, "slow");
    conn.send(client.request("POST", &[], Some(&body))).await;
    recorder.wait_for("the call at the server", 2, |seen| seen.tool() == "slow").await;
    drop(conn);
    eventually("the cancellation at the server", || (recorder.abandoned() == 2).then_some(()))
        .await;
    assert!(recorder.rpc("notifications/cancelled").is_empty(), "HTTP needs no message for it");
}

/// Where a disconnect cancels at once there is nothing to come back to, so a slow answer stays what it
/// is: some clients refuse large events (docs/decisions/0005).
#[tokio::test]
async fn a_slow_answer_stays_json() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("streams: { commit_after: 0s }", move |seen| {
        let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::json(answer)))
    })
    .await;
    let client = Client::modern(&gateway);
    let call = tokio::spawn(async move { client.post(&message::modern_call(1, "slow")).await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    gate.open();
    let answer = call.await.unwrap().answer();
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["id"], 1);
}

fn listen(id: &str) -> String {
    let params = format!(r#"{{"notifications":{{"toolsListChanged":true}},{META}}}"#);
    message::request(id, "subscriptions/listen", &params)
}

fn with_subscription(method: &str, seen: &Seen) -> String {
    let meta = format!(r#"{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}}}"#, seen.id());
    message::event(&message::notification(method, &meta))
}

/// The acknowledgement, what follows, and the server's own end, each at once.
#[tokio::test]
async fn listen_is_carried_through() {
    let (gate, end) = (Gate::new(), Gate::new());
    let held = (gate.clone(), end.clone());
    let (_recorder, gateway) = start("", move |seen| {
        (seen.rpc() == "subscriptions/listen").then(|| {
            Reply::Stream(vec![
                Step::Send(with_subscription("notifications/subscriptions/acknowledged", seen)),
                Step::Wait(held.0.clone()),
                Step::Send(with_subscription("notifications/tools/list_changed", seen)),
                Step::Wait(held.1.clone()),
                Step::Send(message::event(&message::result(
                    seen.id(),
                    r#"{"resultType":"complete"}"#,
                ))),
            ])
        })
    })
    .await;
    let client = Client::modern(&gateway);
    let mut stream = client.post(&listen("\"sub\"")).await.stream();
    let first = stream.message().await.expect("the acknowledgement");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    gate.open();
    let second = stream.message().await.expect("a notification");
    assert_eq!(second["method"], "notifications/tools/list_changed");
    assert_eq!(second["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    end.open();
    let (messages, ended) = stream.into_end().await;
    assert_eq!((messages.len(), ended), (1, End::Clean));
    assert_eq!(messages[0]["id"], "sub");
}

/// The server's stream breaks: the listen is made again behind the client's, without a second
/// acknowledgement, and the client is told to look again.
#[tokio::test]
async fn a_broken_listen_is_made_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let made = AtomicUsize::new(0);
    let (recorder, gateway) = start("", move |seen| {
        (seen.rpc() == "subscriptions/listen").then(|| {
            let acknowledged =
                Step::Send(with_subscription("notifications/subscriptions/acknowledged", seen));
            match made.fetch_add(1, Ordering::SeqCst) {
                0 => Reply::Stream(vec![acknowledged, Step::Cut]),
                _ => Reply::Stream(vec![acknowledged, Step::Wait(Gate::new())]),
            }
        })
    })
    .await;
    let mut stream = Client::modern(&gateway).post(&listen("\"sub\"")).await.stream();
    let first = stream.message().await.expect("the acknowledgement");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    let second = stream.message().await.expect("the stream goes on");
    assert_eq!(second["method"], "notifications/tools/list_changed", "{second}");
    assert_eq!(second["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    assert_eq!(recorder.rpc("subscriptions/listen").len(), 2);
}

/// `server/discover` is never answered with an error of the gateway's own: clients would fall back
/// to an old era for good.
#[tokio::test]
async fn discover_is_answered_from_memory_while_the_server_is_away() {
    let broken = Gate::new();
    let switch = broken.clone();
    let (_recorder, gateway) = start("", move |seen| {
        let away = switch.is_open() && seen.rpc() == "server/discover";
        away.then_some(Reply::Cut)
    })
    .await;
    let client = Client::modern(&gateway);
    let ask = |id: u32| message::request(id, "server/discover", &format!("{{{META}}}"));
    let first = client.post(&ask(1)).await.response().await;
    assert_eq!(first["result"]["supportedVersions"][0], "2026-07-28");
    broken.open();
    let second = client.post(&ask(2)).await.response().await;
    assert_eq!(second["id"], 2, "{second}");
    assert_eq!(second["result"], first["result"], "{second}");
    // It was private: whoever else asks is told nothing of it, and no error either.
    let other = client.with("Cookie", "user=other");
    let mut conn = Conn::open(gateway.address).await;
    conn.send(other.request("POST", &[], Some(&ask(3)))).await;
    assert_eq!(conn.rest().await, b"");
}
