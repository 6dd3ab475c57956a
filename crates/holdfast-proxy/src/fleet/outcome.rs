//! How an attempt ended, for whoever judges the instance that it went to.

use std::time::Duration;

use holdfast_engine::breaker;

/// The rest that an instance gets that asks for one and does not say how long.
pub(crate) const SHORT_REST: Duration = Duration::from_secs(1);

/// What one sending of a call says about its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered: with a result, or with a JSON-RPC error of its own, which is a success of the
    /// transport.
    Answered,
    /// It could not be reached; nothing was sent. That may be this node's own network, so it counts
    /// only here.
    Unreachable,
    /// It answers knocks and takes no connection that is of any use: TLS fails, say.
    Unanswering,
    /// The connection broke before the answer was whole.
    Broken,
    /// What it answered is no answer: not JSON-RPC, or not to this call.
    Garbled,
    /// It answered with an HTTP status of 500 or above.
    Status,
    /// It was silent for too long.
    TimedOut,
    /// It asks for less: 429, or 503 with `Retry-After`.
    Busy(Option<Duration>),
    /// Nothing: it was not sent, its client left, or the server had forgotten its session.
    Void,
}

// === impl Outcome ===

impl Outcome {
    /// The word for it in metrics and status.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreachable => "unreachable",
            Self::Unanswering => "unanswering",
            Self::Broken => "broken",
            Self::Garbled => "garbled",
            Self::Status => "status",
            Self::TimedOut => "timed_out",
            Self::Busy(_) => "busy",
            Self::Void => "void",
        }
    }

    /// What the breaker makes of it; `None`: nothing, the call was never owed an answer.
    pub(super) fn of_breaker(self) -> Option<breaker::Outcome> {
        Some(match self {
            Self::Answered => breaker::Outcome::Success,
            // It is left alone until it can be reached again; that is nobody's failure.
            Self::Unreachable => return None,
            Self::Unanswering => breaker::Outcome::NotReached,
            Self::Broken | Self::Garbled | Self::Status | Self::TimedOut => {
                breaker::Outcome::Failure
            }
            Self::Busy(after) => {
                breaker::Outcome::BackPressure { retry_after: after.unwrap_or(SHORT_REST) }
            }
            Self::Void => return None,
        })
    }

    /// Whether it speaks against the instance.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Unreachable
            | Self::Unanswering
            | Self::Broken
            | Self::Garbled
            | Self::Status
            | Self::TimedOut => true,
            Self::Answered | Self::Busy(_) | Self::Void => false,
        }
    }
}
