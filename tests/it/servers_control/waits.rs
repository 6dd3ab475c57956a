//! A Write that comes while its server is drained waits, and runs at the new instance: once, to whichever nodes
//! a balancer has sent it.

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
