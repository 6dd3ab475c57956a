//! Where the nodes are.
//!
//! There are up to three opinions about a node: where it was when it was added to the group, where the
//! configuration says that its name is, and where it said it was when it last joined. The last is the
//! best and may be unknown here, for instance on a node that has been away; so when nobody, or somebody
//! else, is found at one address, the next is tried.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_engine::replicated::{ClusterState, MemberState, NodeId};
use holdfast_peer::{PeerError, Peers};

use crate::types::{Membership, Place};

pub(crate) struct Addresses {
    me: NodeId,
    peers: Arc<Peers>,
    configured: BTreeMap<String, String>,
    known: Mutex<BTreeMap<NodeId, Known>>,
}

#[derive(Default)]
struct Known {
    /// The best first.
    candidates: Vec<String>,
    used: usize,
}

impl Addresses {
    pub(crate) fn new(
        me: NodeId,
        peers: Arc<Peers>,
        configured: BTreeMap<String, String>,
    ) -> Arc<Self> {
        Arc::new(Self { me, peers, configured, known: Mutex::default() })
    }

    /// A node is in the group, and was there when it was added.
    pub(crate) fn placed(&self, node: NodeId, place: &Place) {
        if node == self.me {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&node).is_some_and(|it| it.candidates.contains(&place.address)) {
            return;
        }
        let known = known.entry(node).or_default();
        let configured = self.configured.get(&place.name).cloned();
        known.offer(configured.into_iter().chain([place.address.clone()]));
        self.dial(node, known);
    }

    /// The members as they say they are. Who has left is forgotten, unless it is in the group again, on
    /// its way back.
    pub(crate) fn members(&self, state: &ClusterState, membership: &Membership) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, member) in &state.members {
            if *node == self.me {
                continue;
            }
            if member.state == MemberState::Left {
                if membership.get_node(node).is_none() && known.remove(node).is_some() {
                    self.peers.forget(*node);
                }
                continue;
            }
            let known = known.entry(*node).or_default();
            if known.candidates.first() != Some(&member.peer) {
                known.candidates.retain(|it| *it != member.peer);
                known.candidates.insert(0, member.peer.clone());
                known.used = 0;
                self.dial(*node, known);
            }
        }
    }

    /// A call did not get there: tries the next address, if there is another.
    pub(crate) fn failed(&self, node: NodeId, error: &PeerError) {
        if !matches!(error, PeerError::Refused | PeerError::WrongNode { .. }) {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&node)
            && known.candidates.len() > 1
        {
            known.used = (known.used + 1) % known.candidates.len();
            self.dial(node, known);
        }
    }

    pub(crate) fn of(&self, node: NodeId) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&node)?;
        known.candidates.get(known.used).cloned()
    }

    /// Every address at which a node may be.
    pub(crate) fn candidates(&self, node: NodeId) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&node).map_or_else(Vec::new, |it| it.candidates.clone())
    }

    /// Every address at which somebody of the group may be.
    pub(crate) fn all(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<String> = self.configured.values().cloned().collect();
        all.extend(known.values().flat_map(|it| it.candidates.iter().cloned()));
        all.sort_unstable();
        all.dedup();
        all
    }

    fn dial(&self, node: NodeId, known: &Known) {
        if let Some(address) = known.candidates.get(known.used) {
            self.peers.set_address(node, address.clone());
        }
    }
}

impl Known {
    fn offer(&mut self, addresses: impl Iterator<Item = String>) {
        for address in addresses {
            if !self.candidates.contains(&address) {
                self.candidates.push(address);
            }
        }
    }
}
