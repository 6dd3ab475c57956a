//! Stream records: what a node needs to end a stream that another node began.

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::journal::CallKey;
use holdfast_engine::replicated::{Expect, Origin};
use serde::{Deserialize, Serialize};

use crate::kv::{PutError, unix_millis};
use crate::{SessionKey, Store, StoreError, encoding, keys};

/// A stream that clients may come back to, as it is written before its first event id goes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The stream's id, as its event ids have it.
    pub stream: u128,
    /// Who supplies it.
    pub owner: Origin,
    /// Digest of the principal whose it is.
    pub principal: u64,
    /// The logical server.
    pub server: String,
    /// The session that the call belongs to, if it has one.
    pub session: Option<u128>,
    /// The call's class, as a number.
    pub class: u8,
    /// The request, byte for byte; none if it is longer than [`StreamRecord::LONGEST`].
    pub body: Option<Bytes>,
    /// The call's entry in the journal, if it has one.
    pub journal: Option<CallKey>,
    /// Compare-and-set guard.
    #[serde(skip)]
    pub revision: u64,
}

impl StreamRecord {
    /// The longest request that is kept, in bytes.
    pub const LONGEST: usize = 64 * 1024;

    /// The session's key.
    #[must_use]
    pub fn session_key(&self) -> Option<SessionKey> {
        self.session.map(SessionKey)
    }
}

impl Store {
    /// Writes the record of a new stream, to be kept for `keep`.
    ///
    /// # Errors
    /// Those of a store that is away.
    pub async fn put_stream(
        &self,
        record: &StreamRecord,
        keep: Duration,
    ) -> Result<(), StoreError> {
        self.write_stream(record, keep, Expect::Any).await.map(|_| ())
    }

    /// Gives a stream another owner, if nobody else was faster.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if somebody was; those of a store that is away.
    pub async fn take_stream(
        &self,
        record: &StreamRecord,
        keep: Duration,
    ) -> Result<u64, StoreError> {
        self.write_stream(record, keep, Expect::Revision(record.revision)).await
    }

    /// The record of a stream, as this node has it, or else as the group has it.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; those of a store that is away.
    pub async fn stream(&self, id: u128) -> Result<StreamRecord, StoreError> {
        let found = self.kv.get(&keys::stream(id)).await?.ok_or(StoreError::Missing)?;
        let record: StreamRecord = encoding::decode(&found.value)?;
        Ok(StreamRecord { revision: found.revision, ..record })
    }

    /// Forgets a stream that no client can come back to.
    ///
    /// # Errors
    /// Those of a store that is away.
    pub async fn remove_stream(&self, id: u128) -> Result<(), StoreError> {
        match self.kv.delete(keys::stream(id), Expect::Any).await {
            Ok(()) | Err(PutError::Mismatch(_)) => Ok(()),
            Err(PutError::Failed(error)) => Err(error),
        }
    }

    async fn write_stream(
        &self,
        record: &StreamRecord,
        keep: Duration,
        expect: Expect,
    ) -> Result<u64, StoreError> {
        let value = encoding::encode(record)?;
        let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let deadline = unix_millis().saturating_add(keep);
        match self.kv.put(keys::stream(record.stream), value, expect, Some(deadline)).await {
            Ok(revision) => Ok(revision),
            Err(PutError::Mismatch(found)) => Err(StoreError::Conflict {
                expected: record.revision,
                found: found.map(|entry| entry.revision),
            }),
            Err(PutError::Failed(error)) => Err(error),
        }
    }
}
