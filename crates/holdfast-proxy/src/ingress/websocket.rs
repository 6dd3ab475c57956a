//! WebSocket clients: the connection is the session, one JSON-RPC message per text frame.
//!
//! WebSocket is no official MCP transport; the framing is that of both version 1 SDKs (subprotocol
//! `mcp`), and cancellation is as on stdio (`docs/decisions/0002-websocket-as-stdio.md`). The era is
//! that of each message: `initialize` opens a legacy session for the connection, a message that
//! claims a version in `_meta` is modern.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::connected::{Connected, FRAMES};
use super::refuse;
use crate::body::Body;
use crate::gateway::Gateway;
use crate::metrics::Rejection;
use crate::principal::Principal;
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
) -> Response<Body> {
    let bad = |text| refuse(gateway, Rejection::Malformed, StatusCode::BAD_REQUEST, text);
    let Some(key) =
        parts.headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()))
    else {
        return bad("the WebSocket handshake lacks Sec-WebSocket-Key");
    };
    if parts.headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return bad("only WebSocket version 13 is spoken");
    }
    if gateway.metrics.streams.get() >= gateway.config.limits.streams {
        let text = "this node holds its limit of streams (limits.streams)";
        return refuse(gateway, Rejection::AtCapacity, StatusCode::TOO_MANY_REQUESTS, text);
    }
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        return bad("this connection cannot become a WebSocket (HTTP/2 has no such upgrade)");
    };
    let Ok(accept) = HeaderValue::from_str(&key) else { return bad("bad Sec-WebSocket-Key") };
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
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
    tokio::spawn(serve(upgrade, connected, outgoing));
    response
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

async fn serve(upgrade: OnUpgrade, connected: Connected, mut outgoing: mpsc::Receiver<Bytes>) {
    let stream = match upgrade.await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(error = %error, "WebSocket handshake not finished");
            return;
        }
    };
    let gateway = Arc::clone(&connected.gateway);
    let _open = gateway.metrics.websockets.enter();
    let _stream = gateway.metrics.streams.enter();
    let limit = gateway.config.limits.body;
    let config = WebSocketConfig::default()
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit))
        .max_write_buffer_size(gateway.config.limits.stream_queue.max(256 * 1024));
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let mut ping = tokio::time::interval(PING);
    let mut silent = 0;
    let reason = loop {
        tokio::select! {
            incoming = source.next() => {
                silent = 0;
                match incoming {
                    Some(Ok(Message::Text(text))) => connected.incoming(Bytes::from(text)).await,
                    Some(Ok(Message::Binary(data))) if std::str::from_utf8(&data).is_ok() => {
                        connected.incoming(data).await;
                    }
                    Some(Ok(Message::Binary(_))) => {
                        break Some((CloseCode::Unsupported, "messages are UTF-8 text"));
                    }
                    Some(Ok(Message::Close(_))) | None => break None,
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Err(WsError::Capacity(_))) => {
                        break Some((CloseCode::Size, "the message is too large (limits.body)"));
                    }
                    Some(Err(WsError::Utf8(_))) => {
                        break Some((CloseCode::Invalid, "messages are UTF-8 text"));
                    }
                    Some(Err(error)) => {
                        tracing::debug!(error = %error, "WebSocket connection ended");
                        break None;
                    }
                }
            }
            frame = outgoing.recv() => {
                let Some(frame) = frame else { break None };
                // Messages are JSON, so they are UTF-8; what is not would break the connection.
                let Ok(text) = Utf8Bytes::try_from(frame) else { continue };
                if send(&mut sink, Message::Text(text)).await.is_err() {
                    gateway.metrics.slow_readers.inc();
                    break None;
                }
            }
            _ = ping.tick() => {
                silent += 1;
                if silent > 2 || send(&mut sink, Message::Ping(Bytes::new())).await.is_err() {
                    break None;
                }
            }
            () = connected.drained() => break Some((CloseCode::Away, "the gateway is restarting")),
        }
    };
    if let Some((code, reason)) = reason {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let _ = send(&mut sink, Message::Close(Some(frame))).await;
    }
    connected.end().await;
}

/// Writes one message; a client that takes nothing for the stall time is cut off.
async fn send<S>(sink: &mut S, message: Message) -> Result<(), ()>
where
    S: futures_util::Sink<Message> + Unpin,
{
    match tokio::time::timeout(STALL, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

const STALL: Duration = Duration::from_secs(30);
