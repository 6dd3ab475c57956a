//! The response body that follows a stream's log.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::log::{Read, StreamLog};
use crate::asked::Alarm;
use crate::metrics::GaugeGuard;
use crate::session::InUse;
use holdfast_mcp::sse;

/// How one response follows its log.
pub(crate) struct ReaderOptions {
    /// The last number the client has seen.
    pub(crate) after: Option<u64>,
    /// A comment goes out after this long without an event.
    pub(crate) keepalive: Duration,
    /// When the response ends cleanly so that the client opens a new one; `None`: never.
    pub(crate) rotate_after: Option<Duration>,
    /// What the client is told to wait before it comes back.
    pub(crate) retry: Duration,
    /// Keeps the session from expiring while the stream is open.
    pub(crate) in_use: Option<InUse>,
    /// Counts the open stream.
    pub(crate) gauge: GaugeGuard,
    /// Cut if the client does not read.
    pub(crate) connection: Option<CancellationToken>,
}

/// Writes to the log that a response follows.
pub(crate) type Writer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The writer of a log in the hands of who reads it. Left alone, it goes on as a task of its own.
#[derive(Default)]
pub(crate) struct Driven(Option<Writer>);

/// What a reader has given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Given {
    /// Something; there may be more.
    Some,
    /// Something, and that is all for now: its task is woken when there is more.
    All,
    /// Nothing: it has ended.
    End,
}

/// Follows a log as an HTTP body. Dropping it is the client's disconnect.
pub(crate) struct Reader {
    log: Arc<StreamLog>,
    /// Polled by whoever reads, so that an event costs one wake-up and not two.
    writer: Driven,
    epoch: u64,
    next: u64,
    prime: Option<Bytes>,
    keepalive: Duration,
    last_sent: Instant,
    alarm: Alarm,
    rotate_at: Option<Instant>,
    retry_ms: u64,
    ended: bool,
    /// Whether the client had asked for events that are gone.
    pub(crate) gap: bool,
    _in_use: Option<InUse>,
    _gauge: GaugeGuard,
}

impl Reader {
    /// Becomes the log's one reader; an older one ends cleanly.
    pub(crate) fn new(log: Arc<StreamLog>, options: ReaderOptions) -> Self {
        let (epoch, next, gap) = log.attach(options.after, options.connection);
        let retry_ms = u64::try_from(options.retry.as_millis()).unwrap_or(u64::MAX);
        let now = Instant::now();
        let rotate_at = options.rotate_after.map(|after| now + after);
        let first = now + options.keepalive;
        Self {
            prime: log.prime(next, retry_ms),
            log,
            writer: Driven::default(),
            epoch,
            next,
            keepalive: options.keepalive,
            last_sent: now,
            alarm: Alarm::at(rotate_at.map_or(first, |at| at.min(first))),
            rotate_at,
            retry_ms,
            ended: false,
            gap,
            _in_use: options.in_use,
            _gauge: options.gauge,
        }
    }

    /// The same with the log's writer, which it drives.
    pub(crate) fn driving(mut self, writer: impl Future<Output = ()> + Send + 'static) -> Self {
        self.writer = Driven(Some(Box::pin(writer)));
        self
    }

    /// Lets the log's writer go on, if that is the reader's part: [`Self::poll_onto`] does, and who cannot
    /// take anything now does it with this.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if self.writer.0.is_none() {
            return;
        }
        let _driving = self.log.driving(self.epoch);
        self.writer.poll(cx);
    }

    /// The log's writer, which may have something to do behind the end of what is read.
    pub(crate) fn take_writer(&mut self) -> Driven {
        std::mem::take(&mut self.writer)
    }

    /// Appends what there is for the client.
    pub(crate) fn poll_onto(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Given> {
        if self.ended {
            return Poll::Ready(Given::End);
        }
        self.drive(cx);
        let empty = out.len();
        if let Some(prime) = self.prime.take() {
            out.extend_from_slice(&prime);
        }
        let read = self.log.read(self.epoch, &mut self.next, out, cx.waker());
        let given = match read {
            Read::Some => Given::Some,
            Read::All => Given::All,
            Read::End => {
                self.ended = true;
                Given::End
            }
        };
        if out.len() > empty {
            self.last_sent = Instant::now();
        }
        if given == Given::All {
            self.log.caught_up();
            while self.alarm.poll(cx).is_ready() {
                if let Some(frame) = self.on_alarm(Instant::now()) {
                    out.extend_from_slice(&frame);
                    return Poll::Ready(Given::Some);
                }
            }
        }
        match (given, out.len() > empty) {
            (Given::All, false) => Poll::Pending,
            (Given::End, true) => Poll::Ready(Given::Some),
            (given, _) => Poll::Ready(given),
        }
    }

    /// The client is not there any more.
    fn hang_up(&self) {
        let newest = self.log.detach(self.epoch);
        // A stream that the gateway ended is not a disconnect.
        if newest && !self.ended {
            self.log.is_left(self.epoch);
        }
    }

    /// The timer went off: rotate, send a comment, or sleep on.
    fn on_alarm(&mut self, now: Instant) -> Option<Bytes> {
        if self.rotate_at.is_some_and(|at| at <= now) {
            self.ended = true;
            self.log.count_rotation();
            // The last event names a fresh id and says when to come back.
            return self
                .log
                .prime(self.next, self.retry_ms)
                .or(Some(Bytes::from_static(sse::COMMENT)));
        }
        let silent_at = self.last_sent + self.keepalive;
        let comment = silent_at <= now;
        if comment {
            self.last_sent = now;
        }
        let next = self.last_sent + self.keepalive;
        self.alarm.reset(self.rotate_at.map_or(next, |at| at.min(next)));
        comment.then(|| Bytes::from_static(sse::COMMENT))
    }
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Whoever writes this out asks when it likes, and the writer does not wait for that.
        self.writer = Driven::default();
        let mut out = BytesMut::new();
        let given = ready!(self.poll_onto(cx, &mut out));
        Poll::Ready((given != Given::End).then(|| Ok(Frame::data(out.freeze()))))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.hang_up();
    }
}

// === impl Driven ===

impl Driven {
    /// Lets it go on.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(writer) = &mut self.0
            && writer.as_mut().poll(cx).is_ready()
        {
            self.0 = None;
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(writer) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(writer);
        }
    }
}
