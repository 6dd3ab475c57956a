//! Connections to the nodes: each worker thread keeps its own, and a request uses its thread's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_net::watch_over;
use http_body_util::Full;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::nodes::Node;

pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// Idle connections are not used after this long; nodes keep theirs open for longer.
const IDLE: Duration = Duration::from_secs(30);
/// Idle connections kept per thread and node.
const MAX_IDLE: usize = 256;
/// How long a node's machine may leave data and probes unacknowledged.
const DEAF: Duration = Duration::from_secs(10);
/// How long a connection may take to come about.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);

thread_local! {
    static POOL: RefCell<HashMap<usize, Vec<Idle>>> = RefCell::default();
}

struct Idle {
    sender: Sender,
    since: Instant,
}

/// An idle connection to the node that is still usable, if this thread has one.
///
/// # Cancel safety
/// A connection that is being checked when the caller is cancelled is closed.
pub(crate) async fn take(node: usize) -> Option<Sender> {
    loop {
        let idle = POOL.with_borrow_mut(|pool| pool.get_mut(&node)?.pop())?;
        let mut sender = idle.sender;
        // The connection's task gets a turn to see that the node has closed it.
        tokio::task::yield_now().await;
        if sender.is_closed() || idle.since.elapsed() > IDLE {
            continue;
        }
        if sender.ready().await.is_ok() {
            return Some(sender);
        }
    }
}

/// Gives a connection back after its response has been read to the end.
pub(crate) fn put(node: usize, sender: Sender) {
    if sender.is_closed() {
        return;
    }
    POOL.with_borrow_mut(|pool| {
        let idle = pool.entry(node).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    });
}

/// Closes connections of this thread that have been idle for too long or are closed already.
pub(crate) fn trim() {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain(|it| !it.sender.is_closed() && it.since.elapsed() <= IDLE);
            !idle.is_empty()
        });
    });
}

/// Opens a connection for requests; its task runs on this thread until either side closes.
///
/// # Errors
/// What the operating system says; nothing was sent.
///
/// # Cancel safety
/// The half-open connection is closed.
pub(crate) async fn connect(node: &Node) -> io::Result<Sender> {
    let stream = tokio::time::timeout(CONNECT, dial(node)).await??;
    let handshake = Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = %error, "a connection to a node ended");
        }
    });
    Ok(sender)
}

/// Opens a connection.
pub(crate) async fn dial(node: &Node) -> io::Result<TcpStream> {
    let stream = match node.literal {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect(node.address.as_str()).await?,
    };
    watch_over(&stream, DEAF);
    Ok(stream)
}
