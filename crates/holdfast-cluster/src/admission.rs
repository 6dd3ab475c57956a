//! The leader's side of joining and removal: who votes.
//!
//! A new node first becomes a learner and gets the state; then one change makes it a voter and takes
//! away the older incarnations of its name, so that the number of voters stays the same and a majority
//! of the living suffices throughout. While an older incarnation lives there is no newer one: two processes
//! were given one name. Who leaves or dies keeps its vote, to be back soon; only who is removed by name
//! loses it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_engine::replicated::{Body, ControlCommand, MemberState, NodeId, Reply};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::entry::JOINING;
use crate::messages::{JoinAnswer, JoinRequest};
use crate::node::Node;
use crate::types::{Membership, Place};

/// How many entries a new node may be behind when it begins to vote.
const BEHIND: u64 = 64;
/// For one change of the membership.
const CHANGE: Duration = Duration::from_secs(5);

/// Why a member was not taken out of the group.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum RemoveError {
    /// It is neither dead nor has it left.
    #[error("the node is alive: drain and stop it first")]
    Living,
    /// The leader was not found in time.
    #[error("the group could not be asked in time")]
    Unavailable,
    /// It may be done yet; asking again does no harm.
    #[error("not done yet: {0}")]
    Unfinished(String),
}

type Change = ChangeMembers<NodeId, Place>;

impl Node {
    /// Makes a node a voter, if this one leads. To be called again until it is one.
    pub(crate) async fn admit(&self, request: JoinRequest) -> JoinAnswer {
        if !self.leadership.borrow().me {
            return JoinAnswer::Elsewhere { address: self.hello().leader_address };
        }
        let Some(group) = self.group.get() else {
            return JoinAnswer::Again("this node belongs to no group yet".to_owned());
        };
        if request.group.is_some_and(|it| it != group) {
            return JoinAnswer::Refused(
                "the data directory of this node belongs to another group: move it away, and the \
                 node joins as a new member"
                    .to_owned(),
            );
        }
        if self.is_replaced(request.node, &request.place.name) {
            return JoinAnswer::Refused(format!(
                "another directory has joined as {:?} since this one was used: stop one of the two, \
                 and start this one with an empty directory if it is the right one",
                request.place.name,
            ));
        }
        if let Some(taken) = self.is_taken(request.node, &request.place.name) {
            let Place { name, address } = &request.place;
            tracing::debug!(name, address, taken, "a node cannot join: one of its name lives");
            return JoinAnswer::Taken;
        }
        let Ok(_one) = self.admission.try_lock() else {
            return JoinAnswer::Again("another node is joining or leaving".to_owned());
        };
        match self.make_voter(&request).await {
            Ok(()) => JoinAnswer::Voter { group },
            Err(reason) => {
                let name = &request.place.name;
                tracing::info!(node = request.node, name, reason, "a node cannot join yet");
                JoinAnswer::Again(reason)
            }
        }
    }

    /// Whether a newer incarnation has this node's name: this one was a member, and is one no more.
    fn is_replaced(&self, node: NodeId, name: &str) -> bool {
        self.applied.read(|machine, _| {
            let members = &machine.control.members;
            let here = |(id, it): (&NodeId, &holdfast_engine::replicated::Member)| {
                *id != node && it.name == name && it.state != MemberState::Left
            };
            members.get(&node).is_some_and(|it| it.state == MemberState::Left)
                && members.iter().any(here)
        })
    }

    /// Where a living node has this node's name. One whose process is gone is soon known to be dead.
    fn is_taken(&self, node: NodeId, name: &str) -> Option<String> {
        let state = self.applied.control().borrow().clone();
        let lives = |state| matches!(state, MemberState::Ready | MemberState::Draining);
        let mut others = state.members.iter().filter(|(id, it)| **id != node && it.name == name);
        others.find(|(_, it)| lives(it.state)).map(|(_, it)| it.peer.clone())
    }

