//! Who belongs to the cluster, in which life and state, and what happened to whom lately.
//!
//! | from \ by | `Join` | suspect | ready | dead | `Drain` | `Leave` |
//! |---|---|---|---|---|---|---|
//! | Ready | Ready, next generation | Suspect | Ready | Dead | Draining | Left |
//! | Suspect | Ready, next generation | Suspect | Ready | Dead | Draining | Left |
//! | Draining | Ready, next generation | Draining | Draining | Dead | Draining | Left |
//! | Dead | Ready, next generation | fenced | fenced | Dead | fenced | Left |
//! | Left | Ready, next generation | fenced | fenced | fenced | fenced | Left |
//!
//! Beside them the Redis server that is the store, where there is one: adopted by the coordinator, with
//! an epoch that rises.
//!
//! A member that is draining goes on draining whatever is suspected of it. Nobody returns from Dead
//! without a `Join`, so without a new generation. A name belongs to its newest incarnation: when that
//! joins, the older ones are Left, and while it is there they cannot join.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::servers::{Place, ServerCommand, Servers};
use super::{Invalid, NodeId, Origin, Reply};

/// The longest name, address, version or reason, in bytes. A longer reason is cut.
pub const MAX_TEXT: usize = 256;
/// The most members that have not left.
pub const MAX_MEMBERS: usize = 64;
/// The most members that have left and are remembered.
pub const MAX_LEFT: usize = 32;
/// The most incidents that are remembered.
pub const MAX_INCIDENTS: usize = 64;

/// A change to the members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlCommand {
    /// A node begins a life: a new incarnation, or a known one under its next generation.
    Join {
        /// Its Raft id.
        node: NodeId,
        /// Its configured name; not empty.
        name: String,
        /// `host:port` of its cluster listener.
        peer: String,
        /// `host:port` of its client listener.
        client: String,
        /// `host:port` of its admin listener.
        admin: String,
        /// The gateway's version.
        version: String,
    },
    /// The coordinator says how a member is.
    Declare {
        /// The member.
        node: NodeId,
        /// The generation that this was decided about.
        generation: u64,
        /// `Ready`, `Suspect` or `Dead`.
        state: MemberState,
        /// The term in which it was decided.
        term: u64,
        /// Why, for people.
        reason: String,
    },
    /// The member takes no new sessions and finishes what it has.
    Drain {
        /// The member.
        node: NodeId,
        /// The generation that is meant.
        generation: u64,
    },
    /// The member has gone for good, or until it joins again.
    Leave {
        /// The member.
        node: NodeId,
    },
    /// The coordinator says which Redis server is the store from here on; what another one
    /// acknowledges does not count.
    AdoptStore {
        /// The server's run id: another one after each of its starts; not empty.
        run_id: String,
        /// `host:port` of it, for people.
        address: String,
        /// The term in which it was decided.
        term: u64,
    },
    /// A change to what the group knows of servers.
    Server(ServerCommand),
}

/// How a member is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum MemberState {
    /// Serves.
    Ready,
    /// Finishes what it has.
    Draining,
    /// Not heard of for a while; it may still act.
    Suspect,
    /// Declared dead: it acts no more under this generation.
    Dead,
    /// Gone: it left, or a newer incarnation has its name.
    Left,
}

/// One incarnation of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its configured name.
    pub name: String,
    /// `host:port` of its cluster listener.
    pub peer: String,
    /// `host:port` of its client listener.
    pub client: String,
    /// `host:port` of its admin listener.
    pub admin: String,
    /// The gateway's version.
    pub version: String,
    /// How it is.
    pub state: MemberState,
    /// Rises with each `Join`; the first is 1.
    pub generation: u64,
    /// When this state began, in milliseconds since the Unix epoch.
    pub since: u64,
}

/// What happened to a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Happened {
    /// A new incarnation joined.
    Joined,
    /// A known one joined under a new generation: it was restarted, or had been frozen or cut off.
    Rejoined,
    /// A newer incarnation took its name.
    Replaced,
    /// Declared suspect.
    Suspected,
    /// Declared ready again.
    Recovered,
    /// Declared dead.
    Died,
    /// Began to drain.
    Draining,
    /// Left.
    Left,
}

/// One line of the cluster's recent history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Incident {
    /// The log index of its cause.
    pub index: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// To which member.
    pub node: NodeId,
    /// The member's name.
    pub name: String,
    /// The generation that it happened to.
    pub generation: u64,
    /// What.
    pub what: Happened,
    /// Why, for people; may be empty.
    pub reason: String,
}

/// Which Redis server the group takes for the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreEpoch {
    /// Rises with each adoption; the first is 1.
    pub epoch: u64,
    /// The server's run id.
    pub run_id: String,
    /// `host:port` of it, for people.
    pub address: String,
    /// When it was adopted, in milliseconds since the Unix epoch.
    pub since: u64,
}

