//! Asks each node, again and again, whether it is ready.
//!
//! Every node has a connection of its own for this, written and read by one task: a deadline that
//! passes is then the node's doing and not that of another task here which had no turn. Where this
//! process itself was held up, nothing is concluded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::decide::Probed;
use crate::listener::Edge;
use crate::nodes::Node;
use crate::pool;

/// The pause before a probe that was asked for by a request: many of them ask at once.
const AT_ONCE: Duration = Duration::from_millis(10);
/// By how much a deadline may pass late before this process is the one to blame.
const HELD_UP: Duration = Duration::from_millis(200);
/// What a health answer may be long, head and body.
const LONGEST: usize = 64 * 1024;

/// Probes all nodes until `stop`.
pub(crate) async fn all(edge: &Arc<Edge>, stop: CancellationToken) {
    for index in 0..edge.nodes.len() {
        let edge = Arc::clone(edge);
        tokio::spawn(async move { one(&edge, index).await });
    }
    stop.cancelled().await;
}

async fn one(edge: &Edge, index: usize) {
    let node = edge.nodes.get(index);
    let mut line = Line { node, stream: None };
    loop {
        let begun = Instant::now();
        match tokio::time::timeout(edge.options.probe_deadline, line.probe()).await {
            Ok(probed) => edge.nodes.found(index, probed),
            Err(_) => {
                let accepted = line.stream.take().is_some();
                if begun.elapsed() > edge.options.probe_deadline + HELD_UP {
                    tracing::debug!(node = node.address, "a probe was held up on this side");
                    continue;
                }
                let probed = if accepted { Probed::Unanswered } else { Probed::Unreachable };
                edge.nodes.found(index, probed);
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(begun + edge.options.probe_interval) => {}
            () = node.nudge.notified() => tokio::time::sleep(AT_ONCE).await,
            // A process that dies hangs up before it is asked again.
            () = line.hung_up() => tokio::time::sleep(AT_ONCE).await,
        }
    }
}

/// The connection for probes of one node.
struct Line<'a> {
    node: &'a Node,
    stream: Option<TcpStream>,
}

impl Line<'_> {
    /// Asks once. A kept connection that turns out to be closed is replaced.
    async fn probe(&mut self) -> Probed {
        if self.stream.is_some() {
            match self.ask_both().await {
                Ok(probed) => return probed,
                Err(_) => self.stream = None,
            }
        }
        match pool::dial(self.node).await {
            Ok(stream) => self.stream = Some(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Probed::Refused;
            }
            Err(_) => return Probed::Unreachable,
        }
        match self.ask_both().await {
            Ok(probed) => probed,
            Err(_) => {
                // It accepts and hangs up: a process that is about to go.
                self.stream = None;
                Probed::Unanswered
            }
        }
    }

    /// Resolves when the node closes the connection, or says something nobody asked for.
    async fn hung_up(&self) {
        match &self.stream {
            // What it is, the next probe finds out.
            Some(stream) => drop(stream.readable().await),
            None => std::future::pending().await,
        }
    }

    async fn ask_both(&mut self) -> io::Result<Probed> {
        if self.ask("/health/ready").await? == 200 {
            return Ok(Probed::Ready);
        }
        if self.stream.is_none() {
            self.stream = Some(pool::dial(self.node).await?);
        }
        let live = self.ask("/health/live").await? == 200;
        Ok(if live { Probed::NotReady } else { Probed::Odd })
    }

    /// The status of the answer; 0 for one that is not HTTP. The connection is dropped where the
    /// answer does not leave it in order.
    async fn ask(&mut self, path: &str) -> io::Result<u16> {
        let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: holdfast-edge\r\n\r\n",
            self.node.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::with_capacity(2048);
        let answer = loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match Answer::read(&bytes) {
                Some(answer) if bytes.len() >= answer.length => break answer,
                None if !b"HTTP/1.".starts_with(&bytes[..bytes.len().min(7)])
                    || bytes.len() > LONGEST =>
                {
                    break Answer { status: 0, length: 0, keeps: false };
                }
                _ => {}
            }
        };
        if !answer.keeps || bytes.len() > answer.length {
            self.stream = None;
        }
        Ok(answer.status)
    }
}

/// What a probe reads of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Head and body together; the head alone where the body's length is not said.
    length: usize,
    /// Whether another request can follow.
    keeps: bool,
}

impl Answer {
    /// `None` until the head is whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let status = lines.next().and_then(|line| std::str::from_utf8(line).ok());
        let status = status.and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok()).unwrap_or(0);
        let (mut body, mut closes) = (None, false);
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                body = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            } else if name.eq_ignore_ascii_case(b"connection") {
                closes |= value.eq_ignore_ascii_case(b"close");
            }
        }
        let body: Option<usize> = body.filter(|body| *body <= LONGEST);
        let keeps = body.is_some() && !closes && status != 0;
        Some(Self { status, length: end + body.unwrap_or(0), keeps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_far_as_a_probe_needs() {
        let read = |text: &str| Answer::read(text.as_bytes());
        assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"), None);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        let fine = Answer { status: 200, length: head.len() + 2, keeps: true };
        assert_eq!(read(&format!("{head}{{}}")), Some(fine));
        for (text, status) in [
            ("HTTP/1.1 503 x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", 503),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 200),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", 200),
            ("SSH-2.0\r\n\r\n", 0),
        ] {
            let answer = read(text).unwrap();
            assert_eq!((answer.status, answer.keeps), (status, false), "{text}");
            assert_eq!(answer.length, text.len(), "{text}");
        }
    }
}
