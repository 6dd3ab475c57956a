//! Replacing a few bytes of a body and leaving every other one as it came.
//!
//! What the gateway must change in a message (an id on a shared connection, a sealed
//! `requestState`, a progress token) is replaced where it stands. Re-serialising instead would lose
//! the order of members, digits of numbers and whatever else a typed model does not hold.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// The body with each range replaced by its bytes. An empty range inserts.
///
/// # Panics
/// When the edits are not in ascending order, overlap, or leave the body. Ranges come from
/// [`crate::Raw::range_in`] of this very body; anything else is a mistake in the calling code, and a
/// message with an edit in the wrong place must not go out.
#[must_use]
pub fn splice(body: &[u8], edits: &[(Range<usize>, &[u8])]) -> Bytes {
    let mut end_before = 0;
    let mut length = body.len();
    for (range, bytes) in edits {
        assert!(
            end_before <= range.start && range.start <= range.end && range.end <= body.len(),
            "edits must be ascending, disjoint and inside the body: {range:?} after {end_before} in {}",
            body.len()
        );
        end_before = range.end;
        length = length - range.len() + bytes.len();
    }
    let mut out = BytesMut::with_capacity(length);
    let mut done = 0;
    for (range, bytes) in edits {
        out.put_slice(&body[done..range.start]);
        out.put_slice(bytes);
        done = range.end;
    }
    out.put_slice(&body[done..]);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edits_replace_insert_and_delete() {
        let body = b"0123456789";
        assert_eq!(&splice(body, &[])[..], body);
        let edits: [(Range<usize>, &[u8]); 5] =
            [(0..0, b"<"), (1..3, b"ab"), (3..3, b"+"), (5..8, b""), (10..10, b">")];
        assert_eq!(&splice(body, &edits)[..], b"<0ab+3489>");
        assert_eq!(&splice(b"", &[(0..0, b"x")])[..], b"x");
    }

    #[test]
    fn edits_in_the_wrong_place_never_go_out() {
        let wrong: [&[(Range<usize>, &[u8])]; 4] = [
            &[(2..4, b""), (3..5, b"")],
            &[(4..5, b""), (1..2, b"")],
            &[(9..11, b"")],
            &[(11..11, b"")],
        ];
        for edits in wrong {
            assert!(
                std::panic::catch_unwind(|| splice(b"0123456789", edits)).is_err(),
                "{edits:?}"
            );
        }
        // A reversed range, which no range literal may be.
        let reversed = Range { start: 3, end: 2 };
        assert!(std::panic::catch_unwind(|| splice(b"0123456789", &[(reversed, b"")])).is_err());
    }

    proptest! {
        /// Taking the edits from the back one at a time gives the same bytes.
        #[test]
        fn all_at_once_is_one_after_the_other(
            body in prop::collection::vec(any::<u8>(), 0..40),
            cuts in prop::collection::vec((0usize..8, 0usize..8, prop::collection::vec(any::<u8>(), 0..5)), 0..5),
        ) {
            let mut edits = Vec::new();
            let mut at = 0;
            for (skip, len, bytes) in &cuts {
                let start = (at + skip).min(body.len());
                let end = (start + len).min(body.len());
                edits.push((start..end, &bytes[..]));
                at = end;
            }
            let mut expected = body.clone();
            for (range, bytes) in edits.iter().rev() {
                expected.splice(range.clone(), bytes.iter().copied());
            }
            prop_assert_eq!(&splice(&body, &edits)[..], expected);
        }
    }
}
