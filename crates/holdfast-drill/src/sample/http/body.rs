//! Response bodies: whole, or in pieces that can end in a fault.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::super::answer::exit;
use super::super::wire::WireControl;

/// The connection ends here, without an answer or in the middle of one.
#[derive(Debug)]
pub(crate) struct Cut;

#[derive(Debug)]
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Pieces(Pieces),
}

#[derive(Debug)]
pub(crate) struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    wire: Arc<WireControl>,
    /// A fault that strikes once everything before it has been written to the socket.
    due: Option<Piece>,
}

/// A part of a body; a clean end is the end of the channel.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// Close the connection.
    Close,
    /// Reset the connection.
    Reset,
    /// End the process.
    Exit(i32),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }

    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// A body, and where its pieces are put in. The sender is closed when the client has gone.
    pub(crate) fn pieces(wire: &Arc<WireControl>) -> (Self, mpsc::Sender<Piece>) {
        // One at a time, so that the sender waits for a slow reader.
        let (sender, pieces) = mpsc::channel(1);
        (Self::Pieces(Pieces { pieces, wire: wire.clone(), due: None }), sender)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let pieces = match self.get_mut() {
            Self::Whole(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Pieces(pieces) => pieces,
        };
        match pieces.due.take() {
            Some(Piece::Exit(code)) => exit(code),
            Some(Piece::Reset) => {
                pieces.wire.reset();
                return Poll::Ready(Some(Err(Cut)));
            }
            Some(Piece::Close) => return Poll::Ready(Some(Err(Cut))),
            Some(Piece::Data(_)) | None => {}
        }
        match pieces.pieces.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Piece::Data(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Some(fault)) => {
                // hyper flushes what it has when a body is not ready; on the next poll it is due.
                pieces.due = Some(fault);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("scripted: the connection ends here")
    }
}

impl std::error::Error for Cut {}
