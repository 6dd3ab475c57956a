//! The HTTP side: accept, route, record; the MCP endpoint is in `post` and `get`.

pub(super) mod body;
mod get;
mod post;
pub(super) mod reply;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HOST, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::body::Cut;
use self::reply::{Reply, empty, plain};
use super::answer::header;
use super::record::Recorded;
use super::wire::{Wire, WireControl};
use super::{Sample, control, legacy_sse, websocket};

/// A request's surroundings.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) sample: Arc<Sample>,
    pub(super) wire: Arc<WireControl>,
}

/// Serves until it is dropped, which closes every connection.
///
/// # Errors
/// When the listener's address cannot be read, or cannot be bound again after a scripted refusal.
pub(super) async fn serve(listener: TcpListener, sample: Arc<Sample>) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut listener = listener;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => _ = connections.spawn(connection(stream, sample.clone())),
                Err(error) => {
                    // Out of descriptors, or a peer that left the queue.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            refusal = sample.refusal() => {
                drop(listener);
                tokio::time::sleep(refusal).await;
                listener = TcpListener::bind(address).await?;
            }
        }
    }
}

async fn connection(stream: TcpStream, sample: Arc<Sample>) {
    let _ = stream.set_nodelay(true);
    let wire = Wire::new(stream, &sample.connections);
    let control = wire.control();
    let context = Context { sample, wire: control.clone() };
    let service = service_fn(move |request| handle(context.clone(), request));
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(wire), service).with_upgrades();
    tokio::select! {
        // Scripted cuts end here too; nobody is left to be told.
        _ = connection => {}
        () = control.closed() => {}
    }
}

async fn handle(context: Context, request: Request<Incoming>) -> Reply {
    let head = context.wire.head();
    if websocket::is_upgrade(&request) {
        context.record(request.method(), &request.uri().to_string(), head, Bytes::new());
        return websocket::accept(&context, request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Err(Cut) };
    let body = body.to_bytes();
    context.wire.next_request();
    let path = parts.uri.path();
    if let Some(endpoint) = path.strip_prefix("/_drill/") {
        let refused = check_origin(&parts);
        return Ok(refused.unwrap_or_else(|| control::handle(&context, &parts, endpoint, &body)));
    }
    let target = parts.uri.to_string();
    context.record(&parts.method, &target, head, body.clone());
    if let Some(refused) = check_origin(&parts) {
        return Ok(refused);
    }
    match (&parts.method, path) {
        (&Method::POST, "/mcp") => post::handle(&context, &parts, &body).await,
        (&Method::GET, "/mcp") => get::listen(&context, &parts).await,
        (&Method::DELETE, "/mcp") => get::delete(&context, &parts).await,
        (_, "/mcp") => Ok(not_allowed("GET, POST, DELETE")),
        (&Method::GET, "/sse") => legacy_sse::listen(&context).await,
        (&Method::POST, "/message") => Ok(legacy_sse::post(&context, &parts, body)),
        (_, "/sse") => Ok(not_allowed("GET")),
        (_, "/message") => Ok(not_allowed("POST")),
        (_, "/ws") => Ok(plain(426, "a WebSocket upgrade is needed\n")),
        (&Method::GET, "/health") => Ok(plain(200, "ok\n")),
        _ => Ok(plain(404, "no such path; MCP is at /mcp, /sse and /ws\n")),
    }
}

fn not_allowed(methods: &'static str) -> http::Response<body::Body> {
    let mut response = empty(405);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Browsers say where a page comes from; only this machine's pages, and those of the address that was
/// asked for, may talk to the server.
fn check_origin(parts: &Parts) -> Option<http::Response<body::Body>> {
    let origin = parts.headers.get(ORIGIN)?;
    let origin = origin.to_str().unwrap_or("?");
    let authority = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    let own = header(&parts.headers, HOST.as_str()) == Some(authority);
    (!local && !own).then(|| plain(403, "this origin may not use the server\n"))
}

impl Context {
    fn record(&self, method: &Method, path: &str, head: Bytes, body: Bytes) {
        self.sample.recorder.add(Recorded {
            transport: "http",
            connection: self.wire.number,
            method: method.to_string(),
            path: path.to_owned(),
            head,
            body,
        });
    }
}
