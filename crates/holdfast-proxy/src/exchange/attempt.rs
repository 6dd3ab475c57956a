//! One sending of a call: to an HTTP instance, or into a duplex.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::backoff::Backoff;
use holdfast_engine::repeat::Progress;
use holdfast_mcp::batch::split_batch;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::rpc_error::{RpcError, code};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use bytes::{BufMut as _, BytesMut};

use super::open::Borrowed;
use super::{Call, Events, Ids, Large, Whole, addressed, headers, state};
use crate::gateway::Gateway;
use crate::random;
use crate::server::Server;
use crate::session::{Bound, Session};
use crate::upstream::Endpoint;
use crate::upstream::duplex::SendError;
use crate::upstream::events::{End, EventSource, HttpEvents, message};
use crate::upstream::http::{self as upstream, Collected, Gate, HttpError, Outgoing};
use crate::upstream::mux::{CallEvent, Mux};

/// Where an attempt goes.
#[derive(Clone)]
pub(crate) struct Route {
    /// The session whose binding it uses; none for modern and stateless calls.
    pub(crate) session: Option<Arc<Session>>,
    /// Set where that session is lent to a client without one, for as long as its call lasts.
    pub(crate) _borrowed: Option<Arc<Borrowed>>,
    pub(crate) bound: Option<Arc<Bound>>,
    pub(crate) instance: usize,
    pub(crate) mux: Option<Arc<Mux>>,
}

impl Route {
    /// What the instance calls its session.
    pub(crate) fn server_session(&self) -> Option<HeaderValue> {
        self.bound.as_ref().and_then(|bound| bound.server_session.clone())
    }
}

/// What an attempt brought.
pub(super) enum Reply {
    Whole(Whole),
    Large(Large),
    One { status: StatusCode, headers: HeaderMap, event: holdfast_mcp::sse::Event },
    Events(Box<Events>),
}

/// How an attempt failed.
#[derive(Debug)]
pub(crate) struct AttemptError {
    pub(crate) progress: Progress,
    pub(crate) reason: String,
    /// The server's patience is used up: trying again at once would only wait as long again.
    pub(crate) waited: bool,
    /// The cluster does not let this node send it.
    pub(crate) withheld: bool,
}

/// The largest JSON answer that is turned into an event.
pub(super) const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// How long a call waits for a server that refuses connections: a restart takes about this long,
/// and the client sees a pause instead of an error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The same where a session can be moved to another instance.
const SHORT_PATIENCE: Duration = Duration::from_millis(500);

/// Sends the call once.
///
/// # Cancel safety
/// Dropped after the request was written, an HTTP instance sees the connection close; a duplex
/// forgets the call (and tells a modern server so).
pub(super) async fn send(call: &Call, route: &mut Route) -> Result<Reply, AttemptError> {
    match (&call.server.endpoint, &route.mux) {
        (Endpoint::Http(_), _) => send_http(call, route).await,
        (Endpoint::Duplex(_), Some(mux)) if matches!(call.ids, Ids::Batch(_)) => {
            send_batch(call, mux).await
        }
        (Endpoint::Duplex(_), Some(mux)) => send_mux(call, route, mux).await,
        (Endpoint::Duplex(_), None) => Err(AttemptError::not_sent("no open connection".into())),
    }
}

// --- HTTP ---

async fn send_http(call: &Call, route: &mut Route) -> Result<Reply, AttemptError> {
    let outgoing = Outgoing {
        method: Method::POST,
        headers: &call.headers,
        session: route.server_session(),
        body: state::unseal(call).unwrap_or_else(|| call.body.clone()),
    };
    let bound = route.bound.is_some();
    let gate = || call.may_send();
    let (mut response, instance) =
        request(&call.gateway, &call.server, bound, route.instance, outgoing, Some(&gate)).await?;
    // Another instance may have taken it; what it says belongs to that one.
    route.instance = instance;
    let status = response.status;
    let is_stream = response.is_event_stream() && status.is_success();
    let mut headers = std::mem::take(&mut response.headers);
    headers::strip_answer(&mut headers);
    if is_stream {
        let source = EventSource::Http(Box::new(HttpEvents::new(response.body, response.lease)));
        return first_event(call, status, headers, source, route.clone()).await;
    }
    let limit = call.gateway.config.limits.answer_buffer;
    match response.collect(limit).await {
        Ok(Collected::Whole { body, lease }) if !status.is_success() => {
            lease.done();
            Ok(Reply::Whole(Whole { status, headers, body }))
        }
        Ok(Collected::Whole { body, lease }) => {
            let Some(body) = addressed::answer(&body, &call.ids) else {
                // Whatever it is, the connection cannot be trusted with another request.
                return Err(AttemptError::sent(format!("it answered {status} with no answer")));
            };
            lease.done();
            Ok(Reply::Whole(Whole { status, headers, body }))
        }
        Ok(Collected::Large { head, rest, lease }) => {
            Ok(Reply::Large(Large { status, headers, head, rest, lease }))
        }
        Err(error) => Err(AttemptError::sent(error.to_string())),
    }
}

