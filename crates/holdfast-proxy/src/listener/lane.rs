//! The short way for plain requests: a POST that is here as a whole, and an answer that is.
//!
//! Nearly every call is one, and of a general HTTP server it needs little; what the others need was a large
//! part of a call's instructions (`docs/performance.md`). So a connection begins here. The first thing on it that is anything but
//! plain (another method, a transfer coding, an upgrade, a body that takes its time, an answer that is a
//! stream) goes to hyper with every byte that was read, and the connection stays there. What hyper would
//! refuse is therefore refused by hyper alone (`docs/decisions/0016-a-short-way-for-plain-requests.md`).

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use holdfast_mcp::http1::{self, Found, Limits, Plain};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::date::with_date;
use super::orders::{Order, Orders};
use super::patience::{Impatient, Requests};
use crate::body::Body;
use crate::boxes::{Boxed, Boxes};
use crate::gateway::Current;
use crate::ingress::{self, Connection, HangUp, RequestBody};

/// A client connection that has seen nothing but plain requests.
pub(super) struct Lane<S> {
    current: Arc<Current>,
    connection: Connection,
    limits: Limits,
    stream: Impatient<S>,
    requests: Requests,
    orders: Orders,
    /// What was read and not yet taken. Empty between two requests, and then without room.
    read: BytesMut,
    out: Vec<u8>,
    drains: bool,
}

/// How the connection goes on.
pub(super) enum Exit<S> {
    /// It has ended, in order or not.
    Ended(io::Result<()>),
    /// With hyper, from the first of these bytes on.
    Other(Box<Other<S>>),
}

/// A connection for hyper.
pub(super) struct Other<S> {
    pub(super) stream: Prefixed<Impatient<S>>,
    pub(super) orders: Orders,
    /// The response to the request that the bytes begin with, where it has been served already.
    pub(super) served: Option<Response<Body>>,
    /// The node drains: no request after this one.
    pub(super) drains: bool,
}

/// A stream that begins with bytes which were read from it before, and tells what hyper has read.
pub(super) struct Prefixed<S> {
    prefix: Bytes,
    stream: S,
    requests: Requests,
}

/// The longest body that is read here; hyper takes longer ones as they come.
const LONGEST: usize = 64 * 1024;

/// Bytes that may wait behind a request that is being served.
const AHEAD: usize = 64 * 1024;

/// How long the body of a plain request may take. After it, hyper takes over, and the time that the
/// configuration gives to bodies begins.
const SOON: Duration = Duration::from_millis(250);

/// An answer of at most so many bytes is copied behind its head, to go out with one write.
const SMALL: usize = 16 * 1024;

/// How long the end of a connection may take to say.
const GOODBYE: Duration = Duration::from_secs(1);

thread_local! {
    static SERVING: Boxes<Result<Response<Body>, HangUp>> = const { RefCell::new(Vec::new()) };
}

/// What came while something else was waited for.
enum Heard {
    /// So many bytes; 0: the client's end.
    Bytes(usize),
    Cut,
    Drain,
}

