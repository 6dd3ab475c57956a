//! One keep-alive HTTP/1.1 connection, written by hand: a write, reads, a search for the head's end.
//!
//! It understands what MCP servers and proxies send (`Content-Length`, chunked bodies with trailers,
//! informational answers) and nothing else; anything it does not understand is an error that is
//! counted, never a guess.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A head longer than this is refused, in bytes.
const MAX_HEAD: usize = 64 * 1024;

pub(super) struct Client {
    stream: TcpStream,
    /// Bytes read and not yet consumed.
    buffer: Vec<u8>,
    /// A chunked body, joined.
    joined: Vec<u8>,
}

/// What an answer was, as far as a benchmark cares.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The `Mcp-Session-Id` header, read only when asked for.
    pub(super) session: Option<String>,
    /// The body holds a JSON-RPC result.
    pub(super) has_result: bool,
    /// Bytes of the body without framing.
    pub(super) body_bytes: usize,
    /// The server will close the connection.
    pub(super) closing: bool,
    /// The first bytes of a body without a result, to say what went wrong.
    pub(super) excerpt: Option<String>,
}

struct Head {
    status: u16,
    length: usize,
    framing: Framing,
    closing: bool,
    session: Option<String>,
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

// === impl Client ===

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024), joined: Vec::new() })
    }

    /// Sends a request and reads the whole answer. After an error the connection is of no use.
    pub(super) async fn exchange(&mut self, request: &[u8], session: bool) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        let head = loop {
            let head = self.read_head(session).await?;
            // An informational answer has no body and comes before the real one.
            if head.status >= 200 {
                break head;
            }
            self.buffer.drain(..head.length);
        };
        let body = match head.framing {
            Framing::Length(length) => {
                while self.buffer.len() < head.length + length {
                    self.fill().await?;
                }
                &self.buffer[head.length..head.length + length]
            }
            Framing::UntilClose => {
                while self.fill_or_end().await? > 0 {}
                &self.buffer[head.length..]
            }
            Framing::Chunked => {
                self.buffer.drain(..head.length);
                self.read_chunks().await?;
                &self.joined[..]
            }
        };
        let has_result = memmem::find(body, b"\"result\"").is_some();
        let answer = Answer {
            status: head.status,
            session: head.session,
            has_result,
            body_bytes: body.len(),
            closing: head.closing,
            excerpt: (!has_result).then(|| {
                // What a stream says before its message is of no interest.
                let message = &body[memmem::find(body, b"{\"jsonrpc\"").unwrap_or(0)..];
                String::from_utf8_lossy(&message[..message.len().min(400)]).into_owned()
            }),
        };
        match head.framing {
            Framing::Length(length) => _ = self.buffer.drain(..head.length + length),
            Framing::UntilClose => self.buffer.clear(),
            Framing::Chunked => {}
        }
        Ok(answer)
    }

    /// Sends a GET for an event stream and reads the head of its answer. What follows is read with
    /// [`Self::next_message`].
    pub(super) async fn open_stream(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        let head = self.read_head(false).await?;
        if head.status != 200 || !matches!(head.framing, Framing::Chunked) {
            return Err(io::Error::other(format!("no event stream: status {}", head.status)));
        }
        self.buffer.drain(..head.length);
        self.joined.clear();
        Ok(())
    }

    /// Reads on until the stream has brought another JSON-RPC message. Comments and events that
    /// prime the stream are none.
    pub(super) async fn next_message(&mut self) -> io::Result<()> {
        loop {
            while let Some(end) = memmem::find(&self.joined, b"\n\n") {
                let is_message = memmem::find(&self.joined[..end], b"data: {").is_some();
                self.joined.drain(..end + 2);
                if is_message {
                    return Ok(());
                }
            }
            while !self.take_chunk()? {
                self.fill().await?;
            }
        }
    }

    /// Moves a whole chunk from `buffer` to `joined`; whether there was one.
    fn take_chunk(&mut self) -> io::Result<bool> {
        let Some(line_end) = memmem::find(&self.buffer, b"\r\n") else { return Ok(false) };
        let size = chunk_size(&self.buffer[..line_end])?;
        if size == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = line_end + 2;
        if self.buffer.len() < start + size + 2 {
            return Ok(false);
        }
        self.joined.extend_from_slice(&self.buffer[start..start + size]);
        self.buffer.drain(..start + size + 2);
        Ok(true)
    }

    async fn read_head(&mut self, session: bool) -> io::Result<Head> {
        let mut searched = 0;
        let length = loop {
            if let Some(at) = memmem::find(&self.buffer[searched..], b"\r\n\r\n") {
                break searched + at + 4;
            }
            searched = self.buffer.len().saturating_sub(3);
            if searched > MAX_HEAD {
                return Err(invalid("the head of the answer is too long"));
            }
            self.fill().await?;
        };
        parse_head(&self.buffer[..length], session)
    }

    /// Joins the chunks that follow in `buffer` and consumes them with their trailers.
    async fn read_chunks(&mut self) -> io::Result<()> {
        self.joined.clear();
        let mut at = 0;
        loop {
            let (line_end, size) = loop {
                if let Some(end) = memmem::find(&self.buffer[at..], b"\r\n") {
                    break (at + end, chunk_size(&self.buffer[at..at + end])?);
                }
                self.fill().await?;
            };
            let start = line_end + 2;
            if size == 0 {
                at = start;
                break;
            }
            while self.buffer.len() < start + size + 2 {
                self.fill().await?;
            }
            self.joined.extend_from_slice(&self.buffer[start..start + size]);
            at = start + size + 2;
        }
        // Trailers end with an empty line.
        loop {
            match memmem::find(&self.buffer[at..], b"\r\n") {
                Some(0) => break,
                Some(end) => at += end + 2,
                None => self.fill().await?,
            }
        }
        self.buffer.drain(..at + 2);
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.fill_or_end().await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn fill_or_end(&mut self) -> io::Result<usize> {
        if self.buffer.capacity() - self.buffer.len() < 4096 {
            self.buffer.reserve(self.buffer.capacity().max(4096));
        }
        self.stream.read_buf(&mut self.buffer).await
    }
}

