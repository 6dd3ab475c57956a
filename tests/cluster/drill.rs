//! The long form of the cluster test, as `cargo xtask drill` runs it: the same stack, load and faults
//! as in `main.rs`, as many of each as one likes.
#![expect(clippy::print_stdout, reason = "the figures are for the terminal")]

mod chance;
mod http;
mod links;
mod load;
mod nemesis;
mod network;
mod options;
mod redis;
mod report;
mod run;
mod sdk;
mod spaces;
mod stack;
mod terms;

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use options::{Options, USAGE};
use report::Report;
use spaces::INSIDE;

/// What went wrong, for a person to read.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long anything may take that should take no time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether Sentinels look round more often than they do by themselves.
const HURRY: bool = false;

/// Promises were broken, or, where that was expected, none was.
const FAILED: u8 = 1;
/// The run says nothing: it did not come about, or a fault had no effect.
const VOID: u8 = 3;

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match drill() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            println!("drill: {error}");
            ExitCode::from(VOID)
        }
    }
}

fn drill() -> Result<bool, Error> {
    let binary = std::env::var_os("HOLDFAST_BIN")
        .map(PathBuf::from)
        .ok_or("HOLDFAST_BIN is not set: start this with `cargo xtask drill`")?;
    // A seed of few digits is easier to type again.
    let seed = RandomState::new().hash_one(()) % 1_000_000;
    let options = Options::from_args(std::env::args().skip(1), binary, seed)?;
    let temporary = std::env::temp_dir().join(format!("holdfast-drill-{}", std::process::id()));
    let folder = options.folder.clone().unwrap_or_else(|| temporary.clone());
    if options.plan.namespaces && std::env::var_os(INSIDE).is_none() {
        return inside();
    }
    println!("seed {}, folder {}", options.plan.seed, folder.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(&options.plan, &folder))?;
    print(&report, options.json)?;
    let held = report.broken.is_empty();
    if held && options.folder.is_none() {
        std::fs::remove_dir_all(&temporary)?;
    } else {
        println!("logs and anomalies: {}", folder.display());
    }
    if options.expect_loss {
        println!("losses were expected: {}", if held { "none was seen" } else { "seen" });
    }
    Ok(held != options.expect_loss)
}

/// Runs this very program again in a network namespace of its own.
fn inside() -> Result<bool, Error> {
    let mut command = Command::new("unshare");
    command.arg("--net").arg("--").arg(std::env::current_exe()?);
    let status = command.args(std::env::args_os().skip(1)).env(INSIDE, "1").status()?;
    match status.code() {
        Some(0) => Ok(true),
        Some(code) if code == i32::from(FAILED) => Ok(false),
        _ => Err(format!("inside its namespace the drill ended with {status}").into()),
    }
}

fn print(report: &Report, as_json: bool) -> Result<(), Error> {
    println!("{}", report.table());
    if as_json {
        println!("{}", serde_json::to_string_pretty(report)?);
    }
    Ok(())
}
