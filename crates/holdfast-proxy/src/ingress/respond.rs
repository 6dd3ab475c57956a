//! From an answer to an HTTP response.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use holdfast_mcp::event_id::StreamKind;
use holdfast_mcp::method::Method;
use holdfast_mcp::sse;
use holdfast_store::StreamRecord;
use http::{HeaderMap, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::{HangUp, Recorded};
use crate::body::Body;
use crate::exchange::{Answer, Call, First, Sink, headers, relay};
use crate::failure::Failure;
use crate::random;
use crate::session::Session;
use crate::streams::{NewLog, Origin, Reader, ReaderOptions, StreamLog};

/// Turns a call's first answer into the response.
///
/// # Errors
/// [`HangUp`] where nothing may be said.
pub(crate) async fn answer(
    call: &Arc<Call>,
    answer: Answer,
    connection: &CancellationToken,
) -> Result<Response<Body>, HangUp> {
    Ok(match answer {
        Answer::Whole(whole) => build(whole.status, whole.headers, Body::full(whole.body)),
        Answer::Large(large) => {
            build(large.status, large.headers, Body::rest(large.head, large.rest))
        }
        Answer::One { status, headers, event } => {
            let mut out = BytesMut::new();
            sse::encode(&event, &mut out);
            build(status, headers, Body::full(out.freeze()))
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
            let log = Box::pin(new_log(call)).await;
            let reader = reader(call, &log, None, connection);
            let first = First::Here(Answer::Events(events));
            let reader = reader.driving(relay(Arc::clone(call), first, Sink::Log(log)));
            build(StatusCode::OK, kept, Body::Stream(Box::new(reader)))
        }
    })
}

/// When the work for a response begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begins {
    /// It has begun, or may.
    Meanwhile,
    /// Once the head of the response has been written: no balancer sends the request again then.
    First,
}

/// How long the head of a response may take to be written before the call is given up.
const BEGUN: Duration = Duration::from_secs(5);

/// The headers cannot wait any longer: the answer, whenever it comes, comes as a stream.
///
/// # Cancel safety
/// The work is dropped with it, until it returns.
pub(crate) async fn commit(
    call: &Arc<Call>,
    work: impl Future<Output = Answer> + Send + 'static,
    begins: Begins,
    patience: Duration,
    connection: &CancellationToken,
) -> Response<Body> {
    let log = Box::pin(new_log(call)).await;
    let stream = follow(call, &log, None, connection);
    let (own, begun) = (Arc::clone(call), Arc::clone(&log));
    let first = First::Coming(Box::pin(async move {
        let failure = if begins == Begins::First
            && tokio::time::timeout(BEGUN, begun.begun()).await.is_err()
        {
            // Its client is gone before it began: it is not sent, and did not run.
            let reason = "the response could not be begun".to_owned();
            Failure::unavailable(&own.server.name, reason)
        } else if let Ok(first) = tokio::time::timeout(patience, work).await {
            return first;
        } else {
            Failure::timed_out(&own.server.name, own.server.settings.timeout)
        };
        own.fail(&failure);
        Answer::Failed(failure)
    }));
    tokio::spawn(relay(Arc::clone(call), first, Sink::Log(log)));
    self::stream(stream)
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
    connection: &CancellationToken,
) -> Body {
    Body::Stream(Box::new(reader(call, log, after, connection)))
}

fn reader(
    call: &Call,
    log: &Arc<StreamLog>,
    after: Option<u64>,
    connection: &CancellationToken,
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
            connection: Some(connection.clone()),
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

pub(crate) fn build(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A response of ours that is an event stream.
pub(crate) fn stream(body: Body) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(4);
    headers::as_stream(&mut headers);
    build(StatusCode::OK, headers, body)
}

/// An empty stream that carries one message and ends.
pub(crate) fn one_event(message: &[u8]) -> Response<Body> {
    let mut out = BytesMut::new();
    sse::encode_message(None, message, &mut out);
    stream(Body::full(out.freeze()))
}

/// Lets a legacy call that its client has left run to its end.
pub(crate) fn finish_for_nobody(
    call: Arc<Call>,
    work: impl Future<Output = Answer> + Send + 'static,
) {
    let deadline = call.server.settings.timeout;
    // The node waits for it when it drains: a call that may have an effect is not cut for nothing.
    let open = call.gateway.open.clone();
    open.spawn(async move {
        if let Ok(first) = tokio::time::timeout(deadline, work).await {
            relay(call, First::Here(first), Sink::Nobody).await;
        }
    });
}
