//! Connections to HTTP instances, kept by the thread that opened them.
//!
//! Each worker thread has its own pool and drives its own connections, so a call never crosses a
//! thread on its way to the server (`docs/performance.md`). The pool is last-in first-out: under
//! low load few connections stay warm and the rest grow old and go.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::http::HttpTarget;

pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// Idle connections are not used after this long unless the configuration says otherwise: Node and
/// uvicorn close theirs at 5 s, and a request that meets the close is a request whose fate is unknown.
pub(crate) const IDLE: Duration = Duration::from_secs(3);

/// Idle connections kept per thread and instance.
const MAX_IDLE: usize = 256;

thread_local! {
    static POOL: RefCell<HashMap<usize, Vec<Idle>>> = RefCell::default();
}

struct Idle {
    sender: Sender,
    since: Instant,
    /// How long it is kept.
    within: Duration,
}

// === impl Idle ===

impl Idle {
    fn is_old(&self) -> bool {
        self.since.elapsed() > self.within
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
    #[error("HTTP with {address} failed: {source}")]
    Http { address: String, source: hyper::Error },
}

/// An idle connection to the target that is still usable, if this thread has one.
///
/// # Cancel safety
/// A connection that is being checked when the caller is cancelled is closed.
pub(crate) async fn take(key: usize) -> Option<Sender> {
    loop {
        let idle = POOL.with_borrow_mut(|pool| pool.get_mut(&key)?.pop())?;
        let is_old = idle.is_old();
        let mut sender = idle.sender;
        // Bytes behind the last response must never be read as the next one's: its connection's task
        // gets a turn to see them and close.
        tokio::task::yield_now().await;
        if sender.is_closed() || is_old {
            continue;
        }
        if sender.ready().await.is_ok() {
            return Some(sender);
        }
    }
}

/// Gives a connection back after its response has been read to the end, to be used again `within`.
pub(crate) fn put(key: usize, sender: Sender, within: Duration) {
    if sender.is_closed() {
        return;
    }
    let since = Instant::now();
    POOL.with_borrow_mut(|pool| {
        let idle = pool.entry(key).or_default();
        let stale = idle.iter().take_while(|c| c.is_old()).count();
        idle.drain(..stale);
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since, within });
        }
    });
}

/// Closes connections of this thread that have been idle for too long. Called now and then: `put`
/// looks only at the instance that is being used.
pub(crate) fn trim() {
    POOL.with_borrow_mut(|pool| {
        pool.retain(|_, idle| {
            idle.retain(|c| !c.sender.is_closed() && !c.is_old());
            !idle.is_empty()
        });
    });
}

/// Opens a connection; its task runs on this thread until either side closes.
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
) -> Result<Sender, ConnectError> {
    match tokio::time::timeout(timeout, connect_unbounded(target, tls)).await {
        Ok(done) => done,
        Err(_) => Err(ConnectError::TimedOut { address: target.address(), after: timeout }),
    }
}

async fn connect_unbounded(
    target: &HttpTarget,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Sender, ConnectError> {
    let addresses = tokio::net::lookup_host((target.url.host.as_str(), target.url.port))
        .await
        .map_err(|source| ConnectError::Resolve { host: target.url.host.clone(), source })?;
    let mut last = std::io::Error::other("the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                prepare(&stream);
                if !target.url.tls {
                    return handshake(target, stream).await;
                }
                let stream = start_tls(target, stream, tls).await?;
                return handshake(target, stream).await;
            }
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Connect { address: target.address(), source: last })
}

/// How long a server may leave probes and data unacknowledged before its connection is given up: a
/// machine that vanished without a word is noticed in seconds and not in a quarter of an hour.
const DEAF: Duration = Duration::from_secs(20);

fn prepare(stream: &TcpStream) {
    // Small writes of one call must not wait for the other side's acknowledgement.
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(DEAF));
}

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

async fn handshake<S>(target: &HttpTarget, stream: S) -> Result<Sender, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Http { address: target.address(), source })?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %error, "a connection to a server ended");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_idle_connection_is_kept_as_long_as_it_was_given_back_for() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        let driver = tokio::spawn(connection);
        put(1, sender, Duration::from_secs(3600));
        let sender = take(1).await.expect("it is still young");
        put(1, sender, Duration::ZERO);
        assert!(take(1).await.is_none(), "it was to be used no more");
        drop(theirs);
        let _ = driver.await;
    }
}
