//! The sessions of this node by key.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use holdfast_config::Limits;
use holdfast_store::SessionKey;
use http::HeaderValue;

use super::Session;

const SHARDS: usize = 64;

type Shard = RwLock<HashSet<Held, BuildHasherDefault<RandomKey>>>;

/// A session, which is found by the key that it has itself: a place in the table is a pointer.
#[derive(Debug)]
struct Held(Arc<Session>);

/// Sessions by key; lookups take a shared lock on one of 64 shards for some nanoseconds.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: [Shard; SHARDS],
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_principal: HashMap<u64, usize>,
}

/// Why a new session was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    #[error("this node holds its limit of {0} sessions (limits.sessions)")]
    Full(usize),
    #[error("this principal holds its limit of {0} sessions (limits.sessions_per_principal)")]
    PrincipalFull(usize),
}

/// Keys are random bits already; hashing them again would only cost.
#[derive(Debug, Default)]
pub(crate) struct RandomKey(u64);

// === impl Sessions ===

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), counts: Mutex::default() }
    }

    fn shard(&self, key: SessionKey) -> &Shard {
        &self.shards[(key.0 >> 64) as usize % SHARDS]
    }

    /// The session of a message that has come. It does not expire before it is used.
    pub(crate) fn get(&self, key: SessionKey) -> Option<Arc<Session>> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let Held(session) = shard.get(&key)?;
        session.seek();
        Some(Arc::clone(session))
    }

    /// The session, for a report: that it was looked at does not keep it.
    pub(crate) fn look(&self, key: SessionKey) -> Option<Arc<Session>> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&key).map(|Held(session)| Arc::clone(session))
    }

    /// Takes a place for a new session of `principal`; give it back with [`Self::release`] if the
    /// session does not come to be.
    pub(crate) fn reserve(&self, principal: u64, limits: &Limits) -> Result<(), TableError> {
        let (max, max_per_principal) = (limits.sessions, limits.sessions_per_principal);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= max {
            return Err(TableError::Full(max));
        }
        let own = counts.by_principal.entry(principal).or_default();
        if *own >= max_per_principal {
            return Err(TableError::PrincipalFull(max_per_principal));
        }
        *own += 1;
        counts.total += 1;
        Ok(())
    }

    pub(crate) fn release(&self, principal: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        if let Some(own) = counts.by_principal.get_mut(&principal) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                counts.by_principal.remove(&principal);
            }
        }
    }

    /// Adds a session for which a place was reserved.
    pub(crate) fn insert(&self, session: Arc<Session>) {
        let shard = self.shard(session.key);
        shard.write().unwrap_or_else(PoisonError::into_inner).replace(Held(session));
    }

    /// Adds a session that another node began, over any limit: its place was taken there. If it is
    /// here already, that one is returned.
    pub(crate) fn adopt(&self, session: Arc<Session>) -> Arc<Session> {
        let mut shard = self.shard(session.key).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Held(present)) = shard.get(&session.key) {
            return Arc::clone(present);
        }
        shard.insert(Held(Arc::clone(&session)));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.by_principal.entry(session.principal()).or_default() += 1;
        counts.total += 1;
        session
    }

    /// Removes a session and gives its place back; the first caller gets it, later ones nothing.
    pub(crate) fn remove(&self, key: SessionKey) -> Option<Arc<Session>> {
        let shard = self.shard(key);
        let Held(removed) = shard.write().unwrap_or_else(PoisonError::into_inner).take(&key)?;
        self.release(removed.principal());
        Some(removed)
    }

    /// Removes the sessions that have outlived `ttl` and gives their places back. One that was
    /// looked up since this was last called stays until the next time: between finding a session
    /// and entering it a message may be anywhere.
    pub(crate) fn take_expired(&self, now: Duration, ttl: Duration) -> Vec<Arc<Session>> {
        let mut out = Vec::new();
        for shard in &self.shards {
            let old = |Held(session): &Held| {
                session.expired(now, ttl) && !session.sought.swap(false, Ordering::Relaxed)
            };
            // Most sweeps find nothing, and lookups do not wait for those.
            let any = {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                shard.iter().any(|Held(session)| session.expired(now, ttl))
            };
            if any {
                let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
                out.extend(shard.extract_if(old).map(|Held(session)| session));
            }
        }
        for session in &out {
            self.release(session.principal());
        }
        out
    }

    pub(crate) fn each(&self, mut visit: impl FnMut(&Arc<Session>)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.iter().for_each(|Held(session)| visit(session));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

/// The id that the client holds: the key's 128 bits as 32 hexadecimal digits.
pub(super) fn id_header(key: SessionKey) -> HeaderValue {
    let text = format!("{:032x}", key.0);
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Reads an id that a client sent; `None` if it cannot be one of ours.
pub(crate) fn parse_id(id: &[u8]) -> Option<SessionKey> {
    let id: &[u8; 32] = id.try_into().ok()?;
    let (front, back) = id.split_at(16);
    Some(SessionKey(u128::from(half(front)?) << 64 | u128::from(half(back)?)))
}

/// Sixteen digits as they are written. By hand: the standard library's reading of a `u128` costs a call
/// a thousand instructions.
fn half(digits: &[u8]) -> Option<u64> {
    let (mut number, mut is_wrong) = (0, false);
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => {
                is_wrong = true;
                0
            }
        };
        number = number << 4 | u64::from(value);
    }
    (!is_wrong).then_some(number)
}

impl Borrow<SessionKey> for Held {
    fn borrow(&self) -> &SessionKey {
        &self.0.key
    }
}

impl Hash for Held {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Held {}

impl Hasher for RandomKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written_and_in_no_other_way() {
        let keys = [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210];
        for key in keys {
            let id = id_header(SessionKey(key));
            assert_eq!(parse_id(id.as_bytes()), Some(SessionKey(key)), "{id:?}");
        }
        let one = "0123456789abcdeffedcba9876543210";
        for wrong in [
            "",
            &one[1..],
            &format!("{one}0"),
            &one.to_uppercase(),
            &one.replacen('0', "g", 1),
            &one.replacen('f', "/", 1),
            &one.replacen('f', ":", 1),
            &one.replacen('f', "`", 1),
            &one.replacen('0', "+", 1),
            &one.replacen("32", "é", 1),
        ] {
            assert_eq!(parse_id(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
