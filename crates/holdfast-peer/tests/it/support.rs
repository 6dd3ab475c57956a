//! A node to talk to, a relay to break things with, and waiting with a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_peer::{
    BoxError, Caller, Counters, Lane, Limits, Listener, NodeId, PeerError, Peers, ResponseBody,
    Secret, Service, Settings,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// The id of the node that tests talk to.
pub(crate) const NODE: NodeId = 1;

/// The id of the node that talks.
pub(crate) const ME: NodeId = 2;

pub(crate) fn secret(text: &str) -> Secret {
    Secret::new(&text.into(), None)
}

/// Settings under which a slow machine does not look like a dead peer.
pub(crate) fn patient() -> Settings {
    Settings { dial: LONG, ..Settings::for_failover(LONG * 4) }
}

pub(crate) fn patient_limits() -> Limits {
    Limits { handshake: LONG, drain: LONG, ..Limits::for_failover(LONG * 4) }
}

/// What the node does: `echo` and forwards give back what they got, `wait` never ends.
#[derive(Default)]
pub(crate) struct Echo {
    /// Calls of `wait` that have begun.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// Ends one call of `wait`.
    pub(crate) go_on: Notify,
    /// Every method that was called.
    pub(crate) calls: AtomicUsize,
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Echo>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

/// Passes bytes to a target that can be changed, and can stop passing them.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    socket: Option<TcpSocket>,
    target: watch::Sender<SocketAddr>,
    /// What each connection does when the number changes: nothing any more, or end.
    frozen: watch::Sender<usize>,
    broken: watch::Sender<usize>,
    pub(crate) connections: Arc<AtomicUsize>,
    /// Bytes that went towards the target.
    pub(crate) sent: Arc<AtomicUsize>,
}

/// Counts itself down when it goes.
struct Guard(Arc<AtomicUsize>);

// === impl Echo ===

impl Service for Echo {
    fn call<'a>(
        &'a self,
        from: Caller,
        method: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, String>> {
        self.calls.fetch_add(1, SeqCst);
        Box::pin(async move {
            match method {
                "echo" => Ok(body),
                "who" => Ok(format!("{} {}", from.node, from.name).into()),
                "wait" => {
                    self.waiting.fetch_add(1, SeqCst);
                    let _guard = Guard(Arc::clone(&self.waiting));
                    self.go_on.notified().await;
                    Ok(body)
                }
                "panic" => panic!("asked to"),
                other => Err(format!("no method {other}")),
            }
        })
    }

    fn forward(
        &self,
        from: Caller,
        request: Request<Incoming>,
    ) -> BoxFuture<'_, Response<ResponseBody>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let mut response = Response::builder()
                .status(StatusCode::IM_A_TEAPOT)
                .header("seen-from", from.node)
                .header("seen-method", parts.method.as_str())
                .header("seen-uri", parts.uri.to_string())
                .header("seen-version", format!("{:?}", parts.version))
                // A service cannot pass for the transport.
                .header("holdfast-rejected", "1");
            for (name, value) in &parts.headers {
                response = response.header(format!("got-{name}"), value);
            }
            response.body(body.map_err(Into::into).boxed_unsync()).unwrap()
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

// === impl Node ===

impl Node {
    pub(crate) async fn start(id: NodeId, secret: Secret, limits: Limits) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(any, secret, id, format!("node-{id}"), limits).await.unwrap();
        let (address, counters) = (listener.local_addr(), listener.counters());
        let service = Arc::new(Echo::default());
        let stop = CancellationToken::new();
        let serving =
            tokio::spawn(listener.serve(Arc::clone(&service) as Arc<dyn Service>, stop.clone()));
        Self { address, service, counters, stop, serving }
    }

    pub(crate) async fn usual() -> Self {
        Self::start(NODE, secret("shared"), patient_limits()).await
    }

    /// Ends it as a kill would: sockets close, nothing is said.
    pub(crate) async fn kill(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }

    /// Waits until `count` calls of `wait` are running.
    pub(crate) async fn waiting(&self, count: usize) {
        until("calls wait", || self.service.waiting.load(SeqCst) == count).await;
    }
}

// === impl Relay ===

impl Relay {
    /// Passes on to `target` from now on.
    pub(crate) fn open(target: SocketAddr) -> Self {
        let mut relay = Self::closed(target);
        relay.listen();
        relay
    }

    /// Has a port and refuses connections.
    pub(crate) fn closed(target: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            socket: Some(socket),
            target: watch::channel(target).0,
            frozen: watch::channel(0).0,
            broken: watch::channel(0).0,
            connections: Arc::default(),
            sent: Arc::default(),
        }
    }

    pub(crate) fn listen(&mut self) {
        let listener = self.socket.take().expect("listens already").listen(128).unwrap();
        let (target, connections) = (self.target.subscribe(), Arc::clone(&self.connections));
        let (frozen, broken) = (self.frozen.clone(), self.broken.clone());
        let sent = Arc::clone(&self.sent);
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, SeqCst);
                let (frozen, mut broken) = (frozen.subscribe(), broken.subscribe());
                let (target, sent) = (*target.borrow(), Arc::clone(&sent));
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        () = pass(near, far, frozen, sent) => {}
                        _ = broken.changed() => {}
                    }
                });
            }
        });
    }

    pub(crate) fn set_target(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// The connections of now pass on nothing any more, and stay open.
    pub(crate) fn freeze(&self) {
        self.frozen.send_modify(|times| *times += 1);
    }

    /// The connections of now end.
    pub(crate) fn cut(&self) {
        self.broken.send_modify(|times| *times += 1);
    }
}

async fn pass(
    near: TcpStream,
    far: TcpStream,
    frozen: watch::Receiver<usize>,
    sent: Arc<AtomicUsize>,
) {
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let one_way = |mut from: tokio::net::tcp::OwnedReadHalf,
                   mut to: tokio::net::tcp::OwnedWriteHalf,
                   mut frozen: watch::Receiver<usize>,
                   passed: Arc<AtomicUsize>| async move {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = tokio::select! {
                biased;
                _ = frozen.changed() => std::future::pending().await,
                read = from.read(&mut buffer) => read,
            };
            match read {
                Ok(read) if read > 0 => {
                    if to.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                    passed.fetch_add(read, SeqCst);
                }
                _ => break,
            }
        }
    };
    tokio::select! {
        () = one_way(near_in, far_out, frozen.clone(), sent) => {}
        () = one_way(far_in, near_out, frozen, Arc::default()) => {}
    }
}

// === helpers ===

pub(crate) fn peers(settings: Settings, address: SocketAddr) -> Arc<Peers> {
    let peers =
        Peers::new(secret("shared"), ME, "talker".into(), settings, Handle::current()).unwrap();
    peers.set_address(NODE, address.to_string());
    peers
}

/// Calls `echo` and expects it back.
pub(crate) async fn echo(peers: &Peers, lane: Lane) -> Result<(), PeerError> {
    let answer = peers.call(NODE, lane, "echo", Bytes::from_static(b"hello"), LONG).await?;
    assert_eq!(answer, "hello");
    Ok(())
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Calls `echo` until it works.
pub(crate) async fn until_echo(peers: &Peers) {
    let works = async {
        while echo(peers, Lane::Control).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, works).await.expect("the peer is never reached again");
}

pub(crate) fn full(text: &'static str) -> Full<Bytes> {
    Full::new(Bytes::from_static(text.as_bytes()))
}

/// A body that is sent piece by piece.
pub(crate) struct Pieces(pub(crate) tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }
}
