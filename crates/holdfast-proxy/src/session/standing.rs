//! The standing stream of a session: what a server says outside of any call.
//!
//! One stream per binding is open at the server and owned by the gateway; the client's newest GET
//! reads it. The two ends move independently. A client that comes back continues where it was; a
//! server's stream that breaks is opened again behind the client's open one; and after a gap that
//! cannot be resumed the client is told what it may have missed: `list_changed` for the lists that
//! the server announces, and `resources/updated` for what it subscribed to.
//!
//! Nothing of it outlives the session: what opens a stream looks whether the session has ended
//! under the lock under which its end takes the stream away.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::backoff::Backoff;
use holdfast_engine::class::CallClass;
use holdfast_mcp::event_id::StreamKind;
use holdfast_mcp::headers::name;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, outline};
use holdfast_store::SessionKey;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode};
use tokio::sync::mpsc;

use super::{Bound, Session, Whereto, notice, reestablish};
use crate::cluster::{Released, ask_to_release};
use crate::exchange::{self, Whole, own};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::ingress::streamable::After;
use crate::random;
use crate::response::Headers;
use crate::server::Server;
use crate::spliced;
use crate::streams::{LogState, NewLog, Origin, StreamLog};
use crate::upstream::events::{End, HttpEvents};
use crate::upstream::http::{Collected, Fields, Outgoing};

/// A session's standing stream.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) log: Arc<StreamLog>,
}

impl Standing {
    pub(super) fn is_open(&self) -> bool {
        self.log.state() != LogState::Complete
    }

    /// From here on it belongs to another binding.
    fn rebind(&self, bound: &Bound) {
        let server_session = bound.server_session_text().map(Into::into);
        self.log.rebind(bound.mark as u16, bound.generation, server_session);
    }

    /// Ends it for good: its readers end, and whoever supplies it stops.
    pub(crate) fn end(&self, gateway: &Gateway) {
        self.log.cancel.cancel();
        self.log.finish();
        gateway.streams.remove(self.log.id());
    }
}

/// What a client's GET gets.
pub(crate) enum Opened {
    Stream(Arc<Standing>),
    /// The server's own refusal (405 where it has no such stream).
    Refused(Whole),
}

/// What the server answered to our GET.
enum Got {
    Stream(Box<HttpEvents>),
    /// Another stream of the session is still open there.
    Busy,
    Lost,
    Refused(Whole),
    /// It has said nothing for [`SILENCE`].
    Silent,
    Unreachable,
}

/// Within this time those whose clients listen follow a failover, not all at the same moment.
pub(crate) const FOLLOWS_WITHIN: Duration = Duration::from_millis(500);

/// How long a server's stream that ended is left alone, where the server does not say.
const REOPEN: Duration = Duration::from_millis(500);

