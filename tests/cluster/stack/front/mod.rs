//! The balancer before the nodes: nginx or HAProxy with the project's own files, or `holdfast edge`; with
//! a second one beside it where the first is to be lost.

mod balancer;
mod standby;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use balancer::Balancer;
use holdfast_tests::ports::free_address;
use standby::Floating;

use super::node::Node;
use crate::{Error, PATIENCE, http};

const ASKING: Duration = Duration::from_secs(3);

/// Which balancer a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
    Edge,
}

/// A running balancer, or two.
pub(crate) struct Front {
    pub(crate) kind: Kind,
    /// What clients connect to.
    pub(crate) address: SocketAddr,
    balancers: Vec<Balancer>,
    floating: Option<Floating>,
}

/// Says which nodes a request was sent to, and how much of it: what a drill needs to know and a
/// client does not.
const TRACE: &str = "location / {
    add_header X-Drill-Nodes \"$upstream_addr\" always;
    add_header X-Drill-Sent \"$upstream_bytes_sent\" always;
    add_header X-Drill-Request \"$request_id\" always;";

/// The same of HAProxy, which tells the last node only.
const HAPROXY_TRACE: &str = "frontend clients
  http-response set-header X-Drill-Nodes %[srv_name]
  http-response set-header X-Drill-Request %[unique-id]";

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Edge => "edge",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Nginx, Self::Haproxy, Self::Edge].into_iter().find(|kind| kind.name() == name)
    }
}

/// How the balancers are to be.
pub(crate) struct Wanted<'a> {
    pub(crate) kind: Kind,
    /// All nodes but the first are used only while that one is away: nodes that do not know each
    /// other's sessions serve nobody otherwise.
    pub(crate) spares: bool,
    /// A second balancer, and an address that goes to the one that lives.
    pub(crate) standby: bool,
    pub(crate) folder: &'a Path,
    pub(crate) binary: &'a Path,
}

// === impl Front ===

impl Front {
    /// # Errors
    /// When it does not start.
    pub(crate) async fn start(wanted: &Wanted<'_>, nodes: &[Node]) -> Result<Self, Error> {
        let kind = wanted.kind;
        let clients: Vec<SocketAddr> = nodes.iter().map(|node| node.client).collect();
        let admins: Vec<SocketAddr> = nodes.iter().map(|node| node.admin).collect();
        let mut balancers = Vec::new();
        for at in 0..=usize::from(wanted.standby) {
            let address = free_address()?;
            let name =
                if at == 0 { kind.name().to_owned() } else { format!("{}-standby", kind.name()) };
            let folder = wanted.folder.join(&name);
            fs::create_dir_all(&folder)?;
            let command = match kind {
                Kind::Nginx => nginx(wanted.spares, address, &clients, &folder)?,
                Kind::Haproxy => haproxy(wanted.spares, address, (&clients, &admins), &folder)?,
                Kind::Edge => edge(address, &clients, wanted.binary),
            };
            let log = wanted.folder.join(format!("{name}.log"));
            let mut balancer = Balancer::new(name, kind, address, command, log);
            balancer.start().await?;
            balancers.push(balancer);
        }
        let first = balancers.first().ok_or("no balancer")?.address;
        if !wanted.standby {
            return Ok(Self { kind, address: first, balancers, floating: None });
        }
        let address = free_address()?;
        let behind = balancers.iter().map(|balancer| balancer.address).collect();
        let floating = Floating::start(address, behind).await?;
        Ok(Self { kind, address, balancers, floating: Some(floating) })
    }

