//! Servers that are processes: of whichever node, and for all of them.

use super::led;
use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::eventually;
use crate::harness::gateway::Setup;
use crate::harness::message::{self, META, MODERN};
use crate::harness::process::{is_alive, with_environment};
use crate::harness::sample::{ExecutionLog, stdio};

async fn processes(mark: &str) -> (ExecutionLog, Cluster) {
    let log = ExecutionLog::new();
    let cluster = Setup::new().server("main", &stdio(&log, mark)).cluster().await;
    (log, cluster)
}

/// Unique over test processes, so that each finds only its own.
fn mark(name: &str) -> String {
    format!("cluster-{name}-{}", std::process::id())
}

/// The process that serves this client, found by what it writes down.
async fn pid(log: &ExecutionLog, client: &Client, key: &str) -> u32 {
    let meta = if client.version == MODERN { format!(",{META}") } else { String::new() };
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}"}}{meta}}}"#);
    // Without a name nobody could say of a Write that went to a killed node whether it has run.
    let client = client.clone().with("X-Request-ID", key);
    let response = led(&client, &message::request(1, "tools/call", &params)).await;
    assert!(response.get("result").is_some(), "{key}: {response}");
    assert_eq!(log.executions("write", key), 1);
    log.pid(key).expect("an execution")
}

async fn none_left(mark: &str) {
    let entry = format!("HOLDFAST_IT_MARK={mark}");
    eventually("no process is left", || with_environment(&entry).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_session_has_one_process_wherever_it_is_asked_for() {
    let mark = mark("session");
    let (log, mut cluster) = processes(&mark).await;
    let client = cluster.client(0).initialized().await;
    let first = pid(&log, &client, "at-0").await;
    for at in [1, 2, 0] {
        let key = format!("again-at-{at}");
        assert_eq!(pid(&log, &client.on(cluster[at].address), &key).await, first, "{at}");
    }
    // The process asks, and is answered by way of yet another node.
    let at = |number: usize| client.on(cluster[number].address);
    let mut stream = at(1).post(&message::call(5, "sample")).await.stream();
    let request = stream.find("a request", |it| it["method"] == "sampling/createMessage").await;
    let answer = r#"{"role":"assistant","model":"m","content":{"type":"text","text":"hello"}}"#;
    let accepted = at(2).post(&message::result(&request["id"], answer)).await.answer();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let result = stream.find("the result", |it| it.get("result").is_some()).await;
    assert_eq!(result["id"], 5, "{result}");

    // Neither a request nor an answer is too large to be passed on.
    let params = r#"{"name":"big","arguments":{"bytes":3000000}}"#;
    let big = at(1).ask(6, "tools/call", params).await;
    let text = big["result"]["content"][0]["text"].as_str().unwrap_or_default();
    assert_eq!(text.len(), 3_000_000);
    let params = format!(
        r#"{{"name":"write","arguments":{{"key":"large","value":"{}"}}}}"#,
        "x".repeat(1_000_000)
    );
    assert!(at(2).ask(7, "tools/call", &params).await.get("result").is_some());
    assert_eq!(log.pid("large"), Some(first));

    // Its node dies, and it dies with it. The session goes on under its id, with another process.
    cluster[0].kill();
    eventually("the end of its process", || (!is_alive(first)).then_some(())).await;
    let second = pid(&log, &client.on(cluster[1].address), "after").await;
    assert_ne!(second, first);
    assert_eq!(pid(&log, &client.on(cluster[2].address), "and-on").await, second);
    assert_eq!(client.on(cluster[2].address).delete().await.status, 200);
    eventually("the end of its process", || (!is_alive(second)).then_some(())).await;
    drop(cluster);
    none_left(&mark).await;
}

#[tokio::test]
async fn modern_clients_of_all_nodes_share_one_process() {
    let mark = mark("modern");
    let (log, mut cluster) = processes(&mark).await;
    let at = |cluster: &Cluster, number: usize| cluster.client(number).speaking(MODERN);
    let first = pid(&log, &at(&cluster, 0), "at-0").await;
    for number in [1, 2, 0] {
        let key = format!("again-at-{number}");
        assert_eq!(pid(&log, &at(&cluster, number), &key).await, first, "{number}");
    }
    cluster[0].kill();
    eventually("the end of its process", || (!is_alive(first)).then_some(())).await;
    let second = pid(&log, &at(&cluster, 1), "after").await;
    assert_ne!(second, first);
    assert_eq!(pid(&log, &at(&cluster, 2), "and-on").await, second);
    drop(cluster);
    none_left(&mark).await;
}

/// The client's node lives, the one that has the process dies in the middle of its calls.
#[tokio::test]
async fn calls_that_were_passed_on_to_a_killed_node_are_answered() {
    let mark = mark("passed-on");
    let (log, mut cluster) = processes(&mark).await;
    let client = cluster.client(0).initialized().await;
    let elsewhere = client.on(cluster[1].address);
    // From here on every node knows which tools are Reads.
    assert!(elsewhere.ask(1, "tools/list", "{}").await["result"]["tools"].is_array());
    let first = pid(&log, &elsewhere, "before").await;
    let call = |at: usize, id: &'static str, params: &'static str| {
        let client = client.on(cluster[at].address);
        tokio::spawn(async move { client.ask(format!("\"{id}\""), "tools/call", params).await })
    };
    // The Write takes so long that it ends by itself in no run of this test.
    let write = call(1, "w", r#"{"name":"write","arguments":{"key":"w","ms":600000}}"#);
    eventually("the Write", || log.pid("w")).await;
    let read = call(2, "r", r#"{"name":"slow","arguments":{"key":"r","ms":5000}}"#);
    eventually("the Read", || log.pid("r")).await;
    cluster[0].kill();
    let lost = write.await.expect("no panic");
    assert_eq!(lost["id"], "w", "{lost}");
    super::is_unknown(&lost);
    assert_eq!(log.executions("write", "w"), 1);
    // The Read is called again where the session is opened again.
    let answer = read.await.expect("no panic");
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(answer["id"], "r", "{answer}");
    assert_eq!(log.executions("slow", "r"), 2);
    let second = pid(&log, &elsewhere, "after").await;
    assert_ne!(second, first);
    drop(cluster);
    none_left(&mark).await;
}
