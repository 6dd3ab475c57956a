//! Opening sessions: for a client that initializes, again for one whose server forgot, and for
//! clients that send none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use holdfast_engine::balance::Set;
use holdfast_engine::repeat::MAX_ATTEMPTS;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::headers::name;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::sse;
use holdfast_mcp::version::Version;
use holdfast_store::{Announces, Binding, SessionKey, SessionRecord};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::attempt::{
    AttemptError, Patience, json_headers, request_http, send_once, stream_headers,
};
use super::tries::both;
use super::{Answer, Call, Whole, headers, judge};
use crate::cluster::Cluster;
use crate::failure::{Failure, FailureKind};
use crate::fleet::{Ask, Outcome, Why, left};
use crate::gateway::Gateway;
use crate::random;
use crate::server::Server;
use crate::session::{Bound, Session, TableError, Whereto, steering_key};
use crate::upstream::duplex::{self, OpenError};
use crate::upstream::events::HttpEvents;
use crate::upstream::http::{Collected, Fields, Outgoing};
use crate::upstream::mux::{CallEvent, Mux, Sharing};
use crate::upstream::{Endpoint, ServerSession};

/// A server's session, opened anew from a record.
pub(crate) struct Replayed {
    pub(crate) instance: usize,
    pub(crate) server_session: Option<ServerSession>,
    pub(crate) duplex: Option<(Arc<Mux>, mpsc::Receiver<Bytes>)>,
    pub(crate) version: Version,
    pub(crate) announces: Announces,
}

/// The answer to an `initialize`, in whichever form it came.
pub(super) struct Initialized {
    pub(super) whole: Whole,
    /// The JSON-RPC message itself.
    message: Bytes,
    /// The session, if client and server agreed on one.
    pub(super) replayed: Option<Replayed>,
}

/// Answers a client's `initialize` and begins its session.
pub(super) async fn initialize(call: &Arc<Call>) -> Answer {
    let gateway = &call.gateway;
    call.out.set(true);
    if let Err(full) = reserve(call) {
        gateway.metrics.sessions_refused.inc();
        let wait = Duration::from_secs(5);
        let failure = Failure::overloaded(&call.server.name, full.to_string(), wait);
        call.fail(&failure);
        return Answer::Failed(failure);
    }
    let mut reserved = Reserved { gateway, principal: Some(call.principal.digest) };
    let key = SessionKey(random::u128());
    let opening = Opening {
        gateway,
        server: &call.server,
        headers: &call.headers,
        body: &call.body,
        prefer: None,
        avoid: Set::default(),
        key: steering_key(key),
    };
    let opened = match opening.run().await {
        Ok(opened) => opened,
        Err(failure) => {
            call.fail(&failure);
            return Answer::Failed(failure);
        }
    };
    call.settle_with(&opened.message);
    let mut whole = opened.whole;
    if call.framed {
        // Only the message itself can be a frame.
        let body = opened.message.clone();
        whole = Whole { status: StatusCode::OK, headers: json_headers(), body };
    }
    let Some(replayed) = opened.replayed else { return Answer::whole(whole) };
    call.server.saw_version(replayed.version);
    if replayed.server_session.is_none() && replayed.duplex.is_none() {
        // A server without sessions: its client gets none from us either.
        return Answer::whole(whole);
    }
    let deadline = call.started + call.server.settings.timeout;
    let key = key_at(&call.server, replayed.instance, key);
    match begin(call, key, &call.body, replayed, false, deadline).await {
        Ok(session) => {
            reserved.principal = None;
            whole.headers.insert(name::SESSION_ID, session.id());
            gateway.metrics.sessions_created.inc();
            Answer::whole(whole)
        }
        Err(failure) => Answer::Failed(failure),
    }
}

/// Takes a place for a session of the caller's. An idle one of theirs that waits, at whichever server, for a
/// client without a session that may never call again is worth less, and gives way.
///
/// # Errors
/// [`TableError`]: all of theirs are in use.
pub(super) fn reserve(call: &Call) -> Result<(), TableError> {
    let (gateway, principal) = (&call.gateway, call.principal.digest);
    loop {
        let full = match gateway.sessions.reserve(principal, &gateway.config.limits) {
            Ok(()) => return Ok(()),
            Err(full) => full,
        };
        let idle = gateway.servers.iter().find_map(|it| it.take_oldest_implicit(principal));
        end_idle(gateway, idle.ok_or(full)?);
    }
}

