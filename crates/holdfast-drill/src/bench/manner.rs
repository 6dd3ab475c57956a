//! How the fast server meets calls of tools, so that a benchmark can have servers that fail. Everything
//! else (sessions, lists, pings) it answers well whatever its manner: it is alive, and no use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// How calls of tools are met.
#[derive(Clone, Debug, Default)]
pub enum Manner {
    /// With their result, at once.
    #[default]
    Well,
    /// With this HTTP status; a `Retry-After` of one second comes with 429 and 503.
    Status(u16),
    /// Not at all; the connection stays open.
    Hang,
    /// With a body that is not JSON.
    Garbage,
    /// With half of a body, then the connection ends.
    Half,
    /// The connection ends without an answer.
    Close,
    /// With a byte every so often.
    Drip(Duration),
    /// One in so many, spread evenly, with a status of 500; the others well.
    Errors {
        /// One in so many; at least 1.
        one_in: u64,
    },
    /// Well, but each takes so long, and no more than so many run at once; the others wait.
    Busy(Busy),
}

/// What a busy server takes.
#[derive(Clone, Debug)]
pub struct Busy {
    takes: Duration,
    at_once: Arc<Semaphore>,
}

/// The manner of a running server, which can be changed, and how many calls of tools it has seen.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    manner: Arc<Mutex<Manner>>,
    calls: Arc<AtomicU64>,
}

// === impl Busy ===

impl Busy {
    /// A server that needs so long for a call and works on so many at once: its capacity is the second
    /// divided by the first.
    #[must_use]
    pub fn new(takes: Duration, at_once: usize) -> Self {
        Self { takes, at_once: Arc::new(Semaphore::new(at_once)) }
    }

    /// Waits for its turn and then as long as a call takes.
    pub(super) async fn work(&self) {
        // Nobody closes it.
        let _turn = self.at_once.acquire().await;
        tokio::time::sleep(self.takes).await;
    }
}

// === impl Manners ===

impl Manners {
    /// From here on calls are met like this.
    pub fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Calls of tools that have come so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// One more call has come: its number from 0, and how it is met.
    pub(super) fn meet(&self) -> (u64, Manner) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        (number, self.manner.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
