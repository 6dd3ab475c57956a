//! How a record becomes a value: one byte that names the format, eight that name the write, and the
//! record in postcard.
//!
//! The format is the record kind's own and rises when its shape changes, so that nodes of two versions
//! in one cluster refuse each other's records instead of misreading them. The name of the write is
//! what a node knows its own value by when the reply to the write was lost.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is wrong with a stored value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Written by another version of the gateway.
    #[error("it has format {found:?}, and this version reads {reads}")]
    Format {
        /// The format it says it has; none if it is too short to say.
        found: Option<u8>,
        /// What this version reads.
        reads: u8,
    },
    /// It says a protocol version that this version of the gateway does not know.
    #[error("it names a protocol version that is not known here")]
    Version,
    /// It ends early, goes on too long, or says what cannot be.
    #[error("it is damaged: {0}")]
    Damaged(#[from] postcard::Error),
}

const HEADER: usize = 9;

/// The value of a record. `serial` is the number of its write.
pub(crate) fn encode<T: Serialize>(
    format: u8,
    serial: u64,
    record: &T,
) -> Result<Bytes, Malformed> {
    let mut value = Vec::with_capacity(1024);
    value.push(format);
    value.extend_from_slice(&serial.to_le_bytes());
    let value = postcard::to_extend(record, value)?;
    // In a room of its size: one that shrinks leaves a hole behind it, of each session one.
    Ok(Bytes::copy_from_slice(&value))
}

/// The record of a value.
pub(crate) fn decode<'a, T: Deserialize<'a>>(reads: u8, value: &'a [u8]) -> Result<T, Malformed> {
    let found = value.first().copied();
    let Some(body) = value.get(HEADER..).filter(|_| found == Some(reads)) else {
        return Err(Malformed::Format { found, reads });
    };
    let (record, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() { Ok(record) } else { Err(postcard::Error::DeserializeBadEncoding.into()) }
}
