//! `holdfast demo`: a gateway in front of two sample servers, with nothing installed and nothing
//! configured.
//!
//! The HTTP server is a child process of this one, under the same guard as stdio servers, so that
//! it ends with the demo however that ends. The stdio server is the gateway's to start.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use holdfast_config::{Config, HttpUrl, Instance, Listen, Server, Stdio as Process, Transport};
use holdfast_proxy::upstream::duplex::guard;

use super::{Outcome, output};
use crate::wire::Started;
use crate::{telemetry, wire};

/// How long the HTTP server may take to open its port.
const UP_WITHIN: Duration = Duration::from_secs(10);
/// How many ports after the usual one are tried.
const PORTS: u16 = 100;

/// How long the guard waits before each stronger way to end the HTTP server, which does not read
/// its standard input and so does not end by itself.
const GRACE_MS: &str = "100";

/// Names of the two servers.
const HTTP: &str = "sample-http";
const STDIO: &str = "sample-stdio";

#[derive(Args)]
pub(crate) struct Demo {
    /// The port for clients; 0 is any free one [default: 37373 or the next free one]
    #[arg(long)]
    port: Option<u16>,
    /// The port for the operator; 0 is any free one [default: the next free one after clients']
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

impl Demo {
    pub(crate) fn run(&self) -> Outcome {
        let server = SampleHttp::start()?;
        let config = self.config(server.address)?;
        telemetry::start(&config.log)?;
        let moved = self.port.is_none() && config.listen.address != Listen::default().address;
        wire::run(config, |started| {
            // A reader that has gone away does not end the demo.
            let _ = output::say(&welcome(started, moved));
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn config(&self, server: SocketAddr) -> anyhow::Result<Config> {
        let mut config = Config::default();
        config.node.id = "demo".into();
        config.log.level = super::config_file::env("HOLDFAST_LOG")
            .filter(|level| !level.is_empty())
            .unwrap_or_else(|| "error".into());
        // Whoever presses Ctrl-C here does not want to wait for a stream.
        config.listen.drain_deadline = Duration::from_secs(2);
        config.limits.connections = 1000;

        let (client, admin) = (&mut config.listen.address, &mut config.admin.address);
        match self.port {
            Some(port) => client.set_port(port),
            None => *client = free_after(*client)?,
        }
        match self.admin_port {
            Some(port) => admin.set_port(port),
            None => {
                admin.set_port(client.port().saturating_add(1));
                *admin = free_after(*admin)?;
            }
        }

        let url: HttpUrl = format!("http://{server}/mcp").parse()?;
        let instances = vec![Instance { id: "1".into(), url }];
        let mut process = Process::new(std::env::current_exe()?.to_string_lossy());
        process.args = vec!["sample-server".into(), "--stdio".into()];
        config.servers = BTreeMap::from([
            (HTTP.into(), Server::new(Transport::Http { instances })),
            (STDIO.into(), Server::new(Transport::Stdio(process))),
        ]);
        Ok(config)
    }
}

/// The address itself, or the next one whose port nobody has.
fn free_after(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    (0..PORTS)
        .filter_map(|step| address.port().checked_add(step))
        .map(|port| SocketAddr::new(address.ip(), port))
        .find(|address| TcpListener::bind(address).is_ok())
        .with_context(|| format!("{address} and the {PORTS} ports after it are all taken"))
}

fn welcome(started: &Started, moved: bool) -> String {
    let Started { client, admin } = started;
    let url = format!("http://{client}/mcp/{HTTP}");
    let note = if moved { "\nPort 37373 is taken, so the next free one is used." } else { "" };
    format!(
        r#"Holdfast demo: one gateway in front of two sample servers.{note}

  over HTTP       {url}
  over stdio      http://{client}/mcp/{STDIO}
  status page     http://{admin}/

Try a call:

  curl -s {url} \
    -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
    -d '{{"jsonrpc":"2.0","id":1,"method":"tools/list"}}'

For an MCP client's configuration:

  {{ "mcpServers": {{ "holdfast-demo": {{ "type": "http", "url": "{url}" }} }} }}

Ctrl-C ends everything."#
    )
}

/// The HTTP sample server, a process of its own. Its guard ends it when `child`'s input closes.
struct SampleHttp {
    child: Child,
    address: SocketAddr,
}

impl SampleHttp {
    /// Starts it on a free port and waits until it answers there.
    fn start() -> anyhow::Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let argv = guard::own_binary();
        let (program, first) = argv.split_first().context("the guard has no command line")?;
        let child = Command::new(program)
            .args(first)
            .args([guard::GRACE_OPTION, GRACE_MS, "--"])
            .arg(std::env::current_exe()?)
            .args(["sample-server", "--http", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the gateway, which still has calls to finish there.
            .process_group(0)
            .spawn()
            .context("the sample server cannot be started")?;
        let mut server = Self { child, address };
        server.wait_until_up()?;
        Ok(server)
    }

    fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + UP_WITHIN;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the sample server ended at once ({status})");
            }
            if Instant::now() > deadline {
                bail!("the sample server did not open {} within {UP_WITHIN:?}", self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for SampleHttp {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The guard's own deadlines bound this.
        let _ = self.child.wait();
    }
}
