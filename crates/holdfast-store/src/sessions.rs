//! Session records: compare-and-set, and tombstones.

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvEntry};

use crate::kv::{PutError, unix_millis};
use crate::record::{self, Slot};
use crate::{SessionKey, SessionRecord, Store, StoreError, keys};

impl Store {
    /// Writes a new session, and returns it with its first revision.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the key is taken, [`StoreError::Gone`] if it was deleted before;
    /// those of a store that is away.
    pub async fn create(&self, record: SessionRecord) -> Result<SessionRecord, StoreError> {
        match self.write(&record, Expect::Absent).await {
            Ok(revision) => Ok(SessionRecord { revision, ..record }),
            Err(PutError::Mismatch(Some(entry))) => Err(match record::decode(&entry) {
                Ok(Slot::Tombstone) => StoreError::Gone,
                _ => StoreError::Exists,
            }),
            Err(PutError::Mismatch(None)) => Err(StoreError::Exists),
            Err(PutError::Failed(error)) => Err(error),
        }
    }

    /// Reads a session: what this node has of it, or else what the group has.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it never was or has expired, [`StoreError::Gone`] if it was
    /// deleted; those of a store that is away.
    pub async fn get(&self, key: SessionKey) -> Result<SessionRecord, StoreError> {
        read(self.kv.get(&keys::session(key)).await?)
    }

    /// Reads a session as this node has it, without asking anybody.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it has none, [`StoreError::Gone`] if it was deleted.
    pub fn get_local(&self, key: SessionKey) -> Result<SessionRecord, StoreError> {
        read(self.kv.get_local(&keys::session(key)))
    }

    /// Replaces a session if its stored revision is still `record.revision`; returns it with the
    /// next one. Its deadline is `record.deadline`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Gone`] or [`StoreError::Missing`]; those of a store
    /// that is away.
    pub async fn replace(&self, record: SessionRecord) -> Result<SessionRecord, StoreError> {
        let expected = record.revision;
        match self.write(&record, Expect::Revision(expected)).await {
            Ok(revision) => Ok(SessionRecord { revision, ..record }),
            Err(PutError::Mismatch(found)) => Err(conflict(found, expected)),
            Err(PutError::Failed(error)) => Err(error),
        }
    }

    /// Moves a session's deadline, in milliseconds since the Unix epoch; never to an earlier one.
    ///
    /// # Errors
    /// Those of a store that is away.
    pub async fn touch(&self, key: SessionKey, deadline: u64) -> Result<(), StoreError> {
        self.kv.touch(keys::session(key), deadline).await
    }

    /// Ends a session and leaves a tombstone for `keep`. Returns what it was.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Gone`]; those of a store that is away.
    pub async fn delete(
        &self,
        key: SessionKey,
        keep: Duration,
    ) -> Result<SessionRecord, StoreError> {
        let name = keys::session(key);
        loop {
            // One that has expired is ended too: that is how it is cleaned up.
            let entry = match self.kv.get_even_past(&name) {
                Some(entry) => Some(entry),
                None => self.kv.get(&name).await?,
            };
            let entry = entry.ok_or(StoreError::Missing)?;
            let Slot::Live(record) = record::decode(&entry)? else { return Err(StoreError::Gone) };
            let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
            let until = unix_millis().saturating_add(keep);
            let expect = match entry.is_past(unix_millis()) {
                true => Expect::Absent,
                false => Expect::Revision(entry.revision),
            };
            match self.kv.put(name.clone(), record::tombstone(), expect, Some(until)).await {
                Ok(_) => return Ok(*record),
                // Changed meanwhile: what it is now is ended.
                Err(PutError::Mismatch(Some(_))) => {}
                Err(PutError::Mismatch(None)) => return Err(StoreError::Missing),
                Err(PutError::Failed(error)) => return Err(error),
            }
        }
    }

    /// Sessions whose deadline is past, at most `limit`: somebody has to close them at their
    /// servers. Tombstones that are due are forgotten on the way.
    pub async fn due(&self, limit: usize) -> Vec<SessionRecord> {
        let mut found = Vec::new();
        for key in self.kv.due(keys::SESSIONS, limit) {
            let Some(entry) = self.kv.get_even_past(&key) else { continue };
            if let Ok(Slot::Live(record)) = record::decode(&entry) {
                found.push(*record);
            } else {
                let expect = Expect::Revision(entry.revision);
                let _ = self.kv.delete(key, expect).await;
            }
        }
        found
    }

    /// Forgets everything else that is past its deadline, where no group does that.
    pub fn expire(&self) {
        self.kv.expire();
    }

    async fn write(&self, record: &SessionRecord, expect: Expect) -> Result<u64, PutError> {
        let value: Bytes = record::encode(record).map_err(PutError::Failed)?;
        self.kv.put(keys::session(record.key), value, expect, record.deadline).await
    }
}

fn read(entry: Option<KvEntry>) -> Result<SessionRecord, StoreError> {
    match record::decode(&entry.ok_or(StoreError::Missing)?)? {
        Slot::Live(record) => Ok(*record),
        Slot::Tombstone => Err(StoreError::Gone),
    }
}

fn conflict(found: Option<KvEntry>, expected: u64) -> StoreError {
    let Some(entry) = found else { return StoreError::Missing };
    match record::decode(&entry) {
        Ok(Slot::Tombstone) => StoreError::Gone,
        _ => StoreError::Conflict { expected, found: Some(entry.revision) },
    }
}
