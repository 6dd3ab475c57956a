//! What a server says on its own, to a client that goes from node to node.

use super::start;
use crate::harness::eventually;
use crate::harness::message;
use crate::harness::recorder::{Feed, Recorder, Reply, Seen, Step};
use crate::harness::sse::{End, Stream};

fn number(number: usize) -> String {
    message::notification("notifications/x", &format!(r#"{{"n":{number}}}"#))
}

/// Asserts that this is the next message.
async fn next_is(stream: &mut Stream, number: usize) {
    let message = stream.message().await.expect("the stream goes on");
    assert_eq!(message["params"]["n"], number, "{message}");
}

/// Waits until the server has had this many GETs, and one of them is open.
async fn listened_to(recorder: &Recorder, many: usize) {
    eventually("one open stream at the server", || {
        let opened = recorder.seen().iter().filter(|seen| seen.method == "GET").count();
        (opened >= many && recorder.abandoned() == opened - 1).then_some(())
    })
    .await;
}

/// The server numbers its events: none is missed or comes twice, whatever happens to the nodes.
#[tokio::test]
async fn of_a_server_that_can_resume_nothing_is_missed() {
    let feed = Feed::new();
    let said = feed.clone();
    let (recorder, mut cluster) = start(&[], move |seen: &Seen| {
        let from = seen.header("last-event-id").and_then(|id| id.parse().ok());
        let follow = Step::Follow(said.clone(), from.unwrap_or_default());
        (seen.method == "GET").then(|| Reply::Stream(vec![follow]))
    })
    .await;
    let say = |n: usize| feed.say(message::event_with_id(&n.to_string(), &number(n)));
    let client = cluster.client(0).initialized().await;
    let mut first = client.get(None).await.stream();
    listened_to(&recorder, 1).await;
    say(1);
    next_is(&mut first, 1).await;
    let seen = first.last_id.clone();

    // It moves on without having read the second.
    say(2);
    next_is(&mut first, 2).await;
    let mut second = client.on(cluster[1].address).get(seen.as_deref()).await.stream();
    next_is(&mut second, 2).await;
    assert_eq!(first.end().await, End::Clean);
    listened_to(&recorder, 2).await;
    say(3);
    next_is(&mut second, 3).await;
    let seen = second.last_id.clone();

    cluster[1].kill();
    assert_eq!(second.end().await, End::Cut);
    say(4);
    let mut third = client.on(cluster[2].address).get(seen.as_deref()).await.stream();
    next_is(&mut third, 4).await;
    say(5);
    next_is(&mut third, 5).await;
    listened_to(&recorder, 3).await;
}

/// Without numbers a living node hands over what it has; what a dead one had is asked for again.
#[tokio::test]
async fn of_a_server_that_cannot_the_client_is_told_to_look_again() {
    let feed = Feed::new();
    let said = feed.clone();
    let (recorder, mut cluster) = start(&[], move |seen: &Seen| {
        let follow = Step::Follow(said.clone(), said.len());
        (seen.method == "GET").then(|| Reply::Stream(vec![follow]))
    })
    .await;
    let say = |n: usize| feed.say(message::event(&number(n)));
    let client = cluster.client(0).initialized().await;
    let mut first = client.get(None).await.stream();
    listened_to(&recorder, 1).await;
    for n in [1, 2] {
        say(n);
        next_is(&mut first, n).await;
    }
    let seen = first.last_id.clone();
    say(3);
    next_is(&mut first, 3).await;
    let mut second = client.on(cluster[1].address).get(seen.as_deref()).await.stream();
    let messages_of = async |stream: &mut Stream, n: usize| {
        let fits = |message: &serde_json::Value| message["method"] == "notifications/x";
        let message = stream.find("the next message of the server's", fits).await;
        assert_eq!(message["params"]["n"], n, "{message}");
    };
    messages_of(&mut second, 3).await;
    assert_eq!(first.end().await, End::Clean);
    listened_to(&recorder, 2).await;
    say(4);
    messages_of(&mut second, 4).await;
    let seen = second.last_id.clone();

    cluster[1].kill();
    assert_eq!(second.end().await, End::Cut);
    let mut third = client.on(cluster[2].address).get(seen.as_deref()).await.stream();
    let message = third.message().await.expect("a word about the gap");
    assert_eq!(message["method"], "notifications/tools/list_changed", "{message}");
    listened_to(&recorder, 3).await;
    say(5);
    messages_of(&mut third, 5).await;
}
