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
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::{MOST_FIELDS, field_name, number};

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
    target: Range<usize>,
    fields: Vec<(HeaderName, Range<usize>)>,
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

/// Looks for a plain request at the front of `bytes`.
#[must_use]
pub fn plain(bytes: &[u8], limits: &Limits) -> Found {
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
        Ok(httparse::Status::Complete(head)) if head <= limits.head => head,
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
    let body = usize::try_from(length).ok().filter(|body| *body <= limits.body)?;
    let length = head + body;
    if bytes.len() < length {
        return Some(Found::Head(length));
    }
    let target = place(request.path?.as_bytes());
    Some(Found::Whole(Plain { method, length, body: head..length, target, fields }))
}

impl Plain {
    /// Target, headers and body, which share the request's bytes; `None`: its target or a value is none
    /// after all, and it is another reader's.
    #[must_use]
    pub fn parts(self, request: &Bytes) -> Option<(Uri, HeaderMap, Bytes)> {
        let target = Uri::from_maybe_shared(request.slice(self.target)).ok()?;
        let mut headers = HeaderMap::with_capacity(self.fields.len());
        for (name, value) in self.fields {
            headers.append(name, HeaderValue::from_maybe_shared(request.slice(value)).ok()?);
        }
        Some((target, headers, request.slice(self.body)))
    }
}
