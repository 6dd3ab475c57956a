//! The specification's examples, a table of agreement, and the encoding's properties.

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::peek::peek;

#[test]
fn values_are_encoded_as_the_specification_shows() {
    let table = [
        ("us-west1", "us-west1"),
        ("Hello, \u{4e16}\u{754c}", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("", ""),
        ("a b", "a b"),
        ("a\tb", "=?base64?YQli?="),
        ("=?base64?a", "=?base64?a"),
        ("a?=", "a?="),
    ];
    for (text, value) in table {
        assert_eq!(encode_value(text), value);
        assert_eq!(decode_value(value.as_bytes()).unwrap(), text);
    }
}

#[test]
fn plain_values_are_trimmed_and_borrowed() {
    assert!(matches!(decode_value(b" \t foo bar\t "), Ok(Cow::Borrowed("foo bar"))));
    assert!(matches!(decode_value(b"a\tb"), Ok(Cow::Borrowed("a\tb"))));
    assert_eq!(decode_value(b" =?base64?YQ==?= ").unwrap(), "a");
    // What is not exactly a sentinel is plain text.
    for plain in ["=?BASE64?YQ==?=", "=?base64?YQ==", "x=?base64?YQ==?=", "=?base64?=", "?="] {
        assert_eq!(decode_value(plain.as_bytes()).unwrap(), plain);
    }
}

#[test]
fn ill_encoded_values_are_refused() {
    for raw in [&b"caf\xc3\xa9"[..], b"a\x00b", b"a\x7f", b"a\nb", b"\x0ca"] {
        assert_eq!(decode_value(raw), Err(HeaderError::BadCharacter), "{raw:?}");
    }
    // No padding, white space, URL alphabet, stray bits, not UTF-8, not base64.
    for inner in ["YQ", "YQ= =", "PT9_", "YR==", "/w==", "%%%%", "YQ==YQ=="] {
        let raw = format!("=?base64?{inner}?=");
        assert_eq!(decode_value(raw.as_bytes()), Err(HeaderError::BadBase64), "{raw}");
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn check(body: &str, pairs: &[(&'static str, &str)]) -> Result<(), String> {
    let (peek, headers) = (peek(body.as_bytes()).unwrap(), headers(pairs));
    let checked = check_modern(&headers, &peek);
    // What is kept of headers says the same of every message.
    let kept = Claims::of(&headers).into_owned();
    drop(headers);
    assert_eq!([kept.check(&peek), kept.check(&peek)], [checked.clone(), checked.clone()]);
    checked.map_err(|error| {
        assert_eq!(error.code(), -32020);
        error.to_string()
    })
}

fn request(method: &str, member: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{member}"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
    )
}

const V: (&str, &str) = ("mcp-protocol-version", "2026-07-28");

#[test]
fn agreeing_requests_pass() {
    let cases = [
        ("tools/list", "", None),
        ("tools/list", "", Some("whatever")),
        ("vendor/thing", r#""name":"n","#, None),
        ("tools/call", r#""name":"add","#, Some("add")),
        ("tools/call", r#""name":"add","#, Some("  add ")),
        ("tools/call", r#""name":"caf\u00e9","#, Some("=?base64?Y2Fmw6k=?=")),
        ("tools/call", r#""name":"add","#, Some("=?base64?YWRk?=")),
        ("prompts/get", r#""name":"p","uri":"u","#, Some("p")),
        ("resources/read", r#""name":"p","uri":"file:///a","#, Some("file:///a")),
        ("tasks/get", r#""taskId":"t","#, Some("t")),
        ("tasks/update", r#""taskId":"t","#, Some("t")),
        ("tasks/cancel", r#""taskId":"t","#, Some("t")),
        // Neither has it: the server says what is missing.
        ("tools/call", "", None),
    ];
    for (method, member, name) in cases {
        let mut pairs = vec![V, ("mcp-method", method)];
        pairs.extend(name.map(|name| ("mcp-name", name)));
        assert_eq!(check(&request(method, member), &pairs), Ok(()), "{method} {member}");
    }
}

#[test]
fn disagreeing_requests_are_refused_with_the_specifications_words() {
    let body = request("tools/call", r#""name":"bar","#);
    let (m, n) = (("mcp-method", "tools/call"), ("mcp-name", "bar"));
    let cases: &[(&[(&'static str, &str)], &str)] = &[
        (&[m, n], "Header mismatch: MCP-Protocol-Version header is required"),
        (&[V, n], "Header mismatch: Mcp-Method header is required"),
        (&[V, m], "Header mismatch: Mcp-Name header is required"),
        (
            &[V, m, ("mcp-name", "foo")],
            "Header mismatch: Mcp-Name header value 'foo' does not match body value 'bar'",
        ),
        (
            &[V, ("mcp-method", "TOOLS/CALL"), n],
            "Header mismatch: Mcp-Method header value 'TOOLS/CALL' does not match body value 'tools/call'",
        ),
        (
            &[("mcp-protocol-version", "2025-11-25"), m, n],
            "Header mismatch: MCP-Protocol-Version header value '2025-11-25' does not match body value '2026-07-28'",
        ),
        (&[V, V, m, n], "Header mismatch: MCP-Protocol-Version header must be sent once"),
        (&[V, m, m, n], "Header mismatch: Mcp-Method header must be sent once"),
        (&[V, m, n, n], "Header mismatch: Mcp-Name header must be sent once"),
        (
            &[V, m, ("mcp-name", "=?base64?YmFy")],
            "Header mismatch: Mcp-Name header value '=?base64?YmFy' does not match body value 'bar'",
        ),
        (
            &[V, m, ("mcp-name", "=?base64?Y?=")],
            "Header mismatch: Mcp-Name: the header value is not valid base64 of UTF-8 text",
        ),
        // Only Mcp-Name and Mcp-Param-* may be encoded.
        (
            &[V, ("mcp-method", "=?base64?dG9vbHMvY2FsbA==?="), n],
            "Header mismatch: Mcp-Method header value '=?base64?dG9vbHMvY2FsbA==?=' does not match body value 'tools/call'",
        ),
    ];
    for (pairs, message) in cases {
        assert_eq!(check(&body, pairs), Err((*message).to_owned()), "{pairs:?}");
    }
    assert_eq!(
        check(&request("tools/call", r#""name":7,"#), &[V, m, n]),
        Err("Header mismatch: Mcp-Name header value 'bar' has no counterpart in the body".into())
    );
    for (method, member) in [("resources/read", r#""uri":"u","#), ("tasks/get", r#""taskId":"t","#)]
    {
        let wrong = [V, ("mcp-method", method), ("mcp-name", "x")];
        assert!(check(&request(method, member), &wrong).is_err(), "{method}");
        assert!(check(&request(method, member), &wrong[..2]).is_err(), "{method}");
    }
    for bad in ["caf\u{e9}", "a\tb"] {
        let pairs = [V, ("mcp-method", bad), n];
        let message = "Header mismatch: Mcp-Method: the header value has characters other than printable ASCII";
        assert_eq!(check(&body, &pairs), Err(message.to_owned()));
    }
}

#[test]
fn without_a_claim_the_server_has_the_say_about_the_version_only() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bar"}}"#;
    let (m, n) = (("mcp-method", "tools/call"), ("mcp-name", "bar"));
    assert_eq!(check(body, &[V, m, n]), Ok(()));
    assert!(check(body, &[V, m, ("mcp-name", "foo")]).is_err());
    assert!(check(body, &[V, ("mcp-method", "tools/list"), n]).is_err());
}

#[test]
fn messages_that_need_no_headers_must_not_lie() {
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    assert_eq!(check(notification, &[]), Ok(()));
    assert_eq!(check(notification, &[V, ("mcp-method", "notifications/x")]), Ok(()));
    assert!(check(notification, &[("mcp-method", "tools/call")]).is_err());
    assert!(check(notification, &[("mcp-protocol-version", "2099-01-01")]).is_err());
    let call = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#;
    assert_eq!(check(call, &[]), Ok(()));
    assert!(check(call, &[("mcp-name", "b")]).is_err());
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(check(response, &[V]), Ok(()));
    assert!(check(response, &[V, V]).is_err());
}

#[test]
fn headers_of_one_connection_are_known() {
    for name in ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"] {
        assert!(is_hop_by_hop(&HeaderName::from_static(name)), "{name}");
    }
    for name in ["content-length", "content-type", "mcp-name", "authorization", "traceparent"] {
        assert!(!is_hop_by_hop(&HeaderName::from_static(name)), "{name}");
    }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(text in prop_oneof!["\\PC{0,20}", "[ \t\n=?a]{0,9}", "=\\?base64\\?.{0,9}\\?="]) {
        let value = encode_value(&text);
        prop_assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        prop_assert!(HeaderValue::from_str(&value).is_ok());
        prop_assert_eq!(decode_value(value.as_bytes()).unwrap(), &*text);
    }

    #[test]
    fn what_decodes_is_text_that_encodes_to_the_same_text(raw in prop::collection::vec(any::<u8>(), 0..24)) {
        if let Ok(text) = decode_value(&raw) {
            let again = encode_value(&text);
            prop_assert_eq!(decode_value(again.as_bytes()).unwrap(), text.clone());
        }
    }
}
