//! nginx and HAProxy as processes, from the files in `nginx/` and `haproxy/` as they are.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::cluster::Cluster;
use crate::harness::process::{Process, free_address, is_alive, signal};
use crate::harness::{DEADLINE, TempDir};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    HaProxy,
}

/// A running balancer before three nodes.
pub(super) struct Balancer {
    kind: Kind,
    pub(super) address: SocketAddr,
    process: Process,
    folder: TempDir,
}

/// The nodes' ports for clients, and where their readiness is asked for.
pub(super) struct Nodes {
    clients: [SocketAddr; 3],
    health: [SocketAddr; 3],
}

/// A file that the project ships.
pub(super) fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(path)
}

/// What the shipped files take out of the environment.
pub(super) fn environment(listen: SocketAddr, nodes: &Nodes) -> Vec<(&'static str, String)> {
    let names = [
        ["HOLDFAST_NODE_1", "HOLDFAST_NODE_2", "HOLDFAST_NODE_3"],
        ["HOLDFAST_HEALTH_1", "HOLDFAST_HEALTH_2", "HOLDFAST_HEALTH_3"],
    ];
    let addresses = [nodes.clients, nodes.health];
    let pairs = names.iter().flatten().copied().zip(addresses.iter().flatten());
    let mut environment = vec![("HOLDFAST_LISTEN", listen.to_string())];
    environment.extend(pairs.map(|(name, address)| (name, address.to_string())));
    environment
}

/// Fills a template in as `envsubst` does: `${NAME}` and nothing else.
pub(super) fn filled_in(template: &str, environment: &[(&str, String)]) -> String {
    let path = shipped(template);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let filled = environment
        .iter()
        .fold(text, |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
    let mut code = filled.lines().filter(|line| !line.trim_start().starts_with('#'));
    if let Some(left) = code.find(|line| line.contains("${")) {
        panic!("{template} needs more than it is given: {left}");
    }
    filled
}

/// nginx with the shipped configuration, all it writes in `folder`.
pub(super) fn nginx(folder: &Path, listen: SocketAddr, nodes: &Nodes) -> Command {
    nginx_of(folder, &environment(listen, nodes))
}

/// The same with what the template takes out of the environment.
pub(super) fn nginx_of(folder: &Path, environment: &[(&str, String)]) -> Command {
    let mut text = filled_in("nginx/nginx.conf", environment);
    if fs::metadata("/proc/self").expect("/proc").uid() != 0 {
        // The folders that nginx was built with are root's.
        let own: Vec<String> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("  {name}_temp_path {}/{name};\n", folder.display()))
            .into();
        text = text.replace("\nhttp {\n", &format!("\nhttp {{\n{}", own.concat()));
    }
    fs::create_dir_all(folder).expect("a folder for nginx");
    let config = folder.join("nginx.conf");
    fs::write(&config, text).expect("write nginx.conf");
    let mut command = Command::new("nginx");
    let own = format!("daemon off; pid {}/nginx.pid;", folder.display());
    command.arg("-p").arg(folder).arg("-c").arg(config).args(["-g", &own]);
    command
}

/// keepalived with the shipped configuration, all it writes in `folder`.
pub(super) fn keepalived(folder: &Path, environment: &[(&str, String)]) -> Command {
    fs::create_dir_all(folder).expect("a folder for keepalived");
    let config = folder.join("keepalived.conf");
    fs::write(&config, filled_in("nginx/keepalived.conf", environment)).expect("write it");
    let mut command = Command::new("keepalived");
    command.args(["--dont-fork", "--log-console", "--vrrp"]).arg("--use-file").arg(config);
    command.arg("--pid").arg(folder.join("pid")).arg("--vrrp_pid").arg(folder.join("vrrp"));
    command
}

/// HAProxy as a master with workers, as systemd and the official image run it.
pub(super) fn haproxy(listen: SocketAddr, nodes: &Nodes) -> Command {
    let mut command = Command::new("haproxy");
    command.args(["-W", "-f"]).arg(shipped("haproxy/haproxy.cfg"));
    command.envs(environment(listen, nodes));
    command
}

// === impl Nodes ===

impl Nodes {
    pub(super) fn of(cluster: &Cluster) -> Self {
        let at = [&cluster[0], &cluster[1], &cluster[2]];
        Self { clients: at.map(|node| node.address), health: at.map(|node| node.admin) }
    }

    /// Nodes that have one port for everything.
    pub(super) fn at(clients: [SocketAddr; 3]) -> Self {
        Self { clients, health: clients }
    }
}

// === impl Balancer ===

impl Balancer {
    /// Starts it on a free port, and waits until it serves.
    pub(super) async fn start(kind: Kind, nodes: &Nodes) -> Self {
        let mut said = String::new();
        for _ in 0..3 {
            let (address, folder) = (free_address(), TempDir::new());
            let mut command = match kind {
                Kind::Nginx => nginx(&folder.join("nginx"), address, nodes),
                Kind::HaProxy => haproxy(address, nodes),
            };
            let process = Process::start(&mut command);
            let mut balancer = Self { kind, address, process, folder };
            if balancer.listens().await {
                return balancer;
            }
            said = balancer.log();
        }
        panic!("{kind:?} does not start; it said:\n{said}");
    }

    async fn listens(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && self.process.ended().is_none() {
            if tokio::net::TcpStream::connect(self.address).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    pub(super) fn log(&self) -> String {
        self.process.output()
    }

    /// The processes that do the work.
    pub(super) fn workers(&self) -> Vec<u32> {
        children(self.process.pid())
    }

    /// Reads its configuration again, and waits until new workers serve beside what is left of the old
    /// ones, which end when they have nothing more to do.
    pub(super) async fn reload(&self) -> Vec<u32> {
        let old = self.workers();
        let by = match self.kind {
            Kind::Nginx => "HUP",
            Kind::HaProxy => "USR2",
        };
        signal(self.process.pid(), by);
        crate::harness::eventually("new workers", || {
            self.workers().iter().any(|worker| !old.contains(worker)).then_some(())
        })
        .await;
        old
    }
}

/// Workers end with their master only when it ends in order.
impl Drop for Balancer {
    fn drop(&mut self) {
        end(&mut self.process);
        // Nothing of it is used after its processes are gone.
        drop(self.folder.join(""));
    }
}

/// A process whose children end with it.
pub(super) struct Master(pub(super) Process);

impl Drop for Master {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Ends a master and its workers at once.
pub(super) fn end(master: &mut Process) {
    let workers = children(master.pid());
    master.kill();
    for worker in workers.into_iter().filter(|worker| is_alive(*worker)) {
        signal(worker, "KILL");
    }
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|it| it.parse().ok()).collect()
}
