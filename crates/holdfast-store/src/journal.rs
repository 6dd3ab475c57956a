//! The call journal: entries that are there before their call is sent.

use bytes::Bytes;
use holdfast_engine::journal::{CallKey, Entry, KEEP, Phase};
use holdfast_engine::replicated::{Expect, KvEntry};

use crate::encode::{Malformed, decode, encode};
use crate::kv::{NotWritten, Posted};
use crate::streams::conflict;
use crate::{Store, StoreError, keys};

/// Answers larger than this are not kept: the entry says that the call ran, and no more. In bytes, as
/// sealed.
pub const MAX_ANSWER: usize = 64 * 1024;

/// What came of writing a new entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The entry is ours, at this revision.
    Mine(u64),
    /// There is one already: this, at that revision. The caller compares its principal.
    Other(Entry, u64),
}

const FORMAT: u8 = 1;

impl Store {
    /// Writes the entry of a call if there is none. It lives for [`KEEP`] from now; a call that runs
    /// longer keeps it with [`Store::keep_entry`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Fenced`]: not written.
    /// [`StoreError::Unknown`]: it may be, in this node's name; the call must not be sent.
    ///
    /// # Cancel safety
    /// Cancelled, the entry may be written, with nobody who settles it.
    pub async fn begin(&self, key: &CallKey, entry: &Entry) -> Result<Begin, StoreError> {
        let other = |found: &KvEntry| Ok(Begin::Other(read(found)?, found.revision));
        let at = keys::journal(key);
        // What is found here may be out of date, but whoever goes on from it writes by its revision.
        // Without a balancer's id it may be an earlier call's, finished since: the group is asked.
        if entry.by_balancer
            && let Some(found) = self.kv.get_local(&at)
        {
            return other(&found);
        }
        match self.write_entry(key, entry, Expect::Absent).await {
            Ok(revision) => Ok(Begin::Mine(revision)),
            Err(NotWritten::Mismatch(Some(found))) => other(&found),
            Err(NotWritten::Mismatch(None)) => {
                Err(StoreError::Unavailable("the group contradicts itself".to_owned()))
            }
            Err(NotWritten::Failed(error)) => Err(error),
        }
    }

    /// Replaces the entry of a call if its revision is still this one: to settle it, or to take it
    /// over. It lives for [`KEEP`] from now. An answer larger than [`MAX_ANSWER`] is left out.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] or [`StoreError::Missing`]: it is not ours any more.
    /// [`StoreError::Fenced`]: nothing is. Else what the group says.
    ///
    /// # Cancel safety
    /// Cancelled, it may be written.
    pub async fn settle(
        &self,
        key: &CallKey,
        revision: u64,
        entry: &Entry,
    ) -> Result<u64, StoreError> {
        settled(revision, self.write_entry(key, entry, Expect::Revision(revision)).await)
    }

    /// As [`Store::settle`], once, for somebody who does not wait: `done` is told what came of it, on this
    /// thread or on one of the store's. Where it would have to be waited for, that is
    /// [`StoreError::Unavailable`], at once.
    pub fn post_settled<D>(&self, key: &CallKey, revision: u64, entry: &Entry, done: D)
    where
        D: FnOnce(Result<u64, StoreError>) + Send + 'static,
    {
        let value = match write(entry, self.serial()) {
            Ok(value) => value,
            Err(error) => return done(Err(error.into())),
        };
        self.operations.durable.inc();
        let deadline = Some(self.after(KEEP));
        let put = Posted { key: keys::journal(key), value, revision, deadline };
        self.kv.post(put, move |written| done(settled(revision, written)));
    }

    /// Reads the entry of a call, and its revision. The caller compares its principal.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none, [`StoreError::Unavailable`] if that is not known.
    pub async fn entry(&self, key: &CallKey) -> Result<(Entry, u64), StoreError> {
        let entry = self.kv.get(&keys::journal(key)).await?.ok_or(StoreError::Missing)?;
        Ok((read(&entry)?, entry.revision))
    }

    /// Keeps the entry of a call that is still running for another [`KEEP`].
    ///
    /// # Errors
    /// [`StoreError::Missing`], or what the group says.
    pub async fn keep_entry(&self, key: &CallKey) -> Result<(), StoreError> {
        self.operations.touches.inc();
        match self.kv.touch(keys::journal(key), self.after(KEEP)).await {
            Err(NotWritten::Mismatch(_)) => Err(StoreError::Missing),
            Err(NotWritten::Failed(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    async fn write_entry(
        &self,
        key: &CallKey,
        entry: &Entry,
        expect: Expect,
    ) -> Result<u64, NotWritten> {
        let value = write(entry, self.serial())?;
        self.operations.durable.inc();
        self.kv.put(keys::journal(key), value, expect, Some(self.after(KEEP))).await
    }
}

/// What came of a write over the entry at `revision`.
fn settled(revision: u64, written: Result<u64, NotWritten>) -> Result<u64, StoreError> {
    match written {
        Err(NotWritten::Mismatch(found)) => Err(conflict(revision, found.as_ref())),
        Err(NotWritten::Failed(error)) => Err(error),
        Ok(revision) => Ok(revision),
    }
}

fn read(entry: &KvEntry) -> Result<Entry, Malformed> {
    decode(FORMAT, &entry.value)
}

/// The value of an entry, without an answer that is too large.
fn write(entry: &Entry, serial: u64) -> Result<Bytes, Malformed> {
    let Phase::Complete { answer: Some(answer), status, is_stream } = &entry.phase else {
        return encode(FORMAT, serial, entry);
    };
    if answer.len() <= MAX_ANSWER {
        return encode(FORMAT, serial, entry);
    }
    let phase = Phase::Complete { answer: None, status: *status, is_stream: *is_stream };
    encode(FORMAT, serial, &Entry { phase, server: entry.server.clone(), ..*entry })
}
