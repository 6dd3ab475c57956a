//! A server that speaks HTTP+SSE (2024-11-05): its messages come as events of one long GET, ours go
//! out as POSTs to the address that the first event names.
//!
//! The POSTs are sent one after the other, since their order is the order of the messages, over one
//! kept connection. A POST's status tells what became of its message; its answer comes as an event.

mod endpoint;
mod post;

use std::sync::Arc;

use bytes::Bytes;
use holdfast_config::HttpUrl;
use holdfast_mcp::sse::{Decoder, Event};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{debug, warn};

use self::post::{Poster, post_all};
use super::connect::connect;
use super::error::{Closed, OpenError};
use super::outbox::{End, outbox};
use super::{Duplex, INBOX, Limits};

pub(super) async fn open(
    server: &Arc<str>,
    url: &HttpUrl,
    tls: Option<&Arc<ClientConfig>>,
    headers: &[(HeaderName, HeaderValue)],
    limits: Limits,
) -> Result<Duplex, OpenError> {
    let origin = Origin::new(url, tls, headers)?;
    let opening = async {
        let mut events = origin.listen(limits.message).await?;
        let path = events.endpoint(url).await?;
        Ok((events, path))
    };
    let (events, path) = timeout(limits.open, opening)
        .await
        .map_err(|_| OpenError::TimedOut { subject: url.origin(), after: limits.open })??;
    debug!(server = %server, endpoint = %path, "event stream is open");

    let (tell, closed) = watch::channel(None);
    let (sender, outbox) = outbox(limits.send, closed.clone());
    let (deliver, inbox) = mpsc::channel(INBOX);
    tokio::spawn(read(server.clone(), events, deliver, outbox.end(), tell));
    tokio::spawn(post_all(outbox, Poster::new(origin, path)));
    Ok(Duplex { sender, inbox, closed })
}

/// Where a server is, and what goes with each request to it.
struct Origin {
    url: HttpUrl,
    tls: Option<Arc<ClientConfig>>,
    headers: HeaderMap,
}

type Sender = http1::SendRequest<Full<Bytes>>;

impl Origin {
    fn new(
        url: &HttpUrl,
        tls: Option<&Arc<ClientConfig>>,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Self, OpenError> {
        let mut map = HeaderMap::with_capacity(headers.len() + 4);
        for (name, value) in headers {
            map.append(name, value.clone());
        }
        let host =
            HeaderValue::from_str(&url.authority()).map_err(|error| OpenError::Protocol {
                address: url.origin(),
                reason: format!("its host cannot be written into a header: {error}"),
            })?;
        map.insert(HOST, host);
        Ok(Self { url: url.clone(), tls: tls.cloned(), headers: map })
    }

    /// A new connection, driven by a task that ends with it.
    async fn connect(&self) -> Result<Sender, OpenError> {
        let io = connect(&self.url, self.tls.as_ref()).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(io))
            .await
            .map_err(|error| self.protocol_error(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection to an HTTP+SSE server ended");
            }
        });
        Ok(sender)
    }

    fn request(&self, method: Method, path: &str) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder().method(method).uri(path).body(Full::default())?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Opens the event stream.
    async fn listen(&self, limit: usize) -> Result<Events, OpenError> {
        let mut request = self
            .request(Method::GET, &self.url.path)
            .map_err(|error| self.protocol_error(&error))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let mut sender = self.connect().await?;
        let response =
            sender.send_request(request).await.map_err(|error| self.protocol_error(&error))?;
        if response.status() != StatusCode::OK {
            return Err(OpenError::Refused {
                address: self.url.origin(),
                status: response.status().as_u16(),
            });
        }
        if !is_event_stream(&response) {
            return Err(self.protocol_error(&"its answer is not an event stream"));
        }
        Ok(Events { body: response.into_body(), decoder: Decoder::new(limit), _connection: sender })
    }

    fn protocol_error(&self, reason: &impl ToString) -> OpenError {
        OpenError::Protocol { address: self.url.origin(), reason: reason.to_string() }
    }
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| {
        kind.get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
    })
}

/// The event stream.
struct Events {
    body: Incoming,
    decoder: Decoder,
    /// The connection closes when its sender goes.
    _connection: Sender,
}

impl Events {
    /// The next event, or why there is none.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read is in the decoder.
    async fn next(&mut self) -> Result<Event, String> {
        loop {
            match self.decoder.next() {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => return Err(format!("the event stream cannot be read: {error}")),
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(data);
                    }
                }
                Some(Err(error)) => return Err(format!("the event stream broke: {error}")),
                None => return Err("the server ended the event stream".to_owned()),
            }
        }
    }

    /// Waits for the event that says where messages are POSTed.
    async fn endpoint(&mut self, url: &HttpUrl) -> Result<String, OpenError> {
        let protocol = |reason| OpenError::Protocol { address: url.origin(), reason };
        loop {
            let event = self.next().await.map_err(protocol)?;
            if event.event.as_deref() != Some(b"endpoint") {
                continue;
            }
            let data = event.data.unwrap_or_default();
            let text = String::from_utf8_lossy(&data);
            return endpoint::resolve(url, &text).map_err(|_| OpenError::ForeignEndpoint {
                address: url.origin(),
                // What follows a question mark may be a credential.
                endpoint: text.chars().take_while(|c| *c != '?').take(200).collect(),
            });
        }
    }
}

/// Delivers messages until the stream ends.
async fn read(
    server: Arc<str>,
    mut events: Events,
    deliver: mpsc::Sender<Bytes>,
    end: End,
    tell: watch::Sender<Option<Closed>>,
) {
    loop {
        let event = tokio::select! {
            biased;
            () = end.begun() => break,
            event = events.next() => event,
        };
        let message = match event {
            Ok(event) if event.is_message() => event.data.unwrap_or_default(),
            Ok(_) => continue,
            Err(cause) => {
                end.begin(cause);
                break;
            }
        };
        if !matches!(message.trim_ascii_start().first(), Some(b'{' | b'[')) {
            warn!(server = %server, "skipped an event that is not JSON");
            continue;
        }
        tokio::select! {
            // An error says that nobody listens any more; then the events are thrown away.
            _ = deliver.send(message) => {}
            () = end.begun() => break,
        }
    }
    debug!(server = %server, reason = %end.cause(), "event stream closed");
    tell.send_replace(Some(Closed::new(end.cause())));
    // Only now does the inbox end: whoever sees that can read the reason.
    drop(deliver);
}

#[cfg(test)]
mod tests;
