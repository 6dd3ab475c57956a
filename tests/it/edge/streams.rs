//! Streams end so that their clients come back; answers that are cut are seen to be.

use super::node::{Does, Node};
use super::process::WATCHFUL;
use super::{call, edge_over, post};
use crate::harness::eventually;
use crate::harness::wire::{Conn, find};

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
     Transfer-Encoding: chunked\r\n\r\nf\r\nid: 1\ndata: x\n\n\r\n";
const EVENT: &[u8] = b"id: 1\ndata: x\n\n";

/// Asks, and waits for the first event.
async fn listen(address: std::net::SocketAddr, request: &str) -> Conn {
    let mut client = Conn::open(address).await;
    client.send(request).await;
    let head = client.head().await.expect("a head");
    assert!(head.status == 200 && head.is_sse(), "{head:?}");
    let mut seen = Vec::new();
    while find(&seen, EVENT).is_none() {
        seen.extend(client.piece().await.expect("no cut").expect("no end yet"));
    }
    client
}

const GET: &str = "GET /mcp HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";

#[tokio::test]
async fn a_stream_whose_node_dies_ends_cleanly() {
    for request in [GET.to_owned(), post(&call("1"))] {
        let mut a = Node::start("a", Does::Send(STREAM.into())).await;
        let edge = edge_over(&[&a], &[]).await;
        let mut client = listen(edge.address, &request).await;
        a.die().await;
        let rest = client.body().await.unwrap_or_else(|cut| panic!("{}: {request}", cut.0));
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[tokio::test]
async fn a_stream_whose_node_breaks_off_ends_cleanly() {
    // In the middle of an event, which its reader then does not see.
    let cut = format!("{STREAM}20\r\nid: 2\nda");
    let a = Node::start("a", Does::SendAndClose(cut)).await;
    let edge = edge_over(&[&a], &[]).await;
    let mut client = listen(edge.address, &post(&call("1"))).await;
    assert!(client.body().await.is_ok());
    // The connection is as good as new.
    a.now(Does::Answer);
    assert_eq!(client.exchange(post(&call("2"))).await.json()["node"], "a");
}

#[tokio::test]
async fn a_stream_whose_node_freezes_ends_cleanly() {
    let a = Node::start("a", Does::Send(STREAM.into())).await;
    let edge = edge_over(&[&a], &WATCHFUL).await;
    let mut client = listen(edge.address, GET).await;
    a.freeze(true);
    let rest = client.body().await;
    assert!(rest.is_ok(), "a frozen node's stream is cut");
}

#[tokio::test]
async fn a_stream_of_known_length_may_end_early_too() {
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 500\r\n\r\n\
         id: 1\ndata: x\n\n";
    let mut a = Node::start("a", Does::Send(stream.into())).await;
    let edge = edge_over(&[&a], &[]).await;
    let mut client = listen(edge.address, GET).await;
    a.die().await;
    assert!(client.body().await.is_ok());
}

#[tokio::test]
async fn an_answer_that_is_cut_is_cut() {
    for head in ["Content-Length: 50\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n8\r\n"] {
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{head}{{\"id\":1,");
        let a = Node::start("a", Does::SendAndClose(answer)).await;
        let edge = edge_over(&[&a], &[]).await;
        let mut client = Conn::open(edge.address).await;
        client.send(post(&call("1"))).await;
        assert_eq!(client.head().await.expect("a head").status, 200);
        assert!(client.body().await.is_err(), "half an answer looks like one: {head:?}");
        assert_eq!(a.requests().len(), 1, "an answer that has begun is not asked for again");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_is_missed_by_its_node() {
    for does in [Does::Send(STREAM.into()), Does::Hold] {
        let a = Node::start("a", does).await;
        let edge = edge_over(&[&a], &[]).await;
        let mut client = Conn::open(edge.address).await;
        client.send(post(&call("1"))).await;
        a.has(1).await;
        drop(client);
        eventually("the node sees it go", || (a.hung_up() == 1).then_some(())).await;
    }
}
