//! The gateway's binary: a table of contents.

mod cli;
mod cluster;
mod configuration;
mod descriptors;
mod reload;
mod shutdown;
mod telemetry;
mod wire;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // First of all: a guard must be the only thread of its process.
    if let Some(ended) = cli::guard::run_if_asked() {
        return ended;
    }
    let outcome = match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::CheckConfig(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Edge(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Nodes(command) => command.run(),
        Command::Servers(command) => command.run(),
        Command::Failover(command) => command.run(),
        Command::Failback(command) => command.run(),
        Command::Breaker(command) => command.run(),
        Command::Events(command) => command.run(),
        Command::Incidents(command) => command.run(),
        Command::Sessions(command) => command.run(),
        Command::Drain(command) => command.run(),
        Command::Reload(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::SampleServer(command) => command.run(),
    };
    outcome.unwrap_or_else(cli::Failure::report)
}

/// Names the one provider of TLS, since two in one process would be a panic at the first use.
fn install_crypto() -> anyhow::Result<()> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().map_err(|_| anyhow::anyhow!("TLS was set up twice"))
}
