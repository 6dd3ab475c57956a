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
        let config = config_file::load(&self.config)?;
        telemetry::start(&config.log)?;
        for notice in &config.notices {
            tracing::warn!("{notice}");
        }
        wire::run(config, |_| {})?;
        Ok(ExitCode::SUCCESS)
    }
}
