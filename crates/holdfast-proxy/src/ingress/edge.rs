//! What is checked of every request before anybody looks at its meaning.
//!
//! Two kinds of rules. Framing: hyper refuses most of what is ambiguous, and what it lets through
//! but a next hop could read differently is refused here (RFC 9112, sections 3.2, 6.1 and 6.3).
//! Names: `Host` and `Origin` have to be ours, which is what keeps a web page from reaching a
//! gateway on the visitor's own machine by DNS rebinding (MCP, transports, security warning).

use std::net::IpAddr;

use holdfast_config::Listen;
use http::header::{CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Version};

use crate::metrics::Rejection;

/// The names under which this gateway may be addressed.
#[derive(Debug)]
pub(crate) struct Edge {
    bound: IpAddr,
    /// The same as it stands in a `Host`: what nearly every request says is recognised by its bytes.
    literal: String,
    public: Vec<(String, Option<u16>)>,
    origins: Vec<String>,
    header_bytes: usize,
}

/// A request that is refused before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EdgeError {
    #[error("an HTTP/1.1 request needs exactly one Host header")]
    HostCount,
    #[error("the request line names another authority than the Host header")]
    AuthorityMismatch,
    #[error("Transfer-Encoding beside Content-Length is ambiguous")]
    BothLengths,
    #[error("the only transfer coding taken is exactly: chunked")]
    Coding,
    #[error("this host name is not one of the gateway's (add it to listen.public_hosts)")]
    Host,
    #[error("this origin may not use the gateway (add it to listen.allowed_origins)")]
    Origin,
}

// === impl Edge ===

impl Edge {
    pub(crate) fn new(listen: &Listen, header_bytes: usize) -> Self {
        Self {
            bound: listen.address.ip(),
            literal: match listen.address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
            public: listen.public_hosts.iter().map(|host| split_port(host)).collect(),
            header_bytes,
            origins: listen.allowed_origins.iter().map(|o| o.to_ascii_lowercase()).collect(),
        }
    }

    /// Framing of the request, for every path.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn check_framing(&self, request: &Parts) -> Result<(), EdgeError> {
        let headers = &request.headers;
        if request.version < Version::HTTP_2 {
            let mut hosts = headers.get_all(HOST).iter();
            let (Some(host), None) = (hosts.next(), hosts.next()) else {
                return Err(EdgeError::HostCount);
            };
            if let Some(authority) = request.uri.authority()
                && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
            {
                return Err(EdgeError::AuthorityMismatch);
            }
        } else if let (Some(host), Some(authority)) = (headers.get(HOST), request.uri.authority())
            && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
        {
            return Err(EdgeError::AuthorityMismatch);
        }
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            if headers.contains_key(CONTENT_LENGTH) {
                return Err(EdgeError::BothLengths);
            }
            if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(EdgeError::Coding);
            }
        }
        Ok(())
    }

    /// Size of the header section: hyper's own limit is that of its buffer, which is larger.
    ///
    /// # Errors
    /// The limit, in bytes.
    pub(crate) fn check_size(&self, headers: &HeaderMap) -> Result<(), usize> {
        // A name, a value, and what separates them on the wire.
        let size: usize =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if size > self.header_bytes { Err(self.header_bytes) } else { Ok(()) }
    }

    /// Names in the request, for every path but health.
    ///
    /// # Errors
    /// [`EdgeError::Host`] or [`EdgeError::Origin`].
    pub(crate) fn check_names(&self, request: &Parts) -> Result<(), EdgeError> {
        let host = match request.headers.get(HOST) {
            Some(host) => host.to_str().ok(),
            None => request.uri.authority().map(Authority::as_str),
        };
        let Some(host) = host.filter(|host| self.is_ours(host)) else {
            return Err(EdgeError::Host);
        };
        self.check_origin(&request.headers, host)
    }

    /// `host` is where the request went.
    fn check_origin(&self, headers: &HeaderMap, host: &str) -> Result<(), EdgeError> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(()) };
        if origins.next().is_some() {
            return Err(EdgeError::Origin);
        }
        let origin = origin.to_str().map_err(|_| EdgeError::Origin)?.to_ascii_lowercase();
        if self.origins.contains(&origin) {
            return Ok(());
        }
        let (scheme, authority) = origin.split_once("://").ok_or(EdgeError::Origin)?;
        // Any page can be at an address: only the one that the request went to is known to be ours.
        let known = matches!(scheme, "http" | "https")
            && (self.is_named(authority) || split_port(authority).0 == split_port(host).0);
        known.then_some(()).ok_or(EdgeError::Origin)
    }

    /// Whether a request to `host[:port]` is meant for this gateway. A page cannot make a name resolve into
    /// an address literal, so literals are safe where any address may be the machine's.
    fn is_ours(&self, authority: &str) -> bool {
        self.is_named(authority)
            || (self.bound.is_unspecified() && address(&split_port(authority).0).is_some())
    }

    /// Whether `host[:port]` is known to be this gateway.
    fn is_named(&self, authority: &str) -> bool {
        if let Some(port) = authority.strip_prefix(&*self.literal)
            && (port.is_empty()
                || port.strip_prefix(':').is_some_and(|it| it.parse::<u16>().is_ok()))
        {
            return true;
        }
        let (host, port) = split_port(authority);
        if self.public.iter().any(|(name, only)| {
            *name == host && only.is_none_or(|only| Some(only) == port || port.is_none())
        }) {
            return true;
        }
        if self.bound.is_loopback() || self.bound.is_unspecified() {
            return host == "localhost" || address(&host).is_some_and(|ip| ip.is_loopback());
        }
        address(&host) == Some(self.bound)
    }
}

