//! Rules of repetition: whether a call that failed may be sent once more.
//!
//! | progress | Lifecycle, Read | Idempotent | Write |
//! |---|---|---|---|
//! | not sent | again | again | again |
//! | did not run | re-establish, then again | the same | the same |
//! | sent, no answer | again | again while the client waits | never |
//!
//! Every cell ends after [`MAX_ATTEMPTS`]; re-establishing ends after two, so that a server that
//! forgets each new session at once is not called for ever.
//!
//! "Did not run" is only ever the HTTP status of that very POST ([`is_lost_session`]): never text
//! inside a result, never the status of a GET that resumes a stream.

/// How many times one call is sent at most, the first time included.
pub const MAX_ATTEMPTS: u32 = 3;

use crate::class::CallClass;

/// How far an attempt got.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Progress {
    /// No byte was written: refused, or the pooled connection had closed.
    NotSent,
    /// The server said of that very POST that it does not know the session.
    DidNotRun,
    /// Written, at least in part, and no answer came.
    Sent,
}

/// What to do with the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Repeat {
    /// Send it again, to the same or another instance.
    Again,
    /// Re-establish the session first.
    ReestablishThenAgain,
    /// Answer with an error.
    Never(Why),
}

/// Why a call is not sent again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Why {
    /// It may have run, and must not run twice.
    #[error("the call was sent and may have run; it is not repeated because it may have an effect")]
    MayHaveRun,
    /// It may have run, and nobody waits for it any more.
    #[error("the call was sent and may have run; nobody waits for it any more")]
    NobodyWaits,
    /// It was tried often enough.
    #[error("the call failed {} times", MAX_ATTEMPTS)]
    Exhausted,
    /// The server forgot the session again right after it was re-established.
    #[error("the server does not keep its session")]
    SessionKeepsVanishing,
}

/// Decides. `attempts_so_far` counts the attempts made, the failed one included (1 after the first);
/// `client_waits` says whether someone still waits for this call's answer and the session has seen
/// no later call.
#[must_use]
pub fn decide(
    class: CallClass,
    progress: Progress,
    attempts_so_far: u32,
    client_waits: bool,
) -> Repeat {
    match (progress, class) {
        // What may not run twice is refused for that reason, however often it was tried.
        (Progress::Sent, CallClass::Write) => return Repeat::Never(Why::MayHaveRun),
        (Progress::Sent, CallClass::Idempotent) if !client_waits => {
            return Repeat::Never(Why::NobodyWaits);
        }
        _ => {}
    }
    match progress {
        Progress::DidNotRun if attempts_so_far >= 2 => Repeat::Never(Why::SessionKeepsVanishing),
        _ if attempts_so_far >= MAX_ATTEMPTS => Repeat::Never(Why::Exhausted),
        Progress::DidNotRun => Repeat::ReestablishThenAgain,
        Progress::NotSent | Progress::Sent => Repeat::Again,
    }
}

/// Whether a server's answer to a POST says that it does not know the session, so that the message
/// did not run. `status` is the HTTP status, the error is the JSON-RPC error in the body, if any.
///
/// Modern requests have no session: their `404` with -32601 means an unknown method.
#[must_use]
pub fn is_lost_session(
    status: u16,
    sent_session: bool,
    error_code: Option<i64>,
    error_message: Option<&str>,
    era_modern: bool,
) -> bool {
    const METHOD_NOT_FOUND: i64 = -32601;
    if era_modern || error_code == Some(METHOD_NOT_FOUND) {
        return false;
    }
    match status {
        404 => sent_session,
        400 => error_message.is_some_and(is_listed),
        _ => false,
    }
}

/// What servers say with `400` when they know no session, in lower case and without the prefix
/// "bad request: ".
const LOST_SESSION: &[&str] = &[
    "server not initialized",
    "missing session id",
    "no valid session id provided",
    "session not found",
    "mcp-session-id header is required",
];

fn is_listed(message: &str) -> bool {
    const PREFIX: &str = "bad request: ";
    let message = message.trim().to_ascii_lowercase();
    let message = message.strip_prefix(PREFIX).unwrap_or(&message);
    LOST_SESSION.contains(&message.trim_end_matches('.'))
}
