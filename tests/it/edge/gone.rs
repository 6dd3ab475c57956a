//! When no node is left: every client gets what it can bear.

use super::node::{Does, Node};
use super::process::Edge;
use super::{ask, call, edge_over, post};
use crate::harness::message;
use crate::harness::wire::Conn;

/// An edge whose only node has gone, and that does not hold requests for long.
async fn alone() -> Edge {
    let mut node = Node::start("a", Does::Answer).await;
    let edge = edge_over(&[&node], &["--hold", "200ms"]).await;
    node.die().await;
    edge.sees(&node.address.to_string(), |standing| standing == "dead").await;
    edge
}

#[tokio::test]
async fn a_call_is_answered_under_its_own_id() {
    let edge = alone().await;
    for id in ["7", "\"a b\"", "123456789012345678901234567890"] {
        let answer = ask(&edge, id).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.text().contains(&format!("\"id\":{id},")), "{}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(error["code"], -31001);
        assert_eq!(error["data"]["mayHaveRun"], false);
    }
}

#[tokio::test]
async fn a_batch_is_answered_under_all_of_its_ids() {
    let edge = alone().await;
    let batch = format!(
        "[{},{},{}]",
        call("1"),
        message::notification("notifications/progress", "{}"),
        call("\"b\"")
    );
    let answer = Conn::open(edge.address).await.exchange(post(&batch)).await;
    assert_eq!(answer.status, 200);
    let ids: Vec<String> = answer.json().as_array().expect("a batch")[..]
        .iter()
        .map(|error| error["id"].to_string())
        .collect();
    assert_eq!(ids, ["1", "\"b\""]);
}

#[tokio::test]
async fn what_may_not_fail_gets_no_answer() {
    let edge = alone().await;
    for body in [
        message::request("1", "initialize", "{}"),
        message::request("1", "server/discover", "{}"),
        message::notification("notifications/initialized", "{}"),
        message::result("1", "{}"),
    ] {
        let mut client = Conn::open(edge.address).await;
        client.send(post(&body)).await;
        let head = client.head().await;
        assert!(head.is_none(), "{body}: {head:?}");
    }
}

#[tokio::test]
async fn a_stream_is_empty_and_says_when_to_come_back() {
    let edge = alone().await;
    let request = "GET /mcp HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    let answer = Conn::open(edge.address).await.exchange(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert!(answer.text().contains("retry: 1000\n\n"), "{}", answer.text());
    assert!(!answer.text().contains("data:"), "{}", answer.text());
}

#[tokio::test]
async fn plain_requests_and_nonsense() {
    let edge = alone().await;
    let mut client = Conn::open(edge.address).await;
    let answer = client.exchange("DELETE /mcp HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    let answer = client.exchange(post("{")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.json()["id"].is_null());
}

#[tokio::test]
async fn a_call_that_was_lost_with_the_last_node_may_have_run() {
    let mut node = Node::start("a", Does::Hold).await;
    let edge = edge_over(&[&node], &["--hold", "200ms"]).await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&call("3"))).await;
    node.has(1).await;
    node.die().await;
    let answer = client.answer().await.expect("an answer").json();
    assert_eq!(answer["id"], 3);
    assert_eq!(answer["error"]["code"], -31001);
    assert_eq!(answer["error"]["data"]["mayHaveRun"], true);
}

#[tokio::test]
async fn a_request_waits_for_a_node_that_comes_back() {
    let mut node = Node::start("a", Does::Answer).await;
    let edge = edge_over(&[&node], &[]).await;
    node.die().await;
    edge.sees(&node.address.to_string(), |standing| standing == "dead").await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&message::request("1", "initialize", "{}"))).await;
    // It is in the edge's hands by the time that a later one has been answered.
    edge.health().await;
    node.revive().await;
    assert_eq!(client.answer().await.expect("an answer").json()["node"], "a");
}

#[tokio::test]
async fn the_deadline_of_the_edge() {
    let node = Node::start("a", Does::Hold).await;
    let edge = edge_over(&[&node], &["--deadline", "300ms"]).await;
    let answer = ask(&edge, "4").await.json();
    assert_eq!(answer["id"], 4);
    assert_eq!(answer["error"]["code"], -31005);
    assert_eq!(answer["error"]["data"]["mayHaveRun"], true);
}
