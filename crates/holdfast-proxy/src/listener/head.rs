//! Sees in the raw head of a request what hyper does not hand on.
//!
//! A request with both `Content-Length` and `Transfer-Encoding` is the classic of request smuggling
//! (RFC 9112, section 6.3, rule 3). hyper takes the coding and drops the length before anybody can
//! see that there was one, so the head's lines are looked at as they arrive.

/// The first bytes of a head as they came. Copying them costs next to nothing; they are looked at
/// only when a request has a transfer coding, which few have.
#[derive(Debug, Default)]
pub(super) struct RawHead(Vec<u8>);

/// Bytes kept of one head. A coding behind a longer head is not believed.
const KEPT: usize = 16 * 1024;

const CONTENT_LENGTH: &[u8] = b"content-length";

impl RawHead {
    /// A new head begins.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The next bytes of the connection, head or not.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether the head names a length. One that is not here to its end counts as if it did.
    pub(super) fn names_length(&self) -> bool {
        for line in self.0.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                return false;
            }
            let name = line.get(..CONTENT_LENGTH.len());
            if name.is_some_and(|name| name.eq_ignore_ascii_case(CONTENT_LENGTH)) {
                return true;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_length(bytes: &[u8], piece: usize) -> bool {
        let mut head = RawHead::default();
        bytes.chunks(piece).for_each(|piece| head.push(piece));
        head.names_length()
    }

    #[test]
    fn a_length_is_seen_however_the_bytes_arrive() {
        let head = b"POST / HTTP/1.1\r\nContent-LENGTH: 3\r\ntransfer-Encoding: chunked\r\n\r\nabc";
        for piece in [1, 7, head.len()] {
            assert!(names_length(head, piece), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_body_and_another_name_do_not_count() {
        for head in [
            &b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nContent-Length: 3\r\n\r\n"[..],
            b"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\nContent-Length: 3\n\n",
            b"POST / HTTP/1.1\r\nX-Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(!names_length(head, 4096), "{}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn a_head_that_is_not_whole_is_not_believed() {
        assert!(names_length(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: ", 4096));
        let padding = format!("POST / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(KEPT));
        assert!(names_length(padding.as_bytes(), 4096));
    }
}
