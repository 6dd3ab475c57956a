//! Where sessions are kept: one contract, several stores.
//!
//! A [`SessionRecord`] is everything that a node needs to go on with a session it has never seen:
//! who it belongs to, how it was opened, and where it is bound. Writes are compare-and-set on the
//! record's revision, so two nodes that change one session at once cannot lose each other's change;
//! a deleted session leaves a tombstone that outlives every copy, so a late writer cannot bring it
//! back.
//!
//! [`Store`] is an enum and not a trait object: the set of stores is closed, chosen by
//! configuration, and a match costs nothing on the path of a call.

mod contract;
mod memory;
mod record;

pub use memory::MemoryStore;
pub use record::{Announces, Binding, SessionKey, SessionRecord};

use std::time::Duration;

/// What a store could not do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// Somebody else changed the record: read it again and decide anew.
    #[error("the session was changed by someone else (revision {found}, expected {expected})")]
    Conflict {
        /// The revision the caller had read.
        expected: u64,
        /// The revision that is stored.
        found: u64,
    },
    /// The session was deleted; it does not come back.
    #[error("the session has ended")]
    Gone,
    /// There is no such session.
    #[error("there is no such session")]
    Missing,
    /// A session with this key exists already.
    #[error("a session with this id exists already")]
    Exists,
}

/// The session store of this node.
#[derive(Debug)]
pub enum Store {
    /// Records live in this process and end with it.
    Memory(MemoryStore),
}

impl Store {
    /// The store for one node: memory.
    pub fn memory() -> Self {
        Self::Memory(MemoryStore::default())
    }

    /// Writes a new session. Its revision becomes 1.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the key is taken, [`StoreError::Gone`] if it was deleted before.
    pub async fn create(&self, record: SessionRecord) -> Result<SessionRecord, StoreError> {
        match self {
            Self::Memory(store) => store.create(record),
        }
    }

    /// Reads a session.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it never was, [`StoreError::Gone`] if it was deleted.
    pub async fn get(&self, key: SessionKey) -> Result<SessionRecord, StoreError> {
        match self {
            Self::Memory(store) => store.get(key),
        }
    }

    /// Replaces a session if its stored revision is still `record.revision`; returns it with the
    /// next revision.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::Gone`] or [`StoreError::Missing`].
    pub async fn replace(&self, record: SessionRecord) -> Result<SessionRecord, StoreError> {
        match self {
            Self::Memory(store) => store.replace(record),
        }
    }

    /// Ends a session and leaves a tombstone for `keep`.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Gone`].
    pub async fn delete(
        &self,
        key: SessionKey,
        now: Duration,
        keep: Duration,
    ) -> Result<SessionRecord, StoreError> {
        match self {
            Self::Memory(store) => store.delete(key, now, keep),
        }
    }

    /// Forgets tombstones that are due at `now` (time since the node started).
    pub async fn sweep(&self, now: Duration) -> usize {
        match self {
            Self::Memory(store) => store.sweep(now),
        }
    }
}
