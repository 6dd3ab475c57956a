//! Calls and forwards that work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use bytes::Bytes;
use holdfast_peer::{BoxError, Lane, PeerError};
use http::{Method, Request, StatusCode, Version};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::support::{LONG, ME, NODE, Node, Pieces, echo, full, patient, peers};

#[tokio::test]
async fn a_call_is_answered_and_knows_its_caller() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    for lane in [Lane::Control, Lane::Data] {
        echo(&peers, lane).await.unwrap();
        let who = peers.call(NODE, lane, "who", Bytes::new(), LONG).await.unwrap();
        assert_eq!(who, format!("{ME} talker"));
    }
    let dials: Vec<_> = peers.links().iter().map(|link| (link.connected, link.dials)).collect();
    assert_eq!(dials, [(true, 1), (true, 1)], "one connection per lane");
    assert_eq!(node.counters.read().proven, 2);
}

#[tokio::test]
async fn a_large_call_fits_and_a_too_large_one_is_refused_before_the_service() {
    let mut limits = crate::support::patient_limits();
    limits.largest_call = 3 << 20;
    let node = Node::start(NODE, crate::support::secret("shared"), limits).await;
    let mut settings = patient();
    settings.largest_answer = 2 << 20;
    let peers = peers(settings, node.address);

    let two = Bytes::from(vec![7; 2 << 20]);
    assert_eq!(peers.call(NODE, Lane::Data, "echo", two.clone(), LONG).await, Ok(two));

    let three = Bytes::from(vec![7; 3 << 20]);
    let error = peers.call(NODE, Lane::Data, "echo", three, LONG).await.unwrap_err();
    assert!(matches!(error, PeerError::Broken(_)), "an answer over the cap: {error}");

    let calls = node.service.calls.load(SeqCst);
    let four = Bytes::from(vec![7; 4 << 20]);
    let error = peers.call(NODE, Lane::Data, "echo", four, LONG).await.unwrap_err();
    // The peer may hang up on the body before its refusal is read; either way it has not run.
    match &error {
        PeerError::Rejected { status, .. } => assert_eq!(*status, StatusCode::PAYLOAD_TOO_LARGE),
        other => assert!(matches!(other, PeerError::Broken(_)), "{other}"),
    }
    assert_eq!(node.service.calls.load(SeqCst), calls);
    echo(&peers, Lane::Data).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_service_reaches_the_caller() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let error = peers.call(NODE, Lane::Control, "other", Bytes::new(), LONG).await.unwrap_err();
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    assert_eq!(error, PeerError::Rejected { status, message: "no method other".into() });
    assert!(!error.certainly_not_sent());
}

#[tokio::test]
async fn a_forward_arrives_unchanged() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let request = Request::builder()
        .method(Method::from_bytes(b"PROPFIND").unwrap())
        .uri("/servers/a%20b//mcp?x=1&y=%2F")
        .version(Version::HTTP_11)
        .header("host", "client.example:8080")
        .header("mcp-session-id", "s-1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("holdfast-original", "HTTP/1.1 /forged")
        .header("content-length", "5")
        .body(full("hello"))
        .unwrap();
    let response = peers.forward(NODE, request, LONG).await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    let seen = |name: &str| {
        let values = response.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(seen("seen-from"), [ME.to_string()]);
    assert_eq!(seen("seen-method"), ["PROPFIND"]);
    assert_eq!(seen("seen-uri"), ["/servers/a%20b//mcp?x=1&y=%2F"]);
    assert_eq!(seen("seen-version"), ["HTTP/1.1"]);
    let names: BTreeSet<_> = response.headers().keys().map(|name| name.as_str()).collect();
    let got: Vec<_> = names.iter().filter_map(|name| name.strip_prefix("got-")).collect();
    assert_eq!(got, ["content-length", "cookie", "holdfast-original", "host", "mcp-session-id"]);
    assert_eq!(seen("got-host"), ["client.example:8080"]);
    assert_eq!(seen("got-cookie"), ["a=1", "b=2"]);
    assert_eq!(seen("got-holdfast-original"), ["HTTP/1.1 /forged"]);
    assert!(!names.contains("date"), "the transport adds no header of its own: {names:?}");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(node.service.calls.load(SeqCst), 0);
}

/// HTTP/1.1 clients send these every day; HTTP/2 forbids them.
#[tokio::test]
async fn what_belongs_to_the_connection_of_the_client_stays_there() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let request = Request::post("/")
        .header("connection", "keep-alive, x-hop")
        .header("keep-alive", "timeout=5")
        .header("transfer-encoding", "chunked")
        .header("te", "gzip")
        .header("x-hop", "1")
        .header("x-end", "1")
        .body(full("hello"))
        .unwrap();
    let response = peers.forward(NODE, request, LONG).await.unwrap();
    let names: BTreeSet<_> = response.headers().keys().map(|name| name.as_str()).collect();
    let got: Vec<_> = names.iter().filter_map(|name| name.strip_prefix("got-")).collect();
    assert_eq!(got, ["content-length", "x-end"]);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn a_forward_that_looks_like_a_call_is_a_forward() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    for uri in ["/echo", "https://call.holdfast.internal/echo", "*"] {
        let request = Request::post(uri).header("host", "call.holdfast.internal");
        let request = request.body(full("x")).unwrap();
        let response = peers.forward(NODE, request, LONG).await.unwrap();
        assert_eq!(response.headers()["seen-uri"], uri);
    }
    assert_eq!(node.service.calls.load(SeqCst), 0);
}

