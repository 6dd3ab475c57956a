//! Client transports: what arrives on the client port and which adapter it belongs to.
//!
//! | path | transport |
//! |---|---|
//! | `/mcp`, `/mcp/{server}` | Streamable HTTP; WebSocket where the client asks to upgrade |
//! | `/sse`, `/sse/{server}` | the event stream of HTTP+SSE |
//! | `/messages`, `/messages/{server}` | the messages of HTTP+SSE |
//! | `/health`, `/health/live`, `/health/ready` | health, exempt from Host and Origin checks |

mod connected;
mod cors;
pub(crate) mod edge;
mod head;
mod legacy_sse;
pub(crate) mod placement;
mod receive;
mod recorded;
mod request_body;
pub(crate) mod respond;
pub(crate) mod streamable;
mod websocket;

use std::sync::Arc;

pub(crate) use self::head::{Head, Kept};
pub(crate) use self::legacy_sse::{Connections, LineBody};
pub(crate) use self::recorded::Recorded;
pub(crate) use self::request_body::RequestBody;

use bytes::Bytes;
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio_util::sync::CancellationToken;

use self::edge::EdgeError;
use self::receive::Own;
use self::request_body::BodyError;
use crate::body::Body;
use crate::exchange::Call;
use crate::gateway::Gateway;
use crate::health;
use crate::metrics::Rejection;
use crate::principal::Principal;
use crate::response::Response;
use crate::server::Server;
use crate::session::Session;

/// The client's connection, as the listener knows it.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Cutting it closes the connection, for a client that does not read. None: it carries other calls.
    pub(crate) cut: Option<Arc<CancellationToken>>,
    /// Whether it comes from a balancer of ours, whose `X-Request-ID` counts
    /// (`listen.trusted_proxies`).
    pub(crate) trusted: bool,
}

/// A request that another node has let in.
pub(crate) struct Arrived {
    pub(crate) principal: Principal,
    pub(crate) balancer_id: Option<Box<str>>,
    /// Whether the request was sent here, or to another node, before.
    pub(crate) again: bool,
}

/// The connection is closed without a response: some requests may not be answered with an error.
#[derive(Debug, thiserror::Error)]
#[error("no answer that this client could bear")]
pub(crate) struct HangUp;

/// What becomes of a request, by its head.
pub(crate) enum Admission {
    In(Admitted),
    Out(Box<Otherwise>),
}

/// A request that is addressed to us by somebody who may.
pub(crate) struct Admitted {
    head: Arc<Head>,
    endpoint: Endpoint,
    /// Its place in the configuration.
    server: usize,
}

/// A request that reaches no server.
pub(crate) enum Otherwise {
    Answer(Response),
    /// A question about this node's health, under this path.
    Health(String),
    /// Nothing is served there, for the reason that is given.
    NotFound(Box<Head>, String),
}

/// Decides whether a request is let in, and what its head says. Nothing of it depends on anything but the
/// head, the connection and the configuration.
pub(crate) fn admit(gateway: &Gateway, mut parts: Parts, connection: &Connection) -> Admission {
    let otherwise = |otherwise| Admission::Out(Box::new(otherwise));
    let answer = |response| otherwise(Otherwise::Answer(response));
    if let Err(error) = gateway.edge.check_framing(&parts) {
        return answer(refuse_framing(gateway, error));
    }
    if let Err(limit) = gateway.edge.check_size(&parts.headers) {
        let text = format!("the headers are over the limit of {limit} bytes (limits.header_bytes)");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return answer(refuse(gateway, Rejection::Malformed, status, &text));
    }
    let path = parts.uri.path();
    if health::serves(path) || gateway.config.listen.health_path.as_deref() == Some(path) {
        let path = if health::serves(path) { path } else { "/health/ready" };
        return otherwise(Otherwise::Health(path.to_owned()));
    }
    if let Err(error) = gateway.edge.check_names(&parts) {
        let status = StatusCode::FORBIDDEN;
        return answer(refuse(gateway, error.rejection(), status, &error.to_string()));
    }
    if cors::is_preflight(&parts) {
        let mut response = cors::preflight(&parts);
        cors::expose(&mut response, parts.headers.get(ORIGIN));
        return answer(response);
    }
    let principal = match gateway.auth.authenticate(&mut parts.headers) {
        Ok(principal) => principal,
        Err(error) => {
            let status = StatusCode::UNAUTHORIZED;
            let mut response = refuse(gateway, Rejection::Unauthorized, status, &error.to_string());
            let challenge = HeaderValue::from_static("Bearer realm=\"holdfast\"");
            response.headers.insert(WWW_AUTHENTICATE, challenge);
            cors::expose(&mut response, parts.headers.get(ORIGIN));
            return answer(response);
        }
    };
    let head = Head::new(parts, principal).balanced(gateway, connection);
    match find(gateway, head.parts.uri.path()) {
        Ok((endpoint, server)) => {
            Admission::In(Admitted { head: Arc::new(head), endpoint, server })
        }
        Err(text) => otherwise(Otherwise::NotFound(Box::new(head), text)),
    }
}

