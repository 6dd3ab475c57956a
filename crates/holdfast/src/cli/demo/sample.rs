//! The sample server over HTTP, a process of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use holdfast_drill::Port;

use super::child::Child;

/// How long it may take to open its port.
const UP_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct SampleHttp {
    child: Child,
    port: Port,
    executions: Option<PathBuf>,
}

impl SampleHttp {
    /// Starts it on a free port and waits until it answers there.
    pub(super) fn start() -> anyhow::Result<Self> {
        Self::launch(None)
    }

    /// The same, with a line in this file for every execution of a tool.
    pub(super) fn recording(executions: PathBuf) -> anyhow::Result<Self> {
        Self::launch(Some(executions))
    }

    fn launch(executions: Option<PathBuf>) -> anyhow::Result<Self> {
        let port = Port::keep((Ipv4Addr::LOCALHOST, 0).into())?;
        let child = process(port.address(), executions.as_deref())?;
        let mut server = Self { child, port, executions };
        server.wait_until_up()?;
        Ok(server)
    }

    /// Where it listens, whenever it runs.
    pub(super) const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts it again if it has ended; whether that worked.
    pub(super) fn tend(&mut self) -> Option<anyhow::Result<()>> {
        self.child.ended()?;
        Some(process(self.address(), self.executions.as_deref()).map(|child| self.child = child))
    }

    fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + UP_WITHIN;
        while TcpStream::connect(self.address()).is_err() {
            if let Some(status) = self.child.ended() {
                bail!("the sample server ended at once ({status})");
            }
            if Instant::now() > deadline {
                bail!("the sample server did not open {} within {UP_WITHIN:?}", self.address());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn process(address: SocketAddr, executions: Option<&Path>) -> anyhow::Result<Child> {
    let text = address.to_string();
    let file = executions.map(|path| path.to_string_lossy().into_owned());
    let mut arguments = vec!["sample-server", "--http", &text];
    if let Some(file) = &file {
        arguments.extend(["--execution-log", file]);
    }
    Child::start(&arguments, &[], None)
}
