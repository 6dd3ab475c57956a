//! Who may ask: the name they use for us, the page they come from, the token they carry.
//!
//! A browser on the operator's machine can be led to any address by any page. `Host` stops a name
//! that was rebound to loopback, `Origin` a page of another site; both hold without a token too.
//! The token is taken from the `Authorization` header only: one in a URL ends up in logs.
//!
//! | path | Host, Origin | token |
//! |---|---|---|
//! | `/health`, `/health/live`, `/health/ready` | not checked: probes use any name | not asked |
//! | `/metrics` | not checked: scrapers use any name | asked when one is set |
//! | `/`, `/page.js`, `/page.css`, `/icon.svg` | checked | not asked: they hold no data, and ask for it |
//! | everything else | checked | asked when one is set |

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use holdfast_config::{Admin as Section, ExposeSecret};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Shared;
use crate::api::ErrorDto;

/// The rules of one admin port.
#[derive(Debug)]
pub(super) struct Guard {
    address: IpAddr,
    /// Lower case; with or without a port.
    public_hosts: Vec<String>,
    /// Digests have one length, so comparing them tells nothing about the token's.
    token: Option<[u8; 32]>,
}

/// Why a request is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the request names no host, or several")]
    NoHost,
    #[error(
        "the host {0:?} is not one of this admin port's names; add it to admin.public_hosts if it is"
    )]
    Host(String),
    #[error("pages of {0:?} may not use this admin port")]
    Origin(String),
    #[error("this admin port needs a token: send the header `Authorization: Bearer <admin.token>`")]
    NoToken,
    #[error("the token is not the one in admin.token")]
    WrongToken,
}

/// Refuses what may not be asked; marks every answer as private.
pub(super) async fn check(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let mut response = match shared.guard().admit(path, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::debug!(path, %refusal, "admin request refused");
            refusal.into_response()
        }
    };
    let headers = response.headers_mut();
    let set = |headers: &mut HeaderMap, name, value| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(headers, CACHE_CONTROL, "no-store");
    set(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, REFERRER_POLICY, "no-referrer");
    set(
        headers,
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    response
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(address: SocketAddr, section: &Section) -> Self {
        let token = section.token.as_ref().map(|t| digest(t.expose_secret().as_bytes()));
        let public_hosts = section.public_hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        Self { address: address.ip(), public_hosts, token }
    }

    fn admit(&self, path: &str, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if holdfast_proxy::health::serves(path) {
            return Ok(());
        }
        if path != "/metrics" {
            let host = self.check_host(uri, headers)?;
            self.check_origin(headers, host)?;
        }
        if super::routes::is_page(path) { Ok(()) } else { self.check_token(headers) }
    }

    /// Where the request went.
    fn check_host<'a>(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Refusal> {
        let mut values = headers.get_all(HOST).iter();
        let host = match (values.next(), values.next(), uri.authority()) {
            (Some(host), None, _) => host.to_str().map_err(|_| Refusal::NoHost)?,
            // HTTP/2 has the name in the request's authority.
            (None, None, Some(authority)) => authority.as_str(),
            _ => return Err(Refusal::NoHost),
        };
        if self.is_ours(host) { Ok(host) } else { Err(Refusal::Host(host.to_owned())) }
    }

    fn check_origin(&self, headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
        let asked = without_port(host).map(str::to_ascii_lowercase);
        for origin in headers.get_all(ORIGIN) {
            let text = String::from_utf8_lossy(origin.as_bytes());
            let page = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            // Any page can be at an address: only the one that the request went to is known to be ours.
            let is_known = page.is_some_and(|page| {
                let name = without_port(page).map(str::to_ascii_lowercase);
                self.is_named(page) || (name.is_some() && name == asked)
            });
            if !is_known {
                return Err(Refusal::Origin(text.into_owned()));
            }
        }
        Ok(())
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        let value = headers.get(AUTHORIZATION).ok_or(Refusal::NoToken)?.as_bytes();
        let given = match value.split_at_checked(7) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") => given,
            _ => return Err(Refusal::NoToken),
        };
        match bool::from(digest(given.trim_ascii()).ct_eq(token)) {
            true => Ok(()),
            false => Err(Refusal::WrongToken),
        }
    }

    /// Whether a request to `host`, with or without a port, is meant for this port. Any address of the
    /// machine may be the one where it is bound to all; a page cannot rebind an IP address.
    fn is_ours(&self, host: &str) -> bool {
        let any =
            || self.address.is_unspecified() && without_port(host).and_then(address).is_some();
        self.is_named(host) || any()
    }

    /// Whether `host`, with or without a port, is known to be this port.
    fn is_named(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let Some(name) = without_port(&host) else { return false };
        if self.public_hosts.iter().any(|ours| *ours == host || ours == name) {
            return true;
        }
        let ip = address(name);
        if self.address.is_loopback() || self.address.is_unspecified() {
            name == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
        } else {
            ip == Some(self.address)
        }
    }
}

