//! A client that comes back with `Last-Event-ID`.
//!
//! The token says which stream, how far, for whom and about which request, so a stream's fate can
//! be told even when its log is gone: the server's own stream is taken up again where the token
//! names one, and otherwise the request ends in an error under its right id.
//!
//! In a cluster the stream may be another node's. Then its record says who supplies it: a living node
//! is followed, and what a dead one left is gone on with, repeated, or ended, by the rules of
//! [`holdfast_engine::journal::orphan`]. The client's response begins before any of that is known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_engine::class::CallClass;
use holdfast_engine::journal::{Orphan, orphan};
use holdfast_engine::replicated::Origin;
use holdfast_mcp::event_id::{EventId, StreamKind, TokenError};
use holdfast_mcp::method::Method;
use holdfast_mcp::version::Era;
use holdfast_store::StreamRecord;
use http::HeaderMap;
use http::request::Parts;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::cluster::{Forwarding, forward};
use crate::exchange::headers::ForServer;
use crate::exchange::{
    self, Answer, Call, Events, Fate, Guards, Ids, Route, headers, inherit, resume_at_server,
};
use crate::failure::Failure;
use crate::fleet::chance;
use crate::gateway::Gateway;
use crate::ingress::respond::Survivor;
use crate::ingress::{self, Before, Recorded, placement, respond, streamable};
use crate::principal::Principal;
use crate::response::{Headers, Response};
use crate::server::Server;
use crate::session::{Found, Session, find_patiently};

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
    pub(crate) connection: Option<&'a CancellationToken>,
    pub(crate) parts: &'a Parts,
    /// Whether another node has sent it here.
    pub(crate) forwarded: bool,
}

/// Whether a token is of a call's stream.
pub(crate) fn is_call(gateway: &Gateway, token: &[u8]) -> bool {
    gateway.cluster.is_some()
        && gateway.sealer.open(token).is_ok_and(|id| id.kind == StreamKind::Call)
}

/// Answers a resuming GET: with the rest of the stream, or with its fate.
///
/// # Errors
/// [`ResumeError`] if the token is not one of ours, or another principal's.
pub(crate) async fn resume(
    returning: &Returning<'_>,
    session: Option<&Arc<Session>>,
    token: &[u8],
) -> Result<Response, ResumeError> {
    let Returning { gateway, server, principal, connection, parts, forwarded } = *returning;
    let id = gateway.sealer.open(token)?;
    if id.principal != principal.digest {
        return Err(ResumeError::NotYours);
    }
    gateway.metrics.streams_resumed.inc();
    let known = gateway.streams.get(id.stream).filter(|log| log.belongs_to(principal.digest));
    match (id.kind, session) {
        (StreamKind::Standing, Some(session)) => {
            let open = session.standing().map(|open| open.log.id());
            let seq = (open == Some(id.stream)).then_some(id.seq);
            if seq.is_none() {
                gateway.metrics.stream_gaps.inc();
            }
            let bound = session.bound();
            let same = bound.server_session_text() == id.server_session.as_deref();
            let server_event = id.server_event.filter(|_| same);
            let after = streamable::After { seq, stream: (id.stream, id.seq), server_event };
            let own = parts.headers.clone();
            Ok(streamable::standing(gateway, session, own, Some(after), connection).await)
        }
        // A standing stream without its session has nothing to stand on.
        (StreamKind::Standing, None) => Err(ResumeError::NotYours),
        (StreamKind::Call, _) => {
            let call = call_of(gateway, server, principal, session, &id, &parts.headers);
            if let Some(log) = known {
                // What is gone was said on the way; the newest event, which is the answer once there
                // is one, is never forgotten.
                if !log.holds_after(id.seq) {
                    gateway.metrics.stream_gaps.inc();
                }
                let body = respond::follow(&call, &log, Some(id.seq), connection);
                return Ok(respond::stream(body));
            }
            if gateway.cluster.is_some() {
                let orphan = Orphaned {
                    gateway: Arc::clone(gateway),
                    server: Arc::clone(server),
                    principal: principal.clone(),
                    session: session.cloned(),
                    connection: connection.cloned(),
                    parts: parts.clone(),
                    forwarded,
                    call,
                    id,
                };
                let keepalive = gateway.config.streams.keepalive;
                return Ok(respond::stream(Body::later(keepalive, orphan.rest())));
            }
            gateway.metrics.stream_gaps.inc();
            Ok(fate(call, &id, connection).await)
        }
    }
}

/// A stream that is not of this node, on its way to its client.
struct Orphaned {
    gateway: Arc<Gateway>,
    server: Arc<Server>,
    principal: Principal,
    session: Option<Arc<Session>>,
    connection: Option<CancellationToken>,
    parts: Parts,
    /// Whether another node has sent it here, because its session is here.
    forwarded: bool,
    /// The call as far as the token knows it.
    call: Arc<Call>,
    id: EventId,
}

/// How long a node that supplies a stream and does not answer may take to be declared dead.
const UNTIL_DECLARED: Duration = Duration::from_secs(10);

