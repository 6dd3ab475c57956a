//! The accepting side: the cluster port.
//!
//! Whoever connects has [`Limits::handshake`] to make a TLS session and prove the secret, and one
//! of [`Limits::half_open`] places to do it in. Nothing is allocated for it beyond its task and the
//! TLS session; what fails is counted and, where an operator should know, logged.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::connection::text;
use crate::counters::count;
use crate::half_open::{HalfOpen, Place};
use crate::proof::{self, Identity, ProofError};
use crate::{
    BindError, Caller, Counters, Limits, NodeId, Secret, Service, hello, serve::serve, tls,
};

/// How long to wait when the system has no file descriptor for a connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// The cluster port, open.
pub struct Listener {
    port: Arc<Port>,
    address: SocketAddr,
    socket: TcpListener,
}

/// What every connection needs.
struct Port {
    identity: Identity,
    tls: TlsAcceptor,
    limits: Limits,
    half_open: Arc<HalfOpen>,
    counters: Arc<Counters>,
}

// === impl Listener ===

impl Listener {
    /// Opens the port of node `me`. Peers can connect from now on; they are answered once
    /// [`Listener::serve`] runs.
    ///
    /// # Errors
    /// When the address cannot be had or TLS cannot be set up.
    pub async fn bind(
        address: SocketAddr,
        secret: Secret,
        me: NodeId,
        name: String,
        limits: Limits,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { address, source };
        let tls = tls::acceptor()?;
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let identity = Identity { me: Caller { node: me, name: hello::fitting(&name) }, secret };
        let half_open = HalfOpen::new(limits.half_open);
        let port = Port { identity, tls, limits, half_open, counters: Arc::default() };
        Ok(Self { port: Arc::new(port), address, socket })
    }

    /// Where it listens; with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What happened on the port so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.port.counters)
    }

    /// Serves peers until `stop`, then lets what is running end within [`Limits::drain`]. From
    /// `stop` on the port is closed.
    ///
    /// # Cancel safety
    /// Dropping the future breaks all connections.
    pub async fn serve(self, service: Arc<dyn Service>, stop: CancellationToken) {
        let Self { port, socket, .. } = self;
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, from)) => {
                    count(&port.counters.accepted);
                    let place = port.half_open.enter(from.ip());
                    let (port, service, stop) =
                        (Arc::clone(&port), Arc::clone(&service), stop.clone());
                    connections.spawn(async move {
                        let proven = tokio::select! {
                            proven = port.admit(stream, from.ip(), place) => proven,
                            () = stop.cancelled() => None,
                        };
                        if let Some((stream, from)) = proven {
                            serve(stream, from, port.limits.clone(), service, stop).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer's connection");
                    sleep(EXHAUSTED).await;
                }
            }
        }
        drop(socket);
        while connections.join_next().await.is_some() {}
    }
}

// === impl Port ===

impl Port {
    /// Has a connection prove itself, within its time and as long as it has its place.
    async fn admit(
        &self,
        stream: TcpStream,
        address: IpAddr,
        place: Place,
    ) -> Option<(TlsStream<TcpStream>, Caller)> {
        let counters = &self.counters;
        let proven = tokio::select! {
            biased;
            () = place.evicted() => {
                count(&counters.evicted);
                return None;
            }
            proven = timeout(self.limits.handshake, self.prove(stream)) => proven,
        };
        let error = match proven {
            Ok(Ok(proven)) => {
                count(&counters.proven);
                return Some(proven);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                count(&counters.timed_out);
                return None;
            }
        };
        match &error {
            ProofError::Wrong => {
                // A flood of them must not become a flood of lines: 1, 2, 4, 8, ...
                let before = counters.unproven.fetch_add(1, Relaxed);
                if (before + 1).is_power_of_two() {
                    tracing::warn!(%address, times = before + 1, "somebody without the cluster secret on the cluster port");
                }
            }
            ProofError::WrongNode(from) => {
                count(&counters.wrong_node);
                tracing::debug!(%address, peer = %from.name, "a peer meant another node");
            }
            ProofError::Broken(_)
            | ProofError::Channel(_)
            | ProofError::HungUp
            | ProofError::Malformed(_) => {
                count(&counters.garbage);
                tracing::debug!(%address, error = text(&error), "no peer on the cluster port");
            }
        }
        None
    }

    async fn prove(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Caller), ProofError> {
        stream.set_nodelay(true)?;
        let mut stream = self.tls.accept(stream).await?;
        let (from, _lane) = proof::accept(&mut stream, &self.identity).await?;
        Ok((stream, from))
    }
}
