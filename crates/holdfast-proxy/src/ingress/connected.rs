//! Clients whose connection is their session: what WebSocket and HTTP+SSE share.
//!
//! The connection plays a Streamable HTTP client towards the exchange: each message that arrives is
//! a POST, the standing stream is a GET that it holds, and everything that comes back is a message
//! on the connection. It ends with the connection: its session is deleted, its modern calls are
//! cancelled, its legacy calls run to their end for nobody.
//!
//! Messages are taken in the order in which they arrive, and none waits for a call to end: a running
//! call may be waiting for just the message behind it. A call over the limit waits beside the queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::headers::name;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::rpc_error::{RpcError, code};
use holdfast_mcp::sse::Decoder;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::receive::{Inbound, Own, Received, receive};
use super::{listed, respond};
use crate::exchange::{self, Answer, Call, First, Ids, Sink};
use crate::failure::{self, Failure};
use crate::gateway::Gateway;
use crate::metrics::{CallOutcome, Rejection};
use crate::principal::Principal;
use crate::server::Server;
use crate::session::{self, InUse, Opened, Session, parse_id};

/// Messages that may wait to be written to one connection.
pub(super) const FRAMES: usize = 256;

/// Calls at once on one connection; more wait for their turn.
const CALLS: usize = 256;

/// Bytes of calls that wait for their turn on one connection; more are refused.
const WAITING: usize = 4 << 20;

/// What a waiting call costs beyond its body.
const OVERHEAD: usize = 1024;

/// How long a server may take over a message that has no answer: what comes behind it waits.
const TELLING: Duration = Duration::from_secs(30);

/// How long the last messages of a client that has left may take to be handed on.
const REST: Duration = Duration::from_secs(2);

/// One connected client.
pub(super) struct Connected {
    /// As it was when the client connected.
    pub(super) gateway: Arc<Gateway>,
    shared: Arc<Shared>,
}

struct Shared {
    /// As they were when the client connected. Each message is served by what there is when it comes.
    gateway: Arc<Gateway>,
    server: Arc<Server>,
    principal: Principal,
    headers: HeaderMap,
    frames: mpsc::Sender<Bytes>,
    session: Mutex<Option<Open>>,
    /// Calls without an answer, by request id.
    running: Mutex<HashMap<Box<str>, Running>>,
    calls: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The tasks that owe the client an answer.
    tasks: TaskTracker,
    ended: CancellationToken,
}

/// The connection's session: it lives for as long as the connection does.
struct Open {
    session: Arc<Session>,
    _in_use: InUse,
}

/// What a client's cancellation meets.
struct Running {
    /// Ends it here.
    cancel: CancellationToken,
    modern: bool,
    /// Whether the server may know of it.
    sent: bool,
}

