//! The client port: one accept loop per worker thread, and what each connection is allowed.
//!
//! Every worker has its own listening socket (`SO_REUSEPORT`), its own current-thread runtime and
//! its own upstream connections, so a call stays on the thread that accepted its client
//! (`docs/performance.md`). `axum::serve` would neither time out slow headers nor cap connections.

mod date;
mod half_close;
mod idle;
mod lane;
mod orders;
mod outgoing;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use holdfast_net::{Counted, Impatient, Patience, Requests, refuse_full};
use http::header::{EXPECT, TRANSFER_ENCODING};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use self::half_close::HalfClose;
use self::idle::Activity;
use self::lane::{Exit, Lane, Other};
use self::orders::{Order, Orders};
use crate::gateway::{Current, Gateway};
use crate::ingress::{self, Connection, RequestBody};
use crate::tls::CertReloader;
use crate::worker;

/// What a client is told beyond the limit.
const FULL: &str = "this node holds its limit of connections (limits.connections)";

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Accepts and serves until the node drains.
pub(crate) async fn serve(
    current: Arc<Current>,
    listener: TcpListener,
    tls: Option<Arc<CertReloader>>,
) {
    let draining = current.load().draining.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.cancelled() => break,
        };
        let gateway = current.load_full();
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only spin.
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        gateway.metrics.connections_accepted.inc();
        if gateway.metrics.connections.get() >= gateway.config.limits.connections {
            gateway.metrics.connections_refused.inc();
            gateway.open.spawn(refuse_full(stream, FULL));
            continue;
        }
        let open = gateway.metrics.connections.enter();
        let (current, tls) = (Arc::clone(&current), tls.clone());
        // In a box of its own: a task's block begins at a multiple of 128 bytes, and glibc finds no room for one
        // that large in the gap that the last one has left, once something small has settled at its edge.
        gateway.open.spawn(Box::pin(async move {
            let _open = open;
            let _ = stream.set_nodelay(true);
            match tls {
                None => http1_connection(current, stream, peer).await,
                Some(tls) => tls_connection(current, stream, peer, &tls).await,
            }
        }));
    }
}

/// Waits until no worker has a client connection any more, or the drain deadline is over.
pub(crate) async fn drained(gateway: &Gateway) {
    let open = &gateway.open;
    open.close();
    if tokio::time::timeout(gateway.config.listen.drain_deadline, open.wait()).await.is_ok() {
        return;
    }
    // What still runs is given up on, with an answer; then there is a moment to write it.
    gateway.giving_up.cancel();
    if tokio::time::timeout(LAST_WORDS, open.wait()).await.is_err() {
        tracing::warn!(connections = open.len(), "drain deadline passed with connections open");
    }
}

/// How long answers may take to be written after the drain deadline.
const LAST_WORDS: Duration = Duration::from_secs(2);

async fn tls_connection(
    current: Arc<Current>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: &CertReloader,
) {
    let stream = match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            current.load().metrics.tls_failures.inc();
            tracing::debug!(%peer, error = %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            current.load().metrics.tls_failures.inc();
            tracing::debug!(%peer, "TLS handshake timed out");
            return;
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2_connection(current, stream, peer).await;
    } else {
        http1_connection(current, stream, peer).await;
    }
}

async fn http1_connection<S>(current: Arc<Current>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // What a connection is allowed it is allowed for as long as it lasts; what it is served with is
    // asked for each request.
    let gateway = current.load_full();
    let requests = Requests::default();
    let cut = gateway.connected();
    let orders = Orders::new(cut.clone(), worker::draining(&gateway));
    let connection = Connection { cut: Some(Arc::new(cut)), trusted: gateway.trusts(peer) };
    let listen = &gateway.config.listen;
    let (head, idle) = (listen.header_timeout, listen.idle_timeout);
    let patience = Patience { head, idle, stalled: idle };
    let stream = Impatient::new(stream, requests.clone(), patience);
    drop(gateway);
    let lane =
        Lane::new(Arc::clone(&current), connection.clone(), stream, requests.clone(), orders);
    let ended = match lane.run().await {
        Exit::Ended(ended) => ended.map_err(Into::into),
        // Boxed: the connections that stay on their lane do without.
        Exit::Other(other) => Box::pin(by_hyper(current, *other, requests, connection)).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "client connection ended");
    }
}

