//! The one layer below all records: values with revisions and deadlines, changed by
//! compare-and-set.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use holdfast_engine::replicated::{
    Body, Command, ControlCommand, Expect, KvCommand, KvEntry, Machine, Origin, Reply,
};

use crate::StoreError;

/// What [`Group`] returns.
pub type GroupFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, GroupError>> + Send + 'a>>;

/// A group of nodes that agrees on values. The binary implements it over the cluster, which this
/// crate does not know.
pub trait Group: Send + Sync + 'static {
    /// Has the group apply a command, within the group's own deadline.
    fn propose(&self, command: KvCommand) -> GroupFuture<'_, Reply>;
    /// Afterwards what this node has is at least as new as the group was when this was called.
    fn read_index(&self) -> GroupFuture<'_, ()>;
    /// What this node has, without asking anybody.
    fn get(&self, key: &[u8]) -> Option<KvEntry>;
    /// The same, past its deadline or not.
    fn get_even_past(&self, key: &[u8]) -> Option<KvEntry>;
    /// Keys below a prefix whose deadline is past.
    fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes>;
}

/// What the group could not do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum GroupError {
    /// Nothing was done.
    #[error("{0}")]
    Unavailable(String),
    /// It may have been done, or may be yet.
    #[error("{0}")]
    Unknown(String),
    /// This node may not act for the group any more.
    #[error("this node has lost its place in the cluster")]
    Fenced,
}

/// Values of one process, or of a group.
pub(crate) enum Kv {
    /// Gone with the process.
    Memory(Box<Mutex<Alone>>),
    /// On every node of a cluster.
    Replicated(Arc<dyn Group>),
}

/// Why a value was not written.
#[derive(Debug)]
pub(crate) enum PutError {
    /// Something else is there.
    Mismatch(Option<KvEntry>),
    Failed(StoreError),
}

/// The machine of a group of one: the same rules without anybody to agree with.
pub(crate) struct Alone {
    machine: Machine,
    index: u64,
}

const ME: Origin = Origin { node: 1, generation: 1 };

// === impl Alone ===

impl Alone {
    fn new() -> Self {
        let mut alone = Self { machine: Machine::default(), index: 0 };
        alone.apply(Body::Control(ControlCommand::Join {
            node: ME.node,
            name: "alone".into(),
            peer: String::new(),
            client: String::new(),
            admin: String::new(),
            version: String::new(),
        }));
        alone
    }

    fn apply(&mut self, body: Body) -> Reply {
        self.index += 1;
        let serial = self.index;
        let command =
            Command { origin: ME, serial, settled_below: serial, now: unix_millis(), body };
        self.machine.apply(self.index, 1, &command)
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn lock(alone: &Mutex<Alone>) -> MutexGuard<'_, Alone> {
    // `apply` is total, so a poisoned lock still guards a whole machine.
    alone.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Kv ===

impl Kv {
    pub(crate) fn memory() -> Self {
        Self::Memory(Box::new(Mutex::new(Alone::new())))
    }

    /// What this node has.
    pub(crate) fn get_local(&self, key: &[u8]) -> Option<KvEntry> {
        match self {
            Self::Memory(alone) => lock(alone).machine.kv.get(key, unix_millis()).cloned(),
            Self::Replicated(group) => group.get(key),
        }
    }

    pub(crate) fn get_even_past(&self, key: &[u8]) -> Option<KvEntry> {
        match self {
            Self::Memory(alone) => lock(alone).machine.kv.get_even_past(key).cloned(),
            Self::Replicated(group) => group.get_even_past(key),
        }
    }

    /// What this node has; where it has nothing, the group is asked for what it may not have heard.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        let Self::Replicated(group) = self else { return Ok(self.get_local(key)) };
        if let Some(entry) = group.get(key) {
            return Ok(Some(entry));
        }
        group.read_index().await?;
        Ok(group.get(key))
    }

    /// The value as the group has it now.
    pub(crate) async fn get_latest(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        if let Self::Replicated(group) = self {
            group.read_index().await?;
        }
        Ok(self.get_local(key))
    }

    async fn apply(&self, command: KvCommand) -> Result<Reply, GroupError> {
        match self {
            Self::Memory(alone) => Ok(lock(alone).apply(Body::Kv(command))),
            Self::Replicated(group) => group.propose(command).await,
        }
    }

    /// Writes a value; its new revision.
    pub(crate) async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        deadline: Option<u64>,
    ) -> Result<u64, PutError> {
        let put = KvCommand::Put { key: key.clone(), value: value.clone(), expect, deadline };
        let unsure = match self.apply(put).await {
            Ok(Reply::Done { revision }) => return Ok(revision),
            Ok(Reply::Mismatch { found }) => return Err(PutError::Mismatch(found)),
            Ok(Reply::Settled) => "its first reply is not known any more".to_owned(),
            Ok(reply) => return Err(PutError::Failed(refused(&reply))),
            Err(GroupError::Unknown(reason)) => reason,
            Err(error) => return Err(PutError::Failed(error.into())),
        };
        // It may have been done: what is there tells, if it can be read.
        let Ok(found) = self.get_latest(&key).await else {
            return Err(PutError::Failed(StoreError::Unknown(unsure)));
        };
        match found {
            Some(entry) if entry.value == value && expect != Expect::Revision(entry.revision) => {
                Ok(entry.revision)
            }
            _ => Err(PutError::Failed(StoreError::Unknown(unsure))),
        }
    }

    pub(crate) async fn delete(&self, key: Bytes, expect: Expect) -> Result<(), PutError> {
        match self.apply(KvCommand::Delete { key, expect }).await {
            Ok(Reply::Done { .. }) => Ok(()),
            Ok(Reply::Mismatch { found }) => Err(PutError::Mismatch(found)),
            Ok(reply) => Err(PutError::Failed(refused(&reply))),
            Err(error) => Err(PutError::Failed(error.into())),
        }
    }

    /// Moves a deadline; nothing if the entry is gone.
    pub(crate) async fn touch(&self, key: Bytes, deadline: u64) -> Result<(), StoreError> {
        match self.apply(KvCommand::Touch { key, deadline }).await {
            Ok(Reply::Done { .. } | Reply::Mismatch { .. } | Reply::Settled) => Ok(()),
            Ok(reply) => Err(refused(&reply)),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        match self {
            Self::Memory(alone) => lock(alone).machine.kv.due(prefix, unix_millis(), limit),
            Self::Replicated(group) => group.due(prefix, limit),
        }
    }

    /// Forgets what is past its deadline. A group does that by itself.
    pub(crate) fn expire(&self) {
        if let Self::Memory(alone) = self {
            lock(alone).apply(Body::Kv(KvCommand::Expire { limit: 1024 }));
        }
    }
}

fn refused(reply: &Reply) -> StoreError {
    match reply {
        Reply::Fenced { .. } | Reply::Unknown => StoreError::Fenced,
        Reply::Invalid(why) => StoreError::Unavailable(why.to_string()),
        other => StoreError::Unavailable(format!("the group answered {other:?}")),
    }
}

impl From<GroupError> for StoreError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Unavailable(reason) => Self::Unavailable(reason),
            GroupError::Unknown(reason) => Self::Unknown(reason),
            GroupError::Fenced => Self::Fenced,
        }
    }
}
