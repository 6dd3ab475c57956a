//! A request for which nothing has come back goes to another node, under the same id.

use super::node::{Does, Node};
use super::process::WATCHFUL;
use super::{ask, call, edge_over, post};
use crate::harness::eventually;
use crate::harness::wire::Conn;

#[tokio::test]
async fn a_node_that_is_away_costs_nobody_a_call() {
    let (mut a, b) = (Node::start("a", Does::Answer).await, Node::start("b", Does::Answer).await);
    let edge = edge_over(&[&a, &b], &[]).await;
    a.die().await;
    for id in 0..10 {
        assert_eq!(ask(&edge, &id.to_string()).await.json()["node"], "b");
    }
    edge.sees(&a.address.to_string(), |standing| standing == "dead").await;
    a.revive().await;
    edge.sees(&a.address.to_string(), |standing| standing == "ready").await;
    let before = a.requests().len();
    for id in 0..4 {
        ask(&edge, &id.to_string()).await;
    }
    assert!(a.requests().len() > before, "{}", edge.log());
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer() {
    let (a, b) = (Node::start("a", Does::Reset).await, Node::start("b", Does::Reset).await);
    let edge = edge_over(&[&a, &b], &[]).await;
    let mut client = Conn::open(edge.address).await;
    let body = call("\"one\"");
    let request = post(&body).replace("\r\n\r\n", "\r\nX-Request-ID: of-the-client\r\n\r\n");
    client.send(request).await;
    // Both have had it once before one of them answers.
    a.has(1).await;
    b.has(1).await;
    b.now(Does::Answer);
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.json()["node"], "b");
    let all: Vec<_> = a.requests().into_iter().chain(b.requests()).collect();
    assert!(all.len() >= 3, "{all:?}");
    let id = all[0].id();
    assert!(id.len() == 32 && id != "of-the-client", "{id}");
    for sent in &all {
        assert_eq!(sent.id(), id, "one id over all sendings");
        assert_eq!(sent.body, body.as_bytes());
        assert_eq!(sent.line, "POST /mcp HTTP/1.1");
        assert_eq!(sent.header("host"), ["mcp.example.com"]);
        assert_eq!(sent.header("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(sent.header("x-forwarded-proto"), ["http"]);
    }
    // The next request has another id.
    a.now(Does::Answer);
    client.exchange(post(&body)).await;
    let last = a.requests().into_iter().chain(b.requests()).filter(|it| it.id() != id).count();
    assert_eq!(last, 1);
}

#[tokio::test]
async fn a_node_that_freezes_with_a_request() {
    let (a, b) = (Node::start("a", Does::Hold).await, Node::start("b", Does::Hold).await);
    let edge = edge_over(&[&a, &b], &WATCHFUL).await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&call("7"))).await;
    let (frozen, other) =
        eventually("the request at a node", || match (a.requests().len(), b.requests().len()) {
            (0, 0) => None,
            (0, _) => Some((&b, &a)),
            _ => Some((&a, &b)),
        })
        .await;
    frozen.freeze(true);
    let sent = other.has(1).await;
    assert_eq!(sent[0].id(), frozen.requests()[0].id());
    other.now(Does::Answer);
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.status, 200);
    // The connection to the frozen node was kept for as long as the client had no answer, and not
    // longer: a node takes a closed one for a client that has gone away.
    frozen.freeze(false);
    eventually("the overtaken request is let go", || (frozen.hung_up() > 0).then_some(())).await;
}

#[tokio::test]
async fn a_node_that_is_merely_slow_keeps_its_request() {
    let (a, b) = (Node::start("a", Does::Hold).await, Node::start("b", Does::Hold).await);
    let edge = edge_over(&[&a, &b], &[]).await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&call("7"))).await;
    eventually("the request at a node", || {
        (a.requests().len() + b.requests().len() > 0).then_some(())
    })
    .await;
    // Many looks at both nodes later it still is at one of them only.
    let probes = (a.probes(), b.probes());
    eventually("probes", || {
        (a.probes() > probes.0 + 10 && b.probes() > probes.1 + 10).then_some(())
    })
    .await;
    assert_eq!(a.requests().len() + b.requests().len(), 1);
    a.now(Does::Answer);
    b.now(Does::Answer);
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    assert_eq!(a.requests().len() + b.requests().len(), 1);
}

#[tokio::test]
async fn kept_connections_that_were_closed_meanwhile() {
    let a = Node::start("a", Does::AnswerAndClose).await;
    let edge = edge_over(&[&a], &[]).await;
    let mut client = Conn::open(edge.address).await;
    for id in 0..30 {
        let answer = client.exchange(post(&call(&id.to_string()))).await;
        assert_eq!(answer.json()["node"], "a");
    }
    assert!(a.requests().len() >= 30);
}

#[tokio::test]
async fn a_request_that_breaks_every_connection_is_not_sent_for_ever() {
    let (a, b) = (Node::start("a", Does::Reset).await, Node::start("b", Does::Reset).await);
    let edge = edge_over(&[&a, &b], &[]).await;
    let answer = ask(&edge, "9").await.json();
    assert_eq!(answer["id"], 9);
    assert_eq!(answer["error"]["code"], -31001);
    assert_eq!(answer["error"]["data"]["mayHaveRun"], true);
    assert_eq!(a.requests().len() + b.requests().len(), 8, "{}", edge.log());
}

#[tokio::test]
async fn a_node_at_its_limit_of_connections_did_not_take_the_request() {
    let full = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: 0\r\n\r\n";
    let a = Node::start("a", Does::SendAndClose(full.into())).await;
    let b = Node::start("b", Does::Answer).await;
    let edge = edge_over(&[&a, &b], &[]).await;
    for id in 0..4 {
        assert_eq!(ask(&edge, &id.to_string()).await.json()["node"], "b");
    }
    b.now(Does::SendAndClose(full.into()));
    let answer = ask(&edge, "5").await.json();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&5.into(), &(-31003).into()));
    assert_eq!(answer["error"]["data"]["mayHaveRun"], false);
}

#[tokio::test]
async fn the_least_busy_node_that_is_ready() {
    let a = Node::start("a", Does::Hold).await;
    let b = Node::start("b", Does::Hold).await;
    let edge = edge_over(&[&a, &b], &[]).await;
    let mut clients = Vec::new();
    for many in 1..=6 {
        let mut client = Conn::open(edge.address).await;
        client.send(post(&call("1"))).await;
        clients.push(client);
        eventually("the request at a node", || {
            (a.requests().len() + b.requests().len() == many).then_some(())
        })
        .await;
    }
    assert_eq!((a.requests().len(), b.requests().len()), (3, 3));
    // Not ready: only when nobody is.
    a.health(503, 200);
    edge.sees(&a.address.to_string(), |standing| standing == "not ready").await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&call("1"))).await;
    b.has(4).await;
    b.health(404, 404);
    edge.sees(&b.address.to_string(), |standing| standing == "odd").await;
    let mut client = Conn::open(edge.address).await;
    client.send(post(&call("1"))).await;
    a.has(4).await;
    a.now(Does::Answer);
    b.now(Does::Answer);
    for client in &mut clients {
        assert_eq!(client.answer().await.expect("an answer").status, 200);
    }
}
