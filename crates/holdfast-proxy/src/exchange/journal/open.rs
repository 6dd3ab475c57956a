//! The entries that this process is working on, or was, and those that it was told to leave alone.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::journal::CallKey;

use crate::gateway::Gateway;

/// The entries that this process is working on. An entry of this node that is not among them has
/// nobody who will settle it.
#[derive(Debug)]
pub(crate) struct Open {
    /// By how many, and since when: a call that arrives a second time may hold its key for a moment.
    keys: Mutex<HashMap<CallKey, (usize, Instant)>>,
    /// Those that it was working on, of calls that a balancer has named: other nodes ask for no others.
    past: Mutex<Recent>,
    /// Those that other nodes were told that it has never had: it does not begin with them any more.
    barred: Mutex<Recent>,
    /// Whether every node reads the entry of a call that waits.
    all_read_waiting: AtomicBool,
    born: Instant,
}

/// Keys of the last while: at least [`RECENT`], and less than twice as long.
#[derive(Debug)]
struct Recent {
    now: HashSet<CallKey>,
    before: HashSet<CallKey>,
    turned: Instant,
}

/// Keeps a key among the open ones.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) gateway: std::sync::Weak<Gateway>,
    pub(super) key: CallKey,
    by_balancer: bool,
}

/// A call that has run for longer has its entry kept.
const LONG: Duration = Duration::from_secs(60);

/// How long a key is remembered that this node has let go, or was told to leave alone. A balancer that
/// loses a connection sends the call again at once, and that sending is not older than [`MAX_AGE`] when
/// it is given up.
const RECENT: Duration = Duration::from_secs(30);

// === impl Open ===

impl Default for Open {
    fn default() -> Self {
        let born = Instant::now();
        Self {
            keys: Mutex::default(),
            past: Mutex::new(Recent::since(born)),
            barred: Mutex::new(Recent::since(born)),
            all_read_waiting: AtomicBool::new(false),
            born,
        }
    }
}

impl Open {
    /// Whether every node reads the entry of a call that waits, as far as is known; until it is told, none does.
    pub(crate) fn write_waiting(&self, all_read: bool) {
        self.all_read_waiting.store(all_read, Ordering::Relaxed);
    }

    pub(super) fn all_read_waiting(&self) -> bool {
        self.all_read_waiting.load(Ordering::Relaxed)
    }

    pub(super) fn is_open(&self, key: &CallKey) -> bool {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    pub(super) fn is_barred(&self, key: &CallKey) -> bool {
        self.barred.lock().unwrap_or_else(PoisonError::into_inner).has(key)
    }

    fn hold(&self, key: CallKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(key).or_insert_with(|| (0, Instant::now())).0 += 1;
    }

    fn let_go(&self, key: &CallKey, by_balancer: bool) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((holders, _)) = keys.get_mut(key) else { return };
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        if by_balancer {
            // Remembered before it is let go: whoever asks meanwhile finds it in one of the two.
            let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
            past.insert(*key, Instant::now());
        }
        keys.remove(key);
    }

    /// Whether this process has never had the call, and from now on does not begin with it. A process
    /// that is young does not know what the one before it had.
    pub(crate) fn bar(&self, key: CallKey, now: Instant) -> bool {
        if now.saturating_duration_since(self.born) < RECENT {
            return false;
        }
        // Barred first: a call that comes meanwhile is either seen here or sees that it is barred.
        self.barred.lock().unwrap_or_else(PoisonError::into_inner).insert(key, now);
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner).has(&key);
        !past && !self.is_open(&key)
    }
}

// === impl Recent ===

impl Recent {
    fn since(turned: Instant) -> Self {
        Self { now: HashSet::new(), before: HashSet::new(), turned }
    }

    fn has(&self, key: &CallKey) -> bool {
        self.now.contains(key) || self.before.contains(key)
    }

    fn insert(&mut self, key: CallKey, now: Instant) {
        let age = now.saturating_duration_since(self.turned);
        if age >= RECENT {
            self.before = std::mem::take(&mut self.now);
            if age >= RECENT * 2 {
                self.before.clear();
            }
            self.turned = now;
        }
        self.now.insert(key);
    }
}

impl Gateway {
    /// Keeps the entries of calls that run for long.
    pub(crate) async fn keep_entries(&self) {
        let open: Vec<CallKey> = {
            let keys = self.journal.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.iter()
                .filter(|(_, (_, since))| since.elapsed() > LONG)
                .map(|(key, _)| *key)
                .collect()
        };
        for key in open {
            if let Err(error) = self.store.keep_entry(&key).await {
                tracing::debug!(%error, "the entry of a long call was not kept");
            }
        }
    }

    pub(super) fn open_entry(self: &Arc<Self>, key: CallKey, by_balancer: bool) -> Arc<Running> {
        self.journal.hold(key);
        Arc::new(Running { gateway: Arc::downgrade(self), key, by_balancer })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.upgrade() {
            gateway.journal.let_go(&self.key, self.by_balancer);
        }
    }
}

#[cfg(test)]
mod tests;
