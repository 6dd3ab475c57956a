//! The call journal: put-if-absent, then compare-and-set.

use holdfast_engine::journal::{CallKey, Entry, KEEP};
use holdfast_engine::replicated::{Expect, KvEntry};

use crate::kv::{PutError, unix_millis};
use crate::{Store, StoreError, encoding, keys};

/// What [`Store::begin`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: the entry is written, under this revision.
    Mine(u64),
    /// An entry that was there, and its revision.
    Other(Entry, u64),
}

impl Store {
    /// Writes an entry if there is none. It is kept for [`KEEP`].
    ///
    /// # Errors
    /// Those of a store that is away.
    pub async fn begin(&self, key: &CallKey, entry: &Entry) -> Result<Begin, StoreError> {
        match self.write_entry(key, entry, Expect::Absent).await {
            Ok(revision) => Ok(Begin::Mine(revision)),
            Err(PutError::Mismatch(Some(found))) => {
                let (entry, revision) = read(found)?;
                Ok(Begin::Other(entry, revision))
            }
            Err(PutError::Mismatch(None)) => {
                Err(StoreError::Unavailable("an entry came and went".into()))
            }
            Err(PutError::Failed(error)) => Err(error),
        }
    }

    /// Replaces the entry of this revision; the new one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another node has changed it, [`StoreError::Missing`] if it is
    /// gone, [`StoreError::Fenced`] if this node may not any more; those of a store that is away.
    pub async fn settle(
        &self,
        key: &CallKey,
        revision: u64,
        entry: &Entry,
    ) -> Result<u64, StoreError> {
        match self.write_entry(key, entry, Expect::Revision(revision)).await {
            Ok(revision) => Ok(revision),
            Err(PutError::Mismatch(Some(found))) => Err(StoreError::Conflict {
                expected: revision,
                found: Some(found.revision),
            }),
            Err(PutError::Mismatch(None)) => Err(StoreError::Missing),
            Err(PutError::Failed(error)) => Err(error),
        }
    }

    /// An entry and its revision, as this node has it, or else as the group has it.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; those of a store that is away.
    pub async fn entry(&self, key: &CallKey) -> Result<(Entry, u64), StoreError> {
        read(self.kv.get(&keys::call(key)).await?.ok_or(StoreError::Missing)?)
    }

    async fn write_entry(
        &self,
        key: &CallKey,
        entry: &Entry,
        expect: Expect,
    ) -> Result<u64, PutError> {
        let value = encoding::encode(entry).map_err(PutError::Failed)?;
        let keep = u64::try_from(KEEP.as_millis()).unwrap_or(u64::MAX);
        let deadline = unix_millis().saturating_add(keep);
        self.kv.put(keys::call(key), value, expect, Some(deadline)).await
    }
}

fn read(found: KvEntry) -> Result<(Entry, u64), StoreError> {
    Ok((encoding::decode(&found.value)?, found.revision))
}
