//! From bytes to a call: the message is looked at once, and everything that its life depends on
//! (era, class, session, ids) is decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_engine::class::CallClass;
use holdfast_mcp::batch;
use holdfast_mcp::headers::{Claims, check_modern};
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, Peek, peek};
use holdfast_mcp::rpc_error::{RpcError, code};
use holdfast_mcp::version::{self, Era, Version, classify};
use http::{HeaderMap, StatusCode};

use super::Head;
use crate::exchange::headers::ForServer;
use crate::exchange::{Call, Guards, Ids, Out, Shelf, Wanted};
use crate::failure;
use crate::fleet::chance;
use crate::gateway::Gateway;
use crate::metrics::Rejection;
use crate::principal::Principal;
use crate::server::Server;
use crate::session::Session;

/// A message on its way in, whichever transport brought it.
pub(super) struct Inbound<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) server: &'a Arc<Server>,
    pub(super) principal: Principal,
    /// When it was received.
    pub(super) at: Instant,
    pub(super) headers: Own,
    pub(super) body: Bytes,
    /// The session that the transport has found, if any.
    pub(super) session: Option<Arc<Session>>,
    /// Whether header and body have to agree: only HTTP carries the headers.
    pub(super) check_headers: bool,
    pub(super) takes_stream: bool,
    /// Whether this transport can carry event ids at all.
    pub(super) has_event_ids: bool,
    /// The id of a trusted balancer.
    pub(super) balancer_id: Option<Box<str>>,
    /// Whether it was at a node before that may have run it.
    pub(super) again: bool,
    /// The highest progress that the client was told by a node before this one.
    pub(super) told: Option<f64>,
}

impl Inbound<'_> {
    fn classify(&self, message: &Peek<'_>) -> CallClass {
        let tool = message.params.name.as_deref();
        self.server.classify(&self.gateway.store, &message.method, tool)
    }
}

/// The client's own headers.
pub(super) enum Own {
    /// Taken over.
    Once(HeaderMap),
    /// Of a head that came before, and which knows what goes to the server of it.
    Again(Arc<Head>, Arc<ForServer>),
}

impl Own {
    pub(super) fn of(head: Arc<Head>) -> Self {
        match head.for_server.clone() {
            Some(for_server) => Self::Again(head, for_server),
            None => Self::Once(Arc::unwrap_or_clone(head).parts.headers),
        }
    }

    fn map(&self) -> &HeaderMap {
        match self {
            Self::Once(headers) => headers,
            Self::Again(head, _) => head.headers(),
        }
    }

    /// What they say of their body, where that is known.
    fn claims(&self) -> Option<&Claims<'static>> {
        match self {
            Self::Once(_) => None,
            Self::Again(head, _) => head.claims.as_ref(),
        }
    }

    fn for_server(self, server: &Server) -> Arc<ForServer> {
        match self {
            Self::Once(headers) => Arc::new(ForServer::once(headers, server)),
            Self::Again(_, for_server) => for_server,
        }
    }
}

/// What an inbound message is.
pub(super) enum Received {
    Call(Arc<Call>),
    /// A notification, or the client's answer to the server.
    Message(Arc<Call>, Kind),
}

/// A message that is refused, as Streamable HTTP says it. The others use its body.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    pub(super) why: Rejection,
}

/// Looks at a message and decides what it is.
///
/// # Errors
/// [`Refused`] with the JSON-RPC error that says why.
pub(super) fn receive(inbound: Inbound<'_>) -> Result<Received, Refused> {
    if batch::is_batch(&inbound.body) {
        return receive_batch(inbound);
    }
    let body = inbound.body.clone();
    let message = peek(&body).map_err(|error| {
        let error = RpcError::new(error.code(), error.to_string());
        Refused::new(StatusCode::BAD_REQUEST, Rejection::Malformed, &error, &Ids::None)
    })?;
    let ids = match message.id {
        Some(id) if message.kind == Kind::Request => Ids::One(id.to_owned_text()),
        _ => Ids::None,
    };
    let header = version::header(inbound.headers.map());
    let era = classify(header, &message);
    let version = header.and_then(Version::parse);
    if header.is_some() && version.is_none() && message.params.claimed_version.is_none() {
        let text = "unsupported protocol version in MCP-Protocol-Version";
        let error = RpcError::new(code::INVALID_REQUEST, text);
        let status = StatusCode::BAD_REQUEST;
        return Err(Refused::new(status, Rejection::HeaderMismatch, &error, &ids));
    }
    if era == Era::Modern {
        check_claims(&inbound, &message, &ids)?;
    }
    let method = Method::parse(&message.method);
    let class = inbound.classify(&message);
    let tool = message.params.name.as_deref().filter(|_| method == Method::ToolsCall);
    if message.kind == Kind::Request && method != Method::Discover {
        admit(&inbound, tool.map(|tool| (tool, 1)), &ids)?;
    }
    let kind = message.kind;
    let fleet = &inbound.server.fleet;
    let shelf = fleet.shelf_of(tool);
    let call = Arc::new(build(inbound, era, version, method, class, shelf, ids));
    Ok(if kind == Kind::Request { Received::Call(call) } else { Received::Message(call, kind) })
}

