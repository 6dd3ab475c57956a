//! Whether a message is the answer to this very call.
//!
//! An answer under another id leaves its client waiting, and may be somebody else's: a server that
//! sends two responses to one request on a kept-alive connection would shift every later answer by
//! one. So a result counts only under the call's own id.

use bytes::Bytes;
use holdfast_mcp::batch::is_batch;
use holdfast_mcp::peek::{Kind, Peek, peek};
use holdfast_mcp::splice::splice;

use super::Ids;

/// The body as the answer to a request that was answered with success. An error without a usable id
/// (null or none) gets the call's; `None`: it is no answer to this call.
pub(super) fn answer(body: &Bytes, ids: &Ids) -> Option<Bytes> {
    match ids {
        Ids::One(id) if is_plainly_addressed(body, id) => return Some(body.clone()),
        Ids::One(_) => {}
        Ids::None | Ids::Batch(_) => return Some(body.clone()),
    }
    let message = response(body)?;
    let Ids::One(id) = ids else { return None };
    match message.id {
        Some(own) if own.as_str() == &**id => Some(body.clone()),
        Some(own) if !own.is_null() => None,
        _ => readdressed(body, &message, id),
    }
}

/// The body as a message on a stream, where its id is all that tells whose it is. On a refusal some
/// servers put an id of their own; that, too, becomes the call's. `None`: it is no answer.
pub(super) fn refusal(body: &Bytes, ids: &Ids) -> Option<Bytes> {
    if is_batch(body) {
        return Some(body.clone());
    }
    let message = response(body)?;
    let Ids::One(id) = ids else { return Some(body.clone()) };
    match message.id {
        Some(own) if own.as_str() == &**id => Some(body.clone()),
        _ => readdressed(body, &message, id),
    }
}

fn response(body: &[u8]) -> Option<Peek<'_>> {
    peek(body).ok().filter(|message| message.kind == Kind::Response)
}

/// An error under the call's id. A result under another id is not this call's.
fn readdressed(body: &Bytes, message: &Peek<'_>, id: &str) -> Option<Bytes> {
    if !message.is_error {
        return None;
    }
    if let Some(own) = message.id {
        return Some(splice(body, &[(own.range_in(body), id.as_bytes())]));
    }
    let brace = body.iter().position(|byte| *byte == b'{')? + 1;
    let field = format!("\"id\":{id},");
    Some(splice(body, &[(brace..brace, field.as_bytes())]))
}

/// Whether the id stands where nearly all servers write it: after the version at the front, or as the
/// last member. Looking there costs nothing beside a parse, and cannot be wrong about what it finds.
fn is_plainly_addressed(body: &[u8], id: &str) -> bool {
    const FRONT: &[u8] = br#"{"jsonrpc":"2.0","id":"#;
    const BACK: &[u8] = br#","jsonrpc":"2.0","id":"#;
    let starts =
        |text: &[u8], member: &str| text.get(1..).is_some_and(|t| t.starts_with(member.as_bytes()));
    let outcome = |text: &[u8]| starts(text, "\"result\":") || starts(text, "\"error\":");
    let id = id.as_bytes();
    if let Some(rest) = body.strip_prefix(FRONT) {
        return rest.strip_prefix(id).is_some_and(|rest| rest.starts_with(b",") && outcome(rest));
    }
    let ends = body
        .trim_ascii_end()
        .strip_suffix(b"}")
        .and_then(|rest| rest.strip_suffix(id))
        .is_some_and(|rest| rest.ends_with(BACK));
    ends && body.starts_with(b"{") && outcome(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Ids {
        Ids::One("7".into())
    }

    fn bytes(body: &'static str) -> Bytes {
        Bytes::from_static(body.as_bytes())
    }

    #[test]
    fn an_answer_passes_wherever_its_id_stands() {
        for body in [
            r#"{"jsonrpc":"2.0","id":7,"result":{"id":8}}"#,
            "{\"result\":{\"n\":1.0},\"jsonrpc\":\"2.0\",\"id\":7}\n",
            r#"{ "id" : 7, "jsonrpc": "2.0", "error": {"code": 1, "message": "m"} }"#,
        ] {
            assert_eq!(answer(&bytes(body), &ids()).unwrap(), body);
            assert_eq!(refusal(&bytes(body), &ids()).unwrap(), body);
        }
    }

    #[test]
    fn an_error_without_a_usable_id_gets_the_calls() {
        for (body, expected) in [
            (
                r#"{"id":null,"jsonrpc":"2.0","error":{"code":-32600,"message":"m"}}"#,
                r#"{"id":7,"jsonrpc":"2.0","error":{"code":-32600,"message":"m"}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"m"}}"#,
                r#"{"id":7,"jsonrpc":"2.0","error":{"code":-32600,"message":"m"}}"#,
            ),
        ] {
            assert_eq!(answer(&bytes(body), &ids()).unwrap(), expected);
            assert_eq!(refusal(&bytes(body), &ids()).unwrap(), expected);
        }
        let own = r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"m"}}"#;
        let ours = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32600,"message":"m"}}"#;
        assert_eq!(refusal(&bytes(own), &ids()).unwrap(), ours);
    }

    #[test]
    fn what_is_somebody_elses_or_nothing_is_none() {
        for body in [
            r#"{"jsonrpc":"2.0","id":8,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":77,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":8,"error":{"code":1,"message":"m"}}"#,
            r#"{"result":{"jsonrpc":"2.0","id":7},"jsonrpc":"2.0","id":8}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
            r#"{"a":1}"#,
            r#"{"jso"#,
            "<html>",
            "",
        ] {
            assert_eq!(answer(&bytes(body), &ids()), None, "{body}");
        }
    }
}
