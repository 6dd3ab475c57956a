//! From an address to a proven connection.

use std::io;
use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::connection::{Connection, text};
use crate::proof::{self, Identity, ProofError};
use crate::{Lane, NodeId, PeerError, Settings, SetupError, tls};

/// Everything that dialling needs besides an address.
pub(crate) struct Dialler {
    tls: TlsConnector,
    tls_name: ServerName<'static>,
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) runtime: Handle,
}

// === impl Dialler ===

impl Dialler {
    pub(crate) fn new(
        identity: Identity,
        settings: Settings,
        runtime: Handle,
    ) -> Result<Self, SetupError> {
        let (tls, tls_name) = tls::connector()?;
        Ok(Self { tls, tls_name, identity, settings, runtime })
    }

    /// Dials `to` (0: whoever it is) at `address` and has it prove itself; takes
    /// [`Settings::dial`] at most. Must run on the transport's runtime.
    pub(crate) async fn dial(
        &self,
        address: &str,
        to: NodeId,
        lane: Lane,
    ) -> Result<Connection, PeerError> {
        match timeout(self.settings.dial, self.connect(address, to, lane)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PeerError::Unreachable(format!(
                "{address} gave no proven connection within {:?}",
                self.settings.dial
            ))),
        }
    }

    async fn connect(
        &self,
        address: &str,
        to: NodeId,
        lane: Lane,
    ) -> Result<Connection, PeerError> {
        let stream = connect_any(address).await?;
        let unreachable = |error: io::Error| {
            PeerError::Unreachable(format!("{address}: no TLS session: {}", text(&error)))
        };
        stream.set_nodelay(true).map_err(unreachable)?;
        let mut stream =
            self.tls.connect(self.tls_name.clone(), stream).await.map_err(unreachable)?;
        let peer = match proof::dial(&mut stream, &self.identity, lane, to).await {
            Ok(peer) => peer,
            Err(ProofError::WrongNode(found)) => {
                return Err(PeerError::WrongNode {
                    found: found.node,
                    name: found.name.to_string(),
                });
            }
            Err(error @ (ProofError::Broken(_) | ProofError::Channel(_))) => {
                return Err(PeerError::Unreachable(format!("{address}: {}", text(&error))));
            }
            Err(error @ (ProofError::HungUp | ProofError::Malformed(_) | ProofError::Wrong)) => {
                return Err(PeerError::Unproven(format!("{address}: {error}")));
            }
        };
        Connection::start(stream, peer, &self.settings, &self.runtime).await
    }
}

/// Connects to the first address of `host:port` that lets us.
async fn connect_any(address: &str) -> Result<TcpStream, PeerError> {
    let addresses: Vec<SocketAddr> = match address.parse() {
        // What needs no lookup must not wait behind one.
        Ok(address) => vec![address],
        Err(_) => lookup_host(address)
            .await
            .map_err(|error| PeerError::Unreachable(format!("{address}: no such host: {error}")))?
            .collect(),
    };
    let mut refused = !addresses.is_empty();
    let mut last = None;
    for candidate in addresses {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                refused &= error.kind() == io::ErrorKind::ConnectionRefused;
                last = Some(error);
            }
        }
    }
    match last {
        Some(_) if refused => Err(PeerError::Refused),
        Some(error) => Err(PeerError::Unreachable(format!("{address}: {error}"))),
        None => Err(PeerError::Unreachable(format!("{address}: the name has no address"))),
    }
}
