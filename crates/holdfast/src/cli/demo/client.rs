//! A client as there are many: one session, a connection per request, and the way back to a stream
//! that has ended before its answer. It repeats no call.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use holdfast_mcp::sse::Decoder;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// How long this client waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const VERSION: &str = "2025-11-25";
/// How long to wait before coming back, unless the stream says.
const RETRY: Duration = Duration::from_secs(1);
const MOST_BYTES: usize = 1024 * 1024;

/// One session.
pub(super) struct Client {
    address: SocketAddr,
    path: String,
    session: Option<String>,
}

/// What became of a call.
pub(super) struct Called {
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    /// How often it came back to its stream.
    pub(super) resumed: u32,
}

pub(super) enum Outcome {
    Result,
    /// A JSON-RPC error.
    Error {
        code: i64,
        message: String,
    },
    /// The request failed without an answer, or nothing came in time.
    Failed(String),
}

// === impl Client ===

impl Client {
    /// Opens a session.
    pub(super) async fn open(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let mut client = Self { address, path: path.to_owned(), session: None };
        let hello = json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {
                "protocolVersion": VERSION,
                "capabilities": {},
                "clientInfo": { "name": "holdfast-demo", "version": env!("CARGO_PKG_VERSION") },
            },
        });
        let response = client.post(&hello).await?;
        let session = response.headers().get("mcp-session-id");
        client.session = Some(session.context("no session id")?.to_str()?.to_owned());
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let told = client.post(&ready).await?;
        if told.status() != StatusCode::ACCEPTED {
            bail!("notifications/initialized was answered with {}", told.status());
        }
        Ok(client)
    }

    /// Calls a tool, once.
    pub(super) async fn call(&self, id: u64, tool: &str, arguments: Value) -> Called {
        let begun = Instant::now();
        let message = json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": { "name": tool, "arguments": arguments },
        });
        let mut resumed = 0;
        let answer = tokio::time::timeout(PATIENCE, self.answer(id, &message, &mut resumed)).await;
        let outcome = match answer {
            Ok(Ok(answer)) => judge(&answer),
            Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
            Err(_) => Outcome::Failed(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        Called { outcome, took: begun.elapsed(), resumed }
    }

    async fn answer(&self, id: u64, message: &Value, resumed: &mut u32) -> anyhow::Result<Value> {
        let mut response = self.post(message).await?;
        let mut last_id: Option<Bytes> = None;
        loop {
            let status = response.status();
            if status != StatusCode::OK {
                let body = response.into_body().collect().await?.to_bytes();
                bail!("{status}: {}", String::from_utf8_lossy(&body));
            }
            let media = response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
            if !media.is_some_and(|media| media.starts_with("text/event-stream")) {
                let body = response.into_body().collect().await.context("a cut answer")?;
                return Ok(serde_json::from_slice(&body.to_bytes())?);
            }
            let mut retry = RETRY;
            if let Some(answer) = read(response.into_body(), id, &mut last_id, &mut retry).await? {
                return Ok(answer);
            }
            let last = last_id.as_ref().context("a stream without ids ended before the answer")?;
            tokio::time::sleep(retry).await;
            *resumed += 1;
            response = self.resume(last).await?;
        }
    }

    async fn post(&self, message: &Value) -> anyhow::Result<Response<Incoming>> {
        let request = self.request(Method::POST).header(CONTENT_TYPE, "application/json");
        self.send(request.body(Full::new(message.to_string().into()))?).await
    }

    async fn resume(&self, last: &Bytes) -> anyhow::Result<Response<Incoming>> {
        let request = self.request(Method::GET).header("Last-Event-ID", &last[..]);
        self.send(request.body(Full::default())?).await
    }

    fn request(&self, method: Method) -> http::request::Builder {
        let accept = match method {
            Method::GET => "text/event-stream",
            _ => "application/json, text/event-stream",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(&self.path)
            .header(HOST, self.address.to_string())
            .header(ACCEPT, accept);
        if let Some(session) = &self.session {
            request =
                request.header("Mcp-Session-Id", session).header("MCP-Protocol-Version", VERSION);
        }
        request
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

/// Reads a stream up to the answer; `None` if it ends before that.
async fn read(
    mut body: Incoming,
    id: u64,
    last_id: &mut Option<Bytes>,
    retry: &mut Duration,
) -> anyhow::Result<Option<Value>> {
    let mut decoder = Decoder::new(MOST_BYTES);
    while let Some(frame) = body.frame().await {
        // A cut is an end like any other: the client comes back.
        let Ok(frame) = frame else { return Ok(None) };
        let Ok(data) = frame.into_data() else { continue };
        decoder.push(data);
        while let Some(event) = decoder.next()? {
            let message = event.is_message();
            if let Some(event_id) = event.id {
                *last_id = Some(event_id);
            }
            if let Some(ms) = event.retry {
                *retry = Duration::from_millis(ms);
            }
            let Some(data) = event.data.filter(|_| message) else { continue };
            let value: Value = serde_json::from_slice(&data)?;
            if value["id"] == id && value.get("method").is_none() {
                return Ok(Some(value));
            }
        }
    }
    Ok(None)
}

fn judge(answer: &Value) -> Outcome {
    match answer.get("error") {
        None => Outcome::Result,
        Some(error) => Outcome::Error {
            code: error["code"].as_i64().unwrap_or(0),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        },
    }
}
