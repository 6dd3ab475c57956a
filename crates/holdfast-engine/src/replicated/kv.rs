//! Opaque values by key, each with a revision and perhaps a deadline: what the store is made of.
//!
//! A revision is the log index of an entry's last write and never comes again, not even after the key
//! was deleted and written anew; so compare-and-set has no "same again" trap. An entry past its
//! deadline counts as absent from that moment on, wherever it is read or expected; that it is removed
//! ([`KvCommand::Expire`]) is only a matter of room.
//!
//! Keys below [`SESSIONS`] are not removed by `Expire`: somebody closes the session at its server
//! first and then deletes the entry, by its revision, so that a session that was renewed meanwhile
//! stays. [`Kv::due`] lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Invalid, Reply};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// The longest value, in bytes. Longer ones stay with their owner.
pub const MAX_VALUE: usize = 256 * 1024;
/// The most commands in a batch.
pub const MAX_BATCH: usize = 64;
/// The most bytes of keys and values together.
pub const MAX_TOTAL: usize = 1 << 30;
/// The prefix of keys that are cleaned up before they are removed.
pub const SESSIONS: &[u8] = b"s/";

/// A change to the values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KvCommand {
    /// Writes an entry.
    Put {
        /// Its key, 1 to [`MAX_KEY`] bytes.
        key: Bytes,
        /// Its value, at most [`MAX_VALUE`] bytes.
        value: Bytes,
        /// What has to be there.
        expect: Expect,
        /// When it ends, in milliseconds since the Unix epoch; `None`: never.
        deadline: Option<u64>,
    },
    /// Removes an entry; done also if there is none and the expectation allows that.
    Delete {
        /// Its key.
        key: Bytes,
        /// What has to be there. A revision is also found past its deadline: deleting is how what is
        /// due is cleaned up.
        expect: Expect,
    },
    /// Moves an entry's deadline, never to an earlier one; its revision stays.
    Touch {
        /// Its key.
        key: Bytes,
        /// Its new deadline, in milliseconds since the Unix epoch.
        deadline: u64,
    },
    /// All of them or none; each key at most once. Holds neither a batch nor an `Expire`: such a one
    /// is refused, and has no encoded form, so that no message makes its reader recurse.
    #[serde(serialize_with = "flat::serialize", deserialize_with = "flat::deserialize")]
    Batch(Vec<Self>),
    /// Removes entries past their deadline, oldest first, but for those below [`SESSIONS`].
    Expire {
        /// How many at most.
        limit: u32,
    },
}

/// What has to be there for a command to be done. What is past its deadline counts as absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expect {
    /// Anything or nothing.
    Any,
    /// Nothing.
    Absent,
    /// An entry with this revision.
    Revision(u64),
}

/// A value and what is known about it. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KvEntry {
    /// What was put.
    pub value: Bytes,
    /// The log index of the last write.
    pub revision: u64,
    /// When it ends, in milliseconds since the Unix epoch; `None`: never.
    pub deadline: Option<u64>,
}

/// All entries, and those with a deadline in the order in which they end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kv {
    entries: BTreeMap<Bytes, KvEntry>,
    /// Deadlines of entries below [`SESSIONS`]; apart, so that many of them that are due do not stand
    /// in the way of those that `Expire` removes.
    sessions: BTreeSet<(u64, Bytes)>,
    /// Deadlines of all other entries.
    others: BTreeSet<(u64, Bytes)>,
    bytes: usize,
}

// === impl KvCommand ===

impl KvCommand {
    /// The keys that it names. `Expire` names none.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (one, many) = match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Touch { key, .. } => {
                (Some(key), &[][..])
            }
            Self::Batch(commands) => (None, commands.as_slice()),
            Self::Expire { .. } => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().filter_map(Self::key))
    }

    fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Touch { key, .. } => Some(key),
            Self::Batch(_) | Self::Expire { .. } => None,
        }
    }
}

// === impl KvEntry ===

