//! What the gateway answers to a server itself: where it is the client, or where its client does not listen.
//!
//! A server may ask whether the other side is still there, and end the session if it hears nothing. The other side of
//! its connection is the gateway. What a server asks beyond that is a client's to answer, and where there is none,
//! nobody's.

use bytes::Bytes;
use holdfast_mcp::peek::{Kind, Outline, outline};
use holdfast_mcp::rpc_error::{ErrorId, RpcError, code};

/// The answer to a `ping`; none to anything else.
pub(crate) fn pong(message: &[u8]) -> Option<Bytes> {
    let request = outline(message).ok().filter(is_ping)?;
    Some(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id?.as_str()).into())
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
