//! Official SDK clients, each in a process of its own, calling steadily. What they print becomes
//! calls in the ledger, beside those of the raw load.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::load::ledger::{Call, Era, Kind, Ledger, Outcome};
use crate::stack::process::append;
use crate::stack::{COUNT, STREAM};
use crate::{Error, PATIENCE};

/// Name, program with its SDK, era.
const CLIENTS: [(&str, Sdk, Era); 6] = [
    ("py1-legacy", Sdk::Python("py1"), Era::Legacy),
    ("py2-legacy", Sdk::Python("py2"), Era::Legacy),
    ("py2-modern", Sdk::Python("py2"), Era::Modern),
    ("ts1-legacy", Sdk::TypeScript("ts1"), Era::Legacy),
    ("ts2-legacy", Sdk::TypeScript("ts2"), Era::Legacy),
    ("ts2-modern", Sdk::TypeScript("ts2"), Era::Modern),
];

#[derive(Clone, Copy)]
enum Sdk {
    /// A virtual environment of the interop tests.
    Python(&'static str),
    /// An adapter of the interop tests.
    TypeScript(&'static str),
}

/// Running clients.
pub(crate) struct Sdks {
    children: Vec<(&'static str, Child)>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// One line of a client.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Ready { ready: String },
    Call(Report),
}

#[derive(Deserialize)]
struct Report {
    kind: String,
    how: String,
    ms: u64,
    key: Option<String>,
    code: Option<i64>,
    message: Option<String>,
    #[serde(default)]
    missing: u32,
    #[serde(default)]
    doubled: u32,
}

// === impl Sdks ===

impl Sdks {
    pub(crate) fn none() -> Self {
        Self { children: Vec::new(), readers: Vec::new() }
    }

    /// Starts one process per SDK and era and waits until each has its sessions.
    ///
    /// # Errors
    /// When one does not come that far; what it said is in the run's folder.
    pub(crate) async fn start(
        front: SocketAddr,
        folder: &Path,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Error> {
        let ready = Arc::new(Mutex::new(BTreeSet::new()));
        let mut sdks = Self::none();
        for (name, sdk, era) in CLIENTS {
            let mut command = sdk.command()?;
            let era_name = if era == Era::Modern { "modern" } else { "legacy" };
            command.args(["--base", &format!("http://{front}"), "--era", era_name, "--name", name]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.stderr(append(&folder.join(format!("client-{name}.log")))?);
            let mut child = command.spawn().map_err(|error| format!("start {name}: {error}"))?;
            let output = child.stdout.take().ok_or("a piped output")?;
            sdks.children.push((name, child));
            let (ready, ledger) = (Arc::clone(&ready), Arc::clone(ledger));
            let reader = std::thread::spawn(move || read(name, era, output, &ready, &ledger));
            sdks.readers.push(reader);
        }
        let deadline = Instant::now() + PATIENCE;
        while ready.lock().unwrap_or_else(PoisonError::into_inner).len() < CLIENTS.len() {
            if Instant::now() > deadline {
                let ready = ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(
                    format!("of the SDK clients only {ready:?} have opened sessions").into()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(sdks)
    }

    /// Lets them finish what they are at.
    ///
    /// # Errors
    /// When one has not ended in order.
    pub(crate) async fn finish(mut self) -> Result<(), Error> {
        for (_, child) in &mut self.children {
            drop(child.stdin.take());
        }
        let deadline = Instant::now() + PATIENCE;
        let mut unfinished = Vec::new();
        for (name, child) in &mut self.children {
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break Some(status),
                    None if Instant::now() > deadline => break None,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            if !status.is_some_and(|status| status.success()) {
                drop(child.kill());
                unfinished.push(format!("{name}: {status:?}"));
            }
        }
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        if unfinished.is_empty() {
            return Ok(());
        }
        Err(format!("SDK clients did not end in order: {}", unfinished.join(", ")).into())
    }
}

impl Drop for Sdks {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Sdk {
    fn command(self) -> Result<Command, Error> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/clients");
        let (program, arguments) = match self {
            Self::Python(line) => {
                (tools().join(line).join("bin/python"), vec![own.join("steady.py")])
            }
            Self::TypeScript(_) => {
                (tools().join("node_modules/.bin/node"), vec![own.join("steady.mjs")])
            }
        };
        if !program.is_file() {
            return Err(
                format!("there is no {}: run tests/interop/setup.sh", program.display()).into()
            );
        }
        let mut command = Command::new(program);
        command.args(arguments);
        if let Self::TypeScript(adapter) = self {
            command.args(["--sdk", adapter]);
        }
        Ok(command)
    }
}

/// What `tests/interop/setup.sh` has installed.
fn tools() -> PathBuf {
    std::env::var_os("HOLDFAST_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools"), PathBuf::from)
}

fn read(
    name: &str,
    era: Era,
    output: ChildStdout,
    ready: &Mutex<BTreeSet<String>>,
    ledger: &Ledger,
) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Line::Ready { ready: name }) => {
                ready.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
            }
            Ok(Line::Call(report)) => ledger.add(report.call(name, era, ledger.now())),
            Err(_) => {}
        }
    }
}

impl Report {
    fn call(self, name: &str, era: Era, now: u64) -> Call {
        let kind = match self.kind.as_str() {
            "write" => Kind::Write,
            "stream" => Kind::Stream,
            "session" => Kind::Idle,
            _ => Kind::Read,
        };
        let message = self.message.unwrap_or_default();
        let outcome = match (self.how.as_str(), self.code) {
            ("result", _) => Outcome::Result,
            ("wrong", _) => Outcome::Wrong { what: message },
            ("nothing", _) => Outcome::Nothing { stage: "in the SDK" },
            ("died", _) => Outcome::SessionLost { status: 0 },
            ("unopened", _) => Outcome::Broken { what: message },
            // Python's name for a 404, and TypeScript's way to hand the status on.
            (_, Some(32600 | 404)) => Outcome::SessionLost { status: 404 },
            // The others hand on the gateway's words.
            _ if message.contains("session not found") => Outcome::SessionLost { status: 404 },
            (_, Some(code)) if code <= -31_000 && code > -32_000 => {
                Outcome::Error { code, may_have_run: None, message }
            }
            _ => Outcome::Broken { what: message },
        };
        Call {
            client: name.to_owned(),
            kind,
            era,
            server: if kind == Kind::Stream { STREAM } else { COUNT },
            id: self.key.clone().unwrap_or_default(),
            key: self.key.filter(|_| kind.is_write()).map(|key| ("write".to_owned(), key)),
            session: None,
            started: now.saturating_sub(self.ms),
            ended: now,
            outcome,
            moved: false,
            resumed: 0,
            events_missing: self.missing,
            events_doubled: self.doubled,
            trace: String::new(),
        }
    }
}
