//! Sessions: created once, changed by compare-and-set, ended for good.

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvEntry, SESSIONS};

use crate::kv::{Kv, NotWritten};
use crate::record::Stored;
use crate::{SessionKey, SessionRecord, Store, StoreError, keys};

/// How often a deletion is tried anew because somebody changed the session in between.
const TRIES: usize = 16;

impl Store {
    /// Writes a new session; returns it with its revision.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the key is taken, [`StoreError::Gone`] if it was deleted before, or
    /// what the group says.
    ///
    /// # Cancel safety
    /// Cancelled, it may be written; nobody has its key.
    pub async fn create(&self, mut record: SessionRecord) -> Result<SessionRecord, StoreError> {
        let value = record.encode(self.serial(), self.writes_notices())?;
        self.operations.durable.inc();
        let at = keys::session(record.key);
        match self.kv.put(at, value.clone(), Expect::Absent, record.deadline).await {
            Ok(revision) => {
                record.revision = revision;
                self.share(&mut record, &value);
                Ok(record)
            }
            Err(NotWritten::Mismatch(None)) => {
                Err(StoreError::Unavailable("the group contradicts itself".to_owned()))
            }
            Err(NotWritten::Mismatch(Some(found))) => {
                Err(match Stored::decode(record.key, &found)? {
                    Stored::Live(_) => StoreError::Exists,
                    Stored::Tombstone => StoreError::Gone,
                })
            }
            Err(NotWritten::Failed(error)) => Err(error),
        }
    }

    /// Reads a session: this node's copy, or the group's if this node has none. The caller compares
    /// its principal.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it never was or has expired, [`StoreError::Gone`] if it was deleted,
    /// [`StoreError::Unavailable`] if that is not known.
    pub async fn get(&self, key: SessionKey) -> Result<SessionRecord, StoreError> {
        let entry = self.kv.get(&keys::session(key)).await?;
        live(key, entry.as_ref())
    }

    /// Reads a session as the group has it by now, whatever this node has: what was deleted before is
    /// never found.
    ///
    /// # Errors
    /// As [`Store::get`]; also [`StoreError::Unavailable`] if only this node's copy is to be had.
    pub async fn get_fresh(&self, key: SessionKey) -> Result<SessionRecord, StoreError> {
        let entry = self.kv.get_fresh(&keys::session(key)).await?;
        live(key, entry.as_ref())
    }

    /// Reads this node's copy of a session, without asking anybody. Redis' copy here is of what was
    /// read or written here last, and may have nothing.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if this node has none, [`StoreError::Gone`] if it was deleted.
    pub fn get_local(&self, key: SessionKey) -> Result<SessionRecord, StoreError> {
        live(key, self.kv.get_local(&keys::session(key)).as_ref())
    }

    /// Replaces a session if its stored revision is still `record.revision`; returns it with the next
    /// one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Gone`] or [`StoreError::Missing`], or what the group
    /// says.
    ///
    /// # Cancel safety
    /// Cancelled, it may be written.
    pub async fn replace(&self, mut record: SessionRecord) -> Result<SessionRecord, StoreError> {
        let (expected, deadline) = (record.revision, record.deadline);
        let value = record.encode(self.serial(), self.writes_notices())?;
        self.operations.durable.inc();
        let at = keys::session(record.key);
        match self.kv.replace(at, value.clone(), expected, deadline).await {
            Ok((revision, deadline)) => {
                record.revision = revision;
                self.share(&mut record, &value);
                record.deadline = deadline;
                Ok(record)
            }
            Err(NotWritten::Mismatch(found)) => {
                let found = live(record.key, found.as_ref())?.revision;
                Err(StoreError::Conflict { expected, found })
            }
            Err(NotWritten::Failed(error)) => Err(error),
        }
    }

