//! The demo of one node: the gateway in this very process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_config::{Config, HttpUrl, Instance, Server, Stdio as Process, Transport};

use super::sample::SampleHttp;
use super::{HTTP, Ports, STDIO, log, try_it};
use crate::cli::output;
use crate::wire::Started;
use crate::{telemetry, wire};

pub(super) fn run(ports: &Ports) -> anyhow::Result<()> {
    let server = SampleHttp::start()?;
    let (client, moved) = ports.client()?;
    let admin = ports.admins(client.address(), 1)?.remove(0);
    let config = config(client.address(), admin.address(), server.address())?;
    let logs = telemetry::start(&config.log)?;
    // There is no file that could change.
    wire::run(config, None, logs, |started| {
        // A reader that has gone away does not end the demo.
        let _ = output::say(&welcome(started, moved));
    })
}

fn config(client: SocketAddr, admin: SocketAddr, server: SocketAddr) -> anyhow::Result<Config> {
    let mut config = Config::default();
    config.node.id = "demo".into();
    config.log = log("error");
    // Whoever presses Ctrl-C here does not want to wait for a stream.
    config.listen.drain_deadline = Duration::from_secs(2);
    config.limits.connections = 1000;
    config.listen.address = client;
    config.admin.address = admin;

    let url: HttpUrl = format!("http://{server}/mcp").parse()?;
    let instances = vec![Instance::new("1", url)];
    let mut process = Process::new(std::env::current_exe()?.to_string_lossy());
    process.args = vec!["sample-server".into(), "--stdio".into()];
    config.servers = BTreeMap::from([
        (HTTP.into(), Server::new(Transport::Http { instances })),
        (STDIO.into(), Server::new(Transport::Stdio(process))),
    ]);
    Ok(config)
}

fn welcome(started: &Started, moved: bool) -> String {
    let Started { client, admin, .. } = started;
    let url = format!("http://{client}/mcp/{HTTP}");
    let note = if moved { "\nPort 37373 is taken, so the next free one is used." } else { "" };
    format!(
        "Holdfast demo: one gateway in front of two sample servers.{note}

  over HTTP       {url}
  over stdio      http://{client}/mcp/{STDIO}
  status page     http://{admin}/

Try a call:

{}

Ctrl-C ends everything.",
        try_it(&url)
    )
}
