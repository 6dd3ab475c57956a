//! HTTP+SSE of 2024-11-05: a stream from the server, and POSTs to the address that its first event
//! names.
//!
//! The session is the stream: when it ends, so does the session. The token in the messages address
//! is unguessable and works only for the principal that opened the stream. Clients whose library
//! speaks both eras send modern bodies over it too, so each message's era is its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_engine::replicated::{NodeId, Origin};
use holdfast_mcp::sse;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use http_body::Frame;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::connected::{Connected, FRAMES};
use super::request_body::RequestBody;
use super::{Head, bad_body, method_not_allowed, no_room_for_stream, refuse, respond};
use crate::body::Body;
use crate::cluster::{Forwarding, forward};
use crate::gateway::Gateway;
use crate::metrics::{GaugeGuard, Rejection};
use crate::principal::Principal;
use crate::random;
use crate::response::Response;
use crate::server::Server;

/// Open HTTP+SSE connections of this node, by the token in their messages address.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<u128, Arc<Line>>>,
}

/// The way from the POSTs to the connection's task.
#[derive(Debug)]
struct Line {
    principal: u64,
    server: Arc<str>,
    messages: mpsc::Sender<Bytes>,
}

impl Connections {
    fn get(&self, token: u128) -> Option<Arc<Line>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&token).cloned()
    }

    fn insert(&self, token: u128, line: Arc<Line>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(token, line);
    }

    fn remove(&self, token: u128) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
    }
}

/// Messages that may wait between POST and connection; then POSTs wait.
const WAITING: usize = 64;

/// Opens the stream.
pub(super) async fn open(
    gateway: &Arc<Gateway>,
    server: Arc<Server>,
    principal: Principal,
    parts: &Parts,
) -> Response {
    if parts.method != Method::GET {
        return method_not_allowed(gateway, "GET");
    }
    if let Some(full) = no_room_for_stream(gateway) {
        return full;
    }
    let token = random::u128();
    let (frames, outgoing) = mpsc::channel(FRAMES);
    let (messages, arriving) = mpsc::channel(WAITING);
    let line =
        Arc::new(Line { principal: principal.digest, server: Arc::clone(&server.name), messages });
    gateway.connections.insert(token, line);
    let me = gateway.cluster.as_ref().map(|cluster| cluster.me().node);
    let endpoint = endpoint(parts, token, me);
    let connected =
        Connected::new(Arc::clone(gateway), server, principal, parts.headers.clone(), frames);
    let gone = tokio_util::sync::CancellationToken::new();
    let stream = LineBody {
        first: Some(endpoint),
        outgoing,
        keepalive: gateway.config.streams.keepalive,
        alarm: Box::pin(tokio::time::sleep(gateway.config.streams.keepalive)),
        _gone: gone.clone().drop_guard(),
        _gauge: gateway.metrics.streams.enter(),
    };
    let opened = Arc::clone(gateway);
    gateway.open.spawn(async move {
        {
            let mut taking = std::pin::pin!(connected.take(arriving));
            tokio::select! {
                () = taking.as_mut() => {}
                () = gone.cancelled() => {}
                () = connected.ended() => {}
                () = connected.drained() => {}
            }
            // No more messages from here on; those that were accepted are handed on.
            opened.connections.remove(token);
            connected.take_rest(taking).await;
        }
        connected.end().await;
    });
    respond::stream(Body::Line(Box::new(stream)))
}

/// The first event: where messages go, on the origin that the client used.
fn endpoint(parts: &Parts, token: u128, node: Option<NodeId>) -> Bytes {
    let path = parts.uri.path().replacen("/sse", "/messages", 1);
    // Whichever node gets the message knows from its address where the stream is.
    let node = node.map(|node| format!("{node:016x}")).unwrap_or_default();
    Bytes::from(format!("event: endpoint\ndata: {path}?sessionId={token:032x}{node}\n\n"))
}

