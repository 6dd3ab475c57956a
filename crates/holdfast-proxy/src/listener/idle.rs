//! How long an HTTP/2 connection may be open without a request.
//!
//! hyper has no such limit for HTTP/2: a client that finishes the TLS handshake and then says
//! nothing, or answers pings and nothing else, would hold its place for ever. So requests are
//! counted from their head to the end of their response.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Counts the requests of one connection.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<watch::Sender<Counts>>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    begun: u64,
    running: usize,
}

/// One request, until its response is written or given up.
#[derive(Debug)]
pub(super) struct Busy(Activity);

// === impl Activity ===

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    pub(super) fn enter(&self) -> Busy {
        self.0.send_modify(|counts| {
            counts.begun += 1;
            counts.running += 1;
        });
        Busy(self.clone())
    }

    /// Resolves when no request has come for `first` from the start, or for `then` after the last.
    pub(super) async fn idle(&self, first: Duration, then: Duration) {
        let mut changes = self.0.subscribe();
        loop {
            let counts = *changes.borrow_and_update();
            if counts.running > 0 {
                // The sender is ours: there is always another change to wait for.
                let _ = changes.changed().await;
                continue;
            }
            let limit = if counts.begun == 0 { first } else { then };
            if tokio::time::timeout(limit, changes.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|counts| counts.running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const FIRST: Duration = Duration::from_secs(10);
    const THEN: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_over_early() {
        let begun = Instant::now();
        Activity::new().idle(FIRST, THEN).await;
        assert_eq!(begun.elapsed(), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_hold_it_however_long_they_take_and_start_its_time_anew() {
        let activity = Activity::new();
        let busy = activity.enter();
        let begun = Instant::now();
        let other = activity.clone();
        let asking = tokio::spawn(async move {
            tokio::time::sleep(THEN * 3).await;
            drop(busy);
            tokio::time::sleep(THEN / 2).await;
            drop(other.enter());
        });
        activity.idle(FIRST, THEN).await;
        asking.await.unwrap();
        assert_eq!(begun.elapsed(), THEN * 4 + THEN / 2);
    }
}
