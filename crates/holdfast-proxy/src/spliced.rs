//! Ids of server→client requests after a session was bound anew.
//!
//! Each server numbers its requests from its own start, so after a new binding the same id may come
//! again while the client's answer to the old one is still on its way. From the second binding on
//! the client sees `"hfGENERATION:ID"`, where ID is the server's id as JSON text. An answer whose
//! generation is not the present one is for a session that is gone, and is dropped.

use bytes::Bytes;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::splice::splice;

const PREFIX: &str = "hf";

/// The id (JSON text) under which the client sees a server's request of this generation.
pub(crate) fn client_id(id: &str, generation: u32) -> Box<str> {
    if generation <= 1 {
        return id.into();
    }
    serde_json::Value::String(format!("{PREFIX}{generation}:{id}")).to_string().into()
}

/// A server's request (or its cancellation of one) with the id that the client is to see.
pub(crate) fn for_client(body: Bytes, generation: u32) -> Bytes {
    if generation <= 1 {
        return body;
    }
    let Ok(message) = peek(&body) else { return body };
    let id = match message.kind {
        Kind::Request => message.id,
        Kind::Notification => message.params.request_id,
        Kind::Response => None,
    };
    let Some(id) = id else { return body };
    splice(&body, &[(id.range_in(&body), client_id(id.as_str(), generation).as_bytes())])
}

/// A client's answer with the id that the server of `generation` knows; `None` if it answers an
/// older one.
pub(crate) fn restore(body: &Bytes, generation: u32) -> Option<Bytes> {
    let message = peek(body).ok()?;
    let id = message.id?;
    let text = id.as_text();
    let spliced = text.as_deref().and_then(|text| {
        let (number, inner) = text.strip_prefix(PREFIX)?.split_once(':')?;
        Some((number.parse::<u32>().ok().filter(|number| *number > 1)?, inner))
    });
    match spliced {
        Some((number, inner)) if number == generation => {
            Some(splice(body, &[(id.range_in(body), inner.as_bytes())]))
        }
        None if generation <= 1 => Some(body.clone()),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str) -> Bytes {
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":1.0}}}}"#))
    }

    #[test]
    fn the_first_binding_changes_nothing() {
        let request = Bytes::from_static(br#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#);
        assert_eq!(for_client(request.clone(), 1), request);
        assert_eq!(restore(&answer("3"), 1), Some(answer("3")));
    }

    #[test]
    fn an_id_comes_back_as_it_went() {
        for id in ["0", "-17", "\"abc\"", r#""a\"b:c""#, r#""hf2:7""#] {
            let request = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
            let seen = for_client(request, 3);
            let seen = peek(&seen).unwrap().id.unwrap().as_str().to_owned();
            assert_eq!(restore(&answer(&seen), 3), Some(answer(id)), "{id}");
            assert_eq!(restore(&answer(&seen), 4), None, "an older generation is dropped");
            assert_eq!(restore(&answer(&seen), 2), None);
        }
    }

    #[test]
    fn a_plain_id_belongs_to_the_first_binding_only() {
        assert_eq!(restore(&answer("3"), 2), None);
        assert_eq!(restore(&answer("\"hfx:3\""), 2), None);
    }

    #[test]
    fn a_cancellation_names_the_id_that_the_client_knows() {
        let body = Bytes::from_static(
            br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}"#,
        );
        let seen = for_client(body, 2);
        assert_eq!(peek(&seen).unwrap().params.request_id.unwrap().as_str(), r#""hf2:3""#);
    }
}
