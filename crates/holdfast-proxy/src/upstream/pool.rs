//! Connections to HTTP instances, kept by the thread that opened them.
//!
//! Each worker thread has its own pool, and a call drives the connection that it took, so it never crosses
//! a thread on its way to the server (`docs/performance.md`). The pool is last-in first-out: under
//! low load few connections stay warm and the rest grow old and go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_net::watch_over;
use tokio::net::TcpStream;

use super::http::HttpTarget;
use super::wire::{Connection, Look};
use crate::clock::recent;

/// Idle connections are not used after this long unless the configuration says otherwise: Node and
/// uvicorn close theirs at 5 s, and a request that meets the close is a request whose fate is unknown.
pub(crate) const IDLE: Duration = Duration::from_secs(3);

/// Idle connections kept per thread and instance.
const MAX_IDLE: usize = 256;

thread_local! {
    /// By the numbers of instances, of which there are few: to hash one costs more than to look through them.
    static POOL: RefCell<BTreeMap<usize, Vec<Idle>>> = const { RefCell::new(BTreeMap::new()) };
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
    /// How long it is kept.
    within: Duration,
}

// === impl Idle ===

impl Idle {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > self.within
    }
}

/// Why no connection could be had. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: std::io::Error },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("no connection to {address} within {} ms", .after.as_millis())]
    TimedOut { address: String, after: Duration },
    #[error("TLS with {address} failed: {source}")]
    Tls { address: String, source: std::io::Error },
}

/// An idle connection to the target that is still usable, if this thread has one. `look`: whether the
/// runtime's word for that is enough.
pub(crate) fn take(key: usize, look: Look) -> Option<Box<Connection>> {
    let now = recent();
    loop {
        let idle = POOL.with_borrow_mut(|pool| pool.get_mut(&key)?.pop())?;
        if !idle.is_old(now) && idle.connection.is_quiet(look) {
            return Some(idle.connection);
        }
    }
}

/// Gives a connection back after its response has been read to the end, to be used again `within`.
pub(crate) fn put(key: usize, connection: Box<Connection>, within: Duration) {
    let now = recent();
    POOL.with_borrow_mut(|pool| {
        let idle = pool.entry(key).or_default();
        let stale = idle.iter().take_while(|it| it.is_old(now)).count();
        idle.drain(..stale);
        if idle.len() < MAX_IDLE {
            idle.push(Idle { connection, since: now, within });
        }
    });
}

/// Closes connections of this thread that have been idle for too long, and those that their servers have
/// closed. Called now and then: `put` looks only at the instance that is being used.
pub(crate) fn trim() {
    let now = Instant::now();
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain(|it| !it.is_old(now) && it.connection.is_quiet(Look::Kernel));
            !idle.is_empty()
        });
    });
}

/// Opens a connection, for this thread.
///
/// # Errors
/// [`ConnectError`], within `timeout`.
///
/// # Cancel safety
/// Nothing was sent; the half-open connection is closed.
pub(crate) async fn connect(
    target: &HttpTarget,
    timeout: Duration,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Box<Connection>, ConnectError> {
    match tokio::time::timeout(timeout, connect_unbounded(target, tls)).await {
        Ok(done) => done,
        Err(_) => Err(ConnectError::TimedOut { address: target.address(), after: timeout }),
    }
}

async fn connect_unbounded(
    target: &HttpTarget,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Box<Connection>, ConnectError> {
    let addresses = tokio::net::lookup_host((target.url.host.as_str(), target.url.port))
        .await
        .map_err(|source| ConnectError::Resolve { host: target.url.host.clone(), source })?;
    let mut last = std::io::Error::other("the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                watch_over(&stream, DEAF);
                return match target.url.tls {
                    true => start_tls(target, stream, tls).await.map(Connection::tls),
                    false => Ok(Connection::plain(stream)),
                };
            }
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Connect { address: target.address(), source: last })
}

/// How long a server may leave probes and data unacknowledged before its connection is given up: a
/// machine that vanished without a word is noticed in seconds and not in a quarter of an hour.
const DEAF: Duration = Duration::from_secs(20);

async fn start_tls(
    target: &HttpTarget,
    stream: TcpStream,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ConnectError> {
    let failed = |source| ConnectError::Tls { address: target.address(), source };
    let name = rustls::pki_types::ServerName::try_from(target.url.host.clone())
        .map_err(|error| failed(std::io::Error::other(error)))?;
    tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    async fn pair() -> (Box<Connection>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        (Connection::plain(ours.unwrap()), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn an_idle_connection_is_kept_as_long_as_it_was_given_back_for() {
        let (connection, _theirs) = pair().await;
        put(1, connection, LONG);
        let connection = take(1, Look::Kernel).expect("it is still young");
        put(1, connection, Duration::ZERO);
        assert!(take(1, Look::Kernel).is_none(), "it was to be used no more");
    }

    #[tokio::test]
    async fn a_connection_that_says_something_unasked_or_ends_is_not_used() {
        let (connection, mut theirs) = pair().await;
        put(2, connection, LONG);
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert!(take(2, Look::Kernel).is_none(), "that would have been the next call's answer");
        let (connection, theirs) = pair().await;
        put(2, connection, LONG);
        drop(theirs);
        assert!(take(2, Look::Kernel).is_none(), "it has ended");
    }

    #[tokio::test]
    async fn what_servers_close_is_let_go_before_anybody_asks() {
        let (connection, theirs) = pair().await;
        put(3, connection, LONG);
        trim();
        assert_eq!(POOL.with_borrow(|pool| pool[&3].len()), 1);
        drop(theirs);
        trim();
        assert!(POOL.with_borrow(|pool| !pool.contains_key(&3)));
    }
}
