//! Headers on the way in and out: checks, hop-by-hop, and what an edge adds.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

/// Bytes of the header section, as nodes count them; theirs is the same.
const HEADER_BYTES: usize = 32 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers that are between two neighbours only.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Checks what hyper lets through and a next hop could read differently.
///
/// # Errors
/// Status and reason.
pub(crate) fn check(parts: &Parts) -> Result<(), (StatusCode, &'static str)> {
    let headers = &parts.headers;
    let bad = |why| Err((StatusCode::BAD_REQUEST, why));
    let mut hosts = headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    // HTTP/1.0 is held to it too: the node behind has to be given one.
    let (Some(host), None) = (host, second) else {
        return bad("a request needs exactly one Host header");
    };
    if let Some(authority) = parts.uri.authority()
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return bad("the request line names another authority than the Host header");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if headers.contains_key(CONTENT_LENGTH) || parts.version < Version::HTTP_11 {
            return bad(AMBIGUOUS);
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return bad("the only transfer coding taken is exactly: chunked");
        }
    }
    let size: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > HEADER_BYTES {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err((status, "the headers are over the limit of 32 KiB"));
    }
    Ok(())
}

/// Why a request with both framings is refused.
pub(crate) const AMBIGUOUS: &str = "Transfer-Encoding beside Content-Length is ambiguous";

/// Removes what is between two neighbours only, and what `Connection` names as such.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(named) = headers.get(CONNECTION) {
        // Almost always `keep-alive` or `close` and once.
        let plain = [&b"keep-alive"[..], b"close"]
            .iter()
            .any(|word| named.as_bytes().eq_ignore_ascii_case(word));
        if !plain || headers.get_all(CONNECTION).iter().nth(1).is_some() {
            let named: Vec<HeaderName> = headers
                .get_all(CONNECTION)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .filter_map(|name| name.trim().parse().ok())
                .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
                .collect();
            for name in named {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether the client wants to go on as a WebSocket.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).map(HeaderValue::as_bytes);
    upgrade.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket")) && names_upgrade(headers)
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Turns a client's headers into those that every node gets, whichever and how often.
pub(crate) fn for_nodes(headers: &mut HeaderMap, client: IpAddr) {
    let websocket = wants_websocket(headers);
    strip_hop_by_hop(headers);
    // The body is framed anew from what was read, and has been asked for already.
    headers.remove(CONTENT_LENGTH);
    headers.remove(EXPECT);
    if websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    headers.insert(REQUEST_ID, request_id());
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let mut chain = before.collect::<Vec<_>>().join(", ");
    if !chain.is_empty() {
        chain.push_str(", ");
    }
    let _ = write!(chain, "{client}");
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    // Only a neighbour on this machine, such as what ends TLS, is believed to know better.
    if !client.is_loopback() || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

/// Whether the client would take an event stream.
pub(crate) fn wants_stream(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.to_ascii_lowercase().contains("text/event-stream"))
}

/// Whether this is an event stream.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
        value[..end].trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// Bytes of an id.
const ID: usize = 16;

thread_local! {
    /// Random bytes for the next ids: asking the system once for many is cheaper.
    static RANDOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A fresh id of 128 random bits, in hexadecimal.
fn request_id() -> HeaderValue {
    RANDOM.with_borrow_mut(|random| {
        if random.len() < ID {
            random.resize(ID * 64, 0);
            if let Err(error) = getrandom::fill(random) {
                // An id that repeats would give one call another one's answer.
                panic!("the operating system has no randomness: {error}");
            }
        }
        let mut text = String::with_capacity(ID * 2);
        for byte in random.split_off(random.len() - ID) {
            let _ = write!(text, "{byte:02x}");
        }
        HeaderValue::from_str(&text).unwrap_or_else(|_| unreachable!("hexadecimal"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        parts("/mcp", pairs).headers
    }

    fn parts(uri: &str, pairs: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        let chunked = ("transfer-encoding", "chunked");
        let host = ("host", "a:1");
        assert_eq!(check(&parts("/mcp", &[host, chunked])), Ok(()));
        assert_eq!(check(&parts("http://A:1/mcp", &[host])), Ok(()));
        for (uri, pairs) in [
            ("/mcp", &[][..]),
            ("/mcp", &[host, ("host", "a:1")]),
            ("http://b/mcp", &[host]),
            ("/mcp", &[host, chunked, ("content-length", "3")]),
            ("/mcp", &[host, chunked, chunked]),
            ("/mcp", &[host, ("transfer-encoding", "gzip, chunked")]),
        ] {
            let refused = check(&parts(uri, pairs));
            assert_eq!(refused.unwrap_err().0, StatusCode::BAD_REQUEST, "{uri} {pairs:?}");
        }
        let long = "x".repeat(HEADER_BYTES);
        let refused = check(&parts("/mcp", &[host, ("x", &long)]));
        assert_eq!(refused.unwrap_err().0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }

    #[test]
    fn what_is_between_neighbours_stays_there() {
        let mut all = headers(&[
            ("host", "a"),
            ("connection", "keep-alive, X-Mine, host"),
            ("connection", "x-other"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("mcp-session-id", "s"),
        ]);
        strip_hop_by_hop(&mut all);
        let left: Vec<&str> = all.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "mcp-session-id"]);
    }

    #[test]
    fn the_edge_names_the_client_and_the_request() {
        let client: IpAddr = "10.0.0.9".parse().unwrap();
        let mut all = headers(&[
            ("host", "mcp.example.com"),
            ("x-request-id", "chosen-by-the-client"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "https"),
            ("content-length", "5"),
            ("expect", "100-continue"),
        ]);
        for_nodes(&mut all, client);
        assert_eq!(all["host"], "mcp.example.com");
        assert_eq!(all["x-forwarded-for"], "1.2.3.4, 5.6.7.8, 10.0.0.9");
        assert_eq!(all["x-forwarded-proto"], "http");
        assert!(!all.contains_key("content-length") && !all.contains_key("expect"));
        let ids: Vec<_> = all.get_all("x-request-id").iter().collect();
        assert!(ids.len() == 1 && ids[0].len() == 32 && ids[0] != "chosen-by-the-client");

        let mut other = headers(&[("host", "a"), ("x-forwarded-proto", "https")]);
        for_nodes(&mut other, "127.0.0.1".parse().unwrap());
        assert_eq!(other["x-forwarded-proto"], "https");
        assert_ne!(other["x-request-id"], all["x-request-id"]);
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let wanted = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(wants_websocket(&wanted));
        let mut wanted = wanted;
        for_nodes(&mut wanted, "10.0.0.9".parse().unwrap());
        assert_eq!(
            (&wanted["connection"], &wanted["upgrade"]),
            (&HeaderValue::from_static("upgrade"), &HeaderValue::from_static("websocket"),)
        );
        for other in
            [&[("upgrade", "websocket")][..], &[("connection", "upgrade"), ("upgrade", "h2c")]]
        {
            assert!(!wants_websocket(&headers(other)), "{other:?}");
        }
    }

    #[test]
    fn streams_are_known_by_their_media_type() {
        assert!(is_stream(&headers(&[("content-type", "text/event-stream; charset=utf-8")])));
        assert!(!is_stream(&headers(&[("content-type", "application/json")])));
        assert!(wants_stream(&headers(&[("accept", "application/json, Text/Event-Stream")])));
        assert!(!wants_stream(&headers(&[("accept", "*/*")])));
    }

    #[test]
    fn ids_do_not_repeat() {
        let ids: std::collections::HashSet<_> =
            (0..1000).map(|_| request_id().as_bytes().to_vec()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
