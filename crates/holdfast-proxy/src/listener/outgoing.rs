//! A response on its way to a client: its head, and its body as it comes.
//!
//! What is ready together leaves together, and nothing is waited for: the body is asked until it has
//! nothing more, or until enough waits to be written. While the client takes nothing, the body is not asked,
//! so that what gathers behind it is bounded where it gathers. What leaves is put together in a buffer of
//! the thread's; a stream that waits has none.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use holdfast_mcp::http1::{CHUNK_END, LAST_CHUNK, begin_chunk, chunk};
use http::StatusCode;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::date::with_date;
use crate::body::Body;
use crate::response::{Ending, Headers, Response};
use crate::streams::{Driven, Given};

/// One response. Always polled by the same task.
pub(super) struct Outgoing {
    /// What is being written, and how much of it is out.
    out: BytesMut,
    at: usize,
    /// A part of the body behind that, too large to be copied, and what follows it.
    piece: Bytes,
    tail: &'static [u8],
    body: Body,
    /// What wrote the body, which may have something to do behind its end.
    writer: Driven,
    framing: Framing,
    state: State,
    flushed: bool,
}

/// How the client knows the body's end (RFC 9112, section 6.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
}

enum State {
    /// The body has more.
    Flowing,
    /// All of it is here or out.
    Whole,
    /// It broke where it comes from: what is here is all.
    Broken(io::Error),
}

/// What is longer is written from where it is and not copied.
const SMALL: usize = 16 * 1024;

/// The body is not asked for more while so many bytes wait to be written.
const ENOUGH: usize = 16 * 1024;

/// A buffer with more room is not kept.
const KEPT: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<BytesMut> = Cell::default();
}

// === impl Outgoing ===

impl Outgoing {
    /// A response, and whether its head says that the connection ends with it. `drains`: the head is to
    /// say so.
    pub(super) fn new(response: Response, drains: bool) -> (Self, bool) {
        let Response { status, headers, body } = response;
        let mut this = Self {
            out: SPARE.take(),
            at: 0,
            piece: Bytes::new(),
            tail: b"",
            body: Body::Full(None),
            writer: Driven::default(),
            framing: Framing::Length,
            state: State::Whole,
            flushed: false,
        };
        let length = body.size_hint().exact();
        let closes = write_head(&mut this.out, &headers, status, length, drains);
        if !has_body(status) {
            return (this, closes);
        }
        match body {
            Body::Full(body) => this.append(body.unwrap_or_default()),
            body => {
                this.framing = if length.is_some() { Framing::Length } else { Framing::Chunks };
                (this.body, this.state) = (body, State::Flowing);
            }
        }
        (this, closes)
    }

    /// Whether the client has been given all that there is: what is waited for is the body.
    pub(super) fn is_quiet(&self) -> bool {
        !self.waits() && self.flushed
    }