impl Connected {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        server: Arc<Server>,
        principal: Principal,
        mut headers: HeaderMap,
        frames: mpsc::Sender<Bytes>,
    ) -> Self {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.remove(name::SESSION_ID);
        let shared = Arc::new(Shared {
            gateway: Arc::clone(&gateway),
            server,
            principal,
            headers,
            frames,
            session: Mutex::default(),
            running: Mutex::default(),
            calls: Arc::new(Semaphore::new(CALLS)),
            waiting: Arc::new(Semaphore::new(WAITING.max(gateway.config.limits.body + OVERHEAD))),
            tasks: TaskTracker::new(),
            ended: CancellationToken::new(),
        });
        Self { gateway, shared }
    }

    /// Takes the client's messages until no more can come.
    ///
    /// # Cancel safety
    /// A message that is being handed on is lost; the connection is ending then.
    pub(super) async fn take(&self, mut arriving: mpsc::Receiver<Bytes>) {
        while let Some(message) = arriving.recv().await {
            self.incoming(message).await;
        }
    }

    /// Goes on with [`Self::take`] for a moment: the client left right behind its last messages.
    pub(super) async fn take_rest(&self, taking: impl Future<Output = ()>) {
        if tokio::time::timeout(REST, taking).await.is_err() {
            tracing::debug!(server = %self.shared.server.name, "last messages not handed on");
        }
    }

    async fn incoming(&self, body: Bytes) {
        let shared = &self.shared;
        shared.gateway.learnt().await;
        let gateway = shared.gateway.latest();
        if !gateway.auth.knows(&shared.principal) {
            // It was let in by a key that is none any more.
            gateway.metrics.rejected(Rejection::Unauthorized);
            return shared.ended.cancel();
        }
        let Some(server) = gateway.server(&shared.server.name) else {
            gateway.metrics.rejected(Rejection::NotServed);
            if let Some(refusal) = no_server(&gateway, &shared.server.name, &body) {
                let _ = shared.frames.send(refusal).await;
            }
            return;
        };
        let received = receive(Inbound {
            gateway: &gateway,
            server,
            principal: shared.principal.clone(),
            at: std::time::Instant::now(),
            headers: Own::Once(shared.headers_for(&body)),
            body,
            session: shared.session().as_ref().map(|open| Arc::clone(&open.session)),
            check_headers: false,
            takes_stream: true,
            has_event_ids: false,
            balancer_id: None,
            again: false,
            told: None,
        });
        match received {
            Ok(Received::Call(call)) if call.method == Method::Initialize && !call.modern() => {
                // Nothing else may be said before the session is open. In a task of its own, so that
                // a session that opens behind a client that has left finds somebody to end it.
                let opening = shared.tasks.spawn(Arc::clone(shared).initialize(call));
                let _ = opening.await;
            }
            Ok(Received::Call(call)) => shared.start(call).await,
            Ok(Received::Message(call, kind)) => {
                if kind == Kind::Notification
                    && call.method == Method::Cancelled
                    && shared.cancel(&call.body)
                {
                    return;
                }
                // In order: an `initialized` must not overtake or be overtaken.
                if tokio::time::timeout(TELLING, exchange::tell(&call, kind)).await.is_err() {
                    tracing::debug!(server = %call.server.name, "a message was not taken in time");
                }
            }
            Err(refused) => {
                shared.gateway.metrics.rejected(refused.why);
                // A client that does not read waits here for itself only: writing goes on.
                let _ = shared.frames.send(refused.body).await;
            }
        }
    }

    /// Resolves when the connection has to be closed though its client is still there.
    pub(super) async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }

    /// Resolves when the node drains, or has the server no more, and the connection has nothing left to
    /// wait for.
    pub(super) async fn drained(&self) {
        tokio::select! {
            () = self.gateway.draining.cancelled() => {}
            () = self.left() => {}
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Resolves when the node's configuration has the server no more.
    async fn left(&self) {
        let mut server = Arc::clone(&self.shared.server);
        loop {
            // Reached in another way it is another life, and as much the client's.
            tokio::select! {
                () = server.leaving.cancelled() => return,
                () = server.replaced.cancelled() => {}
            }
            match self.gateway.latest().server(&server.name) {
                Some(latest) => server = Arc::clone(latest),
                None => return,
            }
        }
    }

    /// The connection is over: so is its session.
    pub(super) async fn end(self) {
        self.shared.ended.cancel();
        self.shared.close_session().await;
    }
}

/// Says that there is no such server any more, to a message that waits for an answer.
fn no_server(gateway: &Gateway, name: &str, body: &[u8]) -> Option<Bytes> {
    let ids = Ids::of(body);
    let text = format!("there is no server `{name}` any more; there is{}", listed(gateway, "mcp"));
    (ids.count() > 0).then(|| failure::render(&RpcError::new(code::INVALID_REQUEST, text), &ids))
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Option<Open>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Box<str>, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The headers that an HTTP server expects with this message: the client's transport has none.
    fn headers_for(&self, body: &[u8]) -> HeaderMap {
        let mut headers = self.headers.clone();
        if let Some(open) = &*self.session() {
            let version = HeaderValue::from_static(open.session.version.as_str());
            headers.insert(name::PROTOCOL_VERSION, version);
        }
        let Ok(message) = peek(body) else { return headers };
        let Some(version) = message.params.claimed_version.as_deref() else { return headers };
        let encode =
            |value: &str| HeaderValue::from_str(&holdfast_mcp::headers::encode_value(value)).ok();
        if let Ok(version) = HeaderValue::from_str(version) {
            headers.insert(name::PROTOCOL_VERSION, version);
        }
        if let Some(method) = encode(&message.method) {
            headers.insert(name::METHOD, method);
        }
        let named = match Method::parse(&message.method) {
            Method::ToolsCall | Method::PromptsGet => message.params.name.as_deref(),
            Method::ResourcesRead => message.params.uri.as_deref(),
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => {
                message.params.task_id.as_deref()
            }
            _ => None,
        };
        if let Some(value) = named.and_then(encode) {
            headers.insert(name::NAME, value);
        }
        headers
    }

    async fn close_session(&self) {
        let open = self.session().take();
        if let Some(open) = open {
            self.gateway.end_session(&open.session, None).await;
        }
    }

    /// A call's first answer, or the failure that takes its place.
    async fn first_answer(&self, call: &Arc<Call>) -> Answer {
        let deadline = call.server.settings.timeout;
        let giving_up = call.server.giving_up();
        let first = exchange::first_answer(Arc::clone(call));
        let failure = tokio::select! {
            first = tokio::time::timeout(deadline, first) => match first {
                Ok(answer) => return answer,
                Err(_) => call.timed_out(deadline),
            },
            () = giving_up.cancelled() => call.given_up(),
        };
        exchange::gave_up(call, failure)
    }

    async fn initialize(self: Arc<Self>, call: Arc<Call>) {
        let answer = self.first_answer(&call).await;
        let opened = match &answer {
            Answer::Whole(whole) => whole
                .headers
                .get(name::SESSION_ID)
                .and_then(|id| parse_id(id.as_bytes()))
                .and_then(|key| self.gateway.sessions.get(key)),
            _ => None,
        };
        if let Some(session) = opened {
            let _in_use = session.enter(self.gateway.clock);
            let replaced = self.session().replace(Open { session: Arc::clone(&session), _in_use });
            if let Some(old) = replaced {
                self.gateway.end_session(&old.session, None).await;
            }
            if self.ended.is_cancelled() {
                // The client left while its session opened: nobody else sees that it is there.
                return self.close_session().await;
            }
            tokio::spawn(Arc::clone(&self).stand(session));
        }
        self.forward(call, answer).await;
    }

    /// Starts a call, or lets it wait for its turn.
    async fn start(self: &Arc<Self>, call: Arc<Call>) {
        let token = CancellationToken::new();
        let permit = Arc::clone(&self.calls).try_acquire_owned().ok();
        let sent = permit.is_some();
        let Some(permit) = permit else {
            let cost = u32::try_from(call.body.len() + OVERHEAD).unwrap_or(u32::MAX);
            let Ok(place) = Arc::clone(&self.waiting).try_acquire_many_owned(cost) else {
                let reason = format!("this connection runs {CALLS} calls and more are waiting");
                let wait = Duration::from_secs(1);
                let failure = Failure::overloaded(&call.server.name, reason, wait);
                let answer = exchange::gave_up(&call, failure);
                return self.forward(call, answer).await;
            };
            self.enter(&call, &token, sent);
            self.tasks.spawn(Arc::clone(self).queue(call, token, place));
            return;
        };
        self.enter(&call, &token, sent);
        let mut work = Box::pin(Arc::clone(self).run(call, token, permit));
        // Its first step is done here, so that what the client says next does not overtake it.
        let first_step = tokio::task::unconstrained(work.as_mut());
        if futures_util::poll!(first_step).is_pending() {
            self.tasks.spawn(work);
        }
    }

    fn enter(&self, call: &Call, cancel: &CancellationToken, sent: bool) {
        if let Some(id) = call.ids.one() {
            let running = Running { cancel: cancel.clone(), modern: call.modern(), sent };
            self.running().insert(id, running);
        }
    }

    /// Waits for the call's turn.
    async fn queue(
        self: Arc<Self>,
        call: Arc<Call>,
        token: CancellationToken,
        place: OwnedSemaphorePermit,
    ) {
        let giving_up = call.server.giving_up();
        let permit = tokio::select! {
            permit = Arc::clone(&self.calls).acquire_owned() => permit.ok(),
            () = token.cancelled() => None,
            () = self.ended.cancelled() => None,
            () = giving_up.cancelled() => {
                let reason = "the gateway is restarting, or has the server no more".to_owned();
                let failure = Failure::unavailable(&call.server.name, reason);
                let answer = exchange::gave_up(&call, failure);
                return self.forward(call, answer).await;
            }
        };
        drop(place);
        let Some(permit) = permit else { return call.settle(CallOutcome::Cancelled) };
        if let Some(id) = call.ids.one()
            && let Some(running) = self.running().get_mut(&id)
        {
            running.sent = true;
        }
        self.run(call, token, permit).await;
    }

    async fn run(
        self: Arc<Self>,
        call: Arc<Call>,
        token: CancellationToken,
        _permit: OwnedSemaphorePermit,
    ) {
        let work = {
            let (shared, call) = (Arc::clone(&self), Arc::clone(&call));
            async move {
                let first = shared.first_answer(&call).await;
                shared.forward(call, first).await;
            }
        };
        if call.modern() {
            tokio::select! {
                () = work => {}
                () = token.cancelled() => call.settle(CallOutcome::Cancelled),
                () = self.ended.cancelled() => call.settle(CallOutcome::Cancelled),
            }
        } else {
            work.await;
        }
        if let Some(id) = call.ids.one() {
            self.running().remove(&id);
        }
    }

    /// Cancels a call here: a modern one is dropped, which its server sees as it sees any; one that
    /// waits for its turn is forgotten. Whether that is all there is to do.
    fn cancel(&self, body: &[u8]) -> bool {
        let id = peek(body).ok().and_then(|m| m.params.request_id.map(|id| id.to_owned_text()));
        let Some(id) = id else { return false };
        let mut running = self.running();
        if running.get(&id).is_none_or(|call| !call.modern && call.sent) {
            return false;
        }
        if let Some(call) = running.remove(&id) {
            call.cancel.cancel();
        }
        true
    }

    async fn forward(&self, call: Arc<Call>, answer: Answer) {
        let body = match answer {
            Answer::Failed(failure) => failure.render(&call.ids),
            Answer::Moved | Answer::HangUp => {
                self.ended.cancel();
                return;
            }
            // An HTTP status means nothing here; what is no JSON-RPC becomes an error that is.
            other => {
                let (first, sink) = (First::Here(other), Sink::Frames(self.frames.clone()));
                exchange::relay(call, first, sink).await;
                return;
            }
        };
        let _ = self.frames.send(body).await;
    }

    /// Holds the session's standing stream for as long as the connection lasts.
    async fn stand(self: Arc<Self>, session: Arc<Session>) {
        let gateway = self.gateway.latest();
        let own = self.headers.clone();
        let log = match session::open_standing(&gateway, &session, own, None).await {
            Ok(Opened::Stream(standing)) => Arc::clone(&standing.log),
            Ok(Opened::Refused(_)) => return,
            Err(failure) => {
                tracing::debug!(session = ?session.key, reason = %failure.reason, "no standing stream");
                return;
            }
        };
        let mut body = respond::stand(&self.gateway, &session, &log, None, None);
        let mut decoder = Decoder::new(crate::upstream::events::MAX_EVENT);
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = self.ended.cancelled() => return,
            };
            let Some(Ok(frame)) = frame else {
                // Rotated: this reader has no client to send away, so it just reads on.
                if log.state() != crate::streams::LogState::Open {
                    return;
                }
                body = respond::stand(&self.gateway, &session, &log, None, None);
                continue;
            };
            let Ok(data) = frame.into_data() else { continue };
            decoder.push(data);
            while let Ok(Some(event)) = decoder.next() {
                if let Some(data) = event.data.filter(|data| !data.is_empty())
                    && self.frames.send(data).await.is_err()
                {
                    return;
                }
            }
        }
    }
}
