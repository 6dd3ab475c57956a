//! One layer below all records: opaque values with a revision and a deadline.
//!
//! An entry past its deadline counts as absent for everybody but whoever cleans up. Revisions rise
//! with every write and are never used twice, not even for another key.

mod group;
mod lost;
mod memory;
mod redis;
mod replicated;

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvEntry};

pub use group::{BoxFuture, Group, GroupError};
use lost::{Became, became};
pub(crate) use memory::MemoryKv;
pub(crate) use redis::{Connected, RedisKv};
pub use redis::{Primary, StoreChange};
pub(crate) use replicated::Replicated;

use crate::StoreError;
use crate::encode::Malformed;

/// Where the values are. Closed: the configuration chooses.
#[derive(Debug)]
pub(crate) enum Kv {
    Memory(Box<MemoryKv>),
    Replicated(Replicated),
    Redis(Box<RedisKv>),
}

/// Why something was not written.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// The expectation did not hold; what is there instead. Nothing was changed.
    Mismatch(Option<KvEntry>),
    /// Anything else.
    Failed(StoreError),
}

/// What is written over an entry without waiting for it.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// Of the entry.
    pub(crate) revision: u64,
    pub(crate) deadline: Option<u64>,
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
            Self::Redis(redis) => redis.now(),
        }
    }

    /// What this node has, without asking anybody.
    pub(crate) fn get_local(&self, key: &[u8]) -> Option<KvEntry> {
        match self {
            Self::Memory(memory) => memory.get(key),
            Self::Replicated(replicated) => replicated.group().get(key),
            Self::Redis(redis) => redis.get_local(key),
        }
    }

    /// What this node's copy has where that follows the group, else what Redis has.
    pub(crate) async fn get_followed(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        match self {
            Self::Memory(_) | Self::Replicated(_) => Ok(self.get_local(key)),
            Self::Redis(redis) => redis.get_fresh(key).await,
        }
    }

    /// As [`Self::get_followed`], also past its deadline.
    pub(crate) async fn get_even_past(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.get_even_past(key)),
            Self::Replicated(replicated) => Ok(replicated.group().get_even_past(key)),
            Self::Redis(redis) => redis.get_even_past(key).await,
        }
    }

    /// What this node has, and if it has nothing, what the group has. Redis is asked, and this node's
    /// copy answers in its place while it is away.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        match self {
            Self::Redis(redis) => redis.get(key).await,
            Self::Memory(memory) => Ok(memory.get(key)),
            Self::Replicated(replicated) => match replicated.group().get(key) {
                None => replicated.get_fresh(key).await,
                found => Ok(found),
            },
        }
    }

    /// What the group has by now.
    pub(crate) async fn get_fresh(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.get(key)),
            Self::Replicated(replicated) => replicated.get_fresh(key).await,
            Self::Redis(redis) => redis.get_fresh(key).await,
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
            Self::Replicated(replicated) => {
                // Boxed: a write to Redis is not to carry its room along.
                Box::pin(replicated.put(key, value, expect, deadline)).await
            }
            Self::Redis(redis) => {
                let written = redis.put(key, value, expect, deadline, false).await;
                written.map(|(revision, _)| revision)
            }
        }
    }

    /// Writes a value over the one at `revision` without waiting for it, where that can be done: `done` is
    /// told the new revision. Where it has to be waited for, it is told at once that nothing was done.
    pub(crate) fn post(
        &self,
        put: Posted,
        done: impl FnOnce(Result<u64, NotWritten>) + Send + 'static,
    ) {
        match self {
            Self::Memory(memory) => {
                let Posted { key, value, revision, deadline } = put;
                done(memory.put(key, value, Expect::Revision(revision), deadline));
            }
            Self::Replicated(_) => {
                let reason = "the group has to be waited for".to_owned();
                done(Err(NotWritten::Failed(StoreError::Unavailable(reason))));
            }
            Self::Redis(redis) => redis.post(put, done),
        }
    }

    /// Writes a value over the one at `revision`. A deadline that is there, as far as this node knows,
    /// and later stays. The new revision, and the deadline that it has now.
    pub(crate) async fn replace(
        &self,
        key: Bytes,
        value: Bytes,
        revision: u64,
        deadline: Option<u64>,
    ) -> Result<(u64, Option<u64>), NotWritten> {
        let expect = Expect::Revision(revision);
        if let Self::Redis(redis) = self {
            return redis.put(key, value, expect, deadline, true).await;
        }
        // Somebody may have touched it since it was read.
        let deadline = match self.get_local(&key) {
            Some(present) => later(deadline, present.deadline),
            None => deadline,
        };
        let revision = self.put(key, value, expect, deadline).await?;
        Ok((revision, deadline))
    }

    /// Removes an entry. A revision is also found past its deadline.
    pub(crate) async fn delete(&self, key: Bytes, expect: Expect) -> Result<(), NotWritten> {
        match self {
            Self::Memory(memory) => memory.delete(&key, expect),
            Self::Replicated(replicated) => replicated.delete(key, expect).await,
            Self::Redis(redis) => redis.delete(key, expect).await,
        }
    }

    /// Moves an entry's deadline, never to an earlier time; its revision stays.
    pub(crate) async fn touch(&self, key: Bytes, deadline: u64) -> Result<(), NotWritten> {
        match self {
            Self::Memory(memory) => memory.touch(&key, deadline),
            Self::Replicated(replicated) => replicated.touch(key, deadline).await,
            Self::Redis(redis) => redis.touch(key, deadline).await,
        }
    }

    /// Keys below `prefix` that are past their deadline, at most `limit`.
    pub(crate) async fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        match self {
            Self::Memory(memory) => memory.due(prefix, limit),
            Self::Replicated(replicated) => replicated.group().due(prefix, limit),
            Self::Redis(redis) => redis.due(prefix, limit).await,
        }
    }
}

fn later(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    // None is the latest of all: never.
    Some(one?.max(other?))
}

fn holds(expect: Expect, found: Option<&KvEntry>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found.is_some_and(|entry| entry.revision == revision),
    }
}

/// As whole milliseconds, in which all deadlines are.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
