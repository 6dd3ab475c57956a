//! The project's own commands: `cargo xtask test | fuzz | release | bench | instructions | drill`.
//!
//! One place for what a developer and CI run, so that both run the same thing. The commands start
//! the ordinary tools (cargo, nextest, libFuzzer, nginx) and say what they start; they hold no
//! knowledge of the gateway itself.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to its terminal"
)]

mod args;
mod bench;
mod drill;
mod fuzz;
mod instructions;
mod release;
mod shell;
mod test;
mod tools;

use std::process::ExitCode;

use args::Args;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test [--fast] [--only STAGE]          every test there is; installs the test runner if it is missing
                                        stages: tools, build, nextest, interop, cost, fuzz
                                        --fast leaves out interop, cost and fuzz
  fuzz [--seconds N] [--jobs N] [TARGET…]
                                        libFuzzer targets on stable Rust, 60 s each by default
  release [OPTIONS]                     a release that has been trained by calls; `--help`
  bench [OPTIONS]                       the gateway beside nginx; `cargo xtask bench --help`
  instructions [OPTIONS]                what a call costs, under callgrind; `--help`
  drill [OPTIONS]                       a cluster under load that loses nodes; `cargo xtask drill --help`
";

fn main() -> ExitCode {
    let mut args = Args::from_env();
    let command = args.word();
    let outcome = match command.as_deref() {
        Some("test") => test::run(args),
        Some("fuzz") => fuzz::run(args),
        Some("release") => release::run(args),
        Some("bench") => bench::run(args),
        Some("instructions") => instructions::run(args),
        Some("drill") => drill::run(args),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            if let Some(other) = other {
                eprintln!("xtask: there is no command `{other}`\n");
            }
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
