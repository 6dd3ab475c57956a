//! Sees in the bytes of a client's requests what hyper does not hand on.
//!
//! A request with both `Content-Length` and `Transfer-Encoding` is the classic of request smuggling
//! (RFC 9112, section 6.3, rule 3). hyper takes the coding and drops the length before anybody can see that
//! there was one. So the requests of a connection are followed on its bytes, whatever they come cut into and
//! however many come at once: heads by their lines, and bodies only as far as to know where the next head is.

use std::collections::VecDeque;

/// Follows the requests of one connection, from its first byte on.
#[derive(Debug, Default)]
pub struct Framings {
    at: At,
    /// The beginning of the line that is arriving, and the last byte of it so far.
    line: Vec<u8>,
    last: u8,
    length: Option<u64>,
    coded: bool,
    /// Of each head that has been seen and not yet been asked for: whether it has both.
    heads: VecDeque<bool>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// A request line, or empty lines before it.
    #[default]
    Start,
    Fields,
    /// So many bytes of a body.
    Body(u64),
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Nobody knows.
    Lost,
}

/// Bytes kept of a line: a length, a coding and a chunk's size fit.
const KEPT: usize = 64;

impl Framings {
    /// The next bytes of the connection.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.at {
                At::Lost => return,
                At::Body(left) => self.skip(bytes, left, At::Body, At::Start),
                At::Chunk(left) => self.skip(bytes, left, At::Chunk, At::ChunkEnd),
                _ => self.read(bytes),
            };
        }
    }

    /// Passes over what is here of a body or a chunk, and gives back the rest.
    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, more: fn(u64) -> At, then: At) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.at = if left == 0 { then } else { more(left) };
        &bytes[here..]
    }

    /// Takes what is here of a line, and gives back the rest.
    fn read<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let room = KEPT - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        self.last = part.last().copied().unwrap_or(self.last);
        let Some(end) = end else { return &[] };
        let mut line = std::mem::take(&mut self.line);
        self.at = self.after(&line);
        line.clear();
        (self.line, self.last) = (line, b'\n');
        &bytes[end + 1..]
    }

    /// Whether the next request has both a length and a coding. Asked once for each request, in their
    /// order, when its head has arrived. What cannot be known counts as if it had.
    pub fn next_has_both(&mut self) -> bool {
        self.heads.pop_front().unwrap_or(true)
    }

    /// Whether the last request is here as a whole, and nothing of another one.
    #[must_use]
    pub fn is_between(&self) -> bool {
        matches!(self.at, At::Start) && self.line.is_empty()
    }

    /// What follows on the connection are no requests.
    pub fn stop(&mut self) {
        *self = Self { at: At::Lost, ..Self::default() };
    }

    /// What follows a line of which these are the first bytes.
    fn after(&mut self, line: &[u8]) -> At {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.at {
            // A line of a head may end with a bare line feed; around chunks readers differ about it.
            At::ChunkSize | At::ChunkEnd | At::Trailers if self.last != b'\r' => At::Lost,
            At::Start if line.is_empty() => At::Start,
            At::Fields if line.is_empty() => self.body(),
            At::Start => At::Fields,
            At::Fields => self.field(line),
            At::ChunkSize => match size(line) {
                Some(0) => At::Trailers,
                Some(size) => At::Chunk(size),
                None => At::Lost,
            },
            At::ChunkEnd if line.is_empty() => At::ChunkSize,
            At::Trailers if line.is_empty() => At::Start,
            At::Trailers => At::Trailers,
            At::ChunkEnd | At::Body(_) | At::Chunk(_) | At::Lost => At::Lost,
        }
    }

    fn field(&mut self, line: &[u8]) -> At {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default().trim_ascii();
        let whole = line.len() < KEPT;
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = super::number(value).filter(|_| whole);
            // Two lengths may be one for some readers.
            if length.is_none() || self.length.is_some() {
                return At::Lost;
            }
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.coded || !whole || !value.eq_ignore_ascii_case(b"chunked") {
                return At::Lost;
            }
            self.coded = true;
        }
        At::Fields
    }

    /// What follows a head.
    fn body(&mut self) -> At {
        let (length, coded) = (self.length.take(), std::mem::take(&mut self.coded));
        self.heads.push_back(length.is_some() && coded);
        match length {
            _ if coded => At::ChunkSize,
            None | Some(0) => At::Start,
            Some(length) => At::Body(length),
        }
    }
}

/// The size that the line of a chunk begins with; extensions may follow.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let digits = std::str::from_utf8(&line[..digits]).ok()?;
    u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() <= 16)
}
