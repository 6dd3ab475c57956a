//! How long a client may take over the head of a request, over beginning one, and over reading.
//!
//! hyper has one timeout for both waiting for a next request and reading its head. They want
//! different limits: a kept-alive connection may idle for longer than a balancer keeps it (75 s), a
//! head that has begun may not (10 s, against slow-header attacks). And it sets its timer anew for every
//! request, which is 1,300 instructions each time. So hyper is given no limit, and this wrapper of the
//! socket watches the head, from its first byte until the service is called, and how long none begins.
//! Nor does hyper ever give up a client that does not read; the same wrapper does.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holdfast_mcp::http1::Framings;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

/// Counts the requests of one connection whose head is complete and whose response is not begun.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    started: AtomicU32,
    finished: AtomicU32,
    /// Responses whose head is there and whose body is not all written.
    sending: AtomicU32,
    /// The connection has become something else (WebSocket): no heads follow.
    upgraded: AtomicBool,
    /// The client of the present request gets its answer although it has said that nothing follows.
    half_closes: AtomicBool,
    /// Of the requests that hyper reads: it drops a length beside a coding before anybody can see that
    /// there were both, which is the classic of request smuggling (RFC 9112, section 6.3).
    framings: Mutex<Framings>,
}

/// One request in service, until it is dropped.
#[derive(Debug)]
pub struct InService(Requests);

/// One response that is being written: a connection that streams is not idle, however long its client
/// says nothing.
#[derive(Debug)]
pub struct Sending(Requests);

impl Requests {
    /// The next bytes that hyper reads have arrived.
    pub(crate) fn arrived(&self, bytes: &[u8]) {
        self.framings().push(bytes);
    }

    /// Whether the next request has both a length and a coding: asked once for each that hyper reads.
    pub fn next_has_both(&self) -> bool {
        self.framings().next_has_both()
    }

    /// Reader and service take turns on one thread; the lock is never waited for.
    fn framings(&self) -> MutexGuard<'_, Framings> {
        self.0.framings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of a request is complete, and it is being served.
    pub fn start(&self) -> InService {
        self.0.started.fetch_add(1, Ordering::Relaxed);
        InService(self.clone())
    }

    /// A response begins to be written.
    pub fn sends(&self) -> Sending {
        self.0.sending.fetch_add(1, Ordering::Relaxed);
        Sending(self.clone())
    }

    fn is_sending(&self) -> bool {
        self.0.sending.load(Ordering::Relaxed) > 0
    }

    /// Whether the client of the present request may close its half of the connection behind it (RFC 9112,
    /// section 9.6). The request must be here as a whole.
    pub fn may_half_close(&self, may: bool) {
        self.0.half_closes.store(may, Ordering::Relaxed);
    }

    /// Whether somebody waits for an answer who has said that nothing follows, if the client has.
    /// `writes`: something of an answer has not been taken yet.
    fn is_half_closed(&self, writes: bool) -> bool {
        let answers = writes || self.idle_after().is_none() || self.is_sending();
        answers && self.0.half_closes.load(Ordering::Relaxed) && self.framings().is_between()
    }

    /// The connection speaks another protocol from here on.
    pub fn upgraded(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
        self.may_half_close(false);
        self.framings().stop();
    }

    /// How many have begun, if none is in service.
    fn idle_after(&self) -> Option<u32> {
        if self.0.upgraded.load(Ordering::Relaxed) {
            return None;
        }
        let started = self.0.started.load(Ordering::Relaxed);
        (started == self.0.finished.load(Ordering::Relaxed)).then_some(started)
    }
}

impl Drop for InService {
    fn drop(&mut self) {
        self.0.0.finished.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.0.sending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// From the end of one response to the first byte of the next request.
    pub idle: Duration,
    /// Without taking a byte of what is written to it.
    pub stalled: Duration,
}

/// How long a client is answered that has closed its half of the connection. Whether it waits for an answer
/// or is gone, its end looks the same; who is gone is noticed by what is written to it, or after this time.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// A socket whose reads fail once a head has taken too long, that ends once none has begun for too long, and
/// whose writes fail once the client has taken nothing for too long. The end of a client that waits for an
/// answer comes later. Always used by the same task.
#[derive(Debug)]
pub struct Impatient<S> {
    inner: S,
    requests: Requests,
    patience: Patience,
    /// When the head of request number `.0` began to arrive.
    head: Option<(u32, Instant)>,
    /// Set only for a head that did not arrive at once.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Since when request number `.0` is waited for.
    idle: Option<(u32, Instant)>,
    /// Goes off when the connection has been idle for too long since some request; whether it has been
    /// since the last one is seen then. Most requests leave it alone.
    watch: Option<Pin<Box<Sleep>>>,
    /// When the end of a client is told that waits for an answer.
    end: Option<Pin<Box<Sleep>>>,
    /// Set while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// `requests` are those of the connection.
    pub fn new(inner: S, requests: Requests, patience: Patience) -> Self {
        Self {
            inner,
            requests,
            patience,
            head: None,
            alarm: None,
            idle: None,
            watch: None,
            end: None,
            stalled: None,
        }
    }

