//! The streams that clients can come back to, and how long they are kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::log::{STALL, StreamLog};

const SHARDS: usize = 32;

/// Bytes of finished streams that one node keeps for clients that come back.
const RETIRED_BYTES: usize = 8 * 1024 * 1024;

/// Resumable streams by id.
#[derive(Debug)]
pub(crate) struct Streams {
    shards: [Mutex<HashMap<u128, Arc<StreamLog>>>; SHARDS],
    retired: Mutex<Retired>,
}

#[derive(Debug, Default)]
struct Retired {
    order: VecDeque<(Instant, u128, usize)>,
    bytes: usize,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), retired: Mutex::default() }
    }

    fn shard(&self, id: u128) -> MutexGuard<'_, HashMap<u128, Arc<StreamLog>>> {
        let index = (id % SHARDS as u128) as usize;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, log: &Arc<StreamLog>) {
        self.shard(log.id()).insert(log.id(), Arc::clone(log));
    }

    pub(crate) fn get(&self, id: u128) -> Option<Arc<StreamLog>> {
        self.shard(id).get(&id).cloned()
    }

    pub(crate) fn remove(&self, id: u128) {
        self.shard(id).remove(&id);
    }

    /// A stream is complete: it stays for a client that lost its end, within the byte budget.
    pub(crate) fn retire(&self, log: &StreamLog) {
        log.compact();
        let bytes = log.footprint();
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.bytes += bytes;
        retired.order.push_back((Instant::now(), log.id(), bytes));
        while retired.bytes > RETIRED_BYTES {
            let Some((_, id, bytes)) = retired.order.pop_front() else { break };
            retired.bytes -= bytes;
            self.remove(id);
        }
    }

    /// Forgets streams that were finished for longer than `retain`, and cancels open ones that nobody has
    /// come back to for as long. Those that nobody has come back to for [`STALL`] hold nobody up.
    pub(crate) fn sweep(&self, now: Instant, retain: Duration) {
        {
            let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(&(since, id, bytes)) = retired.order.front() {
                if now.saturating_duration_since(since) < retain {
                    break;
                }
                retired.order.pop_front();
                retired.bytes -= bytes;
                self.remove(id);
            }
        }
        for shard in &self.shards {
            let stuck: Vec<_> = shard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .filter_map(|log| {
                    let for_long = now.saturating_duration_since(log.stuck_since()?);
                    (for_long >= STALL.min(retain)).then(|| (Arc::clone(log), for_long))
                })
                .collect();
            for (log, for_long) in stuck {
                log.is_stuck();
                if for_long >= retain {
                    log.cancel.cancel();
                }
            }
        }
    }
}
