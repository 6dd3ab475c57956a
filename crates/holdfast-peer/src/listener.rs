//! The accepting side: the cluster port.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{BindError, Caller, Counters, Limits, NodeId, Secret, Service};

/// The cluster port, open.
pub struct Listener {
    _me: Caller,
    address: SocketAddr,
    counters: Arc<Counters>,
    _socket: TcpListener,
}

impl Listener {
    /// Opens the port of node `me`. Peers can connect from now on; they are answered once
    /// [`Listener::serve`] runs.
    ///
    /// # Errors
    /// When the address cannot be had or TLS cannot be set up.
    pub async fn bind(
        address: SocketAddr,
        _secret: Secret,
        me: NodeId,
        name: String,
        _limits: Limits,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Self {
            _me: Caller { node: me, name: name.into() },
            address: socket.local_addr().map_err(failed)?,
            counters: Arc::default(),
            _socket: socket,
        })
    }

    /// Where it listens; with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What happened on the port so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves peers until `stop`, then lets what is running end within [`Limits::drain`].
    pub async fn serve(self, _service: Arc<dyn Service>, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