    /// The head that is arriving has begun with bytes that were read before.
    pub fn has_begun(&mut self) {
        let Some(number) = self.requests.idle_after() else { return };
        let since = match self.head {
            Some((of, since)) if of == number => since,
            _ => Instant::now(),
        };
        self.head = Some((number, since));
    }

    /// When the head that is arriving has to be complete.
    fn deadline(&mut self) -> Option<Instant> {
        let number = self.requests.idle_after()?;
        match self.head {
            Some((of, since)) if of == number => Some(since + self.patience.head),
            _ => None,
        }
    }

    /// The client has said that nothing follows: ready once that is the end of the connection.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // hyper gives a body back before the last of it is out.
        if !self.requests.is_half_closed(self.stalled.is_some()) {
            return Poll::Ready(());
        }
        let end = self.end.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
        end.as_mut().poll(cx)
    }

    /// Ready once no request has begun for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(number) = self.requests.idle_after() else { return Poll::Pending };
        // Its reader is polled again when the response is written.
        if self.requests.is_sending() || self.stalled.is_some() {
            self.idle = None;
            return Poll::Pending;
        }
        let since = match self.idle {
            Some((of, since)) if of == number => since,
            _ => self.idle.insert((number, Instant::now())).1,
        };
        let end = since + self.patience.idle;
        let watch = match &mut self.watch {
            Some(watch) if !watch.is_elapsed() => return Poll::Pending,
            Some(watch) => watch,
            // Polled once below, so that it wakes this task.
            None => self.watch.insert(Box::pin(tokio::time::sleep_until(end))),
        };
        loop {
            // Whether or not the task has budget left: a watch that was not polled wakes nobody.
            ready!(Pin::new(&mut unconstrained(watch.as_mut())).poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            watch.as_mut().reset(end);
        }
    }
}

