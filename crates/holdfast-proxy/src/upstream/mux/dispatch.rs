//! The one task that takes messages from the connection and gives them to whom they belong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};
use holdfast_mcp::{Kind, Peek, is_batch, peek, split_batch};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::courier::WeakCourier;
use super::queue::{Push, Queue};
use super::table::Table;
use super::{CallEvent, MuxLimits, SharedTable, Sharing, lock, rewrite};
use crate::upstream::duplex::Closed;

/// A shorter message is copied out of the block it was read into, which may be much larger and would
/// stay as long as the message waits.
const COPY_BELOW: usize = 16 * 1024;

pub(super) struct Dispatcher {
    pub(super) table: SharedTable,
    pub(super) limits: MuxLimits,
    pub(super) standing: mpsc::Sender<Bytes>,
    pub(super) replies: WeakCourier,
    /// The connection's end.
    pub(super) ended: watch::Receiver<Option<Closed>>,
    /// The mux's end, told once every call knows.
    pub(super) tell: watch::Sender<Option<Closed>>,
}

/// Where one message goes.
enum Route {
    /// On the way to an answer.
    Message(u64, Arc<Queue>, Bytes),
    Answer(Arc<Queue>, Bytes),
    /// The server gives the call up.
    GivenUp(Arc<Queue>, Bytes),
    Standing(Bytes),
    /// Back to the server.
    Refuse(Bytes),
    Drop(&'static str),
}

impl Dispatcher {
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Bytes>) {
        while let Some(message) = inbox.recv().await {
            if !is_batch(&message) {
                self.one(message).await;
                continue;
            }
            match split_batch(&message) {
                Ok(parts) => {
                    for part in parts {
                        self.one(message.slice(part)).await;
                    }
                }
                Err(error) => debug!(%error, "dropped a batch of the server"),
            }
        }
        // The reason is there before the inbox ends, unless the connection's own task was lost.
        let known = timeout(Duration::from_secs(1), self.ended.wait_for(Option::is_some)).await;
        let ending = match known {
            Ok(Ok(ending)) => ending.clone(),
            _ => None,
        };
        let ending = ending.unwrap_or_else(|| Closed::new("the connection broke"));
        let reason = ending.to_string();
        for queue in lock(&self.table).close(&reason) {
            queue.finish(CallEvent::Lost(reason.clone()));
        }
        self.tell.send_replace(Some(ending));
    }

    async fn one(&self, message: Bytes) {
        let route = match peek(&message) {
            Ok(peeked) => route(&mut lock(&self.table), &message, &peeked),
            Err(error) => {
                debug!(%error, "dropped a message of the server");
                return;
            }
        };
        match route {
            Route::Message(number, queue, message) => {
                self.deliver(number, &queue, compact(message)).await
            }
            Route::Answer(queue, message) => queue.finish(CallEvent::Response(compact(message))),
            Route::GivenUp(queue, message) => {
                let _ = queue.push(compact(message));
                queue.finish(CallEvent::Lost("the server cancelled the call".to_owned()));
            }
            Route::Standing(message) => self.stand(compact(message)).await,
            Route::Refuse(answer) => self.replies.post(answer),
            Route::Drop(why) => debug!(why, "dropped a message of the server"),
        }
    }

    async fn deliver(&self, number: u64, queue: &Queue, message: Bytes) {
        let Push::Full(mut message) = queue.push(message) else {
            return;
        };
        if self.sharing() == Sharing::Private {
            let until = Instant::now() + self.limits.stall;
            while timeout_at(until, queue.room()).await.is_ok() {
                match queue.push(message) {
                    Push::Done => return,
                    Push::Full(again) => message = again,
                }
            }
        }
        debug!("a caller does not take its messages, its call ends");
        let id = lock(&self.table).abandon(number);
        queue.overflow();
        if let Some(id) = id {
            self.replies.post(rewrite::cancelled(&id));
        }
    }

