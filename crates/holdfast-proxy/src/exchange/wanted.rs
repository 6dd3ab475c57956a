//! Whether a call's client still has a use for its answer: `notifications/cancelled` says that it has not.
//!
//! | where the call is then | what follows |
//! |---|---|
//! | it waits for its turn at the server, or for a connection | it is answered as cancelled, and did not run |
//! | it runs | its place is the next one's, and its end says nothing of its server; what that answers within [`GRACE`] is passed on, and then it is hung up on |
//! | it was lost, and could be sent again | it is answered as cancelled |
//! | it runs in a batch | the others get their answers, and a server that ends without this one has not failed |

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Call;
use crate::asked::{Alarm, Seldom, perhaps};
use crate::fleet::Attempt;

/// One call's.
#[derive(Default)]
pub(crate) struct Wanted {
    state: AtomicU8,
    told: Notify,
    /// Whether its session knows of it.
    listed: AtomicBool,
    /// The ids of a batch (JSON text) whose answers its client has no use for any more.
    struck: OnceLock<Box<Mutex<Vec<Box<str>>>>>,
}

/// How long a server that was told of the cancellation may take to answer all the same. Many never do: the protocol
/// wants no response to a cancelled call.
pub(super) const GRACE: Duration = Duration::from_secs(10);

const WAITS: u8 = 0;
const IN: u8 = 1;
const CANCELLED: u8 = 2;

impl Wanted {
    /// The call is let in, which can be seen already; whether its client still wants its answer. Otherwise
    /// its place is not used.
    pub(super) fn goes_in(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.compare_exchange(WAITS, IN, success, failure).is_ok()
    }

    /// Its client has no use for the answer any more. Whether the call was let in, so that it has a place
    /// to give up.
    pub(super) fn cancel(&self) -> bool {
        let was = self.state.swap(CANCELLED, Ordering::AcqRel);
        self.told.notify_waiters();
        was == IN
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    /// Its client has no use any more for the answer to this one of its ids (JSON text).
    pub(crate) fn strike(&self, id: &str) {
        let struck = self.struck.get_or_init(Box::default);
        let mut struck = struck.lock().unwrap_or_else(PoisonError::into_inner);
        if !struck.iter().any(|it| **it == *id) {
            struck.push(id.into());
        }
    }

    /// Whether its client has no use for the answers to any of these ids.
    pub(super) fn are_struck(&self, ids: &[Box<str>]) -> bool {
        let Some(struck) = self.struck.get() else { return false };
        let struck = struck.lock().unwrap_or_else(PoisonError::into_inner);
        ids.iter().all(|id| struck.contains(id))
    }

    /// Resolves once its client has cancelled it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn cancelled(&self) {
        let told = self.told.notified();
        if !self.is_cancelled() {
            told.await;
        }
    }

    /// Its session knows of it from here on; whether that is new.
    pub(crate) fn list(&self) -> bool {
        !self.listed.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }
}

/// When a server is hung up on that streams a call's answer.
pub(super) struct HangUp<'a> {
    /// Resolves when the call's client cancels it.
    cancelled: Option<Seldom<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>>,
    /// Set from then on.
    alarm: Option<Alarm>,
}

impl<'a> HangUp<'a> {
    pub(super) fn of(call: &'a Call) -> Self {
        let wanted = &call.wanted;
        let cancelled =
            wanted.is_listed().then(|| Seldom::new(Box::pin(wanted.cancelled()) as Pin<Box<_>>));
        Self { cancelled, alarm: None }
    }

    /// Resolves [`GRACE`] after the call's client has cancelled it. What its attempt says of the instance is told
    /// when it does.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn due(&mut self, attempt: &mut Option<Attempt>) {
        if let Some(cancelled) = &mut self.cancelled {
            cancelled.await;
            self.cancelled = None;
            attempt.iter_mut().for_each(Attempt::unwanted);
            self.alarm = Some(Alarm::at(Instant::now() + GRACE));
        }
        perhaps(self.alarm.as_mut().map(|alarm| poll_fn(|cx| alarm.poll(cx)))).await;
    }
}

/// What the sending of a call brings; `None`: its client has cancelled it, and its server has had its time.
///
/// # Cancel safety
/// As `sent`.
pub(super) async fn unless_cancelled<T>(
    call: &Call,
    attempt: &mut Attempt,
    mut sent: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    if !call.wanted.is_listed() {
        return Some(sent.await);
    }
    tokio::select! {
        biased;
        // First: what a duplex makes of a cancellation is no answer.
        () = call.wanted.cancelled() => {}
        sent = &mut sent => return Some(sent),
    }
    attempt.unwanted();
    timeout(GRACE, sent).await.ok()
}
