//! The bodies of our responses.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::sse;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::cluster::Relayed;
use crate::exchange::Transfer;
use crate::fleet::Outcome;
use crate::ingress::LineBody;
use crate::streams::Reader;
use crate::upstream::http::ResponseBody;
use crate::upstream::wire::WireError;

/// What a response to a client is made of.
pub(crate) enum Body {
    /// All of it.
    Full(Option<Bytes>),
    /// A stream's log, followed.
    Stream(Box<Reader>),
    /// The event stream of an HTTP+SSE client.
    Line(Box<LineBody>),
    /// A server's large answer, passed on as it comes.
    Large(Box<Transfer>),
    /// What a server answers that is not asked for a call, passed on as it comes.
    Rest(Box<Rest>),
    /// Another node's answer, passed on as it comes.
    Forwarded(Box<Relayed>),
    /// An event stream whose source is still being found; comments keep it alive until then.
    Later(Box<Later>),
}

pub(crate) struct Later {
    body: Pin<Box<dyn Future<Output = Body> + Send>>,
    keepalive: Duration,
    alarm: Pin<Box<Sleep>>,
    begun: bool,
}

/// `None` once it was read to its end.
pub(crate) struct Rest(Option<ResponseBody>);

/// A body that is passed on broke where it comes from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// At the server.
    #[error(transparent)]
    Server(#[from] WireError),
    /// The server stopped in the middle.
    #[error("its answer stopped half way")]
    Silent,
    /// At another node.
    #[error(transparent)]
    Node(#[from] hyper::Error),
}

impl Broken {
    /// What it says of the server that the body was to come from.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Server(_) => Outcome::Broken,
            Self::Silent => Outcome::TimedOut,
            Self::Node(_) => Outcome::Void,
        }
    }
}

impl Body {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }

    /// An event stream that begins at once and goes on with `body`.
    pub(crate) fn later(
        keepalive: Duration,
        body: impl Future<Output = Self> + Send + 'static,
    ) -> Self {
        let alarm = Box::pin(tokio::time::sleep(keepalive));
        Self::Later(Box::new(Later { body: Box::pin(body), keepalive, alarm, begun: false }))
    }

    pub(crate) fn rest(rest: ResponseBody) -> Self {
        Self::Rest(Box::new(Rest(Some(rest))))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Self::Later(later) = &mut *self {
            if !std::mem::replace(&mut later.begun, true) {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(sse::COMMENT)))));
            }
            match later.body.as_mut().poll(cx) {
                Poll::Ready(body) => *self = body,
                Poll::Pending => {
                    std::task::ready!(later.alarm.as_mut().poll(cx));
                    later.alarm.as_mut().reset(Instant::now() + later.keepalive);
                    // Polled once more so that the new alarm is armed.
                    let _ = later.alarm.as_mut().poll(cx);
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(sse::COMMENT)))));
                }
            }
        }
        match self.get_mut() {
            // A source that is found is no search for one.
            Self::Later(_) => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(reader) => Pin::new(&mut **reader)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Line(line) => {
                line.poll(cx).map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Forwarded(relayed) => {
                relayed.poll(cx).map(|frame| frame.map(|frame| frame.map_err(Broken::from)))
            }
            Self::Large(large) => {
                large.poll_next(cx).map(|data| data.map(|data| data.map(Frame::data)))
            }
            Self::Rest(rest) => {
                let Some(body) = &mut rest.0 else { return Poll::Ready(None) };
                let data = std::task::ready!(body.poll_next(cx));
                if data.is_none()
                    && let Some(body) = rest.0.take()
                {
                    body.lease().done();
                }
                Poll::Ready(data.map(|data| Ok(Frame::data(data?))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(_)
            | Self::Line(_)
            | Self::Large(_)
            | Self::Rest(_)
            | Self::Forwarded(_)
            | Self::Later(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Large(large) => {
                large.declared().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Rest(rest) => {
                let length = rest.0.as_ref().and_then(ResponseBody::declared);
                length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Stream(_) | Self::Line(_) | Self::Forwarded(_) | Self::Later(_) => {
                SizeHint::default()
            }
        }
    }
}
