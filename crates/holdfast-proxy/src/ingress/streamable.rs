//! Streamable HTTP, 2025-03-26 to 2026-07-28: POST, GET and DELETE on one path.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::headers::name;
use holdfast_mcp::method::Method as RpcMethod;
use holdfast_mcp::peek::Kind;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::placement::{self, Placed};
use super::receive::{Inbound, Own, Received, receive};
use super::request_body::RequestBody;
use super::respond::Survivor;
use super::{
    Entered, HangUp, Head, bad_body, json, method_not_allowed, no_room_for_stream, refuse, respond,
};
use crate::body::Body;
use crate::boxes::{Boxed, Boxes, worker};
use crate::clock::recent;
use crate::cluster;
use crate::exchange::{self, Answer, Call, Whole, headers};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::hold::{Held, Hold, Over};
use crate::metrics::Rejection;
use crate::response::Response;
use crate::resume;
use crate::session::{self, Opened, Session};
use crate::upstream::http::{Fields, Outgoing};

/// Serves one request on an MCP path.
///
/// # Errors
/// [`HangUp`] where nothing may be said.
pub(super) async fn serve(entered: Entered, body: RequestBody) -> Result<Response, HangUp> {
    match *entered.head.method() {
        Method::POST => post(entered, body).await,
        // Boxed: few requests are not POSTs, and a call's future stays small without them.
        Method::GET => Ok(Box::pin(get(entered)).await),
        Method::DELETE => Ok(Box::pin(delete(entered)).await),
        _ => Ok(method_not_allowed(&entered.gateway, "GET, POST, DELETE")),
    }
}

// --- POST ---

async fn post(entered: Entered, body: RequestBody) -> Result<Response, HangUp> {
    let gateway = &entered.gateway;
    let limits = &gateway.config.limits;
    if !entered.head.brings_json {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let text = "a message is sent as Content-Type: application/json";
        return Ok(refuse(gateway, Rejection::Malformed, status, text));
    }
    let body = match body.read(limits.body, gateway.config.listen.body_timeout).await {
        Ok(body) => body,
        Err(error) => return Ok(bad_body(gateway, error)),
    };
    gateway.learnt().await;
    let placed = match placement::settle(&entered, &body).await {
        Ok(placed) => placed,
        Err(response) => return Ok(response),
    };
    let head = &entered.head;
    let received = receive(Inbound {
        gateway,
        server: &entered.server,
        principal: head.principal.clone(),
        at: recent(),
        takes_stream: head.takes_stream,
        balancer_id: head.balancer_id.clone(),
        headers: Own::of(entered.head),
        body,
        session: placed.session,
        check_headers: true,
        has_event_ids: true,
        again: placed.may_have_run,
        told: None,
    });
    match received {
        Ok(Received::Call(call)) => {
            serve_placed(call, placed.may_have_run, entered.connection, Follows::Yes).await
        }
        Ok(Received::Message(call, kind)) => {
            let told = Boxed::new(&TOLD, (Arc::clone(&call), kind));
            let told = Survivor::new(call, told);
            let Answer::Whole(whole) = told.await else {
                return Ok(json(StatusCode::ACCEPTED, Bytes::new()));
            };
            let Whole { status, headers, body } = *whole;
            Ok(Response::new(status, headers, Body::full(body)))
        }
        Err(refused) => {
            gateway.metrics.rejected(refused.why);
            Ok(json(refused.status, refused.body))
        }
    }
}

/// Whether a call is taken after its session if that moves before the call is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Yes,
    No,
}

/// Serves a call whose session is here. `may_have_run`: at a node that is gone.
///
/// # Errors
/// [`HangUp`] where nothing may be said.
pub(super) async fn serve_placed(
    call: Arc<Call>,
    may_have_run: bool,
    connection: Option<Arc<CancellationToken>>,
    follows: Follows,
) -> Result<Response, HangUp> {
    // Only the journal could know whether it ran.
    if may_have_run && !call.may_run_again() {
        let reason = "the node that ran it was lost".to_owned();
        let failure = Failure::unknown(&call.server.name, reason);
        let answer = exchange::gave_up(&call, failure);
        return respond::answer(&call, answer, connection.as_deref()).await;
    }
    run(call, connection, follows).await
}

