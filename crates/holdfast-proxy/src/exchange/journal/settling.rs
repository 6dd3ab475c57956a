//! The writing of what a call came to, for which nobody waits.

use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::backoff::Backoff;
use holdfast_engine::journal::Entry;
use holdfast_store::StoreError;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::open::Running;
use crate::gateway::Gateway;
use crate::random;

/// How long it is tried to write a settled outcome before it is left to be found as an orphan.
const SETTLE_FOR: Duration = Duration::from_secs(20);

/// What a call came to, on its way into the journal.
pub(super) struct Settling {
    pub(super) gateway: Arc<Gateway>,
    pub(super) entry: Entry,
    /// Of the entry that it replaces.
    pub(super) revision: u64,
    /// What may stand in that entry's place, by this call's own hand: its turn came when its time was over. It was
    /// not sent, and nobody else writes this while the key is held here.
    pub(super) turned: Option<Entry>,
    pub(super) running: Arc<Running>,
    /// The node ends after it.
    pub(super) _open: TaskTrackerToken,
}

impl Settling {
    /// Writes it without a task, where the store can.
    pub(super) fn begin(self: Arc<Self>) {
        let Self { gateway, entry, revision, running, .. } = &*self;
        let (revision, settling) = (*revision, Arc::clone(&self));
        gateway.store.post_settled(&running.key, revision, entry, move |settled| {
            if settling.is_over(settled) {
                return;
            }
            // Where there is no runtime any more, it is found as an orphan.
            let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
            runtime.spawn(async move { settling.write().await });
        });
    }

    async fn write(&self) {
        let Self { gateway, entry, running, .. } = self;
        let mut revision = self.revision;
        let mut pause = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < SETTLE_FOR {
            if self.is_over(gateway.store.settle(&running.key, revision, entry).await) {
                return;
            }
            if self.turned.is_some() {
                match gateway.store.entry(&running.key).await {
                    Ok((found, at)) if at != revision => {
                        if self.turned.as_ref() != Some(&found) {
                            tracing::debug!("a call was taken over in its turn");
                            return;
                        }
                        revision = at;
                        continue;
                    }
                    // Nothing has replaced it, or a copy is read that lags behind.
                    Ok(_) => {}
                    Err(error) if error.is_of_store() => {}
                    Err(_) => return,
                }
            }
            tokio::time::sleep(pause.next(random::u64())).await;
        }
    }

    /// Whether there is nothing more to be done.
    fn is_over(&self, settled: Result<u64, StoreError>) -> bool {
        match settled {
            Err(error) if error.is_of_store() => false,
            Err(StoreError::Conflict { .. }) if self.turned.is_some() => false,
            Err(error) => {
                tracing::debug!(%error, "a call was taken over before it was settled");
                true
            }
            Ok(_) => true,
        }
    }
}
