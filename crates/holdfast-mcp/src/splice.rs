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
