//! One sending of a call: to an HTTP instance, or into a duplex.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::backoff::Backoff;
use holdfast_engine::class::CallClass;
use holdfast_engine::repeat::Progress;
use holdfast_mcp::batch::split_batch;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::rpc_error::{RpcError, code};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::lent::Borrowed;
use super::tries::Tries;
use super::{Call, Events, Ids, One, Whole, addressed, headers, state};
use crate::fleet::{Outcome, left};
use crate::gateway::Gateway;
use crate::random;
use crate::response::Headers;
use crate::server::Server;
use crate::session::{Bound, Session};
use crate::upstream::duplex::SendError;
use crate::upstream::events::{End, EventSource, HttpEvents, message};
use crate::upstream::http::{
    self as upstream, Collected, Gate, HttpError, Look, Outgoing, ResponseBody,
};
use crate::upstream::mux::{CallEvent, Mux};
use crate::upstream::{Endpoint, ServerSession};

/// Where an attempt goes.
#[derive(Clone)]
pub(crate) struct Route {
    /// The session whose binding it uses; none for modern and stateless calls.
    pub(crate) session: Option<Arc<Session>>,
    /// Set where that session is lent to a client without one, for as long as its call lasts.
    pub(crate) lent: Option<Arc<Borrowed>>,
    pub(crate) bound: Option<Arc<Bound>>,
    pub(crate) instance: usize,
    pub(crate) mux: Option<Arc<Mux>>,
}

impl Route {
    /// To an instance, without a session.
    pub(crate) fn plain(instance: usize) -> Self {
        Self { session: None, lent: None, bound: None, instance, mux: None }
    }

    pub(crate) fn has_server_session(&self) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.server_session.is_some())
    }

    /// What the instance calls its session.
    pub(crate) fn server_session(&self) -> Option<ServerSession> {
        self.bound.as_ref().and_then(|bound| bound.server_session.clone())
    }
}

/// What an attempt brought.
pub(super) enum Reply {
    Whole(Box<Whole>),
    Large(Box<Begun>),
    One(Box<One>),
    Events(Box<Events>),
}

/// A response whose body is too large to be held back: what is here of it, and what is to come.
pub(super) struct Begun {
    pub(super) status: StatusCode,
    pub(super) headers: Headers,
    pub(super) head: Bytes,
    pub(super) rest: ResponseBody,
}

/// How an attempt failed.
#[derive(Debug)]
pub(crate) struct AttemptError {
    pub(crate) progress: Progress,
    pub(crate) reason: String,
    /// The connection was refused: nothing was sent.
    pub(crate) refused: bool,
    /// What it says about the instance.
    pub(crate) outcome: Outcome,
    /// Trying again changes nothing.
    pub(crate) last: bool,
    /// The cluster does not let this node send it.
    pub(crate) withheld: bool,
}

/// The largest JSON answer that is turned into an event.
pub(super) const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// How long a call waits for a server that refuses connections: a restart takes about this long,
/// and the client sees a pause instead of an error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The same where a session can be moved to another instance.
pub(super) const SHORT_PATIENCE: Duration = Duration::from_millis(500);

/// Sends the call once, to an instance that was chosen at `since`. A Read that is silent there may be taken
/// back, for another one.
///
/// # Cancel safety
/// Dropped after the request was written, an HTTP instance sees the connection close; a duplex
/// forgets the call (and tells a modern server so).
pub(super) async fn send(
    call: &Call,
    route: &Route,
    since: Instant,
    tries: &mut Tries,
) -> Result<Reply, AttemptError> {
    match (&call.server.endpoint, &route.mux) {
        (Endpoint::Http(targets), _) if targets.len() > 1 && call.class == CallClass::Read => {
            let gone = call.server.fleet.gone(route.instance, since);
            let reason = tokio::select! {
                biased;
                sent = send_http(call, route) => return sent,
                () = gone => "its instance was given up while it was waited for",
                () = tries.leaves(call, route, since) => "its instance did not answer in time",
            };
            Err(AttemptError::sent(reason.to_owned()).with(Outcome::TimedOut))
        }
        (Endpoint::Http(_), _) => send_http(call, route).await,
        (Endpoint::Duplex(_), Some(mux)) if matches!(call.ids, Ids::Batch(_)) => {
            send_batch(call, mux).await
        }
        (Endpoint::Duplex(_), Some(mux)) => send_mux(call, route, mux).await,
        (Endpoint::Duplex(_), None) => Err(AttemptError::not_sent("no open connection".into())),
    }
}

// --- HTTP ---

