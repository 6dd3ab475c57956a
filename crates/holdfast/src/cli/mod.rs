//! The command line: one file per command.

pub(crate) mod admin_port;
pub(crate) mod breaker;
pub(crate) mod check_config;
pub(crate) mod config;
pub(crate) mod config_file;
pub(crate) mod confirm;
pub(crate) mod demo;
pub(crate) mod drain;
pub(crate) mod edge;
pub(crate) mod events;
pub(crate) mod failover;
pub(crate) mod guard;
pub(crate) mod key;
pub(crate) mod nodes;
pub(crate) mod output;
pub(crate) mod reload;
pub(crate) mod sample_server;
pub(crate) mod serve;
pub(crate) mod servers;
pub(crate) mod sessions;
pub(crate) mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shown below every help text.
const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong";

const CHECK_CONFIG: &str = "\
What a file would change on a node that runs: `holdfast reload --check` asks the node for that.

Exit codes: 0 done, 1 failed, 2 the command line or the configuration is wrong";

/// A gateway that stands in front of MCP servers.
#[derive(Parser)]
#[command(name = "holdfast", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run one node until SIGTERM or Ctrl-C, which let running calls end; a second one does not
    #[command(after_help = EXIT_CODES)]
    Serve(serve::Serve),
    /// Check a configuration and report every problem at once; start nothing
    #[command(after_help = CHECK_CONFIG)]
    CheckConfig(check_config::CheckConfig),
    /// Try it: three nodes in front of two sample servers, with nothing to install or configure
    #[command(after_help = EXIT_CODES)]
    Demo(demo::Demo),
    /// Balance clients over the nodes of a cluster: a call goes on when a node dies or freezes
    #[command(after_help = EXIT_CODES)]
    Edge(edge::Edge),
    /// Show what a running node says about itself
    #[command(after_help = EXIT_CODES)]
    Status(status::Status),
    /// Show the nodes of the cluster: their part in it, their state, what they are busy with
    #[command(after_help = EXIT_CODES)]
    Nodes(nodes::Nodes),
    /// Show the servers: their instances' health, breakers, and which of them serves
    #[command(after_help = EXIT_CODES)]
    Servers(servers::Servers),
    /// Move a server to another instance; its sessions go on there
    #[command(after_help = EXIT_CODES)]
    Failover(failover::Failover),
    /// Move a server back to its primary
    #[command(after_help = EXIT_CODES)]
    Failback(failover::Failback),
    /// Hold a server's breaker open or closed on every node, or let it decide again
    #[command(after_help = EXIT_CODES)]
    Breaker(breaker::Breaker),
    /// Show what was decided about the servers, when, and on what evidence
    #[command(after_help = EXIT_CODES)]
    Events(events::Events),
    /// Show the servers' outages, and whether their recovery objectives were kept
    #[command(after_help = EXIT_CODES)]
    Incidents(events::Incidents),
    /// Show the client sessions that a node has in hand
    #[command(after_help = EXIT_CODES)]
    Sessions(sessions::Sessions),
    /// Take a node out of the cluster: its calls end, its clients go on elsewhere, it leaves
    #[command(after_help = EXIT_CODES)]
    Drain(drain::Drain),
    /// Have a running node read its file and take it over, and with it all nodes of the cluster
    #[command(after_help = EXIT_CODES)]
    Reload(reload::Reload),
    /// The versions of the configuration: show them, go back to one
    #[command(subcommand, after_help = EXIT_CODES)]
    Config(config::Config),
    /// Make API keys
    #[command(subcommand, after_help = EXIT_CODES)]
    Key(key::Key),
    #[command(hide = true, disable_help_flag = true)]
    SampleServer(sample_server::SampleServer),
}

/// Which configuration to use.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// The configuration [default: $HOLDFAST_CONFIG, ./holdfast.yaml, ./config/holdfast.yaml]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// How to print results.
#[derive(Args)]
pub(crate) struct OutputArgs {
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // For people.
    Table,
    // For programs.
    Json,
}

/// What a command failed with; its kind is the exit code.
pub(crate) enum Failure {
    /// The command line or the configuration is wrong: 2.
    Usage(String),
    /// Anything else: 1.
    Failed(anyhow::Error),
}

pub(crate) type Outcome = Result<ExitCode, Failure>;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Failure {
    /// Says on standard error what went wrong and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Usage(text) => {
                output::complain(&text);
                ExitCode::from(2)
            }
            Self::Failed(error) => {
                output::complain(&format!("holdfast: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}
