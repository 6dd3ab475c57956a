//! What a node has learnt of a server's tools, for the nodes that have not: which of them only read.

use bytes::Bytes;
use holdfast_engine::replicated::Expect;

use crate::kv::NotWritten;
use crate::{Store, StoreError, keys};

impl Store {
    /// Tells the other nodes what this one has learnt of a server, in a form of the caller's own.
    /// The last word counts.
    ///
    /// # Errors
    /// What the group says.
    pub async fn put_hints(&self, server: &str, hints: Bytes) -> Result<(), StoreError> {
        self.operations.writes.inc();
        match self.kv.put(keys::hints(server), hints, Expect::Any, None).await {
            Ok(_) | Err(NotWritten::Mismatch(_)) => Ok(()),
            Err(NotWritten::Failed(error)) => Err(error),
        }
    }

    /// What some node has learnt of a server, as the group or Redis has it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if that is not known.
    pub async fn read_hints(&self, server: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.kv.get_fresh(&keys::hints(server)).await?.map(|entry| entry.value))
    }

    /// What some node has learnt of a server, as far as this one has heard.
    #[must_use]
    pub fn hints(&self, server: &str) -> Option<Bytes> {
        self.kv.get_local(&keys::hints(server)).map(|entry| entry.value)
    }
}
