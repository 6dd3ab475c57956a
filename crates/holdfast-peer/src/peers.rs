//! The dialling side: every peer's address and connections.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Connection, RequestBody, text};
use crate::dial::Dialler;
use crate::envelope::{self, ReadError};
use crate::hello;
use crate::link::Link;
use crate::proof::Identity;
use crate::{BoxError, Caller, Lane, NodeId, PeerError, Secret, Settings, SetupError};

/// All peers, as this node reaches them.
///
/// Can be used from any tokio runtime with a clock; the connections and their tasks live on the one
/// given to [`Peers::new`]. Dropping it lets what is under way end.
pub struct Peers {
    dialler: Arc<Dialler>,
    links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
}

/// One connection to a peer, for an operator's eyes.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The peer.
    pub node: NodeId,
    /// Where it is dialled.
    pub address: String,
    /// Which of its two connections.
    pub lane: Lane,
    /// Whether there is a proven connection now.
    pub connected: bool,
    /// How often it was dialled since the peer's address was given.
    pub dials: u64,
    /// How the last attempt failed, if none succeeded since.
    pub error: Option<PeerError>,
}

// === impl Peers ===

impl Peers {
    /// The peers of node `me`; nobody is known yet. Connections live on `runtime`, which should
    /// not be one that is kept busy: their pings are answered there.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        secret: Secret,
        me: NodeId,
        name: String,
        settings: Settings,
        runtime: Handle,
    ) -> Result<Arc<Self>, SetupError> {
        let me = Caller { node: me, name: hello::fitting(&name) };
        let dialler = Dialler::new(Identity { me, secret }, settings, runtime)?;
        Ok(Arc::new(Self { dialler: Arc::new(dialler), links: RwLock::default() }))
    }

    /// Who we say we are.
    #[must_use]
    pub fn me(&self) -> &Caller {
        &self.dialler.identity.me
    }

    /// Tells where `node` is (`host:port`). The same address as before changes nothing; another
    /// one ends the back-off and leaves the old connections to the requests they carry.
    pub fn set_address(&self, node: NodeId, address: String) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if links.get(&node).is_none_or(|link| link.address != address) {
            links.insert(node, Link::new(node, address));
        }
    }

    /// Forgets `node` and breaks its connections: what is under way there ends with
    /// [`PeerError::Broken`], and bodies with an error.
    pub fn forget(&self, node: NodeId) {
        let link = self.links.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
        if let Some(link) = link {
            link.close();
        }
    }

    /// Calls `method` of `to` and waits for the answer until `deadline` has passed, dialling
    /// included. `method` may contain letters, digits, `-`, `_` and `/`.
    ///
    /// # Errors
    /// See [`PeerError`].
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream; whether the peer has begun is then unknown.
    pub async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, PeerError> {
        let deadline = Instant::now() + deadline;
        let request = call_request(method, body)?;
        let response = self.send(to, lane, request, deadline).await?;
        self.read_answer(response, deadline).await
    }

    /// Calls whoever is at `address`, over a connection of its own: for joining, when the id is
    /// not known yet.
    ///
    /// # Errors
    /// See [`PeerError`]; never [`PeerError::WrongNode`].
    pub async fn call_address(
        &self,
        address: &str,
        method: &'static str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, PeerError> {
        let deadline = Instant::now() + deadline;
        let request = call_request(method, body)?;
        let connection = self.dial_once(address, deadline).await?;
        let response = connection.send(request, deadline).await.map_err(|failed| failed.error)?;
        self.read_answer(response, deadline).await
    }

    /// Sends a request on to `to`, on [`Lane::Data`], and waits for the head of the answer.
    ///
    /// Method, URI, version and headers arrive as they are, except for headers that belong to the
    /// client's own connection (`connection`, `upgrade`, ...) and a `content-length` that is added
    /// where the length of the body is known. Both bodies are streamed, each as fast as its reader
    /// reads. The body of the answer has no deadline of its own: it fails when the peer is silent
    /// for longer than the pings allow, and dropping it resets the stream.
    ///
    /// # Errors
    /// See [`PeerError`].
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream; whether the peer has begun is then unknown.
    pub async fn forward<B>(
        &self,
        to: NodeId,
        request: Request<B>,
        deadline_for_headers: Duration,
    ) -> Result<Response<Incoming>, PeerError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let deadline = Instant::now() + deadline_for_headers;
        if request.method() == Method::CONNECT {
            return Err(PeerError::Unreachable("CONNECT cannot be forwarded".into()));
        }
        let request = envelope::forward(request)
            .map_err(|error| PeerError::Unreachable(format!("cannot be forwarded: {error}")))?
            .map(|body| body.map_err(Into::into).boxed_unsync());
        let response = self.send(to, Lane::Data, request, deadline).await?;
        if envelope::is_rejection(&response) {
            return Err(rejected(response, deadline).await);
        }
        Ok(response)
    }

    /// All connections, by node and lane.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links
            .values()
            .flat_map(|link| [Lane::Control, Lane::Data].map(|lane| link.status(lane)))
            .collect()
    }

    /// Sends a request to a peer. One that never left an ending connection goes over a new one.
    async fn send(
        &self,
        to: NodeId,
        lane: Lane,
        mut request: Request<RequestBody>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, PeerError> {
        let link = self.links.read().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
        let Some(link) = link else {
            return Err(PeerError::Unreachable(format!("node {to} is no peer")));
        };
        let mut again = true;
        loop {
            let connection = link.connection(&self.dialler, lane, deadline).await?;
            let failed = match connection.send(request, deadline).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            if failed.error.certainly_not_sent() {
                link.retire(lane, &connection);
            }
            match failed.request {
                Some(unsent) if again => (request, again) = (unsent, false),
                _ => return Err(failed.error),
            }
        }
    }

    /// A connection that nobody else uses, and that ends when it is dropped.
    async fn dial_once(&self, address: &str, deadline: Instant) -> Result<Connection, PeerError> {
        let (dialler, address) = (Arc::clone(&self.dialler), address.to_owned());
        let mut dialling = self
            .dialler
            .runtime
            .spawn(async move { dialler.dial(&address, 0, Lane::Control).await });
        match timeout_at(deadline, &mut dialling).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                Err(PeerError::Unreachable("the runtime of the transport has ended".into()))
            }
            Err(_) => {
                dialling.abort();
                Err(PeerError::TimedOut { sent: false })
            }
        }
    }

    /// Reads the answer to a call.
    async fn read_answer(
        &self,
        response: Response<Incoming>,
        deadline: Instant,
    ) -> Result<Bytes, PeerError> {
        if envelope::is_rejection(&response) || response.status() != StatusCode::OK {
            return Err(rejected(response, deadline).await);
        }
        let most = self.dialler.settings.largest_answer;
        match timeout_at(deadline, envelope::read(response.into_body(), most)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ReadError::TooLong)) => {
                Err(PeerError::Broken(format!("the answer is longer than {most} bytes")))
            }
            Ok(Err(ReadError::Broken(error))) => Err(PeerError::Broken(text(&*error))),
            Err(_) => Err(PeerError::TimedOut { sent: true }),
        }
    }
}

fn call_request(method: &str, body: Bytes) -> Result<Request<RequestBody>, PeerError> {
    let request = envelope::call(method, body)
        .map_err(|error| PeerError::Unreachable(format!("{method} cannot be called: {error}")))?;
    Ok(request.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
}

async fn rejected(response: Response<Incoming>, deadline: Instant) -> PeerError {
    let (status, reason) = (response.status(), envelope::read_reason(response.into_body()));
    let message = timeout_at(deadline, reason).await.unwrap_or_default();
    PeerError::Rejected { status, message }
}
