//! A configuration that changes on three nodes: under load, while one of them is away, where one of them
//! cannot take it over, by two operators at once, and with a coordinator that dies over it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, PATIENCE, post};
use crate::harness::gateway::Setup;
use crate::harness::sample::Sample;
use crate::harness::wire::Conn;

const QUIET: &str = "reload: { watch: false }";
const WATCHED: &str = "reload: { interval: 100ms }";

fn setup(sample: &Sample) -> Setup {
    let url = format!("http://{}/mcp", sample.address);
    Setup::http(&url).section("limits: { streams: 1001 }")
}

/// What a node says of the versions, once it fits.
async fn history(cluster: &Cluster, at: usize, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = cluster[at].says("/api/config/history").await.unwrap_or_default();
        if fits(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "n{}: never {what}; last: {seen:#}", at + 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until this node knows that all of these run this version.
async fn all_run(cluster: &Cluster, asked: usize, nodes: &[&str], version: u64) -> Value {
    history(cluster, asked, &format!("all at {version}"), |seen| {
        let runs = |name: &&str| node(seen, name)["version"] == version;
        last(seen)["version"] == version && nodes.iter().all(runs)
    })
    .await
}

fn node(seen: &Value, name: &str) -> Value {
    let nodes = seen["nodes"].as_array().cloned().unwrap_or_default();
    nodes.into_iter().find(|it| it["node"] == name).unwrap_or_default()
}

fn last(seen: &Value) -> Value {
    seen["versions"].as_array().and_then(|it| it.last().cloned()).unwrap_or_default()
}

async fn reload(cluster: &Cluster, at: usize) -> (u16, Value) {
    post(cluster[at].admin, "/api/config/reload", "{}").await.expect("an answer")
}

const ALL: [&str; 3] = ["n1", "n2", "n3"];

/// Calls one after the other on one session, until told to stop. Returns how many, and what failed.
async fn call_on(client: Client, stop: Arc<AtomicBool>) -> (u64, Vec<Value>) {
    let (mut calls, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let answer = client.call(calls, "echo").await;
        calls += 1;
        if answer.get("result").is_none() {
            failed.push(answer);
        }
    }
    (calls, failed)
}

#[tokio::test]
async fn a_file_that_changes_and_a_signal_reach_all_nodes_and_no_call_fails() {
    let sample = Sample::start(&[]).await;
    let cluster = setup(&sample).section(WATCHED).cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    let (stop, mut load) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for at in 0..3 {
        for _ in 0..3 {
            let client = cluster.client(at).at("/mcp/main").initialized().await;
            load.spawn(call_on(client, Arc::clone(&stop)));
        }
    }
    // By the file of one, by another's signal, by the first one's file again.
    cluster[0].rewrite("streams: 1001", "streams: 1002");
    let seen = all_run(&cluster, 2, &ALL, 2).await;
    assert_eq!(last(&seen)["by"], "the file of n1");
    let second = format!("servers:\n  second: {{ url: \"http://{}/mcp\" }}\n", sample.address);
    cluster[1].rewrite("servers:\n", &second);
    cluster[1].hang_up();
    let seen = all_run(&cluster, 0, &ALL, 3).await;
    assert!(last(&seen)["by"].as_str().is_some_and(|by| by.ends_with("n2")), "{seen:#}");
    // The new server answers on a node whose file does not have it.
    let client = cluster.client(2).at("/mcp/second").initialized().await;
    assert!(client.call(1, "echo").await.get("result").is_some());
    let back = post(cluster[2].admin, "/api/config/rollback", "{\"version\":1}").await;
    assert_eq!(back.map(|it| it.0), Some(200));
    let seen = all_run(&cluster, 1, &ALL, 4).await;
    assert_eq!(last(&seen)["rolls_back_to"], 1);
    stop.store(true, Ordering::Relaxed);
    let mut calls = 0;
    while let Some(done) = load.join_next().await {
        let (made, failed) = done.expect("no panic");
        assert!(failed.is_empty(), "{} of {made} failed: {:?}", failed.len(), failed[0]);
        calls += made;
    }
    assert!(calls > 100, "only {calls} calls");
}

#[tokio::test]
async fn a_node_that_was_away_takes_over_what_was_agreed_on_meanwhile() {
    let sample = Sample::start(&[]).await;
    let mut cluster = setup(&sample).section(QUIET).cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    cluster[2].kill();
    cluster[0].rewrite("streams: 1001", "streams: 1002");
    let (status, done) = reload(&cluster, 0).await;
    assert_eq!((status, &done["version"], &done["new"]), (200, &2.into(), &true.into()), "{done}");
    assert_eq!(done["changes"][0]["key"], "limits.streams");
    cluster.restart(2).await;
    let seen = all_run(&cluster, 2, &ALL, 2).await;
    assert_eq!(node(&seen, "n3")["file"], "differs", "its own file is the old one");
    let back = post(cluster[2].admin, "/api/config/rollback", "{\"version\":1}").await;
    let (status, done) = back.expect("an answer");
    assert_eq!((status, &done["version"]), (200, &3.into()), "{done}");
    assert_eq!(done["changes"][0]["new"], "1001");
    all_run(&cluster, 0, &ALL, 3).await;
    let shown = cluster[1].says("/api/config?version=2").await.expect("a text");
    assert!(shown["text"].as_str().is_some_and(|it| it.contains("streams: 1002")), "{shown}");
}

#[tokio::test]
async fn a_node_that_cannot_take_a_version_over_says_so_and_serves_on() {
    let sample = Sample::start(&[]).await;
    let setup = setup(&sample).section(QUIET);
    let setup = setup.variable(0, "TOKEN", "t0k3n").variable(1, "TOKEN", "t0k3n");
    let cluster = setup.cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    cluster[0].rewrite("main: {", "main: { headers: { X-Token: \"${TOKEN}\" },");
    let (status, done) = reload(&cluster, 0).await;
    assert_eq!((status, &done["version"]), (200, &2.into()), "{done}");
    for seen in [done, all_run(&cluster, 1, &["n1", "n2"], 2).await] {
        let third = node(&seen, "n3");
        assert_eq!((&third["version"], &third["failed"]), (&1.into(), &2.into()), "{seen:#}");
        let why = third["why"].as_str().unwrap_or_default();
        assert!(why.contains("the environment variable TOKEN is not set"), "{why}");
    }
    let nodes = cluster[1].nodes().await.expect("nodes");
    let runs = |at: usize| nodes["nodes"][at]["configuration"].clone();
    assert_eq!((&runs(0)["version"], &runs(0)["failed"]), (&2.into(), &Value::Null), "{nodes:#}");
    assert_eq!((&runs(2)["version"], &runs(2)["failed"]), (&1.into(), &2.into()), "{nodes:#}");
    let client = cluster.client(2).at("/mcp/main").initialized().await;
    assert!(client.call(1, "echo").await.get("result").is_some());
    let events = cluster[0].says("/api/audit").await.expect("events").to_string();
    assert!(events.contains("n3 cannot take version 2 over, and keeps 1: "), "{events}");
    assert!(!events.contains("t0k3n"));
    // The others go back, and with that it runs what all run.
    let back = post(cluster[2].admin, "/api/config/rollback", "{\"version\":1}").await;
    assert_eq!(back.map(|it| it.0), Some(200));
    let seen = all_run(&cluster, 0, &ALL, 3).await;
    assert_eq!(node(&seen, "n3")["failed"], Value::Null);
}

#[tokio::test]
async fn of_two_operators_at_once_one_wins_and_the_other_is_told() {
    let sample = Sample::start(&[]).await;
    let cluster = setup(&sample).section(QUIET).cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    let mut told = 0;
    for round in 1..=20 {
        let (before, after) = (1000 + 10 * round - 9, 1000 + 10 * round + 1);
        let mine = format!("streams: {before}");
        cluster[0].rewrite(&mine, &format!("streams: {after}"));
        cluster[1].rewrite(&mine, &format!("streams: {}", after + 1));
        let (one, other) = tokio::join!(reload(&cluster, 0), reload(&cluster, 1));
        cluster[1].rewrite(&format!("streams: {}", after + 1), &format!("streams: {after}"));
        for (status, said) in [one, other] {
            match status {
                200 => {}
                409 => {
                    let error = said["error"].as_str().unwrap_or_default();
                    assert!(error.contains(" came first, by an operator at n"), "{error}");
                    told += 1;
                }
                _ => panic!("{status}: {said}"),
            }
        }
        if told > 0 {
            break;
        }
    }
    assert!(told > 0, "never at the same time");
    // Whoever won, all run the same.
    history(&cluster, 2, "all the same", |seen| {
        ALL.iter().all(|name| node(seen, name)["version"] == last(seen)["version"])
    })
    .await;
}

#[tokio::test]
async fn an_operator_who_goes_at_once_gets_the_change_all_the_same() {
    let sample = Sample::start(&[]).await;
    let cluster = setup(&sample).section(QUIET).cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    cluster[0].rewrite("streams: 1001", "streams: 1002");
    leave(cluster[0].admin, "/api/config/reload", "{}").await;
    all_run(&cluster, 1, &ALL, 2).await;
    leave(cluster[2].admin, "/api/config/rollback", r#"{"version":1}"#).await;
    all_run(&cluster, 1, &ALL, 3).await;
}

/// Asks for a change, and is gone before there can be an answer.
async fn leave(admin: SocketAddr, path: &str, body: &str) {
    let mut conn = Conn::open(admin).await;
    let length = body.len();
    conn.send(format!(
        "POST {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    ))
    .await;
}

#[tokio::test]
async fn a_version_outlives_the_coordinator_that_agreed_on_it() {
    let sample = Sample::start(&[]).await;
    let mut cluster = setup(&sample).section(QUIET).cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    let nodes = cluster[0].nodes().await.expect("nodes");
    let leader = ALL.iter().position(|it| nodes["leader"] == *it).expect("a coordinator");
    let other = (leader + 1) % 3;
    cluster[leader].rewrite("streams: 1001", "streams: 1002");
    let admin = cluster[leader].admin;
    let asked = tokio::spawn(async move { post(admin, "/api/config/reload", "{}").await });
    // As soon as another node knows of it, the coordinator is gone.
    history(&cluster, other, "a second version", |seen| last(seen)["version"] == 2).await;
    cluster[leader].kill();
    let _ = asked.await;
    let rest: Vec<&str> = ALL.into_iter().filter(|it| *it != ALL[leader]).collect();
    all_run(&cluster, other, &rest, 2).await;
    cluster.restart(leader).await;
    all_run(&cluster, leader, &ALL, 2).await;
}

#[tokio::test]
async fn without_a_majority_nothing_changes_and_says_so() {
    let sample = Sample::start(&[]).await;
    let mut cluster = setup(&sample).section(QUIET).cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    cluster[1].kill();
    cluster[2].kill();
    cluster[0].rewrite("streams: 1001", "streams: 1002");
    let (status, said) = reload(&cluster, 0).await;
    let error = said["error"].as_str().unwrap_or_default();
    assert!(matches!(status, 503 | 504) && error.contains("the cluster"), "{status}: {said}");
    assert_eq!(last(&cluster[0].says("/api/config/history").await.expect("it"))["version"], 1);
}

#[tokio::test]
async fn a_node_that_starts_without_a_majority_says_so_once_and_comes_to_what_holds() {
    let sample = Sample::start(&[]).await;
    let mut cluster = setup(&sample).section(QUIET).cluster().await;
    all_run(&cluster, 0, &ALL, 1).await;
    for at in 0..3 {
        cluster[at].kill();
    }
    cluster.start_again(0);
    let said = |cluster: &Cluster, what: &str| cluster[0].log().matches(what).count();
    let deadline = Instant::now() + PATIENCE;
    while said(&cluster, "configuration still not agreed on") < 4 {
        assert!(Instant::now() < deadline, "it does not try again:\n{}", cluster[0].log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(said(&cluster, "configuration not agreed on"), 1);
    assert_eq!(said(&cluster, "the cluster agrees on configurations again"), 0);
    cluster.restart(1).await;
    all_run(&cluster, 0, &["n1", "n2"], 1).await;
    let told = || said(&cluster, "the cluster agrees on configurations again") == 1;
    crate::harness::eventually("that it says so", || told().then_some(())).await;
    assert_eq!(said(&cluster, "configuration not agreed on"), 1);
}