#[tokio::test]
async fn a_body_is_streamed_in_both_directions_at_once() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let (pieces, body) = mpsc::channel(1);
    let request = Request::post("/").body(Pieces(body)).unwrap();
    let mut answer = peers.forward(NODE, request, LONG).await.unwrap().into_body();
    for round in 0..20 {
        let piece = format!("piece {round}");
        pieces.send(piece.clone().into()).await.unwrap();
        // The next one is not sent before this one has come back.
        let back = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(back, piece);
    }
    drop(pieces);
    assert_eq!(answer.collect().await.unwrap().to_bytes(), "");
}

/// Counts what has been taken from it.
struct Produced {
    left: usize,
    taken: Arc<AtomicUsize>,
}

const PIECE: usize = 16 << 10;

impl http_body::Body for Produced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(PIECE, SeqCst);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(vec![1; PIECE].into()))))
    }
}

/// Out and back through the echo, so both directions are held back by the one who reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_holds_the_writer_back() {
    const PIECES: usize = 2_000;
    // Two windows, two send buffers and what is on its way in between, with room to spare.
    const AHEAD: usize = 2 << 20;
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let taken = Arc::new(AtomicUsize::new(0));
    let body = Produced { left: PIECES, taken: Arc::clone(&taken) };
    let request = Request::post("/").body(body).unwrap();
    let mut answer = peers.forward(NODE, request, LONG).await.unwrap().into_body();
    // Another exchange on the same connection is not held up, and gives the writer its time.
    for _ in 0..50 {
        echo(&peers, Lane::Data).await.unwrap();
    }
    let mut read = 0;
    while let Some(frame) = answer.frame().await {
        let ahead = taken.load(SeqCst) - read;
        assert!(ahead <= AHEAD, "{ahead} bytes ahead of the reader");
        read += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(read, PIECES * PIECE);
}

/// As many stalled streams as would use up a usual connection window many times over.
#[tokio::test]
async fn stalled_streams_do_not_hold_up_others() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let body = Produced { left: 64, taken: Arc::default() };
        let request = Request::post("/").body(body).unwrap();
        stalled.push(peers.forward(NODE, request, LONG).await.unwrap());
    }
    for _ in 0..20 {
        let large = Bytes::from(vec![3; 1 << 20]);
        let answer = peers.call(NODE, Lane::Data, "echo", large.clone(), LONG).await.unwrap();
        assert!(answer == large);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_runtimes_share_one_connection() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let peers = Arc::clone(&peers);
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let calls = (0..50).map(|call| {
                        let (peers, body) = (Arc::clone(&peers), format!("{worker} {call}"));
                        tokio::spawn(async move {
                            let sent = Bytes::from(body);
                            let lane = Lane::Control;
                            let back = peers.call(NODE, lane, "echo", sent.clone(), LONG).await;
                            assert_eq!(back, Ok(sent));
                        })
                    });
                    for call in calls.collect::<Vec<_>>() {
                        call.await.unwrap();
                    }
                });
            })
        })
        .collect();
    tokio::task::spawn_blocking(move || workers.into_iter().for_each(|w| w.join().unwrap()))
        .await
        .unwrap();
    assert_eq!(node.counters.read().proven, 1);
    assert_eq!(node.service.calls.load(SeqCst), 200);
}

#[tokio::test]
async fn whoever_is_there_can_be_asked_without_knowing_its_id() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let address = node.address.to_string();
    let answer = peers.call_address(&address, "echo", Bytes::from_static(b"x"), LONG).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"x")));
    assert!(peers.links().iter().all(|link| link.dials == 0));
}