/// The session's standing stream, opened at the server if it is not yet. `own`: the client's headers as they
/// came; what the configuration adds to them, it adds each time the server is asked.
///
/// # Errors
/// [`Failure`] if the session cannot be established at its server.
///
/// # Cancel safety
/// A stream that was just opened at the server is closed again.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    own: HeaderMap,
    after: Option<&After>,
) -> Result<Opened, Failure> {
    let _one_at_a_time = session.made_rare().opening.lock().await;
    if gateway.draining.is_cancelled() {
        return Err(Failure::restarting(&session.server().name));
    }
    let ended = || Failure::unavailable(&session.server().name, "the session has ended".into());
    if session.is_stopped() {
        return Err(ended());
    }
    let server = gateway.server_of(session);
    if server.is_duplex() {
        // Its messages have been logged since the session began, unless its process is gone.
        let bound = session.bound();
        if !bound.is_usable(&server) {
            let live = exchange::headers::for_server(own, &server);
            reestablish(gateway, session, &bound, &live, Whereto::Same).await?;
        }
        return session.standing().map(Opened::Stream).ok_or_else(|| {
            Failure::unavailable(&session.server().name, "the connection ended".into())
        });
    }
    if let Some(open) = session.standing().filter(|open| open.is_open()) {
        return Ok(Opened::Stream(open));
    }
    if session.streamless.load(Ordering::Relaxed) {
        return Ok(Opened::Refused(no_stream()));
    }
    // Another node may have it: what it had of it is taken over, and where it was lost with its node
    // the client's own event id says how far the server's stream had come.
    let stream = after.map(|after| after.stream);
    let released = ask_to_release(gateway, session.key, stream).await;
    let here = session.bound().generation;
    let last: Option<Box<str>> = match &released {
        Some(had) if had.generation == here => had.server_event.as_deref().map(Into::into),
        Some(_) => None,
        None => after.and_then(|after| after.server_event.clone()),
    };
    // The server's answer decides between a stream and its refusal; one that says nothing until it
    // has an event is waited for behind the client's open stream.
    let own = exchange::headers::kept(&own);
    let asked = session.server();
    let get = first_get(Arc::clone(gateway), Arc::clone(session), own.clone(), last.clone());
    let mut first = Box::pin(get);
    let got = tokio::select! {
        got = tokio::time::timeout(FIRST_ANSWER, &mut first) => got,
        () = session.ended().cancelled() => return Err(ended()),
    };
    let first: First = match got {
        Ok((Got::Refused(whole), _)) => return Ok(Opened::Refused(whole)),
        Ok(got) => Box::pin(std::future::ready(got)),
        Err(_) => first,
    };
    let bound = session.bound();
    let opened = stand(gateway, session, &bound).ok_or_else(ended)?;
    if let Some(event) = &last {
        opened.log.note_server_event(event);
    }
    for message in released.iter().flat_map(|had| &had.missed) {
        opened.log.try_append(&Bytes::copy_from_slice(message));
    }
    let whole = released.as_ref().is_some_and(|had| had.whole);
    if gateway.cluster.is_some() && after.is_some() && last.is_none() && !whole {
        tell_gap(session, &opened.log);
    }
    notice::tell_listener(gateway, session);
    let feed = Feed {
        gateway: Arc::clone(gateway),
        session: Arc::clone(session),
        log: Arc::clone(&opened.log),
        own,
        asked,
        bound,
    };
    tokio::spawn(feed.run(first));
    Ok(Opened::Stream(opened))
}

/// The answer to the first GET, perhaps still to come, and the binding that it was asked of.
type First = Pin<Box<dyn Future<Output = (Got, Arc<Bound>)> + Send>>;

/// How long a client's GET waits for what the server says to ours.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// How long a server may leave a GET without an answer before it is asked again: it may be frozen.
const SILENCE: Duration = Duration::from_secs(30);

async fn first_get(
    gateway: Arc<Gateway>,
    session: Arc<Session>,
    own: HeaderMap,
    last: Option<Box<str>>,
) -> (Got, Arc<Bound>) {
    let bound = session.bound();
    let got = get(&gateway, &session, &bound, &own, last.as_deref()).await;
    if !matches!(got, Got::Lost) {
        return (got, bound);
    }
    let live = exchange::headers::for_server(own.clone(), &session.server());
    let Ok(bound) = reestablish(&gateway, &session, &bound, &live, Whereto::Same).await else {
        return (Got::Unreachable, bound);
    };
    match get(&gateway, &session, &bound, &own, None).await {
        // A session that has just been opened is known: the server means the stream. It is not
        // asked again, because each time would cost the client the session's state there.
        Got::Lost => {
            session.streamless.store(true, Ordering::Relaxed);
            (Got::Refused(no_stream()), bound)
        }
        got => (got, bound),
    }
}

/// The answer of a server without standing streams.
fn no_stream() -> Whole {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Whole { status, headers: Headers::default(), body: Bytes::new() }
}

