//! Streamable HTTP, 2025-03-26 to 2026-07-28: POST, GET and DELETE on one path.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_mcp::headers::name;
use holdfast_mcp::method::Method as RpcMethod;
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};
use holdfast_mcp::version::Era;
use http::header::ACCEPT;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use super::receive::{Inbound, Received, read_body, receive};
use super::{
    Entered, HangUp, bad_body, json, method_not_allowed, no_room_for_stream, refuse, respond,
};
use crate::body::Body;
use crate::exchange::{self, Answer, Call, headers};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::metrics::Rejection;
use crate::resume;
use crate::session::{self, Opened, Session, parse_id};
use crate::upstream::http::{Outgoing, has_media_type};
use crate::worker;

/// Serves one request on an MCP path.
///
/// # Errors
/// [`HangUp`] where nothing may be said.
pub(super) async fn serve(entered: Entered, body: Incoming) -> Result<Response<Body>, HangUp> {
    match *entered.method() {
        Method::POST => post(entered, body).await,
        // Boxed: few requests are not POSTs, and a call's future stays small without them.
        Method::GET => Ok(Box::pin(get(entered)).await),
        Method::DELETE => Ok(Box::pin(delete(entered)).await),
        _ => Ok(method_not_allowed(&entered.gateway, "GET, POST, DELETE")),
    }
}

// --- POST ---

async fn post(entered: Entered, body: Incoming) -> Result<Response<Body>, HangUp> {
    let gateway = &entered.gateway;
    let limits = &gateway.config.limits;
    if !has_media_type(&entered.parts.headers, b"application/json") {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let text = "a message is sent as Content-Type: application/json";
        return Ok(refuse(gateway, Rejection::Malformed, status, text));
    }
    let body = match read_body(body, limits.body, gateway.config.listen.body_timeout).await {
        Ok(body) => body,
        Err(error) => return Ok(bad_body(gateway, error)),
    };
    let session = match find_session(&entered) {
        Ok(session) => session,
        Err(unknown) => return Ok(no_session(gateway, &body, unknown)),
    };
    let takes_stream = accepts(&entered.parts.headers, "text/event-stream");
    let received = receive(Inbound {
        gateway,
        server: &entered.server,
        principal: &entered.principal,
        headers: entered.parts.headers,
        body,
        session,
        check_headers: true,
        takes_stream,
        has_event_ids: true,
    });
    match received {
        Ok(Received::Call(call)) => run(call, entered.connection).await,
        Ok(Received::Message(call, kind)) => {
            let told =
                Survivor::new(Arc::clone(&call), async move { exchange::tell(&call, kind).await });
            let Answer::Whole(whole) = told.await else {
                return Ok(json(StatusCode::ACCEPTED, bytes::Bytes::new()));
            };
            Ok(respond::build(whole.status, whole.headers, Body::full(whole.body)))
        }
        Err(refused) => {
            gateway.metrics.rejected(refused.why);
            Ok(json(refused.status, refused.body))
        }
    }
}

/// Runs a call: its answer as it is if it comes soon, as a stream otherwise.
async fn run(call: Arc<Call>, connection: CancellationToken) -> Result<Response<Body>, HangUp> {
    let streams = &call.gateway.config.streams;
    let hold = if call.resumable { streams.commit_after } else { streams.headers_by };
    // What decides a client's era or session is not begun before it is known.
    let opens = matches!(call.method, RpcMethod::Initialize | RpcMethod::Discover);
    let deadline = call.server.settings.timeout;
    let mut work = Survivor::new(Arc::clone(&call), exchange::first_answer(Arc::clone(&call)));
    let stays_json = call.modern() && streams.strict;
    let can_wait_as_stream = call.takes_stream && !stays_json && !opens && hold < deadline;
    let patience = if can_wait_as_stream { hold } else { deadline };
    let giving_up = worker::giving_up(&call.gateway);
    let failure = tokio::select! {
        biased;
        first = &mut work => return respond::answer(&call, first, &connection),
        () = tokio::time::sleep(patience) => {
            if can_wait_as_stream {
                return match work.take() {
                    Some(work) => Ok(respond::commit(&call, work, deadline - hold, &connection)),
                    None => Err(HangUp),
                };
            }
            Failure::timed_out(&call.server.name, deadline)
        }
        () = giving_up.cancelled() => Failure::restarting(&call.server.name),
    };
    drop(work.take());
    let answer = exchange::gave_up(&call, failure);
    respond::answer(&call, answer, &connection)
}

