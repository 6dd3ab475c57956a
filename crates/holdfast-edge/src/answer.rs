//! What to say when no node can be asked.
//!
//! A call gets a JSON-RPC error under its own id in a `200`: some clients drop every call they have
//! open for one 5xx, and hang on an error without their id. Requests that a client must not see
//! fail (`initialize`, `server/discover`: it would fall back to an older protocol for good) and
//! messages that nothing answers get no answer at all: the connection is closed. A stream that
//! could not be opened is answered with an empty one that says when to come back, since a client
//! that gets an error there never asks again.

use bytes::{BufMut as _, Bytes, BytesMut};
use holdfast_mcp::method::Method as Rpc;
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};
use holdfast_mcp::{Kind, is_batch, peek, split_batch};
use http::Method;
use serde_json::json;

use crate::decide::Why;

/// What kind of request it is, as far as its failure is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// One call, by its id.
    Call(Box<str>),
    /// A batch with calls in it, by their ids.
    Batch(Vec<Box<str>>),
    /// The first request of a client, which may not fail.
    Opening,
    /// A message that has no answer.
    OneWay,
    /// An event stream.
    Stream,
    /// A body that is no message.
    NoMessage(String),
    /// Plain HTTP.
    Plain,
}

/// What a client that could not be served gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// `200` with this JSON.
    Rpc(Bytes),
    /// `400` with this JSON.
    Refused(Bytes),
    /// `200`, an event stream that is over.
    EmptyStream,
    /// `503`, which nobody but a browser or a script sees.
    Unavailable,
    /// No response; the connection is closed.
    HangUp,
}

/// How long an empty stream asks its client to wait, in milliseconds.
pub(crate) const RETRY_MS: u64 = 1000;

/// Classifies a request. Called only when one could not be served.
pub(crate) fn asked(method: &Method, wants_stream: bool, body: &[u8]) -> Asked {
    if *method == Method::GET && wants_stream {
        return Asked::Stream;
    }
    if *method != Method::POST {
        return Asked::Plain;
    }
    if !is_batch(body) {
        return one(body).unwrap_or_else(Asked::NoMessage);
    }
    let parts = match split_batch(body) {
        Ok(parts) => parts,
        Err(error) => return Asked::NoMessage(error.to_string()),
    };
    let calls = parts.into_iter().filter_map(|part| match one(&body[part]) {
        Ok(Asked::Call(id)) => Some(id),
        _ => None,
    });
    let calls: Vec<Box<str>> = calls.collect();
    if calls.is_empty() { Asked::OneWay } else { Asked::Batch(calls) }
}

fn one(body: &[u8]) -> Result<Asked, String> {
    let message = peek(body).map_err(|error| error.to_string())?;
    let Some(id) = message.id.filter(|_| message.kind == Kind::Request) else {
        return Ok(Asked::OneWay);
    };
    Ok(match Rpc::parse(&message.method) {
        Rpc::Initialize | Rpc::Discover => Asked::Opening,
        _ => Asked::Call(id.to_owned_text()),
    })
}

/// The answer to a request that is given up.
pub(crate) fn reply(asked: &Asked, why: Why, may_have_run: bool) -> Reply {
    match asked {
        Asked::Call(id) => Reply::Rpc(error(why, may_have_run).render(ErrorId::Raw(id))),
        Asked::Batch(ids) => {
            let error = error(why, may_have_run);
            let mut out = BytesMut::from(&b"["[..]);
            for (index, id) in ids.iter().enumerate() {
                if index > 0 {
                    out.put_u8(b',');
                }
                out.put_slice(&error.render(ErrorId::Raw(id)));
            }
            out.put_u8(b']');
            Reply::Rpc(out.freeze())
        }
        Asked::NoMessage(text) => {
            Reply::Refused(RpcError::new(code::INVALID_REQUEST, text).render(ErrorId::Null))
        }
        Asked::Stream => Reply::EmptyStream,
        Asked::Plain => Reply::Unavailable,
        Asked::Opening | Asked::OneWay => Reply::HangUp,
    }
}

