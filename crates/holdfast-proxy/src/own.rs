//! The node itself: what its calls and connections come to, for the control plane; and what the control
//! plane finds of it, for `/health` and the operator.

use holdfast_engine::health::node::Level;

use crate::health::Check;
use crate::metrics::Traffic;
use crate::reload::Servers;

/// A node that says that it reads this much (`replicated::READS`) reads the record of a session with a notice.
const NOTICES: u32 = 2;

/// And one that says this much the journal's entry of a call that waits.
const WAITING: u32 = 3;

/// What the control plane finds of the node.
#[derive(Clone, Default, Debug)]
pub struct Own {
    /// How bad its worst reading is.
    pub level: Level,
    /// Each reading as a check. One that is critical and fails makes the node unready.
    pub checks: Vec<Check>,
}

/// What the node does at this moment and has done since its start.
#[derive(Clone, Default, Debug)]
pub struct Activity {
    /// Open client connections.
    pub connections: u64,
    /// The calls of all servers together.
    pub traffic: Traffic,
}

impl Servers {
    /// Every node reads what nodes of this number do (`replicated::READS`): what has to be read by all of them is
    /// written from here on, or no more.
    pub fn all_read(&self, reads: u32) {
        self.gateway.store.write_notices(reads >= NOTICES);
        self.gateway.journal.write_waiting(reads >= WAITING);
    }

    /// What this node is busy with.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let metrics = &self.gateway.metrics;
        let mut traffic = Traffic::default();
        for server in metrics.servers() {
            traffic.add(&server.traffic());
        }
        Activity { connections: metrics.connections.get() as u64, traffic }
    }

    /// When the certificates end that `https` servers have shown, in seconds since the Unix epoch, by
    /// host.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, u64)> {
        self.gateway.expiries.all()
    }

    /// Takes what the control plane finds, in place of what it found before.
    pub fn is_found(&self, own: Own) {
        self.gateway.own.store(std::sync::Arc::new(own));
    }
}
