//! The one thread that writes the log, and the one queue before it.
//!
//! Whatever is queued while an fsync runs is written and synced together by the next one. Because there
//! is one queue, a vote never overtakes an append that was handed over before it. After a write that
//! failed, every later one fails too: a log with a hole in it is worse than none.

use std::fs::File;
use std::io;
use std::sync::mpsc;
use std::thread;

use openraft::storage::IOFlushed;
use redb::{Database, TableDefinition};
use tokio::sync::{oneshot, watch};

use crate::types::Types;

pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The most writes in one transaction: bounds what the last of them waits for.
const GROUP: usize = 1024;

pub(super) type Done = oneshot::Sender<io::Result<()>>;

/// One write.
pub(super) enum Write {
    Append(Vec<(u64, Vec<u8>)>, IOFlushed<Types>),
    Meta(&'static str, Vec<u8>, Done),
    /// As `Meta`, but it may wait for the next write that has to be synced.
    Lazy(&'static str, Vec<u8>),
    /// Removes the entries from this index on.
    Truncate(u64, Done),
    /// Removes the entries up to this index, and writes the record of it.
    Purge(u64, &'static str, Vec<u8>, Done),
}

/// The end of the queue that others hold. The thread ends when the last of them is dropped.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Write>,
    ended: watch::Receiver<()>,
}

/// Starts the thread. It owns the database and the directory's lock, and gives both up at its end.
pub(super) fn spawn(database: Database, lock: File) -> io::Result<Writer> {
    let (queue, writes) = mpsc::channel();
    let (alive, ended) = watch::channel(());
    thread::Builder::new().name("raft-log".to_owned()).spawn(move || {
        run(&database, &writes);
        drop(database);
        drop(lock);
        drop(alive);
    })?;
    Ok(Writer { queue, ended })
}

// === impl Writer ===

impl Writer {
    pub(super) fn send(&self, write: Write) -> io::Result<()> {
        self.queue.send(write).map_err(|_| gone())
    }

    /// Gives this end up and waits for the thread's.
    pub(super) fn ended(self) -> impl Future<Output = ()> {
        let Self { queue, mut ended } = self;
        drop(queue);
        async move { while ended.changed().await.is_ok() {} }
    }
}

pub(super) fn gone() -> io::Error {
    io::Error::other("the log's writer has ended")
}

fn run(database: &Database, writes: &mpsc::Receiver<Write>) {
    let mut lazy = Vec::new();
    let mut broken: Option<String> = None;
    while let Ok(first) = writes.recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = writes.try_recv()
        {
            group.push(next);
        }
        let only_lazy = group.iter().all(|it| matches!(it, Write::Lazy(..)));
        if broken.is_none() && !only_lazy {
            let result = commit(database, std::mem::take(&mut lazy).iter().chain(&group));
            if let Err(error) = result {
                tracing::error!(%error, "cannot write the log: this node stops");
                broken = Some(error.to_string());
            }
        }
        for write in group {
            let result = broken.as_ref().map_or(Ok(()), |error| Err(io::Error::other(&**error)));
            match write {
                Write::Append(_, flushed) => flushed.io_completed(result),
                Write::Meta(.., done) | Write::Truncate(_, done) | Write::Purge(.., done) => {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(result);
                }
                Write::Lazy(..) if only_lazy => {
                    lazy.clear();
                    lazy.push(write);
                }
                Write::Lazy(..) => {}
            }
        }
    }
    if broken.is_none() && !lazy.is_empty() {
        // Only how far the log is committed; without it the leader says so again.
        let _ = commit(database, lazy.iter());
    }
}

fn commit<'a>(
    database: &Database,
    writes: impl Iterator<Item = &'a Write>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut log = transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        for write in writes {
            match write {
                Write::Append(entries, _) => {
                    for (index, bytes) in entries {
                        log.insert(*index, bytes.as_slice())?;
                    }
                }
                Write::Meta(key, value, _) | Write::Lazy(key, value) => {
                    meta.insert(*key, value.as_slice())?;
                }
                Write::Truncate(from, _) => log.retain_in(*from.., |_, _| false)?,
                Write::Purge(upto, key, value, _) => {
                    log.retain_in(..=*upto, |_, _| false)?;
                    meta.insert(*key, value.as_slice())?;
                }
            }
        }
    }
    // With redb's default durability this returns after the fsync.
    transaction.commit()?;
    Ok(())
}
