//! The processes of one balancer.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Kind;
use crate::stack::process::{Process, state};
use crate::{Error, PATIENCE};

const LOOK: Duration = Duration::from_millis(10);

/// One balancer, running or not.
pub(super) struct Balancer {
    name: String,
    kind: Kind,
    pub(super) address: SocketAddr,
    command: Command,
    log: PathBuf,
    process: Option<Process>,
}

// === impl Balancer ===

impl Balancer {
    pub(super) fn new(
        name: String,
        kind: Kind,
        address: SocketAddr,
        command: Command,
        log: PathBuf,
    ) -> Self {
        Self { name, kind, address, command, log, process: None }
    }

    /// # Errors
    /// When it ends, or takes no connections.
    pub(super) async fn start(&mut self) -> Result<(), Error> {
        let mut process = Process::start(&mut self.command, &self.log)?;
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            if process.ended().is_some() || Instant::now() > deadline {
                return Err(format!("{} does not start:\n{}", self.name, process.tail()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// The processes that do the work of the first one.
    fn workers(&self) -> Vec<u32> {
        let Some(pid) = self.process.as_ref().map(Process::pid) else { return Vec::new() };
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    pub(super) async fn reload(&mut self) -> Result<(), Error> {
        let signal = match self.kind {
            Kind::Nginx => Signal::SIGHUP,
            Kind::Haproxy => Signal::SIGUSR2,
            Kind::Edge => return Err("void: the edge has no configuration to reload".into()),
        };
        let before = self.workers();
        self.process.as_ref().ok_or("no balancer to reload")?.signal(signal)?;
        let deadline = Instant::now() + PATIENCE;
        while self.workers().iter().all(|worker| before.contains(worker)) {
            if Instant::now() > deadline {
                return Err(format!("void: {} has no new workers", self.name).into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<(), Error> {
        let workers = self.workers();
        let Some(mut process) = self.process.take() else {
            return Err(format!("void: {} was not running", self.name).into());
        };
        let first = process.pid();
        process.kill();
        for worker in &workers {
            end(*worker);
        }
        let deadline = Instant::now() + PATIENCE;
        let all: Vec<u32> = workers.into_iter().chain([first]).collect();
        while let Some(left) = all.iter().find(|pid| !matches!(state(**pid), None | Some('Z'))) {
            if Instant::now() > deadline {
                return Err(format!("void: process {left} of {} is there", self.name).into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    pub(super) async fn stop(&mut self) {
        let workers = self.workers();
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(5)).await;
        }
        // After a reload, those before stay for their streams.
        workers.into_iter().for_each(end);
    }

    pub(super) fn died(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        let status = process.ended()?;
        Some(format!("{} ended by itself: {status}\n{}", self.name, process.tail()))
    }
}

/// Workers of a first process that ends without order would go on.
impl Drop for Balancer {
    fn drop(&mut self) {
        let workers = self.workers();
        drop(self.process.take());
        workers.into_iter().for_each(end);
    }
}

fn end(pid: u32) {
    let _gone = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}
