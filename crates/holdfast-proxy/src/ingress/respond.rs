//! From an answer to an HTTP response.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use holdfast_mcp::event_id::StreamKind;
use holdfast_mcp::method::Method;
use holdfast_mcp::sse;
use holdfast_store::StreamRecord;
use http::{HeaderMap, StatusCode};
use tokio_util::sync::CancellationToken;

use super::{HangUp, Recorded};
use crate::body::Body;
use crate::exchange::{Answer, Call, First, Large, One, Sink, Whole, headers, relay};
use crate::failure::Failure;
use crate::metrics::CallOutcome;
use crate::random;
use crate::response::Response;
use crate::session::Session;
use crate::streams::{NewLog, Origin, Reader, ReaderOptions, StreamLog};

/// Turns a call's first answer into the response.
///
/// # Errors
/// [`HangUp`] where nothing may be said.
pub(crate) async fn answer(
    call: &Arc<Call>,
    answer: Answer,
    connection: Option<&CancellationToken>,
) -> Result<Response, HangUp> {
    Ok(match answer {
        Answer::Whole(whole) => {
            let Whole { status, headers, body } = *whole;
            Response::new(status, headers, Body::full(body))
        }
        Answer::Large(large) => {
            let Large { status, headers, body } = *large;
            Response::new(status, headers, Body::Large(Box::new(body)))
        }
        Answer::One(one) => {
            let One { status, headers, event } = *one;
            let mut out = BytesMut::new();
            sse::encode(&event, &mut out);
            Response::new(status, headers, Body::full(out.freeze()))
        }
        Answer::Failed(failure) => super::json(StatusCode::OK, failure.render(&call.ids)),
        Answer::Moved => {
            let reason = "its session went to another node".to_owned();
            let failure = Failure::unavailable(&call.server.name, reason);
            call.fail(&failure);
            super::json(StatusCode::OK, failure.render(&call.ids))
        }
        Answer::HangUp => return Err(HangUp),
        Answer::Events(events) => {
            let mut kept = events.headers.clone();
            headers::as_stream(&mut kept);
            let events = ready(Answer::Events(events));
            let mut events = Survivor::new(Arc::clone(call), events);
            let log = Box::pin(new_log(call)).await;
            let Some(events) = events.take().map(Ready::into_inner) else { return Err(HangUp) };
            let reader = reader(call, &log, None, connection);
            let relay = relay(Arc::clone(call), First::Here(events), Sink::Log(log));
            let reader = reader.driving(relay);
            Response::new(StatusCode::OK, kept, Body::Stream(Box::new(reader)))
        }
    })
}

/// How long the head of a response may take to be written before the call is given up.
const BEGUN: Duration = Duration::from_secs(5);

/// The headers cannot wait any longer: the answer, whenever it comes, comes as a stream.
///
/// # Cancel safety
/// Until it returns, the work is what its [`Survivor`] makes of it.
pub(crate) async fn commit<W>(
    call: &Arc<Call>,
    mut work: Survivor<W>,
    patience: Duration,
    connection: Option<&CancellationToken>,
) -> Response
where
    W: Future<Output = Answer> + Send + Unpin + 'static,
{
    let log = Box::pin(new_log(call)).await;
    let work = work.take();
    let work = async move {
        match work {
            Some(work) => work.await,
            None => Answer::HangUp,
        }
    };
    relayed(call, log, within(Arc::clone(call), patience, work), connection)
}

/// The same for a call that is sent once the head of its response has been written: no balancer sends
/// the request again then.
///
/// # Cancel safety
/// Until it returns, the call has not begun, and does not run if it is dropped: without a head, a
/// balancer sends the request again, and it would run twice.
pub(crate) async fn commit_first(
    call: &Arc<Call>,
    work: impl Future<Output = Answer> + Send + 'static,
    patience: Duration,
    connection: Option<&CancellationToken>,
) -> Response {
    let mut unbegun = Unbegun(Some(call));
    let log = Box::pin(new_log(call)).await;
    unbegun.0 = None;
    let (own, begun) = (Arc::clone(call), Arc::clone(&log));
    let work = async move {
        match tokio::time::timeout(BEGUN, begun.begun()).await {
            Ok(()) => within(own, patience, work).await,
            Err(_) => Answer::Failed(not_begun(&own)),
        }
    };
    relayed(call, log, work, connection)
}

