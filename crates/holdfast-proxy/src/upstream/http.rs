//! One HTTP exchange with an instance, and what is known about it when it fails.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::ServerSession;
use super::pool::{self, ConnectError};
use super::wire::{AnswerBody, Connection, WireError};

pub(crate) use super::wire::Look;
use crate::clock::recent;
use crate::decimal::decimal;
use crate::response::{self, Headers};
use holdfast_config::HttpUrl;
use holdfast_mcp::headers::name;
use holdfast_mcp::http1::Said;

/// An HTTP instance.
#[derive(Debug)]
pub(crate) struct HttpTarget {
    pub(crate) url: HttpUrl,
    /// The instance's key in the pools of all threads.
    pub(crate) key: usize,
    /// How long an idle connection to it is kept.
    idle: Duration,
    /// What follows the method: the rest of the request line, and the `Host` field.
    start: String,
}

/// What went wrong, and what is known about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Not a byte of the request was written.
    #[error(transparent)]
    NotSent(#[from] ConnectError),
    /// The pooled connection was closed before a byte was written.
    #[error("the connection was closed before the request was sent")]
    Unsent,
    /// It may not be sent after all.
    #[error("not sent: {0}")]
    Withheld(String),
    /// The request was on the wire; nothing or not all of an answer came.
    #[error("the connection broke before the answer: {0}")]
    Broken(WireError),
    /// The answer's body was cut.
    #[error("the answer was cut half way: {0}")]
    Cut(WireError),
}

/// What the sending of a call depends on.
#[derive(Clone, Copy)]
pub(crate) struct Gate<'a> {
    /// Asked once there is a connection, before the first byte of the request is written: the reason why
    /// it may not be.
    pub(crate) may_send: &'a (dyn Fn() -> Result<(), String> + Sync),
    /// How its connection is looked at before.
    pub(crate) look: Look,
}

/// A request on its way out. It is written down once it has a connection.
#[derive(Clone)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: Method,
    pub(crate) fields: Fields<'a>,
    /// The instance's own session, where it has one.
    pub(crate) session: Option<ServerSession>,
    pub(crate) body: Bytes,
}

/// The header fields of a request.
#[derive(Clone, Copy)]
pub(crate) enum Fields<'a> {
    Map(&'a HeaderMap),
    /// As [`Fields::write`] has written them, with no session among them.
    Written(&'a [u8]),
}

/// A response whose head has arrived.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    said: Said<response::Fields>,
    pub(crate) body: ResponseBody,
}

/// A response's body, with the connection that it is read from. The connection goes back to the pool
/// when the body was read to its end, and is closed otherwise.
pub(crate) struct ResponseBody {
    answer: AnswerBody,
    key: usize,
    idle: Duration,
}

/// The connection of a response that has been read to its end.
pub(crate) struct Lease {
    connection: Option<Box<Connection>>,
    key: usize,
    idle: Duration,
}

/// A whole body, or the part that fitted and the rest to come.
pub(crate) enum Collected {
    /// The lease is given back by whoever has seen that the body is an answer to its request.
    Whole {
        body: Bytes,
        lease: Lease,
    },
    Large {
        head: Bytes,
        rest: ResponseBody,
    },
}

// === impl HttpTarget ===

impl HttpTarget {
    /// # Errors
    /// If host or path cannot stand in a request; the configuration has checked both.
    pub(crate) fn new(url: HttpUrl, key: usize) -> Result<Self, http::Error> {
        let host =
            if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
        let default = if url.tls { 443 } else { 80 };
        let authority = if url.port == default { host } else { format!("{host}:{}", url.port) };
        // What cannot stand in a field or a request line cannot be written.
        HeaderValue::from_str(&authority)?;
        let path = Uri::builder().path_and_query(url.path.as_str()).build()?;
        Ok(Self {
            start: format!(" {path} HTTP/1.1\r\nhost: {authority}\r\n"),
            url,
            key,
            idle: pool::IDLE,
        })
    }

    /// Keeps idle connections for so long.
    pub(crate) fn keeping(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Writes the head of the request: the client's headers, but our `Host` and length.
    fn write(&self, outgoing: &Outgoing<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(outgoing.method.as_str().as_bytes());
        out.extend_from_slice(self.start.as_bytes());
        outgoing.fields.write(outgoing.session.is_some(), out);
        if let Some(session) = &outgoing.session {
            field(name::SESSION_ID.as_str().as_bytes(), session.as_str().as_bytes(), out);
        }
        // A POST says that it has no body, and others do by saying nothing (RFC 9110, section 8.6).
        if !outgoing.body.is_empty() || outgoing.method == Method::POST {
            let mut digits = [0; 20];
            let length = decimal(outgoing.body.len(), &mut digits);
            field(CONTENT_LENGTH.as_str().as_bytes(), length, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.url.host, self.url.port)
    }
}

fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

// === impl Fields ===

impl Fields<'_> {
    /// Writes all but `Host` and length, which are the gateway's own, and the session where there is
    /// another one.
    pub(crate) fn write(&self, has_session: bool, out: &mut Vec<u8>) {
        let map = match self {
            Self::Map(map) => map,
            Self::Written(written) => return out.extend_from_slice(written),
        };
        for (name, value) in *map {
            let ours = *name == HOST
                || *name == CONTENT_LENGTH
                || (*name == name::SESSION_ID && has_session);
            if !ours {
                field(name.as_str().as_bytes(), value.as_bytes(), out);
            }
        }
    }
}

// === impl Lease ===

impl Lease {
    /// The response was what it should have been.
    pub(crate) fn done(self) {
        if let Some(connection) = self.connection {
            pool::put(self.key, connection, self.idle);
        }
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// [`WireError`] if the body is cut.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, WireError>> {
        self.answer.next().await
    }

