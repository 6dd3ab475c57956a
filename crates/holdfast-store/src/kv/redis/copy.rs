//! The node's copy: entries that were read or written here, so many and no more.
//!
//! Redis tells which entries other nodes write (a hint, which may get lost); a hint with a newer
//! revision drops what is here. The copy answers where nobody is asked, and in place of Redis while
//! that is away. Whoever decides on what it says writes by compare-and-set.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_engine::replicated::KvEntry;

/// Entries in each half.
const HALF: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Copy {
    halves: Mutex<Halves>,
}

/// What was used since the halves were last changed over, and what was used before that. When the
/// first is full it becomes the second, and what nobody has used goes.
#[derive(Debug, Default)]
struct Halves {
    young: HashMap<Bytes, KvEntry>,
    old: HashMap<Bytes, KvEntry>,
}

impl Copy {
    pub(super) fn get(&self, key: &[u8]) -> Option<KvEntry> {
        let mut halves = self.halves();
        if let Some(entry) = halves.young.get(key) {
            return Some(entry.clone());
        }
        let (key, entry) = halves.old.remove_entry(key)?;
        halves.put(key, entry.clone());
        Some(entry)
    }

    /// Redis has this at the key. What is here and newer stays.
    pub(super) fn put(&self, key: &[u8], entry: &KvEntry) {
        let mut halves = self.halves();
        let here = halves.young.get(key).or_else(|| halves.old.get(key));
        let newer = here
            .is_none_or(|here| (here.revision, here.deadline) < (entry.revision, entry.deadline));
        if newer {
            halves.old.remove(key);
            halves.put(Bytes::copy_from_slice(key), entry.clone());
        }
    }

    pub(super) fn touch(&self, key: &[u8], revision: u64, deadline: Option<u64>) {
        let mut halves = self.halves();
        let halves = &mut *halves;
        for half in [&mut halves.young, &mut halves.old] {
            if let Some(entry) = half.get_mut(key)
                && entry.revision == revision
            {
                entry.deadline = deadline;
            }
        }
    }

    pub(super) fn remove(&self, key: &[u8]) {
        let mut halves = self.halves();
        halves.young.remove(key);
        halves.old.remove(key);
    }

    /// Somebody has written `revision`; whether that was news here. What is older goes.
    pub(super) fn hint(&self, key: &[u8], revision: u64) -> bool {
        let mut halves = self.halves();
        let here = halves.young.get(key).or_else(|| halves.old.get(key));
        let news = here.is_none_or(|here| here.revision < revision);
        if news {
            halves.young.remove(key);
            halves.old.remove(key);
        }
        news
    }

    pub(super) fn clear(&self) {
        *self.halves() = Halves::default();
    }

    fn halves(&self) -> MutexGuard<'_, Halves> {
        // No code panics under the lock.
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    fn put(&mut self, key: Bytes, entry: KvEntry) {
        if self.young.len() >= HALF && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(revision: u64) -> KvEntry {
        KvEntry { value: Bytes::from_static(b"v"), revision, deadline: Some(5) }
    }

    #[test]
    fn what_is_newer_stays_and_a_hint_drops_what_is_older() {
        let copy = Copy::default();
        copy.put(b"k", &entry(2));
        copy.put(b"k", &entry(1));
        assert_eq!(copy.get(b"k"), Some(entry(2)));
        assert!(!copy.hint(b"k", 2), "its own write");
        assert_eq!(copy.get(b"k"), Some(entry(2)));
        copy.touch(b"k", 1, Some(9));
        assert_eq!(copy.get(b"k"), Some(entry(2)), "that was of an older one");
        copy.touch(b"k", 2, Some(9));
        assert_eq!(copy.get(b"k").unwrap().deadline, Some(9));
        assert!(copy.hint(b"k", 3));
        assert_eq!(copy.get(b"k"), None);
        assert!(copy.hint(b"unknown", 1));
    }

    #[test]
    fn it_holds_so_many_and_those_in_use() {
        let copy = Copy::default();
        let used = b"in use";
        copy.put(used, &entry(1));
        for key in 0..10 * HALF as u64 {
            copy.put(&key.to_be_bytes(), &entry(1));
            if key % 1000 == 0 {
                assert!(copy.get(used).is_some(), "after {key}");
            }
        }
        let halves = copy.halves();
        assert!(halves.young.len() + halves.old.len() <= 2 * HALF);
    }
}