/// Runs a call: its answer as it is if it comes soon, as a stream otherwise.
async fn run(
    call: Arc<Call>,
    connection: Option<Arc<CancellationToken>>,
    follows: Follows,
) -> Result<Response, HangUp> {
    let streams = &call.gateway.config.streams;
    let hold = if call.resumable { streams.commit_after } else { streams.headers_by };
    // What decides a client's era or session is not begun before it is known.
    let opens = matches!(call.method, RpcMethod::Initialize | RpcMethod::Discover);
    let deadline = call.server.settings.timeout;
    let stays_json = call.modern() && streams.strict;
    let can_wait_as_stream = call.takes_stream && !stays_json && !opens && hold < deadline;
    if can_wait_as_stream && call.must_begin_first() {
        let work = exchange::first_answer(Arc::clone(&call));
        let begun = respond::commit_first(&call, work, deadline, connection.as_deref());
        return Ok(Box::pin(begun).await);
    }
    let work = Boxed::new(&WORK, Arc::clone(&call));
    let mut work = Survivor::new(Arc::clone(&call), work);
    let patience = if can_wait_as_stream { hold } else { deadline };
    let until = Instant::from_std(call.started) + patience;
    let held = Hold::until(until, Arc::clone(&call) as Arc<dyn Held>);
    let over = {
        let mut held = std::pin::pin!(held);
        let either = poll_fn(|cx| match Pin::new(&mut work).poll(cx) {
            Poll::Ready(first) => Poll::Ready(Ok(first)),
            Poll::Pending => held.as_mut().poll(cx).map(Err),
        });
        either.await
    };
    let failure = match over {
        Ok(Answer::Moved) if follows == Follows::Yes => {
            return Box::pin(placement::follow(&call, connection.as_deref())).await;
        }
        Ok(first) => return respond::answer(&call, first, connection.as_deref()).await,
        Err(Over::Time) if can_wait_as_stream => {
            let left = deadline.saturating_sub(hold);
            return Ok(Box::pin(respond::commit(&call, work, left, connection.as_deref())).await);
        }
        Err(Over::Time) => call.timed_out(deadline),
        Err(Over::GivenUp) => call.given_up(),
    };
    drop(work.take());
    let answer = exchange::gave_up(&call, failure);
    respond::answer(&call, answer, connection.as_deref()).await
}

thread_local! {
    static WORK: Boxes<Arc<Call>, Answer> =
        const { Boxes::new(|| worker(&WORK, exchange::first_answer)) };
    static TOLD: Boxes<(Arc<Call>, Kind), Answer> = const {
        Boxes::new(|| worker(&TOLD, async |(call, kind): (Arc<Call>, Kind)| {
            exchange::tell(&call, kind).await
        }))
    };
}

// --- GET ---

async fn get(entered: Entered) -> Response {
    let Entered { gateway, server, head, connection, .. } = &entered;
    let Head { parts, principal, .. } = &**head;
    let connection = connection.as_deref();
    if !head.takes_stream {
        let text = "GET opens an event stream: send Accept: text/event-stream";
        return refuse(gateway, Rejection::NotServed, StatusCode::NOT_ACCEPTABLE, text);
    }
    // The stream of a call is where it is, wherever its session may be.
    let token = parts.headers.get(name::LAST_EVENT_ID).map(HeaderValue::as_bytes);
    let session = if token.is_some_and(|token| resume::is_call(gateway, token)) {
        placement::here(&entered)
    } else {
        match placement::settle(&entered, &Bytes::new()).await {
            Ok(placed) => placed.session,
            Err(response) => return response,
        }
    };
    if let Some(full) = no_room_for_stream(gateway) {
        return full;
    }
    if let Some(token) = token {
        let forwarded = entered.forwarded;
        let returning =
            resume::Returning { gateway, server, principal, connection, parts, forwarded };
        return match resume::resume(&returning, session.as_ref(), token).await {
            Ok(response) => response,
            Err(error) => {
                let status = StatusCode::NOT_FOUND;
                refuse(gateway, Rejection::BadEventId, status, &error.to_string())
            }
        };
    }
    let Some(session) = session else {
        return pass_on(&entered, Method::GET).await;
    };
    standing(gateway, &session, parts.headers.clone(), None, connection).await
}

/// Where a client's standing stream goes on.
pub(crate) struct After {
    /// The stream of this node that it has read, and how far.
    pub(crate) seq: Option<u64>,
    /// The same as its token says it, whichever node's it is.
    pub(crate) stream: (u128, u64),
    /// How far the server's own stream had come, if it is of the present binding.
    pub(crate) server_event: Option<Box<str>>,
}