    /// Waits until it lets requests through to a node. HAProxy has to have seen that one is ready.
    ///
    /// # Errors
    /// When that does not come.
    pub(crate) async fn lets_through(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let answer = http::get(self.address, "/health/ready", ASKING).await;
            if answer.is_some_and(|(status, _)| status == 200) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("{} finds no node within {PATIENCE:?}", self.kind.name()).into())
    }

    /// Lets it take up its configuration anew, and waits until other processes do its work.
    ///
    /// # Errors
    /// When none come.
    pub(crate) async fn reload(&mut self) -> Result<(), Error> {
        let active = self.active();
        self.balancers[active].reload().await
    }

    /// `kill -9` of the one that is used, with all of its processes.
    ///
    /// # Errors
    /// When there is no standby, or one of them is there afterwards.
    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        if self.floating.is_none() {
            return Err("void: there is no standby; this takes --standby".into());
        }
        let active = self.active();
        self.balancers[active].kill()
    }

    /// Waits until the standby has the address.
    ///
    /// # Errors
    /// When it does not get it.
    pub(crate) async fn taken_over(&mut self) -> Result<(), Error> {
        match &self.floating {
            Some(floating) => floating.moved().await,
            None => Err("void: there is no standby".into()),
        }
    }

    /// Starts whichever was lost; it is the standby from now on.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn restore(&mut self) -> Result<(), Error> {
        for balancer in &mut self.balancers {
            if !balancer.runs() {
                balancer.start().await?;
            }
        }
        Ok(())
    }

    fn active(&self) -> usize {
        self.floating.as_ref().map_or(0, Floating::active)
    }

    /// nginx's workers end with their master only when it ends in order.
    pub(crate) async fn stop(&mut self) {
        for balancer in &mut self.balancers {
            balancer.stop().await;
        }
    }

    /// Whether it is still there.
    pub(crate) fn died(&mut self) -> Option<String> {
        self.balancers.iter_mut().find_map(Balancer::died)
    }
}

fn nginx(
    spares: bool,
    address: SocketAddr,
    nodes: &[SocketAddr],
    folder: &Path,
) -> Result<Command, Error> {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx/nginx.conf");
    let mut text = fs::read_to_string(&template)
        .map_err(|error| format!("read {}: {error}", template.display()))?;
    text = text.replace("${HOLDFAST_LISTEN}", &address.to_string());
    for (at, node) in nodes.iter().enumerate() {
        let node = if spares && at > 0 { format!("{node} backup") } else { node.to_string() };
        text = text.replace(&format!("${{HOLDFAST_NODE_{}}}", at + 1), &node);
    }
    let places = ["location / {", "access_log off;"];
    if text.contains("${HOLDFAST") || places.iter().any(|place| text.matches(place).count() != 1) {
        return Err("nginx/nginx.conf has another form than the drills know".into());
    }
    let path = folder.display();
    let log = format!(
        "log_format drill '$msec $request_method $uri $status $request_time $request_id '
                   '\"$upstream_addr\" \"$upstream_status\" \"$upstream_response_time\"';
  access_log {path}/access.log drill;
  client_body_temp_path {path}/body;
  proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi;
  scgi_temp_path {path}/scgi;"
    );
    let text = text.replace("location / {", TRACE).replace("access_log off;", &log);
    let config = folder.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("nginx");
    let own = format!("daemon off; pid {path}/pid;");
    command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-g", &own]);
    Ok(command)
}

fn haproxy(
    spares: bool,
    address: SocketAddr,
    (nodes, admins): (&[SocketAddr], &[SocketAddr]),
    folder: &Path,
) -> Result<Command, Error> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../haproxy/haproxy.cfg");
    let mut text = fs::read_to_string(&shipped)
        .map_err(|error| format!("read {}: {error}", shipped.display()))?;
    if !text.contains("frontend clients\n") {
        return Err("haproxy/haproxy.cfg has another form than the drills know".into());
    }
    text = text.replace("frontend clients", HAPROXY_TRACE);
    let config = folder.join("haproxy.cfg");
    let mut command = Command::new("haproxy");
    command.args(["-W", "-db", "-f"]).arg(&config).env("HOLDFAST_LISTEN", address.to_string());
    for (at, node) in nodes.iter().enumerate() {
        let name = format!("HOLDFAST_NODE_{}", at + 1);
        if spares && at > 0 {
            let line = format!("\"${{{name}}}\"");
            text = text.replace(&line, &format!("{line} backup"));
        }
        command.env(name, node.to_string());
        command.env(format!("HOLDFAST_HEALTH_{}", at + 1), admins[at].to_string());
    }
    fs::write(&config, text)?;
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
