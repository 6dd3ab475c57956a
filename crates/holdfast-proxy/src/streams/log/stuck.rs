//! Streams whose reader takes nothing, or is not there: when that is noticed, and what is done.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use holdfast_mcp::event_id::StreamKind;

use super::{LogState, StreamLog};

/// Done once.
pub(super) struct WhenStuck(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for WhenStuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WhenStuck")
    }
}

impl StreamLog {
    /// Since when nobody has read a stream that gets no further without a reader.
    pub(in crate::streams) fn stuck_since(&self) -> Option<Instant> {
        let inner = self.inner();
        let full = inner.state == LogState::Open
            && inner.ids.origin.kind == StreamKind::Call
            && inner.undelivered_bytes >= self.queue;
        (!inner.attached && (full || inner.state == LogState::Paused)).then_some(inner.last_seen)
    }

    /// What to do when the stream has got no further for want of a reader for some seconds.
    pub(crate) fn when_stuck(&self, act: impl FnOnce() + Send + 'static) {
        self.inner().when_stuck = Some(WhenStuck(Box::new(act)));
    }

    /// It has been stuck for a while.
    pub(in crate::streams) fn is_stuck(&self) {
        let act = self.inner().when_stuck.take();
        if let Some(WhenStuck(act)) = act {
            act();
        }
    }

    /// A reader that has taken nothing for [`STALL`] while its queue is full is cut off: it costs
    /// what its queue holds and a connection, and may come back for what it missed. One whose connection
    /// does not end with that (it is HTTP/2's, and carries other calls) loses the stream alone.
    pub(super) fn cut_slow_reader(self: &Arc<Self>) {
        let mut inner = self.inner();
        if let Some(connection) = inner.connection.take() {
            self.metrics.slow_readers.inc();
            connection.cancel();
        } else if inner.attached {
            let waker = inner.waker.take();
            self.leave(&mut inner);
            inner.epoch += 1;
            let epoch = inner.epoch;
            drop(inner);
            self.metrics.slow_readers.inc();
            waker.inspect(Waker::wake_by_ref);
            self.is_left(epoch);
        }
    }

    /// Its client is gone, or takes nothing: where that cancels the call, it is cancelled unless another
    /// reader than that of `epoch` has come within the client's grace.
    pub(in crate::streams) fn is_left(self: &Arc<Self>, epoch: u64) {
        let Some(grace) = self.cancel_after else { return };
        if grace.is_zero() {
            return self.cancel.cancel();
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let log = Arc::clone(self);
        runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            if log.inner().epoch == epoch {
                log.cancel.cancel();
            }
        });
    }
}
