//! A leader that is not answered falls silent, so that the others can elect another.
//!
//! While a leader is heard, its followers elect nobody. One that is heard and does not hear (a path that
//! is broken in one direction) would so keep the group from ever having a leader that works. Openraft
//! holds heartbeats back once a quorum has not answered for a lease, in turns with sending them; but not
//! the entries that it has not got acknowledged, which go out again and again. Here both are held back.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use crate::types::Raft;

pub(crate) struct Gate {
    raft: OnceLock<Raft>,
    /// How long a quorum may be silent.
    patience: Duration,
    /// How long the leader is silent then, before it tries again for as long.
    period: Duration,
    /// Since when this node has led which term.
    since: Mutex<(u64, Instant)>,
}

impl Gate {
    pub(crate) fn new(patience: Duration, period: Duration) -> Self {
        let since = Mutex::new((0, Instant::now()));
        Self { raft: OnceLock::new(), patience, period, since }
    }

    /// Watches this node's Raft from now on.
    pub(crate) fn watch(&self, raft: Raft) {
        // It is set once, at the start.
        let _ = self.raft.set(raft);
    }

    /// Whether this node leads, has not been answered for a while, and is silent now.
    pub(crate) fn is_closed(&self) -> bool {
        let unanswered = self.unanswered();
        unanswered.is_some_and(|it| is_silent(it, self.patience, self.period))
    }

    /// Whether this node leads and a quorum has answered lately.
    pub(crate) fn has_quorum(&self) -> bool {
        self.unanswered().is_some_and(|it| it < self.patience)
    }

    /// How long this leader has not been answered by a quorum; none if it does not lead.
    fn unanswered(&self) -> Option<Duration> {
        let raft = self.raft.get()?;
        let (term, acked, alone) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return None;
            }
            let alone = metrics.membership_config.voter_ids().all(|it| it == metrics.id);
            (metrics.current_term, metrics.last_quorum_acked.map(|it| it.elapsed()), alone)
        };
        if alone {
            return Some(Duration::ZERO);
        }
        let led = {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if since.0 != term {
                *since = (term, Instant::now());
            }
            since.1.elapsed()
        };
        Some(acked.map_or(led, |it| it.min(led)))
    }
}

/// Whether a leader is silent so long after the last answer of a quorum.
fn is_silent(unanswered: Duration, patience: Duration, period: Duration) -> bool {
    let Some(late) = unanswered.checked_sub(patience) else { return false };
    (late.as_millis() / period.as_millis().max(1)).is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_attempts_take_turns_once_patience_is_over() {
        let silent = |after| {
            let [after, patience, period] = [after, 900, 2000].map(Duration::from_millis);
            is_silent(after, patience, period)
        };
        assert!(!silent(0));
        assert!(!silent(899));
        assert!(silent(900));
        assert!(silent(2899));
        assert!(!silent(2900));
        assert!(!silent(4899));
        assert!(silent(4900));
    }
}
