//! The client port: one accept loop per worker thread, what each connection is allowed, and the
//! drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::TRANSFER_ENCODING;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::head::{Heads, Watched};
use crate::nodes::Nodes;
use crate::receive::Room;
use crate::relay::Body;
use crate::{Options, forward, headers, pool};

/// Connections that wait to be accepted, per worker.
const BACKLOG: i32 = 1024;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may wait for a next request; longer than balancers and clients keep theirs.
const IDLE: Duration = Duration::from_secs(75);
/// How long a client's machine may leave data and probes unacknowledged.
const DEAF: Duration = Duration::from_secs(60);
const HEADERS: usize = 100;
const BUFFER: usize = 64 * 1024;
/// How long answers may take to be written after the drain deadline.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often idle connections to nodes are looked through.
const UPKEEP: Duration = Duration::from_secs(10);

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) options: Options,
    pub(crate) nodes: Nodes,
    pub(crate) room: Room,
    connections: AtomicUsize,
    /// Nothing is accepted any more.
    pub(crate) draining: CancellationToken,
    /// The drain deadline has passed.
    pub(crate) giving_up: CancellationToken,
    /// Connections and tunnels.
    pub(crate) open: TaskTracker,
}

/// One client connection in the count.
struct Counted(Arc<Edge>);

// === impl Edge ===

impl Edge {
    pub(crate) fn new(options: Options, nodes: Nodes) -> Self {
        Self {
            room: Room::new(options.body),
            nodes,
            options,
            connections: AtomicUsize::new(0),
            draining: CancellationToken::new(),
            giving_up: CancellationToken::new(),
            open: TaskTracker::new(),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Counted {
    fn enter(edge: &Arc<Edge>) -> Option<Self> {
        let before = edge.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Self(Arc::clone(edge));
        (before < edge.options.connections).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Binds one listening socket per worker to the same address.
///
/// # Errors
/// What the operating system says; a port in use by another program among it.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if address.port() != 0 {
        // Without SO_REUSEPORT: another program on the port is an error, and not half the clients.
        drop(std::net::TcpListener::bind(address)?);
    }
    let first = listen(address)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < workers {
        listeners.push(listen(address)?);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A worker's life: accept and serve until the drain, then finish what is open.
pub(crate) async fn work(
    edge: Arc<Edge>,
    listener: std::net::TcpListener,
    drain: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(error = %error, "a worker cannot use its listening socket");
            return;
        }
    };
    let accepting = edge.open.token();
    tokio::spawn(async {
        loop {
            tokio::time::sleep(UPKEEP).await;
            pool::trim();
        }
    });
    tokio::select! {
        () = accept(&edge, listener) => {}
        () = drain.cancelled() => {}
    }
    edge.draining.cancel();
    edge.open.close();
    drop(accepting);
    if tokio::time::timeout(edge.options.drain_deadline, edge.open.wait()).await.is_ok() {
        return;
    }
    edge.giving_up.cancel();
    if tokio::time::timeout(LAST_WORDS, edge.open.wait()).await.is_err() {
        tracing::warn!(connections = edge.connections(), "ended with connections open");
    }
}

async fn accept(edge: &Arc<Edge>, listener: TcpListener) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only spin.
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(counted) = Counted::enter(edge) else {
            edge.open.spawn(refuse(stream));
            continue;
        };
        let edge = Arc::clone(edge);
        edge.open.clone().spawn(async move {
            let _counted = counted;
            let _ = stream.set_nodelay(true);
            pool::watch_over(&stream, DEAF);
            serve(edge, stream, peer).await;
        });
    }
}

/// Says why the connection is closed: the limit is reached.
async fn refuse(mut stream: TcpStream) {
    const ANSWER: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
        content-length: 48\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
        this edge is at its limit of client connections\n";
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(ANSWER.as_bytes())).await;
    let _ = stream.shutdown().await;
}

async fn serve(edge: Arc<Edge>, stream: TcpStream, peer: SocketAddr) {
    let heads = Heads::default();
    let stream = Watched::new(stream, heads.clone(), HEAD);
    let held = Arc::clone(&edge);
    let service = service_fn(move |request: Request<Incoming>| {
        let coded = request.headers().contains_key(TRANSFER_ENCODING);
        let ambiguous = heads.next_has_both() && coded;
        let serving = heads.serve();
        let edge = Arc::clone(&held);
        async move {
            if ambiguous {
                return Ok(forward::refuse(StatusCode::BAD_REQUEST, headers::AMBIGUOUS));
            }
            let response: Result<Response<Body>, _> = forward::serve(&edge, request, peer).await;
            if response.as_ref().is_ok_and(|it| it.status() == StatusCode::SWITCHING_PROTOCOLS) {
                serving.for_good();
            }
            response
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(HEADERS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = edge.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = given_up(&edge) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %error, "client connection ended");
    }
}

/// The drain deadline, and the time to write what there is to say.
async fn given_up(edge: &Edge) {
    edge.giving_up.cancelled().await;
    tokio::time::sleep(LAST_WORDS / 2).await;
}
