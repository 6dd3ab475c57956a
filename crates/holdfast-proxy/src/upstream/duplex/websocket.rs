//! A server that speaks WebSocket: one JSON-RPC message per text frame, subprotocol `mcp`.
//!
//! Two tasks share the connection, one for each direction, so that a full inbox does not stop writing:
//! a server that waits for an answer before it reads on would otherwise wait for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, StreamExt};
use holdfast_config::HttpUrl;
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderName, HeaderValue, Request};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{
    CapacityError, Error, ProtocolError, SubProtocolError,
};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tracing::debug;

use super::connect::{Io, connect};
use super::error::{Closed, OpenError, SendError};
use super::outbox::{End, Outbox, outbox};
use super::{Duplex, INBOX, Limits};

/// How long the closing handshake may take before the connection is simply dropped.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Allocated at once for each connection, so kept small.
const BUFFER: usize = 16 * 1024;

pub(super) async fn open(
    server: &Arc<str>,
    url: &HttpUrl,
    tls: Option<&Arc<ClientConfig>>,
    headers: &[(HeaderName, HeaderValue)],
    limits: Limits,
) -> Result<Duplex, OpenError> {
    let socket = timeout(limits.open, handshake(url, tls, headers, limits))
        .await
        .map_err(|_| OpenError::TimedOut { subject: url.origin(), after: limits.open })??;

    let (tell, closed) = watch::channel(None);
    let (sender, outbox) = outbox(limits.send, closed.clone());
    let (deliver, inbox) = mpsc::channel(INBOX);
    let heard = Arc::new(Heard::default());
    let (sink, stream) = socket.split();
    let reader = Reader {
        server: server.clone(),
        stream,
        deliver,
        end: outbox.end(),
        heard: heard.clone(),
        limit: limits.message,
    };
    tokio::spawn(reader.run(tell));
    tokio::spawn(write(outbox, sink, heard, limits.ping));
    Ok(Duplex { sender, inbox, closed })
}

type Socket = WebSocketStream<Io>;

/// Offers the subprotocol, and goes without it if the server does not know any.
async fn handshake(
    url: &HttpUrl,
    tls: Option<&Arc<ClientConfig>>,
    headers: &[(HeaderName, HeaderValue)],
    limits: Limits,
) -> Result<Socket, OpenError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(Some(limits.message))
        .max_frame_size(Some(limits.message));
    let mut offer = true;
    loop {
        let request = request(url, headers, offer)?;
        let stream = connect(url, tls).await?;
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => return Ok(socket),
            Err(Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(
                SubProtocolError::NoSubProtocol,
            ))) if offer => {
                offer = false;
            }
            Err(Error::Http(response)) => {
                return Err(OpenError::Refused {
                    address: url.origin(),
                    status: response.status().as_u16(),
                });
            }
            Err(Error::Io(source)) => {
                return Err(OpenError::Connect { address: url.origin(), source });
            }
            Err(error) => return Err(not_websocket(url, &error)),
        }
    }
}

fn request(
    url: &HttpUrl,
    headers: &[(HeaderName, HeaderValue)],
    offer: bool,
) -> Result<Request<()>, OpenError> {
    let mut request =
        url.websocket().into_client_request().map_err(|error| not_websocket(url, &error))?;
    for (name, value) in headers {
        let ours = *name == HOST || *name == CONNECTION || *name == UPGRADE;
        if !ours && !name.as_str().starts_with("sec-websocket-") {
            request.headers_mut().append(name, value.clone());
        }
    }
    if offer {
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mcp"));
    }
    Ok(request)
}

fn not_websocket(url: &HttpUrl, error: &Error) -> OpenError {
    OpenError::Protocol { address: url.origin(), reason: error.to_string() }
}

/// What the writer knows of the reader: whether anything came in since it last looked.
#[derive(Default)]
struct Heard {
    frames: AtomicU64,
    /// The reader waits for room in the inbox, so silence says nothing about the server.
    blocked: AtomicBool,
}

// === the way out ===

