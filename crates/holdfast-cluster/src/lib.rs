//! The Raft group of all nodes: who is a member, who leads, and what all of them agree on.
//!
//! # What it gives
//! A [`Cluster`] is this node in the group: it proposes changes ([`Cluster::propose`]), reads what the
//! group has agreed on ([`Cluster::get`], after [`Cluster::read_index`] if it has to be the latest),
//! watches members and leadership, and holds the [`Lease`] under which the node may act on its own.
//!
//! # What it keeps to
//! - A proposal is done at most once, however often its messages are lost or repeated. Its error says
//!   whether it certainly was not done or may have been ([`ProposeError`]).
//! - What was acknowledged is on the disks of a majority.
//! - A node that was declared dead, or was frozen, changes nothing under its old generation; it joins
//!   under the next one.
//! - A data directory is one incarnation of a node, with an id of its own. An empty directory is a new
//!   one, which gets everything from the others and takes its predecessor's place.
//! - Every wait has an end.
//!
//! No other crate names openraft or redb.

mod addresses;
mod admission;
mod cluster;
mod coordinator;
mod entry;
mod gate;
mod group;
mod keeper;
mod leadership;
mod lease;
mod messages;
mod network;
mod node;
mod options;
mod proposals;
mod reads;
mod service;
mod state_machine;
mod status;
mod store;
mod succession;
mod types;
mod wire;

pub use self::admission::RemoveError;
pub use self::cluster::{Cluster, Prepared};
pub use self::leadership::Leadership;
pub use self::lease::Lease;
pub use self::options::{MAX_FAILOVER_TIMEOUT, MIN_FAILOVER_TIMEOUT, Options, StartError};
pub use self::proposals::ProposeError;
pub use self::reads::Unavailable;
pub use self::service::Forwarded;
pub use self::state_machine::Change;
pub use self::status::{NodeStatus, Role};
pub use self::store::DirectoryError;
pub use self::wire::Wire;

/// A random number that is not 0.
fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}
