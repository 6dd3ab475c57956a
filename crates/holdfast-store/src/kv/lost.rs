//! What became of a write whose reply was lost.
//!
//! Every value carries a number that no other write has. So whoever looks at the key once nothing is
//! under way any more, or compares and sets once more in one step, knows:
//!
//! | what is at the key | then |
//! |---|---|
//! | our value | it was written |
//! | what the write expects | it was not written so far; made once more, at most one of the two meets its expectation |
//! | anything else | somebody wrote after it, or in its place: unknown |

use holdfast_engine::replicated::{Expect, KvEntry};

use super::holds;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// It was written, at this revision.
    Ours(u64),
    /// It was not written so far.
    NotYet,
    /// Nobody can tell.
    Overwritten,
}

/// What became of the write of `value`, from what is at its key.
pub(super) fn became(value: &[u8], expect: Expect, found: Option<&KvEntry>) -> Became {
    match found {
        Some(entry) if entry.value == value => Became::Ours(entry.revision),
        found if holds(expect, found) => Became::NotYet,
        _ => Became::Overwritten,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_found_says_what_became_of_it() {
        let entry = |value: &'static [u8], revision| KvEntry {
            value: Bytes::from_static(value),
            revision,
            deadline: None,
        };
        let (ours, theirs) = (entry(b"ours", 3), entry(b"theirs", 2));
        let absent = |found| became(b"ours", Expect::Absent, found);
        assert_eq!(absent(Some(&ours)), Became::Ours(3));
        assert_eq!(absent(None), Became::NotYet);
        assert_eq!(absent(Some(&theirs)), Became::Overwritten);
        let second = |found| became(b"ours", Expect::Revision(2), found);
        assert_eq!(second(Some(&theirs)), Became::NotYet);
        assert_eq!(second(None), Became::Overwritten);
        assert_eq!(became(b"ours", Expect::Any, Some(&theirs)), Became::NotYet);
    }
}
