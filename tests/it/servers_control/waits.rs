//! A Write that comes while its server is drained waits, and runs at the new instance: once, to whichever nodes
//! a balancer has sent it, and whichever of them die over it.

use std::time::Duration;

use super::{SETTINGS, start, write};
use crate::harness::control::Order;
use crate::harness::gateway::Setup;
use crate::harness::within;

/// For longer than a call may take into the journal.
const DRAIN: u32 = 14_000;

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_meet_a_long_drain_wait_and_run_once() {
    let (a, b, cluster) = start(SETTINGS, Setup::new()).await;
    let client = cluster.client(0).initialized().await;
    let sends = |node: usize, key: &str, ms: u32, id: Option<&str>| {
        let mut client = client.on(cluster[node].address);
        if let Some(id) = id {
            client = client.with("X-Request-ID", id);
        }
        let body = write(key, ms);
        tokio::spawn(async move { client.post(&body).await.response().await })
    };
    let long = sends(0, "long", DRAIN, None);
    within("the call's execution", async {
        while a.executions("write", "long") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let order = Order::give(cluster[0].admin, &["failover", "docs", "--to", "b"]);
    cluster.shows(0, "docs", "its drain", |it| it["stage"] == "drain").await;
    let mut waiting = vec![long];
    waiting.extend((0..3).map(|node| sends(node, &format!("plain-{node}"), 0, None)));
    // A balancer that has lost a node sends what it had sent there to the next.
    for node in 0..3 {
        waiting.push(sends(node, "copied", 0, Some("req-1")));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for answer in waiting {
        let answer = answer.await.expect("no panic");
        assert!(answer.get("result").is_some(), "{answer}");
    }
    order.arrives_at("b").await;
    assert_eq!(a.executed("write").into_keys().collect::<Vec<_>>(), ["long"]);
    let ran = b.executed("write");
    assert_eq!(ran.len(), 4, "{ran:?}");
    assert!(ran.values().all(|times| *times == 1), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_node_dies_while_it_waits_was_not_sent() {
    let streams = Setup::new().section("streams: { commit_after: 200ms }");
    let (a, b, mut cluster) = start(SETTINGS, streams).await;
    let client = cluster.client(0).initialized().await;
    let (dies, lives) = if cluster.coordinator().await == 1 { (2, 1) } else { (1, 2) };
    let long = client.clone();
    let long = tokio::spawn(async move { long.post(&write("long", DRAIN)).await.response().await });
    within("the call's execution", async {
        while a.executions("write", "long") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let order = Order::give(cluster[0].admin, &["failover", "docs", "--to", "b"]);
    cluster.shows(dies, "docs", "its drain", |it| it["stage"] == "drain").await;
    let mut begun = Vec::new();
    for (key, id) in [("copied", Some("req-1")), ("resumed", None)] {
        let mut client = client.on(cluster[dies].address);
        if let Some(id) = id {
            client = client.with("X-Request-ID", id);
        }
        let mut stream = client.post(&write(key, 0)).await.stream();
        let id = stream.next().await.and_then(|event| event.id).expect("a primed stream");
        begun.push((stream, id));
    }
    cluster[dies].kill();
    let at = client.on(cluster[lives].address);
    let copy = at.clone().with("X-Request-ID", "req-1");
    let copy = tokio::spawn(async move { copy.post(&write("copied", 0)).await.response().await });
    let (mut messages, _) = at.get(Some(&begun[1].1)).await.stream().into_end().await;
    let denied = messages.pop().expect("an answer");
    assert_eq!(denied["id"], "resumed", "{denied}");
    assert_eq!(denied["error"]["code"], -31004, "{denied}");
    for answer in [long, copy] {
        let answer = answer.await.expect("no panic");
        assert!(answer.get("result").is_some(), "{answer}");
    }
    order.arrives_at("b").await;
    assert_eq!(a.executed("write").into_keys().collect::<Vec<_>>(), ["long"]);
    assert_eq!(b.executed("write").into_iter().collect::<Vec<_>>(), [("copied".to_owned(), 1)]);
}