    async fn stand(&self, message: Bytes) {
        let stall = match self.sharing() {
            Sharing::Private => self.limits.stall,
            Sharing::Shared => Duration::ZERO,
        };
        match self.standing.send_timeout(message, stall).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                warn!("dropped a message of the server: nobody takes those that belong to no call");
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => {
                debug!(why = "nobody listens", "dropped a message of the server");
            }
        }
    }

    fn sharing(&self) -> Sharing {
        lock(&self.table).sharing()
    }
}

fn compact(message: Bytes) -> Bytes {
    if message.len() < COPY_BELOW { Bytes::copy_from_slice(&message) } else { message }
}

fn route(table: &mut Table, body: &Bytes, peek: &Peek<'_>) -> Route {
    if peek.kind == Kind::Response {
        let pending = peek.id.and_then(|id| {
            let number = table.by_id(id.as_str())?;
            table.remove(number)
        });
        return match pending {
            None => Route::Drop("a response to no call"),
            Some(pending) => {
                let body = match table.sharing() {
                    Sharing::Private => body.clone(),
                    Sharing::Shared => rewrite::response(body, peek, &pending),
                };
                Route::Answer(pending.queue, body)
            }
        };
    }
    match table.sharing() {
        Sharing::Private => route_private(table, body, peek),
        Sharing::Shared => route_shared(table, body, peek),
    }
}

fn route_private(table: &Table, body: &Bytes, peek: &Peek<'_>) -> Route {
    let progress = peek.params.progressed_token.filter(|_| is_progress(peek));
    if let Some(number) = progress.and_then(|token| table.by_token(token.as_str())) {
        return match table.get(number) {
            Some(pending) => Route::Message(number, pending.queue.clone(), body.clone()),
            None => Route::Drop("progress of a call that nobody waits for"),
        };
    }
    match table.newest() {
        Some((number, pending)) if pending.stream_ok => {
            Route::Message(number, pending.queue.clone(), body.clone())
        }
        _ => Route::Standing(body.clone()),
    }
}

fn route_shared(table: &mut Table, body: &Bytes, peek: &Peek<'_>) -> Route {
    if let Some(id) = peek.id {
        let error = RpcError::new(
            code::METHOD_NOT_FOUND,
            "servers send no requests in this protocol version",
        );
        return Route::Refuse(error.render(ErrorId::Raw(id.as_str())));
    }
    let to = |number: Option<u64>, table: &Table| {
        let found = number.and_then(|number| Some((number, table.get(number)?)));
        match found {
            Some((number, pending)) => {
                let body = rewrite::notification(body, peek, pending);
                Route::Message(number, pending.queue.clone(), body)
            }
            None => Route::Drop("a notification to no call"),
        }
    };
    if let Some(id) = peek.params.subscription_id {
        return to(table.by_id(id.as_str()), table);
    }
    match &*peek.method {
        "notifications/progress" => {
            let token = peek.params.progressed_token;
            let number = token.and_then(|token| table.by_token(token.as_str()));
            let asked =
                |number: &u64| table.get(*number).is_some_and(|pending| pending.token.is_some());
            to(number.filter(asked), table)
        }
        "notifications/cancelled" => {
            let id = peek.params.request_id;
            let number = id.and_then(|id| table.by_id(id.as_str()));
            match number.and_then(|number| table.remove(number)) {
                Some(pending) => Route::GivenUp(
                    pending.queue.clone(),
                    rewrite::notification(body, peek, &pending),
                ),
                None => Route::Drop("a cancellation of no call"),
            }
        }
        "notifications/message" => match table.with_log_level().as_slice() {
            [] => Route::Standing(body.clone()),
            [(number, pending)] => Route::Message(*number, pending.queue.clone(), body.clone()),
            // It does not say whose call it belongs to, and another client must not read it.
            _ => Route::Drop("a log message that could be several callers'"),
        },
        _ => Route::Standing(body.clone()),
    }
}

fn is_progress(peek: &Peek<'_>) -> bool {
    peek.method == "notifications/progress"
}
