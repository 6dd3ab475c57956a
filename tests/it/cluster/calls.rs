//! A call's stream that another node is asked for: followed while its node lives, gone on with when
//! it has died.

use super::{balanced, is_unknown, start};
use crate::harness::client::Client;
use crate::harness::message;
use crate::harness::recorder::{Gate, Reply, Step};
use crate::harness::sse::{End, Stream};

const SETTINGS: &str = "streams: { commit_after: 10ms }";
/// A response begins before its call is in the journal.
const AT_ONCE: &str = "streams: { commit_after: 0ms }";
const ANSWER: &str = r#"{"content":[],"contents":[]}"#;

fn progress(number: u32) -> String {
    let params = format!(r#"{{"progressToken":"t","progress":{number}}}"#);
    message::notification("notifications/progress", &params)
}

fn slow() -> String {
    let params = r#"{"name":"slow","arguments":{},"_meta":{"progressToken":"t"}}"#;
    message::request(1, "tools/call", params)
}

/// Calls the tool `slow` and reads on until its second message.
async fn two_events(client: &Client) -> (Stream, Vec<String>) {
    let mut stream = client.post(&slow()).await.stream();
    let mut ids = Vec::new();
    for number in [1, 2] {
        loop {
            let event = stream.next().await.expect("an event");
            if event.data.is_some_and(|data| data.contains(&format!("\"progress\":{number}"))) {
                ids.push(event.id.expect("events have ids"));
                break;
            }
        }
    }
    (stream, ids)
}

/// The numbers of the progress messages until the end, and whether the answer with id 1 came last.
async fn rest(stream: Stream) -> (Vec<u64>, bool) {
    let (messages, end) = stream.into_end().await;
    assert_eq!(end, End::Clean);
    let numbers = messages.iter().filter_map(|it| it["params"]["progress"].as_f64());
    let answered = messages.last().is_some_and(|it| it["id"] == 1 && it.get("result").is_some());
    (numbers.map(|it| it as u64).collect(), answered)
}

/// The only message of a stream that ends in order.
async fn only(stream: Stream) -> serde_json::Value {
    let (mut messages, end) = stream.into_end().await;
    assert_eq!((messages.len(), end), (1, End::Clean), "{messages:?}");
    messages.remove(0)
}

#[tokio::test]
async fn a_stream_of_a_living_node_is_followed() {
    let (third, answered) = (Gate::new(), Gate::new());
    let held = [third.clone(), answered.clone()];
    let (recorder, mut cluster) = start(&[AT_ONCE], move |seen| {
        let answer = message::result(seen.id(), ANSWER);
        (seen.tool() == "slow").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(&progress(1))),
                Step::Send(message::event(&progress(2))),
                Step::Wait(held[0].clone()),
                Step::Send(message::event(&progress(3))),
                Step::Wait(held[1].clone()),
                Step::Send(message::event(&answer)),
            ])
        })
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let (stream, ids) = two_events(&client.clone().with("X-Request-ID", "s")).await;
    drop(stream);
    // The newest reader receives, so the client moves on with what it has.
    let mut followed = client.on(cluster[1].address).get(Some(&ids[1])).await.stream();
    third.open();
    let message = followed.message().await.expect("the next message");
    assert_eq!(message["params"]["progress"], 3, "{message}");
    let id = followed.last_id.clone().expect("events have ids");
    let moved = client.on(cluster[2].address).get(Some(&id)).await.stream();
    answered.open();
    assert_eq!(rest(moved).await, (vec![], true));
    let whole = client.on(cluster[1].address).get(Some(&ids[0])).await.stream();
    assert_eq!(rest(whole).await, (vec![2, 3], true));
    assert_eq!(recorder.calls("slow").len(), 1);
    assert_eq!(recorder.abandoned(), 0, "a client that moves does not cancel");

    // What came to an end outlives its node in the journal, once it is written down there.
    let copy = balanced(&client.on(cluster[1].address), "s", &slow()).await;
    assert!(copy.get("result").is_some(), "{copy}");
    cluster[0].kill();
    let late = client.on(cluster[1].address).get(Some(&ids[1])).await.stream();
    let answer = only(late).await;
    assert_eq!(answer["id"], 1, "{answer}");
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(recorder.calls("slow").len(), 1);
}

