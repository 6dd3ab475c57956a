//! Calls over one two-way connection: which answer, and which message before it, belongs to whom.
//!
//! Over Streamable HTTP the exchange itself says that; over a stdio process, a WebSocket or an HTTP+SSE
//! pair everything comes through one pipe and has to be sorted.
//!
//! ## Private: one legacy client session
//! All messages pass untouched, ids are the client's own.
//!
//! | from the server | goes to |
//! |---|---|
//! | a response | the call with that id |
//! | `notifications/progress` | the call with that token, while it is in flight |
//! | any other request or notification | the call that was started last and is in flight, if its caller can stream (`stream_ok`); else to the standing receiver |
//!
//! ## Shared: many modern clients on one process
//! Two clients use the same ids, so each call gets a number of ours as its id and as its progress
//! token, and the client's own texts come back in their place, byte for byte as they were. Only those
//! values are replaced in a message.
//!
//! | from the server | goes to |
//! |---|---|
//! | a response | its call |
//! | anything with a subscription id | that `subscriptions/listen` call |
//! | `notifications/progress` | the call with that token, else it is dropped |
//! | `notifications/cancelled` | its call, which is over with that |
//! | `notifications/message` | the one call in flight that asked for a log level; nobody if several did; else the standing receiver |
//! | any other notification | the standing receiver |
//! | a request | nobody: the modern era has none, so it is answered with "method not found" |
//!
//! ## Slow readers
//! Each call has a queue, bounded in bytes and messages. In Shared mode a full queue ends its call
//! (`Unread`), because the other clients must not wait for it; in Private mode the server is made to wait,
//! for `stall` at most, and then the same. An answer always has room: it is the last of its call.
//!
//! Responses to unknown ids are dropped. A batch of a legacy server is taken apart. When the connection
//! ends, every call gets `Lost` with the reason.

mod courier;
mod dispatch;
mod queue;
mod rewrite;
mod table;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::{Kind, peek};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use self::courier::Courier;
use self::dispatch::Dispatcher;
use self::queue::Queue;
use self::table::{New, Refusal, Table};
use super::duplex::{Closed, Duplex, DuplexSender, SendError};

/// Who uses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One legacy client session.
    Private,
    /// Any number of modern clients.
    Shared,
}

/// What waits inside a mux.
#[derive(Clone, Copy, Debug)]
pub struct MuxLimits {
    /// Bytes that may wait for one caller. One message that is larger still passes, alone.
    pub queue_bytes: usize,
    /// Messages that may wait for one caller.
    pub queue_messages: usize,
    /// Messages that may wait for the standing receiver.
    pub standing: usize,
    /// Private: how long the server is kept waiting for a caller or the standing receiver.
    pub stall: Duration,
}

impl Default for MuxLimits {
    fn default() -> Self {
        Self {
            queue_bytes: 4 << 20,
            queue_messages: 1024,
            standing: 64,
            stall: Duration::from_secs(30),
        }
    }
}

/// Calls over one connection. The connection is closed when the last handle, calls included, goes.
pub struct Mux {
    sharing: Sharing,
    limits: MuxLimits,
    sender: DuplexSender,
    courier: Courier,
    table: SharedTable,
    closed: watch::Receiver<Option<Closed>>,
}

/// One call in flight.
///
/// Dropping it before its end: in Shared mode the server gets `notifications/cancelled`; in Private
/// mode the server finishes and the answer is dropped.
pub struct Call {
    mux: Arc<Mux>,
    number: u64,
    queue: Arc<Queue>,
}

/// What happens to a call. Only `Message` is followed by anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// A notification or a request of the server.
    Message(Bytes),
    /// The answer, result or error.
    Response(Bytes),
    /// No answer will come, for this reason. The call may have run.
    Lost(String),
    /// Its client has cancelled it; servers do not answer what is cancelled.
    Cancelled,
    /// Its messages were not taken in time, and there was no room for more: the server is told to stop. The call
    /// may have run.
    Unread,
}

type SharedTable = Arc<Mutex<Table>>;

fn lock(table: &SharedTable) -> MutexGuard<'_, Table> {
    // Every change of the table is complete before anything that could panic.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Mux ===

