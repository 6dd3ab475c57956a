//! An HTTP server that keeps every byte it gets and answers exactly as it is told.
//!
//! Told nothing, it is a well-behaved MCP server of both eras with sessions that it can be made to
//! forget. A test gives it a [`Script`] for the requests that it is about.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::message::{self, Envelope, MODERN};
use super::{eventually, wire};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// In order, names as written.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Request line and headers, raw.
    pub(crate) head: String,
}

/// What to answer.
pub(crate) enum Reply {
    /// JSON with this status and these further headers.
    Json(u16, Vec<(String, String)>, String),
    /// No body.
    Status(u16),
    /// 200 with an event stream made of steps; it ends cleanly after the last.
    Stream(Vec<Step>),
    /// These bytes and nothing else, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, and the end of the connection once the gate is open.
    Stops(Vec<u8>, Gate),
    /// The connection ends without an answer.
    Cut,
    /// First the gate, then the answer.
    After(Gate, Box<Self>),
}

pub(crate) enum Step {
    Send(String),
    Wait(Gate),
    /// Everything that is said from this number on, as it is said, until what is said is nothing: then the connection
    /// ends.
    Follow(Feed, usize),
    /// The connection ends in the middle of the stream.
    Cut,
}

/// Decides about one request; `None` leaves it to the well-behaved server.
pub(crate) type Script = Box<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

/// Something a test opens when it is time.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

/// What a server says over time, on however many streams.
#[derive(Clone)]
pub(crate) struct Feed(Arc<watch::Sender<Vec<String>>>);

pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    script: Script,
    seen: Mutex<Vec<Seen>>,
    sessions: Mutex<BTreeSet<String>>,
    next_session: AtomicUsize,
    /// Answers that the other side no longer wanted.
    abandoned: AtomicUsize,
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn passed(&self) {
        drop(self.0.subscribe().wait_for(|open| *open).await);
    }
}

// === impl Feed ===

impl Feed {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    pub(crate) fn say(&self, event: String) {
        self.0.send_modify(|said| said.push(event));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// The event of this number, once it has been said.
    async fn said(&self, number: usize) -> String {
        let mut feed = self.0.subscribe();
        let said = feed.wait_for(|said| said.len() > number).await;
        said.expect("the sender is here")[number].clone()
    }
}

// === impl Seen ===

impl Seen {
    /// The first value of a header, whatever its case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON-RPC method, or nothing.
    pub(crate) fn rpc(&self) -> String {
        Envelope::read(&self.body).and_then(|it| it.method).unwrap_or_default()
    }

    /// The name of the tool that is called, or nothing.
    pub(crate) fn tool(&self) -> String {
        let envelope = Envelope::read(&self.body);
        envelope.and_then(|it| it.name().map(str::to_owned)).unwrap_or_default()
    }