/// What every node knows about the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// The log index of the last entry applied, to either machine.
    pub index: u64,
    /// The log index of the last change to members, incidents, the store or servers: whoever watches
    /// these need not look while it stands still.
    pub changed: u64,
    /// The machine's clock, in milliseconds since the Unix epoch.
    pub time: u64,
    /// All members, and the last [`MAX_LEFT`] that have left.
    pub members: BTreeMap<NodeId, Member>,
    /// The last [`MAX_INCIDENTS`], oldest first.
    pub incidents: VecDeque<Incident>,
    /// The store, where that is a Redis server and one was adopted.
    pub store: Option<StoreEpoch>,
    /// What the group knows of the servers behind the gateway.
    pub servers: Servers,
}

// === impl ClusterState ===

impl ClusterState {
    /// Whether this origin may act: its generation is the member's present one, and the member is
    /// neither dead nor gone.
    #[must_use]
    pub fn is_current(&self, origin: Origin) -> bool {
        self.members
            .get(&origin.node)
            .is_some_and(|it| it.generation == origin.generation && it.state.may_act())
    }

    /// Whether a call that this origin has begun may still end by itself. Also true of a member or a
    /// generation that this state has not seen: then it lags behind, and knows nothing against the
    /// origin. What is false once stays false.
    #[must_use]
    pub fn may_run(&self, origin: Origin) -> bool {
        let ahead = |it: &Member| it.generation < origin.generation;
        self.is_current(origin) || self.members.get(&origin.node).is_none_or(ahead)
    }

