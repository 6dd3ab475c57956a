//! The demo of a cluster: nodes as processes, the balancer in this one.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use holdfast_admin::Client as Operator;
use holdfast_config::Listen;
use holdfast_drill::Port;
use holdfast_edge::{Edge, Options, StartError};
use tokio_util::sync::CancellationToken;

use super::node::{AWAY, News, Node, Ports as NodePorts, describe};
use super::sample::SampleHttp;
use super::{HTTP, Ports, STDIO, free, kill, log, try_it};
use crate::cli::{Outcome, output};
use crate::shutdown::Signals;
use crate::{descriptors, telemetry};

/// How often the processes are looked after.
const TEND: Duration = Duration::from_millis(50);
/// How long the nodes may be without a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(20);

/// The running demo. Dropping it ends every process.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    sample: SampleHttp,
    /// The port for clients.
    pub(super) client: SocketAddr,
    moved: bool,
    folder: Folder,
}

pub(super) fn run(ports: &Ports, many: usize, kill: bool) -> Outcome {
    telemetry::start(&log("error"))?;
    crate::install_crypto()?;
    descriptors::raise(CONNECTIONS, "the demo's connections");
    // Clients of `--kill` run beside what looks after the processes.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let signals = Signals::catch().context("signals cannot be caught")?;
        let stop = CancellationToken::new();
        tokio::spawn(signals.drive(stop.clone()));
        go(ports, many, kill, &stop).await
    })
}

/// Connections of clients; a laptop allows few.
const CONNECTIONS: usize = 1000;

async fn go(ports: &Ports, many: usize, kill: bool, stop: &CancellationToken) -> Outcome {
    let (mut cluster, edge) = Cluster::new(ports, many)?;
    let over = CancellationToken::new();
    let running = edge.run(over.clone())?;
    let edge_ends = over.drop_guard();
    tokio::select! {
        started = cluster.start() => started?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    }
    let code = if kill {
        kill::run(&mut cluster, stop).await?
    } else {
        // A reader that has gone away does not end the demo.
        let _ = output::say(&cluster.welcome().await);
        cluster.tend(stop, true).await;
        ExitCode::SUCCESS
    };
    cluster.end();
    drop(edge_ends);
    running.finished().await;
    Ok(code)
}

/// The edge, and whether it listens on another port than usual although nobody asked.
fn edge(ports: &Ports, nodes: &[SocketAddr]) -> anyhow::Result<(Edge, bool)> {
    let mut looked = 0;
    loop {
        let (client, moved) = ports.client()?;
        let mut options =
            Options::new(client.address(), nodes.iter().map(SocketAddr::to_string).collect());
        options.connections = CONNECTIONS;
        options.drain_deadline = Duration::from_secs(1);
        looked += 1;
        match Edge::bind(options) {
            // Another demo that starts has looked at the same moment.
            Err(StartError::Bind { source, .. })
                if source.kind() == ErrorKind::AddrInUse
                    && ports.client.is_none()
                    && looked < LOOKS => {}
            bound => return Ok((bound?, moved)),
        }
    }
}

/// How often a port is looked for that nobody else takes in the same moment.
const LOOKS: u32 = 10;

impl Cluster {
    fn new(ports: &Ports, many: usize) -> anyhow::Result<(Self, Edge)> {
        let folder = Folder::new()?;
        let sample = SampleHttp::recording(folder.executions())?;
        let config = folder.path.join("holdfast.yaml");
        std::fs::write(&config, configuration(sample.address())?)?;

        let names: Vec<String> = (1..=many).map(|number| format!("node-{number}")).collect();
        let like = Listen::default().address;
        let kept = || names.iter().map(|_| free(like)).collect::<Result<Vec<_>, _>>();
        let (clients, peers) = (kept()?, kept()?);
        let addresses: Vec<SocketAddr> = clients.iter().map(Port::address).collect();
        let (edge, moved) = edge(ports, &addresses)?;
        let client = edge.local_addr();

        let admins = ports.admins(client, many)?;
        let group: Vec<String> = names
            .iter()
            .zip(&peers)
            .map(|(name, peer)| format!("{name}={}", peer.address()))
            .collect();
        let (group, secret) = (group.join(","), secret()?);
        let ports = clients.into_iter().zip(peers).zip(admins);
        let ports = ports.map(|((client, peer), admin)| NodePorts { client, peer, admin });
        let nodes = names.into_iter().zip(ports).map(|(name, ports)| {
            let data = folder.path.join(&name);
            std::fs::create_dir_all(&data)?;
            let environment = vec![
                ("HA_MODE", "cluster".to_owned()),
                ("HA_NODE_ID", name.clone()),
                ("HA_CLUSTER_NODES", group.clone()),
                ("HOLDFAST_CLUSTER_SECRET", secret.clone()),
                ("HOLDFAST_CLUSTER_LISTEN", ports.peer.address().to_string()),
                ("HOLDFAST_ADMIN_LISTEN", ports.admin.address().to_string()),
                ("HOLDFAST_DATA_DIR", data.to_string_lossy().into_owned()),
                ("HOLDFAST_CONFIG", config.to_string_lossy().into_owned()),
                ("HOLDFAST_LOG", log("info").level),
                ("PORT", ports.client.address().port().to_string()),
            ];
            Ok(Node::new(name, ports, &folder.path, environment))
        });
        let nodes = nodes.collect::<std::io::Result<Vec<_>>>()?;
        Ok((Self { nodes, sample, client, moved, folder }, edge))
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        for node in &mut self.nodes {
            node.wait_until_ready().await?;
        }
        Ok(())
    }

