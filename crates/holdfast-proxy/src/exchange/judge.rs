//! What a server's HTTP status may mean to a client.
//!
//! Bytes pass, but not every status does: a 5xx on one POST kills all calls of some clients, any
//! status of 300 and above makes others give the server up, and an empty 200 leaves a call without
//! its answer. So a request is answered by JSON-RPC with `200` wherever the protocol does not demand
//! the status itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_mcp::batch::is_batch;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::rpc_error::{RpcError, code};
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::attempt::Reply;
use super::{Call, Whole};
use crate::clock::unix_millis;
use crate::failure::{self, Failure};
use crate::fleet::Outcome;
use crate::server::Server;

/// The response as the client may see it.
///
/// # Errors
/// [`Failure`] where the server's response is no answer to the request.
pub(super) fn judge(call: &Call, reply: Reply) -> Result<Reply, Failure> {
    match reply {
        Reply::Whole(mut whole) => {
            let discover = call.method == Method::Discover && call.modern();
            judge_whole(&call.server.name, discover, &mut whole)?;
            with_error_body(call, &mut whole);
            Ok(Reply::Whole(whole))
        }
        Reply::Large(large) if !large.status.is_success() => {
            let reason = format!("it answered with HTTP status {}", large.status);
            Err(Failure::unknown(&call.server.name, reason))
        }
        other => Ok(other),
    }
}

/// What the reply to the call says about the instance that gave it, as far as its status tells.
pub(super) fn outcome(call: &Call, reply: &Reply) -> Outcome {
    let (status, headers) = match reply {
        Reply::Whole(whole) => (whole.status, &whole.headers),
        Reply::Large(large) => (large.status, &large.headers),
        Reply::One(_) | Reply::Events(_) => return Outcome::Answered,
    };
    outcome_of(status, headers, has_own_limits(&call.server, &call.headers))
}

/// Whether what is sent to the server with these headers has limits of its own there: it is known by its client's
/// credential, and not by the gateway's.
pub(super) fn has_own_limits(server: &Server, sent: &HeaderMap) -> bool {
    server.settings.forward_authorization && sent.contains_key(AUTHORIZATION)
}

/// The same by a response's head.
pub(super) fn outcome_of(status: StatusCode, headers: &HeaderMap, own_limits: bool) -> Outcome {
    if status.is_success() {
        return Outcome::Answered;
    }
    match status {
        // One client has used up what it may, and is told. Nobody else is to wait for that.
        StatusCode::TOO_MANY_REQUESTS if own_limits => Outcome::Void,
        StatusCode::TOO_MANY_REQUESTS => Outcome::Busy(retry_after(headers)),
        StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(RETRY_AFTER) => {
            Outcome::Busy(retry_after(headers))
        }
        status if is_servers_fault(status) => Outcome::Status,
        status if status.is_redirection() || status.is_informational() => Outcome::Garbled,
        // A refusal of the request itself.
        _ => Outcome::Answered,
    }
}

/// The same for a whole response of `server`; `discover`: to the request that decides the era.
///
/// # Errors
/// As [`judge`].
pub(super) fn judge_whole(
    server: &Arc<str>,
    discover: bool,
    whole: &mut Whole,
) -> Result<(), Failure> {
    let status = whole.status;
    if status.is_success() {
        let first = whole.body.iter().find(|byte| !byte.is_ascii_whitespace());
        return match first {
            Some(b'{' | b'[') => Ok(()),
            Some(_) => {
                let reason = format!("it answered {status} with something that is not JSON-RPC");
                Err(Failure::unknown(server, reason))
            }
            None => {
                let reason = format!("it answered {status} without a body");
                Err(Failure::unknown(server, reason))
            }
        };
    }
    let is_answer = answers(&whole.body);
    let limited = status == StatusCode::TOO_MANY_REQUESTS;
    // The first discover decides the era for a client's whole life: what is only the server's bad
    // moment must not be read as an old server.
    if discover && (limited || is_servers_fault(status)) {
        return Err(overloaded(server, whole));
    }
    if is_servers_fault(status) || limited {
        if is_answer {
            whole.status = StatusCode::OK;
            return Ok(());
        }
        if let Outcome::Busy(_) = outcome_of(status, &whole.headers, false) {
            return Err(overloaded(server, whole));
        }
        let reason = format!("it answered with HTTP status {status}");
        return Err(Failure::unknown(server, reason));
    }
    if status.is_redirection() || status.is_informational() {
        let reason = format!(
            "it answered with HTTP status {status}; redirects are not followed, configure the final URL"
        );
        // Only these say that the request is still to be made (RFC 9110, sections 15.4.8 and 15.4.9).
        let did_not_run =
            matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        return Err(match did_not_run {
            true => Failure::unavailable(server, reason),
            false => Failure::unknown(server, reason),
        });
    }
    Ok(())
}

/// Nobody has said what a status from 600 on means (RFC 9110, section 15): it is taken for a 5xx.
fn is_servers_fault(status: StatusCode) -> bool {
    status.as_u16() >= 500
}

/// A refusal whose status the protocol wants to be seen gets a body that a client can read, unless it
/// is about credentials.
fn with_error_body(call: &Call, whole: &mut Whole) {
    let status = whole.status;
    let about_credentials = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let looks_like_json = whole.body.trim_ascii_start().starts_with(b"{");
    if !status.is_client_error() || about_credentials || looks_like_json {
        return;
    }
    let text = format!("server {} answered with HTTP status {status}", call.server.name);
    let error = RpcError::new(code::SERVER_UNAVAILABLE, text);
    whole.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    whole.body = failure::render(&error, &call.ids);
}

fn answers(body: &[u8]) -> bool {
    is_batch(body)
        || peek(body).is_ok_and(|message| message.kind == Kind::Response && message.id.is_some())
}

fn overloaded(server: &Arc<str>, whole: &Whole) -> Failure {
    let reason = format!("it answered with HTTP status {}", whole.status);
    let wait = retry_after(&whole.headers).unwrap_or(Duration::from_secs(1));
    Failure::overloaded(server, reason, wait)
}

/// The longest time that a server may ask for.
const LONGEST_REST: Duration = Duration::from_secs(86_400);

/// `Retry-After` (RFC 9110, section 10.2.3): so many seconds, or until a time of day. None: nobody can read it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let now = UNIX_EPOCH + Duration::from_millis(unix_millis());
    asked_for(headers.get(RETRY_AFTER)?.to_str().ok()?.trim(), now)
}

fn asked_for(text: &str, now: SystemTime) -> Option<Duration> {
    let asked = match text.as_bytes() {
        [] => return None,
        // What does not fit is more than anybody gets.
        digits if digits.iter().all(u8::is_ascii_digit) => {
            Duration::from_secs(text.parse().unwrap_or(u64::MAX))
        }
        // One whose clock is behind ours asks for time all the same.
        _ => {
            let until = httpdate::parse_http_date(text).ok()?;
            until.duration_since(now).unwrap_or_default().max(Duration::from_secs(1))
        }
    };
    Some(asked.min(LONGEST_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_asked_for_in_seconds_or_until_a_time() {
        // The second of RFC 9110's example.
        let then = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let now = then - Duration::from_secs(90);
        for (text, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(90)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(90)),
            ("Sun Nov  6 08:49:37 1994", Some(90)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(1)),
            ("Sun, 06 Nov 2044 08:49:37 GMT", Some(86_400)),
            ("99999999", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(asked_for(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
