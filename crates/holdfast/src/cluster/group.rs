//! The Raft group's values, as the store uses them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_cluster::{Cluster, ProposeError};
use holdfast_engine::replicated::{Body, KvCommand, KvEntry, Reply};
use holdfast_store::{BoxFuture, Group, GroupError};

pub(super) struct Values(pub(super) Arc<Cluster>);

impl Group for Values {
    fn propose(
        &self,
        command: KvCommand,
        within: Duration,
    ) -> BoxFuture<'_, Result<Reply, GroupError>> {
        Box::pin(async move {
            self.0.propose(Body::Kv(command), within).await.map_err(|error| match error {
                ProposeError::Unavailable => GroupError::Unavailable(error.to_string()),
                ProposeError::Unknown => GroupError::Unknown(error.to_string()),
                ProposeError::Fenced => GroupError::Fenced,
            })
        })
    }

    fn read_index(&self, within: Duration) -> BoxFuture<'_, Result<(), GroupError>> {
        Box::pin(async move {
            let read = self.0.read_index(within).await;
            read.map_err(|error| GroupError::Unavailable(error.to_string()))
        })
    }

    fn get(&self, key: &[u8]) -> Option<KvEntry> {
        self.0.get(key)
    }

    fn get_even_past(&self, key: &[u8]) -> Option<KvEntry> {
        self.0.read(|machine, _| machine.kv.get_even_past(key).cloned())
    }

    fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        self.0.due(prefix, limit)
    }

    fn time(&self) -> u64 {
        self.0.time()
    }
}
