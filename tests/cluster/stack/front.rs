//! The balancer before the nodes: nginx with the project's own template, or `holdfast edge`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::Process;
use crate::{Error, PATIENCE};

/// Which balancer a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Edge,
}

/// A running balancer.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    process: Process,
}

/// Says which nodes a request was sent to, and how much of it: what a drill needs to know and a
/// client does not.
const TRACE: &str = "location / {
    add_header X-Drill-Nodes \"$upstream_addr\" always;
    add_header X-Drill-Sent \"$upstream_bytes_sent\" always;
    add_header X-Drill-Request \"$request_id\" always;";

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Edge => "edge",
        }
    }
}

// === impl Front ===

impl Front {
    /// With `spares`, all nodes but the first are used only while that one is away: nodes that do not
    /// know each other's sessions serve nobody otherwise.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn start(
        kind: Kind,
        spares: bool,
        address: SocketAddr,
        nodes: &[SocketAddr],
        folder: &Path,
        binary: &Path,
    ) -> Result<Self, Error> {
        let mut command = match kind {
            Kind::Nginx => nginx(spares, address, nodes, folder)?,
            Kind::Edge => edge(address, nodes, binary),
        };
        let log = folder.join(format!("{}.log", kind.name()));
        let mut process = Process::start(&mut command, &log)?;
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if process.ended().is_some() || Instant::now() > deadline {
                return Err(format!("{} does not start:\n{}", kind.name(), process.tail()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { address, process })
    }

    /// nginx's workers end with their master only when it ends in order.
    pub(crate) async fn stop(&mut self) {
        self.process.stop(Duration::from_secs(5)).await;
    }

    /// Whether it is still there.
    pub(crate) fn died(&mut self) -> Option<String> {
        let status = self.process.ended()?;
        Some(format!("the balancer ended by itself: {status}\n{}", self.process.tail()))
    }
}

fn nginx(
    spares: bool,
    address: SocketAddr,
    nodes: &[SocketAddr],
    folder: &Path,
) -> Result<Command, Error> {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/cluster.conf.template");
    let mut site = fs::read_to_string(&template)
        .map_err(|error| format!("read {}: {error}", template.display()))?;
    site = site.replace("${HOLDFAST_LISTEN}", &address.to_string());
    for (at, node) in nodes.iter().enumerate() {
        let node = if spares && at > 0 { format!("{node} backup") } else { node.to_string() };
        site = site.replace(&format!("${{HOLDFAST_NODE_{}}}", at + 1), &node);
    }
    if site.contains("${") || !site.contains("location / {") {
        return Err("nginx/cluster.conf.template has another form than the drills know".into());
    }
    let site = site.replace("location / {", TRACE);
    let at = folder.join("nginx");
    fs::create_dir_all(&at)?;
    let path = at.display();
    let text = format!(
        "worker_processes 2;
daemon off;
pid {path}/pid;
error_log {path}/error.log;
events {{ worker_connections 8192; }}
http {{
  log_format drill '$msec $request_method $uri $status $request_time $request_id '
                   '\"$upstream_addr\" \"$upstream_status\" \"$upstream_response_time\"';
  access_log {path}/access.log drill;
  client_body_temp_path {path}/body;
  proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi;
  scgi_temp_path {path}/scgi;
{site}
}}
"
    );
    let config = at.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&at).arg("-c").arg(&config);
    Ok(command)
}

fn edge(address: SocketAddr, nodes: &[SocketAddr], binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["edge", "--listen", &address.to_string()]);
    for node in nodes {
        command.args(["--node", &node.to_string()]);
    }
    command
}
