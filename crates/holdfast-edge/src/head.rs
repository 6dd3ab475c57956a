//! Watches the head of each request as its bytes arrive on a client's connection.
//!
//! Three things hyper does not do. It has one timeout for waiting for a next request and for reading
//! its head, where the first may take long and the second may not. It waits for ever for a client
//! that does not read. And it drops a `Content-Length`
//! beside a `Transfer-Encoding` before anybody can see that there were both, which is the classic of
//! request smuggling (RFC 9112, section 6.3). So the socket is wrapped, and looks at heads itself.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holdfast_mcp::http1::Framings;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a client may read nothing while there is something to write to it.
const STUCK: Duration = Duration::from_secs(60);

/// What the connection and its service tell each other. They take turns on one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heads(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    begun: AtomicU32,
    ended: AtomicU32,
    framings: Mutex<Framings>,
}

/// A request from its head to the head of its response.
#[derive(Debug)]
pub(crate) struct Serving(Heads);

/// A client's socket.
pub(crate) struct Watched<S> {
    inner: S,
    heads: Heads,
    limit: Duration,
    /// When the head after that many requests began to arrive.
    arriving: Option<(u32, Instant)>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Set while the client takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
}

// === impl Heads ===

impl Heads {
    /// The head has arrived and its request is being served.
    pub(crate) fn serve(&self) -> Serving {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }

    /// Whether the next request has both a length and a coding: asked once for each.
    pub(crate) fn next_has_both(&self) -> bool {
        self.framings().next_has_both()
    }

    fn framings(&self) -> MutexGuard<'_, Framings> {
        self.0.framings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests there have been, if none is being served.
    fn between(&self) -> Option<u32> {
        let begun = self.0.begun.load(Ordering::Relaxed);
        (begun == self.0.ended.load(Ordering::Relaxed)).then_some(begun)
    }
}

impl Serving {
    /// The connection has become something else: no head follows.
    pub(crate) fn for_good(self) {
        self.0.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.framings().stop();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Watched ===

impl<S> Watched<S> {
    pub(crate) fn new(inner: S, heads: Heads, limit: Duration) -> Self {
        Self { inner, heads, limit, arriving: None, alarm: None, stuck: None }
    }

    /// When the head that is arriving has to be whole.
    fn deadline(&self, number: u32) -> Option<Instant> {
        self.arriving.filter(|(of, _)| *of == number).map(|(_, since)| since + self.limit)
    }

    /// Fails a write that has waited for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(STUCK)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        let arrived = &buf.filled()[before..];
        this.heads.framings().push(arrived);
        let Some(number) = this.heads.between() else {
            this.alarm = None;
            return read;
        };
        let deadline = this.deadline(number);
        if read.is_pending() {
            let Some(deadline) = deadline else {
                this.alarm = None;
                return Poll::Pending;
            };
            let alarm =
                this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            ready!(alarm.as_mut().poll(cx));
            return Poll::Ready(Err(too_slow()));
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Poll::Ready(Err(too_slow()));
        }
        if deadline.is_none() && !arrived.is_empty() {
            this.arriving = Some((number, now));
            this.alarm = None;
        }
        read
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the head of the request took too long")
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_is_cut_at_the_limit() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Watched::new(server, Heads::default(), LIMIT);
        let begun = Instant::now();
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        let mut buf = [0; 8];
        let error = loop {
            if let Err(error) = server.read(&mut buf).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), LIMIT);
        drop(server);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_and_bodies_may_take_longer() {
        let (mut client, server) = tokio::io::duplex(64);
        let heads = Heads::default();
        let mut server = Watched::new(server, heads.clone(), LIMIT);
        let mut buf = [0; 8];
        let minute = Duration::from_secs(60);
        assert!(tokio::time::timeout(minute, server.read(&mut buf)).await.is_err());
        client.write_all(b"head").await.unwrap();
        assert_eq!(server.read(&mut buf).await.unwrap(), 4);
        let serving = heads.serve();
        assert!(tokio::time::timeout(minute, server.read(&mut buf)).await.is_err());
        drop(serving);
        let other = heads.serve();
        other.for_good();
        client.write_all(b"frame").await.unwrap();
        assert_eq!(server.read(&mut buf).await.unwrap(), 5);
        assert!(tokio::time::timeout(minute, server.read(&mut buf)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (mut client, server) = tokio::io::duplex(4);
        let mut server = Watched::new(server, Heads::default(), LIMIT);
        let begun = Instant::now();
        let mut buf = [0; 2];
        let (error, read) = tokio::join!(server.write_all(b"eight by"), async {
            tokio::time::sleep(STUCK / 2).await;
            client.read_exact(&mut buf).await
        });
        assert!(read.is_ok());
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Its time begins anew with every byte that it takes.
        assert_eq!(begun.elapsed(), STUCK / 2 + STUCK);
    }

    #[tokio::test(start_paused = true)]
    async fn every_head_has_a_time_of_its_own() {
        let (mut client, server) = tokio::io::duplex(64);
        let heads = Heads::default();
        let mut server = Watched::new(server, heads.clone(), LIMIT);
        let mut buf = [0; 8];
        client.write_all(b"head").await.unwrap();
        assert_eq!(server.read(&mut buf).await.unwrap(), 4);
        tokio::time::sleep(LIMIT / 2).await;
        drop(heads.serve());
        tokio::time::sleep(LIMIT).await;
        client.write_all(b"h").await.unwrap();
        assert_eq!(server.read(&mut buf).await.unwrap(), 1);
        assert_eq!(server.read(&mut buf).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
