//! What the gateway answers to a server itself: where it is the client, or where its client does not listen.
//!
//! A server may ask whether the other side is still there, and end the session if it hears nothing. The other side of
//! its connection is the gateway. What a server asks beyond that is a client's to answer, and where there is none,
//! nobody's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::headers::name;
use holdfast_mcp::peek::{Kind, Outline, outline};
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};

use super::{headers, request_http};
use crate::gateway::Gateway;
use crate::session::{Bound, Session};
use crate::streams::StreamLog;
use crate::upstream::http::{Collected, Fields, Outgoing};

/// The answer to a `ping`; none to anything else.
pub(crate) fn pong(message: &[u8]) -> Option<Bytes> {
    let request = outline(message).ok().filter(is_ping)?;
    Some(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id?.as_str()).into())
}

/// The same, where nobody reads the stream that it came on: a server that asks whether the other side is there ends the
/// session of a client that has no stream open, and may come back to it.
pub(crate) fn pong_for_nobody(log: &StreamLog, message: &[u8]) -> Option<Bytes> {
    if log.is_read() { None } else { pong(message) }
}

/// The answer to any request of a server whose client is the gateway, which can do nothing else.
pub(crate) fn reply(message: &[u8]) -> Option<Bytes> {
    let request = outline(message).ok().filter(|message| message.kind == Kind::Request)?;
    pong(message).or_else(|| {
        let text = "this client declared no capabilities, and answers ping alone";
        let error = RpcError::new(code::METHOD_NOT_FOUND, text);
        Some(error.render(ErrorId::Raw(request.id?.as_str())))
    })
}

/// Sends an answer of the gateway's own to an HTTP server. Nobody waits for it: where it does not arrive, the server
/// asks again. So it is left out where the server takes its time over too many others. `live`: the session's headers.
pub(crate) fn say(
    gateway: &Arc<Gateway>,
    session: &Session,
    bound: &Bound,
    live: &HeaderMap,
    body: Bytes,
) {
    let server = session.server();
    let Some(instance) = server.fleet.place(bound.mark) else { return };
    let Ok(room) = Arc::clone(&server.own_answers).try_acquire_owned() else {
        tracing::debug!(server = %server.name, "takes no answers of the gateway's, this one is left out");
        return;
    };
    let mut headers = headers::for_own_message(live);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(name::PROTOCOL_VERSION, HeaderValue::from_static(session.version.as_str()));
    let (gateway, session) = (Arc::clone(gateway), bound.server_session.clone());
    tokio::spawn(async move {
        let fields = Fields::Map(&headers);
        let outgoing = Outgoing { method: Method::POST, fields, session, body };
        let sent = async {
            let sent = request_http(&gateway, &server, true, instance, outgoing);
            let (response, _) = sent.await.ok()?;
            response.body.collect(LARGEST_REFUSAL).await.ok()
        };
        if let Ok(Some(Collected::Whole { lease, .. })) = tokio::time::timeout(WITHIN, sent).await {
            lease.done();
        }
        drop(room);
    });
}

/// How long a server may take over an answer.
const WITHIN: Duration = Duration::from_secs(60);

/// What it says to an answer that it does not take is not read any further, in bytes.
const LARGEST_REFUSAL: usize = 64 * 1024;

fn is_ping(message: &Outline<'_>) -> bool {
    message.kind == Kind::Request && message.method == "ping"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_answered_and_what_only_a_client_can_do_is_refused() {
        let ping = br#"{"jsonrpc":"2.0","id":"a\"1","method":"ping"}"#;
        let pong = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"a\"1","result":{}}"#);
        assert_eq!(super::pong(ping), Some(pong.clone()));
        assert_eq!(reply(ping), Some(pong));
        let roots = br#"{"jsonrpc":"2.0","id":3,"method":"roots/list"}"#;
        assert_eq!(super::pong(roots), None);
        let refused = reply(roots).expect("an answer");
        assert!(
            refused.starts_with(b"{\"jsonrpc\":\"2.0\",\"id\":3,\"error\":{\"code\":-32601,"),
            "{refused:?}"
        );
        for other in [
            &br#"{"jsonrpc":"2.0","id":3,"result":{}}"#[..],
            br#"{"jsonrpc":"2.0","method":"ping"}"#,
            b"no message",
        ] {
            assert_eq!(reply(other), None);
        }
    }
}
