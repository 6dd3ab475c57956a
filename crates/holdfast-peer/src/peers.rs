//! The dialling side: every peer's address and connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::runtime::Handle;

use crate::{BoxError, Caller, Lane, NodeId, PeerError, Secret, Settings, SetupError};

/// All peers, as this node reaches them.
pub struct Peers {
    me: Caller,
}

/// One connection to a peer, for an operator's eyes.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The peer.
    pub node: NodeId,
    /// Which of its two connections.
    pub lane: Lane,
    /// Whether there is a proven connection now.
    pub connected: bool,
    /// How often it was dialled since the peer's address was given.
    pub dials: u64,
    /// How the last attempt failed, if it did.
    pub error: Option<PeerError>,
}

impl Peers {
    /// The peers of node `me`; nobody is known yet. Connections live on `runtime`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        _secret: Secret,
        me: NodeId,
        name: String,
        _settings: Settings,
        _runtime: Handle,
    ) -> Result<Arc<Self>, SetupError> {
        Ok(Arc::new(Self { me: Caller { node: me, name: name.into() } }))
    }

    /// Who we say we are.
    #[must_use]
    pub fn me(&self) -> &Caller {
        &self.me
    }

    /// Tells where `node` is (`host:port`). Another address than before ends the back-off and
    /// leaves the old connections to the requests they carry.
    pub fn set_address(&self, _node: NodeId, _address: String) {}

    /// Forgets `node` and breaks its connections: what is under way ends with
    /// [`PeerError::Broken`].
    pub fn forget(&self, _node: NodeId) {}

    /// Calls `method` of `to` and waits for the answer until `deadline` has passed.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn call(
        &self,
        _to: NodeId,
        _lane: Lane,
        _method: &'static str,
        _body: Bytes,
        _deadline: Duration,
    ) -> Result<Bytes, PeerError> {
        Err(PeerError::Refused)
    }

    /// Calls whoever is at `address`, over a connection of its own: for joining, when the id is
    /// not known yet.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn call_address(
        &self,
        _address: &str,
        _method: &'static str,
        _body: Bytes,
        _deadline: Duration,
    ) -> Result<Bytes, PeerError> {
        Err(PeerError::Refused)
    }

    /// Finds out who is at `address`.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn identify(&self, _address: &str, _deadline: Duration) -> Result<Caller, PeerError> {
        Err(PeerError::Refused)
    }

    /// Sends a request on to `to`, on [`Lane::Data`], and waits for the head of the answer.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn forward<B>(
        &self,
        _to: NodeId,
        _request: Request<B>,
        _deadline_for_headers: Duration,
    ) -> Result<Response<Incoming>, PeerError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Err(PeerError::Refused)
    }

    /// All connections, by node and lane.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        Vec::new()
    }
}
