//! The gateway's own failures of a call: one enum from which code, text, metric and log follow.
//!
//! A JSON-RPC request is never answered with a 5xx or an HTML page: one 503 on one POST kills every
//! call of some clients. A failure is `200` with a JSON-RPC error that carries the request's id,
//! and its `data` says which server, why, whether the call may have run, and when to try again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};
use holdfast_store::StoreError;
use serde_json::json;

use crate::exchange::Ids;
use crate::fleet::{Reason, Refused, Why};
use crate::metrics::CallOutcome;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No instance could be reached, or it refused.
    ServerUnavailable,
    /// The call was sent and its fate is not known.
    OutcomeUnknown,
    /// A limit of this gateway is reached.
    Overloaded,
    /// The cluster's store is away, and the call needs it.
    Dependency,
    /// A server that this one depends on takes no calls.
    Needs,
    /// The call's deadline passed.
    TimedOut,
}

/// Whether the call may have had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ran {
    No,
    Maybe,
}

/// A call that the gateway could not bring to an answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) server: Arc<str>,
    pub(crate) reason: String,
    pub(crate) ran: Ran,
    pub(crate) retry_after: Option<Duration>,
    /// Of a server of several instances, why each of the first ones did not take the call.
    pub(crate) reasons: Vec<Reason>,
}

// === impl Failure ===

impl Failure {
    pub(crate) fn unavailable(server: &Arc<str>, reason: String) -> Self {
        Self {
            kind: FailureKind::ServerUnavailable,
            server: Arc::clone(server),
            reason,
            ran: Ran::No,
            retry_after: Some(Duration::from_secs(1)),
            reasons: Vec::new(),
        }
    }

    /// The call needs the cluster's store, which is away: it did not run.
    pub(crate) fn dependency(server: &Arc<str>, reason: String) -> Self {
        let kind = FailureKind::Dependency;
        Self { kind, ..Self::unavailable(server, reason) }
    }

    /// A server that this one depends on takes no calls: it did not run.
    pub(crate) fn needs(server: &Arc<str>, reason: String) -> Self {
        let kind = FailureKind::Needs;
        Self { kind, ..Self::unavailable(server, reason) }
    }

    pub(crate) fn unknown(server: &Arc<str>, reason: String) -> Self {
        Self {
            kind: FailureKind::OutcomeUnknown,
            server: Arc::clone(server),
            reason,
            ran: Ran::Maybe,
            retry_after: None,
            reasons: Vec::new(),
        }
    }

    pub(crate) fn timed_out(server: &Arc<str>, after: Duration) -> Self {
        Self {
            kind: FailureKind::TimedOut,
            server: Arc::clone(server),
            reason: format!("no answer within {} s", after.as_secs()),
            ran: Ran::Maybe,
            retry_after: None,
            reasons: Vec::new(),
        }
    }

    /// Its time was over before it was sent: it did not run.
    pub(crate) fn not_sent_in_time(server: &Arc<str>, after: Duration) -> Self {
        let reason = format!("it could not be sent within {} s", after.as_secs());
        Self { kind: FailureKind::TimedOut, ..Self::unavailable(server, reason) }
    }

    /// The drain deadline passed while the call ran.
    pub(crate) fn restarting(server: &Arc<str>) -> Self {
        Self::unknown(server, "the gateway is restarting and could not wait for its answer".into())
    }

    /// The configuration has its server no more, and the time that was left to the call is over.
    pub(crate) fn removed(server: &Arc<str>) -> Self {
        let reason = "the server was taken out of the configuration, and its answer was waited for no longer";
        Self::unknown(server, reason.into())
    }

    pub(crate) fn overloaded(server: &Arc<str>, reason: String, retry_after: Duration) -> Self {
        Self {
            kind: FailureKind::Overloaded,
            server: Arc::clone(server),
            reason,
            ran: Ran::No,
            retry_after: Some(retry_after),
            reasons: Vec::new(),
        }
    }

