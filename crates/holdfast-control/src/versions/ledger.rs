//! The group's history of configurations, and the texts that its versions name.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::ProposeError;
use holdfast_engine::replicated::{Body, Expect, KvCommand, KvEntry, Reply};

use crate::group::{Alone, Clustered, Group};

/// How long a change of the texts may take.
const KEEP_WITHIN: Duration = Duration::from_secs(2);
/// How long it may take to learn whether this node knows the newest.
const FRESH_WITHIN: Duration = Duration::from_secs(1);

/// A group that keeps texts beside what it agrees on.
pub trait Ledger: Group {
    /// Changes a value of the group's own store.
    ///
    /// # Errors
    /// See [`ProposeError`].
    fn keep(&self, command: KvCommand) -> BoxFuture<'_, Result<Reply, ProposeError>>;

    /// A value of it, as applied here.
    fn kept(&self, key: &[u8]) -> Option<KvEntry>;

    /// Waits until this node knows everything that was agreed on before. False: it cannot find out.
    fn fresh(&self) -> BoxFuture<'_, bool>;
}

impl Ledger for Clustered {
    fn keep(&self, command: KvCommand) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        Box::pin(self.0.propose(Body::Kv(command), KEEP_WITHIN))
    }

    fn kept(&self, key: &[u8]) -> Option<KvEntry> {
        self.0.get(key)
    }

    fn fresh(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.0.read_index(FRESH_WITHIN).await.is_ok() })
    }
}

impl Ledger for Alone {
    fn keep(&self, command: KvCommand) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        Box::pin(std::future::ready(Ok(self.apply(Body::Kv(command)))))
    }

    fn kept(&self, key: &[u8]) -> Option<KvEntry> {
        self.read(|machine| machine.kv.get(key, machine.control.time).cloned())
    }

    fn fresh(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// How long a text may lie there before its version is agreed on, in milliseconds. One whose proposer
/// died is gone after that.
pub(super) const UNCLAIMED: u64 = 600_000;

/// Where the text of this digest lies.
pub(super) fn key(id: &str) -> Bytes {
    Bytes::from(format!("config/{id}"))
}

/// Puts a text there, whatever was.
pub(super) fn put(id: &str, text: &str, deadline: Option<u64>) -> KvCommand {
    let value = Bytes::copy_from_slice(text.as_bytes());
    KvCommand::Put { key: key(id), value, expect: Expect::Any, deadline }
}

/// Removes the text that was put in this entry, and no later one.
pub(super) fn remove(id: &str, entry: &KvEntry) -> KvCommand {
    KvCommand::Delete { key: key(id), expect: Expect::Revision(entry.revision) }
}
