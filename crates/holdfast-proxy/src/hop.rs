//! What of a message's header fields belongs to one connection, and goes no further (RFC 9110, section 7.6.1).

use holdfast_mcp::headers::{is_hop_by_hop, name};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, HeaderValue};

/// Takes out of a server's answer what belongs to its connection and to its session.
pub(crate) fn strip_answer(headers: &mut HeaderMap) {
    strip(headers, |key| is_hop_by_hop(key) || *key == CONTENT_LENGTH || *key == name::SESSION_ID);
}

/// Removes what `doomed` names and what `Connection` does, in one pass over the keys.
pub(crate) fn strip(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) {
    let names_others = headers.get_all(CONNECTION).iter().any(|value| !is_plain(value));
    if names_others {
        strip_named_by_connection(headers);
    }
    // Few headers go with each message, so the list stays on the stack in all but odd cases.
    const FEW: usize = 8;
    loop {
        let mut names: [Option<HeaderName>; FEW] = [const { None }; FEW];
        let mut found = headers.keys().filter(|key| doomed(key)).cloned();
        names.iter_mut().zip(&mut found).for_each(|(slot, name)| *slot = Some(name));
        let more = found.next().is_some();
        drop(found);
        for name in names.into_iter().flatten() {
            headers.remove(name);
        }
        if !more {
            return;
        }
    }
}

/// Whether `Connection` names no other header.
fn is_plain(connection: &HeaderValue) -> bool {
    let value = connection.as_bytes();
    [&b"keep-alive"[..], b"close", b"upgrade"].iter().any(|known| value.eq_ignore_ascii_case(known))
}

fn strip_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn an_answer_keeps_all_but_what_belongs_to_its_connection() {
        let mut headers = map(&[
            ("content-type", "application/json"),
            ("connection", "x-secret, Keep-Alive"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("transfer-encoding", "chunked"),
            ("mcp-session-id", "theirs"),
            ("x-trace", "kept"),
        ]);
        strip_answer(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "x-trace"]);
    }

    #[test]
    fn a_second_connection_header_counts_too() {
        let mut headers = map(&[("connection", "keep-alive"), ("x-hop", "1"), ("x-kept", "1")]);
        headers.append(CONNECTION, HeaderValue::from_static("X-Hop"));
        strip_answer(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-kept"));
    }

    #[test]
    fn more_than_a_handful_go_as_well() {
        let names = [
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "content-length",
            "mcp-session-id",
        ];
        let mut headers: HeaderMap = names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")))
            .collect();
        strip_answer(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }
}
