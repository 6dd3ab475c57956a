//! What passes the edge unchanged, and what does not pass it at all.

use super::node::{Does, Node};
use super::{edge_over, post};
use crate::harness::wire::{Answer, Conn};
use crate::harness::{eventually, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn raw(address: std::net::SocketAddr, request: &str) -> Answer {
    Conn::open(address).await.exchange(request).await
}

#[tokio::test]
async fn ambiguous_requests_reach_no_node() {
    let a = Node::start("a", Does::Answer).await;
    let edge = edge_over(&[&a], &[]).await;
    for head in [
        "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        "Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: x\r\nTransfer-Encoding: identity, chunked",
        "Host: x\r\nTransfer-Encoding: xchunked",
        "Host: x\r\nHost: y",
        "Host: x\r\nContent-Length: 5\r\nContent-Length: 6",
        "X: y",
    ] {
        let request = format!("POST /mcp HTTP/1.1\r\n{head}\r\n\r\n0\r\n\r\n");
        assert_eq!(raw(edge.address, &request).await.status, 400, "{head}");
    }
    // Behind another request, cut in the head.
    let mut client = Conn::open(edge.address).await;
    let both = "POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
    client.send(format!("GET /edge/health HTTP/1.1\r\nHost: x\r\n\r\n{}", &both[..60])).await;
    assert_eq!(client.answer().await.expect("the health").status, 200);
    client.send(&both[60..]).await;
    assert_eq!(client.answer().await.expect("a refusal").status, 400);
    let other = "GET http://evil.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(raw(edge.address, other).await.status, 400);
    assert!(a.requests().is_empty(), "{:?}", a.requests());
}

#[tokio::test]
async fn bodies_up_to_the_limit() {
    let a = Node::start("a", Does::Answer).await;
    let edge = edge_over(&[&a], &["--body-limit", "1"]).await;
    let limit = 1024 * 1024;
    let mut client = Conn::open(edge.address).await;
    let fits = "x".repeat(limit);
    assert_eq!(client.exchange(post(&fits)).await.status, 200);
    assert_eq!(a.requests()[0].body, fits.as_bytes());
    // Of unknown length, in several chunks; a node gets one length.
    let half = &fits[..limit / 2];
    let chunk = format!("{:x}\r\n{half}\r\n", half.len());
    let chunked = |chunks: &[&str]| {
        let head = "POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{}0\r\n\r\n", chunks.concat())
    };
    assert_eq!(client.exchange(chunked(&[&chunk, &chunk])).await.status, 200);
    assert_eq!(a.requests()[1].body, fits.as_bytes());

    let over = post(&format!("{fits}x"));
    let (head, _) = over.split_once("\r\n\r\n").expect("a head");
    assert_eq!(raw(edge.address, &format!("{head}\r\n\r\n")).await.status, 413);
    let mut client = Conn::open(edge.address).await;
    client.try_send(chunked(&[&chunk, &chunk, "1\r\nx\r\n"])).await;
    assert_eq!(client.head().await.expect("an answer").status, 413);
    assert_eq!(a.requests().len(), 2);
}

#[tokio::test]
async fn headers_and_paths_pass_hop_by_hop_ones_do_not() {
    let answer = "HTTP/1.1 418 Teapot\r\nMcp-Session-Id: s-1\r\nX-Twice: 1\r\nX-Twice: 2\r\n\
         Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
         Content-Length: 2\r\n\r\nok";
    let a = Node::start("a", Does::Send(answer.into())).await;
    let edge = edge_over(&[&a], &[]).await;
    let request = "PATCH /mcp/x?y=%20z HTTP/1.1\r\nHost: public.example.com:1\r\n\
         Mcp-Param-X: =?base64?YQ==?=\r\nX-Other: a\r\nX-Other: b\r\nAuthorization: Bearer t\r\n\
         Connection: X-Gone\r\nX-Gone: 1\r\nX-Forwarded-For: 9.9.9.9\r\nTE: trailers\r\n\r\n";
    let got = raw(edge.address, request).await;
    assert_eq!((got.status, got.text().as_str()), (418, "ok"));
    assert_eq!(got.header("mcp-session-id"), Some("s-1"));
    assert_eq!(got.headers.iter().filter(|(name, _)| name == "x-twice").count(), 2);
    assert!(got.header("x-mine").is_none() && got.header("keep-alive").is_none());
    let sent = &a.requests()[0];
    assert_eq!(sent.line, "PATCH /mcp/x?y=%20z HTTP/1.1");
    for (name, expected) in [
        ("host", &["public.example.com:1"][..]),
        ("mcp-param-x", &["=?base64?YQ==?="]),
        ("x-other", &["a", "b"]),
        ("authorization", &["Bearer t"]),
        ("x-forwarded-for", &["9.9.9.9, 127.0.0.1"]),
        ("x-gone", &[]),
        ("te", &[]),
    ] {
        assert_eq!(sent.header(name), expected, "{name}");
    }
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_until_its_node_dies() {
    let mut a = Node::start("a", Does::Echo).await;
    let edge = edge_over(&[&a], &[]).await;
    let mut client = TcpStream::connect(edge.address).await.expect("connect");
    let request = "GET /mcp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\nearly";
    client.write_all(request.as_bytes()).await.expect("sent");
    let mut got = Vec::new();
    let mut until = async |client: &mut TcpStream, end: &str| {
        while !got.ends_with(end.as_bytes()) {
            let read = within("the tunnel's bytes", client.read_buf(&mut got)).await;
            assert!(read.expect("no cut") > 0, "{:?}", String::from_utf8_lossy(&got));
        }
    };
    // What is sent behind the head belongs to the tunnel.
    until(&mut client, "early").await;
    client.write_all(b"later").await.expect("sent");
    until(&mut client, "earlylater").await;
    let head = String::from_utf8(got).expect("text").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-accept: x"));
    let sent = a.requests();
    assert_eq!(sent[0].header("upgrade"), ["websocket"]);
    assert_eq!(sent[0].header("sec-websocket-key"), ["k"]);
    let health = edge.health().await;
    assert_eq!(health["nodes"][0]["inFlight"], 1, "{health}");
    a.die().await;
    let end = within("the end of the tunnel", client.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn the_edge_has_a_health_of_its_own() {
    let mut a = Node::start("a", Does::Answer).await;
    let edge = edge_over(&[&a], &[]).await;
    let health = edge.health().await;
    assert_eq!(health["status"], "ready");
    assert_eq!(health["nodes"][0]["standing"], "ready");
    a.die().await;
    edge.sees(&a.address.to_string(), |standing| standing == "dead").await;
    let request = "GET /edge/health HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = raw(edge.address, request).await;
    assert_eq!((answer.status, &answer.json()["status"]), (503, &"no node".into()));
    assert!(a.requests().is_empty());
    assert_eq!(raw(edge.address, &request.replace("GET", "POST")).await.status, 405);
    let line = eventually("a line in the log", || {
        edge.log().lines().find(|line| line.contains("now=dead")).map(str::to_owned)
    })
    .await;
    assert!(line.contains(&a.address.to_string()), "{line}");
}
