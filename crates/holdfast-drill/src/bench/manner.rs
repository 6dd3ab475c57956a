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
    /// Not at all; the connection stays open. Everything else is answered, checks too.
    Hang,
    /// Not at all, as all that is asked of it.
    Freeze,
    /// With a body that is not JSON.
    Garbage,
    /// With half of a body, then the connection ends.
    Half,
    /// With a stream that ends after its first event, and with it the connection.
    HalfStream,
    /// The connection ends without an answer.
    Close,
    /// The connection is reset. It holds for those that are opened from here on.
    Reset,
    /// Every second one with a 404, as of a session that it does not know any more; the others well.
    Forget,
    /// With a byte every so often.
    Drip(Duration),
    /// One in so many, at random, with a status of 500; the others well. The same ones in each run.
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
    failed: Arc<AtomicU64>,
}

/// Spreads numbers over all there are, as if by chance (the mixing step of splitmix64).
fn scattered(number: u64) -> u64 {
    let mut x = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
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

    /// Calls that [`Manner::Errors`] has failed so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether this call is one of those that fail.
    pub(super) fn fails(&self, number: u64, one_in: u64) -> bool {
        let fails = scattered(number).is_multiple_of(one_in.max(1));
        self.failed.fetch_add(u64::from(fails), Ordering::Relaxed);
        fails
    }

    /// How calls are met now.
    pub(super) fn present(&self) -> Manner {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One more call has come: its number from 0, and how it is met.
    pub(super) fn meet(&self) -> (u64, Manner) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        (number, self.present())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_hundred_fails_and_not_in_order() {
        let manners = Manners::default();
        let failing: Vec<u64> = (0..100_000).filter(|it| manners.fails(*it, 100)).collect();
        assert!((900..1_100).contains(&failing.len()), "{}", failing.len());
        assert_eq!(manners.failed(), failing.len() as u64);
        let mut gaps: Vec<u64> = failing.windows(2).map(|two| two[1] - two[0]).collect();
        gaps.sort_unstable();
        assert!(gaps[0] <= 2 && gaps[gaps.len() - 1] > 400, "{gaps:?}");
    }
}
