//! How an entry is one value in Redis: revision, deadline (0: none), both 8 bytes with the highest
//! first, and the record's own bytes. The scripts read and write the same form.

use bytes::Bytes;
use holdfast_engine::replicated::KvEntry;

const HEADER: usize = 16;

/// Numbers in scripts are exact up to here.
const HIGHEST: u64 = 1 << 53;

/// The deadline as a script takes it: 0 for none.
pub(super) fn deadline(deadline: Option<u64>) -> u64 {
    deadline.map_or(0, |deadline| deadline.clamp(1, HIGHEST))
}

/// The deadline as a script gives it.
pub(super) fn deadline_of(deadline: u64) -> Option<u64> {
    Some(deadline).filter(|deadline| *deadline != 0)
}

/// The entry of a value; none if it is not one.
pub(super) fn read(stored: Vec<u8>) -> Option<KvEntry> {
    let header = stored.get(..HEADER)?;
    let (revision, deadline) = header.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    let (revision, deadline) = (number(revision)?, deadline_of(number(deadline)?));
    Some(KvEntry { value: Bytes::from(stored).slice(HEADER..), revision, deadline })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_and_what_is_too_short_is_none() {
        let mut stored = 7_u64.to_be_bytes().to_vec();
        stored.extend_from_slice(&9_u64.to_be_bytes());
        for length in 0..HEADER {
            assert_eq!(read(stored[..length].to_vec()), None);
        }
        let entry = |value: &'static [u8], deadline| KvEntry {
            value: Bytes::from_static(value),
            revision: 7,
            deadline,
        };
        assert_eq!(read(stored.clone()), Some(entry(b"", Some(9))));
        stored[15] = 0;
        stored.push(b'x');
        assert_eq!(read(stored), Some(entry(b"x", None)));
    }

    #[test]
    fn no_deadline_is_none_and_others_are_exact_in_a_script() {
        assert_eq!(deadline(None), 0);
        assert_eq!(deadline(Some(0)), 1);
        assert_eq!(deadline(Some(1_800_000_000_000)), 1_800_000_000_000);
        assert_eq!(deadline(Some(u64::MAX)), HIGHEST);
        assert_eq!(deadline_of(0), None);
    }
}
