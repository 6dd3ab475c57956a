//! WebSocket clients: the connection is the session, one JSON-RPC message per text frame.
//!
//! WebSocket is no official MCP transport; the framing is that of both version 1 SDKs (subprotocol
//! `mcp`), and cancellation is as on stdio (`docs/decisions/0002-websocket-as-stdio.md`). The era is
//! that of each message: `initialize` opens a legacy session for the connection, a message that
//! claims a version in `_meta` is modern.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::connected::{Connected, FRAMES};
use super::{no_room_for_stream, refuse};
use crate::body::Body;
use crate::gateway::Gateway;
use crate::metrics::{GaugeGuard, Rejection};
use crate::principal::Principal;
use crate::response::Response;
use crate::server::Server;

/// A ping goes out after this long, and a connection that has been silent for twice as long is
/// dead.
const PING: Duration = Duration::from_secs(20);

/// Whether a request asks for an upgrade to WebSocket.
pub(super) fn wants(parts: &Parts) -> bool {
    parts.method == Method::GET
        && parts
            .headers
            .get(UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Answers the handshake (RFC 6455, section 4.2) and serves the connection in a task of its own.
pub(super) fn upgrade(
    gateway: &Arc<Gateway>,
    server: Arc<Server>,
    principal: Principal,
    parts: &mut Parts,
) -> Response {
    let bad = |text| refuse(gateway, Rejection::Malformed, StatusCode::BAD_REQUEST, text);
    let Some(key) =
        parts.headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()))
    else {
        return bad("the WebSocket handshake lacks Sec-WebSocket-Key");
    };
    if parts.headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return bad("only WebSocket version 13 is spoken");
    }
    if let Some(full) = no_room_for_stream(gateway) {
        return full;
    }
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return bad("this connection cannot become a WebSocket (HTTP/2 has no such upgrade)");
    };
    let Ok(accept) = HeaderValue::from_str(&key) else { return bad("bad Sec-WebSocket-Key") };
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    // Echoed only if offered: a browser fails a connection that answers what it did not ask.
    if offers_mcp(&parts.headers) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mcp"));
    }
    let (frames, outgoing) = mpsc::channel(FRAMES);
    let connected =
        Connected::new(Arc::clone(gateway), server, principal, handshake_headers(parts), frames);
    // hyper is done with the connection at the upgrade; it still is one that clients are limited in
    // and that a drain waits for.
    let open = gateway.metrics.connections.enter();
    gateway.open.spawn(serve(upgrade, connected, outgoing, open));
    Response::new(StatusCode::SWITCHING_PROTOCOLS, headers, Body::Full(None))
}

fn offers_mcp(headers: &HeaderMap) -> bool {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim() == "mcp")
}

/// What of the handshake's headers goes with each message: all but the handshake's own.
fn handshake_headers(parts: &Parts) -> HeaderMap {
    let mut headers = parts.headers.clone();
    let own: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("sec-websocket-"))
        .cloned()
        .collect();
    for name in own {
        headers.remove(name);
    }
    headers
}

/// Why a connection is closed, as its client is told. None: there is nobody to be told.
type Reason = Option<(CloseCode, &'static str)>;

/// Reading, taking and writing go on side by side: none of them waits for another, except for room.
async fn serve(
    upgrade: OnUpgrade,
    connected: Connected,
    mut outgoing: mpsc::Receiver<Bytes>,
    _open: GaugeGuard,
) {
    let stream = match upgrade.await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(error = %error, "WebSocket handshake not finished");
            return;
        }
    };
    let gateway = Arc::clone(&connected.gateway);
    let _websocket = gateway.metrics.websockets.enter();
    let _stream = gateway.metrics.streams.enter();
    let limit = gateway.config.limits.body;
    let config = WebSocketConfig::default()
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit))
        .max_write_buffer_size(gateway.config.limits.stream_queue.max(256 * 1024));
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let (messages, arriving) = mpsc::channel(ARRIVING);
    let silence = Silence::default();
    let reason = {
        let mut taking = std::pin::pin!(connected.take(arriving));
        let reason = tokio::select! {
            reason = read(&mut source, messages, &silence) => reason,
            () = taking.as_mut() => None,
            stalled = write(&mut sink, &mut outgoing, &silence) => {
                if stalled {
                    gateway.metrics.slow_readers.inc();
                }
                None
            }
            () = connected.ended() => Some((CloseCode::Error, "no answer can be given")),
            () = connected.drained() => Some((CloseCode::Away, "the gateway is restarting")),
        };
        // The reader is gone, so what it has read is all that there is to take.
        connected.take_rest(taking).await;
        reason
    };
    if let Some((code, reason)) = reason {
        // What is already on its way to the client arrives before the end.
        while let Ok(frame) = outgoing.try_recv() {
            let Ok(text) = Utf8Bytes::try_from(frame) else { continue };
            if send(&mut sink, Message::Text(text)).await.is_err() {
                break;
            }
        }
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let _ = send(&mut sink, Message::Close(Some(frame))).await;
    }
    tokio::join!(connected.end(), last_words(&mut source, reason.is_some()));
}