    /// The member that has this name now; if the name has only members that left, the last of them.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<(NodeId, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.name == name)
            .max_by_key(|(_, member)| (member.state != MemberState::Left, member.since))
            .map(|(node, member)| (*node, member))
    }

    /// The log index of the last line of its histories, the servers' and the nodes'.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        let of_servers = self.servers.events.back().map(|it| it.index);
        of_servers.max(self.incidents.back().map(|it| it.index))
    }

    /// All commands but `Join`.
    pub(super) fn apply(&mut self, term: u64, origin: Origin, command: &ControlCommand) -> Reply {
        match command {
            ControlCommand::Declare { node, generation, state, term: decided, reason } => {
                if *decided != term {
                    return Reply::Stale { term };
                }
                self.declare(*node, *generation, *state, reason)
            }
            ControlCommand::Drain { node, generation } => self.drain(*node, *generation),
            ControlCommand::Leave { node } => self.leave(*node, origin),
            ControlCommand::AdoptStore { run_id, address, term: decided } => {
                if *decided != term {
                    return Reply::Stale { term };
                }
                self.adopt_store(run_id, address)
            }
            ControlCommand::Server(command) => self.server(term, origin, command),
            ControlCommand::Join { .. } => self.join(command),
        }
    }

    pub(super) fn join(&mut self, command: &ControlCommand) -> Reply {
        let ControlCommand::Join { node, name, peer, client, admin, version } = command else {
            return Reply::Unknown;
        };
        if name.is_empty() || [name, peer, client, admin, version].iter().any(|it| is_long(it)) {
            return Reply::Invalid(Invalid::Text);
        }
        let older: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(id, it)| *id != node && it.name == *name && it.state != MemberState::Left)
            .map(|(id, _)| *id)
            .collect();
        let known = self.members.get(node);
        if known.is_some() && !older.is_empty() {
            return Reply::Fenced { generation: None };
        }
        let here = self.members.values().filter(|it| it.state != MemberState::Left).count();
        let comes = known.is_none_or(|it| it.state == MemberState::Left);
        if comes && here.saturating_sub(older.len()) >= MAX_MEMBERS {
            return Reply::Invalid(Invalid::Members);
        }
        let generation = known.map_or(0, |it| it.generation).saturating_add(1);
        let what = if known.is_some() { Happened::Rejoined } else { Happened::Joined };
        let member = Member {
            name: name.clone(),
            peer: peer.clone(),
            client: client.clone(),
            admin: admin.clone(),
            version: version.clone(),
            state: MemberState::Ready,
            generation,
            since: self.time,
        };
        for older in older {
            self.turn(older, MemberState::Left, Happened::Replaced, "");
        }
        self.members.insert(*node, member);
        self.note(*node, what, "");
        self.prune();
        Reply::Joined { generation }
    }

    fn declare(&mut self, node: NodeId, generation: u64, to: MemberState, reason: &str) -> Reply {
        use MemberState::{Dead, Draining, Left, Ready, Suspect};
        let Some(member) = self.members.get(&node) else { return Reply::Unknown };
        if member.generation != generation {
            return self.fenced(node);
        }
        let what = match (member.state, to) {
            (_, Draining | Left) => return Reply::Invalid(Invalid::State),
            (Left, _) | (Dead, Ready | Suspect) => return self.fenced(node),
            (Ready, Suspect) => Happened::Suspected,
            (Suspect, Ready) => Happened::Recovered,
            (Ready | Suspect | Draining, Dead) => Happened::Died,
            (Ready, Ready) | (Suspect, Suspect) | (Dead, Dead) | (Draining, Ready | Suspect) => {
                return Reply::Done { revision: self.index };
            }
        };
        self.turn(node, to, what, reason)
    }

    fn drain(&mut self, node: NodeId, generation: u64) -> Reply {
        let Some(member) = self.members.get(&node) else { return Reply::Unknown };
        if !self.is_current(Origin { node, generation }) {
            return self.fenced(node);
        }
        if member.state == MemberState::Draining {
            return Reply::Done { revision: self.index };
        }
        self.turn(node, MemberState::Draining, Happened::Draining, "")
    }

    fn leave(&mut self, node: NodeId, origin: Origin) -> Reply {
        let Some(member) = self.members.get(&node) else { return Reply::Unknown };
        // What a member said in an earlier life does not end its present one.
        if origin.node == node && origin.generation != member.generation {
            return self.fenced(node);
        }
        if member.state == MemberState::Left {
            return Reply::Done { revision: self.index };
        }
        let reply = self.turn(node, MemberState::Left, Happened::Left, "");
        self.prune();
        reply
    }

    fn adopt_store(&mut self, run_id: &str, address: &str) -> Reply {
        if run_id.is_empty() || is_long(run_id) || is_long(address) {
            return Reply::Invalid(Invalid::Text);
        }
        if self.store.as_ref().is_some_and(|it| it.run_id == run_id && it.address == address) {
            return Reply::Done { revision: self.index };
        }
        let epoch = self.store.as_ref().map_or(0, |it| it.epoch).saturating_add(1);
        let (run_id, address, since) = (run_id.to_owned(), address.to_owned(), self.time);
        self.store = Some(StoreEpoch { epoch, run_id, address, since });
        self.changed = self.index;
        Reply::Done { revision: self.index }
    }

    /// What a coordinator decided carries its term; what any member may say needs a present life.
    fn server(&mut self, term: u64, origin: Origin, command: &ServerCommand) -> Reply {
        if command.term().is_none() && !self.is_current(origin) {
            return self.fenced(origin.node);
        }
        let at = Place { index: self.index, term, now: self.time };
        let (reply, changed) = self.servers.apply(at, command);
        if changed {
            self.changed = self.index;
        }
        reply
    }

    /// Refuses what was meant for another life of this member.
    pub(super) fn fenced(&self, node: NodeId) -> Reply {
        match self.members.get(&node) {
            Some(member) => Reply::Fenced { generation: Some(member.generation) },
            None => Reply::Unknown,
        }
    }

    fn turn(&mut self, node: NodeId, to: MemberState, what: Happened, reason: &str) -> Reply {
        let since = self.time;
        if let Some(member) = self.members.get_mut(&node) {
            member.state = to;
            member.since = since;
            self.note(node, what, reason);
        }
        Reply::Done { revision: self.index }
    }

    fn note(&mut self, node: NodeId, what: Happened, reason: &str) {
        self.changed = self.index;
        let Some(member) = self.members.get(&node) else { return };
        if self.incidents.len() >= MAX_INCIDENTS {
            self.incidents.pop_front();
        }
        self.incidents.push_back(Incident {
            index: self.index,
            at: self.time,
            node,
            name: member.name.clone(),
            generation: member.generation,
            what,
            reason: cut(reason).to_owned(),
        });
    }

    /// Forgets those that left longest ago.
    fn prune(&mut self) {
        let mut left: Vec<(u64, NodeId)> = self
            .members
            .iter()
            .filter(|(_, member)| member.state == MemberState::Left)
            .map(|(node, member)| (member.since, *node))
            .collect();
        left.sort_unstable();
        let excess = left.len().saturating_sub(MAX_LEFT);
        for (_, node) in left.into_iter().take(excess) {
            self.members.remove(&node);
        }
    }
}

// === impl MemberState ===

impl MemberState {
    /// Whether a member in this state may act: send, and write to the store.
    #[must_use]
    pub fn may_act(self) -> bool {
        match self {
            Self::Ready | Self::Draining | Self::Suspect => true,
            Self::Dead | Self::Left => false,
        }
    }
}

fn is_long(text: &str) -> bool {
    text.len() > MAX_TEXT
}

/// The beginning of a text, at most [`MAX_TEXT`] bytes of whole characters.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