impl Mux {
    /// Starts sorting. The receiver gets what belongs to no call; it should be read all the time, and
    /// may be dropped if nobody wants it.
    ///
    /// Its tasks run on the current runtime and end with the connection.
    pub fn start(
        duplex: Duplex,
        sharing: Sharing,
        limits: MuxLimits,
    ) -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let Duplex { sender, inbox, closed: ended } = duplex;
        let table = Arc::new(Mutex::new(Table::new(sharing)));
        let (standing, rest) = mpsc::channel(limits.standing.max(1));
        let (tell, closed) = watch::channel(None);
        let courier = Courier::start(sender.clone());
        let dispatcher = Dispatcher {
            table: table.clone(),
            limits,
            standing,
            replies: courier.weak(),
            ended,
            tell,
        };
        tokio::spawn(dispatcher.run(inbox));
        let mux = Arc::new(Self { sharing, limits, sender, courier, table, closed });
        (mux, rest)
    }

    /// Sends a request whose caller can take messages before the answer. See [`Self::call_with`].
    ///
    /// # Errors
    /// As [`Self::call_with`].
    pub async fn call(self: &Arc<Self>, request: Bytes) -> Result<Call, SendError> {
        self.call_with(request, true).await
    }

    /// Sends a request. `stream_ok` says whether the caller can pass on messages that come before the
    /// answer and belong to no call in particular (Private).
    ///
    /// # Errors
    /// [`SendError`]; also `NotSent` when the message is no request, or a call with the same id is in
    /// flight (Private).
    ///
    /// # Cancel safety
    /// Dropping the future is dropping the [`Call`]: the request was or will be sent whole or not at
    /// all, and in Shared mode it is cancelled.
    pub async fn call_with(
        self: &Arc<Self>,
        request: Bytes,
        stream_ok: bool,
    ) -> Result<Call, SendError> {
        let (call, message) = self.register(request, stream_ok)?;
        match self.sender.send(message).await {
            Ok(()) => Ok(call),
            Err(error) => {
                // The server knows nothing of it, or nothing at all any more: nothing to cancel.
                if !matches!(error, SendError::Unknown(_)) {
                    lock(&self.table).remove(call.number);
                }
                Err(error)
            }
        }
    }

    /// Sends a message that has no answer: a notification, or the client's response to a request of
    /// the server.
    ///
    /// In Shared mode a client's `notifications/cancelled` and responses are dropped: with ids of its
    /// own it would hit somebody else's call. Dropping the [`Call`] is for that.
    ///
    /// # Errors
    /// [`SendError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the message was or will be sent whole, or not at all.
    pub async fn tell(&self, message: Bytes) -> Result<(), SendError> {
        if self.sharing == Sharing::Shared && !is_shareable(&message) {
            debug!("dropped a message whose ids mean nothing on a shared connection");
            return Ok(());
        }
        let cancelled = peek(&message)
            .ok()
            .filter(|message| message.method == "notifications/cancelled")
            .and_then(|message| message.params.request_id.map(|id| id.to_owned_text()));
        self.sender.send(message).await?;
        // Told: whoever waits for an answer may stop. One that comes all the same is dropped.
        if let Some(id) = cancelled {
            let table = lock(&self.table);
            if let Some(pending) = table.by_id(&id).and_then(|number| table.get(number)) {
                pending.queue.finish(CallEvent::Cancelled);
            }
        }
        Ok(())
    }

    /// Answers a request of the server. Returns at once; where the server takes nothing, the answer is lost.
    pub fn reply(&self, answer: Bytes) {
        self.courier.post(answer);
    }

    /// Calls that the server still works on.
    pub fn in_flight(&self) -> usize {
        lock(&self.table).len()
    }

    /// Why the connection ended, once it has and every call knows.
    pub fn closed(&self) -> Option<String> {
        self.closed.borrow().as_ref().map(ToString::to_string)
    }

    /// As [`Self::closed`], in parts: reason, exit status, last lines of standard error.
    pub fn ending(&self) -> Option<Closed> {
        self.closed.borrow().clone()
    }

    /// As [`Self::ending`], but a connection that takes no messages any more is first waited for: in
    /// between it would refuse every call and not be known as ended.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn settled(&self) -> Option<Closed> {
        if self.sender.is_ending() {
            self.wait_closed().await;
        }
        self.ending()
    }

    /// Waits for the connection's end.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_closed(&self) -> String {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(ending) => ending.as_ref().map_or_else(String::new, ToString::to_string),
            Err(_) => "its runtime has shut down".to_owned(),
        }
    }

    /// Closes the connection and waits until it is closed: for a process, until it and everything that
    /// it started is gone (twice its grace and a few seconds at most).
    ///
    /// # Cancel safety
    /// The closing goes on when the future is dropped.
    pub async fn close(&self) {
        self.sender.close();
        self.wait_closed().await;
    }

    fn register(
        self: &Arc<Self>,
        request: Bytes,
        stream_ok: bool,
    ) -> Result<(Call, Bytes), SendError> {
        let not_sent = |reason: &dyn ToString| SendError::NotSent(reason.to_string());
        let peeked = peek(&request).map_err(|error| not_sent(&error))?;
        let id = peeked.id.filter(|_| peeked.kind == Kind::Request);
        let id = id.ok_or_else(|| not_sent(&"it is not a request"))?;
        let queue = Arc::new(Queue::new(self.limits.queue_bytes, self.limits.queue_messages));
        let number = lock(&self.table)
            .insert(New {
                id: id.as_str(),
                token: peeked.params.progress_token.map(|token| token.as_str()),
                stream_ok,
                log_level: peeked.params.log_level,
                queue: queue.clone(),
            })
            .map_err(|refusal| match refusal {
                Refusal::Duplicate(id) => SendError::Duplicate(id),
                closed @ Refusal::Closed(_) => not_sent(&closed),
            })?;
        let message = match self.sharing {
            Sharing::Private => request,
            Sharing::Shared => rewrite::request(&request, &peeked, number),
        };
        let call = Call { mux: self.clone(), number, queue };
        Ok((call, message))
    }

    fn abandon(&self, number: u64) {
        if let Some(id) = lock(&self.table).abandon(number) {
            self.courier.post(rewrite::cancelled(&id));
        }
    }
}

fn is_shareable(message: &[u8]) -> bool {
    peek(message).is_ok_and(|peeked| {
        peeked.kind == Kind::Notification && peeked.method != "notifications/cancelled"
    })
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux")
            .field("sharing", &self.sharing)
            .field("in_flight", &self.in_flight())
            .field("closed", &self.closed())
            .finish_non_exhaustive()
    }
}

// === impl Call ===

impl Call {
    /// What happens next. `None` after the end.
    ///
    /// # Cancel safety
    /// Cancel safe: an event that is not returned stays in the queue.
    pub async fn next(&mut self) -> Option<CallEvent> {
        self.queue.next().await
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.queue.leave();
        self.mux.abandon(self.number);
    }
}

#[cfg(test)]
mod tests;