async fn write(
    mut outbox: Outbox,
    mut sink: SplitSink<Socket, Message>,
    heard: Arc<Heard>,
    every: Duration,
) {
    let end = outbox.end();
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What had been heard when the last ping went out.
    let mut pinged_at = None;
    loop {
        tokio::select! {
            taken = outbox.next() => {
                let Some(taken) = taken else { break };
                let outcome = match Utf8Bytes::try_from(taken.message.clone()) {
                    Ok(text) => {
                        write_frame(&mut sink, Message::Text(text), &end, Instant::now() + outbox.deadline).await
                    }
                    Err(_) => Err(SendError::NotSent("it is not UTF-8".to_owned())),
                };
                taken.settle(outcome);
            }
            _ = ticks.tick() => {
                let frames = heard.frames.load(Ordering::Relaxed);
                if pinged_at == Some(frames) && !heard.blocked.load(Ordering::Relaxed) {
                    end.begin("the server no longer answers pings");
                    break;
                }
                pinged_at = Some(frames);
                let until = Instant::now() + every;
                let _ = write_frame(&mut sink, Message::Ping(Bytes::new()), &end, until).await;
            }
        }
    }
    let _ = timeout(CLOSE_WITHIN, sink.close()).await;
}

/// The whole frame goes out, or the connection ends.
async fn write_frame(
    sink: &mut SplitSink<Socket, Message>,
    frame: Message,
    end: &End,
    until: Instant,
) -> Result<(), SendError> {
    let ready = std::future::poll_fn(|context| std::pin::Pin::new(&mut *sink).poll_ready(context));
    match timeout_at(until, ready).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            end.begin(format!("the connection broke: {error}"));
            return Err(SendError::NotSent(end.cause()));
        }
        Err(_) => return Err(SendError::NotSent("the server does not read".to_owned())),
    }
    // From here on some of it may be on the wire.
    let cause = tokio::select! {
        biased;
        result = timeout_at(until, sink.send(frame)) => match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("the connection broke: {error}"),
            Err(_) => "the server does not read".to_owned(),
        },
        () = after_end(end) => end.cause(),
    };
    end.begin(cause);
    Err(SendError::Closed(Closed::new(end.cause())))
}

/// When the end has begun, a frame on its way and the closing handshake still get a moment.
async fn after_end(end: &End) {
    end.begun().await;
    sleep(CLOSE_WITHIN).await;
}

// === the way in, and the end ===

struct Reader {
    server: Arc<str>,
    stream: SplitStream<Socket>,
    deliver: mpsc::Sender<Bytes>,
    end: End,
    heard: Arc<Heard>,
    limit: usize,
}

impl Reader {
    async fn run(mut self, tell: watch::Sender<Option<Closed>>) {
        let cause = self.read().await;
        self.end.begin(cause);
        debug!(server = %self.server, reason = %self.end.cause(), "websocket closed");
        tell.send_replace(Some(Closed::new(self.end.cause())));
        // Only now does the inbox end: whoever sees that can read the reason.
        drop(self.deliver);
    }

    /// Delivers until the connection ends, and says why it did.
    async fn read(&mut self) -> String {
        let end = self.end.clone();
        let give_up = after_end(&end);
        tokio::pin!(give_up);
        let mut cause = "the server dropped the connection".to_owned();
        loop {
            let frame = tokio::select! {
                frame = self.stream.next() => frame,
                () = &mut give_up => return end.cause(),
            };
            self.heard.frames.fetch_add(1, Ordering::Relaxed);
            let message = match frame {
                None => return cause,
                Some(Err(error)) => return self.broken(&error),
                Some(Ok(Message::Text(text))) => Bytes::from(text),
                Some(Ok(Message::Binary(bytes))) if std::str::from_utf8(&bytes).is_ok() => bytes,
                Some(Ok(Message::Close(frame))) => {
                    cause = match frame {
                        Some(frame) => format!("the server closed the connection ({frame})"),
                        None => "the server closed the connection".to_owned(),
                    };
                    continue;
                }
                Some(Ok(Message::Binary(_))) => {
                    debug!(server = %self.server, "skipped a binary frame that is not UTF-8");
                    continue;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            };
            if !matches!(message.trim_ascii_start().first(), Some(b'{' | b'[')) {
                debug!(server = %self.server, "skipped a frame that is not JSON");
                continue;
            }
            self.heard.blocked.store(true, Ordering::Relaxed);
            tokio::select! {
                // An error says that nobody listens any more; then the frames are thrown away.
                _ = self.deliver.send(message) => {}
                () = &mut give_up => return end.cause(),
            }
            self.heard.blocked.store(false, Ordering::Relaxed);
        }
    }

    fn broken(&self, error: &Error) -> String {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                format!("the server sent a message larger than {} bytes", self.limit)
            }
            Error::ConnectionClosed | Error::AlreadyClosed => self.end.cause(),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                "the server dropped the connection".to_owned()
            }
            error => format!("the connection broke: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