/// Messages that may wait between reading and taking.
const ARRIVING: usize = 16;

/// For how many pings nothing has been heard.
#[derive(Default)]
struct Silence {
    pings: AtomicU32,
    /// Nothing can be heard: what has arrived has to be taken first.
    deaf: AtomicBool,
}

/// Reads until there is a reason to close.
async fn read<S>(source: &mut S, messages: mpsc::Sender<Bytes>, silence: &Silence) -> Reason
where
    S: Stream<Item = Result<Message, WsError>> + Unpin,
{
    loop {
        let incoming = source.next().await;
        silence.pings.store(0, Ordering::Relaxed);
        let message = match incoming {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(data))) if std::str::from_utf8(&data).is_ok() => data,
            Some(Ok(Message::Binary(_))) => {
                return Some((CloseCode::Unsupported, "messages are UTF-8 text"));
            }
            Some(Ok(Message::Close(_))) | None => return None,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Err(WsError::Capacity(_))) => {
                return Some((CloseCode::Size, "the message is too large (limits.body)"));
            }
            Some(Err(WsError::Utf8(_))) => {
                return Some((CloseCode::Invalid, "messages are UTF-8 text"));
            }
            Some(Err(error)) => {
                tracing::debug!(error = %error, "WebSocket connection ended");
                return None;
            }
        };
        silence.deaf.store(true, Ordering::Relaxed);
        let taken = messages.send(message).await;
        silence.deaf.store(false, Ordering::Relaxed);
        if taken.is_err() {
            return None;
        }
    }
}

/// Writes until the connection is dead. Whether it is because the client takes nothing.
async fn write<S>(sink: &mut S, outgoing: &mut mpsc::Receiver<Bytes>, silence: &Silence) -> bool
where
    S: Sink<Message> + Unpin,
{
    let mut ping = tokio::time::interval(PING);
    loop {
        let message = tokio::select! {
            frame = outgoing.recv() => {
                let Some(frame) = frame else { return false };
                // Messages are JSON, so they are UTF-8; what is not would break the connection.
                let Ok(text) = Utf8Bytes::try_from(frame) else { continue };
                Message::Text(text)
            }
            _ = ping.tick() => {
                let deaf = silence.deaf.load(Ordering::Relaxed);
                if !deaf && silence.pings.fetch_add(1, Ordering::Relaxed) >= 2 {
                    return false;
                }
                Message::Ping(Bytes::new())
            }
        };
        if let Err(stalled) = send(sink, message).await {
            return stalled;
        }
    }
}

/// Waits a moment for the client to close too: a connection that is cut while it sends loses what
/// is on its way to it.
async fn last_words<S>(source: &mut S, closing: bool)
where
    S: Stream<Item = Result<Message, WsError>> + Unpin,
{
    let heard = async { while let Some(Ok(_)) = source.next().await {} };
    if closing && tokio::time::timeout(CLOSING, heard).await.is_err() {
        tracing::debug!("WebSocket client did not close");
    }
}

/// How long a client may take to answer our close.
const CLOSING: Duration = Duration::from_secs(1);

/// Writes one message; a client that takes nothing for the stall time is cut off. The error says
/// whether it is that.
async fn send<S>(sink: &mut S, message: Message) -> Result<(), bool>
where
    S: Sink<Message> + Unpin,
{
    match tokio::time::timeout(STALL, sink.send(message)).await {
        Ok(sent) => sent.map_err(|_| false),
        Err(_) => Err(true),
    }
}

const STALL: Duration = Duration::from_secs(30);
