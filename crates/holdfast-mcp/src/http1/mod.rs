//! HTTP/1.1 as calls need it: the answers of servers, the plain requests of clients, and the chunks of the
//! bodies that they get.
//!
//! **Answers** are read whatever they are: the reader's half of RFC 9112 for one connection with one
//! request on it at a time. It is given the bytes as they arrive and takes what is whole; reading and
//! writing are its caller's. What two readers could take differently is either refused or makes the
//! connection one that is not used again: a body that is cut in the wrong place would be the beginning of
//! another call's answer.
//!
//! **Requests** are read only if they are plain ([`RequestHeads`]); all others are left to hyper, and
//! [`Framings`] sees which of them are framed in two ways.
//!
//! | rule | source |
//! |---|---|
//! | status line, fields, no folding, no space before the colon | 9112 sections 4, 5 (`httparse`) |
//! | interim answers come before the answer and have no body | 9110 section 15.2 |
//! | which of coding, length and close ends the body | 9112 section 6.3 |
//! | whether the connection may be used again | 9112 section 9.3 |

mod again;
mod chunks;
mod framings;
mod request;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, StatusCode};

use self::again::{Last, Same, map};
use crate::headers::name;

pub use chunks::{CHUNK_END, ChunkError, Chunks, LAST_CHUNK, Piece, begin_chunk, chunk};
pub use framings::Framings;
pub use request::{Found, Limits, Plain, RequestHeads};

/// A head of more bytes is refused.
pub const LONGEST_HEAD: usize = 256 * 1024;

/// A head of more fields is refused.
pub const MOST_FIELDS: usize = 100;

/// The head of an answer.
#[derive(Debug)]
pub struct Head<M> {
    /// 200 to 999: interim answers are stepped over and never returned.
    pub status: StatusCode,
    /// Its fields.
    pub said: Said<M>,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the connection may be used again once the body has been read.
    pub keeps: bool,
}

/// The fields of an answer.
#[derive(Clone, Debug)]
pub enum Said<M> {
    /// All as they came, those about the connection among them.
    Once(Box<HeaderMap>),
    /// What an answer before it on its connection has said, but for the length of its body: what was made of
    /// that.
    Again(Arc<M>),
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// After so many bytes; 0: there is none.
    Length(u64),
    /// With its last chunk: [`Chunks`].
    Chunked,
    /// With the connection.
    Close,
}

/// Why what a server sent is no answer. The connection is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1.x, or not as RFC 9112 writes it.
    #[error("the head of the answer is malformed: {0}")]
    Malformed(httparse::Error),
    /// [`LONGEST_HEAD`] or [`MOST_FIELDS`] is exceeded.
    #[error("the head of the answer is too long")]
    TooLong,
    /// A `Content-Length` that is no number, or several that differ.
    #[error("the answer's Content-Length is not one number")]
    Length,
    /// 101, which nobody has asked for: what follows are no answers.
    #[error("the server switches to another protocol, which it was not asked to")]
    Switched,
    /// HTTP/1.0 has no transfer codings.
    #[error("an HTTP/1.0 answer has a Transfer-Encoding")]
    Coding,
}

/// Reads the heads of the answers on one connection, and keeps the `M` that is made of one that comes again.
#[derive(Debug)]
pub struct AnswerHeads<M> {
    last: Last<(StatusCode, Seen)>,
    /// Of the last head that was read, by its version.
    kept: Option<(u64, Arc<M>)>,
}

// === impl AnswerHeads ===

impl<M> Default for AnswerHeads<M> {
    fn default() -> Self {
        Self { last: Last::default(), kept: None }
    }
}

impl<M> AnswerHeads<M> {
    /// Takes the head of the next answer off the front of `buffer`; `None` while it is not whole. `mean` is what
    /// the fields of one come to that has come three times, without its `Content-Length`: those of the same
    /// connection that say the same share it.
    ///
    /// # Errors
    /// [`HeadError`]; nothing that follows can be understood either.
    pub fn head(
        &mut self,
        buffer: &mut BytesMut,
        mean: impl FnOnce(HeaderMap) -> M,
    ) -> Result<Option<Head<M>>, HeadError> {
        if let Some(same) = self.last.same(buffer) {
            return self.again(buffer, &same, mean);
        }
        loop {
            if buffer.is_empty() {
                return Ok(None);
            }
            match self.read(buffer)? {
                Some(head) if head.status == 101 => return Err(HeadError::Switched),
                // An interim answer.
                Some(head) if head.status.is_informational() => {}
                other => return Ok(other),
            }
        }
    }