/// Gives the session a standing stream; the one that it has, if that is still open. `None`: the
/// session has ended, or the node drains.
fn stand(gateway: &Gateway, session: &Session, bound: &Bound) -> Option<Arc<Standing>> {
    let mut standing = session.made_rare().standing();
    if session.is_stopped() || gateway.draining.is_cancelled() {
        return None;
    }
    if let Some(open) = standing.as_ref().filter(|open| open.is_open()) {
        return Some(Arc::clone(open));
    }
    let opened = Arc::new(Standing { log: new_log(gateway, session, bound) });
    *standing = Some(Arc::clone(&opened));
    Some(opened)
}

fn new_log(gateway: &Gateway, session: &Session, bound: &Bound) -> Arc<StreamLog> {
    let log = StreamLog::new(NewLog {
        id: random::u128(),
        progress: None,
        origin: Origin {
            principal: session.principal(),
            kind: StreamKind::Standing,
            request_id: None,
            class: CallClass::Read.as_u8(),
            instance: bound.mark as u16,
            generation: bound.generation,
            server_session: bound.server_session_text().map(Into::into),
        },
        sealer: Some(Arc::clone(&gateway.sealer)),
        prime: session.version.can_resume_polling(),
        shared: gateway.cluster.is_some(),
        queue: gateway.config.limits.stream_queue,
        retain: gateway.config.streams.retain_bytes,
        cancel_after: None,
        metrics: Arc::clone(&gateway.metrics),
    });
    gateway.streams.insert(&log);
    log
}

/// Gives up the standing stream of a session whose client is at another node now; what there was
/// of it.
pub(crate) fn release(
    gateway: &Gateway,
    key: SessionKey,
    stream: Option<(u128, u64)>,
) -> Option<Released> {
    let session = gateway.sessions.look(key).filter(|session| !session.server().is_duplex())?;
    let standing = session.take_standing(|_| true)?;
    let log = &standing.log;
    let seen = stream.filter(|(stream, _)| *stream == log.id()).map(|(_, seq)| seq);
    let (missed, whole) = log.messages_after(seen);
    let server_event = log.server_event().map(String::from);
    standing.end(gateway);
    Some(Released { missed, whole, server_event, generation: session.bound().generation })
}

/// Starts reading what a private duplex says outside of calls.
pub(crate) fn feed_duplex(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    mut unclaimed: mpsc::Receiver<Bytes>,
) {
    let bound = session.bound();
    let Some(standing) = stand(gateway, session, &bound) else { return };
    let log = Arc::clone(&standing.log);
    let (generation, mux) = (bound.generation, bound.mux.as_ref().map(Arc::downgrade));
    let session = Arc::clone(session);
    tokio::spawn(async move {
        // The session holds the duplex: waiting for that alone, the task would keep both for ever.
        while let Some(data) = tokio::select! {
            data = unclaimed.recv() => data,
            () = session.ended().cancelled() => None,
        } {
            // A session that is lent has no client who could answer, now or later.
            let lent = session.is_lent();
            let own = if lent { own::reply(&data) } else { own::pong_for_nobody(&log, &data) };
            if let Some(own) = own {
                if let Some(mux) = mux.as_ref().and_then(Weak::upgrade) {
                    mux.reply(own);
                }
                continue;
            }
            let data = admit(&session, data, generation);
            // A client that does not listen must not hold up the server's answers to its calls.
            if !log.try_append(&data) {
                tracing::debug!(session = ?session.key, "standing stream full, message dropped");
            }
        }
    });
}

/// The session is bound anew: the standing stream goes on from the new binding.
pub(super) fn rebound(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    bound: &Bound,
    unclaimed: Option<mpsc::Receiver<Bytes>>,
) {
    let standing = session.standing();
    if let Some(standing) = standing {
        standing.rebind(bound);
        take_back(session, &standing.log);
        // An HTTP server's stream is opened after this; what was missed is told when it is open.
        if session.server().is_duplex() {
            tell_gap(session, &standing.log);
        }
    }
    if let Some(unclaimed) = unclaimed {
        feed_duplex(gateway, session, unclaimed);
    }
    session.tell_rebound();
}

