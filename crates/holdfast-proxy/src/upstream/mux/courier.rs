//! Sends what nobody waits for: cancellations from `Drop`, refusals of a server's requests.
//!
//! The dispatcher must never wait for a send: a server that waits for us to read would wait for ever.

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::debug;

use crate::upstream::duplex::DuplexSender;

/// Messages that may wait. More than this is a server that floods and does not read; then they are
/// dropped.
const WAITING: usize = 1024;

#[derive(Clone)]
pub(super) struct Courier(mpsc::Sender<Bytes>);

/// A courier that does not keep the connection open.
pub(super) struct WeakCourier(mpsc::WeakSender<Bytes>);

impl Courier {
    /// Starts the task. It holds the connection open until it has delivered what was posted before the
    /// last courier went.
    pub(super) fn start(sender: DuplexSender) -> Self {
        let (post, mut posted) = mpsc::channel::<Bytes>(WAITING);
        tokio::spawn(async move {
            while let Some(message) = posted.recv().await {
                if let Err(error) = sender.send(message).await {
                    debug!(%error, "a message that nobody waits for was not delivered");
                }
            }
        });
        Self(post)
    }

    pub(super) fn post(&self, message: Bytes) {
        if self.0.try_send(message).is_err() {
            debug!("a message that nobody waits for was dropped");
        }
    }

    pub(super) fn weak(&self) -> WeakCourier {
        WeakCourier(self.0.downgrade())
    }
}

impl WeakCourier {
    pub(super) fn post(&self, message: Bytes) {
        if let Some(courier) = self.0.upgrade() {
            Courier(courier).post(message);
        }
    }
}
