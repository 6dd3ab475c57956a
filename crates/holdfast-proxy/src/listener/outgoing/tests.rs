//! What is written of a response, in how many writes, and what is not asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_mcp::http1::{AnswerHeads, Chunks, Framing as Read, Piece};

use http::header::CONNECTION;

use super::*;
use crate::response::Headers;
use crate::streams::StreamLog;
use crate::streams::tests::{log, reader};

/// A client that takes so many bytes more, and remembers each write.
#[derive(Default)]
struct Client {
    takes: usize,
    writes: Vec<Vec<u8>>,
    /// What is looked at with each write, and what was seen.
    watches: Arc<AtomicUsize>,
    saw: Vec<usize>,
}

impl Client {
    fn patient() -> Self {
        Self { takes: usize::MAX, ..Self::default() }
    }

    fn all(&self) -> Vec<u8> {
        self.writes.concat()
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let seen = self.watches.load(Ordering::Relaxed);
        self.saw.push(seen);
        let many = bytes.len().min(self.takes);
        if many == 0 {
            return Poll::Pending;
        }
        self.takes -= many;
        self.writes.push(bytes[..many].to_vec());
        Poll::Ready(Ok(many))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let joined: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.poll_write(cx, &joined)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn answered(status: StatusCode, body: Body) -> Response {
    Response::new(status, Headers::default(), body)
}

fn outgoing(body: Body) -> Outgoing {
    Outgoing::new(answered(StatusCode::OK, body), false).0
}

fn following(log: &Arc<StreamLog>) -> Outgoing {
    outgoing(Body::Stream(Box::new(reader(log, None))))
}

fn poll(outgoing: &mut Outgoing, client: &mut Client) -> Poll<io::Result<()>> {
    outgoing.poll(&mut Context::from_waker(std::task::Waker::noop()), client)
}

/// Status line, framing and body of what was written.
fn read(bytes: &[u8]) -> (Read, Vec<u8>, Vec<u8>) {
    let mut buffer = BytesMut::from(bytes);
    let head = AnswerHeads::default().head(&mut buffer, |_| ()).unwrap().expect("a head");
    let mut body = Vec::new();
    if head.framing == Read::Chunked {
        let mut chunks = Chunks::default();
        while let Piece::Data(data) = chunks.next(&mut buffer).unwrap() {
            body.extend_from_slice(&data);
        }
    } else {
        body = buffer.split().to_vec();
    }
    (head.framing, body, buffer.to_vec())
}

/// The server's events of a stream as its client sees them.
fn messages(body: &[u8]) -> usize {
    body.windows(b"data: {".len()).filter(|window| *window == b"data: {").count()
}

#[tokio::test]
async fn what_is_ready_together_leaves_in_one_write_and_then_there_is_no_buffer() {
    let log = log(1 << 20, 1 << 20, true);
    let (mut sent, mut client) = (following(&log), Client::patient());
    for number in 0..3 {
        log.append(&format!("{{\"n\":{number}}}").into(), None).await;
    }
    assert!(poll(&mut sent, &mut client).is_pending());
    assert!(sent.is_quiet());
    assert_eq!((client.writes.len(), sent.out.capacity()), (1, 0));
    log.append(&"{}".into(), None).await;
    log.finish();
    assert!(matches!(poll(&mut sent, &mut client), Poll::Ready(Ok(()))));
    assert_eq!(client.writes.len(), 2);
    let (framing, body, left) = read(&client.all());
    assert_eq!((framing, messages(&body), left.len()), (Read::Chunked, 4, 0));
    assert!(client.all().ends_with(b"\n\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_not_read_for() {
    let log = log(1 << 20, 1 << 20, false);
    let (mut sent, mut client) = (following(&log), Client::default());
    let message = Bytes::from(format!("{{\"filler\":\"{}\"}}", "x".repeat(20_000)));
    for _ in 0..10 {
        log.append(&message, None).await;
    }
    client.takes = 30_000;
    assert!(poll(&mut sent, &mut client).is_pending());
    assert!(!sent.is_quiet());
    let held = sent.out.len() - sent.at;
    assert!(held <= message.len() + 1000, "{held} bytes wait");
    client.takes = 5_000;
    assert!(poll(&mut sent, &mut client).is_pending());
    assert_eq!(client.all().len(), 35_000);
}

#[tokio::test]
async fn a_client_may_take_it_byte_by_byte() {
    let log = log(1 << 20, 1 << 20, false);
    let (mut sent, mut client) = (following(&log), Client::default());
    log.append(&"{}".into(), None).await;
    log.finish();
    for _ in 0..10_000 {
        client.takes = 1;
        if poll(&mut sent, &mut client).is_ready() {
            break;
        }
    }
    let (_, body, left) = read(&client.all());
    assert_eq!((messages(&body), left.len()), (1, 0));
}

#[tokio::test]
async fn a_large_part_is_not_copied_and_keeps_its_frame() {
    let large = Bytes::from(vec![b'x'; SMALL + 1]);
    let whole = large.clone();
    let body = Body::later(Duration::from_secs(75), async move { Body::full(whole) });
    let (mut sent, mut client) = (outgoing(body), Client::default());
    let mut was_where_it_was = false;
    for _ in 0..100_000 {
        client.takes = 100;
        if poll(&mut sent, &mut client).is_ready() {
            break;
        }
        was_where_it_was |= large.as_ptr_range().contains(&sent.piece.as_ptr());
    }
    assert!(was_where_it_was);
    let (framing, body, left) = read(&client.all());
    assert_eq!((framing, left.len()), (Read::Chunked, 0));
    assert_eq!(body, [holdfast_mcp::sse::COMMENT, &large].concat());
}

#[tokio::test]
async fn a_whole_body_has_a_length_and_some_responses_have_neither() {
    for length in [0, 1, SMALL, SMALL + 1] {
        let body = Bytes::from(vec![b'x'; length]);
        let (mut sent, mut client) = (outgoing(Body::full(body.clone())), Client::patient());
        assert!(matches!(poll(&mut sent, &mut client), Poll::Ready(Ok(()))));
        assert_eq!(client.writes.len(), 1);
        let (framing, read, _) = read(&client.all());
        assert_eq!((framing, read), (Read::Length(length as u64), body.to_vec()));
    }
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let (mut sent, _) = Outgoing::new(answered(status, Body::full("x".into())), false);
        let mut client = Client::patient();
        assert!(matches!(poll(&mut sent, &mut client), Poll::Ready(Ok(()))));
        let text = String::from_utf8(client.all()).unwrap();
        assert!(text.ends_with("\r\n\r\n") && !text.contains("content-length"), "{text}");
        assert!(!text.contains("transfer-encoding"), "{text}");
    }
}

#[tokio::test]
async fn the_head_says_so_when_the_connection_ends() {
    let close = |response: Response, drains| Outgoing::new(response, drains).1;
    let plain = || answered(StatusCode::OK, Body::full("x".into()));
    assert!(!close(plain(), false));
    assert!(close(plain(), true));
    let mut refusal = plain();
    refusal.headers.insert(CONNECTION, http::HeaderValue::from_static("close"));
    assert!(close(refusal, false));
    let (mut sent, _) = Outgoing::new(plain(), true);
    let mut client = Client::patient();
    assert!(poll(&mut sent, &mut client).is_ready());
    assert!(String::from_utf8(client.all()).unwrap().contains("\r\nconnection: close\r\n"));
}

/// The client stops behind a large chunk's data, or in the middle of what ends the chunk.
#[tokio::test]
async fn a_chunk_ends_before_the_next_begins_wherever_the_client_stops() {
    let large = Bytes::from(vec![b'x'; SMALL + 1]);
    let chunked = || {
        let mut sent = outgoing(Body::Full(None));
        (sent.framing, sent.state) = (Framing::Chunks, State::Flowing);
        sent.body = Body::Full(Some(large.clone()));
        sent
    };
    let mut client = Client::patient();
    assert!(poll(&mut chunked(), &mut client).is_ready());
    let whole = client.all();
    assert!(whole.ends_with(b"x\r\n0\r\n\r\n"));
    for back in 5..=8 {
        let (mut sent, mut client) = (chunked(), Client::default());
        client.takes = whole.len() - back;
        assert!(poll(&mut sent, &mut client).is_pending());
        client.takes = usize::MAX;
        assert!(poll(&mut sent, &mut client).is_ready());
        assert!(client.all() == whole, "stopped {back} bytes before the end");
    }
}

/// One that takes what comes, and never has all of it.
#[tokio::test]
async fn what_is_out_makes_room_though_the_client_is_always_behind() {
    let log = log(1 << 20, 1 << 20, true);
    let (mut sent, mut client) = (following(&log), Client::default());
    let message: Bytes = format!("{{\"n\":\"{}\"}}", "x".repeat(500)).into();
    for _ in 0..1_000 {
        log.append(&message, None).await;
        client.takes = 400;
        assert!(poll(&mut sent, &mut client).is_pending());
        assert!(sent.out.capacity() <= KEPT, "{}", sent.out.capacity());
        client.writes.clear();
    }
}

#[tokio::test]
async fn behind_a_client_that_takes_nothing_the_writer_goes_on_until_the_log_is_full() {
    let log = log(64 * 1024, 1 << 20, true);
    let appended = Arc::new(AtomicUsize::new(0));
    let (count, own) = (Arc::clone(&appended), Arc::clone(&log));
    let writer = async move {
        loop {
            own.append(&vec![b'x'; 1024].into(), None).await;
            count.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    };
    let mut sent = outgoing(Body::Stream(Box::new(reader(&log, None).driving(writer))));
    let mut client = Client::default();
    for _ in 0..1000 {
        assert!(poll(&mut sent, &mut client).is_pending());
    }
    // 16 KiB wait to be written, and 64 KiB, of which each event's place is a part, in the log.
    let appended = appended.load(Ordering::Relaxed);
    assert!((50..80).contains(&appended), "{appended}");
    assert!(sent.out.capacity() <= KEPT);
}

/// A response that drives its writer, and what counts the steps that this makes.
fn driving(event: usize) -> (Outgoing, Arc<AtomicUsize>) {
    let log = log(1 << 20, 1 << 20, true);
    let steps = Arc::new(AtomicUsize::new(0));
    let (count, own) = (Arc::clone(&steps), Arc::clone(&log));
    let writer = async move {
        own.append(&vec![b'1'; event].into(), None).await;
        count.fetch_add(1, Ordering::Relaxed);
        own.finish_and_let_write().await;
        count.fetch_add(1, Ordering::Relaxed);
    };
    (outgoing(Body::Stream(Box::new(reader(&log, None).driving(writer)))), steps)
}

#[tokio::test]
async fn what_a_writer_does_behind_the_end_waits_until_that_is_out() {
    let (mut sent, steps) = driving(2);
    let mut client = Client { watches: Arc::clone(&steps), ..Client::patient() };
    assert!(poll(&mut sent, &mut client).is_ready());
    assert_eq!((&client.saw[..], steps.load(Ordering::Relaxed)), (&[1][..], 2));
    assert!(client.all().ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn a_client_that_does_not_take_the_end_holds_no_writer_up() {
    // What leaves no room is not known to be the end yet.
    for event in [2, ENOUGH, 2 * ENOUGH] {
        let (mut sent, steps) = driving(event);
        assert!(poll(&mut sent, &mut Client::default()).is_pending());
        assert_eq!(steps.load(Ordering::Relaxed), 2, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_has_more_to_do_behind_the_end_goes_on_without_its_response() {
    let log = log(1 << 20, 1 << 20, true);
    let done = Arc::new(tokio::sync::Notify::new());
    let (tell, own) = (Arc::clone(&done), Arc::clone(&log));
    let writer = async move {
        own.finish_and_let_write().await;
        tokio::task::yield_now().await;
        tell.notify_one();
    };
    let mut sent = outgoing(Body::Stream(Box::new(reader(&log, None).driving(writer))));
    assert!(poll(&mut sent, &mut Client::patient()).is_ready());
    drop(sent);
    tokio::time::timeout(Duration::from_secs(1), done.notified()).await.expect("its end");
}
