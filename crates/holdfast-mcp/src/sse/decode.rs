//! From bytes to events.
//!
//! The result does not depend on where the stream is cut into chunks, which a property test and a
//! fuzz target hold. A data line that lies in one chunk is not copied.
//!
//! Two things differ from what a browser does. An event without data is given out too: MCP servers
//! send blocks of only `id` and `retry` before they end a stream that is to be polled. And ids are
//! given per event, not carried over: what was last seen is the caller's matter.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};

use super::Event;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// The peer would make the gateway hold more than it may.
    #[error("an event of the stream is longer than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
}

/// Reads one stream. An event that the stream's end cuts off is never given out.
///
/// Fields of an event are slices of what was pushed where they can be: whoever keeps one for long
/// keeps its whole chunk, and had better copy it.
#[derive(Debug)]
pub struct Decoder {
    /// Limit on one event's lines together, in bytes.
    limit: usize,
    chunks: VecDeque<Bytes>,
    /// The start of a line whose end has not arrived.
    carry: BytesMut,
    /// The line before ended with CR: a LF right after it belongs to that.
    after_cr: bool,
    /// Nothing of the stream has been read: a byte order mark may follow.
    at_start: bool,
    /// What has been read of the event so far, in bytes.
    held: usize,
    event: Event,
    data: Data,
    failed: bool,
}

/// The data lines so far.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    One(Bytes),
    Joined(BytesMut),
}

impl Decoder {
    /// A decoder that holds at most `max_event` bytes of one event, line ends included.
    #[must_use]
    pub fn new(max_event: usize) -> Self {
        Self {
            limit: max_event,
            chunks: VecDeque::new(),
            carry: BytesMut::new(),
            after_cr: false,
            at_start: true,
            held: 0,
            event: Event::default(),
            data: Data::None,
            failed: false,
        }
    }

    /// Adds what has arrived. Call [`Decoder::next`] until it gives `None` before adding more: what
    /// is added is held.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() && !self.failed {
            self.chunks.push_back(chunk);
        }
    }

    /// The next whole event, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// When an event is longer than the limit; the stream is of no use from then on.
    #[expect(clippy::should_implement_trait, reason = "more may follow after None")]
    pub fn next(&mut self) -> Result<Option<Event>, SseError> {
        if self.failed {
            return Err(self.fail());
        }
        while let Some(mut chunk) = self.chunks.pop_front() {
            let event = self.read(&mut chunk)?;
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Whether the stream may end here without losing anything: no part of an event is held.
    #[must_use]
    pub fn is_between_events(&self) -> bool {
        self.held == 0 && self.carry.is_empty() && self.chunks.is_empty()
    }

    /// Reads lines off the front of a chunk until they make an event, or none is left.
    fn read(&mut self, chunk: &mut Bytes) -> Result<Option<Event>, SseError> {
        loop {
            if !chunk.is_empty() && std::mem::take(&mut self.after_cr) && chunk[0] == b'\n' {
                chunk.advance(1);
            }
            let Some(end) = memchr2(b'\n', b'\r', chunk) else {
                self.carry.extend_from_slice(chunk);
                chunk.clear();
                return match self.held + self.carry.len() > self.limit {
                    true => Err(self.fail()),
                    false => Ok(None),
                };
            };
            self.after_cr = chunk[end] == b'\r';
            let event = match self.carry.is_empty() {
                true => self.line(chunk, end)?,
                false => {
                    self.carry.extend_from_slice(&chunk[..end]);
                    let line = self.carry.split().freeze();
                    self.line(&line, line.len())?
                }
            };
            chunk.advance(end + 1);
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Takes the line that `bytes` begins with, `length` bytes without its end.
    fn line(&mut self, bytes: &Bytes, length: usize) -> Result<Option<Event>, SseError> {
        if self.held + length > self.limit {
            return Err(self.fail());
        }
        let mut line = &bytes[..length];
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        match line.first() {
            None => {
                self.held = 0;
                return Ok(self.take_event());
            }
            Some(b':') => {}
            Some(_) => {
                self.held += line.len() + 1;
                self.field(bytes, line);
            }
        }
        Ok(None)
    }

    fn fail(&mut self) -> SseError {
        self.failed = true;
        self.chunks.clear();
        self.carry = BytesMut::new();
        self.event = Event::default();
        self.data = Data::None;
        SseError::TooLong { limit: self.limit }
    }

    /// Takes a field, a line of `bytes`.
    fn field(&mut self, bytes: &Bytes, line: &[u8]) {
        let (name, value) = match memchr(b':', line) {
            None => (line, &line[line.len()..]),
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
        };
        match name {
            b"data" => self.data.add(bytes.slice_ref(value)),
            b"event" => self.event.event = Some(bytes.slice_ref(value)),
            b"id" if memchr(0, value).is_none() => self.event.id = Some(bytes.slice_ref(value)),
            b"retry" => {
                if let Some(retry) = digits(value) {
                    self.event.retry = Some(retry);
                }
            }
            _ => {}
        }
    }

    fn take_event(&mut self) -> Option<Event> {
        let data = std::mem::take(&mut self.data).into_bytes();
        let event = Event { data, ..std::mem::take(&mut self.event) };
        (event != Event::default()).then_some(event)
    }
}

impl Data {
    fn add(&mut self, line: Bytes) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(line),
            Self::One(first) => {
                let mut joined = BytesMut::with_capacity(first.len() + 1 + line.len());
                joined.extend_from_slice(&first);
                joined.extend_from_slice(b"\n");
                joined.extend_from_slice(&line);
                Self::Joined(joined)
            }
            Self::Joined(mut joined) => {
                joined.extend_from_slice(b"\n");
                joined.extend_from_slice(&line);
                Self::Joined(joined)
            }
        };
    }

    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::One(line) => Some(line),
            Self::Joined(joined) => Some(joined.freeze()),
        }
    }
}

fn digits(value: &[u8]) -> Option<u64> {
    // `parse` alone would take a sign.
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
