//! The body of a response on its way to the client.
//!
//! An event stream whose node breaks off, freezes or dies ends cleanly here: clients then come back
//! with their last event id, where a cut would make some of them give up. A body that is not a
//! stream is passed on as it is, its cut included: half an answer must not look like one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::attempt::{Attempt, Lease};
use crate::listener::Edge;
use crate::nodes::InFlight;

/// What a response to a client is made of.
pub(crate) enum Body {
    Full(Option<Bytes>),
    Relayed(Box<Relayed>),
}

/// A node's body.
pub(crate) struct Relayed {
    edge: Arc<Edge>,
    node: usize,
    body: Incoming,
    /// Gone once the body has been read to its end.
    lease: Option<Lease>,
    kind: Kind,
    /// Resolves when there is nothing to wait for any more. Made when there is something to wait
    /// for: most answers are here with their head.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _work: InFlight,
    /// Sendings that were overtaken. Their connections stay open until the client has its answer,
    /// since a node takes a closed one for a client that no longer wants it.
    _overtaken: Vec<Attempt>,
}

/// How a body may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only by its own end.
    Whole,
    /// The stream of an answer: anywhere, cleanly.
    Stream,
    /// A stream that a client just listens to: also as soon as the edge drains.
    Listening,
}

/// The node is gone, and with it the rest of an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the answer was cut: {0}")]
    Broken(hyper::Error),
    #[error("the node is gone, or the edge ends")]
    Gone,
}

// === impl Relayed ===

impl Relayed {
    pub(crate) fn new(
        edge: &Arc<Edge>,
        body: Incoming,
        lease: Lease,
        kind: Kind,
        work: InFlight,
        overtaken: Vec<Attempt>,
    ) -> Self {
        let node = lease.node;
        let mut relayed = Self {
            edge: Arc::clone(edge),
            node,
            body,
            lease: Some(lease),
            kind,
            over: None,
            _work: work,
            _overtaken: overtaken,
        };
        relayed.settle();
        relayed
    }

    /// Gives the connection back once nothing more can come over it. hyper does not always ask for
    /// the end of a body whose length it knows.
    fn settle(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.done();
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.over.get_or_insert_with(|| {
            let (edge, node) = (Arc::clone(&self.edge), self.node);
            let drains = self.kind == Kind::Listening;
            Box::pin(async move {
                tokio::select! {
                    () = edge.nodes.lost(node) => {}
                    () = edge.draining.cancelled(), if drains => {}
                    () = edge.giving_up.cancelled() => {}
                }
            })
        });
        over.as_mut().poll(cx).is_ready()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let failed = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.settle();
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.done();
                }
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => Cut::Broken(error),
            Poll::Pending if self.is_over(cx) => Cut::Gone,
            Poll::Pending => return Poll::Pending,
        };
        self.lease = None;
        self.edge.nodes.get(self.node).nudge.notify_one();
        if self.kind == Kind::Whole {
            return Poll::Ready(Some(Err(failed)));
        }
        tracing::debug!(reason = %failed, "a stream was ended for its client to come back");
        Poll::Ready(None)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relayed) => relayed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.lease.is_none() && relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Relayed(relayed) if relayed.kind == Kind::Whole => relayed.body.size_hint(),
            Self::Relayed(_) => SizeHint::default(),
        }
    }
}
