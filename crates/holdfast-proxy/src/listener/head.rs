//! Sees in the raw head of a request what hyper does not hand on.
//!
//! A request with both `Content-Length` and `Transfer-Encoding` is the classic of request smuggling
//! (RFC 9112, section 6.3, rule 3). hyper takes the coding and drops the length before anybody can
//! see that there was one, so the head's lines are looked at as they arrive.

/// Looks at a head in whatever pieces it comes.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// The beginning of the present line, as far as it matters.
    line: [u8; LONGEST],
    filled: usize,
    /// Bytes of the present line so far, saturating.
    length: usize,
    done: bool,
    has_length: bool,
    has_coding: bool,
}

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const LONGEST: usize = TRANSFER_ENCODING.len();

impl HeadScan {
    /// Takes the next bytes of the connection; what follows the head is ignored.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !self.done && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            let room = LONGEST - self.filled;
            let taken = piece.len().min(room);
            self.line[self.filled..self.filled + taken].copy_from_slice(&piece[..taken]);
            self.filled += taken;
            self.length = self.length.saturating_add(piece.len());
            let Some(end) = end else { return };
            self.end_line();
            bytes = &bytes[end + 1..];
        }
    }

    fn end_line(&mut self) {
        let line = &self.line[..self.filled];
        let empty = self.length == 0 || (self.length == 1 && line == b"\r");
        self.done = empty;
        let starts = |name: &[u8]| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        self.has_length |= starts(CONTENT_LENGTH);
        self.has_coding |= starts(TRANSFER_ENCODING);
        self.filled = 0;
        self.length = 0;
    }

    /// Whether the head has named both lengths.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.has_length && self.has_coding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[u8] =
        b"POST / HTTP/1.1\r\nContent-LENGTH: 3\r\nHost: a\r\ntransfer-Encoding: chunked\r\n\r\nabc";

    #[test]
    fn both_are_seen_however_the_bytes_arrive() {
        for size in 1..BOTH.len() {
            let mut scan = HeadScan::default();
            BOTH.chunks(size).for_each(|piece| scan.push(piece));
            assert!(scan.is_ambiguous(), "in pieces of {size}");
        }
    }

    #[test]
    fn one_alone_is_not_ambiguous_and_a_body_does_not_count() {
        for head in [
            &b"POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            b"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\nContent-Length: 3\n\n",
            b"POST / HTTP/1.1\r\nX-Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let mut scan = HeadScan::default();
            scan.push(head);
            assert!(!scan.is_ambiguous(), "{}", String::from_utf8_lossy(head));
        }
    }
}