/// Serves one request of a client.
///
/// # Cancel safety
/// Dropped when the client disconnects. A legacy call that runs goes on in a task of its own; a
/// modern one is cancelled, which is what its disconnect means.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    admission: Admission,
    body: RequestBody,
    connection: Connection,
) -> Result<Response, HangUp> {
    let admitted = match admission {
        Admission::In(admitted) => admitted,
        // Boxed: few requests are, and a call's future stays small without them.
        Admission::Out(otherwise) => return Ok(Box::pin(answer(gateway, *otherwise, body)).await),
    };
    let origin = admitted.head.origin.clone();
    let mut response = enter(gateway, admitted, body, connection).await?;
    cors::expose(&mut response, origin.as_ref());
    Ok(response)
}

/// Answers a request that reaches no server.
async fn answer(gateway: Arc<Gateway>, otherwise: Otherwise, body: RequestBody) -> Response {
    match otherwise {
        Otherwise::Answer(response) => response,
        Otherwise::Health(path) => health::respond(&path, &*gateway).await.map(Body::full).into(),
        Otherwise::NotFound(head, text) => {
            let mut response = not_found(&gateway, &head.parts, body, &text).await;
            cors::expose(&mut response, head.origin.as_ref());
            response
        }
    }
}

async fn enter(
    gateway: Arc<Gateway>,
    admitted: Admitted,
    body: RequestBody,
    connection: Connection,
) -> Result<Response, HangUp> {
    let Admitted { head, endpoint, server } = admitted;
    let server = Arc::clone(&gateway.servers[server]);
    match endpoint {
        Endpoint::Mcp if websocket::wants(&head.parts) => {
            let Head { principal, mut parts, .. } = Arc::unwrap_or_clone(head);
            Ok(websocket::upgrade(&gateway, server, principal, &mut parts))
        }
        Endpoint::Mcp => {
            let connection = connection.cut;
            let (forwarded, again) = (false, false);
            let entered = Entered { gateway, server, head, connection, forwarded, again };
            streamable::serve(entered, body).await
        }
        Endpoint::Sse => {
            let Head { principal, parts, .. } = Arc::unwrap_or_clone(head);
            Ok(Box::pin(legacy_sse::open(&gateway, server, principal, &parts)).await)
        }
        Endpoint::Messages => {
            Ok(Box::pin(legacy_sse::message(&gateway, &server, &head, body, true)).await)
        }
    }
}

/// Serves a request that another node has forwarded: it was let in there, and is not forwarded
/// again.
pub(crate) async fn serve_forwarded(
    gateway: Arc<Gateway>,
    arrived: Arrived,
    parts: Parts,
    body: RequestBody,
) -> Response {
    let Arrived { principal, balancer_id, again } = arrived;
    let misdirected =
        || Response::new(StatusCode::MISDIRECTED_REQUEST, HeaderMap::new(), Body::Full(None));
    let Ok((endpoint, server)) = find(&gateway, parts.uri.path()) else { return misdirected() };
    let server = Arc::clone(&gateway.servers[server]);
    let head = Arc::new(Head { balancer_id, ..Head::new(parts, principal) });
    match endpoint {
        Endpoint::Mcp => {
            let (connection, forwarded) = (None, true);
            let entered = Entered { gateway, server, head, connection, forwarded, again };
            // Hanging up is an answer here too: the client's node hears nothing more of it.
            streamable::serve(entered, body).await.unwrap_or_else(|HangUp| misdirected())
        }
        Endpoint::Messages => legacy_sse::message(&gateway, &server, &head, body, false).await,
        Endpoint::Sse => misdirected(),
    }
}

/// What is known of a call from when it was received before.
#[derive(Default)]
pub(crate) struct Before {
    pub(crate) balancer_id: Option<Box<str>>,
    /// It may have run.
    pub(crate) again: bool,
    /// The progress that its client has been told of.
    pub(crate) told: Option<f64>,
    /// Its client takes no event stream.
    pub(crate) json_only: bool,
}

/// A call as it was once received, here or at another node, from its body; `None` if that cannot be read
/// any more.
pub(crate) fn received_before(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    principal: &Principal,
    headers: HeaderMap,
    body: Bytes,
    session: Option<&Arc<Session>>,
    before: Before,
) -> Option<Arc<Call>> {
    let received = receive::receive(receive::Inbound {
        gateway,
        server,
        principal: principal.clone(),
        at: std::time::Instant::now(),
        headers: Own::Once(headers),
        body,
        session: session.cloned(),
        // They agreed when they were received, and what comes now are the headers of a GET.
        check_headers: false,
        takes_stream: !before.json_only,
        has_event_ids: true,
        balancer_id: before.balancer_id,
        again: before.again,
        told: before.told,
    });
    match received {
        Ok(receive::Received::Call(call)) => Some(call),
        Ok(receive::Received::Message(..)) | Err(_) => None,
    }
}

/// Refuses a head that names two lengths.
pub(crate) fn refuse_ambiguous(gateway: &Gateway) -> Response {
    refuse_framing(gateway, EdgeError::BothLengths)
}

