//! What is known when a peer breaks a stream: a peer that speaks HTTP/2 by hand says each way.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::server;

use super::*;
use crate::dial::Dialler;
use crate::proof::{self, Identity};
use crate::{Lane, Secret, tls};

const LONG: Duration = Duration::from_secs(30);
const HEADERS_FRAME: u8 = 1;

fn identity(node: u64) -> Identity {
    let me = Caller { node, name: "x".into() };
    Identity { me, secret: Secret::new(&"shared".into(), None) }
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, 0], &stream, payload].concat()
}

fn settings() -> Vec<u8> {
    frame(4, 0, &[])
}

fn reset(stream: u32, reason: u32) -> Vec<u8> {
    frame(3, stream, &reason.to_be_bytes())
}

fn go_away(last: u32, reason: u32) -> Vec<u8> {
    frame(7, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat())
}

/// Reads frames until the head of a request.
async fn until_request(stream: &mut server::TlsStream<TcpStream>) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
        if head[3] == HEADERS_FRAME {
            return;
        }
    }
}

/// What a caller learns when its request, stream 1, is answered with `answer` and the end.
async fn learned(answer: Vec<u8>) -> PeerError {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let peer = tokio::spawn(async move {
        let (stream, _) = socket.accept().await.unwrap();
        let mut stream = tls::acceptor().unwrap().accept(stream).await.unwrap();
        proof::accept(&mut stream, &identity(1)).await.unwrap();
        stream.write_all(&settings()).await.unwrap();
        until_request(&mut stream).await;
        stream.write_all(&answer).await.unwrap();
        // Closes the session and the socket, with nothing unread that would turn it into a reset.
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let settings = Settings { dial: LONG, ..Settings::for_failover(LONG * 4) };
    let dialler = Arc::new(Dialler::new(identity(2), settings, Handle::current()).unwrap());
    let connection = dialler.dial(&address, 1, Lane::Data).await.unwrap();
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get("https://forward.holdfast.internal/").body(body).unwrap();
    let failed = connection.send(request, Instant::now() + LONG).await.err().unwrap();
    assert!(failed.request.is_none(), "it did leave");
    drop(connection);
    tokio::time::timeout(LONG, peer).await.unwrap().unwrap();
    failed.error
}

#[tokio::test]
async fn what_the_peer_has_not_begun_is_certainly_not_sent() {
    const REFUSED_STREAM: u32 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    for answer in [reset(1, REFUSED_STREAM), go_away(0, 0), go_away(0, ENHANCE_YOUR_CALM)] {
        let error = learned(answer.clone()).await;
        assert!(matches!(error, PeerError::Unreachable(_)), "{answer:?}: {error}");
        assert!(error.certainly_not_sent());
    }
}

#[tokio::test]
async fn what_the_peer_may_have_begun_is_unknown() {
    const INTERNAL_ERROR: u32 = 2;
    const CANCEL: u32 = 8;
    for answer in [
        reset(1, INTERNAL_ERROR),
        reset(1, CANCEL),
        // Going away, but this stream is among those that were looked at.
        go_away(1, 0),
        go_away(1, INTERNAL_ERROR),
        // No frame at all.
        vec![],
    ] {
        let error = learned(answer.clone()).await;
        assert!(matches!(error, PeerError::Broken(_)), "{answer:?}: {error}");
    }
}
