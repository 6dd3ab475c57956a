//! The parts of a running node, and what runs beside them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_engine::replicated::{Body, ControlCommand, MemberState, NodeId, Origin};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::admission::RemoveError;
use crate::coordinator::Book;
use crate::gate::Gate;
use crate::group::Group;
use crate::leadership::Leadership;
use crate::lease::Lease;
use crate::messages::{REMOVE, decode, encode};
use crate::options::Options;
use crate::proposals::Serials;
use crate::reads::Asker;
use crate::state_machine::Applied;
use crate::store::Log;
use crate::types::{Place, Raft};
use crate::wire::Wire;

/// With more than this in the log, it is made shorter before its time.
const LONG_LOG: usize = 128 << 20;

pub(crate) struct Node {
    pub(crate) options: Options,
    pub(crate) me: NodeId,
    pub(crate) place: Place,
    pub(crate) raft: Raft,
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) group: Arc<Group>,
    pub(crate) gate: Arc<Gate>,
    /// Given up at the stop: the directory is free once nobody holds it.
    pub(crate) log: Mutex<Option<Log>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) origin: watch::Sender<Origin>,
    pub(crate) lease: Lease,
    pub(crate) frozen: watch::Sender<u64>,
    pub(crate) failed: watch::Sender<Option<String>>,
    /// Why this node cannot join until somebody does something about it.
    pub(crate) hindered: watch::Sender<Option<String>>,
    pub(crate) serials: Serials,
    pub(crate) reads: mpsc::UnboundedSender<Asker>,
    pub(crate) book: Mutex<Option<Book>>,
    /// One change of the membership at a time.
    pub(crate) admission: tokio::sync::Mutex<()>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// This node has left, or is about to: it asks for no lease and joins no more. It still votes.
    pub(crate) left: CancellationToken,
}

impl Node {
    /// Keeps the address book up to date.
    pub(crate) async fn run_addresses(&self) {
        let mut control = self.applied.control();
        let mut metrics = self.raft.metrics();
        let mut seen = None;
        loop {
            let membership = metrics.borrow_watched().membership_config.clone();
            if seen.as_ref() != Some(membership.log_id()) {
                seen = Some(*membership.log_id());
                for (node, place) in membership.nodes() {
                    self.addresses.placed(*node, place);
                }
            }
            let state = control.borrow_and_update().clone();
            self.addresses.members(&state, &membership);
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                changed = control.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Keeps the log from growing beyond what memory should hold.
    pub(crate) async fn run_housekeeping(&self) {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let bytes = {
                let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                log.as_ref().map_or(0, Log::bytes)
            };
            if bytes < LONG_LOG {
                continue;
            }
            let snapshot = self.raft.metrics().borrow_watched().snapshot;
            let trigger = self.raft.trigger();
            // Both only ask; an error means that Raft has ended, which is reported elsewhere.
            if let Some(snapshot) = snapshot {
                let _ = trigger.purge_log(snapshot.index).await;
            }
            let _ = trigger.snapshot().await;
        }
    }

    /// Hands leadership to the voter that is furthest on, if this node leads; never to one of `avoid`.
    /// Whether it leads no more.
    pub(crate) async fn transfer_leadership(&self, avoid: &BTreeSet<NodeId>) -> bool {
        if !self.leadership.borrow().me {
            return true;
        }
        let Some(to) = self.successor(avoid) else { return false };
        tracing::info!(to, "hands leadership over");
        if self.raft.trigger().transfer_leader(to).await.is_err() {
            return false;
        }
        let mut leadership = self.leadership.clone();
        let within = self.options.failover_timeout * 3;
        matches!(timeout(within, leadership.wait_for(|it| !it.me)).await, Ok(Ok(_)))
    }

    fn successor(&self, avoid: &BTreeSet<NodeId>) -> Option<NodeId> {
        let able: BTreeSet<NodeId> = {
            let state = self.applied.control();
            let state = state.borrow();
            let ready = state.members.iter().filter(|(_, it)| it.state == MemberState::Ready);
            ready.map(|(id, _)| *id).collect()
        };
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let voters = metrics.membership_config.voter_ids();
        let voters = voters.filter(|it| *it != self.me && !avoid.contains(it));
        let matched =
            |it: &NodeId| replication.get(it).and_then(|it| it.as_ref().map(|it| it.index));
        voters.max_by_key(|it| (able.contains(it), matched(it)))
    }

    /// Says goodbye. Whether the group has taken that in.
    pub(crate) async fn leave(&self) -> bool {
        self.lease.set(None);
        self.left.cancel();
        if !self.transfer_leadership(&BTreeSet::new()).await {
            tracing::info!("leaves while it leads: nobody could take over");
        }
        let leave = Body::Control(ControlCommand::Leave { node: self.me });
        let reply = self.propose(leave, self.options.failover_timeout * 3).await;
        // What else may be replied (it was declared dead, or replaced) comes to the same.
        reply.is_ok()
    }

    /// Has the leader take a member that is gone out of the group.
    pub(crate) async fn remove(&self, node: NodeId) -> Result<(), RemoveError> {
        let until = Instant::now() + self.options.failover_timeout * 10;
        let mut last = RemoveError::Unavailable;
        while Instant::now() < until {
            let leader = self.leadership.borrow().leader;
            let answer: Option<Result<(), RemoveError>> = match leader {
                Some(leader) if leader == self.me => self.dismiss(node).await,
                Some(leader) => {
                    let within = self.options.failover_timeout * 5;
                    let Ok(body) = encode(&node) else { return Err(last) };
                    let lane = holdfast_peer::Lane::Control;
                    let answer = self.wire.call(leader, lane, REMOVE, body, within).await;
                    answer.ok().and_then(|it| decode(&it).ok()).flatten()
                }
                None => None,
            };
            match answer {
                Some(Ok(())) => return Ok(()),
                Some(Err(RemoveError::Living)) => return Err(RemoveError::Living),
                Some(Err(error)) => last = error,
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(last)
    }
}
