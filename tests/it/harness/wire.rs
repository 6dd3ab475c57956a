//! An HTTP/1.1 client over one socket that sends what it is given, byte for byte, and shows what
//! came back, framing included.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection.
pub(crate) struct Conn {
    io: Box<dyn Io>,
    /// Bytes received and not looked at yet.
    buffer: Vec<u8>,
    framing: Framing,
}

/// A status line and headers.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case, values as they came, in order.
    pub(crate) headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The connection ended where the message had not.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

#[derive(Clone, Copy, Debug)]
enum Framing {
    /// The body is over.
    Done,
    Length(u64),
    /// Bytes left of the current chunk; 0 before the next size line.
    Chunked(u64),
    UntilClose,
}

// === impl Conn ===

impl Conn {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|e| panic!("connect to {address}: {e}"));
        stream.set_nodelay(true).expect("set nodelay");
        Self::over(stream)
    }

    /// For TLS and anything else that is a stream of bytes.
    pub(crate) fn over(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), buffer: Vec::new(), framing: Framing::Done }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes).await, "the peer closed the connection before all was sent");
    }

    /// Whether all of it could be written: a peer that has seen enough closes.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("send", async {
            self.io.write_all(bytes.as_ref()).await.is_ok() && self.io.flush().await.is_ok()
        })
        .await
    }

    /// Says that nothing follows, and goes on reading.
    pub(crate) async fn close_half(&mut self) {
        within("the end of what is sent", self.io.shutdown())
            .await
            .expect("the connection is open");
    }

    /// The next answer's head, or `None` when the connection ends instead. Informational answers
    /// (1xx) are passed over.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                    break at + 4;
                }
                if !self.fill().await {
                    let rest = String::from_utf8_lossy(&self.buffer);
                    assert!(self.buffer.is_empty(), "the connection ended in a head: {rest:?}");
                    return None;
                }
            };
            let text: Vec<u8> = self.buffer.drain(..end).collect();
            let head = Head::parse(&text);
            if head.status >= 200 {
                self.framing = head.framing();
                return Some(head);
            }
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        loop {
            match self.framing {
                Framing::Done | Framing::Length(0) => {
                    self.framing = Framing::Done;
                    return Ok(None);
                }
                Framing::Length(left) => {
                    if let Some(bytes) = self.take(left).await? {
                        self.framing = Framing::Length(left - bytes.len() as u64);
                        return Ok(Some(bytes));
                    }
                    return Err(Broken(format!("{left} bytes of the body are missing")));
                }
                Framing::Chunked(0) => {
                    let line = self.line().await?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16)
                        .map_err(|_| Broken(format!("not a chunk size: {line:?}")))?;
                    if size == 0 {
                        while !self.line().await?.is_empty() {}
                        self.framing = Framing::Done;
                    } else {
                        self.framing = Framing::Chunked(size);
                    }
                }
                Framing::Chunked(left) => {
                    let Some(bytes) = self.take(left).await? else {
                        return Err(Broken("the connection ended in a chunk".into()));
                    };
                    let left = left - bytes.len() as u64;
                    if left == 0 {
                        self.line().await?;
                    }
                    self.framing = Framing::Chunked(left);
                    return Ok(Some(bytes));
                }
                Framing::UntilClose => {
                    let piece = self.take(u64::MAX).await?;
                    if piece.is_none() {
                        self.framing = Framing::Done;
                    }
                    return Ok(piece);
                }
            }
        }
    }

    /// The rest of the body.
    pub(crate) async fn body(&mut self) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// A whole answer, or `None` when the connection ends instead.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let head = self.head().await?;
        let body = self.body().await.unwrap_or_else(|e| panic!("{}: {head:?}", e.0));
        Some(Answer { status: head.status, headers: head.headers, body })
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.answer().await.expect("the connection was closed without an answer")
    }

    /// Waits until the peer has closed; what still comes is thrown away.
    pub(crate) async fn closed(&mut self) {
        while self.fill().await {
            self.buffer.clear();
        }
    }

    /// Everything until the peer closes, raw.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    async fn take(&mut self, most: u64) -> Result<Option<Vec<u8>>, Broken> {
        if self.buffer.is_empty() && !self.fill().await {
            return Ok(None);
        }
        let many = usize::try_from(most).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(Some(self.buffer.drain(..many).collect()))
    }

    async fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).take(at).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if !self.fill().await {
                return Err(Broken("the connection ended in the framing".into()));
            }
        }
    }

    /// Reads more; `false` at the end of the connection, however it ended.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(16 * 1024);
        let read = within("the peer's bytes", self.io.read_buf(&mut self.buffer)).await;
        read.is_ok_and(|many| many > 0)
    }
}

// === impl Head, Answer ===

impl Head {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {first:?}"));
        let headers = lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status, headers }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn is_sse(&self) -> bool {
        self.header("content-type").is_some_and(|it| it.starts_with("text/event-stream"))
    }

    fn framing(&self) -> Framing {
        if self.status == 204 || self.status == 304 {
            return Framing::Done;
        }
        if self.header("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
            return Framing::Chunked(0);
        }
        match self.header("content-length") {
            Some(length) => Framing::Length(length.parse().expect("a number as Content-Length")),
            None => Framing::UntilClose,
        }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text()))
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
