//! The way out: a queue to the one task that writes, with a truthful receipt for each message.
//!
//! A connection is written by a task of its own, because a sender that goes away in the middle of a
//! message would leave half a message on the wire. Between the two, each message is either *waiting*,
//! *taken* or *withdrawn*, and only one side can win the change from waiting. So when a send gives up,
//! it knows whether the writer can still have touched the message, and `NotSent` is never a guess.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::{BY_GATEWAY, Closed, SendError};

/// Messages that may wait for the writer. Small: senders wait in their own `send`, with its deadline.
const WAITING: usize = 16;

/// The sending half of a connection. Cheap to clone; the connection is closed when the last one goes.
#[derive(Clone)]
pub struct DuplexSender {
    queue: mpsc::Sender<Parcel>,
    end: End,
    closed: watch::Receiver<Option<Closed>>,
    deadline: Duration,
}

impl DuplexSender {
    /// Sends one message and returns once the whole of it has been written, over HTTP+SSE once its
    /// POST was answered.
    ///
    /// Waits at most the send timeout for its turn and once more as long for the writing itself.
    ///
    /// # Errors
    /// See [`SendError`]: what is known about the bytes.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message was or will be written whole, or not at all.
    pub async fn send(&self, message: Bytes) -> Result<(), SendError> {
        let until = Instant::now() + self.deadline;
        let (parcel, mut receipt) = parcel(message);
        match timeout_at(until, self.queue.reserve()).await {
            Ok(Ok(place)) => place.send(parcel),
            Ok(Err(_)) => return Err(SendError::NotSent(self.why_closed())),
            Err(_) => return Err(SendError::NotSent(TOO_SLOW.to_owned())),
        }
        let outcome = tokio::select! {
            biased;
            outcome = &mut receipt.outcome => Some(outcome),
            () = sleep_until(until) => None,
        };
        let outcome = match outcome {
            Some(outcome) => outcome,
            None if receipt.state.withdraw() => {
                return Err(SendError::NotSent(TOO_SLOW.to_owned()));
            }
            // The writer has it, and its own deadline bounds this wait.
            None => (&mut receipt.outcome).await,
        };
        match outcome {
            Ok(outcome) => outcome,
            Err(_) if receipt.state.was_taken() => Err(SendError::Closed(self.closing())),
            Err(_) => Err(SendError::NotSent(self.why_closed())),
        }
    }

    /// Ends the connection: what is queued is not sent any more. Returns at once; `closed` tells when
    /// it is over.
    pub fn close(&self) {
        self.end.begin(BY_GATEWAY);
    }

    /// Why the connection ended, once it has.
    pub fn closed(&self) -> Option<Closed> {
        self.closed.borrow().clone()
    }

    /// Whether it takes no messages any more: it has ended, or is about to.
    pub fn is_ending(&self) -> bool {
        self.end.has_begun() || self.closed.borrow().is_some()
    }

    fn closing(&self) -> Closed {
        self.closed().unwrap_or_else(|| Closed::new(self.end.cause()))
    }

    fn why_closed(&self) -> String {
        format!("the connection is closed: {}", self.closing())
    }
}

impl fmt::Debug for DuplexSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuplexSender").field("closed", &self.closed()).finish_non_exhaustive()
    }
}

const TOO_SLOW: &str = "the server does not take messages in time";

/// The writer's end of the queue.
pub(super) struct Outbox {
    queue: mpsc::Receiver<Parcel>,
    end: End,
    /// How long the writing of one message may take.
    pub(super) deadline: Duration,
}

/// Makes the queue of a connection whose end is told through `closed`.
pub(super) fn outbox(
    deadline: Duration,
    closed: watch::Receiver<Option<Closed>>,
) -> (DuplexSender, Outbox) {
    let (sender, queue) = mpsc::channel(WAITING);
    let end = End::default();
    let sender = DuplexSender { queue: sender, end: end.clone(), closed, deadline };
    (sender, Outbox { queue, end, deadline })
}

impl Outbox {
    /// The next message to write. `None` when the connection is to end: it was closed, has failed, or
    /// all senders are gone.
    ///
    /// # Cancel safety
    /// Cancel safe: a message that is not returned stays in the queue.
    pub(super) async fn next(&mut self) -> Option<Taken> {
        loop {
            let parcel = tokio::select! {
                biased;
                () = self.end.begun() => return None,
                parcel = self.queue.recv() => parcel,
            };
            let Some(parcel) = parcel else {
                self.end.begin(BY_GATEWAY);
                return None;
            };
            if parcel.state.take() {
                return Some(Taken { message: parcel.message, receipt: parcel.receipt });
            }
        }
    }

