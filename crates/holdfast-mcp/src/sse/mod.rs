//! Server-sent events: the framing of every stream, both ways.
//!
//! [`Decoder`] takes a stream as it arrives, in pieces cut anywhere, and gives its events;
//! [`encode`] and its siblings write them. Event data is passed on as bytes. Comments are dropped:
//! the gateway keeps its own streams alive.
//!
//! Spec: WHATWG HTML, "Server-sent events", 9.2.5 and 9.2.6; MCP 2025-11-25 Transports, "Sending
//! Messages to the Server" and "Resumability and Redelivery"; 2026-07-28 Streamable HTTP, "Receiving
//! Messages".

mod decode;
mod encode;

use bytes::Bytes;

pub use decode::{Decoder, SseError};
pub use encode::{COMMENT, encode, encode_message, encode_message_with, encode_prime};

/// One event: the fields of one block of lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// The last `id` line. Empty resets the client's last event id.
    pub id: Option<Bytes>,
    /// The last `event` line; absent and empty both mean `message`.
    pub event: Option<Bytes>,
    /// The `data` lines, joined with line feeds; `None` without any, empty for one empty line.
    pub data: Option<Bytes>,
    /// Milliseconds to wait before a reconnect.
    pub retry: Option<u64>,
}

impl Event {
    /// Whether the event carries a message: it has data, and its type is `message` (the default).
    /// What primes a stream, or only says when to come back, does not.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.data.as_ref().is_some_and(|data| !data.is_empty())
            && self.event.as_ref().is_none_or(|event| event.is_empty() || &event[..] == b"message")
    }
}

#[cfg(test)]
mod tests;
