//! Which group this node belongs to.
//!
//! A group's number is drawn at random by the node that founds it and kept by every member beside its
//! log. Each Raft message carries it. A node that has none yet takes the number of the first group that
//! speaks to it, durably and before it answers; from then on it refuses every other.

use holdfast_engine::replicated::NodeId;
use tokio::sync::{Mutex, watch};

use crate::store::{Directory, Identity, Log};

pub(crate) struct Group {
    identity: Mutex<Identity>,
    known: watch::Sender<Option<u64>>,
    log: Mutex<Option<Log>>,
}

/// Another group is meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    #[error("this node belongs to another group than the one that speaks to it")]
    Other,
    #[error("cannot remember the group: {0}")]
    Io(#[from] std::io::Error),
}

impl Group {
    pub(crate) fn new(identity: Identity, log: Log) -> Self {
        let known = watch::Sender::new(identity.group);
        Self { identity: Mutex::new(identity), known, log: Mutex::new(Some(log)) }
    }

    pub(crate) fn get(&self) -> Option<u64> {
        *self.known.borrow()
    }

    /// Belongs to `group` from now on, or did already.
    pub(crate) async fn adopt(&self, group: u64) -> Result<(), GroupError> {
        match self.get() {
            Some(mine) if mine == group => return Ok(()),
            Some(_) => return Err(GroupError::Other),
            None => {}
        }
        let mut identity = self.identity.lock().await;
        match identity.group {
            Some(mine) if mine == group => return Ok(()),
            Some(_) => return Err(GroupError::Other),
            None => {}
        }
        let adopted = Identity { group: Some(group), ..identity.clone() };
        match &*self.log.lock().await {
            Some(log) => Directory::remember(log, &adopted).await?,
            None => return Err(GroupError::Io(std::io::Error::other("this node stops"))),
        }
        let (node, name): (NodeId, &str) = (adopted.node, &adopted.name);
        tracing::info!(node, name, group, "belongs to a group");
        *identity = adopted;
        self.known.send_replace(Some(group));
        Ok(())
    }

    /// Gives the log up.
    pub(crate) async fn close(&self) {
        self.log.lock().await.take();
    }
}
