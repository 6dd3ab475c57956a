//! The fast server: what a benchmark puts behind the thing that it measures.
//!
//! One current-thread runtime per thread; the first accepts and deals connections out in turn, so
//! that few connections spread evenly (with a shared or a `SO_REUSEPORT` listener they do not).

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};

use super::DEFAULT_BYTES;
use super::answer::{
    AnswerBody, Broken, Envelope, Params, announcement, error, event, result, tool_result,
};
use super::manner::{Manner, Manners};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const SESSION_ID: &str = "mcp-session-id";

/// A running fast server. Dropping it ends the threads and their connections.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// Serves MCP at any path of `listener` on `threads` threads (at least one), in both eras and
/// without any check: `initialize` mints a session id, `tools/call` is answered with a text of
/// `arguments.bytes` bytes (default 64) or, for the tool `events`, with twenty events on a stream
/// (`arguments.pause_ms` milliseconds before each, if it says so);
/// a GET is held open, and the tool `announce` sends one event to every GET. Returns at once.
///
/// # Errors
/// When the listener cannot be made non-blocking or a runtime cannot be built.
pub fn serve(listener: TcpListener, threads: usize) -> io::Result<Serving> {
    serve_with(listener, threads, &Manners::default())
}

/// The same, but calls of tools are met as `manners` say at that moment.
///
/// # Errors
/// As [`serve`].
pub fn serve_with(listener: TcpListener, threads: usize, manners: &Manners) -> io::Result<Serving> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let server = Server { manners: manners.clone(), held: Held::default() };
    let (stop, stopped) = watch::channel(false);
    let mut lanes = Vec::new();
    let mut handles = Vec::new();
    for index in 1..threads.max(1) {
        let (lane, connections) = mpsc::unbounded_channel();
        lanes.push(lane);
        let work = work(connections, server.clone());
        handles.push(spawn(&format!("bench-{index}"), stopped.clone(), work)?);
    }
    let (own, connections) = mpsc::unbounded_channel();
    lanes.push(own);
    let first = async move {
        tokio::join!(accept(listener, lanes), work(connections, server));
    };
    handles.push(spawn("bench-0", stopped, first)?);
    Ok(Serving { address, stop, threads: handles })
}

// === impl Serving ===

impl Serving {
    /// The address that the listener is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Blocks until every thread has ended; they end only by a panic or a failed listener.
    pub fn wait(mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spawn(
    name: &str,
    mut stopped: watch::Receiver<bool>,
    work: impl Future<Output = ()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        runtime.block_on(async move {
            tokio::select! {
                () = work => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        });
    })
}

async fn accept(listener: TcpListener, lanes: Vec<mpsc::UnboundedSender<TcpStream>>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the benchmark server cannot listen"),
    };
    for lane in lanes.iter().cycle() {
        match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => _ = lane.send(stream),
            // Out of descriptors or a peer that left the queue; the next accept may succeed.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// What all threads share.
#[derive(Clone)]
struct Server {
    manners: Manners,
    held: Held,
}

/// The GET streams that are open.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<mpsc::UnboundedSender<Bytes>>>>);

impl Held {
    /// Opens one more.
    fn hold(&self) -> mpsc::UnboundedReceiver<Bytes> {
        let (events, stream) = mpsc::unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(events);
        stream
    }

    /// Sends an event to all; those whose client has gone are forgotten.
    fn announce(&self, event: &Bytes) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|stream| stream.send(event.clone()).is_ok());
    }
}

async fn work(mut connections: mpsc::UnboundedReceiver<TcpStream>, server: Server) {
    while let Some(stream) = connections.recv().await {
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { continue };
        let _ = stream.set_nodelay(true);
        if matches!(server.manners.present(), Manner::Reset) {
            // What is closed with this is reset.
            let _ = stream.set_zero_linger();
        }
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| handle(request, &server));
            // A connection that ends badly is the client's business; the load generator counts it.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(
    request: Request<Incoming>,
    server: &Server,
) -> Result<Response<AnswerBody>, Broken> {
    Ok(match *request.method() {
        Method::POST => match request.into_body().collect().await {
            Ok(body) => post(&body.to_bytes(), server).await?,
            Err(_) => status(StatusCode::BAD_REQUEST),
        },
        Method::GET if wants_stream(&request) => {
            let mut response = Response::new(AnswerBody::Held(server.held.hold()));
            response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
            response
        }
        Method::DELETE => status(StatusCode::OK),
        _ => {
            let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
            response
        }
    })
}

