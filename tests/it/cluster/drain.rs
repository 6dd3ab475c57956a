//! A node that is stopped in order, under load: nothing fails, and it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::task::JoinHandle;

use super::start;
use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Step};
use crate::harness::sse::{End, Stream};

/// One call after the other, half of them Writes, to the nodes in turn; the number of calls, each of
/// which had a result.
fn trickle(clients: Vec<Client>, stop: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut calls = 0;
        while !stop.load(Ordering::SeqCst) {
            let client = &clients[calls % clients.len()];
            let response = match calls % 4 {
                0 | 1 => client.call(calls, "write").await,
                _ => client.ask(calls, "resources/read", r#"{"uri":"test://a"}"#).await,
            };
            assert!(response.get("result").is_some(), "call {calls}: {response}");
            calls += 1;
        }
        calls
    })
}

/// A node with an open GET stream and a call that runs until the gate opens.
async fn busy(recorder: &Recorder, client: &Client) -> (Stream, JoinHandle<Value>) {
    let standing = client.get(None).await.stream();
    let caller = client.clone();
    let before = recorder.calls("slow").len();
    let call = tokio::spawn(async move { caller.call("\"slow\"", "slow").await });
    recorder.wait_for("the call at the server", before + 1, |seen| seen.tool() == "slow").await;
    (standing, call)
}

async fn cluster(gate: &Gate) -> (Recorder, Cluster) {
    let held = gate.clone();
    start(&[], move |seen| {
        let answer = || Reply::json(message::result(seen.id(), r#"{"content":[]}"#));
        match seen.method.as_str() {
            "GET" => Some(Reply::Stream(vec![Step::Wait(Gate::new())])),
            _ => (seen.tool() == "slow").then(|| Reply::after(&held, answer())),
        }
    })
    .await
}

#[tokio::test]
async fn a_node_that_is_terminated_fails_nothing_and_comes_back() {
    let gate = Gate::new();
    let (recorder, mut cluster) = cluster(&gate).await;
    let client = cluster.client(2).initialized().await;
    let (mut standing, call) = busy(&recorder, &client).await;
    let stop = Arc::new(AtomicBool::new(false));
    let others = vec![client.on(cluster[0].address), client.on(cluster[1].address)];
    let load = trickle(others, &stop);

    cluster[2].terminate();

    assert_eq!(standing.end().await, End::Clean);
    let id = standing.last_id.clone();
    let mut moved = client.on(cluster[0].address).get(id.as_deref()).await.stream();
    cluster.sees_state(0, 2, "draining").await;
    gate.open();
    let response = call.await.expect("no panic");
    assert!(response.get("result").is_some(), "{response}");
    assert!(cluster[2].ended().await.success());
    cluster.sees_state(0, 2, "left").await;
    cluster.sees_state(1, 2, "left").await;
    // Some more calls without it, and it is back, with the load still on.
    cluster.restart(2).await;
    cluster.sees_state(0, 2, "ready").await;
    assert!(client.call(1, "write").await.get("result").is_some());
    stop.store(true, Ordering::SeqCst);
    let calls = load.await.expect("no call without a result");
    assert!(calls > 4, "{calls} calls are no load");
    drop(cluster);
    assert_eq!(moved.end().await, End::Cut, "the stream at the other node was open all the time");
}

#[tokio::test]
async fn the_operator_drains_a_node_from_another() {
    let gate = Gate::new();
    let (recorder, mut cluster) = cluster(&gate).await;
    let client = cluster.client(1).initialized().await;
    let (mut standing, call) = busy(&recorder, &client).await;
    let admin = cluster[0].admin.to_string();
    let operator = tokio::task::spawn_blocking(move || operate(&admin, &["drain", "n2", "--yes"]));
    assert_eq!(standing.end().await, End::Clean);
    cluster.sees_state(0, 1, "draining").await;
    gate.open();
    let response = call.await.expect("no panic");
    assert!(response.get("result").is_some(), "{response}");
    assert!(cluster[1].ended().await.success());
    let said = operator.await.expect("no panic");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("left"), "{text}");
    cluster.sees_state(0, 1, "left").await;
    assert!(client.on(cluster[2].address).call(1, "write").await.get("result").is_some());
    cluster.restart(1).await;
    cluster.sees_state(2, 1, "ready").await;
    assert!(client.call(2, "write").await.get("result").is_some());
}

/// Runs a command of the operator.
fn operate(admin: &str, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(crate::harness::process::binary());
    command.args(arguments).args(["--admin", admin]);
    command.output().expect("run the operator's command")
}