fn parse_head(head: &[u8], session: bool) -> io::Result<Head> {
    let status = match head {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', a, b, c, ..]
            if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) =>
        {
            [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'))
        }
        _ => return Err(invalid("not an HTTP/1.1 answer")),
    };
    let mut parsed = Head {
        status,
        length: head.len(),
        framing: Framing::UntilClose,
        closing: false,
        session: None,
    };
    if matches!(status, 100..=199 | 204 | 304) {
        parsed.framing = Framing::Length(0);
    }
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // The length of the name rules nearly every header out without a comparison.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                parsed.framing =
                    Framing::Length(length.ok_or_else(|| invalid("bad Content-Length"))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(invalid("unknown Transfer-Encoding"));
                }
                parsed.framing = Framing::Chunked;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                parsed.closing = value.eq_ignore_ascii_case(b"close");
            }
            14 if session && name.eq_ignore_ascii_case(b"mcp-session-id") => {
                parsed.session = Some(String::from_utf8_lossy(value).into_owned());
            }
            _ => {}
        }
    }
    if matches!(parsed.framing, Framing::UntilClose) {
        parsed.closing = true;
    }
    Ok(parsed)
}

fn chunk_size(line: &[u8]) -> io::Result<usize> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| usize::from_str_radix(text, 16).ok())
        .ok_or_else(|| invalid("bad chunk size"))
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers a request with the given pieces, each in a write of its own.
    async fn exchange(pieces: &'static [&'static [u8]]) -> io::Result<(Answer, usize)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            for piece in pieces {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut client = Client::connect(address).await?;
        let answer = client.exchange(b"ping", true).await?;
        Ok((answer, client.buffer.len()))
    }

    #[tokio::test]
    async fn a_body_with_a_length_is_read_to_its_end() {
        let (answer, left) = exchange(&[
            b"HTTP/1.1 200 OK\r\ncontent-le",
            b"ngth: 12\r\nMcp-Session-Id: abc\r\n\r\n{\"resu",
            b"lt\":1}",
        ])
        .await
        .unwrap();
        assert_eq!((answer.status, answer.body_bytes, left), (200, 12, 0));
        assert!(answer.has_result && !answer.closing);
        assert_eq!(answer.session.as_deref(), Some("abc"));
    }

    #[tokio::test]
    async fn chunks_are_joined_and_trailers_skipped() {
        let (answer, left) = exchange(&[
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\n\"re",
            b"s\r\n5\r\nult\":\r\n0\r\nA: b\r\n",
            b"\r\n",
        ])
        .await
        .unwrap();
        assert_eq!((answer.status, answer.body_bytes, left), (200, 9, 0));
        assert!(answer.has_result, "the name is split over two chunks");
    }

    #[tokio::test]
    async fn a_cut_body_is_an_error() {
        let cut = exchange(&[b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"]).await;
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let cut =
            exchange(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab"]).await;
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn an_answer_without_a_result_brings_its_text() {
        let (answer, _) =
            exchange(&[b"HTTP/1.0 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy"])
                .await
                .unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.closing && !answer.has_result);
        assert_eq!(answer.excerpt.as_deref(), Some("busy"));
    }

    #[tokio::test]
    async fn what_is_not_http_is_refused() {
        let garbage = exchange(&[b"SSH-2.0-OpenSSH\r\n\r\n"]).await;
        assert_eq!(garbage.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
