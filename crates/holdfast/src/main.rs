//! The gateway's binary: a table of contents.

mod cli;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::CheckConfig(command) => command.run(),
        Command::Key(command) => command.run(),
    };
    outcome.unwrap_or_else(cli::Failure::report)
}
