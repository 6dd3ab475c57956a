//! The addresses of servers, taken apart once at start and never again on a call's path.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// An `http`, `https`, `ws` or `wss` address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    /// `https` or `wss`.
    pub tls: bool,
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The scheme's own port where the address names none.
    pub port: u16,
    /// Path and query; starts with `/`.
    pub path: String,
}

/// Why a text is not an address the gateway can call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Something else before `://`, or nothing.
    #[error("it must begin with http://, https://, ws:// or wss://")]
    Scheme,
    /// Nothing between `://` and the path.
    #[error("it names no host")]
    NoHost,
    /// A host with characters no host has.
    #[error("its host is not a host name or an IP address")]
    Host,
    /// Not 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// `user:password@`.
    #[error("it carries credentials; put them under `headers` instead")]
    Credentials,
    /// `#…` means nothing to a server.
    #[error("it carries a fragment (#…), which is never sent")]
    Fragment,
    /// A blank, a control or a non-ASCII character.
    #[error("it contains a blank, a control or a non-ASCII character; percent-encode it")]
    Character,
}

// === impl HttpUrl ===

impl HttpUrl {
    /// What the `Host` header carries: the host, and the port unless it is the scheme's own.
    pub fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        let host = self.bracketed();
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }

    /// Scheme, host and port: what everybody may see. Path and query may hold a credential.
    pub fn origin(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The same address with `ws` or `wss` in front.
    pub fn websocket(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl FromStr for HttpUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err(UrlError::Scheme),
        };
        if !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(UrlError::Character);
        }
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(text) => parse_port(text)?,
            None if tls => 443,
            None => 80,
        };
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        Ok(Self { tls, host, port, path })
    }
}

pub(crate) fn split_port(authority: &str) -> Result<(String, Option<&str>), UrlError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or(UrlError::Host)?;
        let host: Ipv6Addr = inside.parse().map_err(|_| UrlError::Host)?;
        let port = match after {
            "" => None,
            _ => Some(after.strip_prefix(':').ok_or(UrlError::Host)?),
        };
        return Ok((host.to_string(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(UrlError::Host);
    }
    Ok((host.to_ascii_lowercase(), port))
}

pub(crate) fn parse_port(text: &str) -> Result<u16, UrlError> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(UrlError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, shown: Result<&str, UrlError>) {
        assert_eq!(
            text.parse::<HttpUrl>().map(|url| url.to_string()),
            shown.map(str::to_owned),
            "{text}"
        );
    }

    #[test]
    fn addresses_are_taken_apart_and_shown_again() {
        check("http://a:3001/mcp", Ok("http://a:3001/mcp"));
        check("HTTPS://Mcp.Example.com", Ok("https://mcp.example.com/"));
        check("http://a:80/", Ok("http://a/"));
        check("ws://[::1]:9/x?y=1", Ok("http://[::1]:9/x?y=1"));
        check("http://a?b", Ok("http://a/?b"));
    }

    #[test]
    fn what_cannot_be_called_is_refused_with_the_reason() {
        check("a:3001/mcp", Err(UrlError::Scheme));
        check("ftp://a/", Err(UrlError::Scheme));
        check("http:///mcp", Err(UrlError::NoHost));
        check("http://:80/mcp", Err(UrlError::NoHost));
        check("http://a:0/", Err(UrlError::Port));
        check("http://a:70000/", Err(UrlError::Port));
        check("http://a:+80/", Err(UrlError::Port));
        check("http://a:/", Err(UrlError::Port));
        check("http://u:p@a/", Err(UrlError::Credentials));
        check("http://a/#x", Err(UrlError::Fragment));
        check("http://a/x y", Err(UrlError::Character));
        check("http://a/\r\nx", Err(UrlError::Character));
        check("http://[zz]/", Err(UrlError::Host));
        check("http://a,b/", Err(UrlError::Host));
    }

    #[test]
    fn the_websocket_form_keeps_all_but_the_scheme() {
        let url: HttpUrl = "wss://a:8443/mcp?k=1".parse().unwrap();
        assert_eq!(url.websocket(), "wss://a:8443/mcp?k=1");
    }
}
