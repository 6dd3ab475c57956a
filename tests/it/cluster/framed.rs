//! What belongs to one node's connection, asked for at another.

use super::{led, start};
use crate::harness::duplex::Duplex;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::{Gate, Reply, Step};
use crate::harness::sample::Sample;

const SAMPLE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{"maxTokens":1,"messages":[]}}"#;

/// The event stream of 2024-11-05 is at one node, the messages are posted to the others.
#[tokio::test]
async fn an_sse_client_may_post_to_any_node() {
    let (recorder, cluster) = start(&[], |_| None).await;
    let mut client = Duplex::sse(cluster[0].address, "/sse").await;
    for at in [1, 2, 0] {
        if let Duplex::Sse { address, .. } = &mut client {
            *address = cluster[at].address;
        }
        if at == 1 {
            let answer = client.ask(&message::initialize("2024-11-05")).await;
            assert!(answer.get("result").is_some(), "{answer}");
            client.send(&message::notification("notifications/initialized", "{}")).await;
        }
        let answer = client.ask(&message::call(at, "tool")).await;
        assert_eq!(answer["result"]["content"][0]["text"], "tool done", "{answer}");
    }
    let calls = recorder.calls("tool");
    assert_eq!(calls.len(), 3);
    for seen in calls {
        assert_eq!(seen.header("mcp-session-id"), Some("server-session-1"));
    }
}

/// The server asks on the stream of one node, and the client answers at another.
#[tokio::test]
async fn an_answer_to_the_server_may_go_to_any_node() {
    let answered = Gate::new();
    let held = answered.clone();
    let (recorder, cluster) = start(&[], move |seen| {
        (seen.tool() == "ask").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(SAMPLE)),
                Step::Wait(held.clone()),
                Step::Send(message::event(&message::result(seen.id(), r#"{"content":[]}"#))),
            ])
        })
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let mut stream = client.post(&message::call(1, "ask")).await.stream();
    let request = stream.find("the request", |it| it["method"] == "sampling/createMessage").await;
    assert_eq!(request["id"], 0, "{request}");
    for at in [1, 2] {
        let answer = message::result(0, &format!(r#"{{"from":{at}}}"#));
        let accepted = client.on(cluster[at].address).post(&answer).await.answer();
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        let seen = recorder.wait_for("the answer", 1, |seen| seen.text() == answer).await;
        assert_eq!(seen[0].header("mcp-session-id"), Some("server-session-1"));
    }
    answered.open();
    let result = stream.find("the result", |it| it.get("result").is_some()).await;
    assert_eq!(result["id"], 1, "{result}");
}

/// What a client no longer wants it may say at any node.
#[tokio::test]
async fn a_cancellation_may_go_to_any_node() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, cluster) = start(&["streams: { commit_after: 10ms }"], move |seen| {
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::Cut))
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let stream = client.post(&message::call(77, "slow")).await.stream();
    let cancel = message::notification("notifications/cancelled", r#"{"requestId":77}"#);
    let accepted = client.on(cluster[1].address).post(&cancel).await.answer();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let is_cancel = |seen: &crate::harness::recorder::Seen| seen.text() == cancel;
    let seen = recorder.wait_for("the cancellation", 1, is_cancel).await;
    assert_eq!(seen[0].header("mcp-session-id"), Some("server-session-1"));
    drop(stream);
    gate.open();
}

/// A server SHOULD NOT answer what was cancelled: its place is the next call's at once, at the node that
/// serves it.
#[tokio::test]
async fn a_call_that_is_cancelled_at_another_node_holds_nobody_up() {
    let gate = Gate::new();
    let held = gate.clone();
    let sections =
        ["streams: { commit_after: 10ms }", "bulkheads: { user: { concurrency: 1, queue: 8 } }"];
    let (recorder, cluster) = start(&sections, move |seen| {
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::Cut))
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let stream = client.post(&message::call(77, "slow")).await.stream();
    recorder.wait_for("the call", 1, |seen| seen.tool() == "slow").await;
    let waiting = client.clone();
    let mut next = tokio::spawn(async move { waiting.call(78, "tool").await });
    let cancel = message::notification("notifications/cancelled", r#"{"requestId":77}"#);
    // Until the answer has become a stream there is nothing that could be let go.
    let answer = loop {
        let accepted = client.on(cluster[1].address).post(&cancel).await.answer();
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        tokio::select! {
            answer = &mut next => break answer.expect("no panic"),
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
        }
    };
    assert!(answer.get("result").is_some(), "{answer}");
    drop(stream);
    gate.open();
}

/// The connection to such a server is one node's, until that is killed.
#[tokio::test]
async fn sessions_over_a_connection_are_reached_from_any_node() {
    let sample = Sample::start(&[]).await;
    let address = sample.address;
    let mut cluster = Setup::new()
        .server("sse", &format!(r#"{{ url: "http://{address}/sse", transport: sse }}"#))
        .server("ws", &format!(r#"{{ url: "ws://{address}/ws" }}"#))
        .cluster()
        .await;
    let mut clients = Vec::new();
    for server in ["sse", "ws"] {
        let path = format!("/mcp/{server}");
        clients.push((server, cluster.client(0).at(&path).initialized().await));
    }
    let write = |server: &str, at: usize| {
        let params = format!(r#"{{"name":"write","arguments":{{"key":"{server}-{at}"}}}}"#);
        message::request(at, "tools/call", &params)
    };
    for (server, client) in &clients {
        client.ask(9, "logging/setLevel", r#"{"level":"error"}"#).await;
        for at in [1, 2, 0] {
            let response = led(&client.on(cluster[at].address), &write(server, at)).await;
            assert!(response.get("result").is_some(), "{server} at {at}: {response}");
            assert_eq!(sample.executions("write", &format!("{server}-{at}")), 1);
        }
    }
    cluster[0].kill();
    for (server, client) in &clients {
        for (node, at) in [(1, 4), (2, 5)] {
            let client = client.on(cluster[node].address);
            let response = led(&client, &write(server, at)).await;
            assert!(response.get("result").is_some(), "{server} at {at}: {response}");
            assert_eq!(sample.executions("write", &format!("{server}-{at}")), 1);
            // The session at the server is a new one, and as the old one was.
            let level = client.call(8, "level").await;
            assert_eq!(level["result"]["content"][0]["text"], "error", "{server}: {level}");
        }
    }
}
