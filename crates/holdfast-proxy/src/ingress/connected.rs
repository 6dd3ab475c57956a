//! Clients whose connection is their session: what WebSocket and HTTP+SSE share.
//!
//! The connection plays a Streamable HTTP client towards the exchange: each message that arrives is
//! a POST, the standing stream is a GET that it holds, and everything that comes back is a message
//! on the connection. It ends with the connection: its session is deleted, its modern calls are
//! cancelled, its legacy calls run to their end for nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_mcp::event_id::StreamKind;
use holdfast_mcp::headers::name;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::sse::Decoder;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::receive::{Inbound, Received, receive};
use super::respond;
use crate::exchange::{self, Answer, Call, Sink, headers};
use crate::gateway::Gateway;
use crate::principal::Principal;
use crate::server::Server;
use crate::session::{self, Opened, Session, parse_id};

/// Messages that may wait to be written to one connection.
pub(super) const FRAMES: usize = 256;

/// Calls at once on one connection; the next message waits unread, which is back-pressure.
const CALLS: usize = 256;

/// One connected client.
pub(super) struct Connected {
    pub(super) gateway: Arc<Gateway>,
    shared: Arc<Shared>,
}

struct Shared {
    gateway: Arc<Gateway>,
    server: Arc<Server>,
    principal: Principal,
    headers: HeaderMap,
    frames: mpsc::Sender<Bytes>,
    session: Mutex<Option<Arc<Session>>>,
    /// Tokens that cancel running modern calls, by request id.
    running: Mutex<HashMap<Box<str>, CancellationToken>>,
    calls: Arc<Semaphore>,
    ended: CancellationToken,
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
            ended: CancellationToken::new(),
        });
        Self { gateway, shared }
    }

    /// Takes one message of the client. Waits while the connection runs as many calls as it may.
    ///
    /// # Cancel safety
    /// Cancelled while it waits, the message is lost; the connection is ending then.
    pub(super) async fn incoming(&self, body: Bytes) {
        let shared = &self.shared;
        let received = receive(Inbound {
            gateway: &shared.gateway,
            server: &shared.server,
            principal: &shared.principal,
            headers: shared.headers_for(&body),
            body,
            session: shared.session().clone(),
            check_headers: false,
            takes_stream: true,
            has_event_ids: false,
        });
        match received {
            Ok(Received::Call(call)) if call.method == Method::Initialize && !call.modern() => {
                // Nothing else may be said before the session is open.
                shared.initialize(call).await;
            }
            Ok(Received::Call(call)) => {
                let Ok(permit) = Arc::clone(&shared.calls).acquire_owned().await else { return };
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    shared.run(call).await;
                    drop(permit);
                });
            }
            Ok(Received::Message(call, kind)) => {
                if kind == Kind::Notification
                    && call.method == Method::Cancelled
                    && shared.cancel(&call.body)
                {
                    return;
                }
                // In order: an `initialized` must not overtake or be overtaken.
                exchange::tell(&call, kind).await;
            }
            Err(refused) => {
                shared.gateway.metrics.rejected(refused.why);
                let _ = shared.frames.send(refused.body).await;
            }
        }
    }

    /// Resolves when the node drains and the connection has nothing left to wait for.
    pub(super) async fn drained(&self) {
        self.gateway.draining.cancelled().await;
        while self.shared.calls.available_permits() < CALLS {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// The connection is over: so is its session.
    pub(super) async fn end(self) {
        self.shared.ended.cancel();
        let session = self.shared.session().take();
        if let Some(session) = session {
            self.gateway.end_session(&session, true).await;
        }
    }
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Box<str>, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The headers that an HTTP server expects with this message: the client's transport has none.
    fn headers_for(&self, body: &[u8]) -> HeaderMap {
        let mut headers = self.headers.clone();
        if let Some(session) = &*self.session() {
            let version = HeaderValue::from_static(session.version.as_str());
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

    async fn initialize(self: &Arc<Self>, call: Arc<Call>) {
        let deadline = call.server.settings.timeout;
        let answer =
            tokio::time::timeout(deadline, exchange::first_answer(Arc::clone(&call))).await;
        let Ok(answer) = answer else { return };
        let opened = match &answer {
            Answer::Whole(whole) => whole
                .headers
                .get(name::SESSION_ID)
                .and_then(|id| parse_id(id.as_bytes()))
                .and_then(|key| self.gateway.sessions.get(key)),
            _ => None,
        };
        if let Some(session) = &opened {
            let replaced = self.session().replace(Arc::clone(session));
            if let Some(old) = replaced {
                self.gateway.end_session(&old, true).await;
            }
            tokio::spawn(Arc::clone(self).stand(Arc::clone(session)));
        }
        self.forward(call, answer).await;
    }

    async fn run(self: Arc<Self>, call: Arc<Call>) {
        let token = CancellationToken::new();
        let modern = call.modern();
        if let (true, Some(id)) = (modern, call.ids.one()) {
            self.running().insert(id, token.clone());
        }
        let deadline = call.server.settings.timeout;
        let work = {
            let (shared, call) = (Arc::clone(&self), Arc::clone(&call));
            async move {
                let first = exchange::first_answer(Arc::clone(&call));
                match tokio::time::timeout(deadline, first).await {
                    Ok(answer) => shared.forward(call, answer).await,
                    Err(_) => {
                        let failure =
                            crate::failure::Failure::timed_out(&call.server.name, deadline);
                        call.fail(&failure);
                        shared.forward(call, Answer::Failed(failure)).await;
                    }
                }
            }
        };
        if modern {
            tokio::select! {
                () = work => {}
                () = token.cancelled() => call.settle(crate::metrics::CallOutcome::Cancelled),
                () = self.ended.cancelled() => call.settle(crate::metrics::CallOutcome::Cancelled),
            }
        } else {
            work.await;
        }
        if let Some(id) = call.ids.one() {
            self.running().remove(&id);
        }
    }

    /// A modern cancellation: the call is dropped, which its server sees as it sees any.
    fn cancel(&self, body: &[u8]) -> bool {
        let Some(id) =
            peek(body).ok().and_then(|m| m.params.request_id.map(|id| id.to_owned_text()))
        else {
            return false;
        };
        match self.running().remove(&id) {
            Some(token) => {
                token.cancel();
                true
            }
            None => false,
        }
    }

    async fn forward(&self, call: Arc<Call>, answer: Answer) {
        let body = match answer {
            Answer::Failed(failure) => failure.render(&call.ids),
            Answer::HangUp => {
                self.ended.cancel();
                return;
            }
            // An HTTP status means nothing here; what is no JSON-RPC becomes an error that is.
            other => {
                exchange::relay(call, other, Sink::Frames(self.frames.clone())).await;
                return;
            }
        };
        let _ = self.frames.send(body).await;
    }

    /// Holds the session's standing stream for as long as the connection lasts.
    async fn stand(self: Arc<Self>, session: Arc<Session>) {
        let live = headers::for_server(self.headers.clone(), &self.server);
        let log = match session::open_standing(&self.gateway, &session, live).await {
            Ok(Opened::Stream(standing)) => Arc::clone(&standing.log),
            Ok(Opened::Refused(_)) => return,
            Err(failure) => {
                tracing::debug!(session = ?session.key, reason = %failure.reason, "no standing stream");
                return;
            }
        };
        debug_assert_eq!(log.kind(), StreamKind::Standing);
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
