//! `holdfast guard`, hidden: the process between the gateway and a stdio server.

use std::process::ExitCode;

use holdfast_proxy::upstream::duplex::guard;

/// Runs the guard if that is what the command line says.
///
/// Not one of clap's commands: the `--` before the guarded command is the guard's own to read, and a
/// guard starts with every stdio session, so it should do nothing else.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next().is_some_and(|first| first == guard::SUBCOMMAND);
    asked.then(|| guard::run(arguments.collect()))
}
