//! How an edge starts, and how it ends.

use std::process::Command;

use super::node::{Does, Node};
use super::{call, edge_over, post};
use crate::harness::eventually;
use crate::harness::process::binary;
use crate::harness::wire::Conn;

#[tokio::test]
async fn a_running_call_is_answered_before_the_end() {
    let a = Node::start("a", Does::Hold).await;
    let mut edge = edge_over(&[&a], &["--drain-deadline", "60s"]).await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&call("1"))).await;
    a.has(1).await;
    edge.terminate();
    eventually("the port is closed", || {
        std::net::TcpStream::connect(edge.address).is_err().then_some(())
    })
    .await;
    a.now(Does::Answer);
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.json()["node"], "a");
    let ended = eventually("the end", || edge.ended()).await;
    assert!(ended.success(), "{ended}: {}", edge.log());
}

#[tokio::test]
async fn streams_that_only_listen_end_at_once_and_cleanly() {
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n";
    let a = Node::start("a", Does::Send(stream.into())).await;
    let mut edge = edge_over(&[&a], &["--drain-deadline", "60s"]).await;
    let mut client = Conn::open(edge.address).await;
    client.send("GET /mcp HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").await;
    client.head().await.expect("a head");
    client.piece().await.expect("no cut").expect("a comment");
    let ended = edge.stop();
    assert!(ended.success(), "{ended}");
    assert!(client.body().await.is_ok());
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_gets_an_answer_too() {
    let a = Node::start("a", Does::Hold).await;
    let mut edge = edge_over(&[&a], &["--drain-deadline", "200ms"]).await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&call("5"))).await;
    a.has(1).await;
    edge.terminate();
    let answer = client.answer().await.expect("an answer").json();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&5.into(), &(-31001).into()));
    assert_eq!(answer["error"]["data"]["mayHaveRun"], true);
    eventually("the end", || edge.ended()).await;
}

#[test]
fn what_it_does_not_start_with() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for (arguments, code, says) in [
        (vec![], 2, "an edge needs nodes"),
        (vec!["--node", "nowhere"], 2, "has no port"),
        (vec!["--node", "a:1", "--node", "a:1"], 2, "is named twice"),
        (vec!["--node", "a:1", "--probe-interval", "5"], 2, "150ms"),
        (vec!["--node", "a:1", "--listen", &address], 1, "cannot listen on"),
    ] {
        let output = Command::new(binary())
            .arg("edge")
            .args(["--listen", "127.0.0.1:0"].iter().take(2 * usize::from(code == 2)))
            .args(&arguments)
            .env_remove("HOLDFAST_EDGE_NODES")
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}
