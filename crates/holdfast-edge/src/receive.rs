//! Reading a request's body whole, so that it can be sent more than once.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a client may pause within a body.
const PAUSE: Duration = Duration::from_secs(30);
/// Bodies up to this size are read without asking for room.
const SMALL: usize = 64 * 1024;
/// One permit of the room for large bodies, in bytes.
const UNIT: usize = 64 * 1024;
/// All large bodies at once, in bytes, if the limit of one is no larger.
const ROOM: usize = 512 * 1024 * 1024;

/// The memory that large bodies share.
#[derive(Debug)]
pub(crate) struct Room {
    permits: Semaphore,
    /// The largest body.
    limit: usize,
}

/// A body, and its share of the room for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    pub(crate) body: Bytes,
    _permit: Option<SemaphorePermit<'a>>,
}

/// A body that was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is over the limit of {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("the body is broken: {0}")]
    Broken(hyper::Error),
}

// === impl Room ===

impl Room {
    pub(crate) fn new(limit: usize) -> Self {
        Self { permits: Semaphore::new(ROOM.max(limit).div_ceil(UNIT)), limit }
    }

    /// Reads a body. One that is large, or of unknown length, waits for room before it is read.
    ///
    /// # Errors
    /// [`BodyError`].
    pub(crate) async fn read(&self, mut body: Incoming) -> Result<Held<'_>, BodyError> {
        let hint = body.size_hint();
        let most = match hint.exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX)) {
            Some(0) => return Ok(Held { body: Bytes::new(), _permit: None }),
            Some(length) if length > self.limit => return Err(BodyError::TooLarge(self.limit)),
            Some(length) => length,
            None => SMALL,
        };
        let mut permit = None;
        if most > SMALL {
            permit = self.acquire(most).await?;
        }
        let mut allowed = most.min(self.limit);
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = next(&mut body).await? {
            if first.is_empty() && joined.is_empty() {
                first = frame;
                if first.len() > allowed {
                    self.grow(&mut permit, &mut allowed, first.len()).await?;
                }
                continue;
            }
            if joined.is_empty() {
                joined.reserve(allowed.min(SMALL).max(first.len() + frame.len()));
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&frame);
            if joined.len() > allowed {
                self.grow(&mut permit, &mut allowed, joined.len()).await?;
            }
        }
        let body = if joined.is_empty() { first } else { joined.freeze() };
        Ok(Held { body, _permit: permit })
    }

    /// A body of unknown length has turned out not to be small: it asks for the most it may be, once,
    /// so that no two wait for each other.
    async fn grow<'a>(
        &'a self,
        permit: &mut Option<SemaphorePermit<'a>>,
        allowed: &mut usize,
        length: usize,
    ) -> Result<(), BodyError> {
        if permit.is_some() || length > self.limit {
            return Err(BodyError::TooLarge(self.limit));
        }
        *permit = self.acquire(self.limit).await?;
        *allowed = self.limit;
        Ok(())
    }

    async fn acquire(&self, bytes: usize) -> Result<Option<SemaphorePermit<'_>>, BodyError> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let acquired = tokio::time::timeout(PAUSE, self.permits.acquire_many(units)).await;
        // The semaphore is never closed.
        acquired.map(Result::ok).map_err(|_| BodyError::TooSlow)
    }
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = tokio::time::timeout(PAUSE, body.frame()).await;
        match frame.map_err(|_| BodyError::TooSlow)? {
            None => return Ok(None),
            Some(Err(error)) => return Err(BodyError::Broken(error)),
            // Trailers are between neighbours.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

// === impl BodyError ===

impl BodyError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}