/// What comes within this time, or a failure.
async fn within(
    call: Arc<Call>,
    patience: Duration,
    work: impl Future<Output = Answer> + Send,
) -> Answer {
    if let Ok(first) = tokio::time::timeout(patience, work).await {
        return first;
    }
    let failure = call.timed_out(call.server.settings.timeout);
    call.fail(&failure);
    Answer::Failed(failure)
}

/// The response that follows the log of a call whose first answer is still to come.
fn relayed(
    call: &Arc<Call>,
    log: Arc<StreamLog>,
    first: impl Future<Output = Answer> + Send + 'static,
    connection: Option<&CancellationToken>,
) -> Response {
    let stream = follow(call, &log, None, connection);
    let first = First::Coming(Box::pin(first));
    tokio::spawn(relay(Arc::clone(call), first, Sink::Log(log)));
    self::stream(stream)
}

/// Its client is gone before its response began: it is not sent, and did not run.
fn not_begun(call: &Call) -> Failure {
    let reason = "the response could not be begun".to_owned();
    let failure = Failure::unavailable(&call.server.name, reason);
    call.fail(&failure);
    failure
}

/// A call that begins when its response has begun, and is counted as one that did not run if that never
/// comes.
struct Unbegun<'a>(Option<&'a Call>);

impl Drop for Unbegun<'_> {
    fn drop(&mut self) {
        match self.0 {
            Some(call) if call.modern() => call.settle(CallOutcome::Cancelled),
            Some(call) => drop(not_begun(call)),
            None => {}
        }
    }
}

/// Work that outlives its client where the protocol says so: a legacy client's disconnect is not a
/// cancellation, so dropping the survivor moves the work to a task of its own. A modern client's
/// disconnect is one, and the work is dropped.
pub(crate) struct Survivor<W>
where
    W: Future<Output = Answer> + Send + Unpin + 'static,
{
    call: Arc<Call>,
    work: Option<W>,
}

impl<W> Survivor<W>
where
    W: Future<Output = Answer> + Send + Unpin + 'static,
{
    pub(crate) fn new(call: Arc<Call>, work: W) -> Self {
        Self { call, work: Some(work) }
    }

    /// Its work, whose end is the caller's from here on.
    pub(crate) fn take(&mut self) -> Option<W> {
        self.work.take()
    }
}

impl<W> Future for Survivor<W>
where
    W: Future<Output = Answer> + Send + Unpin + 'static,
{
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let answer = std::task::ready!(Pin::new(work).poll(cx));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl<W> Drop for Survivor<W>
where
    W: Future<Output = Answer> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        if self.call.modern() {
            self.call.settle(CallOutcome::Cancelled);
        } else if !self.call.again || self.call.ticket.get().is_some() {
            finish_for_nobody(Arc::clone(&self.call), work);
        } else {
            // It goes on after a node was lost, and nothing keeps its answer: the server's stream is left
            // where it is, and who comes back takes it up once more.
            self.call.settle(CallOutcome::Cancelled);
        }
    }
}

/// A new stream for the call's answer. In a cluster its record is in the store before any of its event
/// ids goes out, so that every node can end it; without the record it has no ids.
async fn new_log(call: &Call) -> Arc<StreamLog> {
    let id = random::u128();
    let resumable = call.resumable && record(call, id).await;
    let bound = call.session.as_ref().map(|session| session.bound());
    let log = StreamLog::new(NewLog {
        id,
        progress: call.told,
        origin: Origin {
            principal: call.principal.digest,
            kind: StreamKind::Call,
            request_id: call.ids.one(),
            class: call.class.as_u8(),
            instance: bound.as_ref().map_or(0, |bound| bound.mark as u16),
            generation: bound.as_ref().map_or(1, |b| b.generation),
            server_session: bound.as_ref().and_then(|b| b.server_session_text().map(Into::into)),
        },
        sealer: resumable.then(|| Arc::clone(&call.gateway.sealer)),
        // The acknowledgement of a listen is the first thing its client may see.
        prime: resumable && call.method != Method::SubscriptionsListen,
        shared: call.gateway.cluster.is_some(),
        queue: call.gateway.config.limits.stream_queue,
        retain: call.gateway.config.streams.retain_bytes,
        cancel_after: call.modern().then_some(call.gateway.config.streams.modern_grace),
        metrics: Arc::clone(&call.gateway.metrics),
    });
    if log.resumable() {
        call.gateway.streams.insert(&log);
    }
    log
}

