//! How a node gets into the group.
//!
//! * It knows a leader, which says that it is a voter: it is in.
//! * Somebody it can reach has a log: it asks the leader to be made a voter.
//! * Nobody has: the node with the lowest configured name founds the group, once all configured nodes
//!   have said that they have no log; or a majority, and the rest has been silent for a while. The rest
//!   joins when it comes.
//!
//! A node whose directory was emptied is new like any other, under a new id. It cannot found a second
//! group while one that has a log answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_engine::replicated::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::sleep;

use crate::messages::{HELLO, Hello, JOIN, JoinAnswer, JoinRequest, decode, encode};
use crate::node::Node;
use crate::types::Place;

/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a configured node that does not answer is waited for before a majority founds the group.
const ABSENT: Duration = Duration::from_secs(10);
/// How often an answer may point to another node.
const HOPS: usize = 3;

/// Somebody who answered, and where.
struct Found {
    address: String,
    hello: Hello,
}

impl Node {
    /// Returns once the leader has said that this node is a voter, or why it never will be.
    ///
    /// What its own log says is not enough: a node that was removed while it was away does not find that
    /// there, and neither does it find who leads now.
    pub(crate) async fn become_voter(&self) -> Result<(), String> {
        let began = Instant::now();
        let patience = self.options.failover_timeout * 3;
        loop {
            if self.ask_leader().await? {
                return Ok(());
            }
            let (voter, initialized) = self.standing();
            if !voter || began.elapsed() > patience {
                let found = self.ask_around().await;
                self.check_group(&found, initialized)?;
                let asked = self.ask_to_join(&found).await?;
                if !asked && !initialized {
                    self.found_group(&found, began.elapsed() > ABSENT).await;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks the leader that this node knows, if any. Whether it is a voter and knows it.
    async fn ask_leader(&self) -> Result<bool, String> {
        let leadership = *self.leadership.borrow();
        let Some(leader) = leadership.leader else { return Ok(false) };
        let request = self.join_request();
        let answer = if leadership.me {
            self.admit(request).await
        } else if leader == self.me {
            // What it was before its restart.
            return Ok(false);
        } else {
            let Ok(body) = encode(&request) else { return Ok(false) };
            let lane = holdfast_peer::Lane::Control;
            // One who is a voter is told at once; a new one waits by the other way, below.
            match self.wire.call(leader, lane, JOIN, body, self.options.failover_timeout).await {
                Ok(answer) => decode::<JoinAnswer>(&answer)?,
                Err(_) => return Ok(false),
            }
        };
        match answer {
            JoinAnswer::Voter { .. } => {
                self.hindered.send_replace(None);
                Ok(self.standing().0)
            }
            JoinAnswer::Refused(reason) => Err(reason),
            JoinAnswer::Elsewhere { .. } | JoinAnswer::Again(_) => Ok(false),
            JoinAnswer::Taken => {
                self.is_hindered();
                Ok(false)
            }
        }
    }

    /// Another process has this node's name. Said once.
    fn is_hindered(&self) {
        let name = &self.options.name;
        let reason = format!(
            "another process is in the cluster as {name:?}, and alive: stop it, or give this one a name of its \
             own (HA_NODE_ID, cluster.node_id)"
        );
        let anew = self.hindered.send_replace(Some(reason.clone())).is_none();
        if anew {
            let (at, configured) = (&self.place.address, self.options.nodes.get(name));
            tracing::warn!(reason, at, configured, "this node cannot join the cluster");
        }
    }

    fn join_request(&self) -> JoinRequest {
        JoinRequest { node: self.me, place: self.place.clone(), group: self.group.get() }
    }

    /// Whether this node is a voter as far as it knows, and whether it has a log.
    fn standing(&self) -> (bool, bool) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voter = metrics.membership_config.voter_ids().any(|it| it == self.me);
        let initialized = metrics.last_log_index.is_some() || metrics.current_term > 0;
        (voter, initialized)
    }

    pub(crate) fn hello(&self) -> Hello {
        let (_, initialized) = self.standing();
        let leader = self.leadership.borrow().leader;
        let leader_address = leader.and_then(|it| match it == self.me {
            true => Some(self.place.address.clone()),
            false => self.addresses.of(it),
        });
        Hello {
            node: self.me,
            name: self.options.name.clone(),
            group: self.group.get(),
            initialized,
            leader,
            leader_address,
        }
    }

    async fn ask_around(&self) -> Vec<Found> {
        let within = self.options.failover_timeout.max(Duration::from_secs(1));
        let Ok(body) = encode(&()) else { return Vec::new() };
        let addresses = self.addresses.all().into_iter().filter(|it| *it != self.place.address);
        let asked = addresses.map(|address| {
            let body = body.clone();
            async move {
                let answer = self.wire.call_address(&address, HELLO, body, within).await;
                let hello = answer.ok().and_then(|it| decode::<Hello>(&it).ok())?;
                (hello.node != self.me).then_some(Found { address, hello })
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// A log of one group in the midst of another: neither may touch the other.
    fn check_group(&self, found: &[Found], initialized: bool) -> Result<(), String> {
        let Some(mine) = self.group.get().filter(|_| initialized) else { return Ok(()) };
        let others: Vec<_> = found.iter().filter_map(|it| it.hello.group).collect();
        if others.is_empty() || others.contains(&mine) {
            return Ok(());
        }
        Err("the data directory of this node belongs to another group than all other nodes: move it \
             away, and the node joins as a new member"
            .to_owned())
    }

    /// Whether there is a group to be joined; then its leader was asked.
    async fn ask_to_join(&self, found: &[Found]) -> Result<bool, String> {
        let mine = self.group.get();
        let member =
            |it: &&Found| it.hello.initialized && (mine.is_none() || it.hello.group == mine);
        let Some(first) = found.iter().filter(member).max_by_key(|it| it.hello.leader.is_some())
        else {
            return Ok(false);
        };
        let mut address = match &first.hello.leader_address {
            Some(leader) => leader.clone(),
            None => first.address.clone(),
        };
        let Ok(body) = encode(&self.join_request()) else { return Ok(true) };
        for _ in 0..HOPS {
            let within = JOINING;
            let answer = self.wire.call_address(&address, JOIN, body.clone(), within).await;
            let answer = match answer {
                Ok(answer) => decode::<JoinAnswer>(&answer),
                Err(error) => Err(error.to_string()),
            };
            match answer {
                Ok(JoinAnswer::Voter { group }) => {
                    self.hindered.send_replace(None);
                    if let Err(error) = self.group.adopt(group).await {
                        tracing::warn!(%error, "joining the cluster");
                    }
                    return Ok(true);
                }
                Ok(JoinAnswer::Elsewhere { address: Some(other) }) if other != address => {
                    address = other;
                }
                Ok(JoinAnswer::Refused(reason)) => return Err(reason),
                Ok(JoinAnswer::Elsewhere { .. }) => return Ok(true),
                Ok(JoinAnswer::Taken) => {
                    self.is_hindered();
                    return Ok(true);
                }
                Ok(JoinAnswer::Again(reason)) | Err(reason) => {
                    tracing::debug!(reason, address, "joining the cluster: not yet");
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    async fn found_group(&self, found: &[Found], waited: bool) {
        let names: Vec<&String> = self.options.nodes.keys().collect();
        if names.first().is_some_and(|it| **it < self.options.name) {
            return;
        }
        let mut founders: BTreeMap<NodeId, Place> = BTreeMap::new();
        founders.insert(self.me, self.place.clone());
        let mut answered = 1;
        for name in names.iter().filter(|it| ***it != self.options.name) {
            let Some(one) = found.iter().find(|it| it.hello.name == **name) else { continue };
            let foreign = one.hello.group.is_some_and(|it| self.group.get() != Some(it));
            if one.hello.initialized || foreign {
                return;
            }
            let place = Place { name: (*name).clone(), address: one.address.clone() };
            founders.insert(one.hello.node, place);
            answered += 1;
        }
        let configured = names.len().max(1);
        if answered < configured && !(waited && answered * 2 > configured) {
            return;
        }
        let group = match self.group.get() {
            Some(group) => Ok(group),
            None => crate::random(),
        };
        let founded = async {
            let group = group.map_err(|error| error.to_string())?;
            self.group.adopt(group).await.map_err(|error| error.to_string())?;
            let nodes: Vec<&str> = founders.values().map(|it| it.name.as_str()).collect();
            tracing::info!(?nodes, "founds the cluster");
            self.raft.initialize(founders.clone()).await.map_err(|error| error.to_string())
        };
        if let Err(error) = founded.await {
            tracing::warn!(error, "cannot found the cluster");
        }
    }
}

/// How long a join may take at the leader: the new node gets the state first.
pub(crate) const JOINING: Duration = Duration::from_secs(30);
