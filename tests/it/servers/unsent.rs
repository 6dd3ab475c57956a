//! A server's `timeout` that ends while a call waits in the gateway: it was not sent, so it did not run, and
//! its client is told that, and why.

use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::{Feed, Recorder, Reply, Step};
use crate::harness::sample::Sample;

use super::moves::{self, order, until};
use super::{faulty, refused, url, write};

/// Its time is over before it is sent, which is no refusal.
fn not_sent_in_time(answer: &Value) {
    refused(answer, -31005);
}

#[tokio::test]
async fn while_a_connection_is_refused() {
    let mut gone = Sample::start(&[]).await;
    let settings = format!(r#"{{ url: "{}", timeout: 1s, connect_timeout: 1s }}"#, url(&gone));
    gone.kill();
    let gateway = Setup::new().server("main", &settings).start().await;
    let answer = Client::modern(&gateway).post(&write(1, "w")).await.response().await;
    refused(&answer, -31001);
}

#[tokio::test]
async fn while_its_class_is_full() {
    let hangs = faulty(r#"{"kind":"hang"}"#).await;
    let gateway = Setup::new()
        .server("main", &format!(r#"{{ url: "{}", timeout: 3s }}"#, url(&hangs)))
        .section("bulkheads: { user: { concurrency: 1, queue: 8, queue_timeout: 30s } }")
        .start()
        .await;
    let client = Client::modern(&gateway);
    let taken = {
        let (client, first) = (client.clone(), write(0, "first"));
        tokio::spawn(async move { client.post(&first).await.response().await })
    };
    let in_flight = r#"holdfast_instance_in_flight{server_id="main",instance="1"}"#;
    gateway.wait_metric(in_flight, |calls| calls == 1.0).await;
    // Those that come while the first one is there wait for its end, and it is not much later than theirs.
    let waiting: Vec<_> = (1..=3)
        .map(|id| {
            let (client, write) = (client.clone(), write(id, &format!("w{id}")));
            tokio::spawn(async move { client.post(&write).await.response().await })
        })
        .collect();
    let first = taken.await.expect("an answer");
    assert_eq!(first["error"]["data"]["mayHaveRun"], true, "{first}");
    let mut turned_away = 0;
    for call in waiting {
        let answer = call.await.expect("an answer");
        // One may have had the place that was given back.
        if answer["error"]["data"]["mayHaveRun"] == false {
            refused(&answer, -31003);
            turned_away += 1;
        }
    }
    assert!(turned_away >= 2, "{turned_away}");
}

#[tokio::test]
async fn while_its_server_moves() {
    let feed = Feed::new();
    let said = feed.clone();
    let a = Recorder::scripted(move |seen| {
        (seen.tool() == "long").then(|| Reply::Stream(vec![Step::Follow(said.clone(), 0)]))
    })
    .await;
    let b = Recorder::start().await;
    let gateway = moves::start_with(&a.url(), &b.url(), "drain: 1h", "timeout: 2s").await;
    let client = Client::modern(&gateway);
    // A call that goes on speaking is waited for.
    let speaking = tokio::spawn(async move {
        loop {
            feed.say(message::event(&message::notification("notifications/tick", "{}")));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let _long = client.post(&message::modern_call(1, "long")).await.stream();
    let _over = order(&gateway, &["failover", "main", "--to", "b"]);
    until(&gateway, "stage", "drain").await;
    let answer = client.post(&write(2, "w")).await.response().await;
    refused(&answer, -31001);
    assert_eq!((a.calls("write").len(), b.calls("write").len()), (0, 0));
    speaking.abort();
}

/// What is still on its way to its server when its time is over.
#[tokio::test]
async fn while_its_server_does_not_open() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let settings = format!(r#"{{ url: "ws://127.0.0.1:{port}/mcp", timeout: 1s }}"#);
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::modern(&gateway);
    let answer = client.post(&write(1, "w")).await.response().await;
    not_sent_in_time(&answer);
}

/// The node ends while a call waits for its turn.
#[tokio::test]
async fn while_its_node_ends() {
    let hangs = faulty(r#"{"kind":"hang"}"#).await;
    let gateway = Setup::new()
        .server("main", &format!(r#"{{ url: "{}" }}"#, url(&hangs)))
        .section("bulkheads: { user: { concurrency: 1, queue: 8, queue_timeout: 5m } }")
        .listen("drain_deadline: 1s")
        .start()
        .await;
    let client = Client::modern(&gateway);
    let calls: Vec<_> = (0..2)
        .map(|id| {
            let (client, write) = (client.clone(), write(id, &format!("w{id}")));
            tokio::spawn(async move { client.post(&write).await.response().await })
        })
        .collect();
    let waits = r#"holdfast_bulkhead_waiting{server_id="main",class="user"}"#;
    gateway.wait_metric(waits, |waiting| waiting == 1.0).await;
    gateway.terminate();
    let mut told = Vec::new();
    for call in calls {
        let answer = call.await.expect("an answer");
        let error = &answer["error"];
        told.push((error["code"].as_i64(), error["data"]["mayHaveRun"].as_bool()));
    }
    told.sort_unstable();
    assert_eq!(told, [(Some(-31002), Some(true)), (Some(-31001), Some(false))]);
}
