//! Where another configuration of a running node comes from: its file, a signal, an operator, and what the
//! cluster agreed on. Which of them holds is decided in [`holdfast_control::versions`]; taking it over is
//! [`Reload`]'s.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use holdfast_config::{Change, Config, File};
use holdfast_control::Group;
use holdfast_control::versions::{Apply, Ledger, Refusal, Settings, Versions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::config_file;
use crate::reload::Reload;

/// The file that a node was started with.
pub(crate) struct Origin {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

/// SIGHUP, caught from here on: without that it would end the process.
pub(crate) struct Hangups(Signal);

struct Parts(Arc<Reload>);

impl Origin {
    /// The versions of a node that was started with this file. `ledger` keeps them, `group` is who hears
    /// what there is to say.
    pub(crate) fn versions(
        self,
        ledger: Arc<dyn Ledger>,
        group: Arc<dyn Group>,
        reload: Arc<Reload>,
    ) -> Arc<Versions> {
        let config = &self.file.config;
        let settings = Settings {
            path: self.path,
            env: config_file::env,
            node: config.node.id.clone(),
            folder: config.cluster.as_ref().and_then(|_| config.node.data_dir.clone()),
            watch: config.reload.watch.then_some(config.reload.interval),
        };
        Versions::new(self.file, settings, ledger, group, Arc::new(Parts(reload)))
    }
}

impl Hangups {
    /// Must run inside a runtime.
    ///
    /// # Errors
    /// The system gives no handler.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Has the file read for each signal. Runs for the life of the node.
    pub(crate) async fn drive(mut self, versions: Option<Arc<Versions>>) {
        while self.0.recv().await.is_some() {
            match &versions {
                Some(versions) => versions.signalled().await,
                None => tracing::warn!("SIGHUP: this node has no configuration file to read"),
            }
        }
    }
}

impl Apply for Parts {
    fn running(&self) -> Arc<Config> {
        self.0.running()
    }

    fn check<'a>(&'a self, new: &'a Config) -> BoxFuture<'a, Result<Vec<Change>, Refusal>> {
        Box::pin(std::future::ready(self.0.check(new).map_err(|it| refusal(&it))))
    }

    fn apply(&self, new: Config) -> BoxFuture<'_, Result<Vec<Change>, Refusal>> {
        Box::pin(std::future::ready(self.0.apply(new).map_err(|it| refusal(&it))))
    }

    fn runs(&self, version: u64) {
        self.0.runs(version);
    }
}

fn refusal(error: &anyhow::Error) -> Refusal {
    Refusal(format!("{error:#}"))
}
