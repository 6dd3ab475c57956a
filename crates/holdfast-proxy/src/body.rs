//! The bodies of our responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::ingress::LineBody;
use crate::streams::Reader;
use crate::upstream::http::Lease;

/// What a response to a client is made of.
pub(crate) enum Body {
    /// All of it.
    Full(Option<Bytes>),
    /// A stream's log, followed.
    Stream(Box<Reader>),
    /// The event stream of an HTTP+SSE client.
    Line(Box<LineBody>),
    /// A server's body, passed on as it comes.
    Rest(Box<Rest>),
}

pub(crate) struct Rest {
    head: Bytes,
    rest: Incoming,
    lease: Option<Lease>,
}

impl Body {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }

    pub(crate) fn rest(head: Bytes, rest: Incoming, lease: Lease) -> Self {
        Self::Rest(Box::new(Rest { head, rest, lease: Some(lease) }))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(reader) => Pin::new(&mut **reader)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Line(line) => {
                line.poll(cx).map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Rest(rest) => {
                if !rest.head.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut rest.head)))));
                }
                let frame = std::task::ready!(Pin::new(&mut rest.rest).poll_frame(cx));
                if frame.is_none()
                    && let Some(lease) = rest.lease.take()
                {
                    lease.done();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(_) | Self::Line(_) | Self::Rest(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Rest(rest) => match rest.rest.size_hint().exact() {
                Some(length) => SizeHint::with_exact(length + rest.head.len() as u64),
                None => SizeHint::default(),
            },
            Self::Stream(_) | Self::Line(_) => SizeHint::default(),
        }
    }
}
