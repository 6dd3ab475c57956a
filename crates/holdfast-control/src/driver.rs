//! What runs the reconcilers: one at a time each, when something has changed and otherwise every so
//! often.
//!
//! A reconciler compares what is with what should be, and acts. It takes no input: whoever knows of a
//! change nudges it, and a nudge that is lost costs time and nothing else. So every one of them can be
//! killed at any point and started again, here or on another node.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Turns;

/// Compares what is with what should be, then acts.
pub(crate) trait Reconciler: Send {
    /// Its name in logs and metrics.
    const NAME: &'static str;

    /// Looks and acts once. Bounded: whatever it waits for has a deadline of its own.
    ///
    /// # Cancel safety
    /// May be dropped at any await; the next turn begins from what is.
    fn activate(&mut self) -> impl Future<Output = Status> + Send;
}

/// How a turn ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// All is as it should be; the next look is due after this long, sooner when nudged.
    Settled(Duration),
    /// It could not do what it had to; it tries again after this long.
    Failed {
        /// What stood in the way.
        why: String,
        /// When it tries again.
        retry: Duration,
    },
}

/// Tells a reconciler that something has changed. Nudges do not pile up.
#[derive(Clone, Default, Debug)]
pub(crate) struct Nudge(Arc<Notify>);

// === impl Nudge ===

impl Nudge {
    /// The next turn begins now, or once the present one has ended.
    pub(crate) fn nudge(&self) {
        self.0.notify_one();
    }

    /// # Cancel safety
    /// A nudge that has come is not lost.
    pub(crate) async fn nudged(&self) {
        self.0.notified().await;
    }
}

/// Runs a reconciler until the stop. Says that it fails once, and that it does not any more once.
pub(crate) async fn run<R: Reconciler>(
    mut reconciler: R,
    nudge: Nudge,
    turns: Turns,
    stop: CancellationToken,
) {
    let mut failing: Option<String> = None;
    loop {
        let status = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            status = reconciler.activate() => status,
        };
        let pause = match status {
            Status::Settled(pause) => {
                turns.settled();
                if failing.take().is_some() {
                    tracing::info!(task = R::NAME, "control task works again");
                }
                pause
            }
            Status::Failed { why, retry } => {
                turns.failed();
                if failing.as_ref() != Some(&why) {
                    tracing::warn!(task = R::NAME, why, "control task failed; it tries again");
                    failing = Some(why);
                }
                retry
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = nudge.nudged() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;
    use crate::metrics::Metrics;

    /// Says when it was activated, and fails as told.
    struct Scripted {
        at: Arc<Mutex<Vec<u64>>>,
        begun: Instant,
        script: Vec<Status>,
    }

    impl Reconciler for Scripted {
        const NAME: &'static str = "scripted";

        async fn activate(&mut self) -> Status {
            let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap();
            self.at.lock().unwrap().push(now);
            if self.script.is_empty() { Status::Settled(SECOND) } else { self.script.remove(0) }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn turns_come_by_time_by_nudge_and_sooner_after_a_failure() {
        let failed = Status::Failed { why: "away".into(), retry: Duration::from_millis(100) };
        let (at, nudge, stop) = (Arc::default(), Nudge::default(), CancellationToken::new());
        let metrics = Metrics::default();
        let turns = metrics.turns(Scripted::NAME);
        let scripted = Scripted {
            at: Arc::clone(&at),
            begun: Instant::now(),
            script: vec![Status::Settled(SECOND), failed.clone(), failed],
        };
        let task = tokio::spawn(run(scripted, nudge.clone(), turns.clone(), stop.clone()));
        // At 0, 1000 (fails), 1100 (fails), 1200; then by a nudge at 1500, and 2500.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        nudge.nudge();
        nudge.nudge();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        stop.cancel();
        task.await.unwrap();
        // The second of two nudges may begin one more turn, never two.
        let mut seen = at.lock().unwrap().clone();
        seen.dedup();
        assert_eq!(seen, [0, 1000, 1100, 1200, 1500, 2500]);
        assert_eq!(turns.read().1, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_it_in_the_middle_of_a_turn() {
        struct Stuck;
        impl Reconciler for Stuck {
            const NAME: &'static str = "stuck";
            async fn activate(&mut self) -> Status {
                std::future::pending().await
            }
        }
        let stop = CancellationToken::new();
        let turns = Metrics::default().turns(Stuck::NAME);
        let task = tokio::spawn(run(Stuck, Nudge::default(), turns, stop.clone()));
        tokio::task::yield_now().await;
        stop.cancel();
        task.await.unwrap();
    }
}
