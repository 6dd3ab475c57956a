//! `holdfast sample-server`, hidden: the scriptable MCP server that `demo` and tests stand the
//! gateway in front of.

use std::process::ExitCode;

use clap::Args;
use holdfast_drill::sample;

use super::{Failure, Outcome};

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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match options.http {
            Some(_) => runtime.block_on(sample::serve_http(options))?,
            None => runtime.block_on(sample::run_stdio(options))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
