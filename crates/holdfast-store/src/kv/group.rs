//! What the replicated store needs of the Raft group. The binary gives it.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{KvCommand, KvEntry, Reply};

/// A future of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why the group gave no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// It is not to be had; a command was certainly not applied and will not be.
    #[error("{0}")]
    Unavailable(String),
    /// The command may have been applied, or may be yet.
    #[error("{0}")]
    Unknown(String),
    /// The group does not take this node's commands any more; this one was certainly not applied.
    #[error("the cluster does not take this node's writes any more")]
    Fenced,
}

/// The Raft group, as the store uses it.
pub trait Group: Send + Sync + 'static {
    /// Proposes a change and waits for what became of it, at most `within`. Repeats it as long as that
    /// is safe and has a point.
    fn propose(
        &self,
        command: KvCommand,
        within: Duration,
    ) -> BoxFuture<'_, Result<Reply, GroupError>>;

    /// Waits, at most `within`, until this node has all that the group had when this was called.
    ///
    /// # Errors
    /// [`GroupError::Unavailable`] if that cannot be known in time.
    fn read_index(&self, within: Duration) -> BoxFuture<'_, Result<(), GroupError>>;

    /// What this node has at a key, unless it is past its deadline.
    fn get(&self, key: &[u8]) -> Option<KvEntry>;

    /// What this node has at a key, past its deadline or not.
    fn get_even_past(&self, key: &[u8]) -> Option<KvEntry>;

    /// Keys below `prefix` that are past their deadline, the longest past first, at most `limit`.
    fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes>;

    /// The group's time as this node reckons it, in milliseconds since the Unix epoch. It goes on
    /// between commands: deadlines are made from it.
    fn time(&self) -> u64;
}
