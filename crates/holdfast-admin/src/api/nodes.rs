//! The cluster in the API's words.

use serde::{Deserialize, Serialize};

use super::ConfigNodeDto;

/// `GET /api/nodes`, and part of [`super::StatusDto`] in a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodesDto {
    /// Whether this node is one of a cluster. If not, `nodes` is this node alone.
    pub clustered: bool,
    /// The name of the node that speaks.
    pub me: String,
    /// Whether the cluster can decide, as far as this node has heard; none for a node alone.
    pub quorum: Option<bool>,
    /// The coordinator's name, if one is known.
    pub leader: Option<String>,
    /// The group's term.
    pub term: Option<u64>,
    /// One per name, in the order of the names.
    pub nodes: Vec<NodeEntryDto>,
}

/// One node, as the node that speaks sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeEntryDto {
    /// Its name in the configuration.
    pub name: String,
    /// Its Raft id, 16 hexadecimal digits; none for a node alone, or one that has never joined.
    pub id: Option<String>,
    /// `leader`, `follower`, `learner`, `alone` or `unknown`.
    pub role: String,
    /// `ready`, `starting`, `draining`, `suspect`, `dead`, `left`, or `absent` (it has never joined).
    pub state: String,
    /// The term that it is in.
    pub term: Option<u64>,
    /// Rises with each time it joins, from 1; 0 for a node that has never joined.
    pub generation: u64,
    /// How many entries of the log it is behind.
    pub commit_lag: Option<u64>,
    /// How long ago it was last heard of.
    pub last_heard_ms: Option<u64>,
    /// Client sessions that it has in hand; none when it does not answer.
    pub sessions: Option<u64>,
    /// Calls in it; none when it does not answer.
    pub in_flight: Option<u64>,
    /// `normal`, `warning`, `critical` or `emergency`: its worst reading of itself; none when nobody
    /// knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Its version of the gateway; empty when nobody knows.
    pub version: String,
    /// Where clients reach it; empty when nobody knows.
    pub client: String,
    /// Where the operator reaches it; empty when nobody knows.
    pub admin: String,
    /// Which version of the configuration it runs; none in the status, and where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigNodeDto>,
}

/// The body of `POST /api/drain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequestDto {
    /// The node's name.
    pub node: String,
    /// Even if what is left is no majority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// The answer to `POST /api/drain`: the group has agreed, the node has begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrainDto {
    /// The node's name.
    pub node: String,
    /// The generation that drains; a higher one is the node after it came back.
    pub generation: u64,
    /// How long its running calls may take to end.
    pub deadline_ms: u64,
}
