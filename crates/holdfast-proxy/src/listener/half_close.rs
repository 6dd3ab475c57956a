//! Whose answer is worth waiting for when the client has said that nothing follows.
//!
//! A client may close its half of the connection behind its last request and read the answer (RFC 9112,
//! section 9.6). One that is gone looks the same, until something is written to it. So the protocol decides
//! (`docs/decisions/0021-a-client-that-closes-its-half.md`): to a modern client a disconnect is a
//! cancellation, and to a stream that nobody asked anything on it is the end.

use holdfast_mcp::version::{self, Era, era_said};
use http::{HeaderMap, Method};
use http_body::Body as _;

use crate::body::Body;

/// What one request allows its client.
#[derive(Clone, Copy)]
pub(super) struct HalfClose {
    is_legacy: bool,
    is_get: bool,
}

impl HalfClose {
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let is_legacy = era_said(version::header(headers)) == Era::Legacy;
        Self { is_legacy, is_get: method == Method::GET }
    }

    /// Whether the client is answered although it has said that nothing follows.
    pub(super) fn is_answered(self) -> bool {
        self.is_legacy
    }

    /// Whether it gets this body to its end.
    pub(super) fn is_sent(self, body: &Body) -> bool {
        self.is_legacy && (!self.is_get || body.size_hint().exact().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_mcp::headers::name;
    use http::HeaderValue;

    #[test]
    fn a_modern_clients_end_is_a_cancellation_and_anothers_is_not() {
        for (version, answered) in [
            (None, true),
            (Some("2025-03-26"), true),
            (Some("2025-11-25"), true),
            (Some("2026-07-28"), false),
            (Some("2030-01-01"), false),
        ] {
            let mut headers = HeaderMap::new();
            version.map(|version| {
                headers.insert(name::PROTOCOL_VERSION, HeaderValue::from_static(version))
            });
            let half = HalfClose::of(&Method::POST, &headers);
            assert_eq!(half.is_answered(), answered, "{version:?}");
            assert_eq!(half.is_sent(&Body::Full(None)), answered, "{version:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_was_not_asked_for_by_a_message_ends_with_its_client() {
        let stream = Body::later(std::time::Duration::from_secs(1), std::future::pending());
        for (method, sent) in [(Method::GET, false), (Method::POST, true)] {
            let half = HalfClose::of(&method, &HeaderMap::new());
            assert!(half.is_answered() && half.is_sent(&Body::Full(None)), "{method}");
            assert_eq!(half.is_sent(&stream), sent, "{method}");
        }
    }
}
