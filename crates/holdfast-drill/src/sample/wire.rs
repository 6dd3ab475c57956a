//! The TCP connection under hyper: it remembers the bytes of the head as they came, and can be reset.
//!
//! hyper gives headers as a map, without their order and case; tests that compare byte for byte need
//! both. And a reset (RST) cannot be asked for through hyper at all.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// No more of a request than this is remembered, in bytes.
const MAX_HEAD: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Wire {
    io: TcpStream,
    control: Arc<WireControl>,
}

/// What the handlers of a connection may do to it.
#[derive(Debug)]
pub(super) struct WireControl {
    /// From 1, in the order of acceptance.
    pub(super) number: u64,
    seen: Mutex<Vec<u8>>,
    recording: AtomicBool,
    reset: AtomicBool,
    closed: watch::Sender<bool>,
}

/// All open connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    accepted: AtomicU64,
    open: Mutex<Vec<Weak<WireControl>>>,
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(io: TcpStream, connections: &Connections) -> Self {
        let number = connections.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let control = Arc::new(WireControl {
            number,
            seen: Mutex::default(),
            recording: AtomicBool::new(true),
            reset: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        });
        let mut open = connections.lock();
        open.retain(|known| known.strong_count() > 0);
        open.push(Arc::downgrade(&control));
        drop(open);
        Self { io, control }
    }

    pub(super) fn control(&self) -> Arc<WireControl> {
        self.control.clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.control.is_reset() {
            // Without lingering the kernel sends RST instead of FIN. If it refuses, the peer sees a
            // plain close; there is nothing better to do.
            let _ = self.io.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.control.is_reset() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.control.remember(&buffer.filled()[before..]);
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.control.is_reset() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.is_reset() {
            // A FIN would be a clean end.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl WireControl ===

impl WireControl {
    /// From now on nothing more is read or written; the connection ends in a reset when hyper drops it.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
    }

    fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }

    /// Closes the connection, whatever is going on on it.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Waits until the connection is to be closed.
    pub(super) async fn closed(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The head of the request that is being handled, as it came.
    pub(super) fn head(&self) -> Bytes {
        let seen = self.lock();
        // Clients may send an empty line before a request.
        let start = seen.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(0);
        let end = seen[start..].windows(4).position(|window| window == b"\r\n\r\n");
        match end {
            Some(end) => Bytes::copy_from_slice(&seen[start..start + end + 4]),
            None => Bytes::new(),
        }
    }

    /// The request was read to its end; what comes now is the next one.
    pub(super) fn next_request(&self) {
        self.lock().clear();
    }

    /// The connection speaks something else from now on.
    pub(super) fn stop_recording(&self) {
        self.recording.store(false, Ordering::Release);
        *self.lock() = Vec::new();
    }

    fn remember(&self, bytes: &[u8]) {
        if !bytes.is_empty() && self.recording.load(Ordering::Acquire) {
            let mut seen = self.lock();
            let room = MAX_HEAD.saturating_sub(seen.len());
            seen.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Connections ===

impl Connections {
    /// How many are open, and how many there have been.
    pub(super) fn count(&self) -> (usize, u64) {
        let open = self.lock().iter().filter(|known| known.strong_count() > 0).count();
        (open, self.accepted.load(Ordering::Relaxed))
    }

    /// Closes or resets all but the one with this number; returns how many.
    pub(super) fn close_all_but(&self, number: u64, reset: bool) -> usize {
        let open: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let others = open.iter().filter(|control| control.number != number);
        others
            .map(|control| {
                if reset {
                    control.reset();
                }
                control.close();
            })
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<WireControl>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
