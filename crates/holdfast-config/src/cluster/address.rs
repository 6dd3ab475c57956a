//! `HOST:PORT` of a node, as the others reach it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::listen::is_host;

/// What a node's address may be.
pub(crate) const ADDRESS: &str = "HOST:PORT, the host a name or an IP address";

/// Whether others could call the address, or why not.
pub(crate) fn check(text: &str) -> Result<(), &'static str> {
    if text.contains("://") {
        return Err("has a scheme, and the nodes speak a protocol of their own");
    }
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if port(text).is_none() && text.rsplit_once(':').is_some_and(|(_, port)| digits(port)) {
        return Err("has a port that is not a number from 1 to 65535");
    }
    if !is_host(text) {
        return Err("is not an address");
    }
    match port(text) {
        Some(_) => Ok(()),
        None => Err("has no port"),
    }
}

/// Where a node listens that only says how the others reach it: there and nowhere else where that
/// is an address of its own, and on every IPv4 address where it is a name, since which address a
/// name stands for is not known here.
pub(crate) fn listen_for(own: &str) -> Option<SocketAddr> {
    let (host, port) = split(own)?;
    let ip = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => {
            let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            bare.unwrap_or(host).parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether the address can be reached from this machine alone.
pub(crate) fn is_local(text: &str) -> bool {
    listen_for(text).is_some_and(|address| address.ip().is_loopback())
}

pub(crate) fn split(text: &str) -> Option<(&str, u16)> {
    let port = port(text)?;
    text.rsplit_once(':').map(|(host, _)| (host, port))
}

fn port(text: &str) -> Option<u16> {
    let (_, port) = text.rsplit_once(':').filter(|(_, port)| !port.contains(']'))?;
    port.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_others_can_call() {
        for good in ["gateway-1:37375", "10.0.0.1:1", "[::1]:37375", "a.example.com:65535"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "gateway-1", "gateway-1:0", "a:70000", "::1", ":1", "http://a:1", "a b:1"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn where_a_node_listens_follows_from_where_it_is_reached() {
        let listens = |own| listen_for(own).map(|address| address.to_string());
        assert_eq!(listens("localhost:5").as_deref(), Some("127.0.0.1:5"));
        assert_eq!(listens("127.0.0.1:5").as_deref(), Some("127.0.0.1:5"));
        assert_eq!(listens("[::1]:5").as_deref(), Some("[::1]:5"));
        assert_eq!(listens("10.0.0.1:5").as_deref(), Some("10.0.0.1:5"));
        assert_eq!(listens("gateway-1:5").as_deref(), Some("0.0.0.0:5"));
        assert_eq!(listens("gateway-1"), None);
        assert!(is_local("127.0.0.1:5") && !is_local("gateway-1:5"));
    }
}