/// How long a stream that another node has just taken is left to it.
const AGAIN: Duration = Duration::from_millis(100);

/// How often a stream is looked for anew because another node has just taken it.
const MOVES: usize = 4;

impl Orphaned {
    /// The rest of the stream, wherever it comes from.
    async fn rest(mut self) -> Body {
        for _ in 0..MOVES {
            let store = &self.gateway.store;
            let record = match self.gateway.patiently(|| store.stream(self.id.stream)).await {
                Ok(record) if self.owns(&record) => record,
                // Without a record nothing is known but what the token says.
                _ => break,
            };
            let Some(cluster) = &self.gateway.cluster else { break };
            let (me, owner) = (cluster.me(), record.owner);
            if owner != me && cluster.may_run(owner) {
                match self.follow(owner).await {
                    Some(body) => return body,
                    None => {
                        if cluster.fallen(owner, UNTIL_DECLARED).await {
                            continue;
                        }
                        // Without a quorum nobody says so: the client comes back for another try.
                        return Body::full(Bytes::new());
                    }
                }
            }
            // It is gone on with where its session is.
            match self.locate().await {
                Some(Found::At(holder)) if !self.forwarded => match self.follow(holder).await {
                    Some(body) => return body,
                    None if cluster.fallen(holder, UNTIL_DECLARED).await => continue,
                    None => return Body::full(Bytes::new()),
                },
                // Two nodes that know different things: the client comes back when they do not.
                Some(Found::At(_)) => return Body::full(Bytes::new()),
                Some(Found::Here(session)) => self.has(session),
                Some(Found::Unknown | Found::Untold(_)) | None => {}
            }
            match self.take_over(record, me).await {
                Some(body) => return body,
                None => tokio::time::sleep(AGAIN).await,
            }
        }
        self.gateway.metrics.stream_gaps.inc();
        // The server may still have the stream, for those who name its session.
        if self.session.is_none()
            && let Some(Found::Here(session)) = self.locate().await
        {
            self.has(session);
        }
        fate(Arc::clone(&self.call), &self.id, self.connection.as_ref()).await.body
    }

    /// The call is of this session.
    fn has(&mut self, session: Arc<Session>) {
        let (gateway, server) = (&self.gateway, &self.server);
        let (live, session_here) = (&self.parts.headers, Some(&session));
        self.call = call_of(gateway, server, &self.principal, session_here, &self.id, live);
        self.session = Some(session);
    }

    fn owns(&self, record: &StreamRecord) -> bool {
        record.principal == self.principal.digest && record.server == *self.server.name
    }

    /// Where the session of the call is, if it has one.
    async fn locate(&self) -> Option<Found> {
        let key = placement::named(&self.parts.headers)?;
        let (gateway, server, principal) = (&self.gateway, &self.server, &self.principal);
        Some(find_patiently(gateway, server, principal, key).await)
    }

    /// The stream as the node has it that supplies it, or goes on with it.
    async fn follow(&self, owner: Origin) -> Option<Body> {
        let forwarding = Forwarding {
            gateway: &self.gateway,
            principal: &self.principal,
            balancer_id: None,
            again: false,
            parts: &self.parts,
            body: Bytes::new(),
        };
        match forward(&forwarding, owner).await {
            Ok(response) if response.status.is_success() => Some(response.body),
            Ok(response) => {
                tracing::debug!(status = %response.status, "a stream's node does not know it");
                Some(Body::full(Bytes::new()))
            }
            Err(lost) => {
                tracing::debug!(%lost, "a stream's node was lost");
                None
            }
        }
    }

    /// Goes on with the stream of a node that is gone. `None`: another node was faster.
    async fn take_over(&self, mut record: StreamRecord, me: Origin) -> Option<Body> {
        record.owner = me;
        let keep = self.gateway.keeps_record(&self.server);
        let store = &self.gateway.store;
        if let Err(error) = self.gateway.patiently(|| store.take_stream(&record, keep)).await {
            tracing::debug!(%error, "a stream of a lost node was not taken over");
            return None;
        }
        let call = self.call_of(&record);
        tracing::info!(
            server = %self.server.name,
            class = call.class.label(),
            "a stream of a lost node is gone on with"
        );
        if let Some(key) = record.journal {
            match inherit(&call, key).await {
                Fate::Answered(answer) => return Some(respond::one_event(&answer).body),
                Fate::Mine => {}
                Fate::Denied(failure) => return Some(failed(&call, &failure)),
                Fate::Unknown => {
                    let reason = "the node that ran it was lost".to_owned();
                    return Some(failed(&call, &Failure::unknown(&self.server.name, reason)));
                }
            }
        }
        let id = self.id.clone();
        let work = Box::pin(gone_on_with(Arc::clone(&call), id));
        let work = Survivor::new(Arc::clone(&call), work);
        let patience = self.server.settings.timeout;
        Some(respond::commit(&call, work, patience, self.connection.as_ref()).await.body)
    }