    /// The id as it stands in the body.
    pub(crate) fn id(&self) -> String {
        let envelope = Envelope::read(&self.body);
        envelope.and_then(|it| it.id.map(|id| id.get().to_owned())).unwrap_or_default()
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn json(body: String) -> Self {
        Self::Json(200, Vec::new(), body)
    }

    pub(crate) fn refused(status: u16, body: String) -> Self {
        Self::Json(status, Vec::new(), body)
    }

    /// A stream: a log message, these steps, and the answer to a call of a tool.
    pub(crate) fn streamed(seen: &Seen, between: impl IntoIterator<Item = Step>) -> Self {
        let log = message::notification("notifications/message", r#"{"level":"info","data":1}"#);
        let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
        let mut steps = vec![Step::Send(message::event(&log))];
        steps.extend(between);
        steps.push(Step::Send(message::event(&answer)));
        Self::Stream(steps)
    }

    pub(crate) fn after(gate: &Gate, reply: Self) -> Self {
        Self::After(gate.clone(), Box::new(reply))
    }
}

// === impl Recorder ===

impl Recorder {
    /// The well-behaved server.
    pub(crate) async fn start() -> Self {
        Self::scripted(|_| None).await
    }

    /// The same, but that its tool `slow` answers when the gate is opened.
    pub(crate) async fn gated(gate: &Gate) -> Self {
        let held = gate.clone();
        Self::scripted(move |seen| {
            let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
            (seen.tool() == "slow").then(|| Reply::after(&held, Reply::json(answer)))
        })
        .await
    }

    pub(crate) async fn scripted(
        script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            script: Box::new(script),
            seen: Mutex::default(),
            sessions: Mutex::default(),
            next_session: AtomicUsize::new(1),
            abandoned: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                drop(stream.set_nodelay(true));
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Everything that came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no panic while recording").clone()
    }

    /// What came with this JSON-RPC method.
    pub(crate) fn rpc(&self, method: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.rpc() == method).collect()
    }

    /// Calls of this tool.
    pub(crate) fn calls(&self, tool: &str) -> Vec<Seen> {
        self.rpc("tools/call").into_iter().filter(|seen| seen.tool() == tool).collect()
    }

    /// Waits until at least `many` requests fit.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        many: usize,
        fits: impl Fn(&Seen) -> bool,
    ) -> Vec<Seen> {
        eventually(what, || {
            let found: Vec<Seen> = self.seen().into_iter().filter(|seen| fits(seen)).collect();
            (found.len() >= many).then_some(found)
        })
        .await
    }

    /// As a restart would: every session is unknown from here on.
    pub(crate) fn forget_sessions(&self) {
        self.state.sessions.lock().expect("no panic while recording").clear();
    }

    pub(crate) fn live_sessions(&self) -> Vec<String> {
        self.state.sessions.lock().expect("no panic while recording").iter().cloned().collect()
    }

    /// How many answers the other side stopped waiting for.
    pub(crate) fn abandoned(&self) -> usize {
        self.state.abandoned.load(Ordering::SeqCst)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer).await {
        state.seen.lock().expect("no panic while recording").push(seen.clone());
        let reply = (state.script)(&seen).unwrap_or_else(|| state.behave(&seen));
        if !write_reply(&mut stream, reply, &state).await {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = wire::find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        fill(stream, buffer).await?;
    };
    let head: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen { method, target, headers, body: Vec::new(), head };
    if seen.header("transfer-encoding").is_some() {
        seen.body = read_chunked(stream, buffer).await?;
    } else if let Some(length) = seen.header("content-length") {
        let length: usize = length.parse().ok()?;
        while buffer.len() < length {
            fill(stream, buffer).await?;
        }
        seen.body = buffer.drain(..length).collect();
    }
    Some(seen)
}

async fn read_chunked(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let at = loop {
            if let Some(at) = wire::find(buffer, b"\r\n") {
                break at;
            }
            fill(stream, buffer).await?;
        };
        let line: Vec<u8> = buffer.drain(..at + 2).take(at).collect();
        let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?, 16).ok()?;
        while buffer.len() < size + 2 {
            fill(stream, buffer).await?;
        }
        body.extend(buffer.drain(..size + 2).take(size));
        if size == 0 {
            return Some(body);
        }
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    buffer.reserve(16 * 1024);
    stream.read_buf(buffer).await.ok().filter(|many| *many > 0).map(drop)
}

/// Whether the connection can be used again.
async fn write_reply(stream: &mut TcpStream, reply: Reply, state: &State) -> bool {
    match reply {
        Reply::Json(status, headers, body) => {
            let mut text =
                format!("HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\n");
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
            stream.write_all(text.as_bytes()).await.is_ok()
        }
        Reply::Status(status) => {
            let text = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).await.is_ok()
        }
        Reply::Stream(steps) => write_stream(stream, steps, state).await,
        Reply::Raw(bytes) => {
            drop(stream.write_all(&bytes).await);
            drop(stream.shutdown().await);
            false
        }
        Reply::Stops(bytes, gate) => {
            if stream.write_all(&bytes).await.is_ok() {
                wait(stream, &gate, state).await;
            }
            false
        }
        Reply::Cut => false,
        Reply::After(gate, reply) => {
            wait(stream, &gate, state).await && Box::pin(write_reply(stream, *reply, state)).await
        }
    }
}

