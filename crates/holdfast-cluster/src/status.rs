//! The nodes as an operator sees them.

use std::time::Duration;

use futures_util::future::join_all;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use holdfast_engine::replicated::{MemberState, NodeId};
use holdfast_peer::Lane;

use crate::messages::{NODES, decode, encode};
use crate::node::Node;

/// One node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its Raft id.
    pub id: NodeId,
    /// Its configured name.
    pub name: String,
    /// What it is in the Raft group.
    pub role: Role,
    /// The term of whoever reports.
    pub term: u64,
    /// How it is; none before it has joined.
    pub state: Option<MemberState>,
    /// Its generation; 0 before it has joined.
    pub generation: u64,
    /// How many entries it is behind the leader's log. Known to the leader alone.
    pub commit_lag: Option<u64>,
    /// Milliseconds since it was last granted a lease. Known to the leader alone.
    pub last_heard_ms: Option<u64>,
    /// `host:port` of its cluster listener.
    pub peer: String,
    /// `host:port` of its client listener.
    pub client: String,
    /// `host:port` of its admin listener.
    pub admin: String,
    /// The gateway's version that it runs.
    pub version: String,
}

/// What a node is in the Raft group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes.
    Follower,
    /// Gets the log and does not vote.
    Learner,
    /// Not in the group any more.
    Gone,
}

impl Node {
    /// As the leader sees them; if it cannot be asked, as this node does.
    pub(crate) async fn nodes(&self) -> Vec<NodeStatus> {
        let leadership = *self.leadership.borrow();
        if let Some(leader) = leadership.leader.filter(|_| !leadership.me)
            && let Ok(body) = encode(&())
        {
            let within = self.options.failover_timeout;
            let answer = self.wire.call(leader, Lane::Control, NODES, body, within).await;
            if let Some(nodes) = answer.ok().and_then(|it| decode(&it).ok()) {
                return nodes;
            }
        }
        self.local_nodes()
    }

    /// The names of the other nodes that do not answer this one within the time. They are asked all at once.
    pub(crate) async fn silent(&self, within: Duration) -> Vec<String> {
        let others = self.local_nodes().into_iter();
        let others = others.filter(|it| it.id != self.me && it.role != Role::Gone);
        let asked = others.map(|it| async move {
            let body = encode(&()).ok()?;
            let answer = self.wire.call(it.id, Lane::Control, NODES, body, within).await;
            answer.is_err().then_some(it.name)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    pub(crate) fn local_nodes(&self) -> Vec<NodeStatus> {
        let (term, leader, last, replication, membership) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let leader = match metrics.state {
                ServerState::Leader => Some(metrics.id),
                _ => metrics.current_leader,
            };
            let replication = metrics.replication.clone();
            let membership = metrics.membership_config.clone();
            (metrics.current_term, leader, metrics.last_log_index, replication, membership)
        };
        let state = self.applied.control().borrow().clone();
        let mut ids: Vec<NodeId> = state.members.keys().copied().collect();
        ids.extend(membership.nodes().map(|(id, _)| *id));
        ids.sort_unstable();
        ids.dedup();
        let of = |id: NodeId| {
            let member = state.members.get(&id);
            let place = membership.get_node(&id);
            let role = if leader == Some(id) {
                Role::Leader
            } else if membership.voter_ids().any(|it| it == id) {
                Role::Follower
            } else if place.is_some() {
                Role::Learner
            } else {
                Role::Gone
            };
            let lag = replication.as_ref().and_then(|it| {
                let matched = it.get(&id)?.as_ref().map_or(0, |it| it.index);
                Some(last.unwrap_or(0).saturating_sub(matched))
            });
            let text = |of: fn(&holdfast_engine::replicated::Member) -> &String| {
                member.map(of).cloned().unwrap_or_default()
            };
            NodeStatus {
                id,
                name: place.map_or_else(|| text(|it| &it.name), |it| it.name.clone()),
                role,
                term,
                state: member.map(|it| it.state),
                generation: member.map_or(0, |it| it.generation),
                commit_lag: lag,
                last_heard_ms: self.heard_ms(id),
                peer: match text(|it| &it.peer) {
                    peer if peer.is_empty() => place.map_or(peer, |it| it.address.clone()),
                    peer => peer,
                },
                client: text(|it| &it.client),
                admin: text(|it| &it.admin),
                version: text(|it| &it.version),
            }
        };
        ids.into_iter().map(of).collect()
    }
}
