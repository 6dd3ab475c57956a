//! What an instance calls its session.

use std::sync::Arc;

use http::HeaderValue;

/// The id that an instance gave its session, and that can stand in a field of a request. A copy is the same
/// text, which the session's record has too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerSession(Arc<str>);

impl ServerSession {
    /// `None`: it cannot stand in a field.
    pub(crate) fn new(text: Arc<str>) -> Option<Self> {
        let fits = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        text.bytes().all(fits).then_some(Self(text))
    }

    /// As an instance said it. `None`: it is no text. (What MCP allows is visible ASCII.)
    pub(crate) fn said(value: &HeaderValue) -> Option<Self> {
        std::str::from_utf8(value.as_bytes()).ok().and_then(|text| Self::new(Arc::from(text)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// For the session's record.
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// As the value of a field.
    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.0.as_bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_its_field_is_no_id() {
        for wrong in ["a\r\nhost: b", "a\nb", "a\0", "\u{7f}"] {
            assert_eq!(ServerSession::new(Arc::from(wrong)), None, "{wrong:?}");
        }
        let id = ServerSession::new(Arc::from("0b9d~ é")).unwrap();
        let header = id.to_header().unwrap();
        assert_eq!(ServerSession::said(&header), Some(id));
        let latin = HeaderValue::from_bytes(b"\xe9").unwrap();
        assert_eq!(ServerSession::said(&latin), None);
    }
}
