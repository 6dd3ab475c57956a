//! How the process ends: the first SIGTERM or SIGINT drains, the second does not wait.

use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What `kill -9` would leave behind is what this leaves: nothing but open connections cut.
const CUT_SHORT: i32 = 1;

/// The two signals that ask for an end, caught from here on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Must run inside a runtime.
    ///
    /// # Errors
    ///
    /// The system gives no handler.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancels `drain` at the first signal, and ends the process at the second. Returns never, so
    /// that it can stand beside what drains.
    pub(crate) async fn drive(mut self, drain: CancellationToken) -> ! {
        let name = self.next().await;
        tracing::info!(signal = name, "draining; a second signal ends at once");
        drain.cancel();
        let name = self.next().await;
        tracing::warn!(signal = name, "ended without waiting for running calls");
        process::exit(CUT_SHORT);
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
