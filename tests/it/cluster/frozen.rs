//! A node that stands still for longer than the others wait for it, and then goes on as if nothing
//! had been.

use super::{balanced, is_unknown, start};
use crate::harness::message;
use crate::harness::recorder::{Gate, Reply};
use crate::harness::wire::Conn;

#[tokio::test]
async fn a_thawed_node_runs_nothing_that_the_others_have_run() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, cluster) = start(&[], move |seen| {
        let answer = || Reply::json(message::result(seen.id(), r#"{"content":[]}"#));
        (seen.tool() == "slow").then(|| Reply::after(&held, answer()))
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let at = |number: usize| client.on(cluster[number].address);
    let before = cluster.sees_state(1, 0, "ready").await["generation"].as_u64().expect("a number");

    // A Write that runs, and a connection on which the next is sent when nobody reads it.
    let running = message::call(1, "slow");
    let mut caller = Conn::open(client.address).await;
    caller.send(client.request("POST", &[("X-Request-ID", "runs")], Some(&running))).await;
    recorder.wait_for("the Write at the server", 1, |seen| seen.tool() == "slow").await;
    let mut waiting = Conn::open(client.address).await;
    let ready = format!("GET /health/ready HTTP/1.1\r\nHost: {}\r\n\r\n", client.address);
    assert_eq!(waiting.exchange(ready).await.status, 200);

    cluster[0].freeze();
    let late = message::call(2, "late");
    waiting.send(client.request("POST", &[("X-Request-ID", "late")], Some(&late))).await;
    cluster.sees_state(1, 0, "dead").await;
    is_unknown(&balanced(&at(1), "runs", &running).await);
    let answer = balanced(&at(2), "late", &late).await;
    assert_eq!(answer["result"]["content"][0]["text"], "late done", "{answer}");
    gate.open();
    cluster[0].thaw();

    // It closes what was connected: whoever is still there is sent to the others.
    caller.closed().await;
    waiting.closed().await;
    cluster[0].becomes_ready().await;
    let after = cluster.sees_state(1, 0, "ready").await["generation"].as_u64().expect("a number");
    assert!(after > before, "generation {before}, then {after}");
    // And from here on it is a node like any other, which knows what the others have run.
    assert!(at(0).call(3, "other").await.get("result").is_some());
    is_unknown(&balanced(&at(0), "runs", &running).await);
    let answer = balanced(&at(0), "late", &late).await;
    assert_eq!(answer["result"]["content"][0]["text"], "late done", "{answer}");
    assert_eq!(recorder.calls("slow").len(), 1);
    assert_eq!(recorder.calls("late").len(), 1);
}
