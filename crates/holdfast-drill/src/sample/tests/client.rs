//! A raw HTTP client: it sees the order of headers, where a body was cut, and how a connection ended.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::{Options, serve_http};

/// How the bytes of an answer ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As its framing says.
    Complete,
    /// By the end of the connection before that.
    Cut,
    /// By a reset.
    Reset,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) end: End,
}

/// An answer that is still being read.
pub(super) struct Open {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Of the body, without its framing, as far as it was not taken.
    body: Vec<u8>,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    chunked: bool,
    left: usize,
    end: Option<End>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    pub(super) retry: Option<String>,
    pub(super) name: Option<String>,
    pub(super) data: String,
}

/// A server of this process, ended when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

/// One legacy session, or the modern way to call.
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) session: Option<String>,
    pub(super) version: String,
}

/// No test waits longer for anything.
pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("the deadline is over")
}

/// Asks until the answer satisfies.
pub(super) async fn eventually(mut check: impl AsyncFnMut() -> bool) {
    within(async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(super) async fn server(args: &str) -> Server {
    let options = Options::from_args(args.split_whitespace().map(str::to_owned)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Server { address, task: tokio::spawn(serve_http(listener, options)) }
}

impl Server {
    pub(super) async fn get(&self, endpoint: &str) -> Value {
        let answer = request(self.address, "GET", &format!("/_drill/{endpoint}"), &[], b"").await;
        let answer = answer.unwrap().rest().await;
        assert_eq!(answer.status, 200, "{endpoint}: {}", answer.text());
        answer.json()
    }

    pub(super) async fn post(&self, endpoint: &str, body: Value) -> Value {
        let path = format!("/_drill/{endpoint}");
        let answer =
            request(self.address, "POST", &path, &[], body.to_string().as_bytes()).await.unwrap();
        let answer = answer.rest().await;
        assert_eq!(answer.status, 200, "{endpoint}: {}", answer.text());
        answer.json()
    }

    pub(super) async fn script(&self, rule: Value) {
        self.post("behaviour", rule).await;
    }

    /// A session that has been initialized.
    pub(super) async fn session(&self, version: &str, capabilities: Value) -> Client {
        let mut client = Client::new(self.address, version);
        let params = json!({
            "protocolVersion": version, "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "1" },
        });
        let answer = client.post(&json_request("initialize", params)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        client.session = answer.header("mcp-session-id").map(str::to_owned);
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(client.post(&initialized).await.status, 202);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn json_request(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

pub(super) fn tool(name: &str, arguments: Value) -> Value {
    json_request("tools/call", json!({ "name": name, "arguments": arguments }))
}

impl Client {
    pub(super) fn new(address: SocketAddr, version: &str) -> Self {
        Self { address, session: None, version: version.to_owned() }
    }

    pub(super) fn headers(&self, message: &Value) -> Vec<(String, String)> {
        let mut headers = vec![
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("Accept".to_owned(), "application/json, text/event-stream".to_owned()),
        ];
        let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
        if message["method"] != "initialize" && self.version != "2025-03-26" {
            add("MCP-Protocol-Version", &self.version);
        }
        if let Some(session) = &self.session {
            add("Mcp-Session-Id", session);
        }
        if self.version == "2026-07-28" {
            add("Mcp-Method", message["method"].as_str().unwrap_or_default());
            let params = &message["params"];
            if let Some(name) = params["name"].as_str().or_else(|| params["uri"].as_str()) {
                add("Mcp-Name", name);
            }
        }
        headers
    }

    pub(super) async fn open(&self, message: &Value) -> io::Result<Open> {
        let headers = self.headers(message);
        request(self.address, "POST", "/mcp", &headers, message.to_string().as_bytes()).await
    }

    pub(super) async fn post(&self, message: &Value) -> Answer {
        within(async { self.open(message).await.unwrap().rest().await }).await
    }

    /// The answer's message, from JSON or from the last event.
    pub(super) async fn call(&self, message: &Value) -> Value {
        let answer = self.post(message).await;
        assert_eq!(answer.end, End::Complete);
        if answer.header("content-type") == Some("text/event-stream") {
            let last = answer.events().pop().unwrap();
            return serde_json::from_str(&last.data).unwrap();
        }
        answer.json()
    }

    /// A GET stream.
    pub(super) async fn listen(&self, last_event: Option<&str>) -> Open {
        let mut headers = self.headers(&Value::Null);
        headers[1].1 = "text/event-stream".to_owned();
        if let Some(last_event) = last_event {
            headers.push(("Last-Event-ID".to_owned(), last_event.to_owned()));
        }
        within(request(self.address, "GET", "/mcp", &headers, b"")).await.unwrap()
    }

    pub(super) async fn delete(&self) -> u16 {
        let headers = self.headers(&Value::Null);
        request(self.address, "DELETE", "/mcp", &headers, b"").await.unwrap().status
    }

    /// A modern request: `_meta` is added to the params.
    pub(super) fn modern(method: &str, mut params: Value) -> Value {
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
        let capabilities = &mut params["_meta"]["io.modelcontextprotocol/clientCapabilities"];
        if capabilities.is_null() {
            *capabilities = json!({});
        }
        json_request(method, params)
    }
}

/// Sends a request on a connection of its own and reads the head of the answer.
pub(super) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> io::Result<Open> {
    let mut stream = TcpStream::connect(address).await?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await?;
    let mut open = Open {
        stream,
        buffer: Vec::new(),
        body: Vec::new(),
        status: 0,
        headers: Vec::new(),
        chunked: false,
        left: 0,
        end: None,
    };
    open.read_head().await?;
    Ok(open)
}

impl Open {
    async fn read_head(&mut self) -> io::Result<()> {
        let length = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head: Vec<u8> = self.buffer.drain(..length).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        self.status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        self.headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        self.chunked = header(&self.headers, "transfer-encoding") == Some("chunked");
        self.left = header(&self.headers, "content-length").map_or(0, |text| text.parse().unwrap());
        if !self.chunked && self.left == 0 {
            self.end = Some(End::Complete);
        }
        Ok(())
    }

    /// Reads more of the body; false when it has ended.
    async fn more(&mut self) -> bool {
        while self.end.is_none() {
            if self.unframe() {
                return true;
            }
            if self.end.is_some() {
                return false;
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => self.end = Some(End::Cut),
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    self.end = Some(End::Reset);
                }
            }
        }
        false
    }

    /// Moves what can be from `buffer` to `body`; true when something was.
    fn unframe(&mut self) -> bool {
        if !self.chunked {
            let taken = self.buffer.len().min(self.left);
            self.body.extend(self.buffer.drain(..taken));
            self.left -= taken;
            if self.left == 0 {
                self.end = Some(End::Complete);
            }
            return taken > 0;
        }
        let Some(line) = find(&self.buffer, b"\r\n") else { return false };
        let size = std::str::from_utf8(&self.buffer[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if self.buffer.len() < line + 2 + size + 2 {
            return false;
        }
        self.body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
        self.buffer.drain(..line + 2 + size + 2);
        if size == 0 {
            self.end = Some(End::Complete);
        }
        size > 0
    }

    /// The next event; `None` at the end of the stream.
    pub(super) async fn event(&mut self) -> Option<Event> {
        within(async {
            loop {
                let text = String::from_utf8_lossy(&self.body).replace("\r\n", "\n");
                if let Some((event, rest)) = text.split_once("\n\n") {
                    self.body = rest.as_bytes().to_vec();
                    return Some(Event::parse(event));
                }
                if !self.more().await {
                    return None;
                }
            }
        })
        .await
    }

    pub(super) async fn message(&mut self) -> Value {
        serde_json::from_str(&self.event().await.expect("the stream has ended").data).unwrap()
    }

    /// Reads to the end.
    pub(super) async fn rest(mut self) -> Answer {
        within(async { while self.more().await {} }).await;
        Answer {
            status: self.status,
            headers: self.headers,
            body: self.body,
            end: self.end.unwrap(),
        }
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The whole events of the body.
    pub(super) fn events(&self) -> Vec<Event> {
        let text = self.text().replace("\r\n", "\n");
        let mut parts: Vec<&str> = text.split("\n\n").collect();
        // What follows the last empty line is no event.
        parts.pop();
        parts.into_iter().map(Event::parse).collect()
    }
}

impl Event {
    fn parse(text: &str) -> Self {
        let mut event = Self::default();
        for line in text.lines() {
            let (field, value) = line.split_once(": ").unwrap_or((line, ""));
            match field {
                "id" => event.id = Some(value.to_owned()),
                "retry" => event.retry = Some(value.to_owned()),
                "event" => event.name = Some(value.to_owned()),
                "data" => event.data = value.to_owned(),
                _ => panic!("unknown field in {text:?}"),
            }
        }
        event
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