    /// As [`Self::next`].
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, WireError>>> {
        self.answer.poll_next(cx)
    }

    /// As [`Self::next`] gives it, if it has been read already.
    pub(crate) fn here(&mut self) -> Option<Option<Result<Bytes, WireError>>> {
        self.answer.here()
    }

    /// What is left of a body that has declared its length, in bytes.
    pub(crate) fn declared(&self) -> Option<u64> {
        self.answer.declared()
    }

    /// Reads the body, up to `limit` bytes; a longer one is handed on where it stands.
    ///
    /// # Errors
    /// [`HttpError::Cut`] if the body ends before it is whole.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Collected, HttpError> {
        if self.declared().is_some_and(|length| length > limit as u64) {
            return Ok(Collected::Large { head: Bytes::new(), rest: self });
        }
        if let Some(whole) = self.answer.whole(limit).await {
            return Ok(Collected::Whole {
                body: whole.map_err(HttpError::Cut)?,
                lease: self.lease(),
            });
        }
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(data) = self.next().await {
            let data = data.map_err(HttpError::Cut)?;
            if first.is_empty() && joined.is_empty() {
                first = data;
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
            if joined.len() > limit {
                return Ok(Collected::Large { head: joined.freeze(), rest: self });
            }
        }
        let whole = if joined.is_empty() { first } else { joined.freeze() };
        Ok(Collected::Whole { body: whole, lease: self.lease() })
    }

    /// What becomes of the connection: it can be used again if the body was read to its end.
    pub(crate) fn lease(self) -> Lease {
        Lease { connection: self.answer.into_connection(), key: self.key, idle: self.idle }
    }
}

/// Sends one request and waits for the head of its response.
///
/// A request that a pooled connection gave back unwritten goes out once more on a fresh one. So does one
/// that met the end of its connection, where that was not looked for ([`Look::Runtime`]).
///
/// # Errors
/// [`HttpError`] says whether anything was sent.
///
/// # Cancel safety
/// Cancelled after the request was written, the connection is closed: a modern server reads that
/// as a cancellation.
pub(crate) async fn send(
    target: &HttpTarget,
    outgoing: &Outgoing<'_>,
    connect_timeout: Duration,
    tls: &Arc<rustls::ClientConfig>,
    gate: Option<Gate<'_>>,
) -> Result<Response, HttpError> {
    let look = gate.map_or(Look::Kernel, |gate| gate.look);
    let mut taken = pool::take(target.key, look);
    let begun = taken.as_ref().filter(|_| look == Look::Runtime).map(|_| recent());
    loop {
        let pooled = taken.is_some();
        let mut connection = match taken.take() {
            Some(connection) => connection,
            None => Box::pin(pool::connect(target, connect_timeout, tls)).await?,
        };
        if let Some(gate) = gate {
            (gate.may_send)().map_err(HttpError::Withheld)?;
        }
        target.write(outgoing, connection.request());
        match connection.exchange(outgoing.body.clone()).await {
            Ok((status, said, answer)) => {
                let body = ResponseBody { answer, key: target.key, idle: target.idle };
                return Ok(Response { status, said, body });
            }
            // Closed by the server while it lay in the pool.
            Err(WireError::Unwritten(_)) if pooled => {}
            Err(WireError::Unwritten(_)) => return Err(HttpError::Unsent),
            Err(error)
                if pooled && error.is_end() && begun.is_some_and(|at| at.elapsed() < UNHEARD) => {}
            Err(error) => return Err(HttpError::Broken(error)),
        }
    }
}

/// How far the runtime may be behind about a connection that has ended, on a machine that has much to do. An
/// end that comes later is the fate of the request, and counts.
const UNHEARD: Duration = Duration::from_millis(100);

// === impl Response ===

impl Response {
    pub(crate) fn is_event_stream(&self) -> bool {
        response::is_event_stream(&self.said)
    }

    /// What the server calls its session, where it says so.
    pub(crate) fn session_id(&self) -> Option<&HeaderValue> {
        response::session_id(&self.said)
    }

    /// With its header fields without what belongs to its connection and to its session.
    pub(crate) fn into_parts(self) -> (StatusCode, Headers, ResponseBody) {
        (self.status, self.said.into(), self.body)
    }
}

/// Whether `Content-Type` names this media type, parameters aside.
pub(crate) fn has_media_type(headers: &HeaderMap, media: &[u8]) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        let end = value.iter().position(|b| *b == b';').unwrap_or(value.len());
        value[..end].trim_ascii().eq_ignore_ascii_case(media)
    })
}

#[cfg(test)]
mod tests;