/// Sends a request to the route's instance; while the connection is refused, to the others where
/// the call is not bound, and again until [`PATIENCE`] is over. Nothing is sent twice: only what
/// was never written is tried again.
pub(crate) async fn request_http(
    gateway: &Gateway,
    server: &Server,
    bound: bool,
    instance: usize,
    outgoing: Outgoing<'_>,
) -> Result<(upstream::Response, usize), AttemptError> {
    request(gateway, server, bound, instance, outgoing, None).await
}

/// As [`request_http`]; `gate` is asked when there is a connection, before the first byte.
async fn request(
    gateway: &Gateway,
    server: &Server,
    bound: bool,
    mut instance: usize,
    outgoing: Outgoing<'_>,
    gate: Option<Gate<'_>>,
) -> Result<(upstream::Response, usize), AttemptError> {
    let Endpoint::Http(targets) = &server.endpoint else {
        return Err(AttemptError::not_sent("the server is not reached over HTTP".into()));
    };
    let metrics = gateway.metrics.server(server.index);
    // Where there is another instance to move to, less time is spent on one that is gone.
    let patience = if bound && targets.len() > 1 { SHORT_PATIENCE } else { PATIENCE };
    let deadline = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    let mut tried = 0;
    loop {
        let target = targets.get(instance).unwrap_or(&targets[0]);
        let timeout = server.settings.connect_timeout;
        let sent = upstream::send(target, &outgoing, timeout, &gateway.client_tls, gate);
        let error = match sent.await {
            Ok(response) => return Ok((response, instance)),
            Err(error) => error,
        };
        match error {
            HttpError::NotSent(error) => {
                metrics.connect_failures.inc();
                tried += 1;
                // A session's state lives at its instance; everything else may go anywhere.
                if !bound && tried < targets.len() {
                    instance = (instance + 1) % targets.len();
                    continue;
                }
                let wait = backoff.next(random::u64());
                if Instant::now() + wait >= deadline {
                    return Err(AttemptError::waited(error.to_string()));
                }
                tried = 0;
                tokio::time::sleep(wait).await;
            }
            HttpError::Withheld(reason) => return Err(AttemptError::withheld(reason)),
            HttpError::Unsent => return Err(AttemptError::not_sent(error.to_string())),
            HttpError::Broken(_) | HttpError::Cut(_) => {
                return Err(AttemptError::sent(error.to_string()));
            }
        }
    }
}

/// Waits for a stream's first event: one that is the answer makes the stream a plain response.
async fn first_event(
    call: &Call,
    status: StatusCode,
    headers: HeaderMap,
    mut source: EventSource,
    route: Route,
) -> Result<Reply, AttemptError> {
    match source.next().await {
        Ok(event) => {
            let only = event.id.is_none()
                && event.retry.is_none()
                && event.data.as_deref().is_some_and(|data| call.ids.is_whole_answer(data));
            if only {
                finish_reading(source);
                return Ok(Reply::One { status, headers, event });
            }
            Ok(Reply::Events(Box::new(Events { headers, first: Some(event), source, route })))
        }
        Err(End::Clean) => Err(AttemptError::sent("the stream ended before the answer".into())),
        Err(End::Broken(reason)) => Err(AttemptError::sent(reason)),
        Err(End::Cancelled) => Ok(Reply::Whole(cancelled(call))),
    }
}

/// After its last event a stream's end is still to be read, so that its connection can be used
/// again.
pub(super) fn finish_reading(mut source: EventSource) {
    use futures_util::FutureExt as _;
    if matches!(source, EventSource::Mux(_)) || source.next().now_or_never().is_some() {
        return;
    }
    tokio::spawn(async move {
        let _ = tokio::time::timeout(Duration::from_secs(1), source.next()).await;
    });
}

// --- duplex ---