async fn send_http(call: &Call, route: &Route) -> Result<Reply, AttemptError> {
    let outgoing = Outgoing {
        method: Method::POST,
        fields: call.headers.fields(),
        session: route.server_session(),
        body: state::unseal(call).unwrap_or_else(|| call.body.clone()),
    };
    let may_send = || call.goes_out();
    // A Read that meets the end of its connection is sent again.
    let look = if call.class == CallClass::Read { Look::Runtime } else { Look::Kernel };
    let gate = Gate { may_send: &may_send, look };
    let gateway = &call.gateway;
    let response = send_once(gateway, &call.server, route.instance, &outgoing, Some(gate)).await?;
    let is_stream = response.is_event_stream() && response.status.is_success();
    let (status, headers, body) = response.into_parts();
    if is_stream {
        let source = EventSource::Http(Box::new(HttpEvents::new(body)));
        return first_event(call, status, headers, source, route.clone()).await;
    }
    let limit = call.gateway.config.limits.answer_buffer;
    match body.collect(limit).await {
        Ok(Collected::Whole { body, lease }) if !status.is_success() => {
            lease.done();
            Ok(Reply::Whole(Box::new(Whole { status, headers, body })))
        }
        Ok(Collected::Whole { body, lease }) => {
            let Some(body) = addressed::answer(&body, &call.ids) else {
                // Whatever it is, the connection cannot be trusted with another request.
                let reason = format!("it answered {status} with no answer");
                return Err(AttemptError::sent(reason).with(Outcome::Garbled));
            };
            lease.done();
            Ok(Reply::Whole(Box::new(Whole { status, headers, body })))
        }
        Ok(Collected::Large { head, rest }) => {
            Ok(Reply::Large(Box::new(Begun { status, headers, head, rest })))
        }
        Err(error) => Err(AttemptError::sent(error.to_string())),
    }
}

/// Sends a request to one instance, once. `gate` is asked when there is a connection, before the
/// first byte.
pub(super) async fn send_once(
    gateway: &Gateway,
    server: &Server,
    instance: usize,
    outgoing: &Outgoing<'_>,
    gate: Option<Gate<'_>>,
) -> Result<upstream::Response, AttemptError> {
    let Endpoint::Http(targets) = &server.endpoint else {
        return Err(AttemptError::not_sent("the server is not reached over HTTP".into()));
    };
    let target = targets.get(instance).unwrap_or(&targets[0]);
    let timeout = server.settings.connect_timeout;
    match upstream::send(target, outgoing, timeout, &gateway.client_tls, gate).await {
        Ok(response) => Ok(response),
        Err(HttpError::NotSent(error)) => {
            server.metrics.connect_failures.inc();
            Err(AttemptError::refused(error.to_string()))
        }
        Err(HttpError::Withheld(reason)) => Err(AttemptError::withheld(reason)),
        Err(error @ HttpError::Unsent) => Err(AttemptError::not_sent(error.to_string())),
        Err(error @ (HttpError::Broken(_) | HttpError::Cut(_))) => {
            Err(AttemptError::sent(error.to_string()))
        }
    }
}

/// Sends a message of the gateway's own to the instance; while the connection is refused, to the
/// others where it is not bound to this one, and again until [`PATIENCE`] is over. Nothing is sent
/// twice: only what was never written is tried again.
pub(crate) async fn request_http(
    gateway: &Gateway,
    server: &Server,
    bound: bool,
    mut instance: usize,
    outgoing: Outgoing<'_>,
) -> Result<(upstream::Response, usize), AttemptError> {
    let instances = server.instances();
    let mut patience = Patience::new(bound && instances > 1);
    let mut tried = 0;
    loop {
        let error = match send_once(gateway, server, instance, &outgoing, None).await {
            Ok(response) => return Ok((response, instance)),
            Err(error) if error.refused => error,
            Err(error) => return Err(error),
        };
        tried += 1;
        // A session's state lives at its instance; everything else may go anywhere.
        if !bound && tried < instances {
            instance = (instance + 1) % instances;
            continue;
        }
        tried = 0;
        if !patience.wait().await {
            return Err(error);
        }
    }
}

/// How long an instance that refuses connections is asked again.
pub(super) struct Patience {
    until: Instant,
    backoff: Backoff,
}

impl Patience {
    /// `short`: there is another instance to move to, so less time is spent on one that is gone.
    pub(super) fn new(short: bool) -> Self {
        Self {
            until: Instant::now() + if short { SHORT_PATIENCE } else { PATIENCE },
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_millis(500)),
        }
    }

    /// Not beyond what a call has left.
    pub(super) fn by(self, deadline: Instant) -> Self {
        Self { until: self.until.min(Instant::now() + left(deadline)), ..self }
    }

    /// Of a call that has waited so long already: half as long again, and no less than [`PATIENCE`].
    pub(super) fn after(waited: Duration) -> Self {
        Self { until: Instant::now() + PATIENCE.max(waited / 2), ..Self::new(false) }
    }

    /// Waits before the next try; `false` if it is over.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn wait(&mut self) -> bool {
        let wait = self.backoff.next(random::u64());
        if Instant::now() + wait >= self.until {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}

