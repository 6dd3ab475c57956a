//! Where a node keeps what must outlive a call: sessions, the call journal, streams and placements.
//!
//! | record | key | written | ends |
//! |---|---|---|---|
//! | [`SessionRecord`] | the client's session id | compare-and-set on its revision | at its deadline, or deleted: then a tombstone keeps the key taken |
//! | [`Entry`] of the journal | [`CallKey`] | if absent, then compare-and-set | [`KEEP`] after it was last written |
//! | [`StreamRecord`] | the stream's id | if absent, then compare-and-set | at its deadline, or removed |
//! | placement | a name | if absent, or in place of a holder that is gone | released |
//! | hints | a server | the last word counts | never |
//!
//! Below the records is one layer: opaque values with a revision and a deadline, changed by
//! compare-and-set. It is the memory of this process, the machine that the Raft group of all nodes
//! replicates (a [`Group`]), or [Redis](Store::redis): one server, one that Sentinels watch, or a
//! Redis Cluster. All keep the same rules, and one suite of tests runs against each.
//!
//! # What a failed write means
//! [`StoreError::Unavailable`], [`StoreError::Declined`] and [`StoreError::Fenced`] did not happen;
//! [`StoreError::Unknown`] may have happened, or may happen yet. Before a write is reported as unknown it is looked for: every
//! value carries a number that no other write has, so what is found is ours or it is not.
//!
//! # What a write that succeeded means
//! In the group it is on most of the nodes. In Redis it is on as many replicas as the configuration
//! asks for; moved deadlines and hints are not waited for.
//!
//! # What a read means
//! In memory and in the group reads are answered by this node's copy, which may be a moment behind.
//! What is missing there is asked of the group before it counts as [`StoreError::Missing`]. Redis is
//! asked each time; what was read or written here answers while it is away. Whoever decides on what
//! was read writes by compare-and-set, and a write that was refused brings the copy up to date first,
//! so that reading again after a conflict reads something newer.
//!
//! # Who may read a record
//! The store does not ask. Sessions, entries and streams carry the digest of their principal, and
//! whoever reads one compares it before using anything else of it.

#[cfg(test)]
mod contract;
mod encode;
mod hints;
mod journal;
mod keys;
mod kv;
mod operations;
mod placements;
mod record;
mod sessions;
mod streams;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_config::Redis;
use holdfast_engine::journal::CallKey;
#[cfg(doc)]
use holdfast_engine::journal::{Entry, KEEP};
use holdfast_engine::replicated::Invalid;
use tokio::sync::{mpsc, watch};

pub use encode::Malformed;
pub use journal::{Begin, MAX_ANSWER};
pub use kv::{BoxFuture, Group, GroupError, Primary, StoreChange};
pub use operations::{Counts, Operations};
pub use record::{Announces, Binding, Notice, SessionKey, SessionRecord};
pub use streams::StreamRecord;

use kv::{Connected, Kv, RedisKv, Replicated};

/// What a store could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed the record: read it again and decide anew.
    #[error("the record was changed by someone else (revision {found}, expected {expected})")]
    Conflict {
        /// The revision the caller had read.
        expected: u64,
        /// The revision that is stored.
        found: u64,
    },
    /// The session was deleted; it does not come back.
    #[error("the session has ended")]
    Gone,
    /// There is no such record.
    #[error("there is no such record")]
    Missing,
    /// A record with this key exists already.
    #[error("a record with this key exists already")]
    Exists,
    /// The store is away. A write did not happen.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store is there and takes no writes. This one did not happen, and waiting for a moment is of no use.
    #[error("the store takes no writes: {said}")]
    Declined {
        /// Why, in words for anybody.
        why: &'static str,
        /// What the store said.
        said: String,
    },
    /// The write may have happened, or may happen yet.
    #[error("whether the store has kept it is not known: {0}")]
    Unknown(String),
    /// The group has given this node up, or the node has joined anew since: nothing was written.
    #[error("the cluster does not take this node's writes any more")]
    Fenced,
    /// What is stored cannot be read.
    #[error("the record cannot be read: {0}")]
    Malformed(#[from] Malformed),
    /// The store does not take such a record, or is full. Nothing was written.
    #[error("the store does not take it: {0}")]
    Refused(Invalid),
}

impl StoreError {
    /// Whether it says that the store is away, takes nothing or was not heard, and nothing about the record. A
    /// write that is safe to repeat has a point later.
    #[must_use]
    pub fn is_of_store(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Declined { .. } | Self::Unknown(_) => true,
            Self::Conflict { .. }
            | Self::Gone
            | Self::Missing
            | Self::Exists
            | Self::Fenced
            | Self::Malformed(_)
            | Self::Refused(_) => false,
        }
    }
}

/// The store of this node.
#[derive(Debug)]
pub struct Store {
    kv: Kv,
    operations: Arc<Operations>,
    /// The number of the next write.
    serial: AtomicU64,
    /// Every node reads a session's record with a notice.
    notices: AtomicBool,
}

