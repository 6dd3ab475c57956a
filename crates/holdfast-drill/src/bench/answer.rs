//! What the fast server answers, built with one allocation per call.

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::{DEFAULT_BYTES, EVENTS_PER_STREAM};

/// Requests for more are answered with this much, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The few fields that the fast server reads.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) method: Option<&'a str>,
    #[serde(borrow, default)]
    pub(super) params: Option<Params<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Params<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<&'a str>,
    #[serde(default)]
    pub(super) arguments: Option<Arguments>,
    #[serde(rename = "protocolVersion", borrow, default)]
    pub(super) protocol_version: Option<&'a str>,
}

#[derive(Deserialize)]
pub(super) struct Arguments {
    #[serde(default)]
    bytes: Option<usize>,
    #[serde(default)]
    pause_ms: Option<u64>,
}

impl Params<'_> {
    pub(super) fn bytes(&self) -> usize {
        let asked = self.arguments.as_ref().and_then(|arguments| arguments.bytes);
        asked.unwrap_or(DEFAULT_BYTES).min(MAX_BYTES)
    }

    /// How long each event of a stream is after the one before.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.arguments.as_ref()?.pause_ms.map(Duration::from_millis)
    }
}

/// A tool result whose text is `bytes` long.
pub(super) fn tool_result(id: &str, bytes: usize) -> Bytes {
    const HEAD: &str = r#"{"jsonrpc":"2.0","id":"#;
    const MIDDLE: &str = r#","result":{"content":[{"type":"text","text":""#;
    const TAIL: &str = r#""}],"isError":false,"resultType":"complete"}}"#;
    let mut text = Vec::with_capacity(HEAD.len() + id.len() + MIDDLE.len() + bytes + TAIL.len());
    text.extend_from_slice(HEAD.as_bytes());
    text.extend_from_slice(id.as_bytes());
    text.extend_from_slice(MIDDLE.as_bytes());
    text.resize(text.len() + bytes, b'x');
    text.extend_from_slice(TAIL.as_bytes());
    text.into()
}

/// An event for the GET streams whose text is `bytes` long.
pub(super) fn announcement(bytes: usize) -> Bytes {
    let text = "x".repeat(bytes);
    let params = format!(r#"{{"level":"info","data":"{text}"}}"#);
    let message =
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}"#);
    format!("event: message\ndata: {message}\n\n").into()
}

/// Any other result, given as JSON text.
pub(super) fn result(id: &str, result: &str) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into()
}

/// A JSON-RPC error.
pub(super) fn error(id: &str, code: i64, message: &str) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
        .into()
}

/// The body of every answer of the fast server.
pub(super) enum AnswerBody {
    /// One frame, or nothing.
    Full(Option<Bytes>),
    /// Events that are written one by one.
    Events { id: Box<str>, sent: usize, yielded: bool },
    /// The same with a pause before each, so that whoever reads has it before the next one comes.
    Paced { id: Box<str>, sent: usize, every: Duration, pause: Pin<Box<Sleep>> },
    /// A stream that stays open until the client goes, and says what is announced.
    Held(mpsc::UnboundedReceiver<Bytes>),
    /// Half of so many bytes, then the end of the connection.
    Half { whole: u64, sent: bool },
    /// A part of a stream, then the end of the connection.
    Cut(Option<Bytes>),
    /// A byte every so often.
    Drip { left: Bytes, every: Duration, pause: Pin<Box<Sleep>> },
}

/// The connection ends on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the connection ends on purpose")]
pub(super) struct Broken;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Held(events) => {
                events.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
            }
            Self::Half { sent: true, .. } => Poll::Ready(Some(Err(Broken))),
            Self::Half { whole, sent } => {
                *sent = true;
                let half = usize::try_from(*whole / 2).unwrap_or(0);
                Poll::Ready(Some(Ok(Frame::data(vec![b' '; half].into()))))
            }
            Self::Cut(part) => Poll::Ready(Some(part.take().map(Frame::data).ok_or(Broken))),
            Self::Drip { left, every, pause } => {
                if left.is_empty() {
                    return Poll::Ready(None);
                }
                std::task::ready!(pause.as_mut().poll(cx));
                pause.as_mut().reset(tokio::time::Instant::now() + *every);
                Poll::Ready(Some(Ok(Frame::data(left.split_to(1)))))
            }
            Self::Events { id, sent, yielded } => {
                if *sent == EVENTS_PER_STREAM {
                    return Poll::Ready(None);
                }
                // Yielding between events makes hyper flush each on its own, as a server does that
                // streams progress; without it all twenty would leave in one write.
                if *sent > 0 && !*yielded {
                    *yielded = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                *yielded = false;
                *sent += 1;
                Poll::Ready(Some(Ok(Frame::data(event(id, *sent)))))
            }
            Self::Paced { sent: EVENTS_PER_STREAM, .. } => Poll::Ready(None),
            Self::Paced { id, sent, every, pause } => {
                std::task::ready!(pause.as_mut().poll(cx));
                pause.as_mut().reset(tokio::time::Instant::now() + *every);
                *sent += 1;
                Poll::Ready(Some(Ok(Frame::data(event(id, *sent)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Half { whole, .. } => SizeHint::with_exact(*whole),
            Self::Drip { left, .. } => SizeHint::with_exact(left.len() as u64),
            Self::Events { .. } | Self::Paced { .. } | Self::Held(_) | Self::Cut(_) => {
                SizeHint::default()
            }
        }
    }
}

pub(super) fn event(id: &str, number: usize) -> Bytes {
    let mut text = String::with_capacity(192);
    text.push_str("event: message\ndata: ");
    // Writing to a String cannot fail.
    let _ = if number == EVENTS_PER_STREAM {
        write!(
            text,
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[],"isError":false,"resultType":"complete"}}}}"#
        )
    } else {
        write!(
            text,
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{id},"progress":{number},"total":{EVENTS_PER_STREAM}}}}}"#
        )
    };
    text.push_str("\n\n");
    text.into()
}