/// Refuses a request whose framing another reader could take differently. What follows it on the
/// connection cannot be trusted either.
fn refuse_framing(gateway: &Gateway, error: EdgeError) -> Response {
    let status = StatusCode::BAD_REQUEST;
    let mut response = refuse(gateway, error.rejection(), status, &error.to_string());
    response.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Mcp,
    Sse,
    Messages,
}

/// Which adapter and which server a path names, this by its place in the configuration.
fn find(gateway: &Gateway, path: &str) -> Result<(Endpoint, usize), String> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let (first, name) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
    let endpoint = match first {
        "mcp" => Endpoint::Mcp,
        "sse" => Endpoint::Sse,
        "messages" => Endpoint::Messages,
        _ => {
            return Err(format!(
                "nothing is served at {path}; MCP is at:{}",
                listed(gateway, "mcp")
            ));
        }
    };
    let name = name.map(|name| name.strip_suffix('/').unwrap_or(name)).filter(|n| !n.is_empty());
    let server = match (name, gateway.servers.as_slice()) {
        (None, [_]) => Some(0),
        (Some(name), _) => gateway.place_of(name),
        (None, _) => None,
    };
    if let Some(server) = server {
        return Ok((endpoint, server));
    }
    Err(match name {
        Some(name) => format!("there is no server `{name}`; there is{}", listed(gateway, first)),
        None => format!("several servers are configured; choose one:{}", listed(gateway, first)),
    })
}

/// Says what there is instead of what was asked for, under the id of the request if it has one:
/// clients wait for ever for an answer without it.
async fn not_found(gateway: &Gateway, parts: &Parts, body: RequestBody, text: &str) -> Response {
    let status = StatusCode::NOT_FOUND;
    if parts.method != Method::POST {
        return refuse(gateway, Rejection::NotServed, status, text);
    }
    let (limit, wait) = (gateway.config.limits.body, gateway.config.listen.body_timeout);
    let body = body.read(limit, wait).await.unwrap_or_default();
    gateway.metrics.rejected(Rejection::NotServed);
    let error = RpcError::new(code::INVALID_REQUEST, text);
    let message = holdfast_mcp::peek::peek(&body);
    match message.as_ref().ok().and_then(|message| message.id.as_ref()) {
        Some(id) => json(status, error.render(ErrorId::Raw(id.as_str()))),
        None => json(status, error.render(ErrorId::Null)),
    }
}

fn listed(gateway: &Gateway, prefix: &str) -> String {
    let paths: Vec<_> = gateway.names().map(|name| format!("/{prefix}/{name}")).collect();
    format!(" {}", paths.join(", "))
}

/// Refuses a request: counted, with a JSON-RPC error without an id as its body.
fn refuse(gateway: &Gateway, why: Rejection, status: StatusCode, text: &str) -> Response {
    gateway.metrics.rejected(why);
    let error = RpcError::new(code::INVALID_REQUEST, text);
    json(status, error.render(ErrorId::Null))
}

/// Refuses a stream where the node holds its limit of them.
fn no_room_for_stream(gateway: &Gateway) -> Option<Response> {
    let limit = gateway.config.limits.streams;
    if gateway.metrics.streams.get() < limit {
        return None;
    }
    let text = format!("this node holds its limit of {limit} streams (limits.streams)");
    Some(refuse(gateway, Rejection::AtCapacity, StatusCode::TOO_MANY_REQUESTS, &text))
}

/// Refuses a body that could not be read.
fn bad_body(gateway: &Gateway, error: BodyError) -> Response {
    let (status, why, text) = match error {
        BodyError::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            Rejection::BodyTooLarge,
            format!(
                "the body is over the limit of {} bytes (limits.body)",
                gateway.config.limits.body
            ),
        ),
        BodyError::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            Rejection::BodyTimeout,
            format!(
                "the body did not arrive within {} s (listen.body_timeout)",
                gateway.config.listen.body_timeout.as_secs()
            ),
        ),
        BodyError::Broken => {
            (StatusCode::BAD_REQUEST, Rejection::Malformed, "the body could not be read".to_owned())
        }
    };
    refuse(gateway, why, status, &text)
}

fn method_not_allowed(gateway: &Gateway, allow: &'static str) -> Response {
    let text = format!("this path takes {allow}");
    let mut response = refuse(gateway, Rejection::NotServed, StatusCode::METHOD_NOT_ALLOWED, &text);
    response.headers.insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn json(status: StatusCode, body: Bytes) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::new(status, headers, Body::full(body))
}

/// What every ingress knows of a request once it may enter.
struct Entered {
    gateway: Arc<Gateway>,
    server: Arc<Server>,
    /// Shared by the requests that have the same, and small: it goes through many hands.
    head: Arc<Head>,
    /// Cutting it closes the client's connection, for one that does not read; none if other calls are
    /// on it.
    connection: Option<Arc<CancellationToken>>,
    /// Whether another node has let it in: then it is served here or nowhere.
    forwarded: bool,
    /// Whether it was forwarded before, to a node that may have run it.
    again: bool,
}
