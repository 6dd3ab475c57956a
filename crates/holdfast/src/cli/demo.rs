//! `holdfast demo`: a cluster of three nodes behind a balancer, in front of two sample servers, with
//! nothing installed and nothing configured; or one node, with `--nodes 1`.
//!
//! Every process that the demo starts runs under the guard that stdio servers have too, so that all
//! of it ends with the demo however that ends.

mod child;
mod client;
mod cluster;
mod kill;
mod node;
mod sample;
mod single;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use holdfast_config::{Listen, Log};
use holdfast_drill::Port;

use super::{Outcome, config_file};

/// How many ports are tried one after another.
const PORTS: u16 = 100;

/// From one demo's port for clients to the next one's: those for operators are in between, and no demo takes
/// one that another has chosen and not opened yet.
const APART: u16 = 10;

/// Names of the two servers.
const HTTP: &str = "sample-http";
const STDIO: &str = "sample-stdio";

#[derive(Args)]
pub(crate) struct Demo {
    /// Nodes of the gateway; 1 runs it without a cluster and without a balancer
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Run a client, kill the leading node under it, and say what the client saw
    #[arg(long)]
    kill: bool,
    /// The port for clients; 0 is any free one [default: 37373 or the next free one]
    #[arg(long)]
    port: Option<u16>,
    /// The port for the operator, of the first node; 0 is any free one [default: the next free one
    /// after clients']
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

impl Demo {
    pub(crate) fn run(&self) -> Outcome {
        let nodes = usize::from(self.nodes);
        if self.kill && nodes < 3 {
            let text =
                "holdfast: demo --kill needs three nodes or more: two of two are no majority";
            return Err(super::Failure::Usage(text.into()));
        }
        if nodes == 1 {
            single::run(&self.ports())?;
            return Ok(ExitCode::SUCCESS);
        }
        cluster::run(&self.ports(), nodes, self.kill)
    }

    fn ports(&self) -> Ports {
        Ports { client: self.port, admin: self.admin_port }
    }
}

/// Where to listen, as far as somebody has said so.
struct Ports {
    client: Option<u16>,
    admin: Option<u16>,
}

impl Ports {
    /// The port for clients, and whether it is another one than usual although nobody asked.
    fn client(&self) -> anyhow::Result<(Port, bool)> {
        let usual = Listen::default().address;
        match self.client {
            Some(port) => asked(SocketAddr::new(usual.ip(), port), "--port").map(|it| (it, false)),
            None => {
                let port = free_after(usual, APART)?;
                let moved = port.address() != usual;
                Ok((port, moved))
            }
        }
    }

    /// Ports for operators, of as many nodes.
    fn admins(&self, client: SocketAddr, many: usize) -> anyhow::Result<Vec<Port>> {
        let mut admins = Vec::with_capacity(many);
        let mut from = client;
        for at in 0..many {
            let port = match self.admin {
                Some(0) => free(client)?,
                Some(port) if at == 0 => asked(SocketAddr::new(client.ip(), port), "--admin-port")?,
                _ => {
                    from.set_port(from.port().saturating_add(1));
                    free_after(from, 1)?
                }
            };
            from = port.address();
            admins.push(port);
        }
        Ok(admins)
    }
}

/// The port that an option asks for.
fn asked(address: SocketAddr, option: &str) -> anyhow::Result<Port> {
    Port::keep(address).with_context(|| {
        format!(
            "{address} ({option}) cannot be listened on: choose another port, or leave {option} out \
             and the next free one is taken"
        )
    })
}

/// The address's own port, or the next one, in steps, that nobody has.
fn free_after(address: SocketAddr, step: u16) -> anyhow::Result<Port> {
    (0..PORTS)
        .filter_map(|n| address.port().checked_add(n.checked_mul(step)?))
        .find_map(|port| Port::keep(SocketAddr::new(address.ip(), port)).ok())
        .with_context(|| {
            format!("{address} is taken, and so are {PORTS} ports after it: name one with --port and --admin-port")
        })
}

/// Any free port of the same address.
fn free(like: SocketAddr) -> anyhow::Result<Port> {
    Ok(Port::keep(SocketAddr::new(like.ip(), 0))?)
}

/// Quiet unless somebody wants to hear more.
fn log(level: &str) -> Log {
    let asked = config_file::env("HOLDFAST_LOG").filter(|level| !level.is_empty());
    Log { level: asked.unwrap_or_else(|| level.into()), ..Log::default() }
}

/// What can be tried, whatever answers.
fn try_it(url: &str) -> String {
    format!(
        r#"  curl -s {url} \
    -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
    -d '{{"jsonrpc":"2.0","id":1,"method":"tools/list"}}'

For an MCP client's configuration:

  {{ "mcpServers": {{ "holdfast-demo": {{ "type": "http", "url": "{url}" }} }} }}"#
    )
}
