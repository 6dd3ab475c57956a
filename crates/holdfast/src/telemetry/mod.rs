//! Logs: one line per event on standard error, in logfmt or JSON.
//!
//! The filter is `HOLDFAST_LOG`, else `RUST_LOG`, else `log.level` of the configuration. It can be
//! another one while the process runs ([`Logs`]).

mod line;

use holdfast_config::Log;
use tracing_subscriber::fmt::fmt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::{EnvFilter, Registry};

use self::line::{Fields, Line};

/// The logs of this process, once they are written.
pub(crate) struct Logs {
    filter: Handle<EnvFilter, Subscriber>,
}

/// A filter that the logs can go by at once.
#[derive(Debug)]
#[must_use = "nothing is taken over before it is committed"]
pub(crate) struct Prepared(EnvFilter);

/// What the filter is a layer of.
type Subscriber = tracing_subscriber::layer::Layered<
    tracing_subscriber::fmt::Layer<Registry, Fields, Line, fn() -> std::io::Stderr>,
    Registry,
>;

/// Starts logging for the whole process.
///
/// # Errors
///
/// The filter cannot be read, or logging was started before.
pub(crate) fn start(log: &Log) -> anyhow::Result<Logs> {
    let stderr: fn() -> std::io::Stderr = std::io::stderr;
    let builder = fmt()
        .with_env_filter(filter(log)?)
        .with_writer(stderr)
        .fmt_fields(Fields)
        .event_format(Line { format: log.format })
        .with_filter_reloading();
    let filter = builder.reload_handle();
    builder.try_init().map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    Ok(Logs { filter })
}

// === impl Logs ===

impl Logs {
    /// Another level. Nothing changes yet.
    ///
    /// # Errors
    ///
    /// The filter cannot be read.
    pub(crate) fn prepare(log: &Log) -> anyhow::Result<Prepared> {
        Ok(Prepared(filter(log)?))
    }

    /// What is logged from here on is chosen by this.
    pub(crate) fn commit(&self, prepared: Prepared) {
        if let Err(error) = self.filter.reload(prepared.0) {
            // Only where nothing logs any more.
            tracing::debug!(%error, "the log level stays");
        }
    }
}

fn filter(log: &Log) -> anyhow::Result<EnvFilter> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let directives = match (variable("HOLDFAST_LOG"), variable("RUST_LOG")) {
        (None, Some(rust_log)) => rust_log,
        // The configuration has HOLDFAST_LOG in it already.
        _ => log.level.clone(),
    };
    // Consensus tells its every step at the level at which a node tells what matters to an operator.
    let quiet = !directives.contains("openraft");
    let directives = if quiet { format!("openraft=error,{directives}") } else { directives };
    EnvFilter::try_new(&directives)
        .map_err(|error| anyhow::anyhow!("the log filter \"{directives}\" is wrong: {error}"))
}
