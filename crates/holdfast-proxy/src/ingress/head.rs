//! What a request's head says: who asks, for what, and in which form.
//!
//! It is worked out once. A client that keeps its connection sends nearly the same head with each request, so
//! the connection keeps the last one that came again, [`Kept`] with what it meant, and the requests that
//! follow share it, or a copy with what each has of its own
//! (`docs/decisions/0016-a-short-way-for-plain-requests.md`). All that is in here therefore depends on the
//! head, the connection and the configuration alone, and never on a body or the time.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use holdfast_mcp::headers::{Claims, name};
use holdfast_mcp::version::{self, Era, era_said};
use holdfast_store::SessionKey;
use http::header::{ACCEPT, CONTENT_LENGTH, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Admitted, Connection, Endpoint};
use crate::exchange::headers::ForServer;
use crate::gateway::Gateway;
use crate::principal::Principal;
use crate::server::Server;
use crate::session::parse_id;
use crate::upstream::http::has_media_type;

/// A head, and what it says.
#[derive(Clone)]
pub(crate) struct Head {
    /// As it came, without its credential for the gateway; one that is kept has no length either.
    pub(crate) parts: Parts,
    pub(crate) principal: Principal,
    /// Whether what it brings is JSON.
    pub(super) brings_json: bool,
    pub(super) takes_stream: bool,
    pub(super) session: Named,
    /// The web page that asks.
    pub(super) origin: Option<HeaderValue>,
    /// The id of a trusted balancer.
    pub(super) balancer_id: Option<Box<str>>,
    /// What it says of its body, where that is known already.
    pub(super) claims: Option<Claims<'static>>,
    /// What goes to the server of it, where that is known already.
    pub(super) for_server: Option<Arc<ForServer>>,
}

/// The session that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// None, or it is of the era without sessions: an id that its client still sends is ignored.
    None {
        is_modern: bool,
    },
    Key(SessionKey),
    /// What cannot be one of ours.
    Unknown,
    /// More than one.
    Repeated,
}

/// A head that was let in under one configuration, for the requests of its connection that have the same but for
/// what each has of its own.
pub(crate) struct Kept {
    head: Arc<Head>,
    /// The configuration, which a connection does not keep alive.
    of: Weak<Gateway>,
    /// Its server in there.
    server: usize,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id is nobody's idea of one.
const LONGEST_REQUEST_ID: usize = 256;

// === impl Head ===

impl Head {
    pub(super) fn new(parts: Parts, principal: Principal) -> Self {
        let headers = &parts.headers;
        Self {
            brings_json: has_media_type(headers, b"application/json"),
            takes_stream: accepts(headers, "text/event-stream"),
            session: Named::of(headers),
            origin: headers.get(ORIGIN).cloned(),
            balancer_id: None,
            claims: None,
            for_server: None,
            principal,
            parts,
        }
    }

    /// The same with other words in their places ([`Kept::at`]).
    fn with(&self, words: &[(HeaderName, HeaderValue)], server: &Server) -> Self {
        let mut head = self.clone();
        for (name, value) in words {
            head.parts.headers.insert(name.clone(), value.clone());
        }
        // Whether it counts, the connection and the configuration say, which are the same.
        head.balancer_id = self.balancer_id.as_ref().and_then(|_| request_id(head.headers()));
        head.session = Named::of(head.headers());
        head.for_server = self.for_server.as_ref().map(|it| it.with(words, server));
        head
    }

    /// With the id that a balancer of ours gave the request: the same for every sending of it.
    pub(super) fn balanced(self, gateway: &Gateway, connection: &Connection) -> Self {
        if gateway.cluster.is_none() || !connection.trusted {
            return self;
        }
        Self { balancer_id: request_id(&self.parts.headers), ..self }
    }

    pub(super) fn method(&self) -> &Method {
        &self.parts.method
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }
}

fn request_id(headers: &HeaderMap) -> Option<Box<str>> {
    let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    id.filter(|id| !id.is_empty() && id.len() <= LONGEST_REQUEST_ID).map(Into::into)
}

// === impl Named ===

impl Named {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if is_modern(headers) {
            return Self::None { is_modern: true };
        }
        let mut ids = headers.get_all(name::SESSION_ID).iter();
        match (ids.next(), ids.next()) {
            (None, _) => Self::None { is_modern: false },
            (Some(_), Some(_)) => Self::Repeated,
            (Some(id), None) => parse_id(id.as_bytes()).map_or(Self::Unknown, Self::Key),
        }
    }
}

