//! The short way for plain requests: a POST that is here as a whole, or a GET, and whatever its answer is.
//!
//! Nearly every request is one, and of a general HTTP server it needs little; what the others need was a large
//! part of a call's instructions (`docs/performance.md`). So a connection begins here. The first request on it
//! that is anything but plain (another method, a transfer coding, an upgrade, a body that takes its time) goes
//! to hyper with every byte that was read, and the connection stays there. What hyper would refuse is
//! therefore refused by hyper alone (`docs/decisions/0016-a-short-way-for-plain-requests.md`). How answers
//! leave, streams among them, is [`Outgoing`]'s part.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_mcp::http1::{self, Found, Limits, Plain, RequestHeads};
use holdfast_net::{Impatient, Prefixed, Requests};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::half_close::HalfClose;
use super::orders::{Order, Orders};
use super::outgoing::Outgoing;
use crate::boxes::{Boxed, Boxes, worker};
use crate::clock;
use crate::gateway::{Current, Gateway};
use crate::ingress::{self, Admission, Connection, HangUp, Kept, RequestBody};
use crate::response::Response;
use crate::scratch;

/// A client connection that has seen nothing but plain requests.
pub(super) struct Lane<S> {
    current: Arc<Current>,
    connection: Connection,
    limits: Limits,
    heads: RequestHeads,
    /// The last head that came again, by its number, and what it meant.
    kept: Option<(u64, HalfClose, Kept)>,
    stream: Impatient<S>,
    requests: Requests,
    orders: Orders,
    /// What was read and not yet taken. Empty between two requests, and then without room.
    read: BytesMut,
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
    /// The node drains: no request after this one.
    pub(super) drains: bool,
}

/// The longest body that is read here; hyper takes longer ones as they come.
const LONGEST: usize = 64 * 1024;

/// Bytes that may wait behind a request that is being served or answered.
const AHEAD: usize = 64 * 1024;

/// How long the body of a plain request may take. After it, hyper takes over, and the time that the
/// configuration gives to bodies begins.
const SOON: Duration = Duration::from_millis(250);

/// How long the end of a connection may take to say.
const GOODBYE: Duration = Duration::from_secs(1);

thread_local! {
    static SERVING: Boxes<Asked, Result<Response, HangUp>> = const {
        Boxes::new(|| worker(&SERVING, |(gateway, admission, body, connection): Asked| {
            ingress::serve(gateway, admission, RequestBody::Whole(body), connection)
        }))
    };
}