// === impl Lane ===

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    pub(super) fn new(
        current: Arc<Current>,
        connection: Connection,
        stream: Impatient<S>,
        requests: Requests,
        orders: Orders,
    ) -> Self {
        let gateway = current.load_full();
        let settings = &gateway.config.limits;
        let limits = Limits {
            fields: settings.header_count.min(http1::MOST_FIELDS),
            // What is longer has to be refused, or needs a larger buffer: both are hyper's.
            head: settings.header_bytes.min(READ),
            body: settings.body.min(LONGEST),
        };
        let (read, out) = (BytesMut::new(), Vec::new());
        Self { current, connection, limits, stream, requests, orders, read, out, drains: false }
    }

    /// Serves plain requests until something else comes.
    ///
    /// # Cancel safety
    /// The connection is closed.
    pub(super) async fn run(mut self) -> Exit<S> {
        loop {
            let found = match self.next().await {
                Ok(Some(found)) => found,
                Ok(None) => return self.other(Bytes::new(), None),
                Err(ended) => return Exit::Ended(self.goodbye(ended).await),
            };
            let Some((request, parts, body)) = self.take(found) else {
                return self.other(Bytes::new(), None);
            };
            let response = match self.serve(parts, body).await {
                Ok(response) => response,
                Err(ended) => return Exit::Ended(ended),
            };
            let (parts, body) = response.into_parts();
            let Body::Full(body) = body else {
                return self.other(request, Some(Response::from_parts(parts, body)));
            };
            drop(request);
            match self.write(parts, body.unwrap_or_default()).await {
                // What came meanwhile is the beginning of the next head.
                Ok(true) if self.read.is_empty() => {}
                Ok(true) => self.stream.has_begun(),
                Ok(false) => return Exit::Ended(self.goodbye(Ok(())).await),
                Err(error) => return Exit::Ended(Err(error)),
            }
        }
    }

    fn other(self, request: Bytes, served: Option<Response<Body>>) -> Exit<S> {
        let prefix = match request.is_empty() {
            true => self.read.freeze(),
            false if self.read.is_empty() => request,
            false => [&request[..], &self.read[..]].concat().into(),
        };
        let mut stream = self.stream;
        if served.is_none() && !prefix.is_empty() {
            stream.has_begun();
        }
        let stream = Prefixed { prefix, stream, requests: self.requests };
        let (orders, drains) = (self.orders, self.drains);
        Exit::Other(Box::new(Other { stream, orders, served, drains }))
    }

    /// Waits until there is a whole plain request. `None`: there is something else.
    ///
    /// # Errors
    /// The connection has ended.
    async fn next(&mut self) -> Result<Option<Plain>, io::Result<()>> {
        loop {
            let needed = match self.read.is_empty() {
                true => 0,
                false => match http1::plain(&self.read, &self.limits) {
                    Found::Whole(found) => return Ok(Some(found)),
                    Found::Head(needed) => needed,
                    Found::Partial => 0,
                    Found::Other => return Ok(None),
                },
            };
            if needed > 0 {
                // The head is complete: its time is over, and the body's begins.
                let in_service = self.requests.start();
                let whole = tokio::time::timeout(SOON, self.more_than(needed)).await;
                drop(in_service);
                match whole {
                    Ok(Ok(())) => continue,
                    Ok(Err(ended)) => return Err(ended),
                    Err(_) => return Ok(None),
                }
            }
            if self.drains && self.read.is_empty() {
                return Err(Ok(()));
            }
            match self.hear().await.map_err(Err)? {
                Heard::Bytes(0) | Heard::Cut => return Err(Ok(())),
                Heard::Bytes(_) => {}
                Heard::Drain => self.drains = true,
            }
        }
    }

    /// Reads until so many bytes are here.
    async fn more_than(&mut self, needed: usize) -> Result<(), io::Result<()>> {
        while self.read.len() < needed {
            match self.hear().await.map_err(Err)? {
                Heard::Bytes(0) | Heard::Cut => return Err(Ok(())),
                Heard::Bytes(_) => {}
                Heard::Drain => self.drains = true,
            }
        }
        Ok(())
    }

    /// Takes the plain request at the front. `None`: it is hyper's after all, and stays.
    fn take(&mut self, found: Plain) -> Option<(Bytes, Box<Parts>, Bytes)> {
        let request = match found.length == self.read.len() {
            // Idle connections have no buffer.
            true => std::mem::take(&mut self.read).freeze(),
            false => self.read.split_to(found.length).freeze(),
        };
        let Some((target, headers, body)) = found.parts(&request) else {
            let behind = std::mem::take(&mut self.read);
            self.read = BytesMut::from(&request[..]);
            self.read.extend_from_slice(&behind);
            return None;
        };
        let mut parts = Box::new(Request::new(()).into_parts().0);
        (parts.method, parts.uri, parts.headers) = (Method::POST, target, headers);
        Some((request, parts, body))
    }

    /// # Errors
    /// The connection has ended before there was a response, or instead of one.
    async fn serve(
        &mut self,
        parts: Box<Parts>,
        body: Bytes,
    ) -> Result<Response<Body>, io::Result<()>> {
        let in_service = self.requests.start();
        let (gateway, body) = (self.current.load_full(), RequestBody::Whole(body));
        let serving = ingress::serve(gateway, parts, body, self.connection.clone());
        let mut serving = Boxed::new(&SERVING, serving);
        let served = poll_fn(|cx| {
            loop {
                if let Poll::Ready(served) = Pin::new(&mut serving).poll(cx) {
                    return Poll::Ready(Ok(served));
                }
                // A client that leaves is noticed, and what it says already is kept.
                if self.read.len() >= AHEAD {
                    return Poll::Pending;
                }
                match ready!(self.poll_hear(cx)) {
                    Ok(Heard::Bytes(0) | Heard::Cut) => return Poll::Ready(Err(Ok(()))),
                    Ok(Heard::Bytes(_)) => {}
                    Ok(Heard::Drain) => self.drains = true,
                    Err(error) => return Poll::Ready(Err(Err(error))),
                }
            }
        });
        let served = served.await;
        drop(in_service);
        match served? {
            Ok(response) => Ok(response),
            Err(HangUp) => Err(Err(io::Error::other(HangUp))),
        }
    }

    async fn hear(&mut self) -> io::Result<Heard> {
        poll_fn(|cx| self.poll_hear(cx)).await
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        let read = with_scratch(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch))?;
            self.read.extend_from_slice(scratch.filled());
            Poll::Ready(io::Result::Ok(scratch.filled().len()))
        });
        if let Poll::Ready(read) = read {
            return Poll::Ready(read.map(Heard::Bytes));
        }
        Poll::Ready(Ok(match ready!(self.orders.poll(cx)) {
            Order::Cut => Heard::Cut,
            Order::Drain => Heard::Drain,
        }))
    }

    /// Writes a whole response; whether the connection may be used again.
    async fn write(&mut self, parts: http::response::Parts, mut body: Bytes) -> io::Result<bool> {
        // The order may have come with the answer.
        self.drains |= self.orders.drains();
        let closes =
            write_head(&mut self.out, &parts.headers, parts.status, body.len(), self.drains);
        if body.len() <= SMALL {
            self.out.extend_from_slice(&body);
            body = Bytes::new();
        }
        let mut head = &self.out[..];
        let limit = self.stream.idle_limit();
        let (stream, orders, drains) = (&mut self.stream, &mut self.orders, &mut self.drains);
        // Set while the client takes nothing.
        let mut alarm: Option<Pin<Box<Sleep>>> = None;
        let written = poll_fn(|cx| {
            loop {
                let stream = Pin::new(&mut *stream);
                let wrote = match (head.is_empty(), body.is_empty()) {
                    (false, false) => {
                        let both = [io::IoSlice::new(head), io::IoSlice::new(&body)];
                        stream.poll_write_vectored(cx, &both)
                    }
                    (false, true) => stream.poll_write(cx, head),
                    (true, false) => stream.poll_write(cx, &body),
                    (true, true) => match stream.poll_flush(cx) {
                        Poll::Ready(flushed) => return Poll::Ready(flushed),
                        Poll::Pending => Poll::Pending,
                    },
                };
                match wrote {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(many)) => {
                        let of_head = many.min(head.len());
                        head = &head[of_head..];
                        body.advance(many - of_head);
                        alarm = None;
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
                match orders.poll(cx) {
                    Poll::Ready(Order::Cut) => {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                    }
                    Poll::Ready(Order::Drain) => *drains = true,
                    Poll::Pending => {
                        let alarm =
                            alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                        ready!(alarm.as_mut().poll(cx));
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
        });
        written.await?;
        self.out.clear();
        if self.out.capacity() > SMALL {
            self.out = Vec::new();
        }
        Ok(!closes)
    }

    /// Says goodbye to a client whose connection ends in order, if it listens.
    async fn goodbye(&mut self, ended: io::Result<()>) -> io::Result<()> {
        ended?;
        let shutdown = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        tokio::time::timeout(GOODBYE, shutdown).await.unwrap_or(Ok(()))
    }
}

/// Writes the head of a response; whether the connection closes after it.
fn write_head(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    status: http::StatusCode,
    length: usize,
    drains: bool,
) -> bool {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("-").as_bytes());
    out.extend_from_slice(b"\r\n");
    let (mut closes, mut dated) = (false, false);
    for (name, value) in headers {
        match *name {
            CONTENT_LENGTH => continue,
            CONNECTION => closes |= value.as_bytes().eq_ignore_ascii_case(b"close"),
            DATE => dated = true,
            _ => {}
        }
        field(out, name.as_str(), value.as_bytes());
    }
    if drains && !closes {
        field(out, "connection", b"close");
    }
    // Responses with these have no body, and no length (RFC 9110, section 8.6).
    if !(status.is_informational() || status == 204 || status == 304) {
        let mut digits = [0; 20];
        field(out, "content-length", crate::decimal::decimal(length, &mut digits));
    }
    if !dated {
        with_date(|date| field(out, "date", date));
    }
    out.extend_from_slice(b"\r\n");
    closes || drains
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Bytes that are read at a time.
const READ: usize = 16 * 1024;

/// Room for one read, the thread's own: what is read is copied into a buffer of just its size, and a
/// connection that waits has none.
fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Box<[u8]>> =
            RefCell::new(vec![0; READ].into_boxed_slice());
    }
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}

// === impl Prefixed ===

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.prefix.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        } else {
            let many = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix.split_to(many));
        }
        this.requests.arrived(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