/// Work that outlives its client where the protocol says so: a legacy client's disconnect is not a
/// cancellation, so dropping the survivor moves the work to a task of its own. A modern client's
/// disconnect is one, and the work is dropped.
struct Survivor<F>
where
    F: Future<Output = Answer> + Send + 'static,
{
    call: Arc<Call>,
    work: Option<Pin<Box<F>>>,
}

impl<F> Survivor<F>
where
    F: Future<Output = Answer> + Send + 'static,
{
    fn new(call: Arc<Call>, work: F) -> Self {
        Self { call, work: Some(Box::pin(work)) }
    }

    fn take(&mut self) -> Option<Pin<Box<F>>> {
        self.work.take()
    }
}

impl<F> Future for Survivor<F>
where
    F: Future<Output = Answer> + Send + 'static,
{
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let Some(work) = self.work.as_mut() else { return Poll::Pending };
        let answer = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl<F> Drop for Survivor<F>
where
    F: Future<Output = Answer> + Send + 'static,
{
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        if self.call.modern() {
            self.call.settle(crate::metrics::CallOutcome::Cancelled);
        } else {
            respond::finish_for_nobody(Arc::clone(&self.call), work);
        }
    }
}

// --- GET ---

async fn get(entered: Entered) -> Response<Body> {
    let Entered { gateway, server, principal, parts, connection } = &entered;
    if !accepts(&parts.headers, "text/event-stream") {
        let text = "GET opens an event stream: send Accept: text/event-stream";
        return refuse(gateway, Rejection::NotServed, StatusCode::NOT_ACCEPTABLE, text);
    }
    let session = match find_session(&entered) {
        Ok(session) => session,
        Err(unknown) => return no_session(gateway, &[], unknown),
    };
    if let Some(full) = no_room_for_stream(gateway) {
        return full;
    }
    if let Some(token) = parts.headers.get(name::LAST_EVENT_ID) {
        let token = token.as_bytes();
        let returning = resume::Returning { gateway, server, principal, connection };
        return match resume::resume(&returning, session.as_ref(), token, &parts.headers).await {
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
    let live = headers::for_server(parts.headers.clone(), server);
    standing(gateway, &session, live, None, connection).await
}

/// The response that follows a session's standing stream.
pub(crate) async fn standing(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    live: HeaderMap,
    after: Option<u64>,
    connection: &CancellationToken,
) -> Response<Body> {
    match session::open_standing(gateway, session, live).await {
        Ok(Opened::Stream(open)) => {
            respond::stream(respond::stand(gateway, session, &open.log, after, Some(connection)))
        }
        Ok(Opened::Refused(whole)) => {
            respond::build(whole.status, whole.headers, Body::full(whole.body))
        }
        Err(failure) => {
            // A stream may not be refused for the gateway's own reasons: some clients then never
            // ask again. It ends at once and the client comes back.
            tracing::debug!(session = ?session.key, reason = %failure.reason, "no standing stream");
            respond::stream(Body::full(bytes::Bytes::from_static(holdfast_mcp::sse::COMMENT)))
        }
    }
}

// --- DELETE ---

async fn delete(entered: Entered) -> Response<Body> {
    let gateway = &entered.gateway;
    let session = match find_session(&entered) {
        Ok(Some(session)) => session,
        Ok(None) => return pass_on(&entered, Method::DELETE).await,
        Err(unknown) => return no_session(gateway, &[], unknown),
    };
    let server = &entered.server;
    if server.is_duplex() {
        gateway.end_session(&session, None).await;
        gateway.metrics.sessions_deleted.inc();
        return respond::build(StatusCode::OK, HeaderMap::new(), Body::Full(None));
    }
    let bound = session.bound();
    let own = headers::for_server(entered.parts.headers.clone(), server);
    let outgoing = Outgoing {
        method: Method::DELETE,
        headers: &own,
        session: bound.server_session.clone(),
        body: bytes::Bytes::new(),
    };
    let sent = exchange::request_http(gateway, server, true, bound.instance, outgoing);
    let Ok(sent) = tokio::time::timeout(DELETE_WITHIN, sent).await else {
        // A server that does not answer keeps its session; ours ends all the same.
        gateway.end_session(&session, Some(bound.generation)).await;
        gateway.metrics.sessions_deleted.inc();
        return respond::build(StatusCode::OK, HeaderMap::new(), Body::Full(None));
    };
    let status = match sent {
        // A server that does not let clients end sessions: the session lives on.
        Ok((response, _)) if response.status == StatusCode::METHOD_NOT_ALLOWED => {
            return plain(response).await;
        }
        Ok((response, _)) if response.status.is_success() => response.status,
        Ok((response, _)) if matches!(response.status.as_u16(), 401 | 403) => {
            return plain(response).await;
        }
        // It is gone at the server, or the server is: ours ends all the same.
        Ok(_) | Err(_) => StatusCode::OK,
    };
    gateway.end_session(&session, Some(bound.generation)).await;
    gateway.metrics.sessions_deleted.inc();
    respond::build(status, HeaderMap::new(), Body::Full(None))
}

/// How long a server may take over the end of its session.
const DELETE_WITHIN: Duration = Duration::from_secs(10);

/// Hands a request of a client without a session on to the server, as it is.
async fn pass_on(entered: &Entered, method: Method) -> Response<Body> {
    let Entered { gateway, server, parts, .. } = entered;
    if server.is_duplex() {
        return method_not_allowed(gateway, "POST");
    }
    let own = headers::for_server(parts.headers.clone(), server);
    let body = bytes::Bytes::new();
    let outgoing = Outgoing { method, headers: &own, session: None, body };
    let sent = exchange::request_http(gateway, server, false, server.pick(), outgoing);
    match tokio::time::timeout(server.settings.timeout, sent).await {
        Ok(Ok((response, _))) => plain(response).await,
        Ok(Err(_)) | Err(_) => method_not_allowed(gateway, "POST"),
    }
}

async fn plain(response: crate::upstream::http::Response) -> Response<Body> {
    let mut kept = response.headers;
    headers::strip_answer(&mut kept);
    let body = Body::rest(bytes::Bytes::new(), response.body, response.lease);
    respond::build(response.status, kept, body)
}

// --- sessions ---

/// What is wrong with the session that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoSession {
    Repeated,
    Unknown,
}

/// The session that the request names, if it names one. Another principal's is as unknown as one
/// that never was.
fn find_session(entered: &Entered) -> Result<Option<Arc<Session>>, NoSession> {
    let mut ids = entered.parts.headers.get_all(name::SESSION_ID).iter();
    let Some(id) = ids.next() else { return Ok(None) };
    if ids.next().is_some() {
        return Err(NoSession::Repeated);
    }
    let modern = entered.parts.headers.get(name::PROTOCOL_VERSION).is_some_and(|version| {
        let version = version.to_str().ok().and_then(holdfast_mcp::version::Version::parse);
        version.is_some_and(|version| version.era() == Era::Modern)
    });
    // Modern requests have no session; an id that a client still sends is ignored.
    if modern {
        return Ok(None);
    }
    let session = parse_id(id.as_bytes()).and_then(|key| entered.gateway.sessions.get(key));
    session
        .filter(|session| {
            session.principal == entered.principal.digest
                && Arc::ptr_eq(&session.server, &entered.server)
        })
        .map(Some)
        .ok_or(NoSession::Unknown)
}

fn no_session(gateway: &Gateway, body: &[u8], why: NoSession) -> Response<Body> {
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

/// Whether `Accept` covers a media type. A missing header accepts everything (RFC 9110, 12.5.1).
fn accepts(headers: &HeaderMap, media: &str) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    let (kind, _) = media.split_once('/').unwrap_or((media, ""));
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|range| {
        let range = range.split(';').next().unwrap_or("").trim();
        range.eq_ignore_ascii_case(media)
            || range == "*/*"
            || range.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(kind))
    })
}