/// The rules of 2026-07-28 about header and body.
fn check_claims(inbound: &Inbound<'_>, message: &Peek<'_>, ids: &Ids) -> Result<(), Refused> {
    if message.params.claimed_version.is_none() && message.kind == Kind::Request {
        // An HTTP server says so itself; what stands behind a pipe sees no headers.
        if inbound.server.is_duplex() && inbound.check_headers {
            let text = "params._meta lacks io.modelcontextprotocol/protocolVersion";
            let error = RpcError::new(code::INVALID_PARAMS, text);
            let status = StatusCode::BAD_REQUEST;
            return Err(Refused::new(status, Rejection::Malformed, &error, ids));
        }
        return Ok(());
    }
    if !inbound.check_headers || message.kind != Kind::Request {
        return Ok(());
    }
    let checked = match inbound.headers.claims() {
        Some(claims) => claims.check(message),
        None => check_modern(inbound.headers.map(), message),
    };
    checked.map_err(|error| {
        let error = RpcError::new(error.code(), error.to_string());
        Refused::new(StatusCode::BAD_REQUEST, Rejection::HeaderMismatch, &error, ids)
    })
}

/// The limits that a call counts against, and a batch as often as it holds calls. What one of them refuses
/// is spent at none. Refusals are answers, not HTTP errors.
fn admit<'a>(
    inbound: &Inbound<'_>,
    tools: impl IntoIterator<Item = (&'a str, u32)> + Clone,
    ids: &Ids,
) -> Result<(), Refused> {
    let gateway = inbound.gateway;
    let calls = u32::try_from(ids.count()).unwrap_or(u32::MAX);
    let refuse = |why, reason: String, wait: Duration| {
        let failure = failure::Failure::overloaded(&inbound.server.name, reason, wait);
        Err(Refused { status: StatusCode::OK, body: failure.render(ids), why })
    };
    let limit = gateway.config.limits.in_flight;
    if gateway.metrics.in_flight.get() >= limit {
        let reason = format!("this node runs its limit of {limit} calls (limits.in_flight)");
        return refuse(Rejection::AtCapacity, reason, Duration::from_secs(1));
    }
    if let Err(wait) = gateway.admit(inbound.principal.digest, calls) {
        let reason = "this principal has used up its calls (limits.requests_per_minute)".into();
        return refuse(Rejection::RateLimited, reason, wait);
    }
    if let Err(spent) = inbound.server.admit(calls, tools, inbound.at) {
        gateway.give_back(inbound.principal.digest, calls);
        let reason = match spent.of_tool {
            false => "this server has used up its calls (servers.*.requests_per_minute)",
            true => "this tool has used up its calls (servers.*.tools.*.requests_per_minute)",
        };
        return refuse(Rejection::RateLimited, reason.into(), spent.wait);
    }
    Ok(())
}

