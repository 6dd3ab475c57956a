//! This node's own standing, as the data plane asks for it on the path of a call.

use std::sync::Arc;

use holdfast_cluster::{Cluster, Leadership, Lease};
use holdfast_engine::replicated::Origin;
use holdfast_proxy::cluster::Footing;
use tokio::sync::watch;

pub(super) struct Standing {
    origin: watch::Receiver<Origin>,
    lease: Lease,
    leadership: watch::Receiver<Leadership>,
    hindered: watch::Receiver<Option<String>>,
}

impl Standing {
    pub(super) fn of(cluster: &Arc<Cluster>) -> Self {
        Self {
            origin: cluster.origins(),
            lease: cluster.lease(),
            leadership: cluster.leadership(),
            hindered: cluster.hindered(),
        }
    }
}

impl Footing for Standing {
    fn origin(&self) -> Origin {
        *self.origin.borrow()
    }

    fn has_lease(&self) -> bool {
        self.lease.holds()
    }

    fn is_coordinator(&self) -> bool {
        self.leadership.borrow().me
    }

    fn hindrance(&self) -> Option<String> {
        self.hindered.borrow().clone()
    }
}
