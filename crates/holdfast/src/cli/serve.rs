//! `holdfast serve`: one node, until a signal ends it.

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, Outcome, config_file};
use crate::{telemetry, wire};

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Serve {
    pub(crate) fn run(&self) -> Outcome {
        let origin = config_file::read(&self.config)?;
        let config = origin.file.config.clone();
        let logs = telemetry::start(&config.log)?;
        for notice in &config.notices {
            tracing::warn!("{notice}");
        }
        wire::run(config, Some(origin), logs, |_| {})?;
        Ok(ExitCode::SUCCESS)
    }
}