    /// The call as its record has it; with its body it could be sent again.
    fn call_of(&self, record: &StreamRecord) -> Arc<Call> {
        let sealed = record.body.as_ref();
        let plain = sealed.and_then(|sealed| self.gateway.unseal(respond::RECORDED, sealed));
        let Some(recorded) = plain.and_then(|plain| Recorded::decode(&plain)) else {
            return Arc::clone(&self.call);
        };
        let headers = recorded.headers(headers::for_repeat(self.parts.headers.clone()));
        let (gateway, server, session) = (&self.gateway, &self.server, self.session.as_ref());
        let body = recorded.body;
        let before = Before { again: true, told: self.id.progress, ..Before::default() };
        ingress::received_before(gateway, server, &self.principal, headers, body, session, before)
            .unwrap_or_else(|| Arc::clone(&self.call))
    }
}

/// The rest of a stream whose call has failed.
fn failed(call: &Call, failure: &Failure) -> Body {
    call.fail(failure);
    respond::one_event(&failure.render(&call.ids)).body
}

/// Goes on with a call whose node is gone: at the server's own stream, by calling again, or not.
async fn gone_on_with(call: Arc<Call>, id: EventId) -> Answer {
    let resumed = match &id.server_event {
        Some(event) => resumed_at_server(&call, &id, event).await,
        None => None,
    };
    if let Some(answer) = resumed {
        return answer;
    }
    match orphan(call.class, false, call.is_latest()) {
        Orphan::Repeat if !call.body.is_empty() => exchange::first_answer(call).await,
        _ => {
            let reason = "the node that ran it was lost".to_owned();
            exchange::gave_up(&call, Failure::unknown(&call.server.name, reason))
        }
    }
}

/// The server's own stream, where it can be taken up.
async fn resumed_at_server(call: &Arc<Call>, id: &EventId, event: &str) -> Option<Answer> {
    let session = call.session.as_ref()?;
    let bound = session.bound();
    if bound.server_session_text() != id.server_session.as_deref() {
        return None;
    }
    let source = tokio::time::timeout(RESUMED_WITHIN, resume_at_server(call, &bound, event));
    let source = source.await.ok().flatten()?;
    let route = Route {
        session: Some(Arc::clone(session)),
        lent: None,
        instance: call.server.fleet.place(bound.mark)?,
        mux: None,
        bound: Some(bound),
    };
    Some(Answer::Events(Box::new(Events {
        headers: Headers::default(),
        first: None,
        source,
        route,
        attempt: None,
    })))
}

/// How long a server may take to say whether it still has a stream, behind the client's open one.
const RESUMED_WITHIN: Duration = Duration::from_secs(10);

/// The call that the token speaks of, as far as the token knows it.
fn call_of(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    principal: &Principal,
    session: Option<&Arc<Session>>,
    id: &EventId,
    live: &HeaderMap,
) -> Arc<Call> {
    Arc::new(Call {
        gateway: Arc::clone(gateway),
        server: Arc::clone(server),
        session: session.cloned(),
        steered_by: chance(),
        principal: principal.clone(),
        // Whether hanging up cancels it, its log knows; what is resumed without one is a legacy call.
        era: Era::Legacy,
        method: Method::Other,
        // The body is not here any more, so nothing can be sent again.
        class: CallClass::Write,
        ids: id.request_id.clone().map_or(Ids::None, Ids::One),
        headers: Arc::new(ForServer::once(live.clone(), server)),
        body: Bytes::new(),
        takes_stream: true,
        framed: false,
        resumable: true,
        number: 0,
        started: Instant::now(),
        balancer_id: None,
        again: true,
        told: id.progress,
        key: std::sync::OnceLock::new(),
        ticket: std::sync::OnceLock::new(),
        shelf: server.fleet.shelf_of(None),
        admitted: std::sync::OnceLock::new(),
        wanted: exchange::Wanted::default(),
        out: exchange::Out::default(),
        stands_in: false,
        _guards: Guards {
            _node: gateway.metrics.in_flight.enter(),
            _server: server.metrics.in_flight.enter(),
            _session: session.map(|session| session.enter(gateway.clock)),
        },
    })
}

/// How long a server may take to say whether it still has a stream.
const FATE_WITHIN: Duration = Duration::from_secs(2);

/// The rest of a stream whose log is gone.
async fn fate(call: Arc<Call>, id: &EventId, connection: Option<&CancellationToken>) -> Response {
    if let Some(event) = &id.server_event {
        // The client has no headers yet, and some give up on a stream that does not begin.
        let resumed = tokio::time::timeout(FATE_WITHIN, resumed_at_server(&call, id, event));
        if let Ok(Some(answer)) = resumed.await
            && let Ok(response) = respond::answer(&call, answer, connection).await
        {
            return response;
        }
    }
    let reason = "the gateway no longer has the stream".to_owned();
    let failure = Failure::unknown(&call.server.name, reason);
    // The call stands in for one that may have been a Read: its stream's ids say.
    match CallClass::from_u8(id.class) {
        CallClass::Write => call.fail(&failure),
        _ => {
            call.settle(failure.outcome());
            call.server.metrics.failed(&failure.reason);
        }
    }
    respond::one_event(&failure.render(&call.ids))
}
