//! SIGHUP: the configuration is read again, and taken over if it can be.

use std::io;
use std::sync::Arc;

use holdfast_config::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::reload::Reload;

/// Where the configuration comes from, each time that it is asked for.
pub(crate) type Source = Box<dyn Fn() -> anyhow::Result<Config> + Send + Sync>;

/// The signal, caught from here on: without that it would end the process.
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Must run inside a runtime.
    ///
    /// # Errors
    ///
    /// The system gives no handler.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Reads and takes over, once for each signal. Runs for the life of the node.
    pub(crate) async fn drive(mut self, source: Source, reload: Arc<Reload>) {
        while self.0.recv().await.is_some() {
            let applied = source().and_then(|config| reload.apply(config));
            match applied {
                Ok(changes) => {
                    tracing::info!(changes = changes.len(), "configuration reloaded");
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    tracing::error!(reason, "configuration refused; the one before goes on");
                }
            }
        }
    }
}
