//! What became of every call: written by the load, read by the report.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Answered at once; the text that comes back must be the one that was sent.
    Read,
    /// Answered after one to three seconds.
    SlowRead,
    /// Counted at its server under a key that no other call has.
    Write,
    /// The same, answered after one to three seconds.
    SlowWrite,
    /// Numbered progress, each number exactly once, before its answer.
    Stream,
    /// The use of a session that has lain idle.
    Idle,
    /// The opening of a session.
    Open,
}

/// Which kind of client made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Era {
    /// A session that resumes streams.
    #[serde(rename = "2025-11-25")]
    Legacy,
    /// A session of the version before, whose streams are not primed.
    #[serde(rename = "2025-06-18")]
    Older,
    /// No session.
    #[serde(rename = "2026-07-28")]
    Modern,
}

/// How a call ended, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub(crate) enum Outcome {
    Result,
    /// A JSON-RPC error under the call's id.
    Error {
        code: i64,
        may_have_run: Option<bool>,
        message: String,
    },
    /// The answer of another call, or one that no server gave.
    Wrong {
        what: String,
    },
    /// The session is not known any more.
    SessionLost {
        status: u16,
    },
    /// A status without a JSON-RPC answer.
    Status {
        status: u16,
        body: String,
    },
    /// The connection ended and there was no way to resume, or resuming failed.
    Broken {
        what: String,
    },
    /// Nothing until the deadline.
    Nothing {
        stage: &'static str,
    },
}

/// One call.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) client: String,
    pub(crate) kind: Kind,
    pub(crate) era: Era,
    pub(crate) server: &'static str,
    /// Tool and key, for calls whose executions count.
    pub(crate) key: Option<(String, String)>,
    pub(crate) id: String,
    pub(crate) session: Option<String>,
    /// Milliseconds since the start of the run.
    pub(crate) started: u64,
    pub(crate) ended: u64,
    pub(crate) outcome: Outcome,
    /// Whether a node was lost under it: its request was sent to a second one, or its stream was cut.
    pub(crate) moved: bool,
    /// How often its stream was resumed.
    pub(crate) resumed: u32,
    pub(crate) events_missing: u32,
    pub(crate) events_doubled: u32,
    /// What the balancer says of it, to find it in the nodes' logs.
    pub(crate) trace: String,
}

/// All calls of a run, and its clock.
pub(crate) struct Ledger {
    epoch: Instant,
    calls: Mutex<Vec<Call>>,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::SlowWrite)
    }

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::SlowRead | Self::Stream)
    }
}

// === impl Outcome ===

impl Outcome {
    pub(crate) fn code(&self) -> Option<i64> {
        match self {
            Self::Error { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the client was left without a JSON-RPC answer.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Broken { .. } | Self::Nothing { .. })
    }
}

// === impl Call ===

impl Call {
    pub(crate) fn took(&self) -> u64 {
        self.ended.saturating_sub(self.started)
    }

    /// Whether it was under way at any moment between these two.
    pub(crate) fn overlaps(&self, from: u64, to: u64) -> bool {
        self.started <= to && self.ended >= from
    }
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), calls: Mutex::default() }
    }

    /// Milliseconds since the start of the run.
    pub(crate) fn now(&self) -> u64 {
        millis(self.epoch.elapsed())
    }

    pub(crate) fn add(&self, call: Call) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    pub(crate) fn count(&self) -> usize {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Everything recorded so far.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
