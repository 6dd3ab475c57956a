//! A process of the demo, under a guard of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child as Guard, Command, ExitStatus, Stdio};

use anyhow::Context as _;
use holdfast_proxy::upstream::duplex::guard;

/// How long the guard waits before each stronger way to end a process: none here reads its standard
/// input, so none ends by itself.
const GRACE_MS: &str = "100";
/// Lines of a log that are shown.
const TAIL: usize = 15;

/// It ends when the value is dropped, or when the demo is gone.
pub(super) struct Child {
    guard: Guard,
    log: Option<PathBuf>,
}

impl Child {
    /// Runs this binary with these arguments; what it says goes into the log, or nowhere.
    pub(super) fn start(
        arguments: &[&str],
        environment: &[(&str, String)],
        log: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let argv: Vec<OsString> = guard::own_binary();
        let (program, first) = argv.split_first().context("the guard has no command line")?;
        let (out, err) = match log {
            None => (Stdio::null(), Stdio::null()),
            Some(path) => {
                let file = File::options().create(true).append(true).open(path)?;
                (file.try_clone()?.into(), file.into())
            }
        };
        let mut command = Command::new(program);
        command
            .args(first)
            .args([guard::GRACE_OPTION, GRACE_MS, "--"])
            .arg(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // Ctrl-C is for the demo, which ends the others in order.
            .process_group(0);
        // What is set for a gateway of one's own is not for those of the demo.
        for (name, _) in std::env::vars_os() {
            let prefixes = ["HA_", "HOLDFAST_", "LB_", "SESSION_", "CIRCUIT_", "PORT"];
            if name.to_str().is_some_and(|name| prefixes.iter().any(|it| name.starts_with(it))) {
                command.env_remove(name);
            }
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let guard = command.spawn().with_context(|| format!("cannot start {arguments:?}"))?;
        Ok(Self { guard, log: log.map(Path::to_owned) })
    }

    /// The process itself, once the guard has started it.
    pub(super) fn pid(&self) -> Option<u32> {
        let entries = fs::read_dir("/proc").ok()?.flatten();
        let mut ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.find(|pid| parent(*pid) == Some(self.guard.id()))
    }

    /// How it ended, if it has. What it had started itself has ended too, then.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.guard.try_wait().ok().flatten()
    }

    /// The end of its log.
    pub(super) fn tail(&self) -> String {
        let text = self.log.as_ref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // The guard's own lines say nothing that its exit does not.
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('\u{1e}')).collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Asks it to end; dropping the value waits for that.
    pub(super) fn let_go(&mut self) {
        drop(self.guard.stdin.take());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.let_go();
        // The guard's own deadlines bound this.
        let _ = self.guard.wait();
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold any character; state and parent follow it.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}
