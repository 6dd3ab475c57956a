//! The client port: one accept loop per worker thread, what each connection is allowed, and the
//! drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_net::{Counted, Impatient, Patience, Prefixed, Requests, refuse_full, watch_over};
use http::header::TRANSFER_ENCODING;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::nodes::Nodes;
use crate::receive::Room;
use crate::{Options, forward, headers, pool};

/// What a client is told beyond the limit.
const FULL: &str = "this edge is at its limit of client connections";
/// What a client may take its time over. It may idle for longer than balancers and clients keep their
/// connections.
const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    stalled: Duration::from_secs(60),
};
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
struct Place(Arc<Edge>);

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

impl Place {
    fn enter(edge: &Arc<Edge>) -> Option<Self> {
        let before = edge.connections.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(edge));
        (before < edge.options.connections).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
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
        let Some(place) = Place::enter(edge) else {
            edge.open.spawn(refuse_full(stream, FULL));
            continue;
        };
        let edge = Arc::clone(edge);
        edge.open.clone().spawn(async move {
            let _place = place;
            watch_over(&stream, DEAF);
            serve(edge, stream, peer).await;
        });
    }
}

async fn serve(edge: Arc<Edge>, stream: TcpStream, peer: SocketAddr) {
    let requests = Requests::default();
    let stream = Impatient::new(stream, requests.clone(), PATIENCE);
    let stream = Prefixed::new(Bytes::new(), stream, requests.clone());
    let held = Arc::clone(&edge);
    let service = service_fn(move |request: Request<Incoming>| {
        let coded = request.headers().contains_key(TRANSFER_ENCODING);
        let ambiguous = requests.next_has_both() && coded;
        let in_service = requests.start();
        let requests = requests.clone();
        let edge = Arc::clone(&held);
        async move {
            let _in_service = in_service;
            if ambiguous {
                let refusal = forward::refuse(StatusCode::BAD_REQUEST, headers::AMBIGUOUS);
                return Ok(refusal.map(|body| Counted::new(body, requests.sends())));
            }
            let response = forward::serve(&edge, request, peer).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                requests.upgraded();
            }
            Ok::<_, forward::HangUp>(response.map(|body| Counted::new(body, requests.sends())))
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
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
