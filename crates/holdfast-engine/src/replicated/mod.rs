//! What the nodes agree on: the two machines behind the Raft group, and the one way to change them.
//!
//! [`Machine::apply`] is total and deterministic. Every node applies the same entries of the log in
//! the same order and so has the same state; whatever is in an entry, the worst it can do is to be
//! refused. Time comes with the command (its leader stamps it), and the machine's clock is the
//! highest stamp seen.
//!
//! | machine | holds | read by |
//! |---|---|---|
//! | [`ClusterState`] | members, their generations and states, the last incidents; the store; servers ([`Servers`]) | everybody, through a watch |
//! | [`Kv`] | opaque values with revision and deadline: sessions, journal, streams | the store |
//!
//! # Three fences
//! * **Generation.** A kv command names its origin: node and generation. Once the group has declared
//!   that member dead, or it has joined again, the command is [`Reply::Fenced`]. So what a frozen node
//!   wrote before it noticed that it was frozen changes nothing.
//! * **Term.** A coordinator's decision names the term in which it was made and is [`Reply::Stale`] in
//!   an entry of another term.
//! * **Serial.** A proposal whose reply was lost is proposed again under its serial and gets the first
//!   reply; it has no second effect. A member's replies are kept until it says that it has them
//!   (`settled_below`); at most [`MAX_UNSETTLED`] of them, then the oldest is forgotten and its
//!   repetition is [`Reply::Settled`].
//!
//! A `Fenced` or `Settled` that follows an attempt with unknown outcome leaves it unknown: the first
//! attempt may have been applied.

mod control;
mod former;
mod kv;
mod servers;
#[cfg(test)]
mod tests;
mod window;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use control::{
    ClusterState, ControlCommand, Happened, Incident, MAX_INCIDENTS, MAX_LEFT, MAX_MEMBERS,
    MAX_TEXT, Member, MemberState, StoreEpoch,
};
pub use kv::{Expect, Kv, KvCommand, KvEntry, MAX_BATCH, MAX_KEY, MAX_TOTAL, MAX_VALUE, SESSIONS};
pub use servers::{
    ALARM, Configuration, MAX_EVENTS, MAX_EVENTS_OF_SERVER, MAX_INSTANCES, MAX_SERVERS, MAX_TOOLS,
    MAX_VERSIONS, Override, OverrideKind, READS, STORE, ServerCommand, ServerEvent, ServerHappened,
    ServerState, Servers, Verdict, tool_key, tool_of,
};
pub use window::{MAX_UNSETTLED, MAX_UNSETTLED_BYTES};

use former::ClusterState1;
use window::Window;

/// One incarnation of a node: its name and a random part, kept in its data directory. Never reused.
pub type NodeId = u64;

/// Who proposes: a member in one of its lives.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Origin {
    /// The member.
    pub node: NodeId,
    /// Its generation: rises with each `Join`; 0 before the first.
    pub generation: u64,
}

/// What one entry of the log says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Who proposed it.
    pub origin: Origin,
    /// Names the proposal among those of its origin. A process draws its first one at random, so that
    /// its `Join` is not taken for one of an earlier process, and counts up from there.
    pub serial: u64,
    /// The origin has the replies of all its serials below this one.
    pub settled_below: u64,
    /// Milliseconds since the Unix epoch, stamped by the leader.
    pub now: u64,
    /// The change.
    pub body: Body,
}

/// The machine that a command is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// Members.
    Control(ControlCommand),
    /// Values.
    Kv(KvCommand),
}

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The node is a member under this generation.
    Joined {
        /// Its generation from now on.
        generation: u64,
    },
    /// It was done.
    Done {
        /// The revision of what was written: the entry's log index. For `Touch` the entry's own
        /// revision, which it leaves as it is.
        revision: u64,
    },
    /// The expectation did not hold, and nothing was changed. Of a batch: the first that did not.
    Mismatch {
        /// What is there, unless absent or past its deadline.
        found: Option<KvEntry>,
    },
    /// Refused: the origin (or the member that was meant) is dead, gone, or has a newer generation.
    Fenced {
        /// The member's present generation; none if it was replaced by a newer incarnation.
        generation: Option<u64>,
    },
    /// Refused: decided in another term than that of its entry.
    Stale {
        /// The entry's term.
        term: u64,
    },
    /// There is no such member.
    Unknown,
    /// Refused: beyond a bound, or malformed. Nothing was changed.
    Invalid(Invalid),
    /// Not done now: the origin had said that it has this serial's reply, or the reply was forgotten.
    /// What the first attempt did is not known any more.
    Settled,
    /// Refused: it was decided about a state that is past. Nothing was changed.
    Moved {
        /// The present generation: of a failover, an override, or the configuration's version; of a line
        /// about an outage, the index of the server's last one.
        generation: u64,
        /// A failover's present step.
        step: u64,
    },
}

