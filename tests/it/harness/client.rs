//! A client over raw sockets that knows MCP's headers and nothing else.

use std::net::SocketAddr;

use serde_json::Value;

use super::gateway::Gateway;
use super::message::{self, Envelope, LEGACY, MODERN};
use super::sse::Stream;
use super::wire::{Answer, Conn};

/// Speaks one version to one path, with a session or without.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    path: String,
    pub(crate) version: String,
    session: Option<String>,
    headers: Vec<(String, String)>,
}

/// What a POST was answered with.
pub(crate) enum Posted {
    Answer(Answer),
    Stream(Box<Stream>),
}

// === impl Client ===

impl Client {
    /// Speaks 2025-11-25, without a session yet.
    pub(crate) fn legacy(gateway: &Gateway) -> Self {
        Self::to(gateway.address)
    }

    /// The same at any address.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self {
            address,
            path: "/mcp".into(),
            version: LEGACY.into(),
            session: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn modern(gateway: &Gateway) -> Self {
        Self { version: MODERN.into(), ..Self::legacy(gateway) }
    }

    /// The same client, sent to another address.
    pub(crate) fn on(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    pub(crate) fn at(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    pub(crate) fn speaking(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    /// With this session id, whoever it belongs to.
    pub(crate) fn in_session(mut self, id: &str) -> Self {
        self.session = Some(id.into());
        self
    }

    /// The id of a session that there is.
    #[track_caller]
    pub(crate) fn session(&self) -> &str {
        self.session.as_deref().expect("a session")
    }

    /// A header on every request.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a session: initialize and `notifications/initialized` are done.
    pub(crate) async fn initialized(mut self) -> Self {
        let answer = self.initialize().await;
        assert_eq!(answer.status, 200, "initialize: {}", answer.text());
        let session = answer.header("mcp-session-id").expect("a session id").to_owned();
        assert!(session.len() >= 32, "a guessable session id: {session}");
        self.session = Some(session);
        let told = self.post(&message::notification("notifications/initialized", "{}")).await;
        assert_eq!(told.answer().status, 202);
        self
    }

    /// Sends `initialize` and gives back the whole answer.
    pub(crate) async fn initialize(&self) -> Answer {
        let body = message::initialize(&self.version);
        let bare = Self { session: None, ..self.clone() };
        match bare.post(&body).await {
            Posted::Answer(answer) => answer,
            Posted::Stream(stream) => {
                let head = stream.head.clone();
                let (messages, _) = stream.into_end().await;
                let body = messages.last().map(Value::to_string).unwrap_or_default();
                Answer { status: head.status, headers: head.headers, body: body.into_bytes() }
            }
        }
    }

    /// The text of a request; `body` makes it a POST with the headers that its message needs.
    pub(crate) fn request(
        &self,
        method: &str,
        extra: &[(&str, &str)],
        body: Option<&str>,
    ) -> String {
        let mut text = format!("{method} {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.address);
        let mut add = |name: &str, value: &str| text.push_str(&format!("{name}: {value}\r\n"));
        let envelope = body.and_then(|body| Envelope::read(body.as_bytes()));
        let rpc = envelope.as_ref().and_then(|it| it.method.clone()).unwrap_or_default();
        if method == "POST" {
            add("Content-Type", "application/json");
            add("Accept", "application/json, text/event-stream");
        } else {
            add("Accept", "text/event-stream");
        }
        // Initialize is sent without a version: it is what the answer decides.
        if rpc != "initialize" && self.version.as_str() > "2025-03-26" {
            add("MCP-Protocol-Version", &self.version);
        }
        if self.version == MODERN
            && let Some(envelope) = envelope
        {
            add("Mcp-Method", &rpc);
            if let Some(name) = envelope.name() {
                add("Mcp-Name", name);
            }
        }
        if let Some(session) = &self.session {
            add("Mcp-Session-Id", session);
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        for (name, value) in extra {
            add(name, value);
        }
        if let Some(body) = body {
            add("Content-Length", &body.len().to_string());
            text.push_str("\r\n");
            text.push_str(body);
        } else {
            text.push_str("\r\n");
        }
        text
    }

    /// POSTs one message on a connection of its own.
    pub(crate) async fn post(&self, body: &str) -> Posted {
        self.post_with(&[], body).await
    }

    pub(crate) async fn post_with(&self, extra: &[(&str, &str)], body: &str) -> Posted {
        let mut conn = Conn::open(self.address).await;
        conn.send(self.request("POST", extra, Some(body))).await;
        posted(conn).await
    }

    /// Calls a tool and gives back the JSON-RPC response, however it came.
    pub(crate) async fn call(&self, id: impl std::fmt::Display, tool: &str) -> Value {
        let body = match self.version.as_str() {
            MODERN => message::modern_call(id, tool),
            _ => message::call(id, tool),
        };
        self.post(&body).await.response().await
    }

    /// Sends any request and gives back the JSON-RPC response.
    pub(crate) async fn ask(
        &self,
        id: impl std::fmt::Display,
        method: &str,
        params: &str,
    ) -> Value {
        self.post(&message::request(id, method, params)).await.response().await
    }

    /// Opens the GET stream, or resumes one.
    pub(crate) async fn get(&self, last_event_id: Option<&str>) -> Posted {
        let mut conn = Conn::open(self.address).await;
        let extra: Vec<(&str, &str)> =
            last_event_id.into_iter().map(|id| ("Last-Event-ID", id)).collect();
        conn.send(self.request("GET", &extra, None)).await;
        posted(conn).await
    }

    pub(crate) async fn delete(&self) -> Answer {
        Conn::open(self.address).await.exchange(self.request("DELETE", &[], None)).await
    }
}

/// Reads the answer's head and sorts it.
pub(crate) async fn posted(mut conn: Conn) -> Posted {
    let head = conn.head().await.expect("the connection was closed without an answer");
    if head.is_sse() {
        return Posted::Stream(Box::new(Stream::new(head, conn)));
    }
    let body = conn.body().await.expect("a whole body");
    Posted::Answer(Answer { status: head.status, headers: head.headers, body })
}

// === impl Posted ===

impl Posted {
    #[track_caller]
    pub(crate) fn answer(self) -> Answer {
        match self {
            Self::Answer(answer) => answer,
            Self::Stream(stream) => panic!("a stream instead of one answer: {:?}", stream.head),
        }
    }

    #[track_caller]
    pub(crate) fn stream(self) -> Stream {
        match self {
            Self::Stream(stream) => *stream,
            Self::Answer(answer) => {
                panic!("an answer instead of a stream: {} {}", answer.status, answer.text())
            }
        }
    }

    /// The JSON-RPC response in it: a message with a result or an error.
    pub(crate) async fn response(self) -> Value {
        match self {
            Self::Answer(answer) => answer.json(),
            Self::Stream(mut stream) => {
                stream
                    .find("the response on the stream", |message| {
                        message.get("result").is_some() || message.get("error").is_some()
                    })
                    .await
            }
        }
    }
}