    /// No instance takes the call: it did not run. What only lacks an allowance or a connection, or has
    /// asked for fewer calls, is there, and busy.
    pub(crate) fn refused(server: &Arc<str>, refused: Refused) -> Self {
        let Refused { retry_after, reason, why, reasons, .. } = refused;
        let failure = match why {
            Why::Rate | Why::Connections | Why::BackPressure => {
                Self::overloaded(server, reason, retry_after)
            }
            _ => Self::unavailable(server, reason),
        };
        Self { retry_after: Some(retry_after), reasons, ..failure }
    }

    pub(crate) fn outcome(&self) -> CallOutcome {
        match self.kind {
            FailureKind::ServerUnavailable => CallOutcome::ServerUnavailable,
            FailureKind::OutcomeUnknown => CallOutcome::OutcomeUnknown,
            FailureKind::Overloaded => CallOutcome::Overloaded,
            FailureKind::Dependency | FailureKind::Needs => CallOutcome::Dependency,
            FailureKind::TimedOut => CallOutcome::TimedOut,
        }
    }

    fn error(&self) -> RpcError {
        let (code, what) = match self.kind {
            FailureKind::ServerUnavailable => (code::SERVER_UNAVAILABLE, "is unavailable"),
            FailureKind::OutcomeUnknown => {
                (code::OUTCOME_UNKNOWN, "was lost in mid-call; the call may have run")
            }
            FailureKind::Overloaded => (code::OVERLOADED, "cannot be called right now"),
            FailureKind::Dependency if self.ran == Ran::Maybe => (
                code::DEPENDENCY_UNAVAILABLE,
                "was not called by this node, and whether another had called it cannot be told",
            ),
            FailureKind::Dependency => {
                (code::DEPENDENCY_UNAVAILABLE, "was not called: the cluster's store is unavailable")
            }
            FailureKind::Needs => (code::DEPENDENCY_UNAVAILABLE, "was not called"),
            FailureKind::TimedOut if self.ran == Ran::No => {
                (code::TIMED_OUT, "was not called in time")
            }
            FailureKind::TimedOut => (code::TIMED_OUT, "did not answer in time"),
        };
        let mut data = json!({
            "server": &*self.server,
            "reason": self.reason,
            "mayHaveRun": self.ran == Ran::Maybe,
        });
        if let (Some(after), Some(fields)) = (self.retry_after, data.as_object_mut()) {
            let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            fields.insert("retryAfterMs".into(), ms.into());
        }
        if let (false, Some(fields)) = (self.reasons.is_empty(), data.as_object_mut()) {
            let reason = |(instance, why): &Reason| json!({ "instance": instance, "reason": why });
            fields.insert("reasons".into(), self.reasons.iter().map(reason).collect());
        }
        let message = format!("server {} {what}: {}", self.server, self.reason);
        RpcError { code, message, data: Some(data) }
    }

    /// The JSON-RPC answer to the call: an error for every id of a batch.
    pub(crate) fn render(&self, ids: &Ids) -> Bytes {
        render(&self.error(), ids)
    }

    /// The error under one request's id.
    pub(crate) fn render_one(&self, id: &str) -> Bytes {
        self.error().render(ErrorId::Raw(id))
    }
}

/// What a client is told of the store's error. Where the store is, is in the log, and no client's business.
pub(crate) fn told(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable(_) => "the session store is away".to_owned(),
        StoreError::Declined { why, .. } => format!("the session store takes no writes: {why}"),
        StoreError::Unknown(_) => "whether the session store has kept it is not known".to_owned(),
        other => other.to_string(),
    }
}

/// Renders an error for every id that waits for an answer.
pub(crate) fn render(error: &RpcError, ids: &Ids) -> Bytes {
    match ids {
        Ids::None => error.render(ErrorId::Null),
        Ids::One(id) => error.render(ErrorId::Raw(id)),
        Ids::Batch(ids) => {
            let mut out = BytesMut::from(&b"["[..]);
            for (index, id) in ids.iter().enumerate() {
                if index > 0 {
                    out.put_u8(b',');
                }
                out.extend_from_slice(&error.render(ErrorId::Raw(id)));
            }
            out.put_u8(b']');
            out.freeze()
        }
    }
}
