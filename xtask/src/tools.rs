//! The programs that the tests need. What cargo can install is installed; for the rest there is a
//! message that says what is missing and what it is for, since a test skipped for want of a tool
//! would look like a test passed.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::shell;

/// A program, the argument that makes it say its version, and what it is needed for.
struct Tool(&'static str, &'static str, &'static str);

const SYSTEM: [Tool; 4] = [
    Tool("python3", "--version", "the Python SDK clients of tests/interop"),
    Tool("node", "--version", "the TypeScript SDK clients and the conformance suite"),
    Tool("npm", "--version", "installing the TypeScript SDKs and the conformance suite"),
    Tool("c++", "--version", "libFuzzer, which is C++ (Debian: apt-get install g++)"),
];

/// Makes sure that cargo-nextest is there, installing it if need be.
///
/// # Errors
/// When it is missing and cannot be installed.
pub(crate) fn nextest() -> Result<()> {
    if answers("cargo-nextest", "--version") {
        return Ok(());
    }
    println!("cargo-nextest is missing: installing it once");
    shell::run(shell::cargo().args(["install", "cargo-nextest", "--locked"]))
}

/// Checks the programs that come from the system.
///
/// # Errors
/// When any is missing; the message lists all of them.
pub(crate) fn system() -> Result<()> {
    let missing: Vec<String> = SYSTEM
        .iter()
        .filter(|Tool(program, version, _)| !answers(program, version))
        .map(|Tool(program, _, what_for)| format!("  {program}: needed for {what_for}"))
        .collect();
    if !missing.is_empty() {
        bail!(
            "programs are missing (or run `cargo xtask test --fast`, which needs none of them):\n{}",
            missing.join("\n")
        );
    }
    Ok(())
}

/// Whether the program can be started and succeeds.
pub(crate) fn answers(program: &str, arg: &str) -> bool {
    let quiet = Command::new(program)
        .arg(arg)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}
