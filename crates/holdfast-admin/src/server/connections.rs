//! The accept loop. `axum::serve` has no header timeout, no cap and an unbounded drain; the admin
//! port must outlive a client that sends a byte a minute just as the client port must. Where the cap is
//! reached the oldest connection that waits for nothing makes room: readiness and metrics are asked for here.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use holdfast_proxy::tls::CertReloader;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most open connections; for one more, one of them has to go.
pub(super) const CONNECTIONS: usize = 256;
/// For a request's headers, which includes how long a connection may be idle, and for a handshake.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long a request may take until its response begins: its body, and what it asks for.
const RESPONSE_WITHIN: Duration = Duration::from_secs(30);
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
    let open = Arc::<Open>::default();
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    // Dropping this future must not leave connections behind.
    let _cut_on_drop = cut.clone().drop_guard();

    loop {
        let (stream, permit) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits, &open) => accepted,
        };
        let one = open.begins(cut.child_token());
        let served = Served { router: router.clone(), one: Arc::clone(&one) };
        let connection = serve_connection(stream, tls.clone(), served, stopping.clone());
        let open = Arc::clone(&open);
        tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = one.cut.cancelled() => {}
                () = connection => {}
            }
            open.ends(&one);
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
    open: &Open,
) -> (TcpStream, OwnedSemaphorePermit) {
    let stream = loop {
        match listener.accept().await {
            Ok((stream, _peer)) => break stream,
            Err(error) => {
                tracing::debug!(%error, "accepting an admin connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    if permits.available_permits() == 0 {
        open.make_room();
    }
    match Arc::clone(permits).acquire_owned().await {
        Ok(permit) => (stream, permit),
        Err(closed) => unreachable!("nobody closes the semaphore: {closed}"),
    }
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Open(Mutex<VecDeque<Arc<One>>>);

/// One of them.
struct One {
    /// Requests whose response has not begun.
    asked: AtomicUsize,
    cut: CancellationToken,
}

impl Open {
    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<One>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, cut: CancellationToken) -> Arc<One> {
        let one = Arc::new(One { asked: AtomicUsize::new(0), cut });
        self.all().push_back(Arc::clone(&one));
        one
    }

    fn ends(&self, one: &Arc<One>) {
        self.all().retain(|it| !Arc::ptr_eq(it, one));
    }

    /// Cuts the oldest connection that waits for no response; one that follows events is among them.
    fn make_room(&self) {
        let all = self.all();
        let is_idle =
            |it: &&Arc<One>| it.asked.load(Ordering::Relaxed) == 0 && !it.cut.is_cancelled();
        if let Some(oldest) = all.iter().find(is_idle) {
            oldest.cut.cancel();
        }
    }
}

/// What a connection is served with.
#[derive(Clone)]
struct Served {
    router: Router,
    one: Arc<One>,
}

impl Served {
    fn service(
        self,
    ) -> impl hyper::service::HttpService<
        Incoming,
        ResBody = axum::body::Body,
        Error = Infallible,
        Future: Send + 'static,
    > {
        let router = TowerToHyperService::new(self.router);
        service_fn(move |request: Request<Incoming>| {
            let asked = Asked::new(&self.one);
            let response = router.call(request);
            async move {
                let response = timeout(RESPONSE_WITHIN, response).await;
                drop(asked);
                match response {
                    Ok(response) => response,
                    Err(_) => Ok(too_slow()),
                }
            }
        })
    }
}

/// A request whose response has not begun.
struct Asked(Arc<One>);

impl Asked {
    fn new(one: &Arc<One>) -> Self {
        one.asked.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(one))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

fn too_slow() -> Response<axum::body::Body> {
    let text = format!("not complete within {} s\n", RESPONSE_WITHIN.as_secs());
    (StatusCode::REQUEST_TIMEOUT, [(http::header::CONNECTION, "close")], text).into_response()
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<Arc<CertReloader>>,
    served: Served,
    stopping: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the admin connection was gone at once");
        return;
    }
    let Some(tls) = tls else { return serve_http1(stream, served, stopping).await };
    match timeout(HEADERS_WITHIN, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            serve_http2(stream, served, stopping).await;
        }
        Ok(Ok(stream)) => serve_http1(stream, served, stopping).await,
        Ok(Err(error)) => tracing::debug!(%error, "admin TLS handshake failed"),
        Err(_) => tracing::debug!("admin TLS handshake took too long"),
    }
}

async fn serve_http1(
    io: impl AsyncRead + AsyncWrite + Unpin,
    served: Served,
    stopping: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        // Who has asked for a change and goes has asked for it.
        .half_close(true)
        .serve_connection(TokioIo::new(io), served.service());
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    ended(connection.await);
}

async fn serve_http2(
    io: impl AsyncRead + AsyncWrite + Unpin,
    served: Served,
    stopping: CancellationToken,
) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADERS_WITHIN)
        .keep_alive_timeout(HEADERS_WITHIN)
        .max_concurrent_streams(64)
        .max_header_list_size(32 * 1024)
        .serve_connection(TokioIo::new(io), served.service());
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return ended(result),
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    ended(connection.await);
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::trace!(%error, "admin connection ended");
    }
}