impl KvEntry {
    /// Whether its deadline is past.
    #[must_use]
    pub fn is_past(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

// === impl Kv ===

impl Kv {
    /// The entry at `key`, unless it is past its deadline.
    #[must_use]
    pub fn get(&self, key: &[u8], now: u64) -> Option<&KvEntry> {
        self.entries.get(key).filter(|entry| !entry.is_past(now))
    }

    /// The entry at `key`, past its deadline or not: for whoever cleans up what is [`due`](Self::due).
    #[must_use]
    pub fn get_even_past(&self, key: &[u8]) -> Option<&KvEntry> {
        self.entries.get(key)
    }

    /// All entries whose key begins with `prefix`, in the order of their keys, without those that are
    /// past their deadline.
    pub fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        now: u64,
    ) -> impl Iterator<Item = (&'a Bytes, &'a KvEntry)> {
        self.entries
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter(move |(_, entry)| !entry.is_past(now))
    }

    /// Keys below `prefix` that are past their deadline, at most `limit`: sessions before others, and
    /// of each kind the longest past first.
    #[must_use]
    pub fn due(&self, prefix: &[u8], now: u64, limit: usize) -> Vec<Bytes> {
        let mut found = Vec::new();
        for index in [&self.sessions, &self.others] {
            let past = index.iter().take_while(|(deadline, _)| *deadline <= now);
            let mine = past.filter(|(_, key)| key.starts_with(prefix));
            found.extend(mine.take(limit.saturating_sub(found.len())).map(|(_, key)| key.clone()));
            if prefix.starts_with(SESSIONS) {
                break;
            }
        }
        found
    }

    /// How many entries there are, those past their deadline included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Applies the command of the entry at `index`; `now` is the machine's clock.
    pub(super) fn apply(&mut self, index: u64, now: u64, command: &KvCommand) -> Reply {
        match command {
            KvCommand::Batch(commands) => self.batch(index, now, commands),
            KvCommand::Expire { limit } => {
                self.expire(now, *limit);
                Reply::Done { revision: index }
            }
            one => match self.check(now, one) {
                Ok(()) => Reply::Done { revision: self.perform(index, one) },
                Err(refusal) => refusal,
            },
        }
    }

    /// Everything is checked against the state before the batch; since no key occurs twice, doing one
    /// command does not change what another expects.
    fn batch(&mut self, index: u64, now: u64, commands: &[KvCommand]) -> Reply {
        if commands.len() > MAX_BATCH {
            return Reply::Invalid(Invalid::Batch);
        }
        let mut keys = BTreeSet::new();
        if !commands.iter().all(|it| it.key().is_some_and(|key| keys.insert(key))) {
            return Reply::Invalid(Invalid::Nested);
        }
        let grows = commands.iter().map(growth).fold(0, usize::saturating_add);
        if self.bytes.saturating_add(grows) > MAX_TOTAL {
            return Reply::Invalid(Invalid::Full);
        }
        for command in commands {
            if let Err(refusal) = self.check(now, command) {
                return refusal;
            }
        }
        for command in commands {
            self.perform(index, command);
        }
        Reply::Done { revision: index }
    }

    /// Whether a single command can be done as things are.
    fn check(&self, now: u64, command: &KvCommand) -> Result<(), Reply> {
        let Some(key) = command.key() else { return Err(Reply::Invalid(Invalid::Nested)) };
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Reply::Invalid(Invalid::Key));
        }
        let found = self.get(key, now);
        let holds = match command {
            KvCommand::Put { value, expect, .. } => {
                if value.len() > MAX_VALUE {
                    return Err(Reply::Invalid(Invalid::Value));
                }
                // Reckoned as if nothing were there to be replaced: a full store refuses a little early.
                if self.bytes.saturating_add(growth(command)) > MAX_TOTAL {
                    return Err(Reply::Invalid(Invalid::Full));
                }
                expect.holds(found)
            }
            KvCommand::Delete { expect: expect @ Expect::Revision(_), .. } => {
                expect.holds(self.entries.get(key))
            }
            KvCommand::Delete { expect, .. } => expect.holds(found),
            KvCommand::Touch { .. } => found.is_some(),
            KvCommand::Batch(_) | KvCommand::Expire { .. } => false,
        };
        if holds { Ok(()) } else { Err(Reply::Mismatch { found: found.cloned() }) }
    }

    /// Does what was checked, and returns the revision for the reply.
    fn perform(&mut self, index: u64, command: &KvCommand) -> u64 {
        match command {
            KvCommand::Put { key, value, deadline, .. } => {
                let entry = KvEntry { value: own(value), revision: index, deadline: *deadline };
                self.insert(own(key), entry);
            }
            KvCommand::Delete { key, .. } => self.remove(key),
            KvCommand::Touch { key, deadline } => {
                return self.touch(key, *deadline).unwrap_or(index);
            }
            KvCommand::Batch(_) | KvCommand::Expire { .. } => {}
        }
        index
    }

    fn touch(&mut self, key: &[u8], deadline: u64) -> Option<u64> {
        let (key, entry) = self.entries.get_key_value(key)?;
        let (key, mut entry) = (key.clone(), entry.clone());
        let revision = entry.revision;
        if entry.deadline.is_some_and(|present| present < deadline) {
            entry.deadline = Some(deadline);
            self.insert(key, entry);
        }
        Some(revision)
    }

    fn expire(&mut self, now: u64, limit: u32) {
        for _ in 0..limit {
            let Some((deadline, key)) = self.others.first() else { break };
            if *deadline > now {
                break;
            }
            let key = key.clone();
            self.remove(&key);
        }
    }

    fn insert(&mut self, key: Bytes, entry: KvEntry) {
        self.remove(&key);
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(entry.value.len());
        if let Some(deadline) = entry.deadline {
            self.index(&key).insert((deadline, key.clone()));
        }
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &[u8]) {
        let Some((key, entry)) = self.entries.remove_entry(key) else { return };
        self.bytes = self.bytes.saturating_sub(key.len()).saturating_sub(entry.value.len());
        if let Some(deadline) = entry.deadline {
            self.index(&key).remove(&(deadline, key.clone()));
        }
    }

    fn index(&mut self, key: &[u8]) -> &mut BTreeSet<(u64, Bytes)> {
        if key.starts_with(SESSIONS) { &mut self.sessions } else { &mut self.others }
    }

    pub(super) fn entries(&self) -> &BTreeMap<Bytes, KvEntry> {
        &self.entries
    }

    /// Checks what is kept beside the entries against them.
    #[cfg(test)]
    pub(super) fn audit(&self) {
        let bytes: usize = self.entries.iter().map(|(key, it)| key.len() + it.value.len()).sum();
        assert_eq!(self.bytes, bytes);
        let ending = |sessions: bool| -> BTreeSet<(u64, Bytes)> {
            self.entries
                .iter()
                .filter(|(key, _)| key.starts_with(SESSIONS) == sessions)
                .filter_map(|(key, entry)| Some((entry.deadline?, key.clone())))
                .collect()
        };
        assert_eq!(self.sessions, ending(true));
        assert_eq!(self.others, ending(false));
    }

    pub(super) fn from_entries(entries: BTreeMap<Bytes, KvEntry>) -> Self {
        let mut kv = Self::default();
        for (key, entry) in entries {
            kv.insert(key, entry);
        }
        kv
    }
}