/// Ends a session that waits for its next call. Its place is free at once, and what it has at the server and in
/// the store is taken down meanwhile.
pub(super) fn end_idle(gateway: &Arc<Gateway>, idle: Arc<Session>) {
    drop(gateway.begin_end(&idle, None));
}

/// A place in the session table, given back unless the session came to be.
pub(super) struct Reserved<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) principal: Option<u64>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(principal) = self.principal {
            self.gateway.sessions.release(principal);
        }
    }
}

/// Opens a server's session from a record: `initialize`, `notifications/initialized` and the log level as the
/// client once sent them, and its subscriptions, several side by side.
///
/// # Errors
/// [`Failure`]; the client's call did not run.
pub(crate) async fn replay(
    gateway: &Gateway,
    server: &Arc<Server>,
    record: &SessionRecord,
    live: &HeaderMap,
    whereto: Whereto,
) -> Result<Replayed, Failure> {
    match tokio::time::timeout(REPLAY, replay_unbounded(gateway, server, record, live, whereto))
        .await
    {
        Ok(done) => done,
        Err(_) => {
            let reason = format!("it did not open a session again within {} s", REPLAY.as_secs());
            Err(Failure::unavailable(&server.name, reason))
        }
    }
}

/// How long opening a session again may take in all.
const REPLAY: Duration = Duration::from_secs(60);

async fn replay_unbounded(
    gateway: &Gateway,
    server: &Arc<Server>,
    record: &SessionRecord,
    live: &HeaderMap,
    whereto: Whereto,
) -> Result<Replayed, Failure> {
    let unavailable = |reason: String| Failure::unavailable(&server.name, reason);
    let mut own = headers::for_own_message(live);
    own.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    own.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    own.remove(name::PROTOCOL_VERSION);
    let bound = server.fleet.place(record.binding.instance);
    let stays = whereto == Whereto::Same
        && bound.is_some_and(|bound| server.fleet.takes(bound, steering_key(record.key)));
    // A session that moves goes where all of its calls pass, if there is such a place.
    let mut avoid = if stays { Set::default() } else { server.fleet.ramping() };
    if let Some(left) = bound.filter(|_| !stays) {
        avoid.insert(left);
    }
    let opening = Opening {
        gateway,
        server,
        headers: &own,
        body: &record.initialize,
        prefer: bound.filter(|_| stays),
        avoid,
        key: steering_key(record.key),
    };
    let opened = opening.run().await?;
    let Some(replayed) = opened.replayed else {
        return Err(unavailable("it refused to open the session again".into()));
    };
    own.insert(name::PROTOCOL_VERSION, HeaderValue::from_static(replayed.version.as_str()));
    if let Some(session) = replayed.server_session.as_ref().and_then(ServerSession::to_header) {
        own.insert(name::SESSION_ID, session);
    }
    if record.initialized {
        repeat(gateway, server, &replayed, &own, Bytes::from_static(INITIALIZED), false).await;
    }
    if let Some(message) = &record.log_level {
        repeat(gateway, server, &replayed, &own, message.clone(), true).await;
    }
    let messages = (1..).zip(record.subscriptions.keys()).map(|(id, uri)| subscribe(id, uri));
    futures_util::stream::iter(messages)
        .for_each_concurrent(SIDE_BY_SIDE, |message| {
            repeat(gateway, server, &replayed, &own, message, true)
        })
        .await;
    Ok(replayed)
}

/// Subscriptions that are made again at once, when a session moves.
const SIDE_BY_SIDE: usize = 16;

/// A subscription as the gateway asks for it, under an id of its own. All that the client's said is what for.
pub(super) fn subscribe(id: usize, uri: &str) -> Bytes {
    let id = format!("holdfast-subscribe-{id}");
    let message = serde_json::json!({
        "jsonrpc": "2.0",
        "id": id,
        "method": "resources/subscribe",
        "params": { "uri": uri },
    });
    message.to_string().into()
}

