//! Response headers are held until there is something to say, and then say how to come back.

use std::time::Duration;

use super::start;
use crate::harness::client::{Client, Posted};
use crate::harness::message;
use crate::harness::recorder::{Gate, Reply};
use crate::harness::sse::End;

#[tokio::test]
async fn a_quick_answer_stays_json() {
    let (_recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    let answer = client.post(&message::call(1, "tool")).await.answer();
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-length").is_some(), "{:?}", answer.headers);
}

/// After `commit_after` the client is told how to come back, and the answer follows.
#[tokio::test]
async fn a_slow_answer_becomes_a_primed_stream() {
    let gate = Gate::new();
    let held = gate.clone();
    let (_recorder, gateway) =
        start("streams: { commit_after: 50ms, retry: 700ms, modern_grace: 1s }", move |seen| {
            let done = Reply::json(message::result(
                seen.id(),
                r#"{"content":[],"resultType":"complete"}"#,
            ));
            (seen.tool() == "slow").then(|| Reply::after(&held, done))
        })
        .await;
    let legacy = Client::legacy(&gateway).initialized().await;
    let (first, second) = (legacy.clone(), Client::modern(&gateway));
    let posts = [
        tokio::spawn(async move { first.post(&message::call("\"a\"", "slow")).await }),
        tokio::spawn(async move { second.post(&message::modern_call("\"a\"", "slow")).await }),
    ];
    let mut streams = Vec::new();
    for post in posts {
        // The head comes although the server has said nothing yet.
        let mut stream = post.await.unwrap().stream();
        let priming = stream.next().await.expect("a priming event");
        assert_eq!(priming.retry, Some(700), "{priming:?}");
        assert!(priming.id.is_some(), "{priming:?}");
        assert_eq!(priming.data.as_deref().unwrap_or_default(), "", "{priming:?}");
        assert_eq!(stream.head.header("cache-control").map(|it| it.contains("no-")), Some(true));
        assert_eq!(stream.head.header("x-accel-buffering"), Some("no"));
        streams.push(stream);
    }
    gate.open();
    for mut stream in streams {
        let primed = stream.last_id.clone();
        let answer = stream.next().await.expect("the answer");
        let message: serde_json::Value = serde_json::from_str(&answer.data.unwrap()).unwrap();
        assert_eq!(message["id"], "a");
        assert!(answer.id.is_some() && answer.id != primed, "an id of its own: {:?}", answer.id);
        assert_eq!(stream.end().await, End::Clean);
    }
}

/// Clients before 2025-11-25 do not resume: priming would not help them, and an answer that is not
/// there yet can still come from somewhere else.
#[tokio::test]
async fn clients_that_cannot_resume_wait_for_the_answer() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("streams: { commit_after: 10ms }", move |seen| {
        let done = Reply::json(message::result(seen.id(), r#"{"content":[]}"#));
        (seen.tool() == "slow").then(|| Reply::after(&held, done))
    })
    .await;
    let client = Client::legacy(&gateway).speaking("2025-06-18").initialized().await;
    let call = tokio::spawn(async move { client.post(&message::call(1, "slow")).await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    // Far longer than `commit_after`: a gateway that commits would have done it by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    gate.open();
    let answer = call.await.unwrap().answer();
    assert_eq!(answer.json()["id"], 1);
}

/// … but not for ever: some balancers give up on a connection without a byte.
#[tokio::test]
async fn headers_come_at_the_latest_after_headers_by() {
    let gate = Gate::new();
    let held = gate.clone();
    let (_recorder, gateway) = start("streams: { headers_by: 1s }", move |seen| {
        let done = Reply::json(message::result(seen.id(), r#"{"content":[]}"#));
        (seen.tool() == "slow").then(|| Reply::after(&held, done))
    })
    .await;
    let client = Client::legacy(&gateway).speaking("2025-06-18").initialized().await;
    let mut stream = client.post(&message::call(1, "slow")).await.stream();
    gate.open();
    let answer = stream.message().await.expect("the answer");
    assert_eq!(answer["id"], 1);
    assert_eq!(stream.end().await, End::Clean);
}

/// A silent stream is kept alive by comments.
#[tokio::test]
async fn silent_streams_carry_comments() {
    let gate = Gate::new();
    let held = gate.clone();
    let (_recorder, gateway) =
        start("streams: { commit_after: 10ms, keepalive: 1s }", move |seen| {
            let done = Reply::json(message::result(seen.id(), r#"{"content":[]}"#));
            (seen.tool() == "slow").then(|| Reply::after(&held, done))
        })
        .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.post(&message::call(1, "slow")).await.stream();
    for _ in 0..2 {
        loop {
            if stream.next_block().await.expect("the stream goes on").comment {
                break;
            }
        }
    }
    gate.open();
    assert_eq!(stream.message().await.unwrap()["id"], 1);
}

/// Every answer of a call that takes its time, at once and in parallel.
#[tokio::test]
async fn many_streams_at_once() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("streams: { commit_after: 10ms }", move |seen| {
        let done = Reply::json(message::result(seen.id(), r#"{"content":[]}"#));
        (seen.tool() == "slow").then(|| Reply::after(&held, done))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let calls: Vec<_> = (0..100)
        .map(|id| {
            let client = client.clone();
            tokio::spawn(async move {
                match client.post(&message::call(id, "slow")).await {
                    Posted::Stream(mut stream) => stream.message().await.expect("an answer"),
                    Posted::Answer(answer) => answer.json(),
                }
            })
        })
        .collect();
    recorder.wait_for("all calls at the server", 100, |seen| seen.tool() == "slow").await;
    gate.open();
    for (id, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap()["id"], id);
    }
}
