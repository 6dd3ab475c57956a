//! Whether a call's client still has a use for its answer: `notifications/cancelled` says that it has not.
//!
//! | where the call is then | what follows |
//! |---|---|
//! | it waits for its turn at the server, or for a connection | it is answered as cancelled, and did not run |
//! | it runs | its place is the next one's, and its end says nothing of its server; what that answers within [`GRACE`] is passed on, and then it is hung up on |
//! | it was lost, and could be sent again | it is answered as cancelled |

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Call;
use crate::fleet::Attempt;

/// One call's.
#[derive(Default)]
pub(crate) struct Wanted {
    state: AtomicU8,
    told: Notify,
    /// Whether its session knows of it.
    listed: AtomicBool,
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
