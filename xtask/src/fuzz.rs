//! `cargo xtask fuzz`: libFuzzer on stable Rust.
//!
//! `cargo fuzz` wants a nightly compiler because it passes `-Z sanitizer`. Coverage itself does not:
//! LLVM's sancov pass is reached with `-C passes` and its options with `-C llvm-args`, both stable,
//! and `libfuzzer-sys` brings libFuzzer's source. What is lost is AddressSanitizer, which code
//! without `unsafe` does not miss. The folder keeps cargo-fuzz's layout, so `cargo +nightly fuzz run`
//! works on it as well.
//!
//! `seeds/TARGET` is committed and small; what a run finds goes to `target/fuzz/corpus/TARGET` and a
//! crashing input to `target/fuzz/artifacts/TARGET`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::shell;

const FOLDER: &str = "crates/holdfast-mcp/fuzz";

/// Coverage counters for every edge, a table of program counters, and comparisons, which is what
/// libFuzzer learns from; and every check a debug build makes.
const RUSTFLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "--cfg=fuzzing",
];

/// One input may take this long before it counts as a hang.
const INPUT_TIMEOUT_S: u64 = 10;
const MEMORY_MB: u64 = 2048;

pub(crate) fn run(mut args: Args) -> Result<()> {
    let seconds = args.option("--seconds")?.unwrap_or(60);
    let jobs = args.option("--jobs")?.unwrap_or_else(default_jobs);
    let named = args.rest()?;
    let known = targets()?;
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        bail!("there is no fuzz target `{unknown}`; there are {}", known.join(", "));
    }
    let chosen = if named.is_empty() { known } else { named };
    fuzz(&chosen, seconds, jobs)
}

/// As many targets at a time as there are cores.
pub(crate) fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The names of all fuzz targets.
///
/// # Errors
/// When the folder is missing or holds none: a run that fuzzes nothing must not pass.
pub(crate) fn targets() -> Result<Vec<String>> {
    let folder = shell::root().join(FOLDER).join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    if names.is_empty() {
        bail!("{} holds no fuzz target", folder.display());
    }
    names.sort();
    Ok(names)
}

/// Builds the targets and runs each for `seconds`, `jobs` at a time.
///
/// # Errors
/// When one does not build, crashes, hangs, or runs without coverage.
pub(crate) fn fuzz(targets: &[String], seconds: u64, jobs: usize) -> Result<()> {
    let output = shell::target_dir()?.join("fuzz");
    let binaries = build(&output, targets)?;
    let mut failed = Vec::new();
    let queue: Vec<(&String, &PathBuf)> = targets.iter().zip(&binaries).collect();
    for batch in queue.chunks(jobs.max(1)) {
        let mut running = Vec::new();
        for (target, binary) in batch {
            running.push(Run::start(&output, target, binary, seconds)?);
        }
        for run in running {
            if let Err(error) = run.finish() {
                println!("{error:#}");
                failed.push(error.to_string());
            }
        }
    }
    if !failed.is_empty() {
        bail!("fuzzing found something:\n{}", failed.join("\n"));
    }
    println!("{} fuzz targets ran for {seconds} s each and found nothing", targets.len());
    Ok(())
}

fn build(output: &Path, targets: &[String]) -> Result<Vec<PathBuf>> {
    let host = host()?;
    let mut cargo = shell::cargo();
    // An explicit target keeps the flags away from build scripts and procedural macros.
    cargo
        .args(["build", "--release", "--target", &host, "--manifest-path"])
        .arg(shell::root().join(FOLDER).join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", output)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"));
    for target in targets {
        cargo.args(["--bin", target]);
    }
    shell::run(&mut cargo)?;
    let folder = output.join(host).join("release");
    Ok(targets.iter().map(|target| folder.join(target)).collect())
}

fn host() -> Result<String> {
    let version = shell::output(shell::command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// One target at work.
struct Run {
    target: String,
    child: Child,
    log: PathBuf,
    artifacts: PathBuf,
}

impl Run {
    fn start(output: &Path, target: &str, binary: &Path, seconds: u64) -> Result<Self> {
        let corpus = output.join("corpus").join(target);
        let artifacts = output.join("artifacts").join(target);
        let log = output.join(format!("{target}.log"));
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let mut command = shell::command(binary);
        command.arg(&corpus);
        let seeds = shell::root().join(FOLDER).join("seeds").join(target);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        let printed = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_TIMEOUT_S}"))
            .arg(format!("-rss_limit_mb={MEMORY_MB}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-print_final_stats=1")
            .env("RUST_BACKTRACE", "1")
            .stdout(Stdio::null())
            .stderr(printed);
        println!("fuzzing {target} for {seconds} s");
        let child = command.spawn().with_context(|| format!("start {}", binary.display()))?;
        Ok(Self { target: target.to_owned(), child, log, artifacts })
    }

    /// libFuzzer ends by itself; what it printed says how it went.
    fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        if !status.success() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            bail!(
                "{}: {status}; the input is in {}\n{tail}",
                self.target,
                self.artifacts.display()
            );
        }
        let executed = number_after(&log, "stat::number_of_executed_units:").unwrap_or(0);
        let coverage = log.lines().rev().find_map(|line| number_after(line, "cov:")).unwrap_or(0);
        if executed == 0 || coverage == 0 {
            bail!("{}: ran {executed} inputs with coverage {coverage}: not fuzzing", self.target);
        }
        println!("{}: {executed} inputs, {coverage} edges covered", self.target);
        Ok(())
    }
}

impl Drop for Run {
    /// A failure elsewhere leaves no fuzzer behind; one that has ended is not affected.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let rest = text.split(label).nth(1)?.trim_start();
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
