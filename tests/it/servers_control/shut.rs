//! A primary whose listener is gone: who is connected is served as well as ever, and nobody else gets in. Checks and
//! calls of nodes are connected.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{PATIENT, all_well, pair, write};
use crate::harness::client::Client;
use crate::harness::cluster::PATIENCE;
use crate::harness::control::ALL;
use crate::harness::door::Door;
use crate::harness::gateway::Setup;
use crate::harness::sample::Sample;

/// None of the checks makes a connection by itself while it has one.
const SETTINGS: &str = r#"health: { interval: 1s, timeout: 1s, retries: 0, checks: [ { type: ping },
    { type: tool, tool: echo, arguments: {} } ] }, failover: { threshold: 2, failback_delay: 1h, drain: 20s }"#;

/// Two servers, and the way to the first.
async fn servers() -> (Door, [Sample; 2]) {
    let (a, b) = (Sample::start(&["--name", "a"]).await, Sample::start(&["--name", "b"]).await);
    (Door::before(a.address).await, [a, b])
}

fn settings(door: &Door, b: &Sample) -> String {
    let urls = [door.address, b.address].map(|it| format!("http://{it}/mcp"));
    pair(&urls[0], &urls[1], SETTINGS)
}

/// Calls until a secondary answers; each call ends in a result, or did not run.
async fn call_until_moved(client: &Client, [a, b]: [&Sample; 2], prefix: &str) {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        let key = format!("{prefix}-{number}");
        let answer = client.post(&write(&key, 0)).await.response().await;
        let ran = [a, b].map(|it| it.executions("write", &key));
        match answer.get("result") {
            Some(_) if ran == [0, 1] => return,
            Some(_) => assert_eq!(ran, [1, 0], "{answer}"),
            None => {
                let error = &answer["error"];
                assert_eq!(
                    (&error["code"], &error["data"]["mayHaveRun"]),
                    (&(-31001).into(), &false.into())
                );
                assert_eq!(ran, [0, 0], "{answer}");
            }
        }
        assert!(Instant::now() < deadline, "it is never left: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn on_b(seen: &Value) -> bool {
    seen["phase"] == "secondary_active" && seen["active"] == "b"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_takes_no_new_connections_is_left_by_all_and_comes_back_to_health() {
    let (door, [a, b]) = servers().await;
    let setup = Setup::new().server("docs", &settings(&door, &b));
    let cluster = setup.failover_timeout(PATIENT).cluster().await;
    all_well(&cluster).await;
    // The others have no calls, and keep the connections of their checks.
    let client = cluster.client(1).initialized().await;
    let answer = client.post(&write("before", 0)).await.response().await;
    assert!(answer.get("result").is_some(), "{answer}");
    door.refuse();
    call_until_moved(&client, [&a, &b], "n1").await;
    let seen = cluster.all_show(&ALL, "docs", "on b", on_b).await;
    assert_eq!(seen["generation"], 1, "it moved once: {seen}");
    for at in ALL {
        let seen = cluster.control(at, "docs").await;
        let why = seen["instances"][0]["why"].to_string();
        assert!(why.contains("connect: unreachable (connection refused)"), "{seen}");
        let check = cluster[at].check("server:docs/a/connect").await.expect("it is shown");
        assert_eq!(check["error"], "unreachable: connection refused", "{check}");
    }
    let record = cluster.record(0).await;
    let says = |it: &Value| {
        it["kind"] == "failover_began"
            && it["text"].as_str().is_some_and(|it| it.contains("a is unreachable"))
    };
    assert!(record.iter().any(says), "{record:#?}");
    let incidents = cluster[0].says("/api/incidents").await.unwrap_or_default();
    assert_eq!(incidents["incidents"][0]["instance"], "a", "{incidents}");

    door.admit();
    let well = |it: &Value| on_b(it) && it["instances"][0]["verdict"] == "healthy";
    cluster.all_show(&ALL, "docs", "well again", well).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_its_own_leaves_a_primary_that_takes_no_new_connections() {
    let (door, [a, b]) = servers().await;
    let gateway = Setup::new().server("docs", &settings(&door, &b)).start().await;
    let verdict = r#"holdfast_control_instance_verdict{server="docs",instance="a"}"#;
    gateway.wait_metric(verdict, |it| it == 0.0).await;
    let client = Client::legacy(&gateway).at("/mcp/docs").initialized().await;
    let answer = client.post(&write("before", 0)).await.response().await;
    assert!(answer.get("result").is_some(), "{answer}");
    door.refuse();
    call_until_moved(&client, [&a, &b], "alone").await;
}
