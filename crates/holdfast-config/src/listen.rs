//! `listen`: the port that clients connect to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::field::Field;
use crate::section::Section;

/// The client port and how long it waits for whom.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where clients connect. Loopback unless said otherwise; port 0 takes a free one.
    pub address: SocketAddr,
    /// Host names under which clients may reach the node besides its own address, lower case;
    /// with or without a port.
    pub public_hosts: Vec<String>,
    /// Values of `Origin` that browsers may send besides those of the allowed hosts.
    pub allowed_origins: Vec<String>,
    /// Whose `X-Forwarded-*` and request ids count.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS on this port; `None`: plain.
    pub tls: Option<Tls>,
    /// How long a client may take to send a request's headers. 1s to 5m.
    pub header_timeout: Duration,
    /// How long a client may pause while it sends a body. 1s to 10m.
    pub body_timeout: Duration,
    /// How long an idle connection stays open. 1s to 1h.
    pub idle_timeout: Duration,
    /// Event loops, each on a thread of its own; 0 is one per core.
    pub workers: usize,
    /// How long running calls may take to end after SIGTERM. 0s to 1h.
    pub drain_deadline: Duration,
    /// A further path that answers as `/health/ready` does, for balancers with a fixed one.
    pub health_path: Option<String>,
}

/// A certificate and its key, both PEM files; read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 37373),
            public_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: loopback(),
            tls: None,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            workers: 0,
            drain_deadline: Duration::from_secs(30),
            health_path: None,
        }
    }
}

fn loopback() -> Vec<IpNet> {
    ["127.0.0.0/8", "::1/128"].iter().filter_map(|net| net.parse().ok()).collect()
}

// === impl Listen ===

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

impl Listen {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut listen = Self::default();
        read_address(&mut section, &mut listen.address);
        listen.public_hosts = read_hosts(&mut section);
        if let Some(field) = section.field("allowed_origins") {
            let items = field.items().unwrap_or_default();
            listen.allowed_origins = items.iter().filter_map(read_origin).collect();
        }
        if let Some(field) = section.field("trusted_proxies") {
            let items = field.items().unwrap_or_default();
            listen.trusted_proxies = items.iter().filter_map(read_net).collect();
        }
        listen.tls = Tls::read(&mut section);
        section.duration("header_timeout", SECOND..=SECOND * 300, &mut listen.header_timeout);
        section.duration("body_timeout", SECOND..=SECOND * 600, &mut listen.body_timeout);
        section.duration("idle_timeout", SECOND..=HOUR, &mut listen.idle_timeout);
        section.count("workers", 0..=1024, &mut listen.workers);
        section.duration("drain_deadline", Duration::ZERO..=HOUR, &mut listen.drain_deadline);
        if let Some(field) = section.field("health_path") {
            listen.health_path = field.text().and_then(|path| match check_health_path(&path) {
                Ok(()) => Some(path),
                Err(why) => {
                    field.problem(format!("{} {why}", field.shown()), HEALTH_PATH, HEALTH_CURE);
                    None
                }
            });
        }
        section.finish();
        listen
    }
}

/// What `health_path` may be.
pub(crate) const HEALTH_PATH: &str = "a path that begins with / and is not the gateway's own";
pub(crate) const HEALTH_CURE: &str = "write something like /healthz";

pub(crate) fn check_health_path(path: &str) -> Result<(), &'static str> {
    let own = ["/mcp", "/sse", "/messages"];
    if !path.starts_with('/') {
        Err("does not begin with /")
    } else if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%')) {
        Err("has characters that the path of a probe cannot have")
    } else if path == "/" || own.iter().any(|o| path == *o || path.starts_with(&format!("{o}/"))) {
        Err("is the gateway's own path")
    } else {
        Ok(())
    }
}

/// `address` of a listener.
pub(crate) fn read_address(section: &mut Section<'_>, into: &mut SocketAddr) {
    let Some(field) = section.field("address") else { return };
    let Some(text) = field.text() else { return };
    match parse_address(&text) {
        Ok(address) => *into = address,
        Err(why) => {
            let found = format!("{} {why}", field.shown());
            field.problem(found, ADDRESS, &format!("write something like {into}"));
        }
    }
}

/// What an address may be.
pub(crate) const ADDRESS: &str = "IP:PORT, the port from 0 (any free one) to 65535";

/// `IP:PORT`; `localhost` is 127.0.0.1.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    let spelt = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    if let Ok(address) = spelt.parse() {
        return Ok(address);
    }
    let Some((host, port)) = spelt.rsplit_once(':') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(_) => "has no port",
            Err(_) if text.bytes().all(|b| b.is_ascii_digit()) => "has no IP address",
            Err(_) => "is not an address",
        });
    };
    match (host, port.parse::<u16>()) {
        ("", Ok(_)) => Err("has no IP address (0.0.0.0 is every IPv4 address)"),
        (_, Err(_)) => Err("has a port that is not a number from 0 to 65535"),
        (_, Ok(_)) => Err("is not an IP address and a port; names are not looked up here"),
    }
}

