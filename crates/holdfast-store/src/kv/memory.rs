//! Values in this process: the rules of the replicated machine, over sharded maps.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, KvEntry, SESSIONS};

use super::{NotWritten, holds, millis};

const SHARDS: usize = 32;

#[derive(Debug)]
pub(crate) struct MemoryKv {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// The last revision given out.
    revision: AtomicU64,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Shard {
    /// Apart, since `expire` leaves them, and since there may be a million of them: of a session's key only what
    /// is its own is kept, in its place in the table.
    sessions: Table<Session>,
    others: Table<Bytes>,
}

/// What follows [`SESSIONS`] in the key of a session.
type Session = [u8; 16];

#[derive(Debug)]
struct Table<K> {
    entries: HashMap<K, KvEntry>,
    deadlines: BTreeSet<(u64, K)>,
}

/// Milliseconds since the Unix epoch.
#[derive(Debug)]
enum Clock {
    /// Does not jump when the machine's clock is set.
    Steady {
        started: Instant,
        /// The time at `started`.
        epoch: u64,
    },
    #[cfg(test)]
    Manual(AtomicU64),
}

// === impl MemoryKv ===

impl Default for MemoryKv {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            revision: AtomicU64::new(0),
            clock: Clock::start(),
        }
    }
}

impl MemoryKv {
    /// One whose time stands still until it is [advanced](Self::advance).
    #[cfg(test)]
    pub(crate) fn at(now: u64) -> Self {
        Self { clock: Clock::Manual(AtomicU64::new(now)), ..Self::default() }
    }

    #[cfg(test)]
    pub(crate) fn advance(&self, by: std::time::Duration) {
        if let Clock::Manual(now) = &self.clock {
            now.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<KvEntry> {
        let now = self.now();
        self.get_even_past(key).filter(|entry| !entry.is_past(now))
    }

    pub(crate) fn get_even_past(&self, key: &[u8]) -> Option<KvEntry> {
        self.shard(key).get(key).cloned()
    }

    pub(crate) fn put(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        deadline: Option<u64>,
    ) -> Result<u64, NotWritten> {
        let mut shard = self.shard(&key);
        let found = shard.present(&key, self.now());
        if !holds(expect, found) {
            return Err(NotWritten::Mismatch(found.cloned()));
        }
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        shard.insert(key, KvEntry { value, revision, deadline });
        Ok(revision)
    }

    pub(crate) fn delete(&self, key: &[u8], expect: Expect) -> Result<(), NotWritten> {
        let mut shard = self.shard(key);
        let found = shard.present(key, self.now());
        let fits = match expect {
            Expect::Revision(_) => holds(expect, shard.get(key)),
            Expect::Any | Expect::Absent => holds(expect, found),
        };
        if !fits {
            return Err(NotWritten::Mismatch(found.cloned()));
        }
        shard.remove(key);
        Ok(())
    }

    pub(crate) fn touch(&self, key: &[u8], deadline: u64) -> Result<(), NotWritten> {
        let mut shard = self.shard(key);
        let Some(mut entry) = shard.present(key, self.now()).cloned() else {
            return Err(NotWritten::Mismatch(None));
        };
        if entry.deadline.is_some_and(|present| present < deadline) {
            entry.deadline = Some(deadline);
            shard.insert(Bytes::copy_from_slice(key), entry);
        }
        Ok(())
    }

    pub(crate) fn expire(&self, limit: u32) {
        let now = self.now();
        let mut left = limit;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            while left > 0
                && let Some((deadline, key)) = shard.others.deadlines.first()
                && *deadline <= now
            {
                let key = key.clone();
                shard.others.remove(&key);
                left -= 1;
            }
        }
    }

    pub(crate) fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        let now = self.now();
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let sessions = shard.sessions.past(now).map(|(at, key)| (*at, session_key(key)));
            let others = shard.others.past(now).cloned();
            found.extend(sessions.chain(others).filter(|(_, key)| key.starts_with(prefix)));
        }
        found.sort_unstable();
        found.into_iter().take(limit).map(|(_, key)| key).collect()
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        // The remainder is below SHARDS. No code panics under the lock, so a poisoned one still
        // guards a whole map.
        let index = (self.hasher.hash_one(key) % SHARDS as u64) as usize;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Shard ===

impl Shard {
    fn get(&self, key: &[u8]) -> Option<&KvEntry> {
        match session(key) {
            Some(key) => self.sessions.entries.get(key),
            None => self.others.entries.get(key),
        }
    }

    fn present(&self, key: &[u8], now: u64) -> Option<&KvEntry> {
        self.get(key).filter(|entry| !entry.is_past(now))
    }

    fn insert(&mut self, key: Bytes, entry: KvEntry) {
        match session(&key) {
            Some(key) => self.sessions.insert(*key, entry),
            None => self.others.insert(key, entry),
        }
    }

    fn remove(&mut self, key: &[u8]) {
        match session(key) {
            Some(key) => self.sessions.remove(key),
            None => self.others.remove(key),
        }
    }
}

fn session(key: &[u8]) -> Option<&Session> {
    key.strip_prefix(SESSIONS)?.try_into().ok()
}

fn session_key(session: &Session) -> Bytes {
    [SESSIONS, session].concat().into()
}

// === impl Table ===

impl<K: Clone + Ord + Hash> Table<K> {
    fn insert(&mut self, key: K, entry: KvEntry) {
        self.remove(&key);
        if let Some(deadline) = entry.deadline {
            self.deadlines.insert((deadline, key.clone()));
        }
        self.entries.insert(key, entry);
    }

    fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let Some((key, entry)) = self.entries.remove_entry(key) else { return };
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
    }

    /// What is past its deadline, the oldest first.
    fn past(&self, now: u64) -> impl Iterator<Item = &(u64, K)> {
        self.deadlines.iter().take_while(move |(deadline, _)| *deadline <= now)
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), deadlines: BTreeSet::new() }
    }
}

// === impl Clock ===

impl Clock {
    fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::Steady { started: Instant::now(), epoch: millis(since) }
    }

    fn now(&self) -> u64 {
        match self {
            Self::Steady { started, epoch } => epoch.saturating_add(millis(started.elapsed())),
            #[cfg(test)]
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_says_the_time_since_the_epoch() {
        let before = millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        let clock = Clock::start();
        let first = clock.now();
        assert!(first.abs_diff(before) < 3_600_000, "{first} is no time near {before}");
        assert!(clock.now() >= first);
    }
}
