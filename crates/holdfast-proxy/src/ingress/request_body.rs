//! The body of a request: read within its limits, and where it is refused read on for a while all the
//! same.
//!
//! Most clients send all of a body before they look for an answer. A connection that is closed with bytes
//! of it unread is reset, the answer is lost with it (RFC 9112, section 9.6), and behind a balancer the
//! client gets a 502.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

/// The body of a request.
pub(crate) enum RequestBody {
    /// It is here.
    Whole(Bytes),
    /// It is still to be read, or part of it.
    Incoming(Lent),
}

/// A body that goes back, as far as it was not read, to where it came from.
pub(crate) struct Lent {
    body: Option<Incoming>,
    back: Option<Arc<Place>>,
    /// The client waits to be asked for it, which reading it does (RFC 9110, section 10.1.1).
    waits: bool,
}

/// Where a body comes back to.
type Place = Mutex<Option<Incoming>>;

/// What may have come back of a body.
pub(crate) struct Unread(Arc<Place>);

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    TooSlow,
    Broken,
}

/// What is read of a body that was refused, at most.
const DISCARDED: usize = 32 * 1024 * 1024;
/// For so long, at most.
const DISCARDING: Duration = Duration::from_secs(30);
/// A client that sends nothing for so long may wait for its answer.
const SILENT: Duration = Duration::from_secs(1);

// === impl RequestBody ===

impl RequestBody {
    /// A body of a connection that ends where it is not read, and what comes back of it: nothing of one
    /// that its client waits to be asked for and was not.
    pub(crate) fn lent(body: Incoming, waits: bool) -> (Self, Unread) {
        let place = Arc::<Place>::default();
        let back = Some(Arc::clone(&place));
        (Self::Incoming(Lent { body: Some(body), back, waits }), Unread(place))
    }

    /// Reads it: a single frame is not copied, and a timer is set only if the body is not here yet.
    ///
    /// # Errors
    /// [`BodyError`].
    ///
    /// # Cancel safety
    /// What was read is lost.
    pub(super) async fn read(self, limit: usize, deadline: Duration) -> Result<Bytes, BodyError> {
        match self {
            Self::Whole(body) if body.len() > limit => Err(BodyError::TooLarge),
            Self::Whole(body) => Ok(body),
            Self::Incoming(lent) => Box::pin(lent.read(limit, deadline)).await,
        }
    }
}

impl From<Incoming> for RequestBody {
    /// One of a connection that goes on whether it is read or not.
    fn from(body: Incoming) -> Self {
        Self::Incoming(Lent { body: Some(body), back: None, waits: false })
    }
}

// === impl Lent ===

impl Lent {
    async fn read(mut self, limit: usize, deadline: Duration) -> Result<Bytes, BodyError> {
        let Some(body) = &mut self.body else { return Err(BodyError::Broken) };
        if body.size_hint().lower() > limit as u64 {
            return Err(BodyError::TooLarge);
        }
        self.waits = false;
        let mut read = std::pin::pin!(collect(body, limit));
        match futures_util::poll!(read.as_mut()) {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => {
                tokio::time::timeout(deadline, read).await.unwrap_or(Err(BodyError::TooSlow))
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(back), false) = (&self.back, self.waits) {
            *back.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
        }
    }
}

async fn collect(body: &mut Incoming, limit: usize) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len() + joined.len() + data.len() > limit {
            return Err(BodyError::TooLarge);
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

// === impl Unread ===

impl Unread {
    /// Reads what has come back, and forgets it.
    ///
    /// # Cancel safety
    /// Nothing is lost that anybody wants.
    pub(crate) async fn discard(self) {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(body) = body.filter(|body| !body.is_end_stream()) {
            // Boxed: hardly any body comes back.
            let _ = tokio::time::timeout(DISCARDING, Box::pin(drain(body))).await;
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut discarded = 0;
    while discarded < DISCARDED
        && let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENT, body.frame()).await
    {
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}
