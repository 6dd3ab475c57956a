//! Values in the machine that the Raft group replicates.
//!
//! A write whose reply was lost is looked for before it is reported: the group is read up to the
//! present, and what is at the key then says what became of it (`lost`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvCommand, KvEntry, Reply};

use super::{Became, Group, GroupError, NotWritten, became, holds};
use crate::StoreError;
use crate::operations::Operations;

/// How long a proposal, or a question to the group, may take: longer than electing a leader takes.
const WITHIN: Duration = Duration::from_secs(4);

/// How long each step may take that finds out what became of a proposal. With it a write ends well
/// within the ten seconds after which a call is not sent any more.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Replicated {
    group: Arc<dyn Group>,
    operations: Arc<Operations>,
}

impl std::fmt::Debug for Replicated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicated").finish_non_exhaustive()
    }
}

impl Replicated {
    pub(crate) fn new(group: Arc<dyn Group>, operations: Arc<Operations>) -> Self {
        Self { group, operations }
    }

    pub(crate) fn group(&self) -> &dyn Group {
        &*self.group
    }

    pub(crate) async fn get_fresh(&self, key: &[u8]) -> Result<Option<KvEntry>, StoreError> {
        self.up_to_date(WITHIN).await?;
        Ok(self.group.get(key))
    }

    pub(crate) async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        deadline: Option<u64>,
    ) -> Result<u64, NotWritten> {
        let ours = |found: Option<&KvEntry>| {
            found.filter(|entry| entry.value == value).map(|entry| entry.revision)
        };
        let command = KvCommand::Put { key: key.clone(), value: value.clone(), expect, deadline };
        let unknown = match self.propose(&command, WITHIN).await {
            Ok(Ok(revision)) => return Ok(revision),
            Ok(Err(found)) => {
                return match ours(found.as_ref()) {
                    Some(revision) => Ok(revision),
                    None => Err(self.mismatch(&key, found).await),
                };
            }
            Err(StoreError::Unknown(reason)) => StoreError::Unknown(reason),
            Err(error) => return Err(NotWritten::Failed(error)),
        };
        if self.up_to_date(AGAIN).await.is_err() {
            return Err(NotWritten::Failed(unknown));
        }
        let found = self.group.get(&key);
        match became(&value, expect, found.as_ref()) {
            Became::Ours(revision) => return Ok(revision),
            Became::Overwritten => return Err(NotWritten::Failed(unknown)),
            Became::NotYet => {}
        }
        match self.propose(&command, AGAIN).await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(found)) => ours(found.as_ref()).ok_or(NotWritten::Failed(unknown)),
            Err(_) => Err(NotWritten::Failed(unknown)),
        }
    }

    pub(crate) async fn delete(&self, key: Bytes, expect: Expect) -> Result<(), NotWritten> {
        let command = KvCommand::Delete { key: key.clone(), expect };
        let unknown = match self.propose(&command, WITHIN).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(found)) => return Err(self.mismatch(&key, found).await),
            Err(StoreError::Unknown(reason)) => StoreError::Unknown(reason),
            Err(error) => return Err(NotWritten::Failed(error)),
        };
        if self.up_to_date(AGAIN).await.is_err() {
            return Err(NotWritten::Failed(unknown));
        }
        let found = self.group.get_even_past(&key);
        if found.is_none() {
            return Ok(());
        }
        if !holds(expect, found.as_ref()) {
            return Err(NotWritten::Failed(unknown));
        }
        match self.propose(&command, AGAIN).await {
            Ok(Ok(_) | Err(None)) => Ok(()),
            Ok(Err(Some(_))) | Err(_) => Err(NotWritten::Failed(unknown)),
        }
    }

    pub(crate) async fn touch(&self, key: Bytes, deadline: u64) -> Result<(), NotWritten> {
        let command = KvCommand::Touch { key: key.clone(), deadline };
        let unknown = match self.propose(&command, WITHIN).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(found)) => return Err(self.mismatch(&key, found).await),
            Err(StoreError::Unknown(reason)) => StoreError::Unknown(reason),
            Err(error) => return Err(NotWritten::Failed(error)),
        };
        if self.up_to_date(AGAIN).await.is_err() {
            return Err(NotWritten::Failed(unknown));
        }
        match self.group.get(&key) {
            None => Err(NotWritten::Mismatch(None)),
            Some(entry) if entry.deadline.is_none_or(|present| present >= deadline) => Ok(()),
            // A deadline only moves forward, whoever moves it and how often.
            Some(_) => match self.propose(&command, AGAIN).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(NotWritten::Failed(unknown)),
            },
        }
    }

    /// Waits until this node has what is at `revision`, or does not wait if the group is away.
    pub(crate) async fn see(&self, key: &[u8], revision: u64) {
        if self.group.get(key).is_none_or(|entry| entry.revision < revision) {
            // Only what is read here meanwhile depends on it.
            let _ = self.up_to_date(AGAIN).await;
        }
    }

    /// The revision, or what was found in place of what was expected.
    async fn propose(
        &self,
        command: &KvCommand,
        within: Duration,
    ) -> Result<Result<u64, Option<KvEntry>>, StoreError> {
        match self.group.propose(command.clone(), within).await {
            Ok(Reply::Done { revision }) => Ok(Ok(revision)),
            Ok(Reply::Mismatch { found }) => Ok(Err(found)),
            Ok(Reply::Fenced { .. } | Reply::Unknown) | Err(GroupError::Fenced) => {
                Err(StoreError::Fenced)
            }
            Ok(Reply::Invalid(invalid)) => Err(StoreError::Refused(invalid)),
            Ok(Reply::Settled) => {
                Err(StoreError::Unknown("its reply was forgotten before it arrived".to_owned()))
            }
            Ok(reply @ (Reply::Joined { .. } | Reply::Stale { .. } | Reply::Moved { .. })) => {
                Err(StoreError::Unknown(format!("{reply:?} is no reply to a write")))
            }
            Err(GroupError::Unavailable(reason)) => Err(StoreError::Unavailable(reason)),
            Err(GroupError::Unknown(reason)) => Err(StoreError::Unknown(reason)),
        }
    }

    async fn up_to_date(&self, within: Duration) -> Result<(), StoreError> {
        self.operations.reads.inc();
        self.group
            .read_index(within)
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Reports a mismatch, once this node has what was found: whoever reads again and decides anew
    /// would otherwise run into the same one.
    async fn mismatch(&self, key: &[u8], found: Option<KvEntry>) -> NotWritten {
        let here = self.group.get(key).map(|entry| entry.revision);
        let there = found.as_ref().map(|entry| entry.revision);
        if here != there {
            // Without the group the mismatch is true all the same.
            let _ = self.up_to_date(AGAIN).await;
        }
        NotWritten::Mismatch(found)
    }
}