async fn write_stream(stream: &mut TcpStream, steps: Vec<Step>, state: &State) -> bool {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    for step in steps {
        match step {
            Step::Send(text) => {
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    return false;
                }
            }
            Step::Wait(gate) => {
                if !wait(stream, &gate, state).await {
                    return false;
                }
            }
            Step::Follow(feed, from) => {
                let mut byte = [0];
                for number in from.. {
                    let text = tokio::select! {
                        text = feed.said(number) => text,
                        _ = stream.read(&mut byte) => {
                            state.abandoned.fetch_add(1, Ordering::SeqCst);
                            return false;
                        }
                    };
                    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                    if text.is_empty() || stream.write_all(chunk.as_bytes()).await.is_err() {
                        return false;
                    }
                }
            }
            Step::Cut => return false,
        }
    }
    stream.write_all(b"0\r\n\r\n").await.is_ok()
}

/// Waits for the gate; `false` when the other side closes first, which is counted.
async fn wait(stream: &mut TcpStream, gate: &Gate, state: &State) -> bool {
    let mut byte = [0];
    tokio::select! {
        () = gate.passed() => true,
        _ = stream.read(&mut byte) => {
            state.abandoned.fetch_add(1, Ordering::SeqCst);
            false
        }
    }
}

// === impl State ===

impl State {
    fn behave(&self, seen: &Seen) -> Reply {
        let modern = seen.header("mcp-protocol-version") == Some(MODERN);
        let session = seen.header("mcp-session-id").unwrap_or_default().to_owned();
        let mut sessions = self.sessions.lock().expect("no panic while recording");
        match seen.method.as_str() {
            "POST" => {}
            "DELETE" if sessions.remove(&session) => return Reply::Status(200),
            "DELETE" => return Reply::Status(404),
            _ => return Reply::Status(405),
        }
        let Some(envelope) = Envelope::read(&seen.body) else {
            return Reply::refused(400, message::error("null", -32700, "not one message"));
        };
        let method = envelope.method.clone().unwrap_or_default();
        if method == "initialize" {
            let id = format!("server-session-{}", self.next_session.fetch_add(1, Ordering::SeqCst));
            sessions.insert(id.clone());
            let version = envelope.params.protocol_version.as_deref().unwrap_or(message::LEGACY);
            let result = format!(
                r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{"listChanged":true}},"resources":{{"subscribe":true}},"prompts":{{}},"logging":{{}}}},"serverInfo":{{"name":"recorder","version":"1"}}}}"#
            );
            let body = message::result(seen.id(), &result);
            return Reply::Json(200, vec![("Mcp-Session-Id".into(), id)], body);
        }
        if !modern && session.is_empty() {
            return Reply::refused(400, message::error("null", -32000, "Server not initialized"));
        }
        if !modern && !sessions.contains(&session) {
            return Reply::refused(404, message::error("null", -32001, "Session not found"));
        }
        match envelope.id {
            Some(id) if !method.is_empty() => {
                Reply::json(message::result(id, &answer(&method, seen)))
            }
            _ => Reply::Status(202),
        }
    }
}

/// `read` and `idempotent` carry the annotations of their names; `write` carries none.
fn answer(method: &str, seen: &Seen) -> String {
    match method {
        "tools/list" => r#"{"tools":[{"name":"read","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},{"name":"idempotent","inputSchema":{"type":"object"},"annotations":{"idempotentHint":true}},{"name":"write","inputSchema":{"type":"object"}}],"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#.into(),
        "tools/call" => format!(
            r#"{{"content":[{{"type":"text","text":"{} done"}}],"resultType":"complete"}}"#,
            seen.tool()
        ),
        "server/discover" => r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}"#.into(),
        _ => r#"{"resultType":"complete"}"#.into(),
    }
}
