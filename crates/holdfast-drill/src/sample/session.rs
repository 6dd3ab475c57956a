//! Legacy sessions: what the server remembers of one client between requests.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::message::{Failure, Message, notification};
use super::stream::Stream;

/// How long the server waits for a client's answer to a request of its own.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Clients seldom end their sessions; beyond so many the oldest is forgotten.
const MAX_SESSIONS: usize = 50_000;

/// Streams of a session that can still be resumed; the oldest go first.
const MAX_STREAMS: usize = 200;

/// Sessions of the Streamable HTTP endpoint.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Session>>,
    /// Ids in the order of creation, those of ended sessions included.
    order: VecDeque<String>,
}

/// One session, or one connection where the connection is the session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    /// Messages that belong to no request: the GET stream, or the connection itself.
    pub(super) standing: Arc<Stream>,
    /// Whether such messages wait for a reader instead of being lost without one.
    keeps_messages: bool,
    has_reader: AtomicBool,
    state: Mutex<State>,
    /// Streams that can be resumed, oldest first.
    streams: Mutex<VecDeque<Arc<Stream>>>,
    /// Counts how often open GET streams were told to end, and whether abruptly the last time.
    kicks: watch::Sender<(u64, bool)>,
    /// Running requests of the client, by the JSON text of their id.
    calls: Mutex<HashMap<String, AbortHandle>>,
    /// Requests of the server that the client has not answered.
    pending: Mutex<HashMap<u64, oneshot::Sender<Message>>>,
    next_request: AtomicU64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// `None` until `initialize`.
    pub(super) version: Option<&'static str>,
    pub(super) client_info: Value,
    pub(super) capabilities: Value,
    /// `notifications/initialized` has come.
    pub(super) initialized: bool,
    /// Set by `logging/setLevel`.
    pub(super) level: Option<String>,
    pub(super) subscriptions: BTreeSet<String>,
    /// The state that the tool `counter` counts in.
    pub(super) counter: u64,
}

/// Held by the one reader of the standing stream.
#[derive(Debug)]
pub(super) struct ReaderGuard(Arc<Session>);

// === impl Sessions ===

