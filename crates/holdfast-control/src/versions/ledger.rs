//! The group's history of configurations, and the texts that its versions name.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::ProposeError;
use holdfast_engine::replicated::{Body, Expect, KvCommand, KvEntry, Machine, Reply};

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

    /// The texts of configurations in it, as applied here, by their digests.
    fn texts(&self) -> Vec<(String, KvEntry)>;

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

    fn texts(&self) -> Vec<(String, KvEntry)> {
        self.0.read(texts)
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

    fn texts(&self) -> Vec<(String, KvEntry)> {
        self.read(|machine| texts(machine, machine.control.time))
    }

    fn fresh(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// Where texts lie.
const TEXTS: &str = "config/";

/// Where the text of this digest lies.
pub(super) fn key(id: &str) -> Bytes {
    Bytes::from(format!("{TEXTS}{id}"))
}

/// Puts a text there, whatever was, for as long as a version names it.
pub(super) fn put(id: &str, text: &str) -> KvCommand {
    let value = Bytes::copy_from_slice(text.as_bytes());
    KvCommand::Put { key: key(id), value, expect: Expect::Any, deadline: None }
}

/// Removes the text that was put with this revision, and no later one.
pub(super) fn remove(id: &str, revision: u64) -> KvCommand {
    KvCommand::Delete { key: key(id), expect: Expect::Revision(revision) }
}

fn texts(machine: &Machine, now: u64) -> Vec<(String, KvEntry)> {
    let found = machine.kv.range(TEXTS.as_bytes(), now).filter_map(|(key, entry)| {
        let id = std::str::from_utf8(key).ok()?.strip_prefix(TEXTS)?;
        Some((id.to_owned(), entry.clone()))
    });
    found.collect()
}
