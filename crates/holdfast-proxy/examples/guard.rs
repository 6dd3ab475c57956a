//! The guard process alone, for the tests of stdio servers: the gateway's binary has it as a hidden
//! subcommand, which this crate cannot start.

use std::process::ExitCode;

use holdfast_proxy::upstream::duplex::guard;

fn main() -> ExitCode {
    let mut argv: Vec<_> = std::env::args_os().skip(1).collect();
    if argv.first().is_some_and(|word| word == guard::SUBCOMMAND) {
        argv.remove(0);
    }
    guard::run(argv)
}