/// `public_hosts` of a listener, lower case.
pub(crate) fn read_hosts(section: &mut Section<'_>) -> Vec<String> {
    let Some(field) = section.field("public_hosts") else { return Vec::new() };
    let items = field.items().unwrap_or_default();
    items.iter().filter_map(read_host).collect()
}

fn read_host(field: &Field<'_>) -> Option<String> {
    let host = field.text()?.to_ascii_lowercase();
    if is_host(&host) {
        return Some(host);
    }
    let cure = match host.split_once("://") {
        Some((_, rest)) => format!("write {}", rest.split('/').next().unwrap_or_default()),
        None if host.contains('*') => "name each host; there are no patterns".into(),
        None => "write something like mcp.example.com".into(),
    };
    field.wrong("a host", "a host name or IP address, with or without :PORT", &cure);
    None
}

/// A host as it may stand in `Host`: a name or an address, IPv6 in brackets, maybe a port.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let host_fits = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            !host.is_empty() && host.len() <= 253 && host.bytes().all(known)
        }
    };
    port_fits && host_fits
}

fn read_origin(field: &Field<'_>) -> Option<String> {
    let origin = field.text()?.to_ascii_lowercase();
    let (scheme, host) = origin.split_once("://").unwrap_or(("", &origin));
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.is_empty() && scheme.chars().all(known) && is_host(host) {
        return Some(origin);
    }
    let cure = if origin.contains('*') {
        "name each origin; one that allows every site would let any page call your servers".into()
    } else if scheme.is_empty() {
        format!("write https://{origin}")
    } else {
        format!("write {scheme}://{}", host.split('/').next().unwrap_or_default())
    };
    field.wrong("an origin", "SCHEME://HOST or SCHEME://HOST:PORT, without a path", &cure);
    None
}

fn read_net(field: &Field<'_>) -> Option<IpNet> {
    let text = field.text()?;
    if let Ok(net) = text.parse::<IpNet>() {
        return Some(net.trunc());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    field.wrong("a network", "an IP address or a network in CIDR form", "write 10.0.0.0/24");
    None
}

// === impl Tls ===

impl Tls {
    /// `tls` of a listener; both files must be there to be read.
    pub(crate) fn read(parent: &mut Section<'_>) -> Option<Self> {
        let field = parent.field("tls")?;
        let mut section = field.section()?;
        let certificate = read_pem(&mut section, "certificate", "CERTIFICATE");
        let key = read_pem(&mut section, "key", "PRIVATE KEY");
        let missing: Vec<_> = ["certificate", "key"]
            .into_iter()
            .filter(|key| section.given(&[key]).is_empty())
            .collect();
        if !missing.is_empty() {
            field.problem(
                format!("tls without {}", missing.join(" and ")),
                "certificate and key, both PEM files",
                "name both files, or remove tls",
            );
        }
        section.finish();
        Some(Self { certificate: certificate?, key: key? })
    }
}

/// A PEM file that can be read and holds what it should.
pub(crate) fn read_pem(
    section: &mut Section<'_>,
    key: &'static str,
    holds: &str,
) -> Option<PathBuf> {
    let field = section.field(key)?;
    let path = PathBuf::from(field.text()?);
    let allowed = format!("a PEM file with a {holds} block");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.contains(&format!("{holds}-----")) => Some(path),
        Ok(_) => {
            let found = format!("{} holds no {holds} block", path.display());
            field.problem(found, &allowed, "name the right file");
            None
        }
        Err(error) => {
            let found = format!("{} cannot be read: {error}", path.display());
            field.problem(found, &allowed, "check the path and its permissions");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(parse_address("0.0.0.0:80").unwrap().port(), 80);
        assert_eq!(parse_address("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(parse_address("[::1]:0").unwrap().port(), 0);
        for bad in ["", "80", ":80", "127.0.0.1", "127.0.0.1:70000", "example.com:80", "1.2.3.4:x"]
        {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        for good in ["a", "mcp.example.com", "a:8080", "10.0.0.1", "[::1]", "[::1]:80"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "*", "a/b", "http://a", "a:0", "a:70000", "[zz]", "::1", "a b", ":80"] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn health_paths() {
        assert!(check_health_path("/healthz").is_ok());
        assert!(check_health_path("/mcpx").is_ok());
        for bad in ["", "healthz", "/", "/mcp", "/mcp/a", "/sse", "/a?b", "/a b"] {
            assert!(check_health_path(bad).is_err(), "{bad}");
        }
    }
}