fn is_modern(headers: &HeaderMap) -> bool {
    era_said(version::header(headers)) == Era::Modern
}

/// Whether `Accept` covers a media type. A missing header accepts everything (RFC 9110, 12.5.1).
fn accepts(headers: &HeaderMap, media: &str) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    let (kind, _) = media.split_once('/').unwrap_or((media, ""));
    // By bytes: `str` and its patterns cost a call six times as much.
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).any(|range| {
        let end = range.iter().position(|byte| *byte == b';').unwrap_or(range.len());
        let range = range[..end].trim_ascii();
        range.eq_ignore_ascii_case(media.as_bytes())
            || range == b"*/*"
            || range
                .strip_suffix(b"/*")
                .is_some_and(|range| range.eq_ignore_ascii_case(kind.as_bytes()))
    })
}

// === impl Kept ===

impl Kept {
    /// Keeps the head of a request of Streamable HTTP.
    pub(crate) fn of(admitted: &Admitted, gateway: &Arc<Gateway>) -> Option<Self> {
        let Admitted { head, endpoint: Endpoint::Mcp, server } = admitted else { return None };
        let for_server = ForServer::kept(head.headers(), &gateway.servers[*server]);
        let claims = is_modern(head.headers()).then(|| Claims::of(head.headers()).into_owned());
        let for_server = Some(Arc::new(for_server));
        let mut head = Head { claims, for_server, ..Head::clone(head) };
        head.parts.headers.remove(CONTENT_LENGTH);
        Some(Self { head: Arc::new(head), of: Arc::downgrade(gateway), server: *server })
    }

    /// What it means under this configuration, if that is the one under which it was let in, in a request that has
    /// these [words](holdfast_mcp::http1::RequestHeads::words) of its own.
    pub(crate) fn at<'a>(
        &self,
        gateway: &Arc<Gateway>,
        words: impl Iterator<Item = (&'a HeaderName, Bytes)>,
    ) -> Option<Admitted> {
        // What is pointed to weakly is not freed, so no other can have its address.
        if !std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(gateway)) {
            return None;
        }
        let mut others = Vec::new();
        for (name, word) in words {
            if self.head.headers().get(name).is_none_or(|known| *known != *word) {
                others.push((name.clone(), HeaderValue::from_maybe_shared(word).ok()?));
            }
        }
        let head = match others.is_empty() {
            true => Arc::clone(&self.head),
            false => Arc::new(self.head.with(&others, &gateway.servers[self.server])),
        };
        Some(Admitted { head, endpoint: Endpoint::Mcp, server: self.server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_takes_is_read_as_rfc_9110_writes_it() {
        for (accept, takes) in [
            (&["application/json, text/event-stream"][..], true),
            (&["application/json;q=1 , Text/Event-Stream;q=0.5"], true),
            (&["application/json", "text/*"], true),
            (&["*/*;q=0.1"], true),
            (&[], true),
            (&["application/json"], false),
            (&["text/event-streams, xtext/event-stream, text/html, *"], false),
            (&["application/json;text/event-stream", "", ","], false),
        ] {
            let headers = accept.iter().map(|value| (ACCEPT, HeaderValue::from_static(value)));
            let mut map = HeaderMap::new();
            headers.for_each(|(name, value)| _ = map.append(name, value));
            assert_eq!(accepts(&map, "text/event-stream"), takes, "{accept:?}");
        }
    }

    #[test]
    fn a_session_is_named_once_and_by_an_id_of_ours() {
        let id = "0123456789abcdef0123456789abcdef";
        let key = parse_id(id.as_bytes()).map(Named::Key).expect("an id");
        for (version, ids, named) in [
            (None, &[][..], Named::None { is_modern: false }),
            (Some("2025-11-25"), &[id], key),
            (None, &["theirs"], Named::Unknown),
            (None, &[id, id], Named::Repeated),
            (Some("2026-07-28"), &[id, id], Named::None { is_modern: true }),
            (Some("2030-01-01"), &[id], Named::None { is_modern: true }),
        ] {
            let mut headers = HeaderMap::new();
            version.map(|it| headers.insert(name::PROTOCOL_VERSION, HeaderValue::from_static(it)));
            let ids = ids.iter().map(|id| HeaderValue::from_static(id));
            ids.for_each(|id| _ = headers.append(name::SESSION_ID, id));
            assert_eq!(Named::of(&headers), named, "{headers:?}");
        }
    }
}
