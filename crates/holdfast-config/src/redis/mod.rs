//! `sessions.redis`: how the Redis that holds the sessions is reached, and what makes a write last.

mod draft;
mod keys;
mod places;
mod url;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub(crate) use self::draft::Draft;

/// A Redis and what is asked of it.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where it is.
    pub topology: Topology,
    /// The ACL user. `None`: the default one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// The database's number. 0 to 255; 0 with a cluster, which has no other.
    pub database: u8,
    /// TLS to it, and to the Sentinels. `None`: plain.
    pub tls: Option<RedisTls>,
    /// The ACL user at the Sentinels.
    pub sentinel_username: Option<String>,
    /// Its password.
    pub sentinel_password: Option<SecretString>,
    /// Replicas that must have a durable write before it is acknowledged. 0 to 10. 0 with one
    /// Redis, else 1; never found out at run time, since a number that follows the replicas that
    /// happen to be there promises nothing.
    pub replicas_to_acknowledge: u8,
    /// How long their acknowledgement is waited for. 50ms to 5s, at most `command_timeout`.
    pub acknowledge_within: Duration,
    /// How long a command may take. 50ms to 10s.
    pub command_timeout: Duration,
    /// How long a connection may take. 50ms to 10s.
    pub connect_timeout: Duration,
    /// What every key begins with. 1 to 32 of `[A-Za-z0-9_-]`.
    pub key_prefix: String,
    /// Whether a Redis whose settings lose data is used all the same, with a warning.
    pub allow_unsafe: bool,
}

/// Where a Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One address.
    Standalone(HostPort),
    /// Sentinels know which address it is.
    Sentinel {
        /// Never empty.
        sentinels: Vec<HostPort>,
        /// The name under which they watch it.
        master: String,
    },
    /// Redis Cluster.
    Cluster {
        /// Some of its nodes, from which the others are learnt. Never empty.
        nodes: Vec<HostPort>,
    },
}

/// A name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// TLS to a Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// PEM file of the authorities that count. `None`: the machine's.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate that this node shows; with `client_key`.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its key.
    pub client_key: Option<PathBuf>,
}

// === impl Redis ===

impl Redis {
    /// The Redis at `topology` with every default.
    pub fn new(topology: Topology) -> Self {
        let replicas_to_acknowledge = match topology {
            Topology::Standalone(_) => 0,
            Topology::Sentinel { .. } | Topology::Cluster { .. } => 1,
        };
        Self {
            topology,
            username: None,
            password: None,
            database: 0,
            tls: None,
            sentinel_username: None,
            sentinel_password: None,
            replicas_to_acknowledge,
            acknowledge_within: Duration::from_millis(500),
            command_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            key_prefix: "holdfast".into(),
            allow_unsafe: false,
        }
    }
}

// === impl Topology ===

impl Topology {
    /// The word for it in status and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Standalone(_) => "standalone",
            Self::Sentinel { .. } => "sentinel",
            Self::Cluster { .. } => "cluster",
        }
    }
}

// === impl HostPort ===

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
