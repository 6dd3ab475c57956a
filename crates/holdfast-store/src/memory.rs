//! The store of one node: a sharded map.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{SessionKey, SessionRecord, StoreError};

const SHARDS: usize = 32;

#[derive(Debug)]
enum Slot {
    Live(Box<SessionRecord>),
    /// Deleted; the key stays taken until the instant.
    Tombstone {
        until: Duration,
    },
}

/// Sessions in this process's memory.
#[derive(Debug)]
pub struct MemoryStore {
    shards: [Mutex<HashMap<SessionKey, Slot>>; SHARDS],
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl MemoryStore {
    fn shard(&self, key: SessionKey) -> MutexGuard<'_, HashMap<SessionKey, Slot>> {
        // Keys are random, so their low bits spread by themselves. No code panics under the lock,
        // so a poisoned one still guards a whole map.
        let index = (key.0 % SHARDS as u128) as usize;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn create(&self, mut record: SessionRecord) -> Result<SessionRecord, StoreError> {
        let mut shard = self.shard(record.key);
        match shard.get(&record.key) {
            Some(Slot::Live(_)) => return Err(StoreError::Exists),
            Some(Slot::Tombstone { .. }) => return Err(StoreError::Gone),
            None => {}
        }
        record.revision = 1;
        shard.insert(record.key, Slot::Live(Box::new(record.clone())));
        Ok(record)
    }

    pub(crate) fn get(&self, key: SessionKey) -> Result<SessionRecord, StoreError> {
        match self.shard(key).get(&key) {
            Some(Slot::Live(record)) => Ok((**record).clone()),
            Some(Slot::Tombstone { .. }) => Err(StoreError::Gone),
            None => Err(StoreError::Missing),
        }
    }

    pub(crate) fn replace(&self, mut record: SessionRecord) -> Result<SessionRecord, StoreError> {
        match self.shard(record.key).get_mut(&record.key) {
            Some(Slot::Live(stored)) if stored.revision == record.revision => {
                record.revision += 1;
                **stored = record.clone();
                Ok(record)
            }
            Some(Slot::Live(stored)) => {
                Err(StoreError::Conflict { expected: record.revision, found: stored.revision })
            }
            Some(Slot::Tombstone { .. }) => Err(StoreError::Gone),
            None => Err(StoreError::Missing),
        }
    }

    pub(crate) fn delete(
        &self,
        key: SessionKey,
        now: Duration,
        keep: Duration,
    ) -> Result<SessionRecord, StoreError> {
        let mut shard = self.shard(key);
        match shard.get(&key) {
            None => Err(StoreError::Missing),
            Some(Slot::Tombstone { .. }) => Err(StoreError::Gone),
            Some(Slot::Live(_)) => {
                match shard.insert(key, Slot::Tombstone { until: now.saturating_add(keep) }) {
                    Some(Slot::Live(record)) => Ok(*record),
                    _ => Err(StoreError::Missing),
                }
            }
        }
    }

    pub(crate) fn sweep(&self, now: Duration) -> usize {
        let mut forgotten = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, slot| !matches!(slot, Slot::Tombstone { until } if *until <= now));
            forgotten += before - shard.len();
        }
        forgotten
    }
}
