//! One gateway node: a `holdfast serve` process with an environment of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::{Process, state};
use crate::http;
use crate::network::{Addresses, Network};
use crate::{Error, PATIENCE};

/// A node, running or not. Its data directory outlives its processes.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) client: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) cluster: SocketAddr,
    folder: PathBuf,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

// === impl Node ===

impl Node {
    pub(crate) fn new(
        name: &str,
        addresses: Addresses,
        folder: &Path,
        binary: &Path,
        environment: Vec<(String, String)>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            client: addresses.client,
            admin: addresses.admin,
            cluster: addresses.cluster,
            folder: folder.to_owned(),
            binary: binary.to_owned(),
            environment,
            process: None,
        }
    }

    /// Starts its process; it is ready some time later.
    pub(crate) fn start(&mut self, network: &Network, at: usize) -> Result<(), Error> {
        let mut command = network.command(at, &self.binary);
        command.arg("serve");
        // What a developer has set must not reach the nodes.
        for (name, _) in std::env::vars() {
            let ours = ["HA_", "HOLDFAST_", "LB_", "SESSION_", "CIRCUIT_", "PORT"];
            if ours.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = self.folder.join(format!("{}.log", self.name));
        self.process = Some(Process::start(&mut command, &log)?);
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When the process is there afterwards: then nothing was tested.
    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else {
            return Err(format!("{} was not running", self.name).into());
        };
        if let Some(status) = process.ended() {
            return Err(
                format!("{} had ended by itself: {status}\n{}", self.name, process.tail()).into()
            );
        }
        let pid = process.pid();
        process.kill();
        match state(pid) {
            None => Ok(()),
            Some(state) => {
                Err(format!("{} is there after kill -9, in state {state}", self.name).into())
            }
        }
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When the process does not stop.
    pub(crate) async fn freeze(&self) -> Result<(), Error> {
        let process = self.process.as_ref().ok_or("a node that does not run cannot be frozen")?;
        process.signal(Signal::SIGSTOP)?;
        let deadline = Instant::now() + PATIENCE;
        while state(process.pid()) != Some('T') {
            if Instant::now() > deadline {
                return Err(format!("{} does not stop on SIGSTOP", self.name).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) -> Result<(), Error> {
        self.process.as_ref().ok_or("no process to thaw")?.signal(Signal::SIGCONT)
    }

    /// SIGTERM and its end.
    ///
    /// # Errors
    /// When it does not end, or not with success.
    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        match process.stop(DRAIN).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                Err(format!("{} ended with {status}\n{}", self.name, process.tail()).into())
            }
            None => Err(format!("{} does not end within {DRAIN:?} of SIGTERM", self.name).into()),
        }
    }

    /// How its process ended although nobody asked it to.
    pub(crate) fn died(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        let status = process.ended()?;
        Some(format!("{} ended by itself: {status}\n{}", self.name, process.tail()))
    }

    /// Why it takes no calls, in its own words; none when it takes them.
    pub(crate) async fn unready(&self) -> Option<String> {
        match http::get(self.client, "/health/ready", ASKING).await {
            Some((200, _)) => None,
            Some((_, body)) => Some(String::from_utf8_lossy(&body).into_owned()),
            None => Some("it does not answer".to_owned()),
        }
    }

    /// Whether its readiness says that it has its store; a node that does not answer has it.
    pub(crate) async fn has_store(&self) -> bool {
        let Some((_, body)) = http::get(self.client, "/health/ready", ASKING).await else {
            return true;
        };
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let checks = said["checks"].as_array().into_iter().flatten();
        !checks.into_iter().any(|it| it["name"] == "session_store" && it["ok"] == false)
    }

    /// What this node believes of the cluster.
    pub(crate) async fn view(&self) -> Option<View> {
        View::ask(self.admin).await
    }
}

/// Longer than `listen.drain_deadline`.
const DRAIN: Duration = Duration::from_secs(60);
/// A node asks the others for up to half a second before it answers.
const ASKING: Duration = Duration::from_secs(3);

/// The answer to `GET /api/nodes`.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The leader's name, as far as the node that speaks knows, and the term that it is in.
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) members: Vec<Seen>,
}

/// One member as a node sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) generation: u64,
}

// === impl View ===

impl View {
    /// Asks a node at its admin port; `None` when it does not answer.
    pub(crate) async fn ask(admin: SocketAddr) -> Option<Self> {
        let (status, body) = http::get(admin, "/api/nodes", ASKING).await?;
        if status != 200 {
            return None;
        }
        Self::read(&serde_json::from_slice(&body).ok()?)
    }

    fn read(value: &Value) -> Option<Self> {
        let members = value["nodes"].as_array()?.iter().map(|node| Seen {
            name: node["name"].as_str().unwrap_or_default().to_owned(),
            state: node["state"].as_str().unwrap_or_default().to_owned(),
            generation: node["generation"].as_u64().unwrap_or_default(),
        });
        Some(Self {
            leader: value["leader"].as_str().map(str::to_owned),
            term: value["term"].as_u64().unwrap_or_default(),
            members: members.collect(),
        })
    }

    pub(crate) fn member(&self, name: &str) -> Option<&Seen> {
        self.members.iter().find(|member| member.name == name)
    }
}

// === impl Seen ===

impl Seen {
    pub(crate) fn is_ready(&self) -> bool {
        self.state == "ready"
    }
}
