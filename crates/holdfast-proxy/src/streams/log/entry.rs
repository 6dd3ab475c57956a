//! One event of a log, and where its message is.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::ids::Told;

/// An event as it is kept: its id is sealed when it is written out, and anew each time.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) kept: Kept,
    /// How far the server's own stream had come with it.
    pub(super) server_event: Option<Arc<str>>,
    /// The highest progress that the client had been told with it.
    pub(super) progress: Option<f64>,
}

#[derive(Debug)]
pub(super) enum Kept {
    Message(Bytes),
    /// Only an id, and the milliseconds after which to come back with it.
    Prime(u64),
}

/// Where small messages are copied to, one behind the other: a block of memory for many of them.
#[derive(Debug, Default)]
pub(super) struct Room {
    block: BytesMut,
    /// Whether a message has been copied.
    begun: bool,
}

/// What an event costs beside its message: its place here, and its id and framing when it is written.
pub(super) const FRAMING: usize = 320;

/// A message from here on is kept as it was read; a smaller one is copied, or it would keep the whole
/// chunk that it came in.
const SHARED: usize = 64 * 1024;

/// Bytes of a block.
const BLOCK: usize = 2048;

// === impl Entry ===

impl Entry {
    pub(super) fn told(&self) -> Told<'_> {
        let server_event = self.server_event.as_deref();
        Told { seq: self.seq, server_event, progress: self.progress }
    }

    pub(super) fn message(&self) -> Option<&Bytes> {
        match &self.kept {
            Kept::Message(data) => Some(data),
            Kept::Prime(_) => None,
        }
    }

    /// Its message, unless that is kept as it was read.
    pub(super) fn copied(&self) -> Option<&Bytes> {
        self.message().filter(|data| data.len() < SHARED)
    }

    /// What it counts for in queues and budgets.
    pub(super) fn bytes(&self) -> usize {
        FRAMING + self.message().map_or(0, Bytes::len)
    }
}

// === impl Room ===

impl Room {
    /// The message as it is kept.
    pub(super) fn kept(&mut self, data: &Bytes) -> Bytes {
        if data.len() >= SHARED {
            return data.clone();
        }
        let is_first = !std::mem::replace(&mut self.begun, true);
        if is_first || data.len() > BLOCK / 4 {
            // It may be the only one, or would leave much of a block empty.
            return Bytes::copy_from_slice(data);
        }
        if self.block.capacity() < data.len() {
            self.block = BytesMut::with_capacity(data.len().max(BLOCK));
        }
        self.block.extend_from_slice(data);
        self.block.split().freeze()
    }
}