/// Waits for a stream's first event: one that is the answer makes the stream a plain response.
async fn first_event(
    call: &Call,
    status: StatusCode,
    headers: Headers,
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
                return Ok(Reply::One(Box::new(One { status, headers, event })));
            }
            Ok(Reply::Events(Box::new(Events {
                headers,
                first: Some(event),
                source,
                route,
                attempt: None,
            })))
        }
        Err(End::Clean) => Err(AttemptError::sent("the stream ended before the answer".into())),
        Err(End::Broken(reason)) => Err(AttemptError::sent(reason)),
        Err(End::Cancelled) => Ok(Reply::Whole(Box::new(cancelled(call)))),
        Err(End::Unread) => Err(AttemptError::unread()),
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
        call.goes_out().map_err(AttemptError::withheld)?;
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
            Ok(Reply::Whole(Box::new(Whole { status, headers: json_headers(), body })))
        }
        Some(CallEvent::Message(data)) => {
            let headers = stream_headers();
            let first = Some(message(data));
            let source = EventSource::Mux(running);
            let route = route.clone();
            Ok(Reply::Events(Box::new(Events { headers, first, source, route, attempt: None })))
        }
        Some(CallEvent::Lost(reason)) => Err(AttemptError::sent(reason)),
        Some(CallEvent::Cancelled) => Ok(Reply::Whole(Box::new(cancelled(call)))),
        Some(CallEvent::Unread) => Err(AttemptError::unread()),
        None => Err(AttemptError::sent("the connection ended".into())),
    }
}

/// What ends the response to a call that its client has cancelled. Nobody waits for it, but HTTP wants
/// a body.
pub(super) fn cancelled(call: &Call) -> Whole {
    let error = RpcError::new(CANCELLED, "cancelled by the client");
    let body = crate::failure::render(&error, &call.ids);
    Whole { status: StatusCode::OK, headers: json_headers(), body }
}

/// As in other JSON-RPC protocols; outside the reserved range.
const CANCELLED: i64 = -32800;

/// A batch on a connection that takes one message at a time: its members one by one, their answers
/// together.
async fn send_batch(call: &Call, mux: &Arc<Mux>) -> Result<Reply, AttemptError> {
    call.goes_out().map_err(AttemptError::withheld)?;
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
    for mut member in running {
        let answer = loop {
            match member.next().await {
                Some(CallEvent::Response(answer)) => break Some(answer),
                Some(CallEvent::Message(_)) => {}
                // Nobody has a use for its answer; that is no failure of the server's, and the others have theirs.
                Some(CallEvent::Cancelled) => break None,
                Some(CallEvent::Lost(reason)) => return Err(AttemptError::sent(reason)),
                Some(CallEvent::Unread) => return Err(AttemptError::unread()),
                None => return Err(AttemptError::sent("the connection ended".into())),
            }
        };
        let Some(answer) = answer else { continue };
        if body.len() > 1 {
            body.put_u8(b',');
        }
        body.extend_from_slice(&answer);
    }
    if body.len() == 1 {
        return Ok(Reply::Whole(Box::new(cancelled(call))));
    }
    body.put_u8(b']');
    let whole = Whole { status: StatusCode::OK, headers: json_headers(), body: body.freeze() };
    Ok(Reply::Whole(Box::new(whole)))
}

/// The HTTP status that a modern client expects beside an error (2026-07-28 Base Protocol, "Error Codes"); legacy
/// errors come with 200.
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

pub(super) fn json_headers() -> Headers {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.into()
}

pub(super) fn stream_headers() -> Headers {
    let mut headers = HeaderMap::with_capacity(6);
    headers::as_stream(&mut headers);
    headers.into()
}

impl AttemptError {
    pub(super) fn not_sent(reason: String) -> Self {
        let (progress, outcome) = (Progress::NotSent, Outcome::Void);
        Self { progress, outcome, ..Self::sent(reason) }
    }

    pub(super) fn sent(reason: String) -> Self {
        let (progress, outcome) = (Progress::Sent, Outcome::Broken);
        Self { progress, reason, refused: false, withheld: false, outcome, last: false }
    }

    /// What the server said was not taken in time: that is this side's doing.
    fn unread() -> Self {
        Self::sent("what the server said was not taken in time".to_owned()).with(Outcome::Void)
    }

    /// There was no connection, so nothing was sent.
    pub(super) fn refused(reason: String) -> Self {
        let outcome = Outcome::Unreachable;
        Self { refused: true, outcome, ..Self::not_sent(reason) }
    }

    /// The cluster does not let this node send the call: it did not run.
    fn withheld(reason: String) -> Self {
        Self { withheld: true, ..Self::not_sent(reason) }
    }

    /// Whoever said this has been patient already, or means it.
    pub(super) fn last(self) -> Self {
        Self { last: true, ..self }
    }

    /// With another word for what it says about the instance.
    pub(super) fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_for_long_waits_half_as_long_again_for_its_turn() {
        for (waited, more) in [(0, 5), (9, 5), (10, 5), (60, 30)] {
            let before = Instant::now();
            let until = Patience::after(Duration::from_secs(waited)).until;
            let (least, most) = (until - Instant::now(), until - before);
            let more = Duration::from_secs(more);
            assert!(least <= more && more <= most, "after {waited} s: {least:?} to {most:?}");
        }
    }
}