/// How many bytes a command adds at most.
fn growth(command: &KvCommand) -> usize {
    match command {
        KvCommand::Put { key, value, .. } => key.len().saturating_add(value.len()),
        _ => 0,
    }
}

/// A copy of its own: a slice of a larger buffer (a whole replication message) would keep all of that
/// in memory for as long as the entry lives.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

// === impl Expect ===

impl Expect {
    fn holds(self, found: Option<&KvEntry>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Revision(revision) => found.is_some_and(|it| it.revision == revision),
        }
    }
}

/// The encoded form of a batch.
mod flat {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error};

    use super::{Expect, KvCommand};

    /// The commands that a batch may hold, in the order of [`KvCommand`]'s variants.
    #[derive(Deserialize)]
    enum Single {
        Put { key: Bytes, value: Bytes, expect: Expect, deadline: Option<u64> },
        Delete { key: Bytes, expect: Expect },
        Touch { key: Bytes, deadline: u64 },
    }

    pub(super) fn serialize<S: Serializer>(
        commands: &[KvCommand],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if commands.iter().any(|it| it.key().is_none()) {
            return Err(S::Error::custom("a batch holds neither a batch nor an expiry"));
        }
        commands.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<KvCommand>, D::Error> {
        let singles = Vec::<Single>::deserialize(deserializer)?;
        Ok(singles.into_iter().map(KvCommand::from).collect())
    }

    impl From<Single> for KvCommand {
        fn from(single: Single) -> Self {
            match single {
                Single::Put { key, value, expect, deadline } => {
                    Self::Put { key, value, expect, deadline }
                }
                Single::Delete { key, expect } => Self::Delete { key, expect },
                Single::Touch { key, deadline } => Self::Touch { key, deadline },
            }
        }
    }
}