#[tokio::test]
async fn what_a_killed_node_ran_is_repeated_or_its_outcome_is_unknown() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, mut cluster) = start(&[SETTINGS], move |seen| {
        let slow = seen.tool() == "slow" || seen.tool() == "test://slow";
        slow.then(|| Reply::after(&held, Reply::json(message::result(seen.id(), ANSWER))))
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let write = message::call("\"w\"", "slow");
    let read = message::request("\"r\"", "resources/read", r#"{"uri":"test://slow"}"#);
    let mut ids = Vec::new();
    let mut streams = Vec::new();
    for body in [&write, &read] {
        let mut stream = client.post(body).await.stream();
        ids.push(stream.next().await.and_then(|event| event.id).expect("a primed stream"));
        streams.push(stream);
    }
    recorder.wait_for("the Write at the server", 1, |seen| seen.tool() == "slow").await;
    recorder.wait_for("the Read at the server", 1, |seen| seen.tool() == "test://slow").await;
    cluster[0].kill();
    for stream in &mut streams {
        assert_eq!(stream.end().await, End::Cut);
    }

    let at = |number: usize| client.on(cluster[number].address);
    let mut lost = at(1).get(Some(&ids[0])).await.stream();
    let first = lost.next_block().await.expect("a beginning");
    assert!(first.comment || first.id.is_some(), "{first:?}");
    let answer = lost.message().await.expect("an answer");
    assert_eq!(answer["id"], "w", "{answer}");
    is_unknown(&answer);
    assert_eq!(lost.end().await, End::Clean);

    let again = at(1).get(Some(&ids[1])).await.stream();
    recorder.wait_for("the Read once more", 2, |seen| seen.tool() == "test://slow").await;
    gate.open();
    let answer = only(again).await;
    assert_eq!(answer["id"], "r", "{answer}");
    assert!(answer.get("result").is_some(), "{answer}");

    // Whoever is asked says the same of the Write.
    let answer = only(at(2).get(Some(&ids[0])).await.stream()).await;
    assert_eq!(answer["id"], "w", "{answer}");
    is_unknown(&answer);
    // The node itself too, in its next life.
    cluster.restart(0).await;
    let answer = only(client.get(Some(&ids[0])).await.stream()).await;
    assert_eq!(answer["id"], "w", "{answer}");
    is_unknown(&answer);
    assert_eq!(recorder.calls("slow").len(), 1);
}

/// The server has kept its stream: nothing is lost, whatever the call's class, and nothing runs again.
#[tokio::test]
async fn a_servers_own_stream_outlives_the_node() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, mut cluster) = start(&[SETTINGS], move |seen| {
        if seen.method == "GET" && seen.header("last-event-id") == Some("ev-2") {
            return Some(Reply::Stream(vec![
                Step::Send(message::event_with_id("ev-3", &progress(3))),
                Step::Wait(held.clone()),
                Step::Send(message::event_with_id("ev-4", &message::result(1, ANSWER))),
            ]));
        }
        (seen.tool() == "slow").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event_with_id("ev-1", &progress(1))),
                Step::Send(message::event_with_id("ev-2", &progress(2))),
                Step::Wait(Gate::new()),
            ])
        })
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let (mut stream, ids) = two_events(&client).await;
    cluster[0].kill();
    assert_eq!(stream.end().await, End::Cut);
    let mut resumed = client.on(cluster[1].address).get(Some(&ids[1])).await.stream();
    let third = resumed.message().await.expect("the next message");
    assert_eq!(third["params"]["progress"], 3, "{third}");
    // And on to the third node, while the second goes on with it.
    let id = resumed.last_id.clone().expect("events have ids");
    drop(resumed);
    let resumed = client.on(cluster[2].address).get(Some(&id)).await.stream();
    gate.open();
    assert_eq!(rest(resumed).await, (vec![], true));
    assert_eq!(recorder.calls("slow").len(), 1);
    let taken_up = recorder.seen().iter().filter(|seen| seen.method == "GET").count();
    assert_eq!(taken_up, 1);
}
