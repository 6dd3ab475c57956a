//! The plain request: a POST with a body of declared length, or a GET without one, and nothing that asks
//! for more.
//!
//! Nearly every request to a gateway is one. What is not (another method or version, a transfer coding, an
//! upgrade, an expectation, an odd `Connection`, several lengths) or is malformed in any way is
//! [`Found::Other`]: a whole implementation of HTTP reads it from its first byte, and decides alone. So this
//! reader refuses nothing, and what it takes has one meaning for every reader.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Uri};

use super::again::{Field, Last, Same, map};
use super::{MOST_FIELDS, field_name, number};

/// Reads the plain requests on one connection.
#[derive(Debug, Default)]
pub struct RequestHeads {
    /// Only that of a POST is remembered.
    pub(super) last: Last<Uri>,
}

/// What stands at the front of the bytes that a client has sent.
#[derive(Debug)]
pub enum Found {
    /// A plain request, whole.
    Whole(Plain),
    /// The head of one, whose body is not here yet: so many bytes are needed in all.
    Head(usize),
    /// The beginning of a head.
    Partial,
    /// Something else.
    Other,
}

/// A plain request, by places in the bytes that it was found in.
#[derive(Debug)]
pub struct Plain {
    /// POST or GET.
    pub method: Method,
    /// Bytes of head and body together.
    pub length: usize,
    body: Range<usize>,
    head: Head,
}

/// How the head of a request is known.
#[derive(Debug)]
enum Head {
    Read {
        target: Range<usize>,
        fields: Vec<Field>,
    },
    /// It says what the one before it said.
    Again(Same),
}

/// What a request may have to be read here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Fields; at most [`MOST_FIELDS`].
    pub fields: usize,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the body.
    pub body: usize,
}

// === impl Plain ===

impl Plain {
    /// The body of the request that was found at the front of these bytes, which it shares.
    #[must_use]
    pub fn body(self, request: &Bytes) -> Bytes {
        request.slice(self.body)
    }
}

// === impl RequestHeads ===

impl RequestHeads {
    /// Looks for a plain request at the front of `bytes`.
    #[must_use]
    pub fn plain(&self, bytes: &[u8], limits: &Limits) -> Found {
        match self.last.same(bytes) {
            Some(same) if same.length.is_some() => {
                again(same, bytes, limits).unwrap_or(Found::Other)
            }
            _ => read(bytes, limits),
        }
    }

    /// The number of a head that says again what one before it has said, so that what that one meant need not
    /// be found out anew: heads of the same number differ in their `Content-Length` and in [`Self::words`]
    /// alone. `None`: it has none.
    #[must_use]
    pub fn number(&self, found: &Plain) -> Option<u64> {
        match found.head {
            Head::Again(_) => self.last.number(),
            Head::Read { .. } => None,
        }
    }

    /// Of a head that has a number, the fields that each request has of its own
    /// ([`is_of_one_request`](crate::headers::is_of_one_request)), and where in the request their values stand.
    pub fn words<'a>(
        &'a self,
        found: &'a Plain,
    ) -> impl Iterator<Item = (&'a HeaderName, Range<usize>)> {
        let same = match &found.head {
            Head::Again(same) => Some(same),
            Head::Read { .. } => None,
        };
        same.into_iter().flat_map(|same| self.last.words(same))
    }

    /// Method, target, headers and body of the request that was found at the front of these bytes, which the
    /// body shares, and mostly the headers too. `None`: its target or a value is none after all, and it is
    /// another reader's.
    #[must_use]
    pub fn parts(
        &mut self,
        found: Plain,
        request: &Bytes,
    ) -> Option<(Method, Uri, HeaderMap, Bytes)> {
        let Plain { method, body, head, .. } = found;
        match head {
            Head::Again(same) => {
                let (headers, target, _) = self.last.known(request, &same)?;
                Some((method, target.clone(), headers.clone(), request.slice(body)))
            }
            Head::Read { target, fields } => {
                let uri = |bytes: &Bytes| Uri::from_maybe_shared(bytes.slice(target.clone())).ok();
                // Who asks for a stream asks once.
                if method == Method::POST {
                    self.last.learn(&request[..body.start], &fields, uri);
                }
                let headers = map(request, fields.into_iter())?;
                Some((method, uri(request)?, headers, request.slice(body)))
            }
        }
    }
}

/// A request whose head is known, all but the length of its body and its words.
fn again(same: Same, bytes: &[u8], limits: &Limits) -> Option<Found> {
    let length = number(&bytes[same.length.clone()?])?;
    whole(Method::POST, same.head, length, Head::Again(same), bytes, limits)
}

/// Reads a head.
fn read(bytes: &[u8], limits: &Limits) -> Found {
    // Others need not wait for their head's end.
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, of)| byte == of);
    let method = if begins(b"POST /") {
        Method::POST
    } else if begins(b"GET /") {
        Method::GET
    } else {
        return Found::Other;
    };
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut fields);
    let head = match parsed {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() <= limits.head => return Found::Partial,
        Ok(_) | Err(_) => return Found::Other,
    };
    found(method, &request, head, bytes, limits).unwrap_or(Found::Other)
}

fn found(
    method: Method,
    request: &httparse::Request<'_, '_>,
    head: usize,
    bytes: &[u8],
    limits: &Limits,
) -> Option<Found> {
    let place = |part: &[u8]| {
        // What is empty may point anywhere.
        let at = if part.is_empty() { 0 } else { part.as_ptr().addr() - bytes.as_ptr().addr() };
        at..at + part.len()
    };
    if request.version != Some(1) || request.headers.len() > limits.fields {
        return None;
    }
    let mut length = None;
    let mut fields = Vec::with_capacity(request.headers.len());
    for field in &*request.headers {
        let name = field_name(field.name)?;
        match name {
            CONTENT_LENGTH if length.is_none() => length = Some(number(field.value)?),
            CONNECTION if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
            CONTENT_LENGTH | CONNECTION | TRANSFER_ENCODING | UPGRADE | EXPECT => return None,
            _ => {}
        }
        fields.push((name, place(field.value)));
    }
    let length = match (&method, length) {
        // A GET has no body in use, and says nothing of one.
        (&Method::GET, None) => 0,
        (&Method::GET, Some(_)) => return None,
        (_, length) => length?,
    };
    let target = place(request.path?.as_bytes());
    whole(method, head, length, Head::Read { target, fields }, bytes, limits)
}

/// The request with this head, which ends at `start`, if it may be so large.
fn whole(
    method: Method,
    start: usize,
    length: u64,
    head: Head,
    bytes: &[u8],
    limits: &Limits,
) -> Option<Found> {
    if start > limits.head {
        return None;
    }
    let body = usize::try_from(length).ok().filter(|body| *body <= limits.body)?;
    let length = start + body;
    if bytes.len() < length {
        return Some(Found::Head(length));
    }
    Some(Found::Whole(Plain { method, length, body: start..length, head }))
}
