//! JSON-RPC errors that the gateway itself answers with.
//!
//! A request is never left without an answer that carries its id, and a failure of the gateway's own
//! is a JSON-RPC error in a `200`: one `502` on one call makes some clients drop every call they
//! have open. The gateway's codes lie outside -32768..-32000, which JSON-RPC and MCP reserve.
//!
//! | code | name | who |
//! |---|---|---|
//! | -32700 | parse error | JSON-RPC |
//! | -32600 | invalid request | JSON-RPC |
//! | -32601 | method not found | JSON-RPC |
//! | -32602 | invalid params | JSON-RPC |
//! | -32603 | internal error | JSON-RPC |
//! | -32020 | header mismatch | MCP 2026-07-28 |
//! | -32021 | missing client capability | MCP 2026-07-28 |
//! | -32022 | unsupported protocol version | MCP 2026-07-28 |
//! | -31001 | server unavailable | Holdfast |
//! | -31002 | outcome unknown: the call may have run | Holdfast |
//! | -31003 | overloaded | Holdfast |
//! | -31004 | a dependency or the store is unavailable | Holdfast |
//! | -31005 | timed out | Holdfast |
//!
//! Spec: JSON-RPC 2.0 section 5.1; 2026-07-28 Base Protocol, "Error Codes".

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

/// The codes; the table above says whose they are.
pub mod code {
    pub const PARSE: i64 = -32700;
    pub const INVALID_REQUEST: i64 = -32600;
    pub const METHOD_NOT_FOUND: i64 = -32601;
    pub const INVALID_PARAMS: i64 = -32602;
    pub const INTERNAL: i64 = -32603;
    pub const HEADER_MISMATCH: i64 = -32020;
    pub const MISSING_CAPABILITY: i64 = -32021;
    pub const UNSUPPORTED_VERSION: i64 = -32022;
    pub const SERVER_UNAVAILABLE: i64 = -31001;
    pub const OUTCOME_UNKNOWN: i64 = -31002;
    pub const OVERLOADED: i64 = -31003;
    pub const DEPENDENCY_UNAVAILABLE: i64 = -31004;
    pub const TIMED_OUT: i64 = -31005;
}

/// An error to answer with.
#[derive(Clone, PartialEq, Debug)]
pub struct RpcError {
    /// One of [`code`].
    pub code: i64,
    /// One sentence for the person who reads the client's log.
    pub message: String,
    /// What a program may act on.
    pub data: Option<Value>,
}

/// The id of the message that is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorId<'a> {
    /// The request's own, as JSON text from [`crate::Raw::as_str`].
    Raw(&'a str),
    /// The id could not be read: `"id":null`, which the legacy schemas ask for.
    Null,
    /// The id could not be read: no member, which the 2026-07-28 schema asks for.
    Absent,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same error with data.
    #[must_use]
    pub fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }

    /// The whole message. `ErrorId::Raw` goes in as it is.
    #[must_use]
    pub fn render(&self, id: ErrorId<'_>) -> Bytes {
        let mut out = BytesMut::with_capacity(96 + self.message.len());
        out.put_slice(b"{\"jsonrpc\":\"2.0\",");
        match id {
            ErrorId::Raw(raw) => {
                out.put_slice(b"\"id\":");
                out.put_slice(raw.as_bytes());
                out.put_slice(b",");
            }
            ErrorId::Null => out.put_slice(b"\"id\":null,"),
            ErrorId::Absent => {}
        }
        out.put_slice(b"\"error\":{\"code\":");
        out.put_slice(self.code.to_string().as_bytes());
        out.put_slice(b",\"message\":");
        out.put_slice(Value::from(self.message.as_str()).to_string().as_bytes());
        if let Some(data) = &self.data {
            out.put_slice(b",\"data\":");
            out.put_slice(data.to_string().as_bytes());
        }
        out.put_slice(b"}}");
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_carries_the_id_as_it_was_written() {
        let error = RpcError::new(code::OUTCOME_UNKNOWN, "line\n\"quoted\" \u{e9}")
            .with_data(json!({"server": "files", "mayHaveRun": true}));
        for id in ["1", "1.0", "\"a\\u0041\"", "123456789012345678901234567890"] {
            let text = error.render(ErrorId::Raw(id));
            let peek = crate::peek(&text).unwrap();
            assert_eq!(peek.id.unwrap().as_str(), id);
            assert_eq!(peek.error_code, Some(-31002));
            assert_eq!(peek.error_message.as_deref(), Some("line\n\"quoted\" \u{e9}"));
            assert!(!text.contains(&b'\n'), "one line, so that it is one SSE data line");
            let value: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(value["error"]["data"]["mayHaveRun"], true);
        }
    }

    #[test]
    fn an_unread_id_is_null_or_absent() {
        let error = RpcError::new(code::PARSE, "no");
        assert_eq!(
            &error.render(ErrorId::Null)[..],
            br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#
        );
        assert_eq!(
            &error.render(ErrorId::Absent)[..],
            br#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"no"}}"#
        );
    }

    #[test]
    fn the_codes_are_those_of_the_table_above() {
        use code::*;
        let specified = [
            (PARSE, -32700),
            (INVALID_REQUEST, -32600),
            (METHOD_NOT_FOUND, -32601),
            (INVALID_PARAMS, -32602),
            (INTERNAL, -32603),
            (HEADER_MISMATCH, -32020),
            (MISSING_CAPABILITY, -32021),
            (UNSUPPORTED_VERSION, -32022),
            (SERVER_UNAVAILABLE, -31001),
            (OUTCOME_UNKNOWN, -31002),
            (OVERLOADED, -31003),
            (DEPENDENCY_UNAVAILABLE, -31004),
            (TIMED_OUT, -31005),
        ];
        let rows = include_str!("rpc_error.rs").lines().filter_map(|line| {
            line.strip_prefix("//! | -")?.split(' ').next()?.parse::<i64>().ok()
        });
        assert!(rows.map(|code| -code).eq(specified.map(|(_, code)| code)), "the documented table");
        for (code, expected) in specified {
            assert_eq!(code, expected);
        }
    }

    #[test]
    fn own_codes_lie_outside_the_reserved_range() {
        use code::*;
        for own in
            [SERVER_UNAVAILABLE, OUTCOME_UNKNOWN, OVERLOADED, DEPENDENCY_UNAVAILABLE, TIMED_OUT]
        {
            assert!(!(-32768..=-32000).contains(&own), "{own}");
        }
    }
}
