//! What changes in headers on the way through: as little as the hop requires.
//!
//! Upstream go the client's headers without what belongs to its own connection (hop-by-hop, `Host`,
//! `Origin`, encodings), without its credential for the gateway, and with the server's session id in
//! place of ours. Unknown headers, `Mcp-Param-*` and trace context pass.

use holdfast_mcp::headers::{is_hop_by_hop, name};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE,
    EXPECT, HOST, HeaderName, ORIGIN,
};
use http::{HeaderMap, HeaderValue};

use crate::server::Server;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Makes a client's headers fit for the server.
pub(crate) fn for_server(mut headers: HeaderMap, server: &Server) -> HeaderMap {
    strip_hop_by_hop(&mut headers);
    // Bodies are read on the way, so they must not be compressed.
    for name in [HOST, CONTENT_LENGTH, ORIGIN, ACCEPT_ENCODING, EXPECT, API_KEY] {
        headers.remove(name);
    }
    // A client's credential is for the gateway unless the configuration says that the gateway's URL
    // is the resource it is for.
    if !server.settings.forward_authorization {
        headers.remove(AUTHORIZATION);
    }
    headers.remove(name::SESSION_ID);
    headers.remove(name::LAST_EVENT_ID);
    for (name, value) in &server.headers {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

/// The subset of a live request's headers with which the gateway itself may speak for its session:
/// the credential and whatever else the client sends with everything, but nothing of that message.
pub(crate) fn for_own_message(live: &HeaderMap) -> HeaderMap {
    let mut headers = live.clone();
    headers.remove(name::METHOD);
    headers.remove(name::NAME);
    headers.remove(name::SESSION_ID);
    headers.remove(name::LAST_EVENT_ID);
    let params: Vec<_> = headers
        .keys()
        .filter(|key| key.as_str().starts_with(name::PARAM_PREFIX))
        .cloned()
        .collect();
    for key in params {
        headers.remove(key);
    }
    headers
}

/// Takes out of a server's answer what belongs to its connection and to its session.
pub(crate) fn strip_answer(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(name::SESSION_ID);
}

/// The headers of an event stream: nothing on the way may hold it back.
pub(crate) fn as_stream(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
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
    let own: Vec<HeaderName> = headers.keys().filter(|key| is_hop_by_hop(key)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}
