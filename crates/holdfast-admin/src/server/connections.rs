//! The accept loop. `axum::serve` has no header timeout, no cap and an unbounded drain; the admin
//! port must outlive a client that sends a byte a minute just as the client port must.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use holdfast_proxy::tls::CertReloader;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most open connections; more wait in the system's queue.
const CONNECTIONS: usize = 256;
/// For a request's headers, which includes how long a connection may be idle, and for a handshake.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long running requests may take to end after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of descriptors: retrying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown`, then cancels `stopping` and waits for what still runs.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<CertReloader>>,
    router: Router,
    shutdown: CancellationToken,
    stopping: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    // Dropping this future must not leave connections behind.
    let _cut_on_drop = cut.clone().drop_guard();

    loop {
        let (stream, permit) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let connection = serve_connection(stream, tls.clone(), router.clone(), stopping.clone());
        let cut = cut.clone();
        tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection => {}
            }
        });
    }

    drop(listener);
    stopping.cancel();
    tasks.close();
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::debug!(open = tasks.len(), "admin connections cut at the drain deadline");
    }
}

/// A connection and its place under the cap, or waits for both.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let permit = match Arc::clone(permits).acquire_owned().await {
        Ok(permit) => permit,
        Err(closed) => unreachable!("nobody closes the semaphore: {closed}"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return (stream, permit),
            Err(error) => {
                tracing::debug!(%error, "accepting an admin connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<Arc<CertReloader>>,
    router: Router,
    stopping: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the admin connection was gone at once");
        return;
    }
    let Some(tls) = tls else { return serve_http1(stream, router, stopping).await };
    match timeout(HEADERS_WITHIN, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            serve_http2(stream, router, stopping).await;
        }
        Ok(Ok(stream)) => serve_http1(stream, router, stopping).await,
        Ok(Err(error)) => tracing::debug!(%error, "admin TLS handshake failed"),
        Err(_) => tracing::debug!("admin TLS handshake took too long"),
    }
}

async fn serve_http1(
    io: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    stopping: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .serve_connection(TokioIo::new(io), service(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    ended(connection.await);
}

async fn serve_http2(
    io: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    stopping: CancellationToken,
) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADERS_WITHIN)
        .keep_alive_timeout(HEADERS_WITHIN)
        .max_concurrent_streams(64)
        .max_header_list_size(32 * 1024)
        .serve_connection(TokioIo::new(io), service(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    ended(connection.await);
}

fn service(
    router: Router,
) -> impl hyper::service::HttpService<
    Incoming,
    ResBody = axum::body::Body,
    Error = Infallible,
    Future: Send + 'static,
> {
    TowerToHyperService::new(router)
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::trace!(%error, "admin connection ended");
    }
}