pub(super) const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// Says one of the client's earlier messages again. A refusal is logged: the session is usable
/// without it.
async fn repeat(
    gateway: &Gateway,
    server: &Arc<Server>,
    replayed: &Replayed,
    headers: &HeaderMap,
    body: Bytes,
    expects_answer: bool,
) {
    let refused = match &replayed.duplex {
        Some((mux, _)) if expects_answer => match mux.call_with(body, false).await {
            Ok(mut running) => match running.next().await {
                Some(CallEvent::Response(answer)) => super::observe::is_rpc_error(&answer),
                _ => true,
            },
            Err(_) => true,
        },
        Some((mux, _)) => mux.tell(body).await.is_err(),
        None => {
            let outgoing = Outgoing {
                method: HttpMethod::POST,
                fields: Fields::Map(headers),
                session: None,
                body,
            };
            match request_http(gateway, server, true, replayed.instance, outgoing).await {
                Ok((response, _)) => {
                    let refused = !response.status.is_success();
                    // Read to the end, so that the server has done it before the call comes.
                    if let Ok(Collected::Whole { lease, .. }) =
                        response.body.collect(LARGEST_ANSWER).await
                    {
                        lease.done();
                    }
                    refused
                }
                Err(_) => true,
            }
        }
    };
    if refused {
        tracing::warn!(server = %server.name, "the server did not take a setting of a restored session");
    }
}

/// An `initialize` result larger than this is not kept whole.
pub(super) const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// An `initialize` on its way to one of a server's instances.
struct Opening<'a> {
    gateway: &'a Gateway,
    server: &'a Arc<Server>,
    headers: &'a HeaderMap,
    body: &'a Bytes,
    /// The instance that comes first.
    prefer: Option<usize>,
    /// Those that come last.
    avoid: Set,
    /// What a failover knows the session by.
    key: u64,
}

impl Opening<'_> {
    /// Opens a session: at the next instance where one refuses or fails, and again for a while where
    /// none can be reached. An `initialize` has no effect that matters twice.
    ///
    /// # Errors
    /// [`Failure`]; no session was opened.
    async fn run(&self) -> Result<Initialized, Failure> {
        let fleet = &self.server.fleet;
        let mut failed = self.avoid;
        let mut refused = Set::default();
        let (mut patience, mut turn) = (None, None);
        let (mut sent, mut first_round) = (0, true);
        loop {
            let opening = Ask::opening(turn.or(self.prefer), both(refused, failed));
            let ask = Ask { key: self.key, turn, ..opening };
            let attempt = match Box::pin(fleet.choose_in_line(&ask)).await {
                Ok(attempt) => attempt,
                Err(mut none) => {
                    if none.why == Why::Paused && fleet.pause_over().await.is_ok() {
                        continue;
                    }
                    let waited = patience.get_or_insert_with(|| Patience::new(false));
                    if none.may_be_over_soon && waited.wait().await {
                        continue;
                    }
                    if let Some(at) = none.turn_at.filter(|_| turn.is_none()) {
                        match fleet.turn(at, fleet.class_of(None)).await {
                            Ok(()) => {
                                turn = Some(at);
                                continue;
                            }
                            Err(wait) => none.retry_after = wait,
                        }
                    }
                    return Err(Failure::refused(&self.server.name, none));
                }
            };
            turn = None;
            let instance = attempt.instance();
            let error =
                match send(self.gateway, self.server, instance, self.headers, self.body).await {
                    Ok(opened) => {
                        attempt.settle(Outcome::Answered);
                        return Ok(opened);
                    }
                    Err(error) => error,
                };
            attempt.settle(if error.refused && !first_round {
                Outcome::Void
            } else {
                error.outcome
            });
            let failure = || Failure::unavailable(&self.server.name, error.reason.clone());
            if error.last {
                return Err(failure());
            }
            if !error.refused {
                sent += 1;
                failed.insert(instance);
                if sent >= MAX_ATTEMPTS {
                    return Err(failure());
                }
                continue;
            }
            refused.insert(instance);
            if fleet.has_more(both(refused, failed), self.key) {
                continue;
            }
            (refused, first_round) = (Set::default(), false);
            if !patience.get_or_insert_with(|| Patience::new(false)).wait().await {
                return Err(failure());
            }
        }
    }
}

