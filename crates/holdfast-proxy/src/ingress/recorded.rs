//! A request as it is kept with the record of its stream: what another node needs to send it again.
//!
//! The client that comes back sends the headers of a GET. Those that a modern server reads beside the
//! body (2026-07-28, "Standard headers") are the request's own.

use bytes::Bytes;
use holdfast_mcp::headers::name;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

/// What is kept of a request.
#[derive(Serialize, Deserialize)]
pub(crate) struct Recorded {
    headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Bytes,
}

impl Recorded {
    pub(crate) fn of(headers: &HeaderMap, body: &Bytes) -> Self {
        let own = |name: &HeaderName| {
            [name::PROTOCOL_VERSION, name::METHOD, name::NAME].contains(name)
                || name.as_str().starts_with(name::PARAM_PREFIX)
        };
        let headers = headers.iter().filter(|(name, _)| own(name));
        let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        Self { headers: headers.collect(), body: body.clone() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// The headers of the request, over those that come now.
    pub(crate) fn headers(&self, mut now: HeaderMap) -> HeaderMap {
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                now.insert(name, value);
            }
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_it_was_and_the_credential_is_the_live_one() {
        let mut then = HeaderMap::new();
        then.insert("mcp-method", HeaderValue::from_static("tools/call"));
        then.insert("mcp-param-region", HeaderValue::from_static("eu"));
        then.insert("authorization", HeaderValue::from_static("Bearer old"));
        let body = Bytes::from_static(b"{}");
        let kept = Recorded::decode(&Recorded::of(&then, &body).encode()).expect("readable");
        let mut now = HeaderMap::new();
        now.insert("authorization", HeaderValue::from_static("Bearer new"));
        now.insert("mcp-method", HeaderValue::from_static("other"));
        let headers = kept.headers(now);
        assert_eq!(kept.body, body);
        assert_eq!(headers["mcp-method"], "tools/call");
        assert_eq!(headers["mcp-param-region"], "eu");
        assert_eq!(headers["authorization"], "Bearer new");
    }

    #[test]
    fn garbage_is_not_read() {
        assert!(Recorded::decode(b"\xff\xff\xff\xff\xff").is_none());
    }
}
