//! What the gateway adds to an answer of a server: a member of the result's `_meta`, spliced in where
//! it belongs. Every other byte stays as it came.

use bytes::Bytes;
use holdfast_mcp::splice::splice;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Says that the client's session went to another instance, and that what the first one kept in memory
/// did not go along.
pub(crate) const SESSION: &str = "io.holdfast/session";

/// Says that the answer is not the server's own of this moment.
pub(crate) const FALLBACK: &str = "io.holdfast/fallback";

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

/// The answer with `"key": value` in its result's `_meta`; an error, or what is no answer, as it is.
/// `value` is JSON text.
pub(crate) fn mark(answer: &Bytes, key: &str, value: &str) -> Bytes {
    let Some((at, text)) = place(answer, key, value) else { return answer.clone() };
    splice(answer, &[(at..at, text.as_bytes())])
}

/// Whether [`mark`] has a place for something in this answer.
pub(crate) fn takes(answer: &[u8]) -> bool {
    place(answer, "", "").is_some()
}

fn place(answer: &[u8], key: &str, value: &str) -> Option<(usize, String)> {
    // A batch would be read as the members of one message.
    if holdfast_mcp::batch::is_batch(answer) {
        return None;
    }
    let message: Message<'_> = serde_json::from_slice(answer).ok()?;
    let result = message.result?.get();
    let outcome: Outcome<'_> = serde_json::from_str(result).ok()?;
    let (object, open, close) = match outcome.meta {
        Some(meta) => (meta.get(), "", ""),
        None => (result, "\"_meta\":{", "}"),
    };
    let inside = object.strip_prefix('{')?;
    let comma = if inside.trim_start().starts_with('}') { "" } else { "," };
    let at = inside.as_ptr().addr().checked_sub(answer.as_ptr().addr())?;
    Some((at, format!("{open}\"{key}\":{value}{close}{comma}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_mark_goes_into_the_meta_that_there_is_or_makes_one() {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result": { "content" : [ ] }}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{}, "content":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"_meta": {"a": 1.0}}}"#,
        ] {
            let marked = mark(&Bytes::from_static(body.as_bytes()), SESSION, r#"{"moved":true}"#);
            let value: Value = serde_json::from_slice(&marked).unwrap();
            assert_eq!(value["result"]["_meta"][SESSION], json!({ "moved": true }), "{body}");
            // Nothing else is another byte.
            let mut without = value;
            without["result"]["_meta"].as_object_mut().unwrap().remove(SESSION);
            let mut before: Value = serde_json::from_str(body).unwrap();
            if before["result"].get("_meta").is_none() {
                before["result"]["_meta"] = json!({});
            }
            assert_eq!(without, before);
        }
    }

    #[test]
    fn what_is_no_result_stays_as_it_is() {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":7}}"#,
            r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#,
            "nothing",
        ] {
            let body = Bytes::from_static(body.as_bytes());
            assert_eq!(mark(&body, SESSION, "true"), body);
        }
    }
}
