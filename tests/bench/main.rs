//! The benchmark's rig: a fast server, nginx and the gateway before it, and a load generator.
//!
//! `cargo xtask bench` starts it. All targets are measured in the same minutes and in turn, since the
//! machine is shared and its speed drifts; a figure is the median of its rounds, and what is kept is
//! the ratio to nginx. CPU is read from the kernel's accounting of each target's own threads, so the
//! generator and the server do not count.
#![expect(clippy::print_stdout, reason = "the figures are for the terminal")]

mod callgrind;
mod cases;
mod instructions;
mod measure;
mod options;
mod report;
mod resilience;
mod sessions;
mod targets;

use std::net::TcpListener;
use std::process::ExitCode;

use holdfast_drill::bench;

use options::Options;

/// What went wrong, for a person to read.
type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match Options::from_args(std::env::args().skip(1)).map_err(Error::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Sessions whose memory a whole run measures.
const SESSIONS: usize = 5000;

fn run(options: Options) -> Result<(), Error> {
    if options.instructions {
        println!("{}", instructions::run(&options)?);
        return Ok(());
    }
    measure::raise_descriptors()?;
    if let Some(parts) = &options.resilience {
        let text = resilience::run(parts, &options)?;
        println!("{text}");
        if !options.dry_run {
            report::append(report::RELIABILITY, &text, options.note.as_deref())?;
            println!("appended to {}", report::RELIABILITY);
        }
        return Ok(());
    }
    let server = bench::serve(TcpListener::bind("127.0.0.1:0")?, 1)?;
    if options.train {
        return cases::train(server.address(), &options);
    }
    let text = match options.sessions {
        Some(many) => sessions::run(server.address(), many)?,
        None if !options.cases.is_empty() => cases::run(server.address(), &options)?,
        None => {
            let cases = cases::run(server.address(), &options)?;
            format!("{cases}\n{}", sessions::run(server.address(), SESSIONS)?)
        }
    };
    println!("{text}");
    if !options.dry_run {
        report::append(report::PERFORMANCE, &text, options.note.as_deref())?;
        println!("appended to {}", report::PERFORMANCE);
    }
    Ok(())
}