/// The response that follows a session's standing stream.
pub(crate) async fn standing(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    own: HeaderMap,
    after: Option<After>,
    connection: Option<&CancellationToken>,
) -> Response {
    let seq = after.as_ref().and_then(|after| after.seq);
    match session::open_standing(gateway, session, own, after.as_ref()).await {
        Ok(Opened::Stream(open)) => {
            let after = seq;
            respond::stream(respond::stand(gateway, session, &open.log, after, connection))
        }
        Ok(Opened::Refused(whole)) => {
            Response::new(whole.status, whole.headers, Body::full(whole.body))
        }
        Err(failure) => {
            // A stream may not be refused for the gateway's own reasons: some clients then never
            // ask again. It ends at once and the client comes back.
            tracing::debug!(session = ?session.key, reason = %failure.reason, "no standing stream");
            respond::stream(Body::full(Bytes::from_static(holdfast_mcp::sse::COMMENT)))
        }
    }
}

// --- DELETE ---

async fn delete(entered: Entered) -> Response {
    let gateway = &entered.gateway;
    let session = match placement::settle(&entered, &Bytes::new()).await {
        Ok(Placed { session: Some(session), .. }) => session,
        Ok(_) => return pass_on(&entered, Method::DELETE).await,
        Err(response) => return response,
    };
    let server = &entered.server;
    if server.is_duplex() {
        ended(gateway, &session, None).await;
        return Response::new(StatusCode::OK, HeaderMap::new(), Body::Full(None));
    }
    let bound = session.bound();
    let own = headers::for_server(entered.head.headers().clone(), server);
    let outgoing = Outgoing {
        method: Method::DELETE,
        fields: Fields::Map(&own),
        session: bound.server_session.clone(),
        body: Bytes::new(),
    };
    let Some(instance) = server.fleet.place(bound.mark) else {
        // The instance is gone, and with it whoever could be told.
        ended(gateway, &session, Some(bound.generation)).await;
        return Response::new(StatusCode::OK, HeaderMap::new(), Body::Full(None));
    };
    session.set_ending(true);
    let sent = exchange::request_http(gateway, server, true, instance, outgoing);
    let Ok(sent) = tokio::time::timeout(DELETE_WITHIN, sent).await else {
        // A server that does not answer keeps its session; ours ends all the same.
        ended(gateway, &session, Some(bound.generation)).await;
        return Response::new(StatusCode::OK, HeaderMap::new(), Body::Full(None));
    };
    let status = match sent {
        // A server that does not let clients end sessions: the session lives on.
        Ok((response, _)) if response.status == StatusCode::METHOD_NOT_ALLOWED => {
            session.set_ending(false);
            return plain(response).await;
        }
        Ok((response, _)) if response.status.is_success() => response.status,
        Ok((response, _)) if matches!(response.status.as_u16(), 401 | 403) => {
            session.set_ending(false);
            return plain(response).await;
        }
        // It is gone at the server, or the server is: ours ends all the same.
        Ok(_) | Err(_) => StatusCode::OK,
    };
    ended(gateway, &session, Some(bound.generation)).await;
    Response::new(status, HeaderMap::new(), Body::Full(None))
}

/// Ends a session for all nodes: one that does not hear of it at once is waited for until it may not
/// use what it has of the session any more.
async fn ended(gateway: &Arc<Gateway>, session: &Arc<Session>, told: Option<u32>) {
    gateway.end_session(session, told).await;
    gateway.metrics.sessions_deleted.inc();
    let Some(cluster) = &gateway.cluster else { return };
    let unheard = cluster::tell_ended(gateway, session.key).await;
    let gone = unheard.into_iter().map(|node| cluster.fallen(node, cluster.failover_timeout));
    futures_util::future::join_all(gone).await;
}

/// How long a server may take over the end of its session.
const DELETE_WITHIN: Duration = Duration::from_secs(10);

/// Hands a request of a client without a session on to the server, as it is.
async fn pass_on(entered: &Entered, method: Method) -> Response {
    let Entered { gateway, server, head, .. } = entered;
    if server.is_duplex() {
        return method_not_allowed(gateway, "POST");
    }
    let own = headers::for_server(head.headers().clone(), server);
    let body = Bytes::new();
    let outgoing = Outgoing { method, fields: Fields::Map(&own), session: None, body };
    let sent = exchange::request_http(gateway, server, false, server.fleet.pick(), outgoing);
    match tokio::time::timeout(server.settings.timeout, sent).await {
        Ok(Ok((response, _))) => plain(response).await,
        Ok(Err(_)) | Err(_) => method_not_allowed(gateway, "POST"),
    }
}

async fn plain(response: crate::upstream::http::Response) -> Response {
    let (status, headers, rest) = response.into_parts();
    Response::new(status, headers, Body::rest(rest))
}
