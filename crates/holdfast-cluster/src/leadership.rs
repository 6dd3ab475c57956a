//! Who leads, as this node knows; and whether this node's Raft has failed for good.

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use holdfast_engine::replicated::NodeId;

use crate::types::Raft;

/// Who leads. A hint: a leader that has been cut off learns of its successor late.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The term. There is at most one leader in a term.
    pub term: u64,
    /// Whether it is this node.
    pub me: bool,
}

/// Follows openraft's metrics until the stop.
pub(crate) async fn follow(
    raft: Raft,
    leadership: watch::Sender<Leadership>,
    failed: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let mut metrics = raft.metrics();
    loop {
        // The borrowed value is given back before anything is awaited: openraft's core waits for it.
        let (now, fatal) = {
            let metrics = metrics.borrow_watched();
            let me = metrics.state == ServerState::Leader;
            let leader = if me { Some(metrics.id) } else { metrics.current_leader };
            let now = Leadership { leader, term: metrics.current_term, me };
            (now, metrics.running_state.as_ref().err().cloned())
        };
        leadership.send_if_modified(|it| std::mem::replace(it, now) != now);
        if let Some(fatal) = fatal
            && !stop.is_cancelled()
            && fatal != Fatal::Stopped
        {
            tracing::error!(error = %fatal, "raft has failed: this process has to end");
            fail(&failed, format!("raft has failed: {fatal}"));
            leadership.send_replace(Leadership { leader: None, me: false, ..now });
            return;
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            () = stop.cancelled() => break,
        }
    }
    leadership.send_modify(|it| (it.leader, it.me) = (None, false));
}

/// Records the first failure; later ones follow from it.
pub(crate) fn fail(failed: &watch::Sender<Option<String>>, reason: String) {
    failed.send_if_modified(|it| it.is_none() && it.replace(reason).is_none());
}
