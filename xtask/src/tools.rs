//! The programs that the tests need. What cargo can install is installed; what Debian packages is
//! installed when this is Debian and we are root, as in CI. Everywhere else one message lists all that
//! is missing and the command that brings it: a test skipped for want of a program would look like
//! a test passed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// A program, the argument that makes it say its version, the Debian package that has it, and what
/// it is needed for.
pub(crate) struct Tool(&'static str, &'static str, &'static str, &'static str);

pub(crate) const NGINX: Tool =
    Tool("nginx", "-v", "nginx-light", "the nodes are tested behind it, and measured beside it");

pub(crate) const REDIS: Tool =
    Tool("redis-server", "--version", "redis-server", "the session store");

pub(crate) const VALGRIND: Tool =
    Tool("valgrind", "--version", "valgrind", "it counts the instructions of a call");

/// What three nodes stand between in production, and what their network is made of.
pub(crate) const STACK: [Tool; 9] = [
    NGINX,
    Tool("haproxy", "-v", "haproxy", "the nodes are tested behind it"),
    Tool("keepalived", "--version", "keepalived", "a standby balancer takes over"),
    Tool("curl", "--version", "curl", "keepalived asks a balancer with it whether it serves"),
    REDIS,
    Tool("redis-sentinel", "--version", "redis-sentinel", "the session store's failover"),
    Tool("redis-cli", "--version", "redis-tools", "tests ask and set up Redis with it"),
    Tool("ip", "-V", "iproute2", "tests make networks that lose packets"),
    Tool("unshare", "--version", "util-linux", "tests make networks of their own"),
];

/// What the tests against published clients and servers need, and fuzzing.
pub(crate) const CLIENTS: [Tool; 5] = [
    Tool("python3", "--version", "python3", "the Python SDK clients of tests/interop"),
    Tool("python3", PYTHON_VENV, "python3-venv", "environments for the Python SDK clients"),
    Tool("node", "--version", "nodejs", "the TypeScript SDK clients and the conformance suite"),
    Tool("npm", "--version", "npm", "installing the TypeScript SDKs and the conformance suite"),
    Tool("c++", "--version", "g++", "libFuzzer, which is C++"),
];

/// Not a version: Debian's Python says only so that it can make an environment.
const PYTHON_VENV: &str = "-cimport ensurepip, venv";

/// Where Debian's packages ask whether they may start their services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

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

/// Makes sure that these programs are there, installing those that are not if it can.
///
/// # Errors
/// When any is missing and cannot be installed; the message lists all of them.
pub(crate) fn system(tools: &[Tool]) -> Result<()> {
    let gone = missing(tools);
    if gone.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = gone.iter().map(|tool| tool.2).collect();
    if Path::new("/etc/debian_version").exists() && is_root() {
        println!("missing: {}; installing once", names(&gone));
        install(&packages)?;
    }
    let gone = missing(tools);
    if gone.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = gone.iter().map(|tool| format!("  {}: {}", tool.0, tool.3)).collect();
    bail!(
        "programs are missing:\n{}\non Debian as root: apt-get install --no-install-recommends {}",
        lines.join("\n"),
        packages.join(" ")
    )
}

/// Installs Debian packages without letting them start a service: what listens on a well-known port of
/// the machine has no place in a test or a measurement, nor on a developer's machine afterwards.
fn install(packages: &[&str]) -> Result<()> {
    let guard = Quiet::start()?;
    let apt = |arguments: &[&str]| {
        shell::run(
            shell::command("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .env("RUNLEVEL", "1"),
        )
    };
    apt(&["update", "--quiet"])?;
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(packages);
    let installed = apt(&arguments).with_context(|| format!("install {}", packages.join(", ")));
    drop(guard);
    installed
}

/// While it lives, installing a package starts no service.
struct Quiet(bool);

impl Quiet {
    fn start() -> Result<Self> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match made {
            Ok(mut file) => {
                file.write_all(b"#!/bin/sh\nexit 101\n").context("write a policy for services")?;
                Ok(Self(true))
            }
            // Somebody else's policy stays: containers have one that says the same.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self(false)),
            Err(error) => Err(error).with_context(|| format!("write {POLICY}")),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.0 {
            drop(fs::remove_file(POLICY));
        }
    }
}

fn missing(tools: &[Tool]) -> Vec<&Tool> {
    tools.iter().filter(|tool| !answers(tool.0, tool.1)).collect()
}

fn names(tools: &[&Tool]) -> String {
    tools.iter().map(|tool| tool.0).collect::<Vec<_>>().join(", ")
}

fn is_root() -> bool {
    shell::output(shell::command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
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
