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
/// did not run. `status` is the HTTP status; the error is the JSON-RPC error in the body, if any.
///
/// A `404` to a request that carried a session id says so by itself; a `400` only with one of the
/// listed messages. Modern requests have no session: their `404` with -32601 is an unknown method.
#[must_use]
pub fn is_lost_session(
    status: u16,
    sent_session: bool,
    error_code: Option<i64>,
    error_message: Option<&str>,
    era_modern: bool,
) -> bool {
    const METHOD_NOT_FOUND: i64 = -32601;
    match status {
        _ if era_modern => false,
        404 => sent_session && error_code != Some(METHOD_NOT_FOUND),
        400 => error_message.is_some_and(says_no_session),
        _ => false,
    }
}

/// How a listed message is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compare {
    /// It is all there is.
    Whole,
    /// More may follow it.
    Start,
}

/// What servers say with `400` in a JSON-RPC error when they know no session: in lower case, without
/// the prefix "Bad Request: " and the full stop that some have, and who says it. Codes are no help:
/// the same message comes with -32000, -32600, -32601 and -32602.
const NO_SESSION: &[(Compare, &str, &str)] = &[
    (Compare::Whole, "server not initialized", "TypeScript SDK v1 and v2; Kotlin, Dart"),
    (Compare::Whole, "mcp-session-id header is required", "TypeScript SDK v1 and v2; Kotlin"),
    (Compare::Whole, "session id required", "TypeScript SDK v2, examples"),
    (
        Compare::Start,
        "no valid session id provided",
        "TypeScript SDK v1, examples; server-everything; Python SDK before 1.25",
    ),
    (Compare::Whole, "missing session id", "Python SDK v1 and v2; Ruby SDK"),
    (Compare::Whole, "session not found", "hand-written servers on any SDK"),
    (Compare::Whole, "invalid session id", "hand-written servers on any SDK"),
    (Compare::Whole, "invalid or expired session id", "Python and Swift SDK (there with 404)"),
    (Compare::Whole, "session id is required", "Rust SDK (there as plain text)"),
    (Compare::Whole, "session id required in mcp-session-id header", "Java SDK"),
    (Compare::Start, "a new session can only be created by an initialize request", "C# SDK"),
    (Compare::Whole, "session not initialized", "Swift SDK"),
    (Compare::Whole, "missing mcp-session-id header", "Swift SDK"),
    (Compare::Whole, "a valid session id is required for non-initialize requests", "PHP SDK"),
];