fn error(why: Why, may_have_run: bool) -> RpcError {
    let (code, reason) = match why {
        Why::NoNode => (code::SERVER_UNAVAILABLE, "no node of the gateway can be reached"),
        Why::Failing => {
            (code::SERVER_UNAVAILABLE, "the connection to every node broke before the answer")
        }
        Why::Full => (code::OVERLOADED, "every node of the gateway is at its limit of connections"),
        Why::Deadline => (code::TIMED_OUT, "no answer within the deadline of the edge"),
        Why::Ending => {
            (code::SERVER_UNAVAILABLE, "the edge ends and could not wait for the answer")
        }
    };
    let ran = if may_have_run { "; the call may have run" } else { "; the call did not run" };
    RpcError::new(code, format!("{reason}{ran}")).with_data(json!({
        "reason": reason,
        "mayHaveRun": may_have_run,
        "retryAfterMs": RETRY_MS,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(body: &str) -> Asked {
        asked(&Method::POST, false, body.as_bytes())
    }

    #[test]
    fn requests_by_what_their_failure_may_look_like() {
        let call = r#"{"jsonrpc":"2.0","id":1.0,"method":"tools/call"}"#;
        let other = r#"{"jsonrpc":"2.0","id":"a","method":"no/such"}"#;
        let ping = r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#;
        let result = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#;
        let discover = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
        assert_eq!(post(call), Asked::Call("1.0".into()));
        assert_eq!(post(other), Asked::Call("\"a\"".into()));
        for one_way in [ping, result] {
            assert_eq!(post(one_way), Asked::OneWay, "{one_way}");
        }
        for opening in [initialize, discover] {
            assert_eq!(post(opening), Asked::Opening, "{opening}");
        }
        let batch = format!("[{call},{ping},{other},{result}]");
        assert_eq!(post(&batch), Asked::Batch(vec!["1.0".into(), "\"a\"".into()]));
        assert_eq!(post(&format!("[{ping}]")), Asked::OneWay);
        for nonsense in ["", "{", "[", "[]", "7"] {
            assert!(matches!(post(nonsense), Asked::NoMessage(_)), "{nonsense}");
        }
        assert_eq!(asked(&Method::GET, true, b""), Asked::Stream);
        assert_eq!(asked(&Method::GET, false, b""), Asked::Plain);
        assert_eq!(asked(&Method::DELETE, true, b""), Asked::Plain);
    }

    #[test]
    fn a_call_is_answered_under_its_id() {
        for (why, code) in [
            (Why::NoNode, -31001),
            (Why::Failing, -31001),
            (Why::Full, -31003),
            (Why::Deadline, -31005),
            (Why::Ending, -31001),
        ] {
            for may_have_run in [false, true] {
                let Reply::Rpc(body) = reply(&Asked::Call("7.0".into()), why, may_have_run) else {
                    panic!("{why:?} is no JSON-RPC answer")
                };
                let text = std::str::from_utf8(&body).unwrap();
                assert!(text.contains(r#""id":7.0,"#), "{text}");
                let value: serde_json::Value = serde_json::from_str(text).unwrap();
                assert_eq!(value["error"]["code"], code);
                assert_eq!(value["error"]["data"]["mayHaveRun"], may_have_run);
            }
        }
    }

    #[test]
    fn a_batch_is_answered_under_each_of_its_ids() {
        let asked = Asked::Batch(vec!["1".into(), "\"b\"".into()]);
        let Reply::Rpc(body) = reply(&asked, Why::NoNode, false) else { panic!("no answer") };
        let values: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        assert_eq!(values.len(), 2);
        assert_eq!((&values[0]["id"], &values[1]["id"]), (&json!(1), &json!("b")));
    }

    #[test]
    fn what_else_there_is_to_say() {
        for (asked, expected) in [
            (Asked::Opening, Reply::HangUp),
            (Asked::OneWay, Reply::HangUp),
            (Asked::Stream, Reply::EmptyStream),
            (Asked::Plain, Reply::Unavailable),
        ] {
            assert_eq!(reply(&asked, Why::NoNode, true), expected);
        }
        let refused = reply(&Asked::NoMessage("no".into()), Why::NoNode, false);
        assert!(matches!(refused, Reply::Refused(body) if body.starts_with(b"{")));
    }
}
