//! One layer below all records: opaque values with a revision and a deadline.
//!
//! An entry past its deadline counts as absent for everybody but whoever cleans up. Revisions rise
//! with every write and are never used twice, not even for another key.

mod group;
mod memory;
mod replicated;

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvEntry};

pub use group::{BoxFuture, Group, GroupError};
pub(crate) use memory::MemoryKv;
pub(crate) use replicated::Replicated;

use crate::StoreError;
use crate::encode::Malformed;

/// Where the values are. Closed: the configuration chooses.
#[derive(Debug)]
pub(crate) enum Kv {
    Memory(Box<MemoryKv>),
    Replicated(Replicated),
}

/// Why something was not written.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// The expectation did not hold; what is there instead. Nothing was changed.
    Mismatch(Option<KvEntry>),
    /// Anything else.
    Failed(StoreError),
}

// === impl NotWritten ===

impl From<Malformed> for NotWritten {
    fn from(error: Malformed) -> Self {
        Self::Failed(error.into())
    }
}

// === impl Kv ===

impl Kv {
    /// The present time in milliseconds since the Unix epoch.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Memory(memory) => memory.now(),
            Self::Replicated(replicated) => replicated.group().time(),
        }
    }

    /// What this node has, without asking anybody.
    pub(crate) fn get_local(&self, key: &[u8]) -> Option<KvEntry> {
        match self {
            Self::Memory(memory) => memory.get(key),
            Self::Replicated(replicated) => replicated.group().get(key),
        }
    }

    /// As [`Self::get_local`], also past its deadline.
    pub(crate) fn get_even_past(&self, key: &[u8]) -> Option<KvEntry> {
        match self {
            Self::Memory(memory) => memory.get_even_past(key),
            Self::Replicated(replicated) => replicated.group().get_even_past(key),
        }
    }

    /// What this node has; if it has nothing, the group is asked.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        match (self.get_local(key), self) {
            (None, Self::Replicated(replicated)) => replicated.get_fresh(key).await,
            (found, _) => Ok(found),
        }
    }

    /// What the group has by now.
    pub(crate) async fn get_fresh(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.get(key)),
            Self::Replicated(replicated) => replicated.get_fresh(key).await,
        }
    }

    /// Writes a value and returns its revision. `value` is one that no other write has.
    pub(crate) async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        deadline: Option<u64>,
    ) -> Result<u64, NotWritten> {
        match self {
            Self::Memory(memory) => memory.put(key, value, expect, deadline),
            Self::Replicated(replicated) => replicated.put(key, value, expect, deadline).await,
        }
    }

    /// Removes an entry. A revision is also found past its deadline.
    pub(crate) async fn delete(&self, key: Bytes, expect: Expect) -> Result<(), NotWritten> {
        match self {
            Self::Memory(memory) => memory.delete(&key, expect),
            Self::Replicated(replicated) => replicated.delete(key, expect).await,
        }
    }

    /// Moves an entry's deadline, never to an earlier time; its revision stays.
    pub(crate) async fn touch(&self, key: Bytes, deadline: u64) -> Result<(), NotWritten> {
        match self {
            Self::Memory(memory) => memory.touch(&key, deadline),
            Self::Replicated(replicated) => replicated.touch(key, deadline).await,
        }
    }

    /// Keys below `prefix` that are past their deadline, at most `limit`.
    pub(crate) fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        match self {
            Self::Memory(memory) => memory.due(prefix, limit),
            Self::Replicated(replicated) => replicated.group().due(prefix, limit),
        }
    }
}

fn holds(expect: Expect, found: Option<&KvEntry>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found.is_some_and(|entry| entry.revision == revision),
    }
}