/// A request, as it is served.
type Asked = (Arc<Gateway>, Admission, Bytes, Connection);

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
            head: settings.header_bytes.min(scratch::ROOM),
            body: settings.body.min(LONGEST),
        };
        let (heads, read) = (RequestHeads::default(), BytesMut::new());
        let (kept, drains) = (None, false);
        Self { current, connection, limits, heads, kept, stream, requests, orders, read, drains }
    }

    /// Serves plain requests until something else comes.
    ///
    /// # Cancel safety
    /// The connection is closed.
    pub(super) async fn run(mut self) -> Exit<S> {
        loop {
            let found = match self.next().await {
                Ok(Some(found)) => found,
                Ok(None) => return self.other(),
                Err(ended) => return Exit::Ended(self.goodbye(ended).await),
            };
            let Some((asked, half)) = self.take(found) else { return self.other() };
            // Until its answer is out, neither a head nor idleness is watched for.
            let in_service = self.requests.start();
            self.requests.may_half_close(half.is_answered());
            let keeps = match self.serve(asked).await {
                Ok(response) => {
                    self.requests.may_half_close(half.is_sent(&response.body));
                    self.send(response).await
                }
                Err(ended) => Err(ended),
            };
            self.requests.may_half_close(false);
            drop(in_service);
            match keeps {
                // What came meanwhile is the beginning of the next head.
                Ok(true) if self.read.is_empty() => {}
                Ok(true) => self.stream.has_begun(),
                Ok(false) => return Exit::Ended(self.goodbye(Ok(())).await),
                Err(ended) => return Exit::Ended(ended),
            }
        }
    }

    fn other(self) -> Exit<S> {
        let prefix = self.read.freeze();
        let mut stream = self.stream;
        if !prefix.is_empty() {
            stream.has_begun();
        }
        let stream = Prefixed::new(prefix, stream, self.requests);
        let (orders, drains) = (self.orders, self.drains);
        Exit::Other(Box::new(Other { stream, orders, drains }))
    }

    /// Waits until there is a whole plain request. `None`: there is something else.
    ///
    /// # Errors
    /// The connection has ended.
    async fn next(&mut self) -> Result<Option<Plain>, io::Result<()>> {
        loop {
            let needed = match self.read.is_empty() {
                true => 0,
                false => match self.heads.plain(&self.read, &self.limits) {
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
    fn take(&mut self, found: Plain) -> Option<(Asked, HalfClose)> {
        let request = match found.length == self.read.len() {
            // Idle connections have no buffer.
            true => std::mem::take(&mut self.read).freeze(),
            false => self.read.split_to(found.length).freeze(),
        };
        let gateway = self.current.load_full();
        let number = self.heads.number(&found);
        if let Some((known, half, kept)) = &self.kept
            && number == Some(*known)
            && let words = self.heads.words(&found).map(|(name, at)| (name, request.slice(at)))
            && let Some(admitted) = kept.at(&gateway, words)
        {
            let body = found.body(&request);
            return Some((
                (gateway, Admission::In(admitted), body, self.connection.clone()),
                *half,
            ));
        }
        let Some((method, target, headers, body)) = self.heads.parts(found, &request) else {
            let behind = std::mem::take(&mut self.read);
            self.read = BytesMut::from(&request[..]);
            self.read.extend_from_slice(&behind);
            return None;
        };
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri, parts.headers) = (method, target, headers);
        let half = HalfClose::of(&parts.method, &parts.headers);
        let admission = ingress::admit(&gateway, parts, &self.connection);
        self.kept = match (number, &admission) {
            (Some(number), Admission::In(admitted)) => {
                Kept::of(admitted, &gateway).map(|kept| (number, half, kept))
            }
            _ => None,
        };
        Some(((gateway, admission, body, self.connection.clone()), half))
    }

    /// # Errors
    /// The connection has ended before there was a response, or instead of one.
    async fn serve(&mut self, asked: Asked) -> Result<Response, io::Result<()>> {
        let mut serving = Boxed::new(&SERVING, asked);
        let served = poll_fn(|cx| {
            loop {
                if let Poll::Ready(served) = clock::turn(|| Pin::new(&mut serving).poll(cx)) {
                    return Poll::Ready(Ok(served));
                }
                // A client that leaves is noticed, and what it says already is kept.
                ready!(self.poll_meanwhile(cx))?;
            }
        });
        match served.await? {
            Ok(response) => Ok(response),
            Err(HangUp) => Err(Err(io::Error::other(HangUp))),
        }
    }

    /// Writes a response; whether the connection may be used again.
    ///
    /// # Errors
    /// The connection has ended.
    async fn send(&mut self, response: Response) -> Result<bool, io::Result<()>> {
        // The order may have come with the answer.
        self.drains |= self.orders.drains();
        let (mut outgoing, closes) = Outgoing::new(response, self.drains);
        let sent = poll_fn(|cx| {
            loop {
                if let Poll::Ready(sent) = outgoing.poll(cx, &mut self.stream) {
                    return Poll::Ready(sent.map_err(Err));
                }
                if outgoing.is_quiet() {
                    ready!(self.poll_meanwhile(cx))?;
                    continue;
                }
                // A client that does not take what there is is not asked for more.
                match ready!(self.orders.poll(cx)) {
                    Order::Cut => {
                        return Poll::Ready(Err(Err(io::ErrorKind::ConnectionAborted.into())));
                    }
                    Order::Drain => self.drains = true,
                }
            }
        });
        sent.await?;
        Ok(!closes)
    }

    /// Hears what comes while a request is served or its answer is under way.
    ///
    /// # Errors
    /// The connection has ended.
    fn poll_meanwhile(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Result<()>>> {
        let heard = match self.read.len() < AHEAD {
            true => ready!(self.poll_hear(cx)),
            false => Ok(ready!(self.orders.poll(cx)).into()),
        };
        match heard.map_err(Err)? {
            Heard::Bytes(0) | Heard::Cut => return Poll::Ready(Err(Ok(()))),
            Heard::Bytes(_) => {}
            Heard::Drain => self.drains = true,
        }
        Poll::Ready(Ok(()))
    }

    async fn hear(&mut self) -> io::Result<Heard> {
        poll_fn(|cx| self.poll_hear(cx)).await
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        let read = scratch::with(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch))?;
            self.read.extend_from_slice(scratch.filled());
            Poll::Ready(io::Result::Ok(scratch.filled().len()))
        });
        if let Poll::Ready(read) = read {
            return Poll::Ready(read.map(Heard::Bytes));
        }
        Poll::Ready(Ok(ready!(self.orders.poll(cx)).into()))
    }

    /// Says goodbye to a client whose connection ends in order, if it listens.
    async fn goodbye(&mut self, ended: io::Result<()>) -> io::Result<()> {
        ended?;
        let shutdown = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        tokio::time::timeout(GOODBYE, shutdown).await.unwrap_or(Ok(()))
    }
}

impl From<Order> for Heard {
    fn from(order: Order) -> Self {
        match order {
            Order::Cut => Self::Cut,
            Order::Drain => Self::Drain,
        }
    }
}
