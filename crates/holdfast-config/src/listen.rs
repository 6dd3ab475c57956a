//! `listen`: the port that clients connect to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

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
