//! `admin`: the operator's port, for metrics, the API and the status page.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use secrecy::SecretString;

use crate::Tls;
use crate::listen::{read_address, read_hosts};
use crate::section::Section;

/// The operator's port.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where the operator connects. Loopback unless said otherwise; another address needs `token`.
    pub address: SocketAddr,
    /// What `Authorization: Bearer` must carry. At least 16 characters. `None`: nothing is asked.
    pub token: Option<SecretString>,
    /// TLS on this port; `None`: plain.
    pub tls: Option<Tls>,
    /// Host names under which the operator may reach this port besides its own address.
    pub public_hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 37374),
            token: None,
            tls: None,
            public_hosts: Vec::new(),
        }
    }
}

// === impl Admin ===

/// A shorter token could be guessed.
const LEAST_TOKEN: usize = 16;

impl Admin {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut admin = Self::default();
        read_address(&mut section, &mut admin.address);
        admin.token = section.secret("token", LEAST_TOKEN);
        admin.tls = Tls::read(&mut section);
        admin.public_hosts = read_hosts(&mut section);
        section.finish();
        admin
    }
}
