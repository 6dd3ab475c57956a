//! One Redis process, data server or Sentinel: its settings, its folder, its life.
//!
//! The settings are the files that the project ships in `redis/`, with ports, folders and whatever a
//! stack on loopback needs put in the place of what they say about these.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::resp::{self, Login, Value};
use crate::stack::process::{Process, state};
use crate::{Error, PATIENCE};

/// What servers and Sentinels show one another.
pub(super) const PASSWORD: &str = "another-password-of-drills";

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Data,
    Sentinel,
}

/// A Redis process, running or not. Its folder outlives it.
pub(crate) struct Member {
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) real: SocketAddr,
    /// Where everybody looks for it.
    pub(crate) known: SocketAddr,
    /// Where it connects to others from.
    pub(crate) source: IpAddr,
    pub(crate) login: Option<Login>,
    role: Role,
    folder: PathBuf,
    process: Option<Process>,
}

/// A line of a settings file.
pub(crate) type Setting = (&'static str, String);

// === impl Role ===

impl Role {
    fn program(self) -> &'static str {
        match self {
            Self::Data => "redis-server",
            Self::Sentinel => "redis-sentinel",
        }
    }
}

// === impl Member ===

impl Member {
    /// Writes its settings: those of `text`, with these lines in place of its own.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn new(
        name: &str,
        role: Role,
        (real, known): (SocketAddr, SocketAddr),
        source: IpAddr,
        folder: &Path,
        text: &str,
        mut own: Vec<Setting>,
    ) -> Result<Self, Error> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        own.extend([
            ("bind", real.ip().to_string()),
            ("bind-source-addr", source.to_string()),
            ("requirepass", PASSWORD.into()),
            ("port", real.port().to_string()),
            ("dir", format!("\"{}\"", folder.display())),
            ("daemonize", "no".into()),
            ("protected-mode", "no".into()),
            ("logfile", "\"\"".into()),
            ("pidfile", "\"\"".into()),
        ]);
        fs::write(folder.join("redis.conf"), with(text, &own))?;
        let login = Some(("default".to_owned(), PASSWORD.to_owned()));
        Ok(Self { name: name.to_owned(), real, known, source, login, role, folder, process: None })
    }

    /// Starts it with its settings and its data, and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time.
    pub(crate) async fn start(&mut self) -> Result<(), Error> {
        let mut command = Command::new(self.role.program());
        command.arg(self.folder.join("redis.conf")).current_dir(&self.folder);
        let mut process = Process::start(&mut command, &self.folder.join("log"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if process.ended().is_some() || Instant::now() > deadline {
                return Err(format!("{} does not start:\n{}", self.name, process.tail()).into());
            }
            // While it reads its file it answers with an error.
            if let Ok(Value::Text(pong)) = self.ask(&["PING"]).await
                && pong == "PONG"
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Asks it at its own port, past all links.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub(crate) async fn ask(&self, words: &[&str]) -> Result<Value, Error> {
        resp::ask(self.real, self.login.as_ref(), words).await
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it was not there, or is there afterwards.
    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else {
            return Err(format!("void: {} was not running", self.name).into());
        };
        if let Some(status) = process.ended() {
            return Err(format!("{} had ended by itself: {status}", self.name).into());
        }
        let pid = process.pid();
        process.kill();
        match state(pid) {
            None => Ok(()),
            Some(state) => Err(format!("void: {} is in state {state}", self.name).into()),
        }
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When it does not stop.
    pub(crate) async fn freeze(&self) -> Result<(), Error> {
        let process = self.process.as_ref().ok_or("void: no Redis to freeze")?;
        process.signal(Signal::SIGSTOP)?;
        let deadline = Instant::now() + PATIENCE;
        while state(process.pid()) != Some('T') {
            if Instant::now() > deadline {
                return Err(format!("void: {} does not stop on SIGSTOP", self.name).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) -> Result<(), Error> {
        self.process.as_ref().ok_or("no process to thaw")?.signal(Signal::SIGCONT)
    }

    /// How it ended although nobody asked it to.
    pub(crate) fn died(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        let status = process.ended()?;
        Some(format!("{} ended by itself: {status}\n{}", self.name, process.tail()))
    }
}

/// The text without its own lines for these settings, and these behind it. A setting without a value
/// is left out. The names of Sentinel's settings have two words.
fn with(text: &str, own: &[Setting]) -> String {
    let replaced = |line: &&str| {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase() + " ";
        own.iter().any(|(name, _)| line.starts_with(&format!("{name} ")))
    };
    let kept = text.lines().filter(|line| !replaced(line)).map(str::to_owned);
    let added = own.iter().filter(|(_, value)| !value.is_empty());
    kept.chain(added.map(|(name, value)| format!("{name} {value}"))).collect::<Vec<_>>().join("\n")
        + "\n"
}
