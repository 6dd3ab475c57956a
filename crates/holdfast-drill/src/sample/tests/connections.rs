//! Where the connection is the session: stdio, WebSocket, HTTP+SSE.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::super::{Options, Sample, stdio};
use super::client::{Client, Open, eventually, json_request, request, server, tool, within};

/// A client's end of a connection.
trait Wire {
    async fn put(&mut self, text: String);
    /// `None` when the connection has ended.
    async fn take(&mut self) -> Option<String>;

    async fn message(&mut self) -> Value {
        let text = within(self.take()).await.expect("the connection has ended");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    async fn call(&mut self, message: &Value) -> Value {
        self.put(message.to_string()).await;
        self.message().await
    }

    async fn initialize(&mut self, version: &str) {
        let params = json!({
            "protocolVersion": version, "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "test", "version": "1" },
        });
        let answer = self.call(&json_request("initialize", params)).await;
        assert_eq!(answer["result"]["protocolVersion"], version);
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.put(initialized.to_string()).await;
    }
}

struct Lines {
    input: BufReader<tokio::io::ReadHalf<tokio::io::DuplexStream>>,
    output: tokio::io::WriteHalf<tokio::io::DuplexStream>,
}

struct Socket(WebSocketStream<TcpStream>);

struct Events {
    address: SocketAddr,
    stream: Open,
    endpoint: String,
}

impl Wire for Lines {
    async fn put(&mut self, text: String) {
        self.output.write_all(format!("{text}\n").as_bytes()).await.unwrap();
    }

    async fn take(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line).await.unwrap();
        (read > 0).then_some(line)
    }
}

impl Wire for Socket {
    async fn put(&mut self, text: String) {
        self.0.send(Frame::text(text)).await.unwrap();
    }

    async fn take(&mut self) -> Option<String> {
        match self.0.next().await?.ok()? {
            Frame::Text(text) => Some(text.to_string()),
            _ => None,
        }
    }
}

impl Wire for Events {
    async fn put(&mut self, text: String) {
        let accepted = request(self.address, "POST", &self.endpoint, &[], text.as_bytes()).await;
        assert_eq!(accepted.unwrap().status, 202);
    }

    async fn take(&mut self) -> Option<String> {
        Some(self.stream.event().await?.data)
    }
}

fn lines(args: &str) -> Lines {
    let options = Options::from_args(args.split_whitespace().map(str::to_owned)).unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let sample = Sample::new(options).unwrap();
    tokio::spawn(async move {
        let (input, output) = tokio::io::split(theirs);
        stdio::serve(input, output, sample).await
    });
    let (input, output) = tokio::io::split(ours);
    Lines { input: BufReader::new(input), output }
}

async fn socket(address: SocketAddr) -> Socket {
    let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "other, mcp".parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "mcp");
    Socket(socket)
}

async fn events(address: SocketAddr) -> Events {
    let mut stream = request(address, "GET", "/sse", &[], b"").await.unwrap();
    let first = stream.event().await.unwrap();
    assert_eq!(first.name.as_deref(), Some("endpoint"));
    Events { address, stream, endpoint: first.data }
}

/// The same story on every connection: both eras, a question, a cancellation, a subscription.
async fn story(wire: &mut impl Wire) {
    let early = wire.call(&tool("echo", json!({}))).await;
    assert_eq!(early["error"]["code"], -32600, "not initialized");
    let modern =
        Client::modern("tools/call", json!({ "name": "add", "arguments": { "a": 1, "b": 2 } }));
    assert_eq!(wire.call(&modern).await["result"]["structuredContent"]["sum"], 3);

    wire.initialize("2025-11-25").await;
    let counted = wire.call(&tool("counter", json!({}))).await;
    assert_eq!(counted["result"]["structuredContent"]["count"], 1);
    let question = wire.call(&tool("ask", json!({}))).await;
    assert_eq!(question["method"], "elicitation/create");
    let answer =
        json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "decline" } });
    let answered = wire.call(&answer).await;
    assert_eq!(answered["result"]["structuredContent"]["answers"][0]["action"], "decline");

    let mut slow = tool("slow", json!({ "ms": 60_000 }));
    slow["id"] = json!("slow");
    wire.put(slow.to_string()).await;
    let cancel = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "slow" },
    });
    wire.put(cancel.to_string()).await;
    let uri = json!({ "uri": "drill://changing" });
    wire.call(&json_request("resources/subscribe", uri)).await;
    wire.put(tool("touch", json!({})).to_string()).await;
    let (first, second) = (wire.message().await, wire.message().await);
    let updated = if first["method"].is_null() { second } else { first };
    assert_eq!(updated["method"], "notifications/resources/updated");

    let mut listen = Client::modern(
        "subscriptions/listen",
        json!({ "notifications": { "promptsListChanged": true } }),
    );
    listen["id"] = json!(77);
    let acknowledged = wire.call(&listen).await;
    assert_eq!(acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 77);
    let refused = wire.call(&json!({ "jsonrpc": "2.0" })).await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32600)));
}