    /// Moves the end of a session to `deadline`, in milliseconds since the Unix epoch, if that is
    /// later. Its revision stays. One entry of the log each time: a caller touches when a tenth of the
    /// time to live has passed, not with every call.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it has expired, [`StoreError::Gone`] if it was deleted, or what the
    /// group says.
    pub async fn touch(&self, key: SessionKey, deadline: u64) -> Result<(), StoreError> {
        let at = keys::session(key);
        if let Some(entry) = self.kv.get_local(&at) {
            live(key, Some(&entry))?;
        }
        self.operations.touches.inc();
        match self.kv.touch(at, deadline).await {
            Err(NotWritten::Mismatch(_)) => Err(StoreError::Missing),
            Err(NotWritten::Failed(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    /// Ends a session and leaves a tombstone for `keep`; returns its last record. One that is past its
    /// deadline is ended too: of the nodes that clean it up, one gets its record. Once this returns,
    /// this node's own copy has the tombstone, if the group can be reached.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Gone`], or what the group says.
    ///
    /// # Cancel safety
    /// Cancelled, it may have ended.
    pub async fn delete(
        &self,
        key: SessionKey,
        keep: Duration,
    ) -> Result<SessionRecord, StoreError> {
        let at = keys::session(key);
        let until = self.after(keep);
        let mut found = match self.kv.get_even_past(&at).await? {
            Some(entry) => Some(entry),
            None => self.kv.get(&at).await?,
        };
        let mut present = found.as_ref().is_some_and(|entry| !entry.is_past(self.now()));
        for _ in 0..TRIES {
            let record = live(key, found.as_ref())?;
            let expect = if present { Expect::Revision(record.revision) } else { Expect::Absent };
            let tombstone = Stored::tombstone(self.serial())?;
            self.operations.durable.inc();
            match self.kv.put(at.clone(), tombstone, expect, Some(until)).await {
                Ok(revision) => {
                    if let Kv::Replicated(replicated) = &self.kv {
                        replicated.see(&at, revision).await;
                    }
                    return Ok(record);
                }
                // Changed, touched or expired meanwhile: what it is now is ended.
                Err(NotWritten::Mismatch(now)) => {
                    present = now.is_some();
                    found = match now {
                        Some(now) => Some(now),
                        None => self.kv.get_even_past(&at).await?,
                    };
                }
                Err(NotWritten::Failed(error)) => return Err(error),
            }
        }
        Err(StoreError::Unavailable("the session keeps changing".to_owned()))
    }

    /// Sessions that are past their deadline, at most `limit`. They are missing for everybody else;
    /// they are there for whoever [deletes](Self::delete) them and closes them at their servers.
    /// Tombstones that are past theirs are forgotten on the way.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn due(&self, limit: usize) -> Vec<SessionRecord> {
        let mut found = Vec::new();
        for at in self.kv.due(SESSIONS, limit).await {
            let entry = match self.kv.get_even_past(&at).await {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                Err(_) => break,
            };
            let stored = keys::session_of(&at).map(|key| Stored::decode(key, &entry));
            if let Some(Ok(Stored::Live(record))) = stored {
                found.push(*record);
                continue;
            }
            // Also what nobody can read. If it fails, it is due the next time too.
            if let Err(NotWritten::Failed(_)) =
                self.kv.delete(at, Expect::Revision(entry.revision)).await
            {
                break;
            }
        }
        found
    }

    /// Has the record take its largest part from the value, where that is kept in this process as it is.
    fn share(&self, record: &mut SessionRecord, value: &Bytes) {
        if let Kv::Memory(_) = self.kv
            && !record.initialize.is_empty()
            && let Some(at) =
                value.windows(record.initialize.len()).position(|it| it == record.initialize)
        {
            record.initialize = value.slice(at..at + record.initialize.len());
        }
    }
}

fn live(key: SessionKey, entry: Option<&KvEntry>) -> Result<SessionRecord, StoreError> {
    match Stored::decode(key, entry.ok_or(StoreError::Missing)?)? {
        Stored::Live(record) => Ok(*record),
        Stored::Tombstone => Err(StoreError::Gone),
    }
}
