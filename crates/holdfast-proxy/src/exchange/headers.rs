//! What changes in headers on the way through: as little as the hop requires.
//!
//! Upstream go the client's headers without what belongs to its own connection (hop-by-hop, `Host`,
//! `Origin`, encodings), without its credential for the gateway, and with the server's session id in
//! place of ours. Unknown headers, `Mcp-Param-*` and trace context pass.

use std::ops::Deref;
use std::sync::Arc;

use holdfast_mcp::headers::{is_hop_by_hop, is_trace, name};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT,
    HOST, HeaderName, ORIGIN, USER_AGENT,
};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::hop::strip;
use crate::server::Server;
use crate::upstream::http::Fields;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A client's headers as its server gets them.
#[derive(Debug)]
pub(crate) struct ForServer {
    headers: HeaderMap,
    /// The same as they stand in a request, without what every request has of its own.
    written: Option<Box<[u8]>>,
}

impl ForServer {
    /// Of one request.
    pub(crate) fn once(headers: HeaderMap, server: &Server) -> Self {
        Self { headers: for_server(headers, server), written: None }
    }

    /// Of one request and of those that follow it with the same.
    pub(crate) fn kept(headers: &HeaderMap, server: &Server) -> Self {
        // Collected anew, it has no room for what was taken out.
        let fit = for_server(headers.clone(), server);
        let mut headers = HeaderMap::with_capacity(fit.len());
        fit.iter().for_each(|(name, value)| _ = headers.append(name, value.clone()));
        let written = (!server.is_duplex()).then(|| written(&headers, 0));
        Self { headers, written }
    }

    pub(super) fn map(&self) -> &HeaderMap {
        &self.headers
    }

    /// The same with other words in their places (`Kept::at`), those that go to the server.
    pub(crate) fn with(
        self: &Arc<Self>,
        words: &[(HeaderName, HeaderValue)],
        server: &Server,
    ) -> Arc<Self> {
        let goes = |(name, _): &&(HeaderName, HeaderValue)| {
            self.headers.contains_key(name)
                && !server.headers.iter().any(|(configured, _)| configured == name)
        };
        let mut words = words.iter().filter(goes).peekable();
        if words.peek().is_none() {
            return Arc::clone(self);
        }
        let mut headers = self.headers.clone();
        words.for_each(|(name, value)| _ = headers.insert(name.clone(), value.clone()));
        let written = self.written.as_ref().map(|old| written(&headers, old.len()));
        Arc::new(Self { headers, written })
    }

    /// What was meant for `first`, for another server: with what its own configuration adds, and without what
    /// that of the first did. Whose a credential was cannot be told any more, so none goes along.
    pub(super) fn for_other(&self, first: &Server, other: &Server) -> Self {
        let mut headers = self.headers.clone();
        for (name, _) in &first.headers {
            headers.remove(name);
        }
        headers.remove(AUTHORIZATION);
        Self::once(headers, other)
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        self.written.as_deref().map_or(Fields::Map(&self.headers), Fields::Written)
    }
}

/// Fields as a request has them, which come to about so many bytes.
fn written(headers: &HeaderMap, about: usize) -> Box<[u8]> {
    let mut out = Vec::with_capacity(about);
    Fields::Map(headers).write(false, &mut out);
    out.into_boxed_slice()
}

impl Deref for ForServer {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.headers
    }
}

/// Makes a client's headers fit for the server.
pub(crate) fn for_server(mut headers: HeaderMap, server: &Server) -> HeaderMap {
    // A client's credential is for the gateway unless the configuration says that the gateway's URL
    // is the resource it is for.
    let keeps_authorization = server.settings.forward_authorization;
    strip(&mut headers, |key| {
        is_hop_by_hop(key)
            // Bodies are read on the way, so they must not be compressed.
            || matches!(*key, HOST | CONTENT_LENGTH | ORIGIN | ACCEPT_ENCODING | EXPECT)
            || (*key == AUTHORIZATION && !keeps_authorization)
            || *key == API_KEY
            || *key == name::SESSION_ID
            || *key == name::LAST_EVENT_ID
    });
    for (name, value) in &server.headers {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

/// Whether a header that goes to the server says nothing of who asks: it is about the form of this message,
/// repeats what its body says, traces it, or names the program that sent it. Every other one may be what the
/// server knows its user by: a cookie, a token under a name of its own, a tenant, `baggage`, and, behind a
/// balancer, the address in `X-Forwarded-For` and its like. `Accept-Language` says what is answered, and
/// `MCP-Protocol-Version` in which form.
fn says_nothing_of_who(header: &HeaderName) -> bool {
    matches!(*header, ACCEPT | ACCEPT_ENCODING | CONTENT_LENGTH | CONTENT_TYPE | USER_AGENT)
        || [name::METHOD, name::NAME, name::SESSION_ID, name::LAST_EVENT_ID].contains(header)
        || header.as_str().starts_with(name::PARAM_PREFIX)
        || is_trace(header)
}

/// Takes into a digest all that headers on their way to the server say of who asks, in whatever order they came.
pub(super) fn digest_of_who(headers: &HeaderMap, hash: &mut Sha256) {
    let mut names: Vec<&HeaderName> =
        headers.keys().filter(|header| !says_nothing_of_who(header)).collect();
    names.sort_unstable_by_key(|header| header.as_str());
    // With each length before its bytes, two different lists never read the same.
    let mut take = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for header in names {
        for value in headers.get_all(header) {
            take(header.as_str().as_bytes());
            take(value.as_bytes());
        }
    }
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

/// The same for as long as a session lives: copied, since a value as it came keeps the whole buffer
/// that its request was read in.
pub(crate) fn kept(live: &HeaderMap) -> HeaderMap {
    let own = for_own_message(live);
    let mut kept = HeaderMap::with_capacity(own.len());
    for (name, value) in &own {
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            kept.append(name, copy);
        }
    }
    kept
}

/// The headers of an event stream: nothing on the way may hold it back.
pub(crate) fn as_stream(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// The headers of a call that is sent again, from those of the GET that came back for its answer.
pub(crate) fn for_repeat(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(name::LAST_EVENT_ID);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers
}
