//! Clients whose connection is their session: WebSocket and HTTP+SSE.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::sse::Stream;
use super::wire::{Answer, Conn};
use super::within;

pub(crate) enum Duplex {
    WebSocket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Sse { stream: Box<Stream>, address: SocketAddr, endpoint: String },
}

// === impl Duplex ===

impl Duplex {
    /// A WebSocket with the subprotocol `mcp`.
    pub(crate) async fn websocket(address: SocketAddr, path: &str) -> Self {
        let mut request =
            format!("ws://{address}{path}").into_client_request().expect("a WebSocket address");
        request.headers_mut().insert("Sec-WebSocket-Protocol", "mcp".parse().expect("a header"));
        let connected = within("the WebSocket", tokio_tungstenite::connect_async(request)).await;
        let (socket, response) = connected.unwrap_or_else(|e| panic!("open a WebSocket: {e}"));
        let protocol = response.headers().get("sec-websocket-protocol");
        assert_eq!(protocol.expect("a subprotocol"), "mcp");
        Self::WebSocket(Box::new(socket))
    }

    /// The event stream of 2024-11-05; messages are POSTed to the endpoint that it names first.
    pub(crate) async fn sse(address: SocketAddr, path: &str) -> Self {
        let mut conn = Conn::open(address).await;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
        conn.send(request).await;
        let head = conn.head().await.expect("an answer");
        assert_eq!(head.status, 200, "{head:?}");
        let mut stream = Stream::new(head, conn);
        let first = stream.next().await.expect("the endpoint event");
        assert_eq!(first.event.as_deref(), Some("endpoint"), "{first:?}");
        let endpoint = first.data.expect("the endpoint's address");
        // Clients refuse an endpoint of another origin: it is a path, or names the gateway itself.
        let own = format!("http://{address}");
        let endpoint = endpoint.strip_prefix(&own).unwrap_or(&endpoint).to_owned();
        assert!(endpoint.starts_with('/'), "an endpoint elsewhere: {endpoint}");
        Self::Sse { stream: Box::new(stream), address, endpoint }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        match self {
            Self::WebSocket(socket) => {
                within("send", socket.send(Message::text(text))).await.expect("an open WebSocket");
            }
            Self::Sse { address, endpoint, .. } => {
                let answer = post(*address, endpoint, text).await;
                assert_eq!(answer.status, 202, "{}", answer.text());
            }
        }
    }

    /// The next message; `None` when the connection has ended.
    pub(crate) async fn message(&mut self) -> Option<Value> {
        match self {
            Self::WebSocket(socket) => loop {
                match within("a message", socket.next()).await?.ok()? {
                    Message::Text(text) => {
                        return Some(serde_json::from_str(&text).expect("JSON in a text frame"));
                    }
                    Message::Close(_) => return None,
                    _ => {}
                }
            },
            Self::Sse { stream, .. } => stream.message().await,
        }
    }

    /// The exact text of the next message.
    pub(crate) async fn text(&mut self) -> Option<String> {
        match self {
            Self::WebSocket(socket) => loop {
                match within("a message", socket.next()).await?.ok()? {
                    Message::Text(text) => return Some(text.to_string()),
                    Message::Close(_) => return None,
                    _ => {}
                }
            },
            Self::Sse { stream, .. } => stream.next().await?.data,
        }
    }

    /// Sends a request and waits for its response; other messages are thrown away.
    pub(crate) async fn ask(&mut self, text: &str) -> Value {
        let id: Value = serde_json::from_str::<Value>(text).expect("a request")["id"].clone();
        self.send(text).await;
        loop {
            let message = self.message().await.expect("the connection stays open");
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
        }
    }
}

/// One message to the endpoint of an HTTP+SSE connection.
pub(crate) async fn post(address: SocketAddr, endpoint: &str, text: &str) -> Answer {
    let request = format!(
        "POST {endpoint} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    Conn::open(address).await.exchange(request).await
}
