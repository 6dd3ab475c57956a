//! Streams as bytes on a client's connection: how they are framed, and what else may happen on it.

use std::time::Duration;

use super::start;
use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::gateway::Gateway;
use crate::harness::message;
use crate::harness::recorder::{Gate, Reply, Seen, Step};
use crate::harness::wire::{Conn, Head, find};

fn note(number: usize) -> String {
    let params = format!(r#"{{"level":"info","data":{number}}}"#);
    message::event(&message::notification("notifications/message", &params))
}

fn answer(seen: &Seen) -> String {
    message::event(&message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#))
}

/// The tool `stream` says something, and answers when the gate is opened.
fn streams(gate: &Gate) -> impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static {
    let held = gate.clone();
    move |seen| {
        (seen.tool() == "stream").then(|| {
            let steps = [Step::Send(note(1)), Step::Wait(held.clone()), Step::Send(answer(seen))];
            Reply::Stream(steps.into())
        })
    }
}

/// A call, as bytes that ask for nothing special.
fn call(gateway: &Gateway, id: usize, tool: &str) -> Vec<u8> {
    let body = message::modern_call(id, tool);
    Client::modern(gateway).request("POST", &[], Some(&body)).into_bytes()
}

/// Reads the stream's head and what it says at first.
async fn begun(conn: &mut Conn) -> Head {
    let head = conn.head().await.expect("a head");
    assert!(head.is_sse(), "{head:?}");
    let mut text = Vec::new();
    while find(&text, b"\"data\":1").is_none() {
        text.extend(conn.piece().await.expect("a piece").expect("no end yet"));
    }
    head
}

#[tokio::test]
async fn a_stream_is_sizes_and_data_and_the_connection_goes_on_behind_it() {
    let gate = Gate::new();
    let (recorder, gateway) = start("", streams(&gate)).await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send(call(&gateway, 1, "stream")).await;
    let head = begun(&mut conn).await;
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!((head.header("content-length"), head.header("connection")), (None, None));
    // While the stream is quiet its client asks for more, and part by part.
    let (next, last) = (call(&gateway, 2, "tool"), call(&gateway, 3, "tool"));
    conn.send(&next).await;
    conn.send(&last[..last.len() / 2]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(recorder.calls("tool").len(), 0, "one after the other");
    gate.open();
    let rest = conn.body().await.expect("the rest of the stream");
    assert!(find(&rest, b"\"id\":1").is_some(), "{}", String::from_utf8_lossy(&rest));
    let answered = conn.answer().await.expect("an answer");
    assert!(answered.text().contains("\"id\":2"), "{}", answered.text());
    conn.send(&last[last.len() / 2..]).await;
    let answered = conn.answer().await.expect("an answer");
    assert!(answered.text().contains("\"id\":3"), "{}", answered.text());
}

/// Byte for byte, so that nothing stands between the chunks: no extension, no trailer.
#[tokio::test]
async fn chunks_have_nothing_but_their_size() {
    let gate = Gate::new();
    gate.open();
    let (_recorder, gateway) = start("", streams(&gate)).await;
    let mut conn = Conn::open(gateway.address).await;
    let closing = format!("GET /health/live HTTP/1.0\r\nHost: {}\r\n\r\n", gateway.address);
    conn.send([call(&gateway, 1, "stream"), closing.into_bytes()].concat()).await;
    let bytes = conn.rest().await;
    let mut at = find(&bytes, b"\r\n\r\n").expect("a head") + 4;
    let mut body = Vec::new();
    loop {
        let line = find(&bytes[at..], b"\r\n").expect("the line of a size");
        let digits = std::str::from_utf8(&bytes[at..at + line]).expect("text");
        let size = usize::from_str_radix(digits, 16).expect("a size and nothing else");
        assert_eq!(digits, format!("{size:x}"));
        at += line + 2;
        body.extend_from_slice(&bytes[at..at + size]);
        assert_eq!(&bytes[at + size..at + size + 2], b"\r\n");
        at += size + 2;
        if size == 0 {
            break;
        }
    }
    assert!(find(&body, b"\"id\":1").is_some() && body.ends_with(b"\n\n"));
    assert!(bytes[at..].starts_with(b"HTTP/1.0 200 OK\r\n"), "hyper answers what is older");
}

#[tokio::test]
async fn a_client_that_disappears_from_a_quiet_stream_is_noticed() {
    let gate = Gate::new();
    let (recorder, gateway) = start("", move |seen| match seen.method.as_str() {
        "GET" => Some(Reply::Stream(vec![Step::Send(note(1)), Step::Wait(Gate::new())])),
        _ => streams(&gate)(seen),
    })
    .await;
    let mut calling = Conn::open(gateway.address).await;
    calling.send(call(&gateway, 1, "stream")).await;
    begun(&mut calling).await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut listening = Conn::open(gateway.address).await;
    listening.send(client.request("GET", &[], None)).await;
    begun(&mut listening).await;
    gateway.wait_metric("holdfast_streams", |now| now == 2.0).await;
    drop(listening);
    gateway.wait_metric("holdfast_streams", |now| now == 1.0).await;
    drop(calling);
    gateway.wait_metric("holdfast_streams", |now| now == 0.0).await;
    // A modern client's disconnect cancels its call, at the server too.
    gateway.wait_metric("holdfast_in_flight", |now| now == 0.0).await;
    let abandoned = || (recorder.abandoned() > 0).then_some(());
    eventually("the end of the call at the server", abandoned).await;
}

/// What a client does not read is not read from its server either.
#[tokio::test]
async fn a_client_that_stops_reading_holds_its_server_back() {
    const EVENTS: usize = 600;
    let filler = "x".repeat(60 * 1024);
    let params = format!(r#"{{"level":"info","data":"{filler}"}}"#);
    let event = message::event(&message::notification("notifications/message", &params));
    let (_recorder, gateway) = start("limits: { stream_queue: 64KiB }", move |seen| {
        (seen.tool() == "stream").then(|| {
            let mut steps = vec![Step::Send(note(1))];
            steps.extend((0..EVENTS).map(|_| Step::Send(event.clone())));
            steps.push(Step::Send(answer(seen)));
            Reply::Stream(steps)
        })
    })
    .await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send(call(&gateway, 1, "stream")).await;
    begun(&mut conn).await;
    gateway.wait_metric("holdfast_slow_readers_total", |many| many == 1.0).await;
    let relayed = gateway.metric("holdfast_events_total").await;
    assert!(relayed < EVENTS as f64 / 2.0, "{relayed} of {EVENTS} events were taken in");
    conn.closed().await;
    gateway.wait_metric("holdfast_streams", |now| now == 0.0).await;
}

#[tokio::test]
async fn a_drain_lets_a_stream_end_and_closes_behind_it() {
    let gate = Gate::new();
    let (_recorder, mut gateway) = start("", streams(&gate)).await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send(call(&gateway, 1, "stream")).await;
    begun(&mut conn).await;
    gateway.terminate();
    // Asked before it could know: it is told, and told that nothing more is taken.
    conn.send(call(&gateway, 2, "tool")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!gateway.has_ended(), "the stream is still open");
    gate.open();
    let rest = conn.body().await.expect("the rest of the stream");
    assert!(find(&rest, b"\"id\":1").is_some(), "{}", String::from_utf8_lossy(&rest));
    let answered = conn.answer().await.expect("an answer");
    assert!(answered.text().contains("\"id\":2"), "{}", answered.text());
    assert_eq!(answered.header("connection"), Some("close"));
    conn.closed().await;
    eventually("the end of the process", || gateway.has_ended().then_some(())).await;
    assert!(gateway.stop().success());
}