/// What is wrong with a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    /// A key is empty or too long.
    #[error("a key has 1 to {MAX_KEY} bytes")]
    Key,
    /// A value is too long.
    #[error("a value has at most {MAX_VALUE} bytes")]
    Value,
    /// A batch is too long.
    #[error("a batch has at most {MAX_BATCH} commands")]
    Batch,
    /// A batch changes a key twice, or holds a batch or an `Expire`.
    #[error("a batch changes each key once, and holds neither a batch nor an expiry")]
    Nested,
    /// A name, address, version or reason is too long, or a name is empty.
    #[error("a name or address has at most {MAX_TEXT} bytes")]
    Text,
    /// There are too many members.
    #[error("a cluster has at most {MAX_MEMBERS} members")]
    Members,
    /// All values together are too long.
    #[error("the store holds at most {MAX_TOTAL} bytes")]
    Full,
    /// A coordinator declares a member ready, suspect or dead, and nothing else.
    #[error("a member is declared ready, suspect or dead")]
    State,
    /// There are too many servers.
    #[error("there are at most {MAX_SERVERS} servers")]
    Servers,
    /// A server has too many instances.
    #[error("a server has at most {MAX_INSTANCES} instances")]
    Instances,
    /// The primary is none of the instances.
    #[error("the primary is one of the instances")]
    Instance,
    /// A failover's state does not follow the one before it.
    #[error("a failover goes on by one step, and changes the active instance in its switch only")]
    Step,
    /// The group opens breakers; operators force them.
    #[error("a coordinator opens a breaker, an operator forces it")]
    Override,
    /// A note is of a kind that only the group itself writes.
    #[error("a note says what a node saw")]
    Event,
    /// Too many of a server's tools are held.
    #[error("at most {MAX_TOOLS} tools of a server are held open or closed")]
    Tools,
}

/// The replicated state: what `apply` changes and a snapshot holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Members and incidents.
    pub control: ClusterState,
    /// Values.
    pub kv: Kv,
    /// Per node: the replies that it may ask for again.
    windows: BTreeMap<NodeId, Window>,
}

/// A snapshot that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version of the gateway.
    #[error("the snapshot has format {found:?}, and this version reads 1 to {SNAPSHOT_FORMAT}")]
    Format {
        /// The format it says it has; none if it is empty.
        found: Option<u8>,
    },
    /// It ends early, goes on too long, or says what cannot be.
    #[error("the snapshot is damaged: {0}")]
    Damaged(#[from] postcard::Error),
}

/// The first byte of a snapshot. Rises when what follows changes its shape.
const SNAPSHOT_FORMAT: u8 = 2;

// === impl Machine ===

impl Machine {
    /// Applies the entry at `index`, which was proposed to the leader of `term`. Indexes rise from
    /// call to call.
    pub fn apply(&mut self, index: u64, term: u64, command: &Command) -> Reply {
        self.control.index = index;
        self.control.time = self.control.time.max(command.now);
        if let Body::Control(ControlCommand::Join { node, .. }) = &command.body {
            return self.join(*node, command);
        }
        if let Some(window) = self.window(command.origin) {
            window.settle(command.settled_below);
            if let Some(first) = window.first_reply(command.serial) {
                return first;
            }
        }
        let reply = match &command.body {
            Body::Control(body) => self.control.apply(term, command.origin, body),
            Body::Kv(body) if self.control.is_current(command.origin) => {
                self.kv.apply(index, self.control.time, body)
            }
            Body::Kv(_) => self.control.fenced(command.origin.node),
        };
        if let Some(window) = self.window(command.origin) {
            window.remember(command.serial, &reply);
        }
        reply
    }

    /// The whole state as bytes: the same state gives the same bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let state = (&self.control, self.kv.entries(), &self.windows);
        // Every part is made of maps, numbers and bytes of known length, which always encode; an
        // empty snapshot would be refused by `restore`, never read as an empty state.
        postcard::to_extend(&state, vec![SNAPSHOT_FORMAT]).unwrap_or_default()
    }

    /// The state that a snapshot holds.
    ///
    /// # Errors
    /// [`RestoreError`] if the bytes are no snapshot of this format or the one before.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let (control, entries, windows) = match bytes.split_first() {
            Some((&SNAPSHOT_FORMAT, body)) => parts::<ClusterState>(body)?,
            Some((1, body)) => {
                let (control, entries, windows) = parts::<ClusterState1>(body)?;
                (control.into(), entries, windows)
            }
            _ => return Err(RestoreError::Format { found: bytes.first().copied() }),
        };
        Ok(Self { control, kv: Kv::from_entries(entries), windows })
    }

    /// A `Join` is known by its serial beyond the generation that it made.
    fn join(&mut self, node: NodeId, command: &Command) -> Reply {
        if let Some(first) = self.windows.get(&node).and_then(|it| it.join_reply(command.serial)) {
            return first;
        }
        let Body::Control(body) = &command.body else { return Reply::Unknown };
        let reply = self.control.join(body);
        if let Reply::Joined { generation } = reply {
            self.windows.entry(node).or_default().joined(command.serial, generation);
            let members = &self.control.members;
            self.windows.retain(|node, _| members.contains_key(node));
        }
        reply
    }

    fn window(&mut self, origin: Origin) -> Option<&mut Window> {
        self.windows.get_mut(&origin.node).filter(|it| it.generation() == origin.generation)
    }
}

type Parts<C> = (C, BTreeMap<Bytes, KvEntry>, BTreeMap<NodeId, Window>);

fn parts<C: DeserializeOwned>(body: &[u8]) -> Result<Parts<C>, RestoreError> {
    let (parts, rest) = postcard::take_from_bytes(body)?;
    if !rest.is_empty() {
        return Err(postcard::Error::DeserializeBadEncoding.into());
    }
    Ok(parts)
}
