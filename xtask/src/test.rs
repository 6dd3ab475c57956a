//! `cargo xtask test`: the one command that runs every test on a fresh machine.
//!
//! Stages run in order and the first failure ends the run, so the message that matters is the last
//! one. The gateway is built once, with the tests and in their profile, and every stage that drives
//! a real process is told where it lies (`HOLDFAST_BIN`).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::{fuzz, instructions, shell, tools};

/// What a stage needs to know.
struct Plan {
    interop_and_fuzz: bool,
    gateway: PathBuf,
}

type Stage = (&'static str, fn(&Plan) -> Result<()>);

const STAGES: [Stage; 6] = [
    ("tools", check_tools),
    ("build", build),
    ("nextest", nextest),
    ("interop", interop),
    ("cost", cost),
    ("fuzz", fuzz_all),
];

/// How long CI fuzzes each target.
const FUZZ_SECONDS: u64 = 60;

pub(crate) fn run(mut args: Args) -> Result<()> {
    let fast = args.flag("--fast");
    let only: Option<String> = args.option("--only")?;
    let rest = args.rest()?;
    if let Some(unknown) = rest.first() {
        bail!(
            "`cargo xtask test` takes no argument `{unknown}`; for one test: cargo nextest run NAME"
        );
    }
    let plan =
        Plan { interop_and_fuzz: !fast, gateway: shell::target_dir()?.join("debug/holdfast") };
    let stages = chosen(fast, only.as_deref())?;
    let started = Instant::now();
    let mut timings = Vec::new();
    for (name, stage) in stages {
        println!("\n=== {name}");
        let from = Instant::now();
        let outcome = stage(&plan).with_context(|| format!("stage {name}"));
        timings.push((name, from.elapsed()));
        if outcome.is_err() {
            report(&timings, started.elapsed());
            return outcome;
        }
    }
    report(&timings, started.elapsed());
    Ok(())
}

fn chosen(fast: bool, only: Option<&str>) -> Result<Vec<Stage>> {
    if let Some(only) = only {
        let Some(stage) = STAGES.into_iter().find(|(name, _)| *name == only) else {
            let names: Vec<&str> = STAGES.iter().map(|(name, _)| *name).collect();
            bail!("there is no stage `{only}`; there are {}", names.join(", "));
        };
        return Ok(vec![stage]);
    }
    let slow = ["interop", "cost", "fuzz"];
    Ok(STAGES.into_iter().filter(|(name, _)| !fast || !slow.contains(name)).collect())
}

fn report(timings: &[(&str, Duration)], total: Duration) {
    println!("\n=== time");
    for (name, took) in timings {
        println!("{name:>8} {:>7.1} s", took.as_secs_f64());
    }
    println!("{:>8} {:>7.1} s", "total", total.as_secs_f64());
}

fn check_tools(plan: &Plan) -> Result<()> {
    tools::nextest()?;
    tools::system(&tools::STACK)?;
    if plan.interop_and_fuzz {
        tools::system(&tools::CLIENTS)?;
    }
    println!("all there");
    Ok(())
}

/// Binaries and tests in one go: cargo then resolves features once, and nothing is built twice.
fn build(plan: &Plan) -> Result<()> {
    shell::run(shell::cargo().args(["build", "--workspace", "--bins", "--tests", "--examples"]))?;
    if !plan.gateway.is_file() {
        bail!("the build made no {}", plan.gateway.display());
    }
    Ok(())
}

fn nextest(plan: &Plan) -> Result<()> {
    // Where the drills keep promises that were broken (`tests/cluster/main.rs`).
    let broken = shell::target_dir()?.join("tmp/broken");
    if broken.exists() {
        fs::remove_dir_all(&broken).with_context(|| format!("empty {}", broken.display()))?;
    }
    shell::run(
        shell::cargo()
            .args(["nextest", "run", "--workspace", "--no-fail-fast"])
            .env("HOLDFAST_BIN", &plan.gateway),
    )?;
    if broken.exists() {
        bail!(
            "a drill broke a promise, and passed only when it was run again: see {}",
            broken.display()
        );
    }
    Ok(())
}

/// Official SDK clients, published servers and the conformance suite, each against the real binary.
fn interop(plan: &Plan) -> Result<()> {
    let folder = shell::root().join("tests/interop");
    shell::run(shell::command("bash").arg(folder.join("setup.sh")))?;
    shell::run(shell::command("bash").arg(folder.join("run.sh")).env("HOLDFAST_BIN", &plan.gateway))
}

/// What a call costs, in the release profile.
fn cost(_plan: &Plan) -> Result<()> {
    instructions::hold()
}

fn fuzz_all(_plan: &Plan) -> Result<()> {
    fuzz::fuzz(&fuzz::targets()?, FUZZ_SECONDS, fuzz::default_jobs())
}
