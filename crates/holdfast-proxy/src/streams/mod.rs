//! Streams towards clients: a log that is written once and read from anywhere.
//!
//! Every answer that becomes a stream goes through a [`StreamLog`]: whoever relays the server's
//! events appends, and an HTTP response body ([`Reader`]) follows. The two lives are apart on
//! purpose. A legacy client's disconnect is not a cancellation, so the relay goes on without a
//! reader, and a client that comes back with `Last-Event-ID` gets a new reader on the same log.
//!
//! Event ids are sealed tokens ([`holdfast_mcp::event_id`]), so a stream can be found, and its
//! fate told with the right request id, even when this log is gone.

mod ids;
mod log;
mod reader;
mod registry;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::log::{LogState, NewLog, Origin, StreamLog};
pub(crate) use self::reader::{Driven, Given, Reader, ReaderOptions};
pub(crate) use self::registry::Streams;
