//! `holdfast serve`: one node, until a signal ends it.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, Failure, Outcome, config_file};
use crate::{telemetry, wire};

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Serve {
    pub(crate) fn run(&self) -> Outcome {
        let config = config_file::load(&self.config)?;
        let logs = telemetry::start(&config.log)?;
        for notice in &config.notices {
            tracing::warn!("{notice}");
        }
        let args = self.config.clone();
        let source = Box::new(move || config_file::load(&args).map_err(Failure::into_error));
        wire::run(config, source, logs, |_| {})?;
        Ok(ExitCode::SUCCESS)
    }
}
