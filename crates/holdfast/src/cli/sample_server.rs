//! `holdfast sample-server`, hidden: the scriptable MCP server that `demo` and tests stand the
//! gateway in front of.

use std::process::ExitCode;

use clap::Args;
use holdfast_config::Log;
use holdfast_drill::sample;

use super::{Failure, Outcome};
use crate::telemetry;

#[derive(Args)]
pub(crate) struct SampleServer {
    /// The sample server's own options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

impl SampleServer {
    pub(crate) fn run(&self) -> Outcome {
        let options = sample::Options::from_args(self.options.iter().cloned())
            .map_err(|error| Failure::Usage(format!("holdfast: {error}\n\n{}", sample::USAGE)))?;
        telemetry::start(&Log::default())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = runtime.block_on(sample::run(options));
        // A read of standard input cannot be cancelled, and would keep the process.
        runtime.shutdown_background();
        served?;
        Ok(ExitCode::SUCCESS)
    }
}