    /// Sends on; ready once the response is out to its end.
    ///
    /// # Errors
    /// If the connection is gone (its socket gives up a client that takes nothing), or the body broke off.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            let filled = self.fill(cx);
            let wrote = self.poll_write(cx, stream);
            match &mut self.body {
                // Behind a client that takes nothing too: the writer may have nothing to do any more but to end.
                Body::Stream(reader) if wrote.is_pending() => reader.drive(cx),
                // With one poll it ends, or it goes on as a task of its own.
                _ if matches!(self.state, State::Whole) => {
                    std::mem::take(&mut self.writer).poll(cx)
                }
                _ => {}
            }
            ready!(wrote)?;
            match &mut self.state {
                State::Flowing if filled.is_pending() => return Poll::Pending,
                State::Flowing => {}
                State::Whole => return Poll::Ready(Ok(())),
                State::Broken(error) => {
                    let error = std::mem::replace(error, io::ErrorKind::BrokenPipe.into());
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Takes what the body has ready; pending if it has nothing more now.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_room()
            && let Body::Stream(reader) = &mut self.body
        {
            // What gathers behind a client that takes nothing is bounded by the stream's log.
            reader.drive(cx);
        }
        if self.out.capacity() == 0 && matches!(self.state, State::Flowing) {
            self.out = SPARE.take();
        }
        while matches!(self.state, State::Flowing) && self.has_room() {
            if self.at > 0 {
                // What is out makes room: a client that never has all of it would let it grow.
                self.out.copy_within(self.at.., 0);
                self.out.truncate(self.out.len() - self.at);
                self.at = 0;
            }
            if let Body::Stream(reader) = &mut self.body {
                match ready!(chunk(&mut self.out, |out| reader.poll_onto(cx, out))) {
                    Given::Some => {}
                    Given::All => return Poll::Pending,
                    Given::End => self.end(),
                }
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.append(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => self.state = State::Broken(io::Error::other(error)),
                None => self.end(),
            }
        }
        Poll::Ready(())
    }

    fn has_room(&self) -> bool {
        self.piece.is_empty() && self.tail.is_empty() && self.out.len() - self.at < ENOUGH
    }

    fn append(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let chunks = self.framing == Framing::Chunks;
        if chunks {
            begin_chunk(data.len(), &mut self.out);
        }
        let end = if chunks { CHUNK_END } else { b"" };
        if data.len() <= SMALL {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(end);
        } else {
            (self.piece, self.tail) = (data, end);
        }
    }

    fn end(&mut self) {
        if self.framing == Framing::Chunks {
            self.out.extend_from_slice(LAST_CHUNK);
        }
        self.state = State::Whole;
        // Whatever the body holds is let go before the last of it is out; what wrote it ends afterwards.
        if let Body::Stream(mut reader) = std::mem::replace(&mut self.body, Body::Full(None)) {
            self.writer = reader.take_writer();
        }
    }

    fn waits(&self) -> bool {
        self.at < self.out.len() || !self.piece.is_empty() || !self.tail.is_empty()
    }

    /// Writes what is here.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.waits() {
            let out = &self.out[self.at..];
            let stream = Pin::new(&mut *stream);
            let wrote = match self.piece.is_empty() && self.tail.is_empty() {
                true => stream.poll_write(cx, out),
                false => {
                    let parts = [out, &self.piece[..], self.tail].map(io::IoSlice::new);
                    stream.poll_write_vectored(cx, &parts)
                }
            };
            match wrote {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(many)) => self.wrote(many),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !self.flushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flushed = true;
        }
        self.at = 0;
        let mut out = std::mem::take(&mut self.out);
        if out.capacity() <= KEPT {
            out.clear();
            SPARE.set(out);
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, many: usize) {
        self.flushed = false;
        let of_out = many.min(self.out.len() - self.at);
        self.at += of_out;
        let of_piece = (many - of_out).min(self.piece.len());
        self.piece.advance(of_piece);
        self.tail = &self.tail[many - of_out - of_piece..];
        if self.piece.is_empty() {
            // What it is a part of need not stay while the client waits.
            self.piece = Bytes::new();
        }
    }
}

/// Whether a response has a body, and a length or coding (RFC 9110, section 8.6).
fn has_body(status: StatusCode) -> bool {
    !(status.is_informational() || status == 204 || status == 304)
}

/// Writes the head of a response; whether the connection closes after it.
fn write_head(
    out: &mut BytesMut,
    headers: &Headers,
    status: StatusCode,
    length: Option<u64>,
    drains: bool,
) -> bool {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or("-").as_bytes());
    out.extend_from_slice(b"\r\n");
    let Ending { closes, dated } = headers.write(out);
    if drains && !closes {
        field(out, "connection", b"close");
    }
    match length.map(usize::try_from) {
        _ if !has_body(status) => {}
        Some(Ok(length)) => {
            let mut digits = [0; 20];
            field(out, "content-length", crate::decimal::decimal(length, &mut digits));
        }
        _ => field(out, "transfer-encoding", b"chunked"),
    }
    if !dated {
        with_date(|date| field(out, "date", date));
    }
    out.extend_from_slice(b"\r\n");
    closes || drains
}

fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
