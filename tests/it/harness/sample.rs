//! The scriptable sample server as a process: something that can be killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::cluster::{get, post};
use super::process::{Process, binary, free_address};
use super::spaces::Machine;
use super::{DEADLINE, TempDir};

/// `holdfast sample-server` on a port of its own, with a log of what it executed.
pub(crate) struct Sample {
    process: Process,
    pub(crate) address: SocketAddr,
    arguments: Vec<String>,
    log: ExecutionLog,
}

/// A file with one line per execution: tool, key, process id. It outlives the process.
pub(crate) struct ExecutionLog {
    folder: TempDir,
}

// === impl Sample ===

impl Sample {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let log = ExecutionLog::new();
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        for _ in 0..2 {
            let address = free_address();
            let mut process = Process::start(&mut command(address, &log, &arguments));
            if listening(&mut process, address).await {
                return Self { process, address, arguments, log };
            }
        }
        let address = free_address();
        let mut process = Process::start(&mut command(address, &log, &arguments));
        let listens = listening(&mut process, address).await;
        assert!(listens, "the sample server does not start; it said:\n{}", process.output());
        Self { process, address, arguments, log }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.process = Process::start(&mut command(self.address, &self.log, &self.arguments));
        let listens = listening(&mut self.process, self.address).await;
        assert!(listens, "it does not start again; it said:\n{}", self.process.output());
    }

    pub(crate) fn executions(&self, tool: &str, key: &str) -> usize {
        self.log.executions(tool, key)
    }

    /// On a machine where nothing else listens, which it does not outlive.
    pub(crate) async fn start_on(machine: &Machine, arguments: &[&str]) -> Self {
        let log = ExecutionLog::new();
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let address = SocketAddr::from((machine.address, 8000));
        let command = machine.on(&command(address, &log, &arguments));
        let mut process = Process::start(&mut { command });
        let listens = listening(&mut process, address).await;
        assert!(listens, "the sample server does not start; it said:\n{}", process.output());
        Self { process, address, arguments, log }
    }

    /// From now on it meets requests by this rule too.
    pub(crate) async fn behave(&self, rule: &str) {
        let (status, said) =
            post(self.address, "/_drill/behaviour", rule).await.expect("it answers");
        assert_eq!(status, 200, "{said}");
    }

    /// Sends a notification to all of its sessions.
    pub(crate) async fn emits(&self, notification: &str) {
        let (status, said) =
            post(self.address, "/_drill/emit", notification).await.expect("it answers");
        assert_eq!(status, 200, "{said}");
    }

    /// How many requests its rules have struck, whether they ran or not.
    pub(crate) async fn struck(&self) -> u64 {
        let (_, rules) = get(self.address, "/_drill/behaviour").await.expect("it answers");
        let rules: Value = serde_json::from_slice(&rules).expect("JSON");
        let rules = rules.as_array().expect("rules");
        rules.iter().filter_map(|rule| rule["struck"].as_u64()).sum()
    }

    /// How often each key of a tool was executed.
    pub(crate) fn executed(&self, tool: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (_, key, _) in self.log.lines().into_iter().filter(|(it, _, _)| it == tool) {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }
}

fn command(address: SocketAddr, log: &ExecutionLog, arguments: &[String]) -> Command {
    let mut command = Command::new(binary());
    command.args(["sample-server", "--http", &address.to_string(), "--execution-log"]);
    command.arg(log.path()).args(arguments);
    command
}

async fn listening(process: &mut Process, address: SocketAddr) -> bool {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while tokio::time::Instant::now() < deadline && process.ended().is_none() {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

// === impl ExecutionLog ===

impl ExecutionLog {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("executions")
    }

    fn lines(&self) -> Vec<(String, String, u32)> {
        let text = std::fs::read_to_string(self.path()).unwrap_or_default();
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let [tool, key, pid] = words[..] else { panic!("a line of its own form: {line}") };
                (tool.to_owned(), key.to_owned(), pid.parse().expect("a process id"))
            })
            .collect()
    }

    pub(crate) fn executions(&self, tool: &str, key: &str) -> usize {
        self.lines().iter().filter(|(t, k, _)| t == tool && k == key).count()
    }

    /// The process that executed this, once there is one.
    pub(crate) fn pid(&self, key: &str) -> Option<u32> {
        self.lines().iter().find(|(_, k, _)| k == key).map(|(_, _, pid)| *pid)
    }
}

/// The settings of a stdio server that is the sample server, as a YAML flow mapping.
pub(crate) fn stdio(log: &ExecutionLog, mark: &str) -> String {
    format!(
        r#"{{ command: "{}", args: [sample-server, --stdio, --execution-log, "{}"], env: {{ HOLDFAST_IT_MARK: "{mark}" }} }}"#,
        binary().display(),
        log.path().display()
    )
}