/// A batch (2025-03-26) is one unit with the strongest class of its members.
fn receive_batch(inbound: Inbound<'_>) -> Result<Received, Refused> {
    let malformed = |code: i64, text: String| {
        let error = RpcError::new(code, text);
        Refused::new(StatusCode::BAD_REQUEST, Rejection::Malformed, &error, &Ids::None)
    };
    let body = inbound.body.clone();
    let ranges =
        batch::split_batch(&body).map_err(|error| malformed(error.code(), error.to_string()))?;
    if inbound.session.as_ref().is_some_and(|session| !session.version.has_batches()) {
        let text = "batches exist only in protocol version 2025-03-26".to_owned();
        return Err(malformed(code::INVALID_REQUEST, text));
    }
    let mut ids = Vec::new();
    let mut tools: BTreeMap<String, u32> = BTreeMap::new();
    let mut class = CallClass::Lifecycle;
    let mut kind = Kind::Notification;
    for range in ranges {
        let message =
            peek(&body[range]).map_err(|error| malformed(error.code(), error.to_string()))?;
        if message.params.claimed_version.is_some() {
            let text = "a 2026-07-28 request cannot be part of a batch".to_owned();
            return Err(malformed(code::INVALID_REQUEST, text));
        }
        if Method::parse(&message.method) == Method::Initialize {
            let text = "initialize cannot be part of a batch".to_owned();
            return Err(malformed(code::INVALID_REQUEST, text));
        }
        if let (Kind::Request, Some(id)) = (message.kind, message.id) {
            let own = inbound.classify(&message);
            class = class.max(own);
            ids.push(id.to_owned_text());
            if let (Method::ToolsCall, Some(tool)) =
                (Method::parse(&message.method), &message.params.name)
            {
                *tools.entry(tool.to_string()).or_default() += 1;
            }
        }
        if message.kind == Kind::Response {
            kind = Kind::Response;
        }
    }
    let version = version::header(inbound.headers.map()).and_then(Version::parse);
    let shelf = inbound.server.fleet.shelf_of_batch();
    if ids.is_empty() {
        let call = build(inbound, Era::Legacy, version, Method::Other, class, shelf, Ids::None);
        return Ok(Received::Message(Arc::new(call), kind));
    }
    let ids = Ids::Batch(ids);
    admit(&inbound, tools.iter().map(|(tool, calls)| (&**tool, *calls)), &ids)?;
    let call = build(inbound, Era::Legacy, version, Method::Other, class, shelf, ids);
    Ok(Received::Call(Arc::new(call)))
}

fn build(
    inbound: Inbound<'_>,
    era: Era,
    version: Option<Version>,
    method: Method,
    class: CallClass,
    shelf: Shelf,
    ids: Ids,
) -> Call {
    let Inbound {
        gateway,
        server,
        principal,
        at,
        headers,
        body,
        session,
        balancer_id,
        again,
        told,
        ..
    } = inbound;
    // A modern request has no session, whatever its client still sends.
    let session = session.filter(|_| era == Era::Legacy && method != Method::Initialize);
    let spoken = session.as_ref().map(|session| session.version).or(version);
    let can_prime = match era {
        // Where a disconnect cancels at once nobody can come back, unless to another node
        // (docs/decisions/0005 and 0008).
        Era::Modern => {
            let streams = &gateway.config.streams;
            let survivable = gateway.cluster.is_some() || !streams.modern_grace.is_zero();
            !streams.strict && survivable
        }
        Era::Legacy => spoken.is_some_and(Version::can_resume_polling),
    };
    let in_use = session.as_ref().map(|session| session.enter(gateway.clock));
    Call {
        // The answer to `initialize` carries the session's id in its head.
        resumable: inbound.has_event_ids
            && inbound.takes_stream
            && can_prime
            && method != Method::Initialize,
        takes_stream: inbound.takes_stream,
        framed: !inbound.has_event_ids,
        headers: headers.for_server(server),
        _guards: Guards {
            _node: gateway.metrics.in_flight.enter(),
            _server: server.metrics.in_flight.enter(),
            _session: in_use,
        },
        gateway: Arc::clone(gateway),
        server: Arc::clone(server),
        principal,
        number: session.as_ref().map_or(0, |session| session.next_call()),
        steered_by: chance(),
        started: at,
        balancer_id,
        again,
        told,
        key: std::sync::OnceLock::new(),
        ticket: std::sync::OnceLock::new(),
        shelf,
        admitted: std::sync::OnceLock::new(),
        wanted: Wanted::default(),
        out: Out::default(),
        stands_in: false,
        session,
        era,
        method,
        class,
        ids,
        body,
    }
}

impl Refused {
    fn new(status: StatusCode, why: Rejection, error: &RpcError, ids: &Ids) -> Self {
        Self { status, why, body: failure::render(error, ids) }
    }
}