/// The address that a name is, if it is one.
fn address(name: &str) -> Option<IpAddr> {
    name.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The name of `name[:port]` or `[v6][:port]`; `None` when it is neither.
fn without_port(host: &str) -> Option<&str> {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(end);
    let digits = port.strip_prefix(':').unwrap_or("0");
    let is_port = (port.is_empty() || port.len() > 1) && digits.bytes().all(|b| b.is_ascii_digit());
    (!name.is_empty() && is_port).then_some(name)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::Host(_) | Self::Origin(_) => StatusCode::FORBIDDEN,
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
        };
        let body = ErrorDto { error: self.to_string() };
        let mut response = (status, axum::Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"holdfast admin\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, public_hosts: &[&str], token: Option<&str>) -> Guard {
        let section = Section {
            public_hosts: public_hosts.iter().map(|&h| h.to_owned()).collect(),
            token: token.map(Into::into),
            ..Section::default()
        };
        Guard::new(SocketAddr::new(address.parse().unwrap(), 37374), &section)
    }

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn names_of_the_port() {
        let table: &[(&str, &[&str], &str, bool)] = &[
            ("127.0.0.1", &[], "localhost", true),
            ("127.0.0.1", &[], "LocalHost:9999", true),
            ("127.0.0.1", &[], "127.0.0.1:37374", true),
            ("127.0.0.1", &[], "[::1]:37374", true),
            ("127.0.0.1", &[], "10.0.0.1:37374", false),
            ("127.0.0.1", &[], "evil.example:37374", false),
            ("127.0.0.1", &[], "localhost.evil.example", false),
            ("127.0.0.1", &[], "localhost:1@evil.example", false),
            ("127.0.0.1", &[], "localhost:", false),
            ("127.0.0.1", &[], "[::1", false),
            ("127.0.0.1", &[], "[::1]x", false),
            ("127.0.0.1", &[], "", false),
            ("127.0.0.1", &["ops.example"], "ops.example:8443", true),
            ("127.0.0.1", &["ops.example:8443"], "Ops.Example:8443", true),
            ("127.0.0.1", &["ops.example:8443"], "ops.example", false),
            ("0.0.0.0", &[], "10.1.2.3:37374", true),
            ("0.0.0.0", &[], "gateway-1:37374", false),
            ("10.1.2.3", &[], "10.1.2.3", true),
            ("10.1.2.3", &[], "10.1.2.4", false),
            ("10.1.2.3", &[], "localhost", false),
        ];
        for &(address, public, host, expected) in table {
            let ours = guard(address, public, None).is_ours(host);
            assert_eq!(ours, expected, "{host:?} on {address} with {public:?}");
        }
    }

    #[test]
    fn a_request_needs_one_host() {
        let guard = guard("127.0.0.1", &[], None);
        let uri = Uri::from_static("/api/status");
        let admit = |h: &[(http::HeaderName, &str)]| guard.admit("/api/status", &uri, &headers(h));
        assert_eq!(admit(&[(HOST, "localhost")]), Ok(()));
        assert_eq!(admit(&[]), Err(Refusal::NoHost));
        assert_eq!(admit(&[(HOST, "localhost"), (HOST, "localhost")]), Err(Refusal::NoHost));
        let absolute = Uri::from_static("http://localhost:1/api/status");
        assert_eq!(guard.admit("/api/status", &absolute, &HeaderMap::new()), Ok(()));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let guard = guard("127.0.0.1", &[], None);
        let admit = |origin| guard.check_origin(&headers(&[(ORIGIN, origin)]), "localhost:37374");
        assert_eq!(admit("http://localhost:37374"), Ok(()));
        for origin in ["https://evil.example", "null", "file://localhost", ""] {
            assert_eq!(admit(origin), Err(Refusal::Origin(origin.to_owned())));
        }
    }

    #[test]
    fn a_page_at_an_address_is_ours_only_if_the_request_went_there() {
        let guard = guard("0.0.0.0", &[], Some("0123456789abcdef"));
        let admit = |origin| guard.check_origin(&headers(&[(ORIGIN, origin)]), "10.1.2.3:37374");
        assert_eq!(admit("http://10.1.2.3:8080"), Ok(()));
        let other = "http://203.0.113.9";
        assert_eq!(admit(other), Err(Refusal::Origin(other.to_owned())));
    }

    #[test]
    fn the_token_is_asked_where_there_is_data() {
        let guard = guard("127.0.0.1", &[], Some("0123456789abcdef"));
        let uri = Uri::from_static("/");
        let admit = |path, token: Option<&str>| {
            let mut all = vec![(HOST, "localhost")];
            all.extend(token.map(|t| (AUTHORIZATION, t)));
            guard.admit(path, &uri, &headers(&all))
        };
        for path in ["/metrics", "/api/status", "/api/events", "/nonsense"] {
            assert_eq!(admit(path, None), Err(Refusal::NoToken), "{path}");
            assert_eq!(admit(path, Some("Bearer wrong")), Err(Refusal::WrongToken), "{path}");
            assert_eq!(admit(path, Some("Basic 0123456789abcdef")), Err(Refusal::NoToken));
            assert_eq!(admit(path, Some("bearer 0123456789abcdef")), Ok(()), "{path}");
        }
        for path in
            ["/", "/page.js", "/page.css", "/icon.svg", "/health", "/health/live", "/health/ready"]
        {
            assert_eq!(admit(path, None), Ok(()), "{path}");
        }
    }

    #[test]
    fn probes_and_scrapers_may_use_any_name() {
        let guard = guard("127.0.0.1", &[], None);
        let any = headers(&[(HOST, "gateway-1.internal:37374")]);
        let uri = Uri::from_static("/");
        assert_eq!(guard.admit("/health/ready", &uri, &any), Ok(()));
        assert_eq!(guard.admit("/metrics", &uri, &any), Ok(()));
        assert!(guard.admit("/", &uri, &any).is_err());
    }
}
