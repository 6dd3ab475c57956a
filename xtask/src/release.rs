//! `cargo xtask release`: a release that is built by what calls do.
//!
//! The compiler lays out and inlines by guesses, unless it is told which branches are taken and which
//! functions are called how often. So the gateway is built once with counters, serves the benchmark's calls,
//! and is built again with what they counted (`docs/decisions/0029-a-release-is-trained.md`). Both builds are
//! full releases of the same sources with the same settings, the dependencies included: counts are kept by
//! function, and only those that are compiled alike find theirs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::{shell, tools};

const USAGE: &str = "\
Usage: cargo xtask release [OPTIONS]

Builds target/trained/holdfast: two builds with link-time optimisation, and half a minute of calls between
them, for which redis-server has to be there.

  --seconds N       length of each part of the training (default 1)
";

pub(crate) fn run(mut args: Args) -> Result<()> {
    if args.flag("--help") || args.flag("-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let seconds = args.option::<f64>("--seconds")?.unwrap_or(1.0);
    if let Some(unknown) = args.rest()?.first() {
        bail!("`cargo xtask release` takes no argument `{unknown}`");
    }
    let compiler = Compiler::ask()?;
    let merge = compiler.llvm_profdata()?;
    tools::system(&[tools::REDIS])?;

    let folder = folder()?;
    let (counts, profiles) = (folder.join("counts"), folder.join("profiles"));
    for old in [&counts, &profiles].into_iter().filter(|old| old.exists()) {
        fs::remove_dir_all(old).with_context(|| format!("empty {}", old.display()))?;
    }
    fs::create_dir_all(&profiles).with_context(|| format!("make {}", profiles.display()))?;
    // Cargo builds a dependency again for a flag that it has not seen, and never looks into a profile: one of
    // another training has another name.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let merged = profiles.join(format!("{}.profdata", now.as_secs()));
    let counting = compiler.build(&folder, &format!("-Cprofile-generate={}", counts.display()))?;
    let mut rig = shell::cargo();
    rig.args(["bench", "--quiet", "--package", "holdfast-tests", "--bench", "rig", "--"]);
    rig.args(["--train", "--seconds", &seconds.to_string()]);
    shell::run(rig.env("HOLDFAST_BIN", &counting))?;
    shell::run(shell::command(merge).arg("merge").arg("-o").arg(&merged).arg(&counts))?;

    let built = compiler.build(&folder, &format!("-Cprofile-use={}", merged.display()))?;
    let trained = trained()?;
    fs::copy(&built, &trained).with_context(|| format!("copy {}", built.display()))?;
    println!("{}", trained.display());
    Ok(())
}

/// Where the trained release lies, if it has been built.
///
/// # Errors
/// When the operating system does not tell where this executable lies.
pub(crate) fn trained() -> Result<PathBuf> {
    Ok(folder()?.join("holdfast"))
}

fn folder() -> Result<PathBuf> {
    Ok(shell::target_dir()?.join("trained"))
}

/// The compiler that cargo uses here.
struct Compiler {
    /// Its folder.
    sysroot: PathBuf,
    /// The platform that it runs on, and builds for.
    host: String,
}

impl Compiler {
    fn ask() -> Result<Self> {
        let rustc = || shell::command(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let sysroot = shell::output(rustc().args(["--print", "sysroot"]))?.trim().into();
        let version = shell::output(rustc().arg("-vV"))?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self { sysroot, host: host.context("rustc does not name its host")?.to_owned() })
    }

    /// The program that makes one profile of what several processes have counted. Only that of the
    /// compiler's own LLVM is sure to read its format.
    fn llvm_profdata(&self) -> Result<PathBuf> {
        let own = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/llvm-profdata");
        if !own.is_file() {
            bail!(
                "{} is missing: it merges what the calls have counted\nwith rustup: rustup component add llvm-tools",
                own.display()
            );
        }
        Ok(own)
    }

    /// Builds the gateway with one more flag for all crates, and gives back where it lies.
    fn build(&self, folder: &Path, flag: &str) -> Result<PathBuf> {
        // With the target named, cargo gives the flags to what is built for it alone, and not to build
        // scripts and macros, which would count too.
        let mut cargo = shell::cargo();
        cargo.args(["build", "--release", "--locked", "--package", "holdfast"]);
        cargo.args(["--target", &self.host]).arg("--target-dir").arg(folder);
        let mut flags: Vec<String> = std::env::var("RUSTFLAGS")
            .map(|own| own.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        flags.push(flag.to_owned());
        println!("with {flag}");
        shell::run(cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")))?;
        Ok(folder.join(&self.host).join("release/holdfast"))
    }
}
