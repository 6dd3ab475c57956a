//! One node of the demo's cluster: started, watched, and started again when it has died.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::bail;
use holdfast_drill::Port;

use super::child::Child;

/// How long a node that has died stays away: long enough to be missed.
pub(super) const AWAY: Duration = Duration::from_secs(2);
/// How long a node may take until it is ready. The first start makes a cluster.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node's health may take to answer.
const ASKING: Duration = Duration::from_secs(2);

/// Where a node listens, whenever it runs.
pub(super) struct Ports {
    pub(super) client: Port,
    pub(super) peer: Port,
    pub(super) admin: Port,
}

pub(super) struct Node {
    pub(super) name: String,
    ports: Ports,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Option<Child>,
    pub(super) pid: u32,
    /// When it is started again.
    back_at: Option<Instant>,
}

/// What has happened to a node.
pub(super) enum News {
    Died { pid: u32, status: ExitStatus },
    Back,
    NotBack(anyhow::Error),
}

impl Node {
    pub(super) fn new(
        name: String,
        ports: Ports,
        folder: &Path,
        environment: Vec<(&'static str, String)>,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        Self { name, ports, environment, log, child: None, pid: 0, back_at: None }
    }

    /// Where its operator reaches it.
    pub(super) const fn admin(&self) -> SocketAddr {
        self.ports.admin.address()
    }

    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let mut child = Child::start(&["serve"], &self.environment, Some(&self.log))?;
        let deadline = Instant::now() + READY_WITHIN;
        self.pid = loop {
            if let Some(pid) = child.pid() {
                break pid;
            }
            if child.ended().is_some() || Instant::now() > deadline {
                bail!("{} does not start:\n{}", self.name, child.tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.child = Some(child);
        self.back_at = None;
        Ok(())
    }

    /// # Errors
    /// It ended, or takes too long; the end of its log is in the text.
    pub(super) async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let name = self.name.clone();
        let Some(child) = &mut self.child else { bail!("{name} does not run") };
        while !is_ready(self.ports.client.address()) {
            if let Some(status) = child.ended() {
                bail!("{name} has ended ({}):\n{}", describe(status), child.tail());
            }
            if Instant::now() > deadline {
                bail!("{name} is not ready within {READY_WITHIN:?}:\n{}", child.tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Looks after it, once in a while.
    pub(super) fn tend(&mut self) -> Option<News> {
        if let Some(status) = self.child.as_mut().and_then(Child::ended) {
            self.child = None;
            self.back_at = Some(Instant::now() + AWAY);
            return Some(News::Died { pid: self.pid, status });
        }
        self.back_at.filter(|at| *at <= Instant::now())?;
        Some(match self.start() {
            Ok(()) => News::Back,
            Err(error) => {
                self.back_at = Some(Instant::now() + AWAY);
                News::NotBack(error)
            }
        })
    }

    /// Asks it to end; dropping it waits for that.
    pub(super) fn let_go(&mut self) {
        if let Some(child) = &mut self.child {
            child.let_go();
        }
    }
}

/// Whether the node at this port takes calls.
fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, ASKING)?;
        stream.set_read_timeout(Some(ASKING))?;
        write!(
            stream,
            "GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// How a guarded process ended: a guard exits with 128 and the signal's number.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) if code > 128 => format!("signal {}", code - 128),
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}