/// What the requests of recorded streams are sealed for.
pub(crate) const RECORDED: &[u8] = b"stream";

/// A longer request is recorded without its body, and is not repeated: sealing makes it a third
/// longer, and records hold 64 KiB.
const LARGEST_RECORDED: usize = 46 * 1024;

/// Writes down what another node needs to end the stream; whether that is done.
async fn record(call: &Call, stream: u128) -> bool {
    let gateway = &call.gateway;
    let Some(cluster) = &gateway.cluster else { return true };
    let whole = call.body.len() <= LARGEST_RECORDED;
    let record = StreamRecord {
        stream,
        owner: cluster.me(),
        principal: call.principal.digest,
        server: call.server.name.to_string(),
        session: call.session.as_ref().map(|session| session.key.0),
        class: call.class.as_u8(),
        body: whole.then(|| {
            let recorded = Recorded::of(&call.headers, &call.body);
            gateway.seal(RECORDED, &recorded.encode())
        }),
        journal: call.journal_key(),
        revision: 0,
    };
    let keep = gateway.keeps_record(&call.server);
    match gateway.patiently(|| gateway.store.put_stream(&record, keep)).await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "a stream cannot be resumed: it could not be recorded");
            false
        }
    }
}

/// A response body that follows a call's stream.
pub(crate) fn follow(
    call: &Call,
    log: &Arc<StreamLog>,
    after: Option<u64>,
    connection: Option<&CancellationToken>,
) -> Body {
    Body::Stream(Box::new(reader(call, log, after, connection)))
}

fn reader(
    call: &Call,
    log: &Arc<StreamLog>,
    after: Option<u64>,
    connection: Option<&CancellationToken>,
) -> Reader {
    let streams = &call.gateway.config.streams;
    Reader::new(
        Arc::clone(log),
        ReaderOptions {
            after,
            keepalive: streams.keepalive,
            rotate_after: None,
            retry: streams.retry,
            in_use: call.session.as_ref().map(|session| session.enter(call.gateway.clock)),
            gauge: call.gateway.metrics.streams.enter(),
            connection: connection.cloned(),
        },
    )
}

/// A response body that follows a session's standing stream.
pub(crate) fn stand(
    gateway: &crate::gateway::Gateway,
    session: &Arc<Session>,
    log: &Arc<StreamLog>,
    after: Option<u64>,
    connection: Option<&CancellationToken>,
) -> Body {
    let streams = &gateway.config.streams;
    let reader = Reader::new(
        Arc::clone(log),
        ReaderOptions {
            after,
            keepalive: streams.keepalive,
            rotate_after: Some(streams.rotate_after),
            retry: streams.retry,
            in_use: Some(session.enter(gateway.clock)),
            gauge: gateway.metrics.streams.enter(),
            connection: connection.cloned(),
        },
    );
    if reader.gap {
        gateway.metrics.stream_gaps.inc();
    }
    Body::Stream(Box::new(reader))
}

/// A response of ours that is an event stream.
pub(crate) fn stream(body: Body) -> Response {
    let mut headers = HeaderMap::with_capacity(4);
    headers::as_stream(&mut headers);
    Response::new(StatusCode::OK, headers, body)
}

/// An empty stream that carries one message and ends.
pub(crate) fn one_event(message: &[u8]) -> Response {
    let mut out = BytesMut::new();
    sse::encode_message(None, message, &mut out);
    stream(Body::full(out.freeze()))
}

/// Lets a legacy call that its client has left run to its end.
fn finish_for_nobody(call: Arc<Call>, work: impl Future<Output = Answer> + Send + 'static) {
    let deadline = call.server.settings.timeout;
    // The node waits for it when it drains: a call that may have an effect is not cut for nothing.
    let open = call.gateway.open.clone();
    open.spawn(async move {
        if let Ok(first) = tokio::time::timeout(deadline, work).await {
            relay(call, First::Here(first), Sink::Nobody).await;
        }
    });
}

#[cfg(test)]
mod tests;