    /// Asks all processes to end, at once; dropping the value waits for them.
    fn end(&mut self) {
        self.nodes.iter_mut().for_each(Node::let_go);
    }

    /// Where clients reach the server over HTTP.
    pub(super) fn url(&self) -> String {
        format!("http://{}/mcp/{HTTP}", self.client)
    }

    /// A line per execution of a tool at the sample server: tool, key, process id.
    pub(super) fn executions(&self) -> PathBuf {
        self.folder.executions()
    }

    /// The leader's name and process, as soon as a node knows one.
    pub(super) async fn leader(&self) -> Option<(String, u32)> {
        let deadline = Instant::now() + LEADER_WITHIN;
        let name = loop {
            match self.leader_name().await {
                Some(name) => break name,
                None if Instant::now() > deadline => return None,
                None => tokio::time::sleep(TEND).await,
            }
        };
        self.nodes.iter().find(|node| node.name == name).map(|node| (name.clone(), node.pid))
    }

    async fn leader_name(&self) -> Option<String> {
        for node in &self.nodes {
            let asked = Operator::new(&node.admin().to_string(), None).ok()?;
            let answer = tokio::time::timeout(Duration::from_secs(2), asked.nodes()).await;
            if let Ok(Ok(view)) = answer
                && view.leader.is_some()
            {
                return view.leader;
            }
        }
        None
    }

    /// Starts nodes again that have died, until the demo ends; says so where somebody reads it.
    pub(super) async fn tend(&mut self, stop: &CancellationToken, aloud: bool) {
        while tokio::time::timeout(TEND, stop.cancelled()).await.is_err() {
            if let Some(again) = self.sample.tend()
                && aloud
            {
                let _ = output::say(&match again {
                    Ok(()) => format!("{HTTP} has ended; it runs again."),
                    Err(error) => format!("{HTTP} has ended and is not back: {error:#}"),
                });
            }
            for node in &mut self.nodes {
                let Some(news) = node.tend() else { continue };
                let name = &node.name;
                let text = match news {
                    News::Died { pid, status } => format!(
                        "{name} (process {pid}) has ended: {}. It is started again in {} s.",
                        describe(status),
                        AWAY.as_secs()
                    ),
                    News::Back => format!("{name} runs again, as process {}.", node.pid),
                    News::NotBack(error) => format!("{name} is not back: {error:#}"),
                };
                if aloud {
                    let _ = output::say(&text);
                }
            }
        }
    }

    async fn welcome(&self) -> String {
        let leader = self.leader_name().await;
        let rows: Vec<Vec<String>> = self
            .nodes
            .iter()
            .map(|node| {
                let leads = leader.as_ref() == Some(&node.name);
                vec![
                    node.name.clone(),
                    node.pid.to_string(),
                    if leads { "leader".into() } else { "follower".into() },
                    format!("http://{}/", node.admin()),
                ]
            })
            .collect();
        let mut table = String::new();
        for line in output::table(&["NODE", "PROCESS", "ROLE", "STATUS PAGE"], &rows).lines() {
            let _ = writeln!(table, "  {line}");
        }
        let moved =
            if self.moved { "\nPort 37373 is taken, so the next free one is used." } else { "" };
        let url = self.url();
        let number = self.nodes.len();
        let victim = leader.and_then(|name| self.nodes.iter().find(|node| node.name == name));
        let victim = victim.or_else(|| self.nodes.first());
        let pid = victim.map_or(0, |node| node.pid);
        // One that is still there to be asked afterwards.
        let witness = self.nodes.iter().find(|node| node.pid != pid);
        let admin = witness.map_or(self.client, Node::admin);
        format!(
            "Holdfast demo: {number} gateway nodes behind a balancer, in front of two sample servers.{moved}

  over HTTP       {url}
  over stdio      http://{client}/mcp/{STDIO}

{table}
Try a call:

{try_it}

Kill a node while you call, again and again if you like: it is started again after {away} s.

  kill -9 {pid}
  holdfast nodes --watch --admin {admin}
  holdfast demo --kill     (does it for you and says what a client saw)

Logs and data are in {folder} until the end.

Ctrl-C ends everything.",
            client = self.client,
            try_it = try_it(&url),
            away = AWAY.as_secs(),
            folder = self.folder.path.display(),
        )
    }
}

/// The configuration that all nodes share; the rest is in their environment.
fn configuration(sample: SocketAddr) -> anyhow::Result<String> {
    let binary = std::env::current_exe()?;
    let binary = serde_json::Value::from(binary.to_string_lossy().into_owned());
    Ok(format!(
        "listen: {{ drain_deadline: 2s }}
limits: {{ connections: {CONNECTIONS} }}
servers:
  {HTTP}:
    url: \"http://{sample}/mcp\"
    tools: {{ echo: read, slow: read, write: write }}
  {STDIO}: {{ command: {binary}, args: [sample-server, --stdio] }}
"
    ))
}

/// A secret for this one cluster.
fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the operating system has no randomness")?;
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

/// Data, logs and records; gone with the value.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("holdfast-demo-{}", std::process::id()));
        // A demo with the same process id may have been killed here before.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        private(&path)?;
        Ok(Self { path })
    }

    fn executions(&self) -> PathBuf {
        self.path.join("executions")
    }
}

fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