    /// A head that is known, all but the length of the body, the date and its words.
    fn again(
        &mut self,
        buffer: &mut BytesMut,
        same: &Same,
        mean: impl FnOnce(HeaderMap) -> M,
    ) -> Result<Option<Head<M>>, HeadError> {
        let length = match &same.length {
            Some(length) => Some(number(&buffer[length.clone()]).ok_or(HeadError::Length)?),
            None => None,
        };
        let Some((headers, (status, seen), version)) = self.last.known(buffer, same) else {
            return self.read(buffer);
        };
        let (framing, keeps) = Seen { length: length.or(seen.length), ..*seen }.settle(*status)?;
        let status = *status;
        let meant = match &self.kept {
            Some((of, meant)) if *of == version => Arc::clone(meant),
            _ => {
                let mut headers = headers.clone();
                headers.remove(CONTENT_LENGTH);
                let meant = Arc::new(mean(headers));
                self.kept = Some((version, Arc::clone(&meant)));
                meant
            }
        };
        buffer.advance(same.head);
        Ok(Some(Head { status, said: Said::Again(meant), framing, keeps }))
    }

    fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<Head<M>>, HeadError> {
        let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
        let mut answer = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut answer,
            buffer,
            &mut fields,
        );
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) if length <= LONGEST_HEAD => length,
            Ok(httparse::Status::Partial) if buffer.len() <= LONGEST_HEAD => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLong),
            Err(error) => return Err(HeadError::Malformed(error)),
        };
        let is_1_1 = answer.version == Some(1);
        let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(HeadError::Malformed(httparse::Error::Status))?;
        let mut seen = Seen { is_1_1, closes: !is_1_1, ..Seen::default() };
        // Where the values stand: they share the buffer once the head has been taken off it.
        let start = buffer.as_ptr().addr();
        let mut named = Vec::with_capacity(answer.headers.len());
        for field in &*answer.headers {
            let name =
                field_name(field.name).ok_or(HeadError::Malformed(httparse::Error::HeaderName))?;
            seen.field(&name, field.value)?;
            // What is empty may point anywhere.
            let at = if field.value.is_empty() { start } else { field.value.as_ptr().addr() };
            let at = at - start;
            named.push((name, at..at + field.value.len()));
        }
        let (framing, keeps) = seen.settle(status)?;
        let raw = buffer.split_to(length).freeze();
        if !status.is_informational() {
            self.kept = None;
            self.last.learn(&raw, &named, |_| Some((status, seen)));
        }
        let headers = map(&raw, named.into_iter());
        let headers = headers.ok_or(HeadError::Malformed(httparse::Error::HeaderValue))?;
        Ok(Some(Head { status, said: Said::Once(Box::new(headers)), framing, keeps }))
    }
}

/// What the fields say about the body and the connection.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    is_1_1: bool,
    closes: bool,
    length: Option<u64>,
    /// Whether the last transfer coding is `chunked`.
    coding: Option<bool>,
}

impl Seen {
    fn field(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), HeadError> {
        match *name {
            CONTENT_LENGTH => {
                for part in value.split(|byte| *byte == b',') {
                    let length = number(part.trim_ascii()).ok_or(HeadError::Length)?;
                    if self.length.replace(length).is_some_and(|other| other != length) {
                        return Err(HeadError::Length);
                    }
                }
            }
            TRANSFER_ENCODING => {
                let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
                self.coding = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            }
            CONNECTION => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        self.closes = true;
                    } else if !self.is_1_1 && option.eq_ignore_ascii_case(b"keep-alive") {
                        self.closes = false;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn settle(self, status: StatusCode) -> Result<(Framing, bool), HeadError> {
        if self.coding.is_some() && !self.is_1_1 {
            return Err(HeadError::Coding);
        }
        // Who frames a body in two ways is not trusted with another request.
        let doubtful = self.coding.is_some() && self.length.is_some();
        let framing = match (self.coding, self.length) {
            _ if status.is_informational() || status == 204 || status == 304 => Framing::Length(0),
            (Some(true), _) => Framing::Chunked,
            (Some(false), _) | (None, None) => Framing::Close,
            (None, Some(length)) => Framing::Length(length),
        };
        Ok((framing, framing != Framing::Close && !self.closes && !doubtful))
    }
}

/// The name of a field. MCP's own stand in every message, and are known here so that they need no
/// allocation each time.
fn field_name(written: &str) -> Option<HeaderName> {
    let known = match written.len() {
        8 => name::NAME,
        10 => name::METHOD,
        14 => name::SESSION_ID,
        20 => name::PROTOCOL_VERSION,
        _ => return HeaderName::from_bytes(written.as_bytes()).ok(),
    };
    match written.eq_ignore_ascii_case(known.as_str()) {
        true => Some(known),
        false => HeaderName::from_bytes(written.as_bytes()).ok(),
    }
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
