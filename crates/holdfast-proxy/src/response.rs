//! A response to a client, and the header fields that a server's answer gives it.
//!
//! A server that keeps its connection says nearly the same with every answer. What a head comes to is kept with
//! the connection that it came on ([`Fields::kept`]), and the answers that say the same share it
//! (`docs/decisions/0016-a-short-way-for-plain-requests.md`): their fields are not filtered again, and leave as
//! they were written once. All that is kept depends on the head alone. Who changes a field has their own from
//! there on.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::BytesMut;
use holdfast_mcp::headers::name;
use holdfast_mcp::http1::Said;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::body::Body;
use crate::hop::strip_answer;
use crate::upstream::http::has_media_type;

/// What a request is answered with.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: Headers,
    pub(crate) body: Body,
}

/// The header fields of a response: a map, and small, since it goes through many hands.
#[derive(Clone, Debug)]
pub(crate) struct Headers(Arc<Fields>);

/// The header fields of a response, and what else is known of them.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    map: HeaderMap,
    known: Option<Known>,
}

/// What the head of a server's answer says, for the answers of its connection that say the same.
#[derive(Clone, Debug)]
struct Known {
    /// What the server calls its session.
    session: Option<HeaderValue>,
    is_event_stream: bool,
    /// The fields as they stand in a response.
    written: Box<[u8]>,
    ending: Ending,
}

/// What fields that have been written say of the rest of their head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The connection ends with the response.
    pub(crate) closes: bool,
    pub(crate) dated: bool,
}

// === impl Response ===

impl Response {
    pub(crate) fn new(status: StatusCode, headers: impl Into<Headers>, body: Body) -> Self {
        Self { status, headers: headers.into(), body }
    }
}

impl From<http::Response<Body>> for Response {
    fn from(response: http::Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self::new(parts.status, parts.headers, body)
    }
}

impl From<Response> for http::Response<Body> {
    fn from(response: Response) -> Self {
        let mut built = Self::new(response.body);
        *built.status_mut() = response.status;
        *built.headers_mut() = Arc::unwrap_or_clone(response.headers.0).map;
        built
    }
}

// === impl Headers ===

impl Headers {
    /// Writes all that do not say where the body ends.
    pub(crate) fn write(&self, out: &mut BytesMut) -> Ending {
        match &self.0.known {
            Some(known) => {
                out.extend_from_slice(&known.written);
                known.ending
            }
            None => write(&self.0.map, |part| out.extend_from_slice(part)),
        }
    }
}

impl Default for Headers {
    fn default() -> Self {
        HeaderMap::new().into()
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        Self(Arc::new(Fields { map, known: None }))
    }
}

/// What the client gets of a server's answer.
impl From<Said<Fields>> for Headers {
    fn from(said: Said<Fields>) -> Self {
        match said {
            Said::Once(mut headers) => {
                strip_answer(&mut headers);
                Self::from(*headers)
            }
            Said::Again(fields) => Self(fields),
        }
    }
}

impl Deref for Headers {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.0.map
    }
}

impl DerefMut for Headers {
    fn deref_mut(&mut self) -> &mut HeaderMap {
        let fields = Arc::make_mut(&mut self.0);
        fields.known = None;
        &mut fields.map
    }
}

// === impl Fields ===

impl Fields {
    /// What the client gets of a head with these fields, which are all but the length of its body, to be kept.
    pub(crate) fn kept(mut headers: HeaderMap) -> Self {
        let session = headers.get(name::SESSION_ID).cloned();
        let is_event_stream = has_media_type(&headers, EVENT_STREAM);
        strip_answer(&mut headers);
        // Collected anew, it has no room for what was taken out.
        let mut map = HeaderMap::with_capacity(headers.len());
        headers.iter().for_each(|(name, value)| _ = map.append(name, value.clone()));
        let mut written = Vec::new();
        let ending = write(&map, |part| written.extend_from_slice(part));
        let known = Known { session, is_event_stream, written: written.into(), ending };
        Self { map, known: Some(known) }
    }
}

