//! Snapshots that earlier versions wrote.
//!
//! Format 1 had neither a store nor servers. It is read as if nothing had been adopted, defined or
//! found: the coordinator defines the servers anew from its configuration, each with its primary
//! active, and the votes of the next seconds give the verdicts. No failover is lost by it, since
//! format 1 is from before there were any.
//!
//! An earlier version does not read a newer snapshot; it says so and stays as it is. So of a cluster
//! whose nodes are of both, the earlier ones follow by entries only, until they are replaced.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;

use super::{ClusterState, Incident, Member, NodeId};

/// The members' part of format 1.
#[derive(Deserialize)]
pub(super) struct ClusterState1 {
    index: u64,
    changed: u64,
    time: u64,
    members: BTreeMap<NodeId, Member>,
    incidents: VecDeque<Incident>,
}

impl From<ClusterState1> for ClusterState {
    fn from(former: ClusterState1) -> Self {
        let ClusterState1 { index, changed, time, members, incidents } = former;
        Self { index, changed, time, members, incidents, ..Self::default() }
    }
}
