//! What openraft is told about this group: the entries, the replies, who the nodes are.
//!
//! Leader ids follow standard Raft, so that there is at most one leader per term: the term is the
//! fencing token of the coordinator, and two leaders of one term would share it.

use std::fmt;

use holdfast_engine::replicated::{Command, NodeId, Reply};
use openraft::alias;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The types of the group.
    pub(crate) Types:
        D = Proposal,
        R = Outcome,
        NodeId = NodeId,
        Node = Place,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type Payload = alias::PayloadOf<Types>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type Membership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = alias::SnapshotOf<Types, bytes::Bytes>;
pub(crate) type Raft = openraft::Raft<Types, crate::state_machine::StateMachine>;

/// A command as an entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Command);

/// What applying an entry gave; nothing for the entries that are Raft's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome(pub(crate) Option<Reply>);

/// Who a Raft id is and where it was when it was added to the group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The configured name.
    pub(crate) name: String,
    /// `host:port` of its cluster listener. A later address is in the replicated state.
    pub(crate) address: String,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values stay out of logs.
        let Command { origin, serial, .. } = &self.0;
        write!(f, "{}/{} #{serial}", origin.node, origin.generation)
    }
}
