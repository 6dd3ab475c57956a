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