fn says_no_session(message: &str) -> bool {
    const PREFIX: &str = "bad request: ";
    // A message longer than any listed one with room to spare is not lower-cased for nothing.
    let message = message.trim().chars().take(128).collect::<String>().to_ascii_lowercase();
    let message = message.strip_prefix(PREFIX).unwrap_or(&message);
    NO_SESSION.iter().any(|(compare, text, _)| match compare {
        Compare::Whole => message.strip_suffix('.').unwrap_or(message) == *text,
        Compare::Start => message.starts_with(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_the_table() {
        use CallClass::*;
        use Progress::*;
        use Repeat::*;
        let table = [
            // progress, class, client waits, after the first attempt
            (NotSent, Lifecycle, true, Again),
            (NotSent, Lifecycle, false, Again),
            (NotSent, Read, true, Again),
            (NotSent, Read, false, Again),
            (NotSent, Idempotent, true, Again),
            (NotSent, Idempotent, false, Again),
            (NotSent, Write, true, Again),
            (NotSent, Write, false, Again),
            (DidNotRun, Lifecycle, true, ReestablishThenAgain),
            (DidNotRun, Lifecycle, false, ReestablishThenAgain),
            (DidNotRun, Read, true, ReestablishThenAgain),
            (DidNotRun, Read, false, ReestablishThenAgain),
            (DidNotRun, Idempotent, true, ReestablishThenAgain),
            (DidNotRun, Idempotent, false, ReestablishThenAgain),
            (DidNotRun, Write, true, ReestablishThenAgain),
            (DidNotRun, Write, false, ReestablishThenAgain),
            (Sent, Lifecycle, true, Again),
            (Sent, Lifecycle, false, Again),
            (Sent, Read, true, Again),
            (Sent, Read, false, Again),
            (Sent, Idempotent, true, Again),
            (Sent, Idempotent, false, Never(Why::NobodyWaits)),
            (Sent, Write, true, Never(Why::MayHaveRun)),
            (Sent, Write, false, Never(Why::MayHaveRun)),
        ];
        for (progress, class, waits, expected) in table {
            assert_eq!(
                decide(class, progress, 1, waits),
                expected,
                "{progress:?} {class:?} {waits}"
            );
        }
    }

    #[test]
    fn every_row_ends() {
        use CallClass::*;
        for class in [Lifecycle, Read, Idempotent, Write] {
            for waits in [true, false] {
                let last = |progress, attempts| decide(class, progress, attempts, waits);
                assert_eq!(last(Progress::NotSent, MAX_ATTEMPTS - 1), Repeat::Again);
                assert_eq!(last(Progress::NotSent, MAX_ATTEMPTS), Repeat::Never(Why::Exhausted));
                assert_eq!(last(Progress::DidNotRun, 2), Repeat::Never(Why::SessionKeepsVanishing));
                for attempts in MAX_ATTEMPTS..MAX_ATTEMPTS + 3 {
                    for progress in [Progress::NotSent, Progress::DidNotRun, Progress::Sent] {
                        assert!(matches!(last(progress, attempts), Repeat::Never(_)));
                    }
                }
            }
        }
        // What may have run is said to, however often it was tried.
        assert_eq!(decide(Write, Progress::Sent, 9, true), Repeat::Never(Why::MayHaveRun));
        assert_eq!(decide(Read, Progress::Sent, 9, true), Repeat::Never(Why::Exhausted));
    }

    #[test]
    fn a_write_is_repeated_only_if_it_did_not_run() {
        for attempts in 0..5 {
            for waits in [true, false] {
                let decision = decide(CallClass::Write, Progress::Sent, attempts, waits);
                assert_eq!(decision, Repeat::Never(Why::MayHaveRun));
            }
        }
    }

    /// What servers send, as their sources have it.
    #[test]
    fn a_400_counts_with_a_listed_message_only() {
        let listed = [
            (-32000, "Bad Request: Server not initialized"),
            (-32600, "Bad Request: Server not initialized"),
            (-32000, "Bad Request: Mcp-Session-Id header is required"),
            (-32000, "Mcp-Session-Id header is required"),
            (-32000, "Bad Request: Session ID required"),
            (-32000, "Bad Request: No valid session ID provided"),
            (-32000, "Bad Request: No valid session ID provided for non-initialize request"),
            (-32600, "Bad Request: Missing session ID"),
            (-32600, "Missing session ID"),
            (-32001, "Session not found"),
            (-32600, "Session not found."),
            (-32000, "Bad Request: Session ID is required"),
            (-32601, "Session ID required in mcp-session-id header"),
            (
                -32000,
                "Bad Request: A new session can only be created by an initialize request. Include a valid Mcp-Session-Id header for non-initialize requests, or enable stateless mode",
            ),
            (-32600, "Bad Request: Session not initialized"),
            (-32600, "Bad Request: Missing MCP-Session-Id header"),
            (-32600, "A valid session id is REQUIRED for non-initialize requests."),
        ];
        for (code, message) in listed {
            for sent in [true, false] {
                assert!(is_lost_session(400, sent, Some(code), Some(message), false), "{message}");
            }
            for (status, modern) in [(200, false), (202, false), (400, true), (500, false)] {
                let lost = is_lost_session(status, true, Some(code), Some(message), modern);
                assert!(!lost, "{status} {modern} {message}");
            }
        }
        for message in [
            "",
            "Invalid params",
            "Bad Request: Unsupported protocol version",
            "The tool says: session not found",
            "session not found in the database",
            "Server not initialized yet, but ran",
            "Invalid Request: Server already initialized",
            "Bad Request: The Mcp-Session-Id header is not supported in stateless mode",
        ] {
            assert!(!is_lost_session(400, true, Some(-32000), Some(message), false), "{message}");
        }
        assert!(!is_lost_session(400, true, Some(-32000), None, false));
        assert!(!is_lost_session(400, true, None, Some(&"\u{e9}".repeat(1000)), false));
    }

    #[test]
    fn every_listed_message_is_found_as_it_is_listed() {
        for (_, text, source) in NO_SESSION {
            assert!(is_lost_session(400, true, None, Some(text), false), "{text}");
            assert_eq!(*text, text.to_ascii_lowercase());
            assert!(!source.is_empty() && text.len() < 100);
        }
    }

    #[test]
    fn a_404_counts_if_a_session_was_sent() {
        let lost = |sent, code, modern| is_lost_session(404, sent, code, None, modern);
        assert!(lost(true, None, false));
        assert!(lost(true, Some(-32001), false));
        assert!(lost(true, Some(-32600), false));
        assert!(!lost(false, None, false), "the path is wrong, not the session");
        assert!(!lost(true, Some(-32601), false), "an unknown method");
        assert!(!lost(true, Some(-32601), true));
        assert!(!lost(true, None, true));
    }
}
