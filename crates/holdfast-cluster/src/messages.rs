//! What nodes say to each other, and under which names. All bodies are postcard.

use std::io;

use bytes::Bytes;
use holdfast_engine::replicated::{Command, NodeId, Reply};
use openraft::raft::SnapshotResponse;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Place, SnapshotMeta, Types, Vote};

pub(crate) const APPEND: &str = "raft/append";
pub(crate) const VOTE: &str = "raft/vote";
pub(crate) const PRE_VOTE: &str = "raft/pre-vote";
pub(crate) const SNAPSHOT: &str = "raft/snapshot";
pub(crate) const TRANSFER: &str = "raft/transfer";
pub(crate) const HELLO: &str = "cluster/hello";
pub(crate) const JOIN: &str = "cluster/join";
pub(crate) const REMOVE: &str = "cluster/remove";
pub(crate) const PROPOSE: &str = "cluster/propose";
pub(crate) const READ: &str = "cluster/read";
pub(crate) const BEAT: &str = "cluster/beat";
pub(crate) const PING: &str = "cluster/ping";
pub(crate) const NODES: &str = "cluster/nodes";

/// A message of Raft itself, with the group that it belongs to.
#[derive(Serialize, Deserialize)]
pub(crate) struct Grouped<T> {
    pub(crate) group: u64,
    pub(crate) message: T,
}

/// A part of a snapshot. Parts come in order.
#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    /// Names this transfer.
    pub(crate) transfer: u64,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    /// Whether the snapshot is complete with this part.
    pub(crate) last: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum PartTaken {
    More,
    Installed(SnapshotResponse<Types>),
}

/// What a node says to whoever asks who it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) group: Option<u64>,
    /// Whether it has a log or a vote.
    pub(crate) initialized: bool,
    pub(crate) leader: Option<NodeId>,
    /// Where the leader is, as far as it knows.
    pub(crate) leader_address: Option<String>,
}

/// A node asks the leader to be made a voter.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) node: NodeId,
    pub(crate) place: Place,
    pub(crate) group: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum JoinAnswer {
    /// It is a voter of this group.
    Voter { group: u64 },
    /// Ask there.
    Elsewhere { address: Option<String> },
    /// Not done in time, or another change is under way: ask again.
    Again(String),
    /// Never: why.
    Refused(String),
    /// Not while another node of its name lives.
    Taken,
}

/// A proposal on its way to the leader.
#[derive(Serialize, Deserialize)]
pub(crate) struct ProposeRequest {
    pub(crate) command: Command,
    /// How long the sender waits, in milliseconds.
    pub(crate) within: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ProposeAnswer {
    Done(Reply),
    /// Certainly not in the log of whoever says so.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// It may be applied yet.
    Unknown,
}

/// How far one has to have applied the log to have seen all that was acknowledged before the question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ReadAnswer {
    At(u64),
    NotLeader { leader: Option<NodeId> },
}

/// A node asks for its lease.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub(crate) generation: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum BeatAnswer {
    /// For so many milliseconds.
    Granted {
        millis: u64,
    },
    NotLeader {
        leader: Option<NodeId>,
    },
    /// This generation is dead or over: join anew.
    Fenced,
    /// The leader could not make sure in time that it still leads.
    Unsure,
}

pub(crate) fn encode(value: &impl Serialize) -> io::Result<Bytes> {
    postcard::to_stdvec(value).map(Bytes::from).map_err(io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err("the message goes on after its end".to_owned()),
        Err(error) => Err(format!("the message cannot be read: {error}")),
    }
}
