//! Processes of the stack: started with their output in a file, stopped by their own id and never by
//! name, gone with the value.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Error;

/// One running process.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

// === impl Process ===

impl Process {
    /// Starts it; what it prints is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started or the file cannot be opened.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self, Error> {
        let output = append(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().map_err(|error| format!("start {command:?}: {error}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Sends a signal; returns at once.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        Ok(kill(Pid::from_raw(self.pid().cast_signed()), signal)?)
    }

    /// SIGTERM, and waits for the end. `None`: it did not end within `patience` and was killed.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        drop(self.signal(Signal::SIGTERM));
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.kill();
        None
    }

    /// The last lines that it printed.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process does not hear SIGKILL's friends, but it hears SIGKILL.
        self.kill();
    }
}

/// The state letter in `/proc/PID/stat`; `None` when there is no such process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The first field after the name, which stands in parentheses.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// A file to append to, made if need be.
pub(crate) fn append(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    Ok(file.map_err(|error| format!("open {}: {error}", path.display()))?)
}
