//! An HTTP client that keeps its connections, as SDKs do, and reads event streams.
//!
//! It uses none of the gateway's parsers: a drill must not agree with the gateway's mistakes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The operator's, where an admin port asks for one.
pub(crate) const TOKEN: &str = "the token of drills";

type Connection = SendRequest<Full<Bytes>>;

/// Connections to one address.
#[derive(Clone)]
pub(crate) struct Pool {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// An answer's head and the connection that its body comes on.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    connection: Connection,
}

/// What went wrong on the wire, in words.
pub(crate) type Broken = String;

// === impl Pool ===

impl Pool {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Arc::default() }
    }

    /// Sends on an idle connection or a new one. A request that an ended connection never took is
    /// sent on another; one that was written is not sent again.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
        let mut request = request;
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.open().await?,
            };
            if connection.ready().await.is_err() {
                if fresh {
                    return Err("the connection ended before the request".into());
                }
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(Answer { response, connection }),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(format!("no answer: {}", chain(failed.error()))),
                },
            }
        }
    }

    async fn open(&self) -> Result<Connection, Broken> {
        let stream = TcpStream::connect(self.address).await.map_err(|e| format!("connect: {e}"))?;
        drop(stream.set_nodelay(true));
        let (connection, driver) =
            handshake(TokioIo::new(stream)).await.map_err(|e| format!("handshake: {e}"))?;
        tokio::spawn(driver);
        Ok(connection)
    }

    /// Takes a connection back whose body has been read to its end.
    fn keep(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|it| it.starts_with("text/event-stream"))
    }

    /// The whole body.
    pub(crate) async fn body(self, pool: &Pool) -> Result<Bytes, Broken> {
        let collected = self.response.into_body().collect().await;
        let body = collected.map_err(|e| format!("the body was cut: {}", chain(&e)))?.to_bytes();
        pool.keep(self.connection);
        Ok(body)
    }

    /// The body as events.
    pub(crate) fn events(self) -> Events {
        Events {
            body: self.response.into_body(),
            connection: Some(self.connection),
            buffer: BytesMut::new(),
        }
    }
}

/// An event stream.
pub(crate) struct Events {
    body: Incoming,
    connection: Option<Connection>,
    buffer: BytesMut,
}

/// One event.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<u64>,
    pub(crate) data: String,
}

// === impl Events ===

impl Events {
    /// The next event; `None` when the stream has ended cleanly.
    pub(crate) async fn next(&mut self, pool: &Pool) -> Result<Option<Event>, Broken> {
        loop {
            while let Some(event) = self.parse() {
                if event.id.is_some() || event.retry.is_some() || !event.data.is_empty() {
                    return Ok(Some(event));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(format!("the stream was cut: {}", chain(&error))),
                None => {
                    if let Some(connection) = self.connection.take() {
                        pool.keep(connection);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Takes one event, empty or not, off the buffer.
    fn parse(&mut self) -> Option<Event> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block = self.buffer.split_to(end + 2);
        let mut event = Event::default();
        for line in String::from_utf8_lossy(&block).lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => event.id = Some(value.to_owned()),
                "retry" => event.retry = value.parse().ok(),
                "data" => {
                    if !event.data.is_empty() {
                        event.data.push('\n');
                    }
                    event.data.push_str(value);
                }
                _ => {}
            }
        }
        Some(event)
    }
}

/// A GET on a connection of its own; `None` when there is no whole answer in time.
pub(crate) async fn get(
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> Option<(u16, Bytes)> {
    let asked = exchange(address, "GET", path, Bytes::new());
    tokio::time::timeout(patience, asked).await.ok()?.ok()
}

/// One request on a connection of its own.
pub(crate) async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<(u16, Bytes), Broken> {
    let pool = Pool::new(address);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let answer = pool.send(request).await?;
    let status = answer.status();
    Ok((status, answer.body(&pool).await?))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
