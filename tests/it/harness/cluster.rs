//! Three gateways that stand in for one another, each in a process of its own.
//!
//! Their ports are taken below the range from which the system gives ports to connections, so that
//! a node that is started again finds its own still free.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{SocketAddr, TcpListener};
use std::ops::{Index, IndexMut};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::TempDir;
use super::client::Client;
use super::gateway::{Setup, TOKEN, metric_in, serve};
use super::process::{Process, signal};
use super::spaces::Machine;
use super::wire::{Conn, find};

/// How long the group may take over anything. Long, since an election on a loaded machine may have
/// to be held again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Consensus tells of its every heartbeat, which costs more than the heartbeat.
const LEVEL: &str = "level: 'info,holdfast=debug,holdfast_proxy=debug,holdfast_cluster=debug'";

/// Running nodes, named `n1`, `n2` and `n3`. Dropping them kills them.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    machines: Option<Arc<[Machine; 3]>>,
    _ports: Ports,
    _folder: TempDir,
}

pub(crate) struct Node {
    pub(crate) name: String,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where the operator connects.
    pub(crate) admin: SocketAddr,
    /// Where the other nodes connect.
    pub(crate) peer: SocketAddr,
    config: PathBuf,
    environment: Vec<(String, String)>,
    process: Process,
}

impl Setup {
    /// Starts three nodes with this setup and waits until all of them are ready.
    pub(crate) async fn cluster(self) -> Cluster {
        self.cluster_with(|_| SECRET).await
    }

    /// The same with a third node that has another secret: two are waited for.
    pub(crate) async fn cluster_with_a_stranger(self) -> Cluster {
        self.cluster_with(
            |number| if number == 2 { "another-secret-of-32-characters!" } else { SECRET },
        )
        .await
    }

    async fn cluster_with(self, secret: impl Fn(usize) -> &'static str) -> Cluster {
        // A port can be taken between finding and binding it; a cluster that does not start for any
        // other reason does not start the next time either, and says why.
        let mut said = String::new();
        for _ in 0..3 {
            let mut cluster = Cluster::start(&self, &secret);
            let expected: Vec<usize> = (0..3).filter(|at| secret(*at) == SECRET).collect();
            match cluster.until_ready(&expected).await {
                Ok(()) => return cluster,
                Err(why) => said = why,
            }
        }
        panic!("the cluster does not start: {said}");
    }
}

// === impl Cluster ===

impl Cluster {
    fn start(setup: &Setup, secret: &impl Fn(usize) -> &'static str) -> Self {
        let folder = TempDir::new();
        let claimed = Ports::claim();
        let mut ports: Vec<SocketAddr> = (0..9).map(|number| claimed.address(number)).collect();
        if let Some(clients) = setup.clients {
            ports.iter_mut().step_by(3).for_each(|port| port.set_ip(clients.into()));
        }
        if let Some(machines) = &setup.machines {
            for (ports, machine) in ports.chunks_mut(3).zip(machines.iter()) {
                ports.iter_mut().for_each(|port| port.set_ip(machine.address.into()));
            }
        }
        let peers: Vec<String> =
            (0..3).map(|at| format!("n{}: \"{}\"", at + 1, ports[at * 3 + 2])).collect();
        let nodes = (0..3).map(|at| {
            let (name, ports) = (format!("n{}", at + 1), &ports[at * 3..]);
            let mut text = setup.text(ports[0], ports[1]).replace("level: debug", LEVEL);
            let mut own = vec![format!("data_dir: \"{}\"", folder.join(&name).display())];
            own.extend(setup.node.iter().cloned());
            text.push_str(&format!(
                "node: {{ {} }}\ncluster:\n  node_id: {name}\n  secret: \"{}\"\n  failover_timeout: {}\n  nodes: {{ {} }}\n",
                own.join(", "),
                secret(at),
                setup.failover_timeout.unwrap_or("2s"),
                peers.join(", "),
            ));
            let config = folder.join(&format!("{name}.yaml"));
            std::fs::write(&config, text).expect("write the configuration");
            // Where each node reaches a server by an address of its own, the file says so by this.
            let mut environment = vec![("NODE".to_owned(), (at + 1).to_string())];
            let own = setup.variables.iter().filter(|it| it.0 == at);
            environment.extend(own.map(|it| (it.1.clone(), it.2.clone())));
            let mut command = command(setup.machines.as_ref(), at, &config, &environment);
            let process = Process::start(&mut command);
            let (address, admin, peer) = (ports[0], ports[1], ports[2]);
            Node { name, address, admin, peer, config, environment, process }
        });
        let machines = setup.machines.clone();
        Self { nodes: nodes.collect(), machines, _ports: claimed, _folder: folder }
    }

