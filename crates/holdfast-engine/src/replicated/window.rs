//! The replies that a member may ask for again: one proposal, one effect, however often it is sent.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Reply;

/// How many replies are kept per member.
pub const MAX_UNSETTLED: usize = 1024;

/// How many bytes of values these replies may hold per member.
pub const MAX_UNSETTLED_BYTES: usize = 4 * 1024 * 1024;

/// How many `Join`s of a node are told from a new one. A process joins a few times at most, and an
/// older one's message does not stay on the network for longer than several restarts take.
const JOINS: usize = 8;

/// One member's unsettled replies under its present generation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Window {
    generation: u64,
    settled_below: u64,
    replies: BTreeMap<u64, Reply>,
    bytes: usize,
    /// Serial and generation of the last `Join`s, oldest first.
    joins: VecDeque<(u64, u64)>,
}

// === impl Window ===

impl Window {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The reply that this `Join` got, if it is one of the last.
    pub(super) fn join_reply(&self, serial: u64) -> Option<Reply> {
        let (_, generation) = self.joins.iter().find(|(known, _)| *known == serial)?;
        Some(Reply::Joined { generation: *generation })
    }

    /// A new life begins: the former one's replies are of no use, since its commands are fenced.
    pub(super) fn joined(&mut self, serial: u64, generation: u64) {
        let mut joins = std::mem::take(&mut self.joins);
        joins.push_back((serial, generation));
        if joins.len() > JOINS {
            joins.pop_front();
        }
        *self = Self { generation, joins, ..Self::default() };
    }

    /// The member has all replies below `serial`.
    pub(super) fn settle(&mut self, serial: u64) {
        self.settled_below = self.settled_below.max(serial);
        while let Some(entry) = self.replies.first_entry() {
            if *entry.key() >= self.settled_below {
                break;
            }
            self.bytes = self.bytes.saturating_sub(weight(&entry.remove()));
        }
    }

    /// What was replied to this serial; `Settled` if that is not known any more.
    pub(super) fn first_reply(&self, serial: u64) -> Option<Reply> {
        if serial < self.settled_below {
            return Some(Reply::Settled);
        }
        self.replies.get(&serial).cloned()
    }

    /// Keeps a reply, and forgets the oldest ones beyond the bounds. Their serials count as settled:
    /// forgetting never lets a command have its effect a second time.
    pub(super) fn remember(&mut self, serial: u64, reply: &Reply) {
        self.bytes = self.bytes.saturating_add(weight(reply));
        self.replies.insert(serial, reply.clone());
        while self.replies.len() > MAX_UNSETTLED || self.bytes > MAX_UNSETTLED_BYTES {
            let Some((oldest, reply)) = self.replies.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(weight(&reply));
            self.settled_below = self.settled_below.max(oldest.saturating_add(1));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.replies.len(), self.bytes)
    }
}

/// The bytes of values that a reply keeps alive.
fn weight(reply: &Reply) -> usize {
    match reply {
        Reply::Mismatch { found: Some(entry) } => entry.value.len(),
        _ => 0,
    }
}
