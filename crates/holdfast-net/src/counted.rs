//! A response that is counted for as long as its body is being written.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

/// A response's body that keeps its request in a count: `G` is given back with the body.
#[derive(Debug)]
pub struct Counted<B, G> {
    body: B,
    _counted: G,
}

// === impl Counted ===

impl<B, G> Counted<B, G> {
    /// Keeps `counted` until the body is written or given up.
    pub fn new(body: B, counted: G) -> Self {
        Self { body, _counted: counted }
    }
}

impl<B: Body + Unpin, G: Unpin> Body for Counted<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
