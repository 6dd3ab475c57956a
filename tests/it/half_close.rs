//! A client that closes its half of the connection behind its request (`printf … | nc -N`) gets its answer
//! (RFC 9112, section 9.6), unless its end means something else.

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder};
use crate::harness::wire::Conn;

/// A gateway before a server whose tool `slow` answers when the gate is opened.
async fn start(section: &str) -> (Gate, Recorder, Gateway) {
    let gate = Gate::new();
    let recorder = Recorder::gated(&gate).await;
    let gateway = Setup::http(&recorder.url()).section(section).start().await;
    (gate, recorder, gateway)
}

/// Sends a request and the end of the client's half, and has the server answer only after that.
async fn asked(gateway: &Gateway, recorder: &Recorder, request: &str) -> Conn {
    let mut conn = Conn::open(gateway.address).await;
    conn.send(request).await;
    conn.close_half().await;
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    conn
}

#[tokio::test]
async fn its_answer_comes_and_then_the_end() {
    let body = message::call(1, "slow");
    // hyper reads what is not plain.
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (header, body) in [(None, &body), (Some(("Transfer-Encoding", "chunked")), &chunked)] {
        let (gate, recorder, gateway) = start("streams: { commit_after: 20s }").await;
        let client = Client::legacy(&gateway).initialized().await;
        let call = match header {
            None => client.request("POST", &[], Some(body)),
            Some(header) => client.request("POST", &[header], None) + body,
        };
        let mut conn = asked(&gateway, &recorder, &call).await;
        gate.open();
        let answer = conn.answer().await.expect("an answer");
        assert_eq!(answer.json()["id"], 1, "{header:?}: {}", answer.text());
        assert!(conn.answer().await.is_none(), "{header:?}: the connection goes on");
    }
}

#[tokio::test]
async fn its_answer_comes_as_a_stream_too() {
    let (gate, recorder, gateway) = start("streams: { commit_after: 10ms }").await;
    let client = Client::legacy(&gateway).initialized().await;
    let call = client.request("POST", &[], Some(&message::call(1, "slow")));
    let mut conn = asked(&gateway, &recorder, &call).await;
    let head = conn.head().await.expect("a head");
    assert!(head.is_sse(), "{head:?}");
    gate.open();
    let body = conn.body().await.unwrap_or_else(|broken| panic!("{}", broken.0));
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("\"id\":1"), "{text}");
}

/// To a modern client closing the connection is cancelling, and nobody can tell the two ends apart.
#[tokio::test]
async fn a_modern_clients_end_cancels_its_call() {
    let (gate, recorder, gateway) = start("streams: { commit_after: 20s }").await;
    let client = Client::modern(&gateway);
    let call = client.request("POST", &[], Some(&message::modern_call(1, "slow")));
    let mut conn = Conn::open(gateway.address).await;
    conn.send(&call).await;
    // An end that comes with the request may cancel the call before it is sent.
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    conn.close_half().await;
    gateway.wait_metric("holdfast_in_flight", |now| now == 0.0).await;
    assert!(!gate.is_open(), "the call was over before its server answered");
    assert!(conn.answer().await.is_none(), "what is cancelled is not answered");
}

/// What is not all there is no request, and its client is not waited for.
#[tokio::test]
async fn half_a_request_is_none() {
    let (_gate, recorder, gateway) = start("streams: { commit_after: 20s }").await;
    let client = Client::legacy(&gateway).initialized().await;
    let call = client.request("POST", &[], Some(&message::call(1, "slow")));
    let mut conn = Conn::open(gateway.address).await;
    conn.send(&call.as_bytes()[..call.len() - 1]).await;
    conn.close_half().await;
    gateway.wait_metric("holdfast_connections", |now| now <= 1.0).await;
    conn.closed().await;
    assert!(recorder.calls("slow").is_empty());
}