/// Takes back what the lost server had asked the client.
fn take_back(session: &Session, log: &StreamLog) {
    for id in session.take_outstanding() {
        log.try_append(&Bytes::from(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"the server's session was lost"}}}}"#
        )));
    }
}

/// Tells the client what it may have missed.
fn tell_gap(session: &Session, log: &StreamLog) {
    let record = session.record();
    let announces = record.announces;
    for (announced, list) in [
        (announces.tools, "tools"),
        (announces.prompts, "prompts"),
        (announces.resources, "resources"),
    ] {
        if announced {
            let method = format!("notifications/{list}/list_changed");
            log.try_append(&Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#)));
        }
    }
    for uri in record.subscriptions.keys() {
        let message = serde_json::json!({
            "jsonrpc": "2.0",
            "method": "notifications/resources/updated",
            "params": { "uri": uri },
        });
        log.try_append(&message.to_string().into());
    }
}

/// A server's message on its way to the client: its ids belong to this generation.
fn admit(session: &Session, data: Bytes, generation: u32) -> Bytes {
    let Ok(message) = outline(&data) else { return data };
    if message.kind == Kind::Notification {
        exchange::forget(&session.server(), &message.method);
    }
    let asks = message.kind == Kind::Request;
    let takes_back =
        message.kind == Kind::Notification && Method::parse(&message.method) == Method::Cancelled;
    if asks && let Some(id) = message.id {
        session.asked(&spliced::client_id(id.as_str(), generation));
    }
    if asks || takes_back { spliced::for_client(data, generation) } else { data }
}

async fn get(
    gateway: &Gateway,
    session: &Session,
    bound: &Bound,
    own: &HeaderMap,
    last_event: Option<&str>,
) -> Got {
    let server = session.server();
    // An instance that the configuration has no more has the session no more.
    let Some(instance) = server.fleet.place(bound.mark) else { return Got::Lost };
    let live = exchange::headers::for_server(own.clone(), &server);
    let mut headers = exchange::headers::for_own_message(&live);
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    headers.insert(name::PROTOCOL_VERSION, HeaderValue::from_static(session.version.as_str()));
    if let Some(last) = last_event.and_then(|event| HeaderValue::from_str(event).ok()) {
        headers.insert(name::LAST_EVENT_ID, last);
    }
    let outgoing = Outgoing {
        method: HttpMethod::GET,
        fields: Fields::Map(&headers),
        session: bound.server_session.clone(),
        body: Bytes::new(),
    };
    let sent = exchange::request_http(gateway, &server, true, instance, outgoing);
    let response = match tokio::time::timeout(SILENCE, sent).await {
        Ok(Ok((response, _))) => response,
        Ok(Err(_)) => return Got::Unreachable,
        Err(_) => return Got::Silent,
    };
    let status = response.status;
    if status.is_success() && response.is_event_stream() {
        return Got::Stream(Box::new(HttpEvents::new(response.body)));
    }
    if status == StatusCode::CONFLICT {
        return Got::Busy;
    }
    if status.is_server_error() {
        return Got::Unreachable;
    }
    let (status, headers, body) = response.into_parts();
    let body = match tokio::time::timeout(SILENCE, body.collect(64 * 1024)).await {
        Ok(Ok(Collected::Whole { body, lease })) => {
            lease.done();
            body
        }
        _ => Bytes::new(),
    };
    let mut refusal = Whole { status, headers, body };
    if refusal.says_lost(bound.server_session.is_some(), false).is_some() {
        return Got::Lost;
    }
    if status.is_success() {
        // A success that is no stream is a server without one.
        refusal.status = StatusCode::METHOD_NOT_ALLOWED;
    }
    Got::Refused(refusal)
}

/// Keeps a log supplied from the server's GET stream, across breaks and new bindings.
struct Feed {
    gateway: Arc<Gateway>,
    session: Arc<Session>,
    log: Arc<StreamLog>,
    /// The client's own headers: the server's are its configuration's of the time.
    own: HeaderMap,
    /// The server as it was when it was asked for the stream that is read.
    asked: Arc<Server>,
    bound: Arc<Bound>,
}

impl Feed {
    async fn run(mut self, first: First) {
        let cancelled = self.log.cancel.clone();
        let ended = self.session.ended().clone();
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = ended.cancelled() => {}
            () = self.feed(first) => {}
        }
        self.log.finish();
        if ended.is_cancelled() {
            self.gateway.streams.remove(self.log.id());
        } else {
            self.gateway.streams.retire(&self.log);
        }
    }

    async fn feed(&mut self, first: First) {
        let (got, bound) = first.await;
        self.bound = bound;
        let mut events = match got {
            Got::Stream(open) => Some(open),
            Got::Refused(_) => return,
            // Behind the client's open stream there is time to try again.
            Got::Busy | Got::Lost | Got::Silent | Got::Unreachable => None,
        };
        let mut backoff = Backoff::new(REOPEN, Duration::from_secs(15));
        let mut retry = None;
        // Whether the server has ever given this session a stream.
        let mut given = events.is_some();
        // The generation that a lost session was replaced with.
        let mut renewed = None;
        let mut pause = events.is_none();
        loop {
            if let Some(mut open) = events.take() {
                pause = self.after(&mut open, &mut retry, &mut backoff).await;
            }
            if pause {
                tokio::time::sleep(backoff.next(random::u64())).await;
            }
            if self.session.bound().generation != self.bound.generation {
                self.bound = self.session.bound();
                // The old server's events mean nothing to the new one.
                Standing { log: Arc::clone(&self.log) }.rebind(&self.bound);
            } else if self.has_moved_on() {
                pause = !self.goes_along().await;
                continue;
            }
            let last = self.log.server_event();
            self.asked = self.session.server();
            // Boxed, as what follows: a stream that is open holds no room for asking for another.
            let asked = Box::pin(get(
                &self.gateway,
                &self.session,
                &self.bound,
                &self.own,
                last.as_deref(),
            ));
            let got = tokio::select! {
                got = asked => got,
                () = self.bound_elsewhere() => {
                    pause = false;
                    continue;
                }
                () = self.moves_on() => {
                    pause = false;
                    continue;
                }
            };
            pause = true;
            match got {
                Got::Stream(open) => {
                    if last.is_none() {
                        tell_gap(&self.session, &self.log);
                    }
                    given = true;
                    events = Some(open);
                }
                Got::Busy | Got::Unreachable => {}
                Got::Silent => pause = false,
                Got::Lost if !given && renewed == Some(self.bound.generation) => {
                    self.session.streamless.store(true, Ordering::Relaxed);
                    return;
                }
                Got::Lost => {
                    // By the configuration of now: this stream may be older.
                    self.gateway = self.gateway.latest();
                    let live = self.live();
                    let again = Box::pin(reestablish(
                        &self.gateway,
                        &self.session,
                        &self.bound,
                        &live,
                        Whereto::Same,
                    ))
                    .await;
                    match again {
                        // The first loss is mended at once, one after the other is not.
                        Ok(bound) => {
                            pause = renewed.is_some_and(|last| last + 1 == bound.generation);
                            renewed = Some(bound.generation);
                        }
                        Err(failure) => {
                            tracing::debug!(reason = %failure.reason, "standing stream waits for its server");
                        }
                    }
                }
                // The server does not offer the stream any more.
                Got::Refused(_) => return,
            }
        }
    }

    /// Relays a stream to its end and waits as long as the server asks for; whether the back-off is
    /// to be waited for instead.
    async fn after(
        &self,
        open: &mut HttpEvents,
        retry: &mut Option<Duration>,
        backoff: &mut Backoff,
    ) -> bool {
        let mut heard = false;
        let end = tokio::select! {
            end = self.follow(open, retry, backoff, &mut heard) => end,
            () = self.bound_elsewhere() => return false,
            () = self.moves_on() => return false,
        };
        match (end, *retry) {
            (End::Broken(_), _) => {
                let metrics = &self.session.server().metrics;
                metrics.streams_broken.inc();
                true
            }
            (End::Clean, Some(retry)) => {
                tokio::time::sleep(retry).await;
                false
            }
            (End::Clean, None) if heard => {
                tokio::time::sleep(REOPEN).await;
                false
            }
            // A server that ends each stream at once is not asked twice a second.
            (End::Clean, None) | (End::Cancelled | End::Unread, _) => true,
        }
    }

    /// Whether the session belongs elsewhere than where it is bound: a failover has taken it from there,
    /// or the configuration does not have the instance any more.
    fn has_moved_on(&self) -> bool {
        let fleet = &self.session.server().fleet;
        let place = fleet.place(self.bound.mark);
        place.is_none_or(|at| fleet.has_moved_on(at, self.session.steering_key()))
    }

    /// Resolves some moments after that is so.
    async fn moves_on(&self) {
        loop {
            let shown = self.session.rebound();
            let server = self.session.server();
            let Some(at) = server.fleet.place(self.bound.mark) else { break };
            tokio::select! {
                () = server.fleet.moves_on(at, self.session.steering_key()) => {}
                () = shown => {}
            }
            // As the configuration has it now.
            if self.has_moved_on() {
                break;
            }
        }
        let part = (random::u64() % 1_000) as u32;
        tokio::time::sleep(FOLLOWS_WITHIN * part / 1_000).await;
    }

    /// Binds the session where it belongs now: its client listens, and is not to wait for a call of its
    /// own. Whether it is bound there.
    async fn goes_along(&self) -> bool {
        let Self { gateway, session, bound, .. } = self;
        match reestablish(&gateway.latest(), session, bound, &self.live(), Whereto::Same).await {
            Ok(_) => true,
            Err(failure) => {
                tracing::debug!(reason = %failure.reason, "standing stream cannot follow yet");
                false
            }
        }
    }

    /// The headers with which the session is opened again.
    fn live(&self) -> HeaderMap {
        exchange::headers::for_server(self.own.clone(), &self.session.server())
    }

    /// Resolves when the session has another binding than the one that is read, or the server is asked
    /// with other headers now: a credential that was changed is not to be used any longer.
    async fn bound_elsewhere(&self) {
        loop {
            let rebound = self.session.rebound();
            if self.session.bound().generation != self.bound.generation
                || self.session.server().headers != self.asked.headers
            {
                return;
            }
            rebound.await;
        }
    }

    /// Relays events until the stream ends.
    async fn follow(
        &self,
        events: &mut HttpEvents,
        retry: &mut Option<Duration>,
        backoff: &mut Backoff,
        heard: &mut bool,
    ) -> End {
        loop {
            let event = match events.next().await {
                Ok(event) => event,
                Err(end) => return end,
            };
            *heard = true;
            backoff.reset();
            if let Some(ms) = event.retry {
                *retry = Some(Duration::from_millis(ms).min(Duration::from_secs(60)));
            }
            let id = event.id.as_deref().and_then(|id| std::str::from_utf8(id).ok());
            match event.data.filter(|data| !data.is_empty()) {
                Some(data) => {
                    if let Some(pong) = own::pong_for_nobody(&self.log, &data) {
                        own::say(&self.gateway, &self.session, &self.bound, &self.live(), pong);
                        // Else the server would say it again whenever its stream is opened anew.
                        id.into_iter().for_each(|id| self.log.note_server_event(id));
                        continue;
                    }
                    let data = admit(&self.session, data, self.bound.generation);
                    self.log.append(&data, id).await;
                    self.gateway.metrics.events.inc();
                }
                None => {
                    if let Some(id) = id {
                        self.log.note_server_event(id);
                    }
                }
            }
        }
    }
}
