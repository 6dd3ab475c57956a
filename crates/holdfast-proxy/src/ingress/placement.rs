//! Which node serves a request: this one, unless another holds what the request needs.
//!
//! | what it needs | where it is |
//! |---|---|
//! | a session at an HTTP server, or no session | here: any node serves it |
//! | a session that is an open connection | the node that its record names |
//! | the process that modern clients of a stdio server share | the node that claimed the place |
//!
//! A request that is forwarded and lost comes back here: once the other node is declared dead the
//! session is opened again, and the call runs here if it may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::headers::name;
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};
use holdfast_store::SessionKey;
use http::{HeaderMap, StatusCode};

use super::head::Named;
use super::streamable::Follows;
use super::{Before, Entered, HangUp, Head, json, respond, streamable};
use crate::body::Body;
use crate::cluster::{self, Forwarding, Lost};
use crate::exchange::{self, Answer, Call, Ids};
use crate::failure::{Failure, told};
use crate::gateway::Gateway;
use crate::metrics::Rejection;
use crate::response::Response;
use crate::session::{Found, Session, find_patiently};
use tokio_util::sync::CancellationToken;

/// A request that is served here.
pub(super) struct Placed {
    pub(super) session: Option<Arc<Session>>,
    /// It was sent to the node that held it before, which may have run it.
    pub(super) may_have_run: bool,
}

/// Where a request belongs.
enum Place {
    Here(Option<Arc<Session>>),
    At(Origin),
}

/// What is wrong with the session that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoSession {
    Repeated,
    Unknown,
}

/// How long a node that does not answer may take to be declared dead, or to be reached again.
const UNTIL_DECLARED: Duration = Duration::from_secs(10);

/// How long a node that was lost is left alone before it is tried again.
const ONCE_MORE_AFTER: Duration = Duration::from_secs(1);

/// How long this node may take to hear what another knows already.
const UNTIL_HEARD: Duration = Duration::from_millis(500);

/// How long the other node may take to open a session at its server, where that is asked of it.
const OPENED_WITHIN: Duration = Duration::from_secs(60);

/// What a request may take beyond the server's own time, at the other node and on the way to it.
const ON_THE_WAY: Duration = Duration::from_secs(30);

/// How often a request follows what it needs from node to node.
const MOVES: usize = 4;

/// Decides where the request is served, and has another node serve it if that is the one.
///
/// # Errors
/// The response, where this node has nothing to do with it any more.
///
/// # Cancel safety
/// As [`cluster::forward`].
pub(super) async fn settle(entered: &Entered, body: &Bytes) -> Result<Placed, Response> {
    let mut may_have_run = entered.again;
    let mut moves = 0;
    let mut lost_since: Option<Instant> = None;
    while moves < MOVES {
        let holder = match place(entered, body, may_have_run).await? {
            Place::Here(session) => return Ok(Placed { session, may_have_run }),
            Place::At(holder) => holder,
        };
        if entered.forwarded {
            // Two nodes that know different things must not play ball with it.
            let (status, body) = (StatusCode::MISDIRECTED_REQUEST, Body::Full(None));
            return Err(Response::new(status, HeaderMap::new(), body));
        }
        let longest = entered.server.settings.timeout.max(OPENED_WITHIN) + ON_THE_WAY;
        let passed = Box::pin(pass(entered, body, may_have_run, holder));
        let passed = tokio::time::timeout(longest, passed).await;
        match passed.unwrap_or_else(|_| Err(Lost::Unknown("it gave no answer in time".into()))) {
            Ok(response) => return Err(response),
            Err(Lost::Elsewhere) => {
                // Who holds it now is on its way to this node.
                if let Some(cluster) = &entered.gateway.cluster {
                    cluster.fallen(holder, UNTIL_HEARD).await;
                }
                moves += 1;
                continue;
            }
            Err(lost) => {
                tracing::debug!(node = holder.node, %lost, "a forwarded request was lost");
                may_have_run |= matches!(lost, Lost::Unknown(_));
            }
        }
        // It may be gone, or not be reached from here for a moment: the one is declared, the other is
        // found out by trying. Without a quorum neither may ever come.
        let Some(cluster) = &entered.gateway.cluster else { break };
        if lost_since.get_or_insert_with(Instant::now).elapsed() >= UNTIL_DECLARED {
            break;
        }
        if cluster.fallen(holder, ONCE_MORE_AFTER).await {
            moves += 1;
        }
    }
    let reason = "the node that holds the session cannot be reached".to_owned();
    Err(failed(entered, body, reason, may_have_run))
}

async fn pass(
    entered: &Entered,
    body: &Bytes,
    again: bool,
    holder: Origin,
) -> Result<Response, Lost> {
    let forwarding = Forwarding {
        gateway: &entered.gateway,
        principal: &entered.head.principal,
        balancer_id: entered.head.balancer_id.as_deref(),
        again,
        parts: &entered.head.parts,
        body: body.clone(),
    };
    cluster::forward(&forwarding, holder).await
}

