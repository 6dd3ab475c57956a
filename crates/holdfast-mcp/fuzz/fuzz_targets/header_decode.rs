//! Header values, and the rule that headers and body agree.

#![no_main]

use holdfast_mcp::{
    headers::{check_modern, decode_value, encode_value, name},
    peek,
    version::classify,
};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check_value(data);

    // Lines are header values, the last part is the body.
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let (Some(version), Some(method), Some(target), Some(body)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let mut headers = HeaderMap::new();
    for (name, value) in
        [(name::PROTOCOL_VERSION, version), (name::METHOD, method), (name::NAME, target)]
    {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let Ok(peek) = peek(body) else { return };
    let _ = classify(std::str::from_utf8(version).ok(), &peek);
    match check_modern(&headers, &peek) {
        Ok(()) if peek.kind == holdfast_mcp::Kind::Request => {
            let value = |name| decode_value(headers.get(name)?.as_bytes()).ok();
            assert_eq!(
                headers[name::METHOD].as_bytes().trim_ascii(),
                peek.method.trim().as_bytes()
            );
            if let Some(claimed) = &peek.params.claimed_version {
                assert_eq!(
                    headers[name::PROTOCOL_VERSION].as_bytes().trim_ascii(),
                    claimed.trim().as_bytes()
                );
            }
            let target = match &*peek.method {
                "tools/call" | "prompts/get" => &peek.params.name,
                "resources/read" => &peek.params.uri,
                "tasks/get" | "tasks/update" | "tasks/cancel" => &peek.params.task_id,
                _ => return,
            };
            assert_eq!(value(name::NAME).as_deref(), target.as_deref());
        }
        Ok(()) => {}
        Err(error) => {
            // The text goes into a JSON-RPC error.
            assert!(error.to_string().starts_with("Header mismatch: "));
            assert_eq!(error.code(), -32020);
        }
    }
});

fn check_value(data: &[u8]) {
    if let Ok(text) = decode_value(data) {
        assert_eq!(decode_value(encode_value(&text).as_bytes()).as_deref(), Ok(&*text));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let value = encode_value(text);
        assert!(HeaderValue::from_str(&value).is_ok());
        assert_eq!(decode_value(value.as_bytes()).as_deref(), Ok(text));
    }
}