/// Sends an `initialize` and reads its answer.
pub(super) async fn send(
    gateway: &Gateway,
    server: &Arc<Server>,
    instance: usize,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Initialized, AttemptError> {
    match &server.endpoint {
        Endpoint::Http(_) => {
            let method = HttpMethod::POST;
            let fields = Fields::Map(headers);
            let outgoing = Outgoing { method, fields, session: None, body: body.clone() };
            let response = send_once(gateway, server, instance, &outgoing, None).await?;
            let status = response.status;
            let server_session =
                response.session_id().filter(|_| status.is_success()).and_then(ServerSession::said);
            if server_session.is_some() {
                server.gives_sessions.store(true, Ordering::Relaxed);
            }
            let is_stream = response.is_event_stream() && status.is_success();
            let (status, kept, body) = response.into_parts();
            if is_stream {
                let events = HttpEvents::new(body);
                let (body, message) = whole_stream(events).await?;
                let mut headers = stream_headers();
                headers.extend(HeaderMap::clone(&kept));
                let whole = Whole { status, headers, body };
                let replayed = agreed(&message, instance, server_session, None);
                return Ok(Initialized { whole, message, replayed });
            }
            match body.collect(LARGEST_ANSWER).await {
                Ok(Collected::Whole { body, lease }) => {
                    lease.done();
                    let mut whole = Whole { status, headers: kept, body };
                    let own_limits = judge::has_own_limits(server, headers);
                    let outcome = judge::outcome_of(whole.status, &whole.headers, own_limits);
                    judge::judge_whole(&server.name, false, &mut whole)
                        .map_err(|failure| refused(failure, outcome))?;
                    let message = whole.body.clone();
                    let replayed = agreed(&message, instance, server_session, None);
                    Ok(Initialized { whole, message, replayed })
                }
                Ok(Collected::Large { .. }) => {
                    Err(AttemptError::sent("the answer to initialize is over 4 MiB".into()))
                }
                Err(error) => Err(AttemptError::sent(error.to_string())),
            }
        }
        Endpoint::Duplex(target) => {
            let (mux, unclaimed) = duplex(gateway, server, target, false)
                .await
                .map_err(|error| AttemptError::refused(error.to_string()).last())?;
            let mut running = mux
                .call_with(body.clone(), false)
                .await
                .map_err(|error| AttemptError::not_sent(error.to_string()))?;
            match running.next().await {
                Some(CallEvent::Response(body)) => {
                    let whole = Whole {
                        status: StatusCode::OK,
                        headers: json_headers(),
                        body: body.clone(),
                    };
                    let duplex = Some((mux, unclaimed));
                    let replayed = agreed(&body, 0, None, duplex);
                    Ok(Initialized { whole, message: body, replayed })
                }
                Some(CallEvent::Lost(reason)) => Err(AttemptError::sent(reason)),
                Some(CallEvent::Message(_) | CallEvent::Cancelled | CallEvent::Unread) | None => {
                    Err(AttemptError::sent("the connection ended before the answer".into()))
                }
            }
        }
    }
}

/// What a server's answer to `initialize` means that is none.
fn refused(failure: Failure, outcome: Outcome) -> AttemptError {
    let outcome = if outcome == Outcome::Answered { Outcome::Garbled } else { outcome };
    let error = AttemptError::sent(failure.reason).with(outcome);
    if failure.kind == FailureKind::OutcomeUnknown { error } else { error.last() }
}

/// Opens a duplex to a server; processes that fail to start are told apart from a wrong setting.
pub(super) async fn duplex(
    gateway: &Gateway,
    server: &Arc<Server>,
    target: &duplex::Target,
    shared: bool,
) -> Result<(Arc<Mux>, mpsc::Receiver<Bytes>), OpenError> {
    let metrics = &server.metrics;
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    // What dies as soon as it lives is given longer and longer before it is started again.
    if let Some(pause) = server.restarts.pause(std::time::Instant::now()) {
        if pause > super::PATIENCE {
            let after = server.restarts.describe();
            return Err(OpenError::Start { command: server.name.to_string(), reason: after });
        }
        tokio::time::sleep(pause).await;
    }
    let mut wait = Duration::from_millis(50);
    let opened = loop {
        match duplex::open(target, &server.headers).await {
            Ok(opened) => break opened,
            Err(error) => {
                metrics.connect_failures.inc();
                let over = tokio::time::Instant::now() + wait >= deadline;
                if error.is_misconfiguration() || over {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(500));
    };
    metrics.connects.inc();
    if matches!(target.way, duplex::Way::Stdio { .. }) {
        metrics.process_starts.inc();
    }
    watch_life(server, &opened, matches!(target.way, duplex::Way::Stdio { .. }));
    let sharing = if shared { Sharing::Shared } else { Sharing::Private };
    Ok(Mux::start(opened, sharing, gateway.mux_limits()))
}

/// Follows a connection to its end: counts its process, and remembers if it died young.
fn watch_life(server: &Arc<Server>, opened: &duplex::Duplex, is_process: bool) {
    let running = is_process.then(|| server.processes.enter());
    let mut closed = opened.closed.clone();
    let server = Arc::clone(server);
    let born = std::time::Instant::now();
    tokio::spawn(async move {
        let ending = closed.wait_for(Option::is_some).await.ok().and_then(|ending| ending.clone());
        drop(running);
        let Some(ending) = ending.filter(|ending| ending.exit().is_some() && !ending.by_gateway())
        else {
            return;
        };
        server.metrics.process_exits.inc();
        server.metrics.failed(&ending.to_string());
        tracing::warn!(server = %server.name, ending = %ending, "a server's process ended");
        server.restarts.ended(born, std::time::Instant::now(), &ending.to_string());
    });
}

/// Reads a stream up to the answer. Returns the events without their ids (they name a stream that
/// is over) and the answer itself.
pub(super) async fn whole_stream(mut events: HttpEvents) -> Result<(Bytes, Bytes), AttemptError> {
    let mut body = BytesMut::new();
    loop {
        let event = events
            .next()
            .await
            .map_err(|_| AttemptError::sent("the stream ended before the answer".into()))?;
        let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
        sse::encode_message(None, &data, &mut body);
        if body.len() > LARGEST_ANSWER {
            return Err(AttemptError::sent("the answer to initialize is over 4 MiB".into()));
        }
        if peek(&data).is_ok_and(|message| message.kind == Kind::Response) {
            super::attempt::finish_reading(crate::upstream::events::EventSource::Http(Box::new(
                events,
            )));
            return Ok((body.freeze(), data));
        }
    }
}

/// The session that client and server agreed on, if they did.
fn agreed(
    message: &[u8],
    instance: usize,
    server_session: Option<ServerSession>,
    duplex: Option<(Arc<Mux>, mpsc::Receiver<Bytes>)>,
) -> Option<Replayed> {
    let answer = peek(message).ok()?;
    if answer.kind != Kind::Response || answer.is_error {
        return None;
    }
    let version = answer.result.protocol_version.as_deref()?;
    let version = Version::parse(version).unwrap_or(Version::ASSUMED);
    Some(Replayed { instance, server_session, duplex, version, announces: announces(message) })
}

fn announces(message: &[u8]) -> Announces {
    #[derive(Deserialize, Default)]
    struct List {
        #[serde(default, rename = "listChanged")]
        list_changed: bool,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Capabilities {
        tools: Option<List>,
        prompts: Option<List>,
        resources: Option<List>,
    }
    #[derive(Deserialize)]
    struct Outcome {
        #[serde(default)]
        capabilities: Capabilities,
    }
    #[derive(Deserialize)]
    struct Message {
        result: Outcome,
    }
    let Ok(Message { result }) = serde_json::from_slice(message) else {
        return Announces::default();
    };
    let says = |list: Option<List>| list.is_some_and(|list| list.list_changed);
    let Capabilities { tools, prompts, resources } = result.capabilities;
    Announces { tools: says(tools), prompts: says(prompts), resources: says(resources) }
}

/// The key of a session that was opened at this instance: as drawn, unless that takes its calls back bit by bit.
/// Then its opening was of the share, and its calls are to be as well, on every node: another key is drawn.
pub(super) fn key_at(server: &Server, instance: usize, drawn: SessionKey) -> SessionKey {
    let fleet = &server.fleet;
    if fleet.is_of_share(instance, steering_key(drawn)) {
        return drawn;
    }
    let fits = |key: &SessionKey| {
        let key = steering_key(*key);
        fleet.is_of_share(instance, key) && !fleet.has_moved_on(instance, key)
    };
    std::iter::repeat_with(|| SessionKey(random::u128())).take(DRAWS).find(fits).unwrap_or(drawn)
}

/// One in a hundred keys fits the smallest share that can be configured.
const DRAWS: usize = 2000;

/// Writes the record and puts the living session into the table. One that is to be `lent` has the gateway for a
/// client, which has said that it is initialized.
pub(super) async fn begin(
    call: &Call,
    key: SessionKey,
    initialize: &[u8],
    replayed: Replayed,
    lent: bool,
    deadline: std::time::Instant,
) -> Result<Arc<Session>, Failure> {
    let gateway = &call.gateway;
    let mut record = blank(call, key, initialize, lent);
    record.version = replayed.version;
    record.announces = replayed.announces;
    record.binding = Binding {
        instance: call.server.fleet.mark(replayed.instance),
        server_session: replayed.server_session.as_ref().map(ServerSession::shared),
        generation: 1,
        node: gateway.holder_of(&call.server),
    };
    // Its client is to hear of the store, and not that its server gave no answer in time.
    let creating = gateway.patiently(|| gateway.store.create(record.clone()));
    let created = tokio::time::timeout(left(deadline), creating).await;
    let record = created.map_err(|_| "it took nothing in time".to_owned());
    let record = record.and_then(|it| it.map_err(|error| crate::failure::told(&error)));
    let record = record.map_err(|why| {
        Failure::dependency(&call.server.name, format!("the session could not be kept: {why}"))
    })?;
    let (mux, unclaimed) = replayed.duplex.unzip();
    let bound = Bound {
        mark: call.server.fleet.mark(replayed.instance),
        life: call.server.life.number,
        generation: 1,
        server_session: replayed.server_session,
        mux,
    };
    let server = Arc::clone(&call.server);
    let now = gateway.clock.now();
    let gauge = call.server.metrics.sessions.enter();
    let session = Session::new(record, server, bound, call.principal.clone(), gauge, now);
    if lent {
        session.set_lent();
    }
    gateway.sessions.insert(Arc::clone(&session));
    gateway.show_latest(&session);
    gateway.metrics.sessions.set(gateway.sessions.len());
    if let Some(unclaimed) = unclaimed {
        crate::session::feed_duplex(gateway, &session, unclaimed);
    }
    Ok(session)
}

pub(super) fn blank(
    call: &Call,
    key: SessionKey,
    initialize: &[u8],
    initialized: bool,
) -> SessionRecord {
    SessionRecord {
        key,
        principal: call.principal.digest,
        server: Arc::clone(&call.server.name),
        version: Version::V2025_11_25,
        // Of its own, or it would keep the buffer that it was read in.
        initialize: Bytes::copy_from_slice(initialize),
        initialized,
        log_level: None,
        subscriptions: std::collections::BTreeMap::new(),
        announces: Announces::default(),
        binding: Binding { instance: 0, server_session: None, generation: 0, node: None },
        notice: None,
        holder: gateway_of_client(call),
        created: crate::clock::unix_millis(),
        deadline: call.gateway.expires(),
        revision: 0,
    }
}

/// The node that holds the client, where its connection is the session: this one.
fn gateway_of_client(call: &Call) -> Option<Origin> {
    call.gateway.cluster.as_ref().filter(|_| call.framed).map(Cluster::me)
}
