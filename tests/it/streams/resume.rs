//! A client that lost its connection comes back with the last event's id, and misses nothing.

use super::start;
use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Step};
use crate::harness::sse::{End, Stream};

const SETTINGS: &str = "streams: { commit_after: 10ms, modern_grace: 1m }";

fn progress(number: u32) -> String {
    message::notification(
        "notifications/progress",
        &format!(r#"{{"progressToken":"t","progress":{number}}}"#),
    )
}

/// A server whose tool `slow` says two things, waits for the gate, and says two more.
async fn talkative() -> (Recorder, Gateway, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start(SETTINGS, move |seen| {
        let answer = message::result(seen.id(), r#"{"content":[]}"#);
        (seen.tool() == "slow").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(&progress(1))),
                Step::Send(message::event(&progress(2))),
                Step::Wait(held.clone()),
                Step::Send(message::event(&progress(3))),
                Step::Send(message::event(&answer)),
            ])
        })
    })
    .await;
    (recorder, gateway, gate)
}

/// The numbers of the progress messages until the end, and whether the answer with id 1 came last.
async fn rest(stream: Stream) -> (Vec<u64>, bool) {
    let (messages, end) = stream.into_end().await;
    assert_eq!(end, End::Clean);
    let numbers = messages.iter().filter_map(|it| it["params"]["progress"].as_f64());
    let answered = messages.last().is_some_and(|it| it["id"] == 1 && it.get("result").is_some());
    (numbers.map(|it| it as u64).collect(), answered)
}

async fn two_events(client: &Client) -> (Stream, Vec<String>) {
    let body = message::request(
        1,
        "tools/call",
        r#"{"name":"slow","arguments":{},"_meta":{"progressToken":"t"}}"#,
    );
    let mut stream = client.post(&body).await.stream();
    let mut ids = Vec::new();
    for number in [1, 2] {
        loop {
            let event = stream.next().await.expect("an event");
            ids.extend(event.id.clone());
            if event.data.is_some_and(|data| data.contains(&format!("\"progress\":{number}"))) {
                break;
            }
        }
    }
    (stream, ids)
}

#[tokio::test]
async fn a_cut_stream_goes_on_where_it_was() {
    let (_recorder, gateway, gate) = talkative().await;
    let client = Client::legacy(&gateway).initialized().await;
    let (stream, ids) = two_events(&client).await;
    drop(stream);
    // In the middle of the call: the resumed stream follows what is still to come.
    let resumed = client.get(ids.last().map(String::as_str)).await.stream();
    gate.open();
    assert_eq!(rest(resumed).await, (vec![3], true));
    // After it: the same again, from the log.
    let again = client.get(ids.last().map(String::as_str)).await.stream();
    assert_eq!(rest(again).await, (vec![3], true));
}

/// From any of its ids, in any order, exactly what followed it.
#[tokio::test]
async fn every_id_resumes_right_after_itself() {
    let (_recorder, gateway, gate) = talkative().await;
    let client = Client::legacy(&gateway).initialized().await;
    let (stream, ids) = two_events(&client).await;
    gate.open();
    rest(stream).await;
    let unique: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "ids are unique");
    let [.., first, second] = ids.as_slice() else { panic!("{ids:?}") };
    assert_eq!(rest(client.get(Some(second)).await.stream()).await, (vec![3], true));
    assert_eq!(rest(client.get(Some(first)).await.stream()).await, (vec![2, 3], true));
    assert_eq!(rest(client.get(Some(second)).await.stream()).await, (vec![3], true));
    if let [priming, _, _] = ids.as_slice() {
        assert_eq!(rest(client.get(Some(priming)).await.stream()).await, (vec![1, 2, 3], true));
    }
}

/// A legacy client that is gone has not cancelled: the call runs to its end, once.
#[tokio::test]
async fn a_lost_legacy_client_is_no_cancellation() {
    let (recorder, gateway, gate) = talkative().await;
    let client = Client::legacy(&gateway).initialized().await;
    let (stream, ids) = two_events(&client).await;
    drop(stream);
    gate.open();
    // Only the log can have it: the stream is resumed when all is over.
    let resumed = client.get(ids.last().map(String::as_str)).await.stream();
    assert_eq!(rest(resumed).await, (vec![3], true));
    assert_eq!(recorder.calls("slow").len(), 1);
    assert_eq!(recorder.abandoned(), 0);
    assert!(recorder.rpc("notifications/cancelled").is_empty());
}

