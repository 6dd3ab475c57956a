//! All nodes as they are, for the operator's port.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use holdfast_admin::{ClusterView, DrainError, Draining, Figures, Load, NodeView, Nodes, Role};
use holdfast_cluster::{Cluster, NodeStatus, ProposeError};
use holdfast_engine::replicated::{Body, ControlCommand, MemberState, Reply};
use holdfast_peer::Lane;
use holdfast_proxy::Proxy;

use super::inbound::LOAD;

/// How long a node may take to say what it is busy with.
const LOAD_WITHIN: Duration = Duration::from_millis(500);

/// How long the leader may take to say how all are; then it is what this node knows.
const LOOK_WITHIN: Duration = Duration::from_millis(500);

/// How long the group may take to decide that a node drains.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);

pub(crate) struct NodesView {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) proxy: Arc<Proxy>,
    /// The configured names.
    pub(crate) names: Vec<String>,
}

impl NodesView {
    async fn look(&self) -> ClusterView {
        let me = self.cluster.me();
        let peers = self.cluster.peers();
        let known = tokio::time::timeout(LOOK_WITHIN, self.cluster.nodes()).await;
        let known = known.unwrap_or_else(|_| self.cluster.local_nodes());
        let loads = known.iter().map(|node| {
            let (id, peers, gone) = (node.id, Arc::clone(&peers), is_gone(node));
            async move {
                if id == me {
                    return Some(Load::of(&*self.proxy));
                }
                if gone {
                    return None;
                }
                let asked = peers.call(id, Lane::Data, LOAD, Bytes::new(), LOAD_WITHIN).await;
                Load::decode(&asked.ok()?)
            }
        });
        let loads = join_all(loads).await;
        let leadership = *self.cluster.leadership().borrow();
        let leader = leadership.leader;
        let leader = known.iter().find(|node| Some(node.id) == leader);
        let leader = leader.map(|node| node.name.clone());
        let name_of = |id| known.iter().find(|node| node.id == id).map(|node| node.name.clone());
        let view = ClusterView {
            me: name_of(me).unwrap_or_default(),
            has_quorum: self.cluster.lease().holds(),
            leader,
            term: leadership.term,
            nodes: Vec::new(),
        };
        let mut nodes: BTreeMap<String, NodeView> = BTreeMap::new();
        for (node, load) in known.into_iter().zip(loads) {
            // Of several incarnations of a name the one that is there counts.
            let gone = is_gone(&node);
            if gone && nodes.contains_key(&node.name) {
                continue;
            }
            nodes.insert(node.name.clone(), shown(node, load));
        }
        for name in &self.names {
            nodes.entry(name.clone()).or_insert_with(|| never_seen(name));
        }
        ClusterView { nodes: nodes.into_values().collect(), ..view }
    }

    async fn ask_to_drain(&self, name: &str, force: bool) -> Result<Draining, DrainError> {
        let (node, generation) = {
            let state = self.cluster.state();
            let state = state.borrow();
            let Some((node, member)) = state.by_name(name) else {
                return Err(DrainError::Unknown {
                    node: name.to_owned(),
                    known: self.names.clone(),
                });
            };
            let gone = |state| Err(DrainError::Gone { node: name.to_owned(), state });
            match member.state {
                MemberState::Dead => return gone("dead"),
                MemberState::Left => return gone("left"),
                _ => {}
            }
            let others = state.members.iter().filter(|(other, _)| **other != node);
            let ready = others.filter(|(_, it)| it.state == MemberState::Ready).count();
            let all = self.names.len();
            if ready < all / 2 + 1 && !force {
                return Err(DrainError::Majority { node: name.to_owned(), ready, all });
            }
            (node, member.generation)
        };
        let command = ControlCommand::Drain { node, generation };
        let deadline = self.proxy.running().listen.drain_deadline;
        match self.cluster.propose(Body::Control(command), DRAIN_WITHIN).await {
            Ok(Reply::Fenced { .. } | Reply::Unknown) => {
                Err(DrainError::Gone { node: name.to_owned(), state: "dead" })
            }
            Ok(_) => Ok(Draining { generation, deadline }),
            Err(ProposeError::Unknown) => Err(DrainError::TimedOut),
            Err(ProposeError::Unavailable | ProposeError::Fenced) => Err(DrainError::NoQuorum),
        }
    }
}

impl Nodes for NodesView {
    fn nodes(&self) -> BoxFuture<'_, ClusterView> {
        Box::pin(self.look())
    }

    fn drain<'a>(
        &'a self,
        node: &'a str,
        force: bool,
    ) -> BoxFuture<'a, Result<Draining, DrainError>> {
        Box::pin(self.ask_to_drain(node, force))
    }

    fn figures(&self) -> Figures {
        let leadership = *self.cluster.leadership().borrow();
        let counts = self.cluster.counters().read();
        let state = self.cluster.state();
        let state = state.borrow();
        let count =
            |wanted| state.members.values().filter(|member| member.state == wanted).count() as u64;
        Figures {
            leader: leadership.me,
            lease: self.cluster.lease().holds(),
            term: leadership.term,
            generation: self.cluster.origin().generation,
            ready: count(MemberState::Ready),
            draining: count(MemberState::Draining),
            suspect: count(MemberState::Suspect),
            dead: count(MemberState::Dead),
            refused: counts.garbage + counts.unproven + counts.timed_out,
        }
    }
}

fn is_gone(node: &NodeStatus) -> bool {
    matches!(node.state, Some(MemberState::Dead | MemberState::Left) | None)
}

fn shown(node: NodeStatus, load: Option<Load>) -> NodeView {
    use holdfast_cluster::Role as Part;
    NodeView {
        id: Some(node.id),
        role: match node.role {
            Part::Leader => Some(Role::Leader),
            Part::Follower => Some(Role::Follower),
            Part::Learner => Some(Role::Learner),
            Part::Gone => None,
        },
        term: Some(node.term),
        state: node.state,
        generation: node.generation,
        commit_lag: node.commit_lag,
        last_heard: node.last_heard_ms.map(Duration::from_millis),
        load,
        version: node.version,
        client: node.client,
        admin: node.admin,
        name: node.name,
    }
}

fn never_seen(name: &str) -> NodeView {
    NodeView {
        name: name.to_owned(),
        id: None,
        role: None,
        term: None,
        state: None,
        generation: 0,
        commit_lag: None,
        last_heard: None,
        load: None,
        version: String::new(),
        client: String::new(),
        admin: String::new(),
    }
}