/// Takes one message: `202` once it is on its way, in the order of the POSTs.
pub(super) async fn message(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    head: &Head,
    body: RequestBody,
    may_forward: bool,
) -> Response {
    let Head { parts, principal, .. } = head;
    if parts.method != Method::POST {
        return method_not_allowed(gateway, "POST");
    }
    let named = parts.uri.query().and_then(session_token);
    if let Some((_, Some(node))) = named
        && may_forward
        && let Some(elsewhere) = holder(gateway, node)
    {
        return match elsewhere {
            Ok(holder) => forward_to(gateway, principal, parts, body, holder).await,
            Err(()) => unknown_stream(gateway),
        };
    }
    let line = named
        .and_then(|(token, _)| gateway.connections.get(token))
        .filter(|line| line.principal == principal.digest && line.server == server.name);
    let Some(line) = line else { return unknown_stream(gateway) };
    let limit = gateway.config.limits.body;
    let body = match body.read(limit, gateway.config.listen.body_timeout).await {
        Ok(body) => body,
        Err(error) => return bad_body(gateway, error),
    };
    if let Err(error) = holdfast_mcp::peek::peek(&body)
        && !error.is_batch()
    {
        let status = StatusCode::BAD_REQUEST;
        return refuse(gateway, Rejection::Malformed, status, &error.to_string());
    }
    if line.messages.send(body).await.is_err() {
        let text = "the event stream has ended: open /sse again";
        return refuse(gateway, Rejection::UnknownSession, StatusCode::NOT_FOUND, text);
    }
    Response::new(
        StatusCode::ACCEPTED,
        HeaderMap::new(),
        Body::full(Bytes::from_static(b"Accepted")),
    )
}

fn unknown_stream(gateway: &Gateway) -> Response {
    let text = "no open event stream has this sessionId: open /sse first";
    refuse(gateway, Rejection::UnknownSession, StatusCode::NOT_FOUND, text)
}

/// The token of a messages address, and the node whose it is.
fn session_token(query: &str) -> Option<(u128, Option<NodeId>)> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("sessionId="))?;
    let (token, node) = value.split_at_checked(32)?;
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let token = hex(token).then(|| u128::from_str_radix(token, 16).ok())??;
    if node.is_empty() {
        return Some((token, None));
    }
    let known = node.len() == 16 && hex(node);
    known.then(|| NodeId::from_str_radix(node, 16).ok().map(|node| (token, Some(node))))?
}

/// The node that holds the stream of a message, if that is another one. With the node the stream is
/// gone too.
fn holder(gateway: &Gateway, node: NodeId) -> Option<Result<Origin, ()>> {
    let cluster = gateway.cluster.as_ref()?;
    (node != cluster.me().node).then(|| cluster.present(node).ok_or(()))
}

/// Hands a message to the node that holds its stream.
async fn forward_to(
    gateway: &Arc<Gateway>,
    principal: &Principal,
    parts: &Parts,
    body: RequestBody,
    holder: Origin,
) -> Response {
    let (limit, wait) = (gateway.config.limits.body, gateway.config.listen.body_timeout);
    let body = match body.read(limit, wait).await {
        Ok(body) => body,
        Err(error) => return bad_body(gateway, error),
    };
    let forwarding =
        Forwarding { gateway, principal, balancer_id: None, again: false, parts, body };
    match forward(&forwarding, holder).await {
        Ok(response) => response,
        Err(lost) => {
            tracing::debug!(%lost, "a message of an HTTP+SSE client was lost with its node");
            unknown_stream(gateway)
        }
    }
}

/// The event stream of one connection.
pub(crate) struct LineBody {
    first: Option<Bytes>,
    outgoing: mpsc::Receiver<Bytes>,
    keepalive: Duration,
    alarm: Pin<Box<Sleep>>,
    _gone: tokio_util::sync::DropGuard,
    _gauge: GaugeGuard,
}

impl LineBody {
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match self.outgoing.poll_recv(cx) {
            Poll::Ready(Some(message)) => {
                let mut out = BytesMut::with_capacity(message.len() + 32);
                sse::encode_message(None, &message, &mut out);
                return Poll::Ready(Some(Ok(Frame::data(out.freeze()))));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        std::task::ready!(self.alarm.as_mut().poll(cx));
        self.alarm.as_mut().reset(Instant::now() + self.keepalive);
        // Polled once more so that the new alarm is armed.
        let _ = self.alarm.as_mut().poll(cx);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(sse::COMMENT)))))
    }
}