async fn place(entered: &Entered, body: &[u8], may_have_run: bool) -> Result<Place, Response> {
    let Entered { gateway, server, head, .. } = entered;
    let key = match head.session {
        Named::Key(key) => key,
        Named::None { is_modern: true } if server.is_process() => {
            return Ok(Box::pin(shared_process(gateway, &server.name)).await);
        }
        Named::None { .. } => return Ok(Place::Here(None)),
        Named::Repeated => return Err(no_session(gateway, body, NoSession::Repeated)),
        Named::Unknown => return Err(no_session(gateway, body, NoSession::Unknown)),
    };
    match find_patiently(gateway, server, &head.principal, key).await {
        Found::Here(session) => Ok(Place::Here(Some(session))),
        Found::At(holder) => Ok(Place::At(holder)),
        Found::Unknown => Err(no_session(gateway, body, NoSession::Unknown)),
        Found::Untold(error) => Err(failed(entered, body, told(&error), may_have_run)),
    }
}

/// Follows a call's session to the node that has it now: the call did not run here.
///
/// # Errors
/// [`HangUp`] where nothing may be said.
pub(super) async fn follow(
    call: &Arc<Call>,
    connection: Option<&CancellationToken>,
) -> Result<Response, HangUp> {
    let Some(session) = &call.session else {
        return respond::answer(call, Answer::Moved, connection).await;
    };
    let mut headers = exchange::headers::for_repeat(HeaderMap::clone(&call.headers));
    headers.insert(name::SESSION_ID, session.id());
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::POST;
    if let Ok(path) = format!("/mcp/{}", call.server.name).parse() {
        *request.uri_mut() = path;
    }
    *request.headers_mut() = headers;
    let head = Head::new(request.into_parts().0, call.principal.clone());
    let cut = connection.cloned().map(Arc::new);
    let entered = Entered {
        gateway: Arc::clone(&call.gateway),
        server: Arc::clone(&call.server),
        // Under the balancer's id as before: the journal is to know it again, wherever it was meanwhile.
        head: Arc::new(Head { balancer_id: call.balancer_id.clone(), ..head }),
        connection: cut.clone(),
        again: call.again,
        forwarded: false,
    };
    let placed = match Box::pin(settle(&entered, &call.body)).await {
        Ok(placed) => placed,
        Err(response) => return Ok(response),
    };
    let (gateway, server, session) = (&call.gateway, &call.server, placed.session.as_ref());
    let Head { parts, balancer_id, .. } = Arc::unwrap_or_clone(entered.head);
    let (headers, body) = (parts.headers, call.body.clone());
    let principal = &call.principal;
    let again = placed.may_have_run;
    let before = Before { balancer_id, again, told: None, json_only: !call.takes_stream };
    let anew = super::received_before(gateway, server, principal, headers, body, session, before);
    let Some(anew) = anew else {
        return respond::answer(call, Answer::Moved, connection).await;
    };
    // It came back: another try, and no more than that. Its place is the new call's to ask for.
    call.leave();
    let follows = Follows::No;
    Box::pin(streamable::serve_placed(anew, again, cut, follows)).await
}

/// The session that the request names, if this node has it in hand.
pub(super) fn here(entered: &Entered) -> Option<Arc<Session>> {
    let Named::Key(key) = entered.head.session else { return None };
    let session = entered.gateway.sessions.get(key)?;
    let own = session.principal() == entered.head.principal.digest;
    (own && session.is_of(&entered.server)).then_some(session)
}

/// The session that a legacy request names.
pub(crate) fn named(headers: &HeaderMap) -> Option<SessionKey> {
    match Named::of(headers) {
        Named::Key(key) => Some(key),
        Named::None { .. } | Named::Unknown | Named::Repeated => None,
    }
}

/// The node that runs the one process of a stdio server that modern clients share.
async fn shared_process(gateway: &Gateway, server: &str) -> Place {
    let Some(cluster) = &gateway.cluster else { return Place::Here(None) };
    match gateway.store.claim(server, cluster.me(), &|holder| cluster.may_hold(holder)).await {
        Ok(holder) if holder != cluster.me() => Place::At(holder),
        Ok(_) => Place::Here(None),
        // Without the store nobody can say who runs it: a process of our own serves better than none.
        Err(error) => {
            tracing::debug!(server, %error, "no place for a shared process could be claimed");
            Place::Here(None)
        }
    }
}

/// Says that the request cannot be served now, under its id.
fn failed(entered: &Entered, body: &[u8], reason: String, ran: bool) -> Response {
    let name = &entered.server.name;
    let failure =
        if ran { Failure::unknown(name, reason) } else { Failure::dependency(name, reason) };
    let ids = Ids::of(body);
    if ids.count() == 0 && *entered.head.method() != http::Method::POST {
        // Some clients never ask for a stream again that was once refused: it ends, and they do.
        return respond::stream(Body::full(Bytes::from_static(holdfast_mcp::sse::COMMENT)));
    }
    json(StatusCode::OK, failure.render(&ids))
}

fn no_session(gateway: &Gateway, body: &[u8], why: NoSession) -> Response {
    let (status, why, text) = match why {
        NoSession::Repeated => (
            StatusCode::BAD_REQUEST,
            Rejection::Malformed,
            "one Mcp-Session-Id header, not several",
        ),
        NoSession::Unknown => (
            StatusCode::NOT_FOUND,
            Rejection::UnknownSession,
            "session not found: it has ended or never was; initialize a new one",
        ),
    };
    gateway.metrics.rejected(why);
    let error = RpcError::new(code::INVALID_REQUEST, text);
    let id = holdfast_mcp::peek::peek(body).ok().and_then(|message| message.id);
    let body = match id {
        Some(id) => error.render(ErrorId::Raw(id.as_str())),
        None => error.render(ErrorId::Null),
    };
    json(status, body)
}