/// A store in Redis, and what it tells.
#[derive(Debug)]
pub struct RedisStore {
    /// The store. Its connections end with it.
    pub store: Store,
    /// The primary as this node sees it now; `None` while it is away.
    pub primary: watch::Receiver<Option<Primary>>,
    /// What other nodes may have written. Hints of servers' tools are here when they are told of.
    pub changes: mpsc::UnboundedReceiver<StoreChange>,
}

impl Store {
    /// The store of a node that stands alone: its memory.
    #[must_use]
    pub fn memory() -> Self {
        Self::over(Kv::Memory(Box::default()), Arc::default())
    }

    /// The store that all nodes of a group share.
    #[must_use]
    pub fn replicated(group: Arc<dyn Group>) -> Self {
        let operations = Arc::<Operations>::default();
        let replicated = Replicated::new(group, Arc::clone(&operations));
        Self::over(Kv::Replicated(replicated), operations)
    }

    /// The store in Redis. What must last is written while the primary that this node sees is the one
    /// that is `adopted`; `None` there means any, for a node without a cluster.
    ///
    /// A Redis that is away is dialled in the background, now and whenever it is lost.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if Redis is there and is not what the configuration says, refuses
    /// the password, or has settings that lose data: which, and the cure.
    pub async fn redis(
        settings: Redis,
        adopted: watch::Receiver<Option<Arc<str>>>,
    ) -> Result<RedisStore, StoreError> {
        let operations = Arc::<Operations>::default();
        let connected = RedisKv::connect(settings, adopted, Arc::clone(&operations)).await;
        let Connected { kv, primary, changes } = connected.map_err(StoreError::Unavailable)?;
        let store = Self::over(Kv::Redis(Box::new(kv)), operations);
        Ok(RedisStore { store, primary, changes })
    }

    fn over(kv: Kv, operations: Arc<Operations>) -> Self {
        // The seed of a hash map comes from the operating system's randomness: two processes that
        // count from there do not meet.
        let serial = AtomicU64::new(RandomState::new().hash_one(std::process::id()));
        Self { kv, operations, serial, notices: AtomicBool::new(false) }
    }

    /// Whether a session's record is written with what its client is still to be told of a move, as every node
    /// has to be able to read it. Until then the notice is the node's own that moved the session: it is kept in
    /// the record that [`Store::replace`] returns, and not in what the others read. Not before it is said.
    pub fn write_notices(&self, can: bool) {
        self.notices.store(can, Ordering::Release);
    }

    pub(crate) fn writes_notices(&self) -> bool {
        self.notices.load(Ordering::Acquire)
    }

    /// Whether other nodes see what is written here. What is not shared ends with this process.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self.kv {
            Kv::Memory(_) => false,
            Kv::Replicated(_) | Kv::Redis(_) => true,
        }
    }

    /// Whether writes are taken, as far as the store itself can tell; otherwise why not, without
    /// addresses. Takes 800 ms at most.
    ///
    /// # Errors
    /// Why not.
    pub async fn health(&self) -> Result<(), String> {
        match &self.kv {
            // Whether the group has a majority, the node's lease says.
            Kv::Memory(_) | Kv::Replicated(_) => Ok(()),
            Kv::Redis(redis) => redis.health().await,
        }
    }

    /// What the store was asked to do since it was made.
    #[must_use]
    pub fn operations(&self) -> &Arc<Operations> {
        &self.operations
    }

    /// The store's clock, in milliseconds since the Unix epoch: what deadlines are measured by.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.kv.now()
    }

    /// The session whose record is at this key, if it is a session's.
    #[must_use]
    pub fn session_of(&self, key: &[u8]) -> Option<SessionKey> {
        keys::session_of(key)
    }

    /// The server that the hints at this key are about, if they are hints.
    #[must_use]
    pub fn hints_of<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        keys::hints_of(key)
    }

    /// The call whose journal entry is at this key, if it is an entry's.
    #[must_use]
    pub fn call_of(&self, key: &[u8]) -> Option<CallKey> {
        keys::call_of(key)
    }

    /// The stream whose record is at this key, if it is a stream's.
    #[must_use]
    pub fn stream_of(&self, key: &[u8]) -> Option<u128> {
        keys::stream_of(key)
    }

    /// Forgets journal entries and streams that are past their deadline, some of them each time. A
    /// group does that by itself.
    pub fn expire(&self) {
        if let Kv::Memory(memory) = &self.kv {
            memory.expire(AT_ONCE);
        }
    }

    fn after(&self, keep: Duration) -> u64 {
        self.now().saturating_add(kv::millis(keep))
    }

    /// A number that no other write of any node has.
    fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

/// How many entries one call of [`Store::expire`] removes at most.
const AT_ONCE: u32 = 1024;
