//! A node that does as it is told: what health says, and what becomes of a request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::eventually;
use crate::harness::wire::find;

/// What becomes of requests.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// Answers with this node's name, as JSON.
    Answer,
    /// Answers, and closes the connection without having said so.
    AnswerAndClose,
    /// Sends these bytes, whole response, and waits with the connection open.
    Send(String),
    /// Sends these bytes and closes.
    SendAndClose(String),
    /// Resets the connection after it has read the request.
    Reset,
    /// Keeps the request until it is told something else.
    Hold,
    /// Answers an upgrade and sends every byte back.
    Echo,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) line: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

pub(super) struct Node {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    does: watch::Sender<Does>,
    frozen: watch::Sender<bool>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// Statuses of `/health/ready` and `/health/live`.
    health: (u16, u16),
    requests: Vec<Request>,
    probes: usize,
    /// Connections that the other side closed while a request was held on them.
    hung_up: usize,
}

// === impl Node ===

impl Node {
    pub(super) async fn start(name: &str, does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            does: watch::Sender::new(does),
            frozen: watch::Sender::new(false),
            seen: Mutex::new(Seen {
                health: (200, 200),
                requests: Vec::new(),
                probes: 0,
                hung_up: 0,
            }),
        });
        let serving = Some(tokio::spawn(serve(Arc::clone(&shared), listener)));
        Self { address, shared, serving }
    }

    /// What becomes of requests from here on, held ones included.
    pub(super) fn now(&self, does: Does) {
        self.shared.does.send_replace(does);
    }

    pub(super) fn health(&self, ready: u16, live: u16) {
        self.shared.seen().health = (ready, live);
    }

    /// As under SIGSTOP: connections are accepted and nothing is read or written.
    pub(super) fn freeze(&self, frozen: bool) {
        self.shared.frozen.send_replace(frozen);
    }

    /// As under SIGKILL: the port and all connections are closed.
    pub(super) async fn die(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            drop(serving.await);
        }
    }

    /// Comes back on the same port.
    pub(super) async fn revive(&mut self) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("reuse");
        socket.bind(self.address).expect("the port is still free");
        let listener = socket.listen(64).expect("listen");
        self.serving = Some(tokio::spawn(serve(Arc::clone(&self.shared), listener)));
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.shared.seen().requests.clone()
    }

    pub(super) fn probes(&self) -> usize {
        self.shared.seen().probes
    }

    pub(super) fn hung_up(&self) -> usize {
        self.shared.seen().hung_up
    }

    /// Waits until it has had that many requests.
    pub(super) async fn has(&self, many: usize) -> Vec<Request> {
        eventually(&format!("{many} requests at node {}", self.shared.name), || {
            Some(self.requests()).filter(|requests| requests.len() >= many)
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(it, _)| it == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The one id that the edge has given it.
    pub(super) fn id(&self) -> &str {
        let ids = self.header("x-request-id");
        assert_eq!(ids.len(), 1, "{:?}", self.headers);
        ids[0]
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while it is held")
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    // Aborted with this task, which closes what they hold.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).expect("nodelay");
        let shared = Arc::clone(&shared);
        connections.spawn(async move { connection(&shared, stream).await });
    }
}

async fn connection(shared: &Shared, mut stream: TcpStream) {
    let mut does = shared.does.subscribe();
    let mut buffer = Vec::new();
    while let Some(request) = read(shared, &mut stream, &mut buffer).await {
        thawed(shared).await;
        let probed = |path: &str| request.line.starts_with(&format!("GET /health/{path} "));
        let (ready, live) = shared.seen().health;
        let health = [("ready", ready), ("live", live)].into_iter().find(|it| probed(it.0));
        let go_on = match health {
            Some((_, status)) => {
                shared.seen().probes += 1;
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
                stream.write_all(answer.as_bytes()).await.is_ok()
            }
            None => {
                shared.seen().requests.push(request);
                act(shared, &mut does, &mut stream).await
            }
        };
        if !go_on {
            return;
        }
    }
}

/// Whether another request may follow.
async fn act(shared: &Shared, does: &mut watch::Receiver<Does>, stream: &mut TcpStream) -> bool {
    loop {
        thawed(shared).await;
        let told = does.borrow_and_update().clone();
        match told {
            Does::Answer | Does::AnswerAndClose => {
                let body = format!(r#"{{"node":"{}"}}"#, shared.name);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let sent = stream.write_all(answer.as_bytes()).await.is_ok();
                return sent && matches!(told, Does::Answer);
            }
            Does::Send(bytes) => {
                drop(stream.write_all(bytes.as_bytes()).await);
                wait(shared, does, stream).await;
                return false;
            }
            Does::SendAndClose(bytes) => {
                drop(stream.write_all(bytes.as_bytes()).await);
                return false;
            }
            Does::Reset => {
                stream.set_zero_linger().expect("linger");
                return false;
            }
            Does::Hold => {
                if !wait(shared, does, stream).await {
                    return false;
                }
            }
            Does::Echo => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                     Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
                drop(stream.write_all(head.as_bytes()).await);
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
                return false;
            }
        }
    }
}

/// Until it is told something new (`true`) or the other side has hung up.
async fn wait(shared: &Shared, does: &mut watch::Receiver<Does>, stream: &TcpStream) -> bool {
    let gone = async {
        let mut byte = [0];
        loop {
            match stream.peek(&mut byte).await {
                Ok(0) | Err(_) => return,
                Ok(_) => stream.readable().await.expect("a socket"),
            }
        }
    };
    tokio::select! {
        changed = does.changed() => changed.is_ok(),
        () = gone => {
            shared.seen().hung_up += 1;
            false
        }
    }
}

async fn thawed(shared: &Shared) {
    drop(shared.frozen.subscribe().wait_for(|frozen| !frozen).await);
}

async fn read(shared: &Shared, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        thawed(shared).await;
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).expect("a head of text");
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().expect("a request line").to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").expect("a header"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().expect("a length"));
    assert!(headers.iter().all(|(name, _)| name != "transfer-encoding"), "{headers:?}");
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.drain(..length).collect();
    Some(Request { line, headers, body })
}
