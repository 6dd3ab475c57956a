//! What goes into a breaker and comes out of it.

use std::fmt;
use std::time::{Duration, Instant};

use super::window::Booking;

/// How an attempt ended, as far as the server's health is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The server answered. A JSON-RPC error or a tool's own error is an answer; so is a 4xx that
    /// speaks of the request.
    Success,
    /// The server failed: a 5xx without `Retry-After`, an answer that is none, a connection that it
    /// cut after the request was sent, no answer within the time-out.
    Failure,
    /// The server asks for time: 429 or 503 with `Retry-After`.
    BackPressure {
        /// How long it asks for.
        retry_after: Duration,
    },
    /// The server does not know our session. It lives, and this says nothing of how well.
    SessionLost,
    /// The server was not reached: no route, no connection, no name. That may be this node's network,
    /// so it opens this node's breaker and is not told to the cluster.
    NotReached,
}

/// An admitted call. It has to be given back by `settle` or `abandon`; one that is lost counts as
/// failed once it is overdue, as a call does that hangs.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an admitted call that is not settled counts as failed when it is overdue"]
pub struct Permit {
    pub(super) epoch: u32,
    /// It has begun to answer.
    pub(super) begun: bool,
    pub(super) booking: Booking,
    pub(super) at: Instant,
}

/// A call that may not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// When it is worth another try. Never zero.
    pub retry_after: Duration,
    /// Why.
    pub why: Why,
}

/// Why a call was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Why {
    /// The breaker is open.
    Open,
    /// It is half-open, and this call is not among the few that try.
    HalfOpen,
    /// It recovers, and this call is not in the share that passes so far.
    Recovering,
    /// An operator holds it open.
    ForcedOpen,
    /// The server asked for time.
    BackPressure,
}

/// A breaker's state, without what it remembers in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// Calls pass.
    Closed,
    /// No call passes until a time.
    Open,
    /// A few calls pass to see how the server is.
    HalfOpen,
    /// Calls are let back in step by step.
    Recovering,
    /// An operator lets no call pass.
    ForcedOpen,
    /// An operator lets every call pass.
    ForcedClosed,
}

/// What an operator wants of a breaker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Override {
    /// No call passes.
    Open,
    /// Every call passes.
    Closed,
    /// The breaker decides.
    Automatic,
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// So many calls in a row failed at the server.
    InARow(u32),
    /// So many in a row did not reach it.
    NotReachedInARow(u32),
    /// Too large a share failed.
    Rate {
        /// Failed calls within the window.
        failed: u32,
        /// All decided calls within the window.
        calls: u32,
    },
    /// Too large a share did not reach it.
    NotReachedRate {
        /// Calls that did not reach it within the window.
        failed: u32,
        /// All decided calls within the window.
        calls: u32,
    },
    /// A call that tried while it was half-open failed.
    ProbeFailed,
    /// A call that tried while it was half-open did not reach the server.
    ProbeNotReached,
    /// It has been open for as long as it had to.
    TimePassed,
    /// Enough calls that tried succeeded.
    ProbesSucceeded,
    /// Too many calls of a step of the recovery failed: one step back, from the first one to Open.
    Degraded {
        /// Failed calls within the step.
        failed: u32,
        /// All decided calls within the step.
        calls: u32,
    },
    /// The recovery went through all of its steps.
    Recovered,
    /// The cluster opened it, or released it.
    Cluster,
    /// An operator said so.
    Operator,
    /// The configuration has no breaker here any more.
    SwitchedOff,
}

/// A change of state, or a step back within a recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// What it was.
    pub from: Phase,
    /// What it is.
    pub to: Phase,
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: Instant,
    /// For how long, where it is Open now.
    pub open_for: Option<Duration>,
}

/// A breaker as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its state.
    pub phase: Phase,
    /// The thousandths of calls that pass, back-pressure aside.
    pub share: u16,
    /// Until when it is open.
    pub open_until: Option<Instant>,
    /// Until when the server asked for time.
    pub held_until: Option<Instant>,
    /// Failures in a row by the server's fault.
    pub in_a_row: u32,
    /// Calls in a row that did not reach it.
    pub not_reached_in_a_row: u32,
    /// Decided calls within the window that reached the server.
    pub calls: u32,
    /// Those of them that failed.
    pub failed: u32,
    /// Calls within the window that did not reach it.
    pub not_reached: u32,
    /// How often it opened without having closed since.
    pub strikes: u32,
}

// === impl Phase ===

impl Phase {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::Recovering,
        Self::ForcedOpen,
        Self::ForcedClosed,
    ];

    /// The state in words, for metrics and status.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Recovering => "recovering",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}

// === impl Why ===

impl Why {
    /// The reason in words, for metrics and error data.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Recovering => "recovering",
            Self::ForcedOpen => "forced_open",
            Self::BackPressure => "back_pressure",
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Whether the evidence is the server's failing as this node saw it itself, so that the cluster
    /// may be told.
    #[must_use]
    pub const fn is_the_servers(self) -> bool {
        matches!(
            self,
            Self::InARow(_) | Self::Rate { .. } | Self::ProbeFailed | Self::Degraded { .. }
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(calls) => write!(f, "{calls} calls in a row failed"),
            Self::NotReachedInARow(calls) => write!(f, "{calls} calls in a row did not reach it"),
            Self::Rate { failed, calls } => write!(f, "{failed} of {calls} calls failed"),
            Self::NotReachedRate { failed, calls } => {
                write!(f, "{failed} of {calls} calls did not reach it")
            }
            Self::ProbeFailed => f.write_str("a call that tried it failed"),
            Self::ProbeNotReached => f.write_str("a call that tried it did not reach it"),
            Self::TimePassed => f.write_str("its time is over"),
            Self::ProbesSucceeded => f.write_str("the calls that tried it succeeded"),
            Self::Degraded { failed, calls } => {
                write!(f, "{failed} of {calls} calls failed during the recovery")
            }
            Self::Recovered => f.write_str("it has recovered"),
            Self::Cluster => f.write_str("the cluster said so"),
            Self::Operator => f.write_str("an operator said so"),
            Self::SwitchedOff => f.write_str("breakers are switched off"),
        }
    }
}