impl Sessions {
    pub(super) fn insert(&self, session: Arc<Session>) {
        let mut table = self.lock();
        table.order.push_back(session.id.clone());
        table.by_id.insert(session.id.clone(), session);
        while table.order.len() > MAX_SESSIONS {
            let Some(oldest) = table.order.pop_front() else { break };
            if let Some(session) = table.by_id.remove(&oldest) {
                session.standing.end();
            }
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.lock().by_id.get(id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.lock().by_id.values().cloned().collect()
    }

    /// Forgets one session and ends its GET stream; true when there was one.
    pub(super) fn remove(&self, id: &str) -> bool {
        let removed = self.lock().by_id.remove(id);
        if let Some(session) = &removed {
            session.standing.end();
        }
        removed.is_some()
    }

    /// Forgets all, as a restart would; returns how many there were.
    pub(super) fn clear(&self) -> usize {
        let all: Vec<_> = self.lock().by_id.drain().collect();
        for (_, session) in &all {
            session.standing.end();
        }
        all.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

// === impl Session ===

impl Session {
    /// A session of the HTTP endpoint. With `retain`, its GET stream can be resumed.
    pub(super) fn over_http(retain: bool) -> Arc<Self> {
        Self::new(Stream::new(retain), retain)
    }

    /// A session that lasts as long as its connection and talks over `stream`.
    pub(super) fn over_connection(stream: Arc<Stream>) -> Arc<Self> {
        Self::new(stream, true)
    }

    fn new(standing: Arc<Stream>, keeps_messages: bool) -> Arc<Self> {
        Arc::new(Self {
            id: uuid::Uuid::new_v4().simple().to_string(),
            standing,
            keeps_messages,
            has_reader: AtomicBool::new(false),
            state: Mutex::default(),
            streams: Mutex::default(),
            kicks: watch::Sender::new((0, false)),
            calls: Mutex::default(),
            pending: Mutex::default(),
            next_request: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn version(&self) -> Option<&'static str> {
        self.state().version
    }

    /// Makes the caller the reader of the standing stream, unless there is one.
    pub(super) fn read_standing(self: &Arc<Self>) -> Option<ReaderGuard> {
        let taken = self.has_reader.swap(true, Ordering::AcqRel);
        (!taken).then(|| ReaderGuard(self.clone()))
    }

    /// Sends a message that belongs to no request. Without a reader it is lost, as with the SDKs,
    /// unless the stream can be resumed.
    pub(super) fn tell(&self, text: String) {
        if self.keeps_messages || self.has_reader.load(Ordering::Acquire) {
            self.standing.push(text, false);
        }
    }

    pub(super) fn tell_updated(&self, uri: &str) {
        if self.state().subscriptions.contains(uri) {
            self.tell(notification("notifications/resources/updated", &json!({ "uri": uri })));
        }
    }

    pub(super) fn add_stream(&self, stream: Arc<Stream>) {
        let mut streams = lock(&self.streams);
        streams.push_back(stream);
        if streams.len() > MAX_STREAMS {
            streams.pop_front();
        }
    }

    /// The stream that an event id of this session names.
    pub(super) fn stream(&self, id: &str) -> Option<Arc<Stream>> {
        if id == self.standing.id {
            return Some(self.standing.clone());
        }
        lock(&self.streams).iter().find(|stream| stream.id == id).cloned()
    }

    /// Ends the open GET stream, if any, without ending the session.
    pub(super) fn kick(&self, abruptly: bool) {
        self.kicks.send_modify(|(count, abrupt)| (*count, *abrupt) = (*count + 1, abruptly));
    }

    pub(super) fn kicks(&self) -> watch::Receiver<(u64, bool)> {
        self.kicks.subscribe()
    }

    pub(super) fn add_call(&self, id: &str, handle: AbortHandle) {
        let mut calls = lock(&self.calls);
        calls.retain(|_, handle| !handle.is_finished());
        calls.insert(id.to_owned(), handle);
    }

    /// Ends a running call without a response; true when it was running.
    pub(super) fn cancel_call(&self, id: &str) -> bool {
        let handle = lock(&self.calls).remove(id);
        let running = handle.filter(|handle| !handle.is_finished());
        if let Some(handle) = &running {
            handle.abort();
        }
        running.is_some()
    }

    /// Ends all calls, when the connection that is the session has gone.
    pub(super) fn cancel_all(&self) {
        for (_, handle) in lock(&self.calls).drain() {
            handle.abort();
        }
    }

    /// Sends a request to the client through `send` and waits for its result.
    ///
    /// # Errors
    /// The client's error, or -32603 when it does not answer within a minute.
    ///
    /// # Cancel safety
    /// Dropped while waiting, the request stays unanswered; a late answer is ignored.
    pub(super) async fn request(
        &self,
        method: &str,
        params: &Value,
        send: impl FnOnce(String),
    ) -> Result<Value, Failure> {
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        lock(&self.pending).insert(id, answered);
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        send(message.to_string());
        let answer = tokio::time::timeout(CLIENT_TIMEOUT, answer).await;
        lock(&self.pending).remove(&id);
        match answer {
            Ok(Ok(Message { result: Some(result), .. })) => Ok(result),
            Ok(Ok(Message { error, .. })) => {
                let error = error.unwrap_or_default();
                Err(Failure::new(-32603, format!("the client refused {method}: {error}")))
            }
            Ok(Err(_)) | Err(_) => {
                Err(Failure::new(-32603, format!("the client did not answer {method}")))
            }
        }
    }

    /// Gives a client's response to the request that waits for it; false when none does.
    pub(super) fn resolve(&self, response: Message) -> bool {
        let id = response.id.as_deref().and_then(|id| id.parse().ok());
        let waiting = id.and_then(|id| lock(&self.pending).remove(&id));
        waiting.is_some_and(|waiting| waiting.send(response).is_ok())
    }

    /// What can be seen of the session from outside.
    pub(super) fn report(&self) -> Value {
        let state = self.state().clone();
        json!({
            "id": self.id,
            "version": state.version,
            "clientInfo": state.client_info,
            "capabilities": state.capabilities,
            "initialized": state.initialized,
            "level": state.level,
            "subscriptions": state.subscriptions,
            "counter": state.counter,
            "listening": self.has_reader.load(Ordering::Acquire),
        })
    }
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.0.has_reader.store(false, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_to_the_client_gets_its_own_answer() {
        let session = Session::over_http(true);
        let params = json!({});
        let asked = session.request("roots/list", &params, |text| {
            let sent: Value = serde_json::from_str(&text).unwrap();
            let answer = |id: &str, result: Value| Message {
                id: Some(id.to_owned()),
                result: Some(result),
                ..Message::default()
            };
            assert!(!session.resolve(answer("99", json!(0))), "nobody waits for it");
            assert!(session.resolve(answer(&sent["id"].to_string(), json!({ "roots": [] }))));
        });
        assert_eq!(asked.await.unwrap(), json!({ "roots": [] }));
    }

    #[tokio::test]
    async fn a_refusal_becomes_an_error() {
        let session = Session::over_http(true);
        let params = json!({});
        let asked = session.request("elicitation/create", &params, |_| {
            session.resolve(Message {
                id: Some("0".to_owned()),
                error: Some(json!({ "code": -1, "message": "no" })),
                ..Message::default()
            });
        });
        assert!(asked.await.unwrap_err().message.contains("refused"));
    }

    #[test]
    fn one_reader_at_a_time_and_messages_without_one_are_lost() {
        let session = Session::over_http(false);
        session.tell("lost".to_owned());
        let guard = session.read_standing().unwrap();
        assert!(session.read_standing().is_none());
        session.tell("kept".to_owned());
        drop(guard);
        assert!(session.read_standing().is_some());
        let first = futures_util::FutureExt::now_or_never(session.standing.next(0));
        assert_eq!(&*first.unwrap().unwrap().text, "kept");
    }
}
