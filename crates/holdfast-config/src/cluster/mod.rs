//! `cluster`: the nodes that stand in for one another.
//!
//! A node runs in a cluster once its nodes are named, by the file or by `HA_CLUSTER_NODES`, unless
//! `HA_MODE=standalone` says otherwise. What the file and the environment say is collected in a
//! [`Draft`] and only judged when both have spoken: the name, the secret and the list of nodes may
//! each come from either.

mod address;
mod draft;
mod settle;
mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;

pub(crate) use self::draft::Draft;
pub(crate) use self::settle::settle;
pub(crate) use self::variables::apply;

/// This node's place in its cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// This node's name, one of `nodes`; the same as `node.id`.
    pub node_id: String,
    /// What every node proves to every other. At least 32 characters.
    pub secret: SecretString,
    /// A secret that is accepted besides, while the nodes are moved from one to the next. At least
    /// 32 characters.
    pub previous_secret: Option<SecretString>,
    /// Every node's cluster listener as the others reach it, `HOST:PORT` by name; this node's own
    /// is among them. No port is 0 and no two are alike.
    pub nodes: BTreeMap<String, String>,
    /// Where this node listens for the others.
    pub listen: SocketAddr,
    /// `HOST:PORT` that this node tells the others, if it is not its entry in `nodes`.
    pub advertise: Option<String>,
    /// How long a node may be silent before another takes over. 300ms to 1m.
    pub failover_timeout: Duration,
}

// === impl Cluster ===

/// What a cluster's secret needs at least, in characters.
pub(crate) const LEAST_SECRET: usize = crate::node::LEAST_SECRET;

/// The port of a cluster listener that no one chose.
pub(crate) const PORT: u16 = 37375;

impl Cluster {
    /// How many nodes are configured.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }
}
