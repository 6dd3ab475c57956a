//! The log and the vote: read from memory, written to disk.
//!
//! Memory holds what a leader sends to its followers, which is the part of the log that no snapshot
//! has replaced yet. An entry can be read as soon as [`RaftLogStorage::append`] has returned and counts
//! as written once the writer has synced it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use redb::{Database, ReadableDatabase, ReadableTable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::writer::{Done, LOG, META, Write, Writer, gone};
use crate::types::{Entry, LogId, Types, Vote};

/// Bytes of entries in one message to a follower, unless a single entry is larger.
const MESSAGE: usize = 1 << 20;

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// What is in the file.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    entries: BTreeMap<u64, Sized>,
}

/// An entry and its size when encoded.
struct Sized {
    entry: Entry,
    bytes: usize,
}

/// The log of this node. Clones are the same log.
#[derive(Clone)]
pub(crate) struct Log {
    contents: Arc<Mutex<Contents>>,
    writer: Writer,
}

// === impl Contents ===

impl Contents {
    pub(super) fn read(database: &Database) -> Result<Self, String> {
        let transaction = database.begin_read().map_err(text)?;
        let mut contents = Self::default();
        match transaction.open_table(LOG) {
            Ok(log) => {
                for row in log.iter().map_err(text)? {
                    let (index, bytes) = row.map_err(text)?;
                    let bytes = bytes.value();
                    let entry = postcard::from_bytes(bytes).map_err(text)?;
                    contents.entries.insert(index.value(), Sized { entry, bytes: bytes.len() });
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
        let meta = transaction.open_table(META).map_err(text)?;
        contents.vote = read(&meta, VOTE)?;
        contents.committed = read(&meta, COMMITTED)?.flatten();
        contents.purged = read(&meta, PURGED)?;
        Ok(contents)
    }
}

fn read<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, String> {
    let Some(value) = table.get(key).map_err(text)? else { return Ok(None) };
    postcard::from_bytes(value.value()).map(Some).map_err(text)
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

// === impl Log ===

impl Log {
    pub(super) fn new(contents: Contents, writer: Writer) -> Self {
        Self { contents: Arc::new(Mutex::new(contents)), writer }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Nothing that runs under the lock can leave the contents half changed.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all entries that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.contents().entries.values().map(|it| it.bytes).sum()
    }

    /// Writes a record beside the log and returns once it is on disk.
    pub(super) async fn write_meta(&self, key: &'static str, value: Vec<u8>) -> io::Result<()> {
        self.written(|done| Write::Meta(key, value, done)).await
    }

    /// Waits until the file and the lock of the directory are given up, which is once every clone of
    /// this log is gone.
    pub(crate) fn closed(self) -> impl Future<Output = ()> {
        self.writer.ended()
    }

    async fn written(&self, write: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        self.writer.send(write(done))?;
        result.await.map_err(|_| gone())?
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.contents().entries.range(range).map(|(_, it)| it.entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let contents = self.contents();
        let mut bytes = 0;
        let fits = |it: &&Sized| {
            let first = bytes == 0;
            bytes += it.bytes;
            first || bytes <= MESSAGE
        };
        let entries = contents.entries.range(start..end).map(|(_, it)| it);
        Ok(entries.take_while(fits).map(|it| it.entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.contents().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let contents = self.contents();
        let last = contents.entries.last_key_value().map(|(_, it)| it.entry.log_id);
        Ok(LogState { last_purged_log_id: contents.purged, last_log_id: last.or(contents.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write_meta(VOTE, encode(vote)?).await?;
        self.contents().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.writer.send(Write::Lazy(COMMITTED, encode(&committed)?))?;
        self.contents().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.contents().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        let mut added = Vec::new();
        for entry in entries {
            let bytes = encode(&entry)?;
            added.push((entry.log_id.index, Sized { entry, bytes: bytes.len() }));
            rows.push((added.last().map_or(0, |(index, _)| *index), bytes));
        }
        self.contents().entries.extend(added);
        self.writer.send(Write::Append(rows, flushed))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |it| it.index + 1);
        self.contents().entries.split_off(&from);
        self.written(|done| Write::Truncate(from, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let record = encode(&upto)?;
        {
            let mut contents = self.contents();
            contents.entries = contents.entries.split_off(&(upto.index + 1));
            contents.purged = contents.purged.max(Some(upto));
        }
        self.written(|done| Write::Purge(upto.index, PURGED, record, done)).await
    }
}
