//! The gateway's binary: a table of contents.

mod cli;
mod shutdown;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::CheckConfig(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Key(command) => command.run(),
    };
    outcome.unwrap_or_else(cli::Failure::report)
}

/// Names the one provider of TLS, since two in one process would be a panic at the first use.
fn install_crypto() -> anyhow::Result<()> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().map_err(|_| anyhow::anyhow!("TLS was set up twice"))
}
