//! Logs: one line per event on standard error, in logfmt or JSON.
//!
//! The filter is `HOLDFAST_LOG`, else `RUST_LOG`, else `log.level` of the configuration.

mod line;

use holdfast_config::Log;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::fmt;

use self::line::{Fields, Line};

/// Starts logging for the whole process.
///
/// # Errors
///
/// The filter cannot be read, or logging was started before.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let directives = match (variable("HOLDFAST_LOG"), variable("RUST_LOG")) {
        (None, Some(rust_log)) => rust_log,
        // The configuration has HOLDFAST_LOG in it already.
        _ => log.level.clone(),
    };
    // Consensus tells its every step at the level at which a node tells what matters to an operator.
    let quiet = !directives.contains("openraft");
    let directives = if quiet { format!("openraft=error,{directives}") } else { directives };
    let filter = EnvFilter::try_new(&directives)
        .map_err(|error| anyhow::anyhow!("the log filter \"{directives}\" is wrong: {error}"))?;
    let started = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .fmt_fields(Fields)
        .event_format(Line { format: log.format })
        .try_init();
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}
