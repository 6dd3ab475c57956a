//! A session that was moved to the other instance: its client hears of it with its next answer and on its
//! stream, each once, whichever node moved it, serves that call or has that stream.

use serde_json::Value;

use super::{SETTINGS, start};
use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::control::{ALL, Order};
use crate::harness::gateway::Setup;
use crate::harness::sse::Stream;

const KEY: &str = "io.holdfast/session";

/// What the next answer of this node says of the session, if anything.
async fn answer_of(client: &Client, cluster: &Cluster, at: usize) -> Value {
    let answer = client.on(cluster[at].address).call(at, "whoami").await;
    assert!(answer.get("result").is_some(), "{answer}");
    answer["result"]["_meta"][KEY].clone()
}

/// What the next line about the session says that comes on the stream.
async fn line_of(stream: &mut Stream) -> Value {
    let is_ours = |it: &Value| it["params"]["logger"] == "holdfast";
    stream.find("the line", is_ours).await["params"]["data"]["session"].clone()
}

fn moved(from: &str, to: &str) -> Value {
    serde_json::json!({ "movedFrom": from, "movedTo": to, "stateLost": true })
}

/// Moves the server, and waits until all nodes are at rest.
async fn move_to(cluster: &Cluster, to: &str) {
    Order::give(cluster[2].admin, &["failover", "docs", "--to", to]).arrives_at(to).await;
    let rests = |seen: &Value| {
        seen["active"] == to && seen["phase"].as_str().is_some_and(|it| it.ends_with("_active"))
    };
    cluster.all_show(&ALL, "docs", "at rest", rests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_its_stream_at_one_node_and_with_an_answer_of_another() {
    let (_a, _b, cluster) = start(SETTINGS, Setup::new()).await;
    let client = cluster.client(0).initialized().await;
    let mut stream = client.get(None).await.stream();
    move_to(&cluster, "b").await;
    // The node that has the stream takes the session along.
    assert_eq!(line_of(&mut stream).await, moved("a", "b"));
    assert_eq!(answer_of(&client, &cluster, 1).await, moved("a", "b"));
    for at in [2, 0, 1] {
        assert_eq!(answer_of(&client, &cluster, at).await, Value::Null, "again from {at}");
    }
    move_to(&cluster, "a").await;
    assert_eq!(line_of(&mut stream).await, moved("b", "a"), "and nothing before it");
    assert_eq!(answer_of(&client, &cluster, 2).await, moved("b", "a"));
}

/// What waits on a stream for its reader may be all that it takes. The one line about the move comes all the same.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_stream_that_is_full_and_that_it_takes_up_again() {
    let setup = Setup::new().section("limits: { stream_queue: 64KiB }");
    let (a, _b, cluster) = start(SETTINGS, setup).await;
    let client = cluster.client(0).initialized().await;
    let mut stream = client.get(None).await.stream();
    let filler = |text: &str| {
        let params = serde_json::json!({ "level": "info", "logger": "filler", "data": text });
        serde_json::json!({ "method": "notifications/message", "params": params }).to_string()
    };
    a.emits(&filler("first")).await;
    stream.find("the first", |it| it["params"]["data"] == "first").await;
    let last = stream.last_id.clone().expect("an id to take it up by");
    drop(stream);
    cluster[0].comes_to_metric("holdfast_streams 0").await;
    a.emits(&filler(&"x".repeat(80 << 10))).await;
    move_to(&cluster, "b").await;
    let mut stream = client.get(Some(&last)).await.stream();
    assert_eq!(line_of(&mut stream).await, moved("a", "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_answer_and_then_on_the_stream_that_it_opens_elsewhere() {
    let (_a, _b, cluster) = start(SETTINGS, Setup::new()).await;
    let client = cluster.client(0).initialized().await;
    assert_eq!(answer_of(&client, &cluster, 0).await, Value::Null);
    move_to(&cluster, "b").await;
    // The call moves it, and there is no stream.
    assert_eq!(answer_of(&client, &cluster, 1).await, moved("a", "b"));
    let mut stream = client.on(cluster[2].address).get(None).await.stream();
    assert_eq!(line_of(&mut stream).await, moved("a", "b"));
    let mut next = client.on(cluster[0].address).get(None).await.stream();
    move_to(&cluster, "a").await;
    assert_eq!(line_of(&mut next).await, moved("b", "a"), "and nothing before it");
    for (at, expected) in [(1, moved("b", "a")), (0, Value::Null), (2, Value::Null)] {
        assert_eq!(answer_of(&client, &cluster, at).await, expected, "from {at}");
    }
}