/// The address that a host is, if it is one.
fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl EdgeError {
    pub(crate) fn rejection(self) -> Rejection {
        match self {
            Self::Host => Rejection::Host,
            Self::Origin => Rejection::Origin,
            Self::HostCount | Self::AuthorityMismatch | Self::BothLengths | Self::Coding => {
                Rejection::Malformed
            }
        }
    }
}

/// `host[:port]` in lower case; brackets of an IPv6 literal stay.
fn split_port(authority: &str) -> (String, Option<u16>) {
    let end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[end..].rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(end + colon);
            match port[1..].parse() {
                Ok(port) => (host.to_ascii_lowercase(), Some(port)),
                // Not a port: then it is no name of ours either.
                Err(_) => (authority.to_ascii_lowercase(), None),
            }
        }
        None => (authority.to_ascii_lowercase(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn edge(address: &str, public: &[&str]) -> Edge {
        Edge::new(
            &Listen {
                address: address.parse().unwrap(),
                public_hosts: public.iter().map(|host| (*host).to_owned()).collect(),
                allowed_origins: vec!["https://app.example.com".into()],
                ..Listen::default()
            },
            1024,
        )
    }

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/mcp");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_loopback_gateway_answers_to_loopback_names_only() {
        let edge = edge("127.0.0.1:1", &[]);
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9", "127.0.0.2", "[::1]:37373"] {
            assert_eq!(edge.check_names(&parts(&[("host", host)])), Ok(()), "{host}");
        }
        for host in ["evil.example.com", "127.0.0.1.evil.com", "10.0.0.1", "localhost:x", ""] {
            let refused = edge.check_names(&parts(&[("host", host)]));
            assert_eq!(refused, Err(EdgeError::Host), "{host}");
        }
    }

    #[test]
    fn an_open_gateway_answers_to_literals_and_public_hosts() {
        let edge = edge("0.0.0.0:1", &["mcp.example.com", "other.example.com:8443"]);
        for host in
            ["10.1.2.3:80", "mcp.example.com", "MCP.example.com:99", "other.example.com:8443"]
        {
            assert_eq!(edge.check_names(&parts(&[("host", host)])), Ok(()), "{host}");
        }
        for host in ["evil.example.com", "other.example.com:80"] {
            assert_eq!(edge.check_names(&parts(&[("host", host)])), Err(EdgeError::Host), "{host}");
        }
    }

    #[test]
    fn an_origin_is_ours_or_listed() {
        let edge = edge("127.0.0.1:1", &[]);
        let check = |origin| edge.check_names(&parts(&[("host", "localhost"), ("origin", origin)]));
        for origin in ["http://localhost:3000", "https://127.0.0.1", "https://app.example.com"] {
            assert_eq!(check(origin), Ok(()), "{origin}");
        }
        for origin in ["null", "https://evil.com", "file://localhost", "http://localhost.evil.com"]
        {
            assert_eq!(check(origin), Err(EdgeError::Origin), "{origin}");
        }
    }

    #[test]
    fn a_page_at_an_address_is_ours_only_if_the_request_went_there() {
        let edge = edge("0.0.0.0:1", &[]);
        let check =
            |origin| edge.check_names(&parts(&[("host", "10.1.2.3:37373"), ("origin", origin)]));
        for origin in ["http://10.1.2.3:8080", "http://127.0.0.1:3000", "https://app.example.com"] {
            assert_eq!(check(origin), Ok(()), "{origin}");
        }
        for origin in ["http://203.0.113.9", "http://[2001:db8::1]", "http://10.1.2.30"] {
            assert_eq!(check(origin), Err(EdgeError::Origin), "{origin}");
        }
    }

    #[test]
    fn the_header_section_has_a_size() {
        let edge = edge("127.0.0.1:1", &[]);
        let filler = "x".repeat(1024 - "host".len() - "a".len() - "x".len() - 8);
        let headers = |filler: &str| parts(&[("host", "a"), ("x", filler)]).headers;
        assert_eq!(edge.check_size(&headers(&filler)), Ok(()));
        assert_eq!(edge.check_size(&headers(&format!("{filler}x"))), Err(1024));
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let edge = edge("127.0.0.1:1", &[]);
        let check = |headers: &[(&str, &str)]| edge.check_framing(&parts(headers));
        assert_eq!(check(&[("host", "a"), ("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(check(&[]), Err(EdgeError::HostCount));
        assert_eq!(check(&[("host", "a"), ("host", "a")]), Err(EdgeError::HostCount));
        let both = [("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")];
        assert_eq!(check(&both), Err(EdgeError::BothLengths));
        for coding in ["identity, chunked", "chunked, chunked", "gzip", "xchunked"] {
            let refused = check(&[("host", "a"), ("transfer-encoding", coding)]);
            assert_eq!(refused, Err(EdgeError::Coding), "{coding}");
        }
    }
}