fn wants_stream(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

async fn post(body: &Bytes, server: &Server) -> Result<Response<AnswerBody>, Broken> {
    let Ok(message) = serde_json::from_slice::<Envelope<'_>>(body) else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let (Some(id), Some(method)) = (message.id, message.method) else {
        return Ok(status(StatusCode::ACCEPTED));
    };
    let id = id.get();
    let params = message.params;
    if matches!(server.manners.present(), Manner::Freeze) {
        std::future::pending::<()>().await;
    }
    let answer = || answer(id, method, params, &server.held);
    if method != "tools/call" {
        return Ok(answer());
    }
    let (number, manner) = server.manners.meet();
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    Ok(match manner {
        Manner::Well => answer(),
        Manner::Status(code) => refused(StatusCode::from_u16(code).unwrap_or(failed)),
        Manner::Hang | Manner::Freeze => std::future::pending().await,
        Manner::Garbage => json(Bytes::from_static(b"<html>it works</html>")),
        Manner::Half => cut(tool_result(id, DEFAULT_BYTES)),
        Manner::HalfStream => half_stream(id),
        Manner::Close | Manner::Reset => return Err(Broken),
        Manner::Forget if number % 2 == 1 => status(StatusCode::NOT_FOUND),
        Manner::Drip(every) => dripping(tool_result(id, DEFAULT_BYTES), every),
        Manner::Errors { one_in } if server.manners.fails(number, one_in) => status(failed),
        Manner::Errors { .. } | Manner::Forget => answer(),
        Manner::Busy(busy) => {
            busy.work().await;
            answer()
        }
    })
}

fn refused(code: StatusCode) -> Response<AnswerBody> {
    let mut response = status(code);
    if matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn cut(whole: Bytes) -> Response<AnswerBody> {
    let mut response = json(Bytes::new());
    *response.body_mut() = AnswerBody::Half { whole: whole.len() as u64, sent: false };
    response
}

fn half_stream(id: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Cut(Some(event(id, 1))));
    response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
    response
}

fn dripping(whole: Bytes, every: Duration) -> Response<AnswerBody> {
    let mut response = json(Bytes::new());
    let pause = Box::pin(tokio::time::sleep(every));
    *response.body_mut() = AnswerBody::Drip { left: whole, every, pause };
    response
}

fn answer(id: &str, method: &str, params: Option<Params<'_>>, held: &Held) -> Response<AnswerBody> {
    match method {
        "tools/call" => match params {
            Some(params) if params.name == Some("events") => events(id, params.pause()),
            Some(params) => {
                if params.name == Some("announce") {
                    held.announce(&announcement(params.bytes()));
                }
                json(tool_result(id, params.bytes()))
            }
            None => json(error(id, -32602, "a tool call needs params")),
        },
        "initialize" => {
            let version = params.and_then(|params| params.protocol_version);
            let mut response = json(result(id, &initialized(version.unwrap_or("2025-11-25"))));
            response.headers_mut().insert(SESSION_ID, mint_session());
            response
        }
        "server/discover" => json(result(id, DISCOVERED)),
        "tools/list" => json(result(id, TOOLS)),
        "ping" => json(result(id, "{}")),
        _ => json(error(id, -32601, "method not found")),
    }
}

fn json(body: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Full(Some(body)));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn events(id: &str, pause: Option<Duration>) -> Response<AnswerBody> {
    let id = id.into();
    let mut response = Response::new(match pause {
        None => AnswerBody::Events { id, sent: 0, yielded: false },
        Some(every) => {
            let pause = Box::pin(tokio::time::sleep(every));
            AnswerBody::Paced { id, sent: 0, every, pause }
        }
    });
    response.headers_mut().insert(CONTENT_TYPE, EVENT_STREAM);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn status(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Full(None));
    *response.status_mut() = status;
    response
}

/// Unique in this process; a benchmark has no use for secrecy.
fn mint_session() -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    HeaderValue::from_str(&format!("bench-{number:016x}"))
        .unwrap_or_else(|_| HeaderValue::from_static("bench"))
}

fn initialized(version: &str) -> String {
    format!(
        r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"bench","version":"1"}}}}"#
    )
}

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"bench","version":"1"}}}"#;

const TOOLS: &str = r#"{"resultType":"complete","tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer"}}},"annotations":{"readOnlyHint":true}},{"name":"write","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer"}}}},{"name":"events","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},{"name":"announce","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer"}}},"annotations":{"readOnlyHint":true}}],"ttlMs":3600000,"cacheScope":"public"}"#;
