//! JSON-RPC batches: part of 2025-03-26, gone in every version after it.

use std::collections::BTreeSet;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Step};
use crate::harness::sse::End;

/// A server that understands batches: it answers each request in it.
async fn start() -> (Recorder, Gateway) {
    start_with("").await
}

async fn start_with(section: &str) -> (Recorder, Gateway) {
    let recorder = Recorder::scripted(|seen| {
        let items: Vec<serde_json::Value> = serde_json::from_slice(&seen.body).ok()?;
        let answers: Vec<String> = items
            .iter()
            .filter_map(|item| item.get("id").filter(|_| item.get("method").is_some()))
            .map(|id| message::result(id, r#"{"content":[]}"#))
            .collect();
        match answers.is_empty() {
            true => Some(Reply::Status(202)),
            false => Some(Reply::json(format!("[{}]", answers.join(",")))),
        }
    })
    .await;
    let gateway = Setup::http(&recorder.url()).section(section).start().await;
    (recorder, gateway)
}

fn ids(answers: &serde_json::Value) -> BTreeSet<String> {
    let answers = answers.as_array().expect("an array of answers");
    answers.iter().map(|answer| answer["id"].to_string()).collect()
}

#[tokio::test]
async fn every_request_of_a_batch_is_answered() {
    let (recorder, gateway) = start().await;
    let client = Client::legacy(&gateway).speaking("2025-03-26").initialized().await;
    let batch = format!(
        "[ {} ,{},\n{}]",
        message::call(1, "read"),
        message::notification("notifications/x", "{}"),
        message::call("\"two\"", "read"),
    );
    let answer = client.post(&batch).await.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(ids(&answer.json()), ["1".into(), "\"two\"".into()].into());
    let carried: Vec<String> = recorder.seen().iter().map(|seen| seen.text()).collect();
    assert!(carried.contains(&batch), "the batch is one unit, byte for byte: {carried:?}");
}

#[tokio::test]
async fn a_batch_counts_as_many_calls_as_it_holds() {
    let (recorder, gateway) = start_with("limits: { requests_per_minute: 1, burst: 4 }").await;
    // Its initialize is the first of the four.
    let client = Client::legacy(&gateway).speaking("2025-03-26").initialized().await;
    let calls: Vec<String> = (1..=3).map(|id| message::call(id, "read")).collect();
    let answer = client.post(&format!("[{}]", calls.join(","))).await.answer();
    assert_eq!(ids(&answer.json()).len(), 3, "{}", answer.text());
    let refused = client.post(&format!("[{}]", message::call(4, "read"))).await.answer().json();
    assert_eq!(refused[0]["error"]["code"], -31003, "{refused}");
    let batches = recorder.seen().iter().filter(|seen| seen.text().starts_with('[')).count();
    assert_eq!(batches, 1);
}

#[tokio::test]
async fn a_batch_without_requests_is_accepted() {
    let (_recorder, gateway) = start().await;
    let client = Client::legacy(&gateway).speaking("2025-03-26").initialized().await;
    let batch = format!("[{}]", message::notification("notifications/x", "{}"));
    let answer = client.post(&batch).await.answer();
    assert_eq!((answer.status, answer.body.len()), (202, 0));
}

#[tokio::test]
async fn initialize_cannot_be_in_a_batch() {
    let (recorder, gateway) = start().await;
    let batch = format!("[{}]", message::initialize("2025-03-26"));
    let client = Client::legacy(&gateway).speaking("2025-03-26");
    let answer = client.post(&batch).await.answer();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(recorder.seen().is_empty());
}

#[tokio::test]
async fn later_versions_have_no_batches() {
    let (recorder, gateway) = start().await;
    for version in ["2025-06-18", "2025-11-25"] {
        let client = Client::legacy(&gateway).speaking(version).initialized().await;
        let before = recorder.seen().len();
        let answer = client.post(&format!("[{}]", message::call(1, "read"))).await.answer();
        assert_eq!(answer.status, 400, "{version}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], -32600, "{version}");
        assert_eq!(recorder.seen().len(), before, "{version}");
    }
    let modern = Client::modern(&gateway);
    let answer = modern.post(&format!("[{}]", message::modern_call(1, "read"))).await.answer();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], -32600);
}

/// Each id in a batch gets its own error when the server cannot be reached.
#[tokio::test]
async fn every_request_of_a_failed_batch_gets_its_own_error() {
    let recorder =
        Recorder::scripted(|seen| seen.text().starts_with('[').then_some(Reply::Cut)).await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let client = Client::legacy(&gateway).speaking("2025-03-26").initialized().await;
    let batch = format!("[{},{}]", message::call(1, "write"), message::call(2, "write"));
    let answer = client.post(&batch).await.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answers = answer.json();
    assert_eq!(ids(&answers), ["1".into(), "2".into()].into());
    for answer in answers.as_array().unwrap() {
        assert_eq!(answer["error"]["code"], -31002, "{answer}");
    }
    let carried = recorder.seen().iter().filter(|seen| seen.text().starts_with('[')).count();
    assert_eq!(carried, 1, "a batch with a Write in it is on the wire once");
}

/// It has to be smaller, not later.
#[tokio::test]
async fn a_batch_larger_than_its_class_is_not_told_to_come_back() {
    let (recorder, gateway) = start_with("bulkheads: { user: { concurrency: 2, queue: 2 } }").await;
    let client = Client::legacy(&gateway).speaking("2025-03-26").initialized().await;
    let calls: Vec<String> = (1..=3).map(|id| message::call(id, "read")).collect();
    let answers = client.post(&format!("[{}]", calls.join(","))).await.answer().json();
    assert_eq!(answers[0]["error"]["code"], -31003, "{answers}");
    assert!(answers[0]["error"]["data"].get("retryAfterMs").is_none(), "{answers}");
    assert!(recorder.calls("read").is_empty());
}

/// A server does not answer what was cancelled: it has done its part with the others.
#[tokio::test]
async fn a_stream_that_ends_without_the_answer_that_was_cancelled_has_not_failed() {
    let gate = Gate::new();
    let (opens, held) = (gate.clone(), gate);
    let recorder = Recorder::scripted(move |seen| {
        if seen.rpc() == "notifications/cancelled" {
            opens.open();
        }
        seen.text().starts_with('[').then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(&message::result(1, r#"{"content":[]}"#))),
                Step::Wait(held.clone()),
            ])
        })
    })
    .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let client = Client::legacy(&gateway).speaking("2025-03-26").initialized().await;
    let batch = format!("[{},{}]", message::call(1, "write"), message::call(2, "write"));
    let mut stream = client.post(&batch).await.stream();
    let answer = stream.message().await.expect("the first answer");
    assert_eq!(answer["id"], 1, "{answer}");
    let cancel = message::notification("notifications/cancelled", r#"{"requestId":2}"#);
    client.post(&cancel).await;
    assert_eq!(stream.into_end().await, (vec![], End::Clean));
}
