//! A client that comes back with `Last-Event-ID`.
//!
//! The token says which stream, how far, for whom and about which request, so a stream's fate can
//! be told even when its log is gone: the server's own stream is taken up again where the token
//! names one, and otherwise the request ends in an error under its right id.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_engine::class::CallClass;
use holdfast_mcp::event_id::{EventId, StreamKind, TokenError};
use holdfast_mcp::method::Method;
use holdfast_mcp::version::Era;
use http::{HeaderMap, Response};
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::exchange::{Answer, Call, Events, Guards, Ids, Route, headers, resume_at_server};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::ingress::{respond, streamable};
use crate::principal::Principal;
use crate::server::Server;
use crate::session::Session;

/// Why a client cannot come back with this id. All are 404: nothing is told about streams that are
/// not the caller's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    #[error("this event id was not issued by the gateway ({0})")]
    Token(#[from] TokenError),
    #[error("this event id does not belong to a stream of yours")]
    NotYours,
}

/// The client that comes back, where it comes.
pub(crate) struct Returning<'a> {
    pub(crate) gateway: &'a Arc<Gateway>,
    pub(crate) server: &'a Arc<Server>,
    pub(crate) principal: &'a Principal,
    pub(crate) connection: &'a CancellationToken,
}

/// Answers a resuming GET: with the rest of the stream, or with its fate.
///
/// # Errors
/// [`ResumeError`] if the token is not one of ours, or another principal's.
pub(crate) async fn resume(
    returning: &Returning<'_>,
    session: Option<&Arc<Session>>,
    token: &[u8],
    client_headers: &HeaderMap,
) -> Result<Response<Body>, ResumeError> {
    let Returning { gateway, server, principal, connection } = *returning;
    let id = gateway.sealer.open(token)?;
    if id.principal != principal.digest {
        return Err(ResumeError::NotYours);
    }
    gateway.metrics.streams_resumed.inc();
    let live = headers::for_server(client_headers.clone(), server);
    let known = gateway.streams.get(id.stream).filter(|log| log.belongs_to(principal.digest));
    match (id.kind, session) {
        (StreamKind::Standing, Some(session)) => {
            let open = session.standing().as_ref().map(|open| open.log.id());
            let after = (open == Some(id.stream)).then_some(id.seq);
            if after.is_none() {
                gateway.metrics.stream_gaps.inc();
            }
            Ok(streamable::standing(gateway, session, live, after, connection).await)
        }
        // A standing stream without its session has nothing to stand on.
        (StreamKind::Standing, None) => Err(ResumeError::NotYours),
        (StreamKind::Call, _) => {
            let call = call_of(gateway, server, principal, session, &id, live);
            if let Some(log) = known {
                // What is gone was said on the way; the newest event, which is the answer once there
                // is one, is never forgotten.
                if !log.holds_after(id.seq) {
                    gateway.metrics.stream_gaps.inc();
                }
                let body = respond::follow(&call, &log, Some(id.seq), connection);
                return Ok(respond::stream(body));
            }
            gateway.metrics.stream_gaps.inc();
            Ok(fate(call, &id, connection).await)
        }
    }
}

/// The call that the token speaks of, as far as the token knows it.
fn call_of(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    principal: &Principal,
    session: Option<&Arc<Session>>,
    id: &EventId,
    headers: HeaderMap,
) -> Arc<Call> {
    Arc::new(Call {
        gateway: Arc::clone(gateway),
        server: Arc::clone(server),
        session: session.cloned(),
        principal: principal.clone(),
        // Whether hanging up cancels it, its log knows; what is resumed without one is a legacy call.
        era: Era::Legacy,
        method: Method::Other,
        // The body is not here any more, so nothing can be sent again.
        class: CallClass::Write,
        ids: id.request_id.clone().map_or(Ids::None, Ids::One),
        headers,
        body: Bytes::new(),
        takes_stream: true,
        framed: false,
        resumable: true,
        number: 0,
        started: Instant::now(),
        _guards: Guards {
            _node: gateway.metrics.in_flight.enter(),
            _server: gateway.metrics.server(server.index).in_flight.enter(),
            _session: session.map(|session| session.enter(gateway.clock)),
        },
    })
}

/// How long a server may take to say whether it still has a stream.
const FATE_WITHIN: Duration = Duration::from_secs(2);

/// The rest of a stream whose log is gone.
async fn fate(call: Arc<Call>, id: &EventId, connection: &CancellationToken) -> Response<Body> {
    if let (Some(session), Some(event)) = (&call.session, &id.server_event) {
        let bound = session.bound();
        let same = bound.server_session_text() == id.server_session.as_deref();
        // The client has no headers yet, and some give up on a stream that does not begin.
        let source = tokio::time::timeout(FATE_WITHIN, async {
            if same { resume_at_server(&call, &bound, event).await } else { None }
        });
        if let Ok(Some(source)) = source.await {
            let route = Route {
                session: Some(Arc::clone(session)),
                _borrowed: None,
                instance: bound.instance,
                mux: None,
                bound: Some(bound),
            };
            let events = Events { headers: HeaderMap::new(), first: None, source, route };
            let answer = respond::answer(&call, Answer::Events(Box::new(events)), connection);
            if let Ok(response) = answer {
                return response;
            }
        }
    }
    let reason = "the gateway no longer has the stream".to_owned();
    let failure = Failure::unknown(&call.server.name, reason);
    call.fail(&failure);
    respond::one_event(&failure.render(&call.ids))
}
