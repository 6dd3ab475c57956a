//! Every key of the store. A prefix says what a record is; what follows is binary.
//!
//! | prefix | then | record |
//! |---|---|---|
//! | `s/` | 16 bytes, big-endian | session, or its tombstone |
//! | `j/` | 32 bytes | journal entry |
//! | `x/` | 16 bytes, big-endian | stream |
//! | `p/` | a name | placement |
//! | `h/` | a name | hints about a server |

use bytes::Bytes;
use holdfast_engine::journal::CallKey;
use holdfast_engine::replicated::SESSIONS;

use crate::SessionKey;

const JOURNAL: &[u8] = b"j/";
const STREAMS: &[u8] = b"x/";
const PLACEMENTS: &[u8] = b"p/";
const HINTS: &[u8] = b"h/";

pub(crate) fn session(key: SessionKey) -> Bytes {
    [SESSIONS, &key.0.to_be_bytes()].concat().into()
}

pub(crate) fn journal(key: &CallKey) -> Bytes {
    [JOURNAL, &key.0].concat().into()
}

pub(crate) fn stream(stream: u128) -> Bytes {
    [STREAMS, &stream.to_be_bytes()].concat().into()
}

pub(crate) fn placement(name: &str) -> Bytes {
    [PLACEMENTS, name.as_bytes()].concat().into()
}

pub(crate) fn hints(server: &str) -> Bytes {
    [HINTS, server.as_bytes()].concat().into()
}

pub(crate) fn hints_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.strip_prefix(HINTS)?).ok()
}

pub(crate) fn session_of(key: &[u8]) -> Option<SessionKey> {
    let bytes = key.strip_prefix(SESSIONS)?;
    Some(SessionKey(u128::from_be_bytes(bytes.try_into().ok()?)))
}

pub(crate) fn call_of(key: &[u8]) -> Option<CallKey> {
    let bytes = key.strip_prefix(JOURNAL)?;
    Some(CallKey(bytes.try_into().ok()?))
}

pub(crate) fn stream_of(key: &[u8]) -> Option<u128> {
    let bytes = key.strip_prefix(STREAMS)?;
    Some(u128::from_be_bytes(bytes.try_into().ok()?))
}
