//! JSON-RPC batches, which exist in protocol version 2025-03-26 only.
//!
//! A batch is cut into its messages without being parsed further; each is then peeked by itself and
//! keeps its bytes.
//!
//! Spec: 2025-03-26 Base Protocol, "Batching"; removed by 2025-06-18.

use std::ops::Range;

use serde_json::value::RawValue;

use crate::{peek::PeekError, raw::Raw};

/// Whether the body is an array: its first byte that is no JSON white space is `[`.
#[must_use]
pub fn is_batch(body: &[u8]) -> bool {
    body.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) == Some(&b'[')
}

/// Where each message of a batch stands in the body, in order, without surrounding white space.
///
/// # Errors
/// When the body is not UTF-8, not JSON, not an array, or an empty one.
pub fn split_batch(body: &[u8]) -> Result<Vec<Range<usize>>, PeekError> {
    let text =
        std::str::from_utf8(body).map_err(|error| PeekError::NotUtf8(error.valid_up_to()))?;
    let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            PeekError::NotJsonRpc("a batch must be a JSON array")
        } else {
            PeekError::NotJson(error.to_string())
        }
    })?;
    if elements.is_empty() {
        return Err(PeekError::EmptyBatch);
    }
    Ok(elements.into_iter().map(|element| Raw(element.get()).range_in(body)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(body: &str) -> Result<Vec<&str>, PeekError> {
        Ok(split_batch(body.as_bytes())?.into_iter().map(|range| &body[range]).collect())
    }

    #[test]
    fn each_message_keeps_its_bytes() {
        let body = " [ {\"id\" : 1.0} ,\n{\"a\":[1, 2],\"a\":\"],[\"}, 7]\t";
        assert_eq!(split(body), Ok(vec!["{\"id\" : 1.0}", "{\"a\":[1, 2],\"a\":\"],[\"}", "7"]));
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        assert_eq!(split(" [ ] "), Err(PeekError::EmptyBatch));
        for body in ["{}", "1", "null", "\"[]\""] {
            assert!(matches!(split(body), Err(PeekError::NotJsonRpc(_))), "{body}");
        }
        for body in ["", "[", "[1,]", "[1]]", "[1 2]", "[{]"] {
            assert!(matches!(split(body), Err(PeekError::NotJson(_))), "{body}");
        }
        assert!(matches!(split_batch(b"[\"\xff\"]"), Err(PeekError::NotUtf8(2))));
    }

    #[test]
    fn the_first_byte_that_counts_tells_a_batch() {
        for (body, expected) in
            [("[", true), (" \t\r\n[1]", true), ("{}", false), ("", false), ("\u{a0}[", false)]
        {
            assert_eq!(is_batch(body.as_bytes()), expected, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn the_parts_are_the_elements(
            elements in prop::collection::vec("[a-z\",\\\\\\[\\]{}]{0,8}", 1..6),
            space in "[ \t\r\n]{0,3}",
        ) {
            let elements: Vec<String> =
                elements.iter().map(|text| serde_json::to_string(text).unwrap()).collect();
            let body = format!("{space}[{space}{}{space}]{space}", elements.join(&format!("{space},{space}")));
            prop_assert_eq!(split(&body), Ok(elements.iter().map(String::as_str).collect()));
        }
    }
}
