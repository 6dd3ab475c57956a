//! A request that another node has to serve: it holds the open connection to a stdio or WebSocket
//! server, the connection of an HTTP+SSE client, or the living stream.
//!
//! The request goes as it came, without the client's credential: the connection between nodes is
//! authenticated, so the principal's name is enough. The other node serves it only in the
//! generation that it is meant for; a node that lost its footing meanwhile says so, and nothing has
//! run.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::headers::is_hop_by_hop;
use holdfast_peer::PeerError;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;

use crate::body::Body;
use crate::gateway::Gateway;
use crate::principal::Principal;
use crate::response;
use crate::upstream::http::has_media_type;

/// Who calls, as the forwarding node has established it.
pub(super) const PRINCIPAL: HeaderName = HeaderName::from_static("holdfast-principal");
/// The generation in which the other node holds what the request needs.
pub(super) const GENERATION: HeaderName = HeaderName::from_static("holdfast-generation");
/// The balancer's id of the request, where a trusted balancer has set one.
pub(super) const BALANCER: HeaderName = HeaderName::from_static("holdfast-request-id");

/// The request was forwarded before, and whether it ran then is not known.
pub(super) const AGAIN: HeaderName = HeaderName::from_static("holdfast-again");

/// The node ended while it served the request: nobody knows how far it got.
pub(super) const LOST: HeaderName = HeaderName::from_static("holdfast-lost");

/// A request on its way to another node.
pub(crate) struct Forwarding<'a> {
    pub(crate) gateway: &'a Arc<Gateway>,
    pub(crate) principal: &'a Principal,
    pub(crate) balancer_id: Option<&'a str>,
    /// Whether it was forwarded before, to a node that may have run it.
    pub(crate) again: bool,
    pub(crate) parts: &'a Parts,
    pub(crate) body: Bytes,
}

/// The other node did not serve the request, or nobody knows whether it did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// It certainly did not.
    #[error("the node that holds the session did not take the request: {0}")]
    NotServed(String),
    /// It certainly did not, because it does not hold the session, or not in that generation.
    #[error("the node does not hold the session any more")]
    Elsewhere,
    /// It may have.
    #[error("the node that holds the session was lost: {0}")]
    Unknown(String),
}

/// How long the answer to a request may take in all.
const LONGEST: Duration = Duration::from_secs(3600);

/// Has the request served by the node `to`.
///
/// # Errors
/// [`Lost`], at the latest when the group has declared the node gone.
///
/// # Cancel safety
/// Dropped, the other node sees its client disconnect.
pub(crate) async fn forward(
    forwarding: &Forwarding<'_>,
    to: Origin,
) -> Result<response::Response, Lost> {
    let Some(cluster) = &forwarding.gateway.cluster else {
        return Err(Lost::NotServed("this node has no cluster".into()));
    };
    let request = outgoing(forwarding, to);
    let sent = cluster.peers.forward(to.node, request, LONGEST);
    let response = tokio::select! {
        response = sent => response.map_err(lost)?,
        true = cluster.fallen(to, LONGEST) => {
            return Err(Lost::Unknown("it was declared dead".into()));
        }
    };
    if response.status() == StatusCode::MISDIRECTED_REQUEST {
        return Err(Lost::Elsewhere);
    }
    if response.headers().contains_key(LOST) {
        return Err(Lost::Unknown("it ended meanwhile".into()));
    }
    let limit = forwarding.gateway.config.limits.answer_buffer;
    tokio::select! {
        response = held(response, limit) => response,
        true = cluster.fallen(to, LONGEST) => Err(Lost::Unknown("it was declared dead".into())),
    }
}

fn lost(error: PeerError) -> Lost {
    if error.certainly_not_sent() {
        Lost::NotServed(error.to_string())
    } else {
        Lost::Unknown(error.to_string())
    }
}

/// A short answer is read whole before the client is told anything: until then another node can
/// take over.
async fn held(response: Response<Incoming>, limit: usize) -> Result<response::Response, Lost> {
    let (parts, body) = response.into_parts();
    let length = body.size_hint().exact();
    if length.is_some_and(|length| length <= limit as u64) {
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(|error| Lost::Unknown(error.to_string()))?.to_bytes();
        return Ok(response::Response::new(parts.status, parts.headers, Body::full(body)));
    }
    let ends_cleanly = has_media_type(&parts.headers, b"text/event-stream");
    let body = passed_on(body, ends_cleanly);
    Ok(response::Response::new(parts.status, parts.headers, body))
}

/// A body of another node, passed on as it comes.
fn passed_on(body: Incoming, ends_cleanly: bool) -> Body {
    Body::Forwarded(Box::new(Relayed { body, ends_cleanly }))
}

fn outgoing(forwarding: &Forwarding<'_>, to: Origin) -> Request<Full<Bytes>> {
    let Forwarding { principal, balancer_id, again, parts, body, .. } = forwarding;
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = parts.method.clone();
    if let Some(path) = parts.uri.path_and_query() {
        *request.uri_mut() = path.clone().into();
    }
    let mut headers = HeaderMap::with_capacity(parts.headers.len() + 4);
    for (name, value) in &parts.headers {
        if !is_hop_by_hop(name) && name != CONTENT_LENGTH {
            headers.append(name.clone(), value.clone());
        }
    }
    // What a client sends under these names means nothing.
    for ours in [PRINCIPAL, GENERATION, BALANCER, AGAIN] {
        headers.remove(ours);
    }
    let text = |value: &str| HeaderValue::from_str(value).ok();
    if let Some(id) = balancer_id.and_then(text) {
        headers.insert(BALANCER, id);
    }
    let named = holdfast_mcp::headers::encode_value(&principal.name);
    if let Some(name) = text(&named) {
        headers.insert(PRINCIPAL, name);
    }
    headers.insert(GENERATION, HeaderValue::from(to.generation));
    if *again {
        headers.insert(AGAIN, HeaderValue::from_static("1"));
    }
    *request.headers_mut() = headers;
    request
}

/// The rest of a forwarded response.
pub(crate) struct Relayed {
    body: Incoming,
    /// An event stream whose node is lost ends as if it had been ended: clients come back for the
    /// rest of a stream that ends, and some give up on one that breaks.
    ends_cleanly: bool,
}

impl Relayed {
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(_)) if self.ends_cleanly => Poll::Ready(None),
            frame => Poll::Ready(frame),
        }
    }
}