#[tokio::test]
async fn both_eras_travel_on_stdio() {
    let mut wire = lines("");
    story(&mut wire).await;
    wire.output.shutdown().await.unwrap();
    assert_eq!(wire.take().await, None, "the end of the input is the end");
}

#[tokio::test]
async fn both_eras_travel_on_websocket() {
    let server = server("").await;
    story(&mut socket(server.address).await).await;
    eventually(async || server.get("listens").await == json!([])).await;
    assert_eq!(server.get("sessions").await, json!([]), "the connection was the session");
    let recorded = server.get("requests").await;
    assert_eq!(recorded[0]["path"], "/ws");
    assert_eq!(recorded[1]["transport"], "websocket");
}

#[tokio::test]
async fn both_eras_travel_on_http_and_sse() {
    for args in ["", "--crlf"] {
        let server = server(args).await;
        let mut wire = events(server.address).await;
        story(&mut wire).await;
        let endpoint = wire.endpoint.clone();
        drop(wire);
        eventually(async || {
            request(server.address, "POST", &endpoint, &[], b"{}").await.unwrap().status == 404
        })
        .await;
        assert_eq!(server.get("sessions").await, json!([]));
    }
}

#[tokio::test]
async fn batches_on_a_connection() {
    let mut wire = lines("");
    wire.initialize("2025-03-26").await;
    let batch = json!([
        { "jsonrpc": "2.0", "id": 1, "method": "ping" },
        { "jsonrpc": "2.0", "id": 2, "method": "ping" },
    ]);
    let answer = wire.call(&batch).await;
    assert_eq!(answer.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn faults_on_a_connection() {
    let rule = |fault: &str| format!(r#"--behaviour {{"tool":"write","fault":{fault}}}"#);
    let write = tool("write", json!({ "key": "k" }));

    let mut wire = lines(&rule(r#"{"kind":"status","status":503}"#));
    wire.initialize("2025-11-25").await;
    assert_eq!(wire.call(&write).await["error"]["message"], "scripted:\u{20}status\u{20}503");

    let mut wire = lines(&rule(r#"{"kind":"twice"}"#));
    wire.initialize("2025-11-25").await;
    let first = wire.call(&write).await;
    assert_eq!(first, wire.message().await);

    let mut wire = lines(&rule(r#"{"kind":"forget_session"}"#));
    wire.initialize("2025-11-25").await;
    for _ in 0..2 {
        assert_eq!(wire.call(&write).await["error"]["code"], -32600);
    }
    wire.initialize("2025-11-25").await;
    assert!(wire.call(&write).await["result"].is_object());

    let mut wire = lines(&rule(r#"{"kind":"half_body"}"#));
    wire.initialize("2025-11-25").await;
    wire.put(write.to_string()).await;
    let half = within(wire.take()).await.unwrap();
    assert!(serde_json::from_str::<Value>(&half).is_err(), "{half}");
    assert_eq!(within(wire.take()).await, None);

    let mut wire = lines(&rule(r#"{"kind":"reset"}"#));
    wire.initialize("2025-11-25").await;
    wire.put(write.to_string()).await;
    assert_eq!(within(wire.take()).await, None);

    let mut wire = lines(&rule(r#"{"kind":"hang"}"#));
    wire.initialize("2025-11-25").await;
    wire.put(write.to_string()).await;
    let other = wire.call(&json!({ "jsonrpc": "2.0", "id": "other", "method": "ping" })).await;
    assert_eq!(other["id"], "other");
}

#[tokio::test]
async fn faults_on_websocket() {
    let server = server("").await;
    server.script(json!({ "method": "WS", "fault": { "kind": "status", "status": 503 } })).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let url = format!("ws://{}/ws", server.address);
    assert!(tokio_tungstenite::client_async(url, stream).await.is_err());
    let mut wire = socket(server.address).await;
    wire.initialize("2025-11-25").await;
    let rule = json!({ "tool": "slow", "fault": { "kind": "close_after_events", "events": 1 } });
    server.script(rule).await;
    let mut slow = tool("slow", json!({ "ms": 2, "steps": 2 }));
    slow["params"]["_meta"]["progressToken"] = json!(1);
    assert_eq!(wire.call(&slow).await["params"]["progress"], 1);
    assert_eq!(within(wire.take()).await, None);

    let mut wire = socket(server.address).await;
    wire.initialize("2025-11-25").await;
    server.post("close-connections", json!({})).await;
    assert_eq!(within(wire.take()).await, None);
}