/// What the server calls its session.
pub(crate) fn session_id(said: &Said<Fields>) -> Option<&HeaderValue> {
    match said {
        Said::Once(headers) => headers.get(name::SESSION_ID),
        Said::Again(fields) => fields.known.as_ref()?.session.as_ref(),
    }
}

/// Whether the body is an event stream.
pub(crate) fn is_event_stream(said: &Said<Fields>) -> bool {
    match said {
        Said::Once(headers) => has_media_type(headers, EVENT_STREAM),
        Said::Again(fields) => fields.known.as_ref().is_some_and(|known| known.is_event_stream),
    }
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

fn write(headers: &HeaderMap, mut out: impl FnMut(&[u8])) -> Ending {
    let mut ending = Ending::default();
    for (name, value) in headers {
        match *name {
            CONTENT_LENGTH | TRANSFER_ENCODING => continue,
            CONNECTION => ending.closes |= value.as_bytes().eq_ignore_ascii_case(b"close"),
            DATE => ending.dated = true,
            _ => {}
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out(part);
        }
    }
    ending
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, HeaderName};

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    /// As both kinds of a head, which has come for the first time and which has come again.
    fn both(fields: &[(&'static str, &'static str)]) -> [Said<Fields>; 2] {
        let mut kept = map(fields);
        kept.remove(CONTENT_LENGTH);
        [Said::Once(Box::new(map(fields))), Said::Again(Arc::new(Fields::kept(kept)))]
    }

    /// The lines that are written, in some order, and what follows from them.
    fn written(headers: &Headers) -> (Vec<String>, Ending) {
        let mut out = BytesMut::new();
        let ending = headers.write(&mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        let mut lines: Vec<_> = text.split_terminator("\r\n").map(str::to_owned).collect();
        // The order counts only among fields of one name.
        lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
        (lines, ending)
    }

    #[test]
    fn a_client_gets_the_same_of_a_head_that_is_kept() {
        for fields in [
            &[("content-type", "application/json"), ("content-length", "7")][..],
            &[("content-type", "Text/Event-Stream; charset=utf-8"), ("mcp-session-id", "theirs")],
            &[
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("connection", "x-hop, close"),
                ("x-hop", "1"),
            ],
            &[("set-cookie", "b"), ("connection", "close"), ("x-empty", ""), ("set-cookie", "a")],
            &[("transfer-encoding", "chunked"), ("keep-alive", "timeout=5"), ("te", "trailers")],
            &[("mcp-session-id", "a"), ("mcp-session-id", "b"), ("retry-after", "1")],
            &[],
        ] {
            let [once, again] = both(fields);
            assert_eq!(session_id(&once), session_id(&again), "{fields:?}");
            assert_eq!(is_event_stream(&once), is_event_stream(&again), "{fields:?}");
            let [once, again] = [once, again].map(Headers::from);
            assert_eq!(*once, *again, "{fields:?}");
            assert_eq!(written(&once), written(&again), "{fields:?}");
            let [once, again] = [once, again].map(|headers| {
                http::Response::from(Response::new(StatusCode::OK, headers, Body::Full(None)))
            });
            assert_eq!(once.headers(), again.headers(), "{fields:?}");
        }
    }

    #[test]
    fn what_is_changed_in_one_response_is_changed_in_no_other() {
        let [_, again] = both(&[("content-type", "text/plain"), ("x-kept", "1")]);
        let [mut own, other] = [again.clone(), again].map(Headers::from);
        own.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        own.insert(CONNECTION, HeaderValue::from_static("close"));
        let (lines, ending) = written(&own);
        let fields = ["connection: close", "content-type: application/json", "x-kept: 1"];
        assert_eq!(lines, fields);
        assert!(ending.closes);
        assert_eq!(written(&other).0, ["content-type: text/plain", "x-kept: 1"]);
    }
}
