//! A connection without a wire, for tests of what lies above.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::error::{Closed, SendError};
use super::outbox::{Outbox, outbox};
use super::{Duplex, INBOX};

/// The server's end.
pub(crate) struct FakeServer {
    outbox: Outbox,
    deliver: mpsc::Sender<Bytes>,
    tell: watch::Sender<Option<Closed>>,
}

/// A connection to a server that the test plays.
pub(crate) fn pair() -> (Duplex, FakeServer) {
    let (tell, closed) = watch::channel(None);
    let (sender, outbox) = outbox(Duration::from_secs(30), closed.clone());
    let (deliver, inbox) = mpsc::channel(INBOX);
    (Duplex { sender, inbox, closed }, FakeServer { outbox, deliver, tell })
}

impl FakeServer {
    /// The next message that was sent to the server.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let taken = self.outbox.next().await?;
        let message = taken.message.clone();
        taken.settle(Ok(()));
        Some(message)
    }

    /// Takes the next message and answers for it with `error`.
    pub(crate) async fn refuse(&mut self, error: SendError) {
        self.outbox.next().await.expect("a message").settle(Err(error));
    }

    pub(crate) async fn say(&self, message: impl Into<Bytes>) {
        let _ = self.deliver.send(message.into()).await;
    }

    pub(crate) fn end(self, reason: &str) {
        self.tell.send_replace(Some(Closed::new(reason)));
    }
}
