//! One HTTP exchange with an instance, and what is known about it when it fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};

use super::pool::{self, ConnectError, Sender};
use holdfast_config::HttpUrl;
use holdfast_mcp::headers::name;

/// An HTTP instance.
#[derive(Debug)]
pub(crate) struct HttpTarget {
    pub(crate) url: HttpUrl,
    /// The instance's key in the pools of all threads.
    pub(crate) key: usize,
    /// How long an idle connection to it is kept.
    idle: Duration,
    host: HeaderValue,
    uri: Uri,
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
    Broken(hyper::Error),
    /// The answer's body was cut.
    #[error("the answer was cut half way: {0}")]
    Cut(hyper::Error),
}

/// Asked once there is a connection, before the first byte of a request is written: the reason why
/// it may not be.
pub(crate) type Gate<'a> = &'a (dyn Fn() -> Result<(), String> + Sync);

/// A request on its way out. The headers are copied once it has a connection.
#[derive(Clone)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: Method,
    pub(crate) headers: &'a HeaderMap,
    /// The instance's own session, where it has one.
    pub(crate) session: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

/// A response whose head has arrived.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    pub(crate) lease: Lease,
    /// `Content-Length`.
    declared: Option<usize>,
}

/// The connection a response is read from. It goes back to the pool when the response was read to
/// its end, and is closed otherwise.
pub(crate) struct Lease {
    key: usize,
    idle: Duration,
    sender: Option<Sender>,
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
        rest: Incoming,
        lease: Lease,
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
        Ok(Self {
            host: HeaderValue::from_str(&authority)?,
            uri: Uri::builder().path_and_query(url.path.as_str()).build()?,
            url,
            key,
            idle: pool::IDLE,
        })
    }

    /// Keeps idle connections for so long.
    pub(crate) fn keeping(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    fn request(&self, outgoing: &Outgoing<'_>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = self.uri.clone();
        let mut headers = outgoing.headers.clone();
        headers.insert(HOST, self.host.clone());
        if let Some(session) = &outgoing.session {
            headers.insert(name::SESSION_ID, session.clone());
        }
        *request.headers_mut() = headers;
        request
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.url.host, self.url.port)
    }
}

// === impl Lease ===

impl Lease {
    /// The response was read to its end.
    pub(crate) fn done(mut self) {
        if let Some(sender) = self.sender.take() {
            pool::put(self.key, sender, self.idle);
        }
    }
}

/// Sends one request and waits for the head of its response.
///
/// A request that a pooled connection gave back unwritten goes out once more on a fresh one.
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
    let mut pooled = true;
    let mut written = None;
    loop {
        let taken = if pooled { pool::take(target.key).await } else { None };
        let mut sender = match taken {
            Some(sender) => sender,
            None => {
                pooled = false;
                Box::pin(pool::connect(target, connect_timeout, tls)).await?
            }
        };
        if let Some(gate) = gate {
            gate().map_err(HttpError::Withheld)?;
        }
        let request = written.take().unwrap_or_else(|| target.request(outgoing));
        match sender.try_send_request(request).await {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let lease = Lease { key: target.key, idle: target.idle, sender: Some(sender) };
                let length = parts.headers.get(CONTENT_LENGTH);
                let declared = length.and_then(|length| length.to_str().ok()?.parse().ok());
                let (status, headers) = (parts.status, parts.headers);
                return Ok(Response { status, headers, body, lease, declared });
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if pooled => {
                    pooled = false;
                    written = Some(unsent);
                }
                Some(_) => return Err(HttpError::Unsent),
                None => return Err(HttpError::Broken(error.into_error())),
            },
        }
    }
}

// === impl Response ===

impl Response {
    pub(crate) fn is_event_stream(&self) -> bool {
        has_media_type(&self.headers, b"text/event-stream")
    }

    /// Reads the body, up to `limit` bytes; a longer one is handed on where it stands.
    ///
    /// # Errors
    /// [`HttpError::Cut`] if the body ends before it is whole.
    pub(crate) async fn collect(self, limit: usize) -> Result<Collected, HttpError> {
        let Self { mut body, lease, declared, .. } = self;
        if declared.is_some_and(|length: usize| length > limit) {
            return Ok(Collected::Large { head: Bytes::new(), rest: body, lease });
        }
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(HttpError::Cut)?.into_data() else { continue };
            if first.is_empty() && joined.is_empty() {
                first = data;
                if body.is_end_stream() {
                    break;
                }
                continue;
            }
            if joined.is_empty() {
                joined.reserve(declared.unwrap_or(first.len() + data.len()));
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
            if joined.len() > limit {
                return Ok(Collected::Large { head: joined.freeze(), rest: body, lease });
            }
        }
        let body = if joined.is_empty() { first } else { joined.freeze() };
        Ok(Collected::Whole { body, lease })
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
