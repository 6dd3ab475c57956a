//! The record of one stream to a client: what a node needs that goes on with it in place of another.

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::journal::CallKey;
use holdfast_engine::replicated::{Expect, KvEntry, Origin};
use serde::{Deserialize, Serialize};

use crate::encode::{Malformed, decode, encode};
use crate::kv::NotWritten;
use crate::{Store, StoreError, keys};

/// A stream that a client may come back for. Its record is in the store before the first of its event
/// ids goes out; what changes with every event (instance, the server's own session and event id) is in
/// the event ids themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRecord {
    /// The stream's id, as its event ids have it.
    pub stream: u128,
    /// The node that supplies it.
    pub owner: Origin,
    /// Digest of the name of the principal that may resume it.
    pub principal: u64,
    /// The logical server.
    pub server: String,
    /// The key of the session that its call belongs to, if to any.
    pub session: Option<u128>,
    /// The class of its call, `CallClass` as a number.
    pub class: u8,
    /// The request's body; none if it is longer than [`StreamRecord::LONGEST`].
    pub body: Option<Bytes>,
    /// The call's journal entry, if it has one.
    pub journal: Option<CallKey>,
    /// Compare-and-set guard: rises with every write. It does not count in a new record.
    pub revision: u64,
}

const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    owner: Origin,
    principal: u64,
    server: &'a str,
    session: Option<u128>,
    class: u8,
    body: Option<Bytes>,
    journal: Option<CallKey>,
}

// === impl StreamRecord ===

impl StreamRecord {
    /// The longest body that is stored, in bytes. A call with a longer one is not repeated by another
    /// node.
    pub const LONGEST: usize = 64 * 1024;

    pub(crate) fn encode(&self, serial: u64) -> Result<Bytes, Malformed> {
        let wire = Wire {
            owner: self.owner,
            principal: self.principal,
            server: &self.server,
            session: self.session,
            class: self.class,
            body: self.body.clone().filter(|body| body.len() <= Self::LONGEST),
            journal: self.journal,
        };
        encode(FORMAT, serial, &wire)
    }

    pub(crate) fn decode(stream: u128, entry: &KvEntry) -> Result<Self, Malformed> {
        let wire: Wire<'_> = decode(FORMAT, &entry.value)?;
        Ok(Self {
            stream,
            owner: wire.owner,
            principal: wire.principal,
            server: wire.server.to_owned(),
            session: wire.session,
            class: wire.class,
            body: wire.body,
            journal: wire.journal,
            revision: entry.revision,
        })
    }
}

// === impl Store ===

impl Store {
    /// Writes the record of a new stream, to be kept for `keep` from now. A body longer than
    /// [`StreamRecord::LONGEST`] is left out.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the id is taken, or what the group says.
    ///
    /// # Cancel safety
    /// Cancelled, it may be written.
    pub async fn put_stream(
        &self,
        record: &StreamRecord,
        keep: Duration,
    ) -> Result<(), StoreError> {
        match self.write_stream(record, keep, Expect::Absent).await {
            Ok(_) => Ok(()),
            Err(NotWritten::Mismatch(_)) => Err(StoreError::Exists),
            Err(NotWritten::Failed(error)) => Err(error),
        }
    }

    /// Reads the record of a stream. The caller compares its principal.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none, [`StoreError::Unavailable`] if that is not known.
    pub async fn stream(&self, stream: u128) -> Result<StreamRecord, StoreError> {
        let entry = self.kv.get(&keys::stream(stream)).await?.ok_or(StoreError::Missing)?;
        Ok(StreamRecord::decode(stream, &entry)?)
    }

    /// Replaces the record of a stream if its stored revision is still `record.revision`, to be kept
    /// for `keep` from now; the new revision. Of the nodes that would go on with an orphaned stream
    /// one succeeds.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] or [`StoreError::Missing`], or what the group says.
    ///
    /// # Cancel safety
    /// Cancelled, it may be written.
    pub async fn take_stream(
        &self,
        record: &StreamRecord,
        keep: Duration,
    ) -> Result<u64, StoreError> {
        let expected = record.revision;
        match self.write_stream(record, keep, Expect::Revision(expected)).await {
            Ok(revision) => Ok(revision),
            Err(NotWritten::Mismatch(found)) => Err(conflict(expected, found.as_ref())),
            Err(NotWritten::Failed(error)) => Err(error),
        }
    }

    async fn write_stream(
        &self,
        record: &StreamRecord,
        keep: Duration,
        expect: Expect,
    ) -> Result<u64, NotWritten> {
        let value = record.encode(self.serial())?;
        let deadline = Some(self.after(keep));
        self.operations.durable.inc();
        self.kv.put(keys::stream(record.stream), value, expect, deadline).await
    }
}

/// What a mismatch means to whoever expected a revision.
pub(crate) fn conflict(expected: u64, found: Option<&KvEntry>) -> StoreError {
    match found {
        Some(entry) => StoreError::Conflict { expected, found: entry.revision },
        None => StoreError::Missing,
    }
}
