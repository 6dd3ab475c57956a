//! MCP over WebSocket: a text frame is a message, the connection is the session.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::answer::header;
use super::behaviour::Fault;
use super::duplex::Duplex;
use super::http::Context;
use super::http::body::Body;
use super::http::reply::{Reply, plain, replace};

const KEY: &str = "sec-websocket-key";
const PROTOCOL: &str = "sec-websocket-protocol";

pub(super) fn is_upgrade(request: &Request<Incoming>) -> bool {
    request.uri().path() == "/ws"
        && header(request.headers(), UPGRADE.as_str())
            .is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// Answers the upgrade and serves the connection in a task of its own.
pub(super) async fn accept(context: &Context, mut request: Request<Incoming>) -> Reply {
    match context.sample.behaviour.strike_bare("WS").map(|strike| strike.fault) {
        Some(Fault::Delay { ms }) => {
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
        }
        Some(fault) if fault.replaces_answer() => {
            return replace(&fault, "null", None, context).await;
        }
        _ => {}
    }
    let headers = request.headers();
    let (Some(key), Some("13")) = (headers.get(KEY), header(headers, "sec-websocket-version"))
    else {
        return Ok(plain(400, "not a WebSocket handshake of version 13\n"));
    };
    let accept = derive_accept_key(key.as_bytes());
    let offered = offers_mcp(headers);
    let upgrade = hyper::upgrade::on(&mut request);
    context.wire.stop_recording();
    let context = context.clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let socket =
                WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            serve(socket, &context).await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert("sec-websocket-accept", accept);
    }
    if offered {
        headers.insert(PROTOCOL, HeaderValue::from_static("mcp"));
    }
    Ok(response)
}

fn offers_mcp(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|protocol| protocol.trim() == "mcp")
}

async fn serve<S>(socket: WebSocketStream<S>, context: &Context)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let duplex: Arc<Duplex> = Duplex::open(&context.sample, "websocket", context.wire.number);
    let (mut frames_out, mut frames_in) = socket.split();
    let mut position = 0;
    loop {
        tokio::select! {
            frame = frames_in.next() => match frame {
                Some(Ok(Frame::Text(text))) => {
                    duplex.receive(&Bytes::copy_from_slice(text.as_bytes()));
                }
                // Pings are answered by the library; a binary frame is no MCP message.
                Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {}
                Some(Ok(Frame::Binary(_) | Frame::Close(_)) | Err(_)) | None => break,
            },
            item = duplex.out.next(position) => match item {
                Some(item) => {
                    position = item.position;
                    if frames_out.send(Frame::text(&*item.text)).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            () = context.wire.closed() => break,
        }
    }
    duplex.close();
    // The close handshake is a courtesy; a peer that has gone does not need it.
    let _ = frames_out.close().await;
}
