//! What the data plane knows of a cluster: the state that all nodes agree on, as last heard, and this
//! node's own footing in it.
//!
//! Nothing here waits for a quorum. The state is read from a watch channel, and without a quorum it
//! is simply the last one: what needs the group (a new session, a Write's journal entry) fails by
//! itself, and everything else goes on.
//!
//! | file | holds |
//! |---|---|
//! | `follow` | what the cluster tells this node, and what the node does about it |
//! | `forward` | a request on its way to the node that holds what it needs |
//! | `receive` | the same request where it arrives |
//! | `notes` | small messages between nodes: hand over a standing stream, a session has ended, a call is cancelled, an instance is barred, the store answers |

mod follow;
mod forward;
mod notes;
mod receive;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::replicated::{ClusterState, MemberState, NodeId, Origin};
use holdfast_peer::Peers;
use tokio::sync::{SetOnce, mpsc, watch};

pub(crate) use self::follow::{follow, keep};
pub(crate) use self::forward::{Forwarding, Lost, Relayed, forward};
pub(crate) use self::notes::{
    ASKED_WITHIN, Released, answer, ask_for_store, ask_to_release, nobody_has, tell_cancelled,
    tell_ended,
};
pub(crate) use self::receive::serve;
pub use self::receive::{Cut, Forwarded};

/// This node's own footing in its cluster, as the data plane asks for it on the path of a call:
/// every method answers at once.
pub trait Footing: Send + Sync + 'static {
    /// The member that this node is, with its present generation.
    fn origin(&self) -> Origin;
    /// Whether the group has granted this node a lease that still runs.
    fn has_lease(&self) -> bool;
    /// Whether this node is the coordinator, as far as it knows.
    fn is_coordinator(&self) -> bool;
    /// Why this node cannot join until somebody does something about it, and what. Without addresses.
    fn hindrance(&self) -> Option<String>;
}

/// A change of a key in the replicated store, as this node applied it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The entry of this key was written or removed.
    Key(Vec<u8>),
    /// So much has changed that the single keys were not told.
    Everything,
}

/// What a cluster gives the data plane of its node.
pub struct Clustered {
    /// The members as last heard.
    pub state: watch::Receiver<Arc<ClusterState>>,
    /// This node's own footing.
    pub footing: Arc<dyn Footing>,
    /// The way to the other nodes.
    pub peers: Arc<Peers>,
    /// Changes of the store as they are applied here.
    pub changes: mpsc::UnboundedReceiver<Changed>,
    /// Counts how often this process has found itself frozen for longer than the failover timeout.
    pub frozen: watch::Receiver<u64>,
    /// How long a node may be silent before the others take over.
    pub failover_timeout: Duration,
}

/// The part of [`Clustered`] that calls use.
pub(crate) struct Cluster {
    state: watch::Receiver<Arc<ClusterState>>,
    footing: Arc<dyn Footing>,
    /// When a check of its health has last seen this node with a lease.
    leased: Mutex<Option<Instant>>,
    /// Whether this node knows what the others have learnt of the servers' tools.
    learnt: SetOnce<()>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) failover_timeout: Duration,
}

/// What housekeeping takes out of [`Clustered`].
pub(crate) struct Feeds {
    pub(crate) changes: mpsc::UnboundedReceiver<Changed>,
    pub(crate) frozen: watch::Receiver<u64>,
}

impl Clustered {
    pub(crate) fn split(self) -> (Cluster, Feeds) {
        let Self { state, footing, peers, changes, frozen, failover_timeout } = self;
        let (leased, learnt) = (Mutex::default(), SetOnce::new());
        let cluster = Cluster { state, footing, leased, learnt, peers, failover_timeout };
        (cluster, Feeds { changes, frozen })
    }
}

/// How long a call waits at the start of a node for what the others know of its tool.
const LEARNING: Duration = Duration::from_secs(2);

// === impl Cluster ===

impl Cluster {
    pub(crate) fn me(&self) -> Origin {
        self.footing.origin()
    }

    pub(crate) fn has_lease(&self) -> bool {
        self.footing.has_lease()
    }

    /// Whether it has a lease, or had one a moment ago. Between two leaders nobody has one: that is a
    /// pause for every node alike, and no reason for a balancer to send nobody anything.
    pub(crate) fn is_leased_or_was(&self, now: Instant) -> bool {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_lease() {
            *leased = Some(now);
            return true;
        }
        leased.is_some_and(|last| now.saturating_duration_since(last) < self.failover_timeout * 3)
    }

    /// From here on calls are told apart by what all nodes have learnt of their tools.
    pub(crate) fn has_learnt(&self) {
        let _ = self.learnt.set(());
    }

    /// Waits for that at the start of a node, for a moment: a tool that it does not know counts as one
    /// that writes.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn learnt(&self) {
        if self.learnt.get().is_none() {
            let _ = tokio::time::timeout(LEARNING, self.learnt.wait()).await;
        }
    }

    pub(crate) fn is_coordinator(&self) -> bool {
        self.footing.is_coordinator()
    }

    /// Why this node cannot join until somebody does something about it.
    pub(crate) fn hindrance(&self) -> Option<String> {
        self.footing.hindrance()
    }

    /// The state, for who waits for it to change.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// Whether this member may still act, as far as this node has heard.
    pub(crate) fn may_run(&self, origin: Origin) -> bool {
        self.state.borrow().may_run(origin)
    }

    /// Whether this member may keep what it holds: one that drains gives it to whoever asks next.
    pub(crate) fn may_hold(&self, origin: Origin) -> bool {
        let state = self.state.borrow();
        let drains = state.members.get(&origin.node).is_some_and(|member| {
            member.generation == origin.generation && member.state == MemberState::Draining
        });
        state.may_run(origin) && !drains
    }

    /// The other nodes that may hold something, with the generation in which they do.
    pub(crate) fn others(&self) -> Vec<Origin> {
        let me = self.me().node;
        let state = self.state.borrow();
        let acting = |state: MemberState| !matches!(state, MemberState::Dead | MemberState::Left);
        state
            .members
            .iter()
            .filter(|(node, member)| **node != me && acting(member.state))
            .map(|(node, member)| Origin { node: *node, generation: member.generation })
            .collect()
    }

    /// The node of this Raft id in its present generation, if it may act.
    pub(crate) fn present(&self, node: NodeId) -> Option<Origin> {
        let state = self.state.borrow();
        let generation = state.members.get(&node)?.generation;
        let origin = Origin { node, generation };
        state.is_current(origin).then_some(origin)
    }

    /// Waits until the group has declared that `origin` does not act any more, for at most `limit`;
    /// whether it has.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn fallen(&self, origin: Origin, limit: Duration) -> bool {
        let mut state = self.state.clone();
        let gone = state.wait_for(|state| !state.may_run(origin));
        tokio::time::timeout(limit, gone).await.is_ok_and(|gone| gone.is_ok())
    }
}

impl std::fmt::Debug for Clustered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clustered").field("me", &self.footing.origin()).finish_non_exhaustive()
    }
}