impl<S> Impatient<S> {
    /// Fails a write that has waited for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.patience.stalled;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if room > 0 && buf.filled().len() == before && matches!(read, Poll::Ready(Ok(()))) {
            ready!(this.poll_end(cx));
        }
        let deadline = this.deadline();
        if read.is_ready() {
            let Some(number) = this.requests.idle_after() else {
                this.alarm = None;
                return read;
            };
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Poll::Ready(Err(too_slow()));
            }
            if deadline.is_none() && buf.filled().len() > before {
                this.head = Some((number, Instant::now()));
                this.alarm = None;
            }
            return read;
        }
        let Some(deadline) = deadline else {
            this.alarm = None;
            // The end of a connection that is idle, as if its client had closed it.
            return this.poll_idle(cx).map(Ok);
        };
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(Err(too_slow()))
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the head of the request took too long")
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
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
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::consume_budget;

    const LIMIT: Duration = Duration::from_secs(10);
    const STALLED: Duration = Duration::from_secs(60);
    const PATIENCE: Patience =
        Patience { head: LIMIT, idle: Duration::from_secs(75), stalled: STALLED };

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_is_cut_at_the_limit() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Impatient::new(server, Requests::default(), PATIENCE);
        let begun = Instant::now();
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        let mut buf = [0; 8];
        let error = loop {
            match server.read(&mut buf).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), LIMIT);
        drop(server);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgraded_connection_may_say_little_and_slowly() {
        let (mut client, server) = tokio::io::duplex(64);
        let requests = Requests::default();
        let mut server = Impatient::new(server, requests.clone(), PATIENCE);
        requests.upgraded();
        let mut buf = [0; 8];
        for _ in 0..3 {
            client.write_all(b"f").await.unwrap();
            assert_eq!(server.read(&mut buf).await.unwrap(), 1);
            tokio::time::sleep(LIMIT * 2).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_and_a_slow_body_are_not_its_business() {
        let (mut client, server) = tokio::io::duplex(64);
        let requests = Requests::default();
        let mut server = Impatient::new(server, requests.clone(), PATIENCE);
        let mut buf = [0; 8];
        // Idle for a minute, then a head, then a body that takes another minute.
        let idle = tokio::time::timeout(Duration::from_secs(60), server.read(&mut buf)).await;
        assert!(idle.is_err());
        client.write_all(b"head").await.unwrap();
        assert_eq!(server.read(&mut buf).await.unwrap(), 4);
        let in_service = requests.start();
        let body = tokio::time::timeout(Duration::from_secs(60), server.read(&mut buf)).await;
        assert!(body.is_err());
        drop(in_service);
        // The next head has a clock of its own.
        client.write_all(b"h").await.unwrap();
        assert_eq!(server.read(&mut buf).await.unwrap(), 1);
        assert_eq!(server.read(&mut buf).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_and_each_request_begins_its_time_anew() {
        let (mut client, server) = tokio::io::duplex(64);
        let requests = Requests::default();
        let mut server = Impatient::new(server, requests.clone(), PATIENCE);
        let begun = Instant::now();
        let asking = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(PATIENCE.idle / 2).await;
                client.write_all(b"head").await.unwrap();
            }
            client
        });
        let mut buf = [0; 8];
        for _ in 0..3 {
            assert_eq!(server.read(&mut buf).await.unwrap(), 4);
            drop(requests.start());
        }
        assert_eq!(server.read(&mut buf).await.unwrap(), 0);
        assert_eq!(begun.elapsed(), PATIENCE.idle / 2 * 3 + PATIENCE.idle);
        drop(asking.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_first_asked_when_its_task_has_spent_its_budget_ends_too() {
        let (_client, server) = tokio::io::duplex(64);
        let mut server = Impatient::new(server, Requests::default(), PATIENCE);
        let begun = Instant::now();
        let mut buf = [0; 8];
        let read = async {
            let mut read = std::pin::pin!(server.read(&mut buf));
            let mut spent = false;
            std::future::poll_fn(|cx| {
                while !spent {
                    spent = std::pin::pin!(consume_budget()).poll(cx).is_pending();
                }
                read.as_mut().poll(cx)
            })
            .await
        };
        let read = tokio::time::timeout(PATIENCE.idle * 2, read).await.expect("an end");
        assert_eq!((read.unwrap(), begun.elapsed()), (0, PATIENCE.idle));
    }

    /// The end of a client's half, as it is told while a request is served: how long it takes.
    async fn told_after(prepare: impl FnOnce(&Requests)) -> Duration {
        let (client, server) = tokio::io::duplex(64);
        let requests = Requests::default();
        let mut server = Impatient::new(server, requests.clone(), PATIENCE);
        prepare(&requests);
        let in_service = requests.start();
        drop(client);
        let begun = Instant::now();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        drop(in_service);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_its_half_is_answered_for_a_while() {
        assert_eq!(told_after(|requests| requests.may_half_close(true)).await, HALF_CLOSED);
        assert_eq!(told_after(|_| {}).await, Duration::ZERO);
        // Of the body, or of another request, more was to come.
        let cut = |requests: &Requests| {
            requests.may_half_close(true);
            requests.arrived(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n1");
        };
        assert_eq!(told_after(cut).await, Duration::ZERO);
        let upgraded = |requests: &Requests| {
            requests.may_half_close(true);
            requests.upgraded();
        };
        assert_eq!(told_after(upgraded).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_that_is_closed_is_told_at_once_when_the_answer_is_out() {
        let (client, server) = tokio::io::duplex(64);
        let requests = Requests::default();
        let mut server = Impatient::new(server, requests.clone(), PATIENCE);
        requests.may_half_close(true);
        let in_service = requests.start();
        drop(client);
        let begun = Instant::now();
        let mut buf = [0; 8];
        let early = tokio::time::timeout(HALF_CLOSED / 2, server.read(&mut buf)).await;
        assert!(early.is_err());
        drop(in_service);
        assert_eq!(server.read(&mut buf).await.unwrap(), 0);
        assert_eq!(begun.elapsed(), HALF_CLOSED / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_being_written_is_not_idle_and_then_the_time_begins() {
        let (_client, server) = tokio::io::duplex(64);
        let requests = Requests::default();
        let mut server = Impatient::new(server, requests.clone(), PATIENCE);
        let mut buf = [0; 8];
        // Idle for a while first, so that the watch is set before the stream begins.
        let idle = tokio::time::timeout(PATIENCE.idle / 2, server.read(&mut buf)).await;
        assert!(idle.is_err());
        drop(requests.start());
        let sending = requests.sends();
        let long = tokio::time::timeout(PATIENCE.idle * 3, server.read(&mut buf)).await;
        assert!(long.is_err());
        drop(sending);
        let begun = Instant::now();
        assert_eq!(server.read(&mut buf).await.unwrap(), 0);
        assert_eq!(begun.elapsed(), PATIENCE.idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_service_is_not_idle_however_long_it_takes() {
        let (_client, server) = tokio::io::duplex(64);
        let requests = Requests::default();
        let mut server = Impatient::new(server, requests.clone(), PATIENCE);
        let mut buf = [0; 8];
        let in_service = requests.start();
        let long = tokio::time::timeout(PATIENCE.idle * 3, server.read(&mut buf)).await;
        assert!(long.is_err());
        drop(in_service);
        let begun = Instant::now();
        assert_eq!(server.read(&mut buf).await.unwrap(), 0);
        assert_eq!(begun.elapsed(), PATIENCE.idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (mut client, server) = tokio::io::duplex(4);
        let mut server = Impatient::new(server, Requests::default(), PATIENCE);
        let begun = Instant::now();
        let mut buf = [0; 2];
        let (error, read) = tokio::join!(server.write_all(b"eight by"), async {
            tokio::time::sleep(STALLED / 2).await;
            client.read_exact(&mut buf).await
        });
        assert!(read.is_ok());
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Its time begins anew with every byte that it takes.
        assert_eq!(begun.elapsed(), STALLED / 2 + STALLED);
    }
}