    async fn make_voter(&self, request: &JoinRequest) -> Result<(), String> {
        let (node, place) = (request.node, &request.place);
        let until = Instant::now() + JOINING * 3 / 4;
        let membership = self.membership();
        if membership.voter_ids().any(|it| it == node) {
            return Ok(());
        }
        self.addresses.placed(node, place);
        if membership.get_node(&node).is_none() {
            tracing::info!(node, name = place.name, address = place.address, "a node joins");
            self.change(self.raft.add_learner(node, place.clone(), false)).await?;
        }
        while self.behind(node)? > BEHIND {
            if self.stop.is_cancelled() || Instant::now() > until {
                return Err("the new node has not got the state in time".to_owned());
            }
            sleep(Duration::from_millis(20)).await;
        }
        let membership = self.membership();
        let older: BTreeSet<NodeId> = membership
            .nodes()
            .filter(|(id, it)| **id != node && it.name == place.name)
            .map(|(id, _)| *id)
            .collect();
        let voting: BTreeSet<NodeId> =
            membership.voter_ids().filter(|it| older.contains(it)).collect();
        let learning = older.difference(&voting).copied().collect();
        let change = Change::Batch(vec![
            Change::AddVoterIds(BTreeSet::from([node])),
            // Those that vote no more are forgotten at the same time.
            Change::RemoveVoters(voting),
            Change::RemoveNodes(learning),
        ]);
        self.change(self.raft.change_membership(change, false)).await
    }

    /// How many entries a node is behind; as many as there are if nothing is known of it yet.
    fn behind(&self, node: NodeId) -> Result<u64, String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(replication) = &metrics.replication else {
            return Err("this node leads no more".to_owned());
        };
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = replication.get(&node).and_then(|it| it.as_ref().map(|it| it.index));
        Ok(matched.map_or(u64::MAX, |it| last.saturating_sub(it)))
    }

    /// Takes a node that is gone out of the group, if this one leads. `None` if it does not.
    pub(crate) async fn dismiss(&self, node: NodeId) -> Option<Result<(), RemoveError>> {
        if !self.leadership.borrow().me {
            return None;
        }
        let Ok(_one) = self.admission.try_lock() else {
            return Some(Err(RemoveError::Unfinished("another node is joining".to_owned())));
        };
        let state = self.applied.control().borrow().members.get(&node).map(|it| it.state);
        if state.is_some_and(MemberState::may_act) {
            return Some(Err(RemoveError::Living));
        }
        Some(self.take_out(node).await.map_err(RemoveError::Unfinished))
    }

    async fn take_out(&self, node: NodeId) -> Result<(), String> {
        let membership = self.membership();
        if membership.get_node(&node).is_some() {
            let one = BTreeSet::from([node]);
            let change = match membership.voter_ids().any(|it| it == node) {
                true => Change::RemoveVoters(one),
                false => Change::RemoveNodes(one),
            };
            self.change(self.raft.change_membership(change, false)).await?;
        }
        let leave = Body::Control(ControlCommand::Leave { node });
        match self.propose(leave, CHANGE).await {
            Ok(Reply::Done { .. } | Reply::Unknown) => Ok(()),
            Ok(reply) => Err(format!("leaving: {reply:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Ends a change of the membership that a former leader has left half done.
    pub(crate) async fn finish_change(&self) {
        if self.membership().get_joint_config().len() < 2 {
            return;
        }
        let Ok(_one) = self.admission.try_lock() else { return };
        let nothing = Change::AddVoters(BTreeMap::new());
        if let Err(reason) = self.change(self.raft.change_membership(nothing, false)).await {
            tracing::info!(reason, "a change of the membership is not finished yet");
        }
    }

    pub(crate) fn membership(&self) -> Membership {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Membership::clone(&metrics.membership_config)
    }

    async fn change<T, E: std::fmt::Display>(
        &self,
        change: impl Future<Output = Result<T, E>>,
    ) -> Result<(), String> {
        match timeout(CHANGE, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the change of the membership takes too long".to_owned()),
        }
    }
}
