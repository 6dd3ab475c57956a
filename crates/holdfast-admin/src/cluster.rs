//! What the operator's port knows of a cluster: something that can be looked at, and asked to drain
//! a node.
//!
//! The binary implements [`Nodes`] over the Raft group and the way between the nodes; here neither is
//! known, so that the API, the page and their tests need no cluster. A node that runs alone has no
//! [`Nodes`] at all.

use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_engine::health::node::Level;
use holdfast_engine::replicated::MemberState;
use holdfast_proxy::report::Observed;

/// The nodes of the cluster, as this one sees them.
pub trait Nodes: Send + Sync + 'static {
    /// Every node and what it is busy with, this one included, in the order of their names. What a
    /// node cannot be asked for within half a second is left out, so that one dead node never hides
    /// the others.
    fn nodes(&self) -> BoxFuture<'_, ClusterView>;

    /// Asks the group to drain the node of this name. Draining again what drains already is no error.
    /// `force`: even if what is left is no majority.
    fn drain<'a>(
        &'a self,
        node: &'a str,
        force: bool,
    ) -> BoxFuture<'a, Result<Draining, DrainError>>;

    /// What the metrics say, from this node's own memory.
    fn figures(&self) -> Figures;
}

/// The cluster as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterView {
    /// The name of the node that looks.
    pub me: String,
    /// Whether the group can decide, as far as this node has heard within the failover timeout.
    pub has_quorum: bool,
    /// The coordinator's name, if one is known.
    pub leader: Option<String>,
    /// The group's term, as far as this node knows.
    pub term: u64,
    /// One per name, in the order of the names.
    pub nodes: Vec<NodeView>,
}

/// One node as another sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeView {
    /// Its configured name.
    pub name: String,
    /// Its Raft id; none for a node that is configured and has never joined.
    pub id: Option<u64>,
    /// Its part in the group; none when nobody knows.
    pub role: Option<Role>,
    /// The term that it is in, if it has said so.
    pub term: Option<u64>,
    /// What the group says of it; none for a node that has never joined.
    pub state: Option<MemberState>,
    /// Its generation, from 1; 0 for a node that has never joined.
    pub generation: u64,
    /// How many entries of the log it is behind; none when nobody knows.
    pub commit_lag: Option<u64>,
    /// How long ago the coordinator, or this node, has heard of it.
    pub last_heard: Option<Duration>,
    /// What it is busy with; none when it does not answer.
    pub load: Option<Load>,
    /// Its version of the gateway.
    pub version: String,
    /// Where clients reach it.
    pub client: String,
    /// Where the operator reaches it.
    pub admin: String,
}

/// A node's part in the Raft group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It decides for all: the coordinator.
    Leader,
    /// It votes.
    Follower,
    /// It follows and does not vote yet.
    Learner,
}

/// What a node is busy with: what nodes tell one another for the operator's eyes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Client sessions that it has in hand.
    pub sessions: u64,
    /// Calls in it.
    pub in_flight: u64,
    /// How bad the worst reading of the node itself is; none from a version that does not say.
    pub level: Option<Level>,
}

/// A node that has been asked to drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draining {
    /// The generation that drains; a higher one is the node after it came back.
    pub generation: u64,
    /// How long its running calls may take to end.
    pub deadline: Duration,
}

/// Why a node does not drain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DrainError {
    /// No node has that name.
    #[error("no node is called {node:?}; there are {}", .known.join(", "))]
    Unknown {
        /// What was asked for.
        node: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// It has left or died.
    #[error("{node} is {state} already: it takes no traffic")]
    Gone {
        /// The node.
        node: String,
        /// `dead` or `left`.
        state: &'static str,
    },
    /// Without it there would be no majority.
    #[error(
        "without {node} {ready} of {all} nodes are ready, and a majority is {}: nothing could be \
         decided until another one comes back. Start that one first; --force drains all the same", .all / 2 + 1
    )]
    Majority {
        /// The node.
        node: String,
        /// Others that are ready.
        ready: usize,
        /// Nodes of the configuration.
        all: usize,
    },
    /// Too few nodes are there to decide anything.
    #[error(
        "the cluster has no quorum: nothing can be decided until a majority of its nodes is there"
    )]
    NoQuorum,
    /// The group did not answer in time; it may do so yet.
    #[error(
        "the cluster did not answer in time; the node may drain yet: look with `holdfast nodes`"
    )]
    TimedOut,
}

/// What the metrics say of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Whether this node is the coordinator.
    pub leader: bool,
    /// Whether it holds a lease: the group has heard of it within the failover timeout.
    pub lease: bool,
    /// The term that it is in.
    pub term: u64,
    /// Its own generation.
    pub generation: u64,
    /// Members that are ready.
    pub ready: u64,
    /// Members that drain.
    pub draining: u64,
    /// Members of which nothing has been heard for a while.
    pub suspect: u64,
    /// Members that were declared dead.
    pub dead: u64,
    /// Connections to the cluster port that were refused since the start: no secret, or garbage.
    pub refused: u64,
}

// === impl Load ===

impl Load {
    /// What this node is busy with.
    #[must_use]
    pub fn of(node: &dyn Observed) -> Self {
        let report = node.report();
        let count = |n: usize| n as u64;
        Self {
            sessions: count(report.usage.sessions.now),
            in_flight: count(report.usage.in_flight.now),
            level: Some(report.level),
        }
    }

    /// As one node tells another.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = [self.sessions.to_be_bytes(), self.in_flight.to_be_bytes()].concat();
        bytes.extend(self.level.map(|level| level as u8));
        bytes
    }

    /// Reads what [`Self::encode`] wrote; more after it is of a later version and skipped.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (sessions, rest) = bytes.split_first_chunk()?;
        let (in_flight, rest) = rest.split_first_chunk()?;
        let (sessions, in_flight) = (u64::from_be_bytes(*sessions), u64::from_be_bytes(*in_flight));
        let level = rest.first().map(|level| Level::from_number(*level));
        Some(Self { sessions, in_flight, level })
    }
}

impl Role {
    /// `leader`, `follower` or `learner`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }
}

/// The word for a member's state.
#[must_use]
pub fn state_label(state: MemberState) -> &'static str {
    match state {
        MemberState::Ready => "ready",
        MemberState::Draining => "draining",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "dead",
        MemberState::Left => "left",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_survives_the_way_to_another_node() {
        let level = Some(Level::Critical);
        let load = Load { sessions: 1_234, in_flight: u64::MAX, level };
        assert_eq!(Load::decode(&load.encode()), Some(load));
        let longer = [load.encode(), vec![1, 2, 3]].concat();
        assert_eq!(Load::decode(&longer), Some(load));
        assert_eq!(Load::decode(&load.encode()[..15]), None);
        let earlier = Load { level: None, ..load };
        assert_eq!(Load::decode(&load.encode()[..16]), Some(earlier), "of an earlier version");
        assert_eq!(Load::decode(b""), None);
    }
}