    async fn until_ready(&mut self, expected: &[usize]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut missing: Vec<usize> = expected.to_vec();
        while Instant::now() < deadline {
            for node in &mut self.nodes {
                if let Some(status) = node.process.ended() {
                    // Let the pipe's readers catch up with what it said last.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return Err(format!("{}: {status}\n{}", node.name, node.log()));
                }
            }
            let Some(next) = missing.last() else { return Ok(()) };
            if self.is_whole(*next, expected).await {
                missing.pop();
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Err(format!("not ready within {PATIENCE:?}"))
    }

    /// Whether this node is ready and sees all the others ready.
    async fn is_whole(&self, at: usize, expected: &[usize]) -> bool {
        if self[at].readiness().await != Some(200) {
            return false;
        }
        let Some(seen) = self[at].nodes().await else { return false };
        expected.iter().all(|other| member(&seen, &self[*other].name)["state"] == "ready")
    }

    /// A client at this node that speaks 2025-11-25, without a session yet.
    pub(crate) fn client(&self, at: usize) -> Client {
        Client::to(self[at].address)
    }

    /// Waits until a node shows another one, or itself, as it should be.
    pub(crate) async fn sees(
        &self,
        at: usize,
        other: usize,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let name = &self[other].name;
        let mut last = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(seen) = self[at].nodes().await {
                last = member(&seen, name);
                if fits(&last) {
                    return last;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} never shows {name} as {what}; last: {last}", self[at].name);
    }

    /// Waits until a node shows another one in this state.
    pub(crate) async fn sees_state(&self, at: usize, other: usize, state: &str) -> Value {
        self.sees(at, other, state, |node| node["state"] == state).await
    }

    /// Starts a node again on its ports and its data.
    pub(crate) fn start_again(&mut self, at: usize) {
        let machines = self.machines.clone();
        let node = &mut self[at];
        node.process.kill();
        let mut command = command(machines.as_ref(), at, &node.config, &node.environment);
        node.process = Process::start(&mut command);
    }

    /// Starts a node again on its ports and its data, and waits until it is ready.
    pub(crate) async fn restart(&mut self, at: usize) {
        self.start_again(at);
        let node = &mut self[at];
        let deadline = Instant::now() + PATIENCE;
        while node.readiness().await != Some(200) {
            let ended = node.process.ended();
            if ended.is_some() || Instant::now() > deadline {
                panic!("{} is not ready again ({ended:?}):\n{}", node.name, node.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A node's process, on its machine if it has one.
fn command(
    machines: Option<&Arc<[Machine; 3]>>,
    at: usize,
    config: &PathBuf,
    environment: &[(String, String)],
) -> Command {
    let mut command = serve(config);
    command.envs(environment.iter().cloned());
    match machines {
        Some(machines) => machines[at].on(&command),
        None => command,
    }
}

/// On failure, what the nodes said last.
impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "a test's output is for whoever looks at its failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- {} at {} said last:\n{last}", node.name, node.address);
            }
        }
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, at: usize) -> &Node {
        &self.nodes[at]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, at: usize) -> &mut Node {
        &mut self.nodes[at]
    }
}

/// What a node says of the node of this name; null when nothing.
fn member(seen: &Value, name: &str) -> Value {
    let nodes = seen["nodes"].as_array().cloned().unwrap_or_default();
    nodes.into_iter().find(|node| node["name"] == name).unwrap_or_default()
}

// === impl Node ===

impl Node {
    /// Everything it has logged since it was last started.
    pub(crate) fn log(&self) -> String {
        self.process.output()
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Writes its file anew, in place.
    pub(crate) fn rewrite(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).expect("the configuration");
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        std::fs::write(&self.config, text.replace(from, to)).expect("write the configuration");
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        signal(self.process.pid(), "HUP");
    }

    pub(crate) fn freeze(&self) {
        signal(self.process.pid(), "STOP");
    }

    pub(crate) fn thaw(&self) {
        signal(self.process.pid(), "CONT");
    }

    /// SIGTERM; returns at once.
    pub(crate) fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `/health/ready` answers; `None` when nobody does.
    pub(crate) async fn readiness(&self) -> Option<u16> {
        Some(get(self.address, "/health/ready").await?.0)
    }

    pub(crate) async fn becomes_ready(&self) {
        self.readiness_becomes(200).await;
    }

    pub(crate) async fn readiness_becomes(&self, expected: u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.readiness().await;
            if status == Some(expected) {
                return;
            }
            if Instant::now() > deadline {
                panic!(
                    "{}: readiness is {status:?} and not {expected}:\n{}",
                    self.name,
                    self.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it says of all nodes.
    pub(crate) async fn nodes(&self) -> Option<Value> {
        self.says("/api/nodes").await
    }

    /// A check that `/health` shows under this name.
    pub(crate) async fn check(&self, name: &str) -> Option<Value> {
        let health = self.says("/health").await?;
        health["checks"].as_array()?.iter().find(|it| it["name"] == name).cloned()
    }

    /// What its operator's port answers; `None` when nobody does, or it refuses.
    pub(crate) async fn says(&self, path: &str) -> Option<Value> {
        let (status, body) = get(self.admin, path).await?;
        (status == 200).then(|| serde_json::from_slice(&body).expect("JSON"))
    }

    /// A line of its metrics.
    pub(crate) async fn has_metric(&self, line: &str) -> bool {
        self.metrics().await.lines().any(|it| it == line)
    }

    /// Waits until its metrics have this line.
    pub(crate) async fn comes_to_metric(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_metric(line).await {
            assert!(Instant::now() < deadline, "{} does not come to {line}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The value of a metric without labels, or the sum over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        metric_in(&self.metrics().await, name)
    }

    async fn metrics(&self) -> String {
        let (_, body) = get(self.admin, "/metrics").await.expect("its operator's port answers");
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Waits until this many calls are in it.
    pub(crate) async fn has_in_flight(&self, many: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.nodes().await.unwrap_or_default();
            let found = member(&seen, &self.name)["in_flight"].as_u64();
            if found == Some(many) {
                return;
            }
            assert!(Instant::now() < deadline, "{}: {found:?} calls, not {many}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One GET on a connection of its own, with what an operator shows where that is asked for; `None` when no whole
/// answer comes.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<(u16, Vec<u8>)> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Connection: close\r\n\r\n"
    );
    ask(address, request).await
}

/// One POST of JSON on a connection of its own; `None` when no whole answer comes.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> Option<(u16, Value)> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, body) = ask(address, request).await?;
    Some((status, serde_json::from_slice(&body).expect("JSON")))
}

async fn ask(address: SocketAddr, request: String) -> Option<(u16, Vec<u8>)> {
    let asked = async {
        let stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let mut conn = Conn::over(stream);
        let sent = conn.try_send(request).await;
        let answer = conn.rest().await;
        let body = find(&answer, b"\r\n\r\n").filter(|_| sent)? + 4;
        let head = String::from_utf8_lossy(&answer[..body]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer[body..].to_vec()))
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.ok().flatten()
}

/// Ports that belong to one cluster for as long as it lives, also while nobody listens on them.
struct Ports {
    first: u16,
    /// On the last of them: whoever cannot bind it takes other ports.
    _claim: TcpListener,
}

impl Ports {
    /// Below the ports that the system gives out by itself.
    const LOWEST: u16 = 20_000;
    const BLOCKS: u64 = 750;
    const BLOCK: u16 = 16;

    fn claim() -> Self {
        loop {
            let random = RandomState::new().build_hasher().finish() % Self::BLOCKS;
            let block = u16::try_from(random).expect("a small number");
            let first = Self::LOWEST + block * Self::BLOCK;
            let Ok(claim) = TcpListener::bind(("127.0.0.1", first + Self::BLOCK - 1)) else {
                continue;
            };
            let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if (first..first + Self::BLOCK - 1).all(is_free) {
                return Self { first, _claim: claim };
            }
        }
    }

    fn address(&self, number: usize) -> SocketAddr {
        let number = u16::try_from(number).expect("a small number");
        assert!(number < Self::BLOCK - 1, "a port of another cluster");
        SocketAddr::from(([127, 0, 0, 1], self.first + number))
    }
}