    pub(super) fn end(&self) -> End {
        self.end.clone()
    }
}

/// A message that the writer is about to write, and for whose fate it answers.
pub(super) struct Taken {
    pub(super) message: Bytes,
    receipt: oneshot::Sender<Result<(), SendError>>,
}

impl Taken {
    /// Tells the sender. Nobody may be waiting any more.
    pub(super) fn settle(self, outcome: Result<(), SendError>) {
        let _ = self.receipt.send(outcome);
    }
}

/// The one decision that a connection ends, and its first cause.
#[derive(Clone, Default)]
pub(super) struct End {
    token: CancellationToken,
    cause: Arc<OnceLock<String>>,
}

impl End {
    /// Begins the end. The first cause stays.
    pub(super) fn begin(&self, cause: impl Into<String>) {
        self.cause.get_or_init(|| cause.into());
        self.token.cancel();
    }

    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn begun(&self) {
        self.token.cancelled().await;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(super) fn cause(&self) -> String {
        self.cause.get().cloned().unwrap_or_else(|| "closed".to_owned())
    }
}

struct Parcel {
    message: Bytes,
    state: State,
    receipt: oneshot::Sender<Result<(), SendError>>,
}

/// The sender's side of a parcel. Dropping it withdraws the message if it is still waiting.
struct Receipt {
    state: State,
    outcome: oneshot::Receiver<Result<(), SendError>>,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.state.withdraw();
    }
}

fn parcel(message: Bytes) -> (Parcel, Receipt) {
    let (sender, outcome) = oneshot::channel();
    let state = State(Arc::new(AtomicU8::new(State::WAITING)));
    let parcel = Parcel { message, state: state.clone(), receipt: sender };
    (parcel, Receipt { state, outcome })
}

#[derive(Clone)]
struct State(Arc<AtomicU8>);

impl State {
    const WAITING: u8 = 0;
    const TAKEN: u8 = 1;
    const WITHDRAWN: u8 = 2;

    fn take(&self) -> bool {
        self.leave_waiting(Self::TAKEN)
    }

    fn withdraw(&self) -> bool {
        self.leave_waiting(Self::WITHDRAWN)
    }

    fn was_taken(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::TAKEN
    }

    fn leave_waiting(&self, to: u8) -> bool {
        self.0.compare_exchange(Self::WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> (DuplexSender, Outbox, watch::Sender<Option<Closed>>) {
        let (tell, closed) = watch::channel(None);
        let (sender, outbox) = outbox(Duration::from_secs(5), closed);
        (sender, outbox, tell)
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_no_writer_takes_is_not_sent() {
        let (sender, mut outbox, _tell) = connection();
        let error = sender.send(Bytes::from_static(b"{}")).await.expect_err("nobody writes");
        assert_eq!(error, SendError::NotSent(TOO_SLOW.to_owned()));
        assert!(error.did_not_run());

        // The writer that comes too late does not get it any more.
        let second = tokio::spawn({
            let sender = sender.clone();
            async move { sender.send(Bytes::from_static(b"2")).await }
        });
        let taken = outbox.next().await.expect("the second message");
        assert_eq!(taken.message, "2");
        taken.settle(Ok(()));
        assert_eq!(second.await.expect("joined"), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_the_writer_took_waits_for_the_writers_word() {
        let (sender, mut outbox, _tell) = connection();
        let send = tokio::spawn(async move { sender.send(Bytes::from_static(b"1")).await });
        let taken = outbox.next().await.expect("a message");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!send.is_finished(), "the deadline alone proves nothing about a taken message");
        drop(taken);
        assert!(matches!(send.await.expect("joined"), Err(SendError::Closed(_))));
    }

    #[tokio::test]
    async fn dropping_a_send_withdraws_what_was_not_taken() {
        let (sender, mut outbox, _tell) = connection();
        {
            let send = sender.send(Bytes::from_static(b"1"));
            tokio::pin!(send);
            assert!(futures_util::poll!(&mut send).is_pending());
        }
        drop(sender);
        assert!(outbox.next().await.is_none());
    }

    #[tokio::test]
    async fn after_the_end_nothing_is_sent() {
        let (sender, outbox, tell) = connection();
        outbox.end().begin("it broke");
        tell.send_replace(Some(Closed::new("it broke")));
        drop(outbox);
        let error = sender.send(Bytes::from_static(b"1")).await.expect_err("closed");
        assert_eq!(error, SendError::NotSent("the connection is closed: it broke".to_owned()));
    }

    #[tokio::test]
    async fn the_first_cause_stays() {
        let (sender, outbox, _tell) = connection();
        outbox.end().begin("first");
        sender.close();
        assert_eq!(outbox.end().cause(), "first");
    }
}