/// A client that ends its session has no use for what its calls still bring.
#[tokio::test]
async fn the_end_of_a_session_ends_its_calls() {
    let (recorder, gateway, _gate) = talkative().await;
    let client = Client::legacy(&gateway).initialized().await;
    let (left, _ids) = two_events(&client).await;
    let (open, _ids) = two_events(&client).await;
    drop(left);
    assert_eq!(client.delete().await.status, 200);
    let (messages, _end) = open.into_end().await;
    assert!(messages.iter().all(|it| it["id"] != 1), "{messages:?}");
    eventually("the end of both calls at the server", || (recorder.abandoned() == 2).then_some(()))
        .await;
    gateway.wait_metric("holdfast_in_flight", |now| now == 0.0).await;
}

/// An event id is sealed: what was not made here opens nothing.
#[tokio::test]
async fn a_forged_id_is_404() {
    let (_recorder, gateway, gate) = talkative().await;
    let client = Client::legacy(&gateway).initialized().await;
    let (_stream, ids) = two_events(&client).await;
    let good = ids.last().unwrap();
    let flip = |at: usize| {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    for forged in [
        flip(good.len() / 2),
        flip(0),
        good[..good.len() - 4].to_owned(),
        format!("{good}AAAA"),
        "1".into(),
        "x".repeat(2000),
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into(),
    ] {
        let answer = client.get(Some(&forged)).await.answer();
        assert_eq!(answer.status, 404, "{forged}: {}", answer.text());
    }
    gate.open();
}

/// Official clients resume modern streams too, without a session.
#[tokio::test]
async fn a_modern_stream_is_resumed_within_its_grace() {
    let gate = Gate::new();
    let held = gate.clone();
    let settings = "streams: { commit_after: 10ms, modern_grace: 30s }";
    let (recorder, gateway) = start(settings, move |seen| {
        let done =
            Reply::json(message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#));
        (seen.tool() == "slow").then(|| Reply::after(&held, done))
    })
    .await;
    let client = Client::modern(&gateway);
    let mut stream = client.post(&message::modern_call(1, "slow")).await.stream();
    let id = stream.next().await.and_then(|event| event.id).expect("a primed stream");
    drop(stream);
    let resumed = client.get(Some(&id)).await.stream();
    gate.open();
    let (messages, end) = resumed.into_end().await;
    assert_eq!(end, End::Clean);
    assert_eq!(messages.last().expect("an answer")["id"], 1);
    assert_eq!(recorder.abandoned(), 0);
}

/// A node that is killed and comes back knows its own ids again. The stream is gone with it, so the
/// client gets an answer to its call that says so, not a 404 and not silence.
#[tokio::test]
async fn an_id_outlives_the_node() {
    let recorder = Recorder::scripted(|seen| {
        (seen.tool() == "slow").then(|| Reply::after(&Gate::new(), Reply::Cut))
    })
    .await;
    let mut gateway = Setup::http(&recorder.url())
        .section("node: { secret: 0123456789abcdef0123456789abcdef }")
        .section(SETTINGS)
        .start()
        .await;
    let client = Client::modern(&gateway);
    let mut stream = client.post(&message::modern_call("\"mine\"", "slow")).await.stream();
    let id = stream.next().await.and_then(|event| event.id).expect("a primed stream");
    gateway.kill();
    assert_eq!(stream.end().await, End::Cut);
    gateway.restart().await;
    let mut resumed = client.get(Some(&id)).await.stream();
    let answer = resumed.message().await.expect("an answer");
    assert_eq!(answer["id"], "mine", "{answer}");
    assert_eq!(answer["error"]["code"], -31002, "{answer}");
    assert_eq!(resumed.end().await, End::Clean);
}
