//! A tool that hangs in a process that the clients of all nodes share.

use serde_json::Value;

use super::modern;
use crate::harness::cluster::Cluster;
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::message::{self, META};
use crate::harness::sample::{ExecutionLog, stdio};
use crate::harness::{eventually, within};
use crate::servers::refused;

const QUARANTINED: &str = r#"holdfast_bulkhead_quarantined{server_id="main",class="user"}"#;

async fn call(cluster: &Cluster, at: usize, tool: &str, key: &str, ms: u32) -> Value {
    let arguments = format!(r#"{{"key":"{key}","ms":{ms}}}"#);
    let params = format!(r#"{{"name":"{tool}","arguments":{arguments},{META}}}"#);
    let body = message::request(format!("\"{key}\""), "tools/call", &params);
    modern(cluster, at, "main").post(&body).await.response().await
}

/// Other tools are served, whichever node is asked; this one is refused, for what hangs.
async fn others_go_on(cluster: &Cluster, nodes: &[usize], round: &str) {
    for at in nodes {
        let answer = call(cluster, *at, "write", &format!("{round}-{at}"), 0).await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
}

/// The node that runs the process sets the tool aside for the clients of all, and none else does; so it stays when
/// the coordinator is gone.
#[tokio::test]
async fn is_set_aside_for_the_clients_of_all_nodes() {
    let log = ExecutionLog::new();
    let mark = format!("nodes-quarantine-{}", std::process::id());
    let cluster = Setup::new()
        .server("main", &stdio(&log, &mark))
        .section("bulkheads: { quarantine: 1h, user: { concurrency: 4, queue: 4 } }")
        .cluster()
        .await;
    let mut cluster = cluster;
    let leader = cluster.coordinator().await;
    let (holder, third) = ((leader + 1) % 3, (leader + 2) % 3);
    // Who asks first runs it.
    others_go_on(&cluster, &[holder], "first").await;
    let hang = |number: usize| {
        let client = modern(&cluster, number % 3, "main");
        let params =
            format!(r#"{{"name":"slow","arguments":{{"key":"h{number}","ms":600000}},{META}}}"#);
        let body = message::request(number, "tools/call", &params);
        tokio::spawn(async move { client.post(&body).await.response().await })
    };
    let mut hanging: Vec<_> = (0..4).map(hang).collect();
    let runs = |number: usize| log.executions("slow", &format!("h{number}")) == 1;
    eventually("four that hang", || (0..4).all(runs).then_some(())).await;
    others_go_on(&cluster, &ALL, "beside").await;
    for at in ALL {
        let expected = if at == holder { 1.0 } else { 0.0 };
        assert_eq!(cluster[at].metric(QUARANTINED).await, expected, "node {at} of {holder}");
    }
    // One more waits, and the next is told, whichever node it asks.
    hanging.push(hang(4));
    let waiting = r#"holdfast_bulkhead_waiting{server_id="main",class="user"}"#;
    within("a call that waits", async {
        while cluster[holder].metric(waiting).await != 1.0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    for at in ALL {
        let answer = call(&cluster, at, "slow", "told", 0).await;
        refused(&answer, -31003);
        assert!(answer.to_string().contains("bulkheads.quarantine"), "{answer}");
    }

    cluster[leader].kill();
    let left = [holder, third];
    cluster.coordinator_of(&left).await;
    others_go_on(&cluster, &left, "after").await;
    for at in left {
        refused(&call(&cluster, at, "slow", "told", 0).await, -31003);
    }
    assert_eq!(log.executions("slow", "told"), 0);
    drop(hanging);
}