async fn send_mux(call: &Call, route: &Route, mux: &Arc<Mux>) -> Result<Reply, AttemptError> {
    let mut pause = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
    let sent = loop {
        // Asked each time: it may have waited for long.
        call.may_send().map_err(AttemptError::withheld)?;
        match mux.call_with(call.body.clone(), call.takes_stream).await {
            // A balancer that lost a node has sent the call again, and the first sending still runs
            // here, for nobody: it is waited for. A client that uses an id twice is told.
            Err(SendError::Duplicate(_)) if call.balancer_id.is_some() => {
                tokio::time::sleep(pause.next(random::u64())).await;
            }
            sent => break sent,
        }
    };
    let mut running = match sent {
        Ok(running) => running,
        Err(error) => {
            let progress = if error.did_not_run() { Progress::NotSent } else { Progress::Sent };
            return Err(AttemptError { progress, ..AttemptError::sent(error.to_string()) });
        }
    };
    match running.next().await {
        Some(CallEvent::Response(body)) => {
            let status = status_of(call, &body);
            Ok(Reply::Whole(Whole { status, headers: json_headers(), body }))
        }
        Some(CallEvent::Message(data)) => {
            let headers = stream_headers();
            let first = Some(message(data));
            let source = EventSource::Mux(running);
            let route = route.clone();
            Ok(Reply::Events(Box::new(Events { headers, first, source, route })))
        }
        Some(CallEvent::Lost(reason)) => Err(AttemptError::sent(reason)),
        Some(CallEvent::Cancelled) => Ok(Reply::Whole(cancelled(call))),
        None => Err(AttemptError::sent("the connection ended".into())),
    }
}

/// What ends the response to a call that its client has cancelled. Nobody waits for it, but HTTP wants
/// a body.
fn cancelled(call: &Call) -> Whole {
    let error = RpcError::new(CANCELLED, "cancelled by the client");
    let body = crate::failure::render(&error, &call.ids);
    Whole { status: StatusCode::OK, headers: json_headers(), body }
}

/// As in other JSON-RPC protocols; outside the reserved range.
const CANCELLED: i64 = -32800;

/// A batch on a connection that takes one message at a time: its members one by one, their answers
/// together.
async fn send_batch(call: &Call, mux: &Arc<Mux>) -> Result<Reply, AttemptError> {
    call.may_send().map_err(AttemptError::withheld)?;
    let members = split_batch(&call.body).unwrap_or_default();
    let mut running = Vec::with_capacity(members.len());
    for range in members {
        let message = call.body.slice(range);
        let asks = peek(&message).is_ok_and(|message| message.kind == Kind::Request);
        let sent = if asks {
            mux.call_with(message, false).await.map(|call| running.push(call))
        } else {
            mux.tell(message).await
        };
        if let Err(error) = sent {
            // The first that does not go means that nothing has; after that the batch is under way.
            let nothing = running.is_empty() && error.did_not_run();
            let progress = if nothing { Progress::NotSent } else { Progress::Sent };
            return Err(AttemptError { progress, ..AttemptError::sent(error.to_string()) });
        }
    }
    let mut body = BytesMut::from(&b"["[..]);
    for (index, mut call) in running.into_iter().enumerate() {
        let answer = loop {
            match call.next().await {
                Some(CallEvent::Response(answer)) => break answer,
                Some(CallEvent::Message(_)) => {}
                Some(CallEvent::Cancelled) => {
                    return Err(AttemptError::sent("a member was cancelled".into()));
                }
                Some(CallEvent::Lost(reason)) => return Err(AttemptError::sent(reason)),
                None => return Err(AttemptError::sent("the connection ended".into())),
            }
        };
        if index > 0 {
            body.put_u8(b',');
        }
        body.extend_from_slice(&answer);
    }
    body.put_u8(b']');
    let whole = Whole { status: StatusCode::OK, headers: json_headers(), body: body.freeze() };
    Ok(Reply::Whole(whole))
}

/// The HTTP status that a modern client expects beside an error (mcp-wire 2.4); legacy errors come
/// with 200.
fn status_of(call: &Call, body: &[u8]) -> StatusCode {
    if !call.modern() || !super::observe::is_rpc_error(body) {
        return StatusCode::OK;
    }
    let error = peek(body).ok().and_then(|message| message.error_code);
    match error {
        Some(code::METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Some(
            code::HEADER_MISMATCH
            | code::MISSING_CAPABILITY
            | code::UNSUPPORTED_VERSION
            | code::PARSE
            | code::INVALID_REQUEST,
        ) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

pub(super) fn json_headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

pub(super) fn stream_headers() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6);
    headers::as_stream(&mut headers);
    headers
}

impl AttemptError {
    pub(super) fn not_sent(reason: String) -> Self {
        Self { progress: Progress::NotSent, ..Self::sent(reason) }
    }

    pub(super) fn sent(reason: String) -> Self {
        Self { progress: Progress::Sent, reason, waited: false, withheld: false }
    }

    /// The server's patience is used up, and nothing was sent.
    pub(super) fn waited(reason: String) -> Self {
        Self { waited: true, ..Self::not_sent(reason) }
    }

    /// The cluster does not let this node send the call: it did not run.
    fn withheld(reason: String) -> Self {
        Self { withheld: true, ..Self::not_sent(reason) }
    }
}