/// What went wrong with a connection.
type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Serves what is left of a connection that has left its lane.
async fn by_hyper<S>(
    current: Arc<Current>,
    other: Other<S>,
    requests: Requests,
    connection: Connection,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Other { stream, mut orders, mut drains } = other;
    let gateway = current.load_full();
    let limits = &gateway.config.limits;
    let mut builder = http1::Builder::new();
    // hyper would set a timer for every request; the socket's own wrapper watches over the time.
    builder
        .header_read_timeout(None)
        .max_headers(limits.header_count)
        .max_buf_size(limits.header_bytes.max(MIN_BUFFER));
    drop(gateway);
    let service = service_fn(move |request: Request<Incoming>| {
        let has_coding = request.headers().contains_key(TRANSFER_ENCODING);
        let ambiguous = requests.next_has_both() && has_coding;
        let in_service = requests.start();
        let half = HalfClose::of(request.method(), request.headers());
        requests.may_half_close(half.is_answered());
        let requests = requests.clone();
        let gateway = current.load_full();
        let connection = connection.clone();
        async move {
            let _in_service = in_service;
            let waits = request.headers().contains_key(EXPECT);
            let (parts, body) = request.into_parts();
            let (body, unread) = RequestBody::lent(body, waits);
            let response = if ambiguous {
                ingress::refuse_ambiguous(&gateway)
            } else {
                let admission = ingress::admit(&gateway, parts, &connection);
                let response = ingress::serve(gateway, admission, body, connection).await?;
                unread.discard().await;
                response
            };
            requests.may_half_close(half.is_sent(&response.body));
            if response.status == StatusCode::SWITCHING_PROTOCOLS {
                requests.upgraded();
            }
            let response = http::Response::from(response);
            Ok::<_, ingress::HangUp>(response.map(|body| Counted::new(body, requests.sends())))
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            // Not before hyper has seen the request that it was given: it would close at once.
            if std::mem::take(&mut drains) {
                connection.as_mut().graceful_shutdown();
                continue;
            }
            match std::task::ready!(orders.poll(cx)) {
                Order::Cut => return Poll::Ready(Ok(())),
                Order::Drain => connection.as_mut().graceful_shutdown(),
            }
        }
    });
    Ok(ended.await?)
}

/// hyper takes no smaller buffer.
const MIN_BUFFER: usize = 8192;

async fn http2_connection<S>(current: Arc<Current>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let gateway = current.load_full();
    let limits = &gateway.config.limits;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let draining = gateway.draining.clone();
    let listen = &gateway.config.listen;
    let (header_timeout, idle_timeout) = (listen.header_timeout, listen.idle_timeout);
    let cut = gateway.connected();
    let trusted = gateway.trusts(peer);
    drop(gateway);
    let activity = Activity::new();
    let requests = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = requests.enter();
        let gateway = current.load_full();
        // A connection carries many calls, so no slow reader of one of them cuts it. What the reader
        // leaves unread is bounded by its stream's queue.
        let connection = Connection { cut: None, trusted };
        async move {
            let (parts, body) = request.into_parts();
            let body = RequestBody::from(body);
            let admission = ingress::admit(&gateway, parts, &connection);
            let response = ingress::serve(gateway, admission, body, connection).await?;
            let response = http::Response::from(response);
            Ok::<_, ingress::HangUp>(response.map(|body| Counted::new(body, busy)))
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cut.cancelled() => Ok(()),
        () = activity.idle(header_timeout, idle_timeout) => {
            connection.as_mut().graceful_shutdown();
            // All that is left is to say goodbye, which the client may not take; a request that
            // it has sent meanwhile is answered.
            tokio::select! {
                ended = connection => ended,
                () = activity.idle(GOODBYE, GOODBYE) => Ok(()),
            }
        }
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %error, "client connection ended");
    }
}

/// Calls at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// How long the end of an idle HTTP/2 connection may take.
const GOODBYE: Duration = Duration::from_secs(5);
