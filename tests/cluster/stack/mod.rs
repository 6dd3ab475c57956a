//! Everything that a run needs, as processes on loopback: three nodes, three sample servers, a
//! balancer, a Redis where one is wanted, and the network between them, which can be cut.

pub(crate) mod front;
pub(crate) mod node;
pub(crate) mod process;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use front::Front;
use futures_util::future::join_all;
use holdfast_tests::ports::free_address;
use node::{Node, Seen, View};
use process::Process;

use crate::network::{Addresses, Network};
use crate::redis::{self, Redis};
use crate::{Error, PATIENCE};

/// How many nodes a stack has.
pub(crate) const NODES: usize = 3;

/// The servers behind the gateway, by the names under which clients reach them.
pub(crate) const COUNT: &str = "count";
pub(crate) const STREAM: &str = "stream";
pub(crate) const LOCAL: &str = "local";

/// How the nodes are tied together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Together {
    /// One cluster.
    Cluster,
    /// Three nodes that know nothing of each other: what a run must show losses with.
    Independent,
}

/// The running stack. Dropping it kills all of it.
pub(crate) struct Stack {
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) together: Together,
    pub(crate) front: Front,
    pub(crate) redis: Option<Redis>,
    /// Logs, data directories and records of this run.
    pub(crate) folder: PathBuf,
    /// The control endpoints of the two servers that are reached over HTTP.
    pub(crate) controls: Vec<SocketAddr>,
    servers: Vec<Process>,
}

/// What a stack is made of.
pub(crate) struct Wanted<'a> {
    pub(crate) front: front::Kind,
    /// A second balancer that takes over from the first.
    pub(crate) standby: bool,
    pub(crate) store: redis::Kind,
    /// A Redis, and nodes, without what keeps acknowledged writes.
    pub(crate) plain: bool,
    pub(crate) together: Together,
    pub(crate) binary: &'a Path,
    pub(crate) folder: &'a Path,
    pub(crate) log: &'a str,
    /// Each node in a network namespace of its own.
    pub(crate) namespaces: bool,
    /// `HA_FAILOVER_TIMEOUT`, in milliseconds; the default where it is none.
    pub(crate) failover_timeout: Option<usize>,
}

// === impl Stack ===

impl Stack {
    /// Starts it and waits until all nodes are ready.
    ///
    /// # Errors
    /// When any part does not start; the message ends with what it printed.
    pub(crate) async fn start(wanted: &Wanted<'_>) -> Result<Self, Error> {
        let folder = wanted.folder;
        // A copy: builds that go on beside a long run must not change what is tested.
        let binary = folder.join("holdfast");
        fs::copy(wanted.binary, &binary)
            .map_err(|error| format!("copy {}: {error}", wanted.binary.display()))?;
        let (network, addresses) = Network::new(wanted.namespaces)?;
        let (servers, urls) = servers(&binary, folder, network.servers()).await?;
        if wanted.namespaces && wanted.store != redis::Kind::Replicated {
            return Err("void: the namespaces of the nodes have no way to a Redis".into());
        }
        let beside = folder.join("redis");
        let redis = Redis::start(wanted.store, wanted.plain, &beside).await?;
        let config = folder.join("holdfast.yaml");
        let mut text = network.configuration() + &configuration(&binary, folder, &urls);
        if let Some(redis) = &redis {
            text.push_str(&redis.section(wanted.plain));
        }
        if wanted.standby {
            // Clients try a GET twice, and it takes two seconds and more until the address has moved.
            text.push_str("streams: { retry: 2s }\n");
        }
        fs::write(&config, text)?;
        let mut nodes = Vec::new();
        for (at, own) in addresses.iter().enumerate() {
            let mut environment = environment(at, &addresses, wanted, &config)?;
            if let Some(redis) = &redis {
                environment.push(("SESSION_STORE".into(), "redis".into()));
                environment.push(("SESSION_STORE_URL".into(), redis.url()));
            }
            let mut node = Node::new(&name(at), *own, folder, &binary, environment);
            network.up(at).await?;
            node.start(&network, at)?;
            nodes.push(node);
        }
        let spares = wanted.together == Together::Independent;
        let front = front::Wanted {
            kind: wanted.front,
            spares,
            standby: wanted.standby,
            folder,
            binary: &binary,
        };
        let front = Front::start(&front, &nodes).await?;
        let mut stack = Self {
            nodes,
            network,
            together: wanted.together,
            front,
            redis,
            folder: folder.to_owned(),
            controls: urls,
            servers,
        };
        stack.know_pids();
        stack.settled().await?;
        stack.front.lets_through().await?;
        Ok(stack)
    }

    /// `kill -9` of a node.
    pub(crate) fn kill(&mut self, at: usize) -> Result<(), Error> {
        self.nodes[at].kill()?;
        self.network.down(at);
        Ok(())
    }

    /// Empties the data directory of a node that does not run.
    pub(crate) fn wipe(&self, at: usize) -> Result<(), Error> {
        let data = data(&self.folder, at);
        fs::remove_dir_all(&data)?;
        Ok(fs::create_dir_all(&data)?)
    }

    /// SIGTERM of a node, and its end.
    pub(crate) async fn stop_node(&mut self, at: usize) -> Result<(), Error> {
        self.nodes[at].stop().await?;
        self.network.down(at);
        Ok(())
    }

    /// Starts a node again with its data.
    pub(crate) async fn start_node(&mut self, at: usize) -> Result<(), Error> {
        self.network.up(at).await?;
        self.nodes[at].start(&self.network, at)?;
        self.know_pids();
        Ok(())
    }

    /// Tells the links which process is which node.
    fn know_pids(&self) {
        self.network.know(self.nodes.iter().map(Node::pid).collect());
    }

    /// The Redis under the nodes.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn redis(&mut self) -> Result<&mut Redis, Error> {
        Ok(self.redis.as_mut().ok_or("void: there is no Redis")?)
    }

    /// Whether every node's readiness says that it has its store.
    pub(crate) async fn store_is_well(&self) -> bool {
        join_all(self.nodes.iter().map(Node::has_store)).await.into_iter().all(|well| well)
    }

    /// Waits until every node takes calls and all agree on the cluster.
    ///
    /// # Errors
    /// When that does not come, or a process has died unasked.
    pub(crate) async fn settled(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(said) = self.dead() {
                return Err(said.into());
            }
            let unsettled = self.unsettled().await;
            if let (None, Some(redis)) = (&unsettled, &self.redis) {
                redis.settled().await?;
            }
            let Some(why) = unsettled else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(
                    format!("the cluster does not settle within {PATIENCE:?}: {why}").into()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What died although nobody killed it.
    pub(crate) fn dead(&mut self) -> Option<String> {
        if let Some(said) = self.nodes.iter_mut().find_map(Node::died) {
            return Some(said);
        }
        if let Some(said) = self.redis.as_mut().and_then(Redis::dead) {
            return Some(said);
        }
        for server in &mut self.servers {
            if let Some(status) = server.ended() {
                return Some(format!("a sample server ended: {status}\n{}", server.tail()));
            }
        }
        self.front.died()
    }

    async fn unsettled(&self) -> Option<String> {
        for node in &self.nodes {
            if let Some(why) = node.unready().await {
                return Some(format!("{} is not ready: {why}", node.name));
            }
        }
        if self.together == Together::Independent {
            return None;
        }
        let mut leaders = BTreeMap::new();
        for node in &self.nodes {
            let Some(view) = node.view().await else {
                return Some(format!("{} does not list the nodes", node.name));
            };
            let Some(leader) = &view.leader else {
                return Some(format!("{} knows no leader: {view:?}", node.name));
            };
            leaders.insert(leader.clone(), node.name.clone());
            for other in &self.nodes {
                let ready = view.member(&other.name).is_some_and(Seen::is_ready);
                if !ready {
                    return Some(format!("{} sees {} not ready: {view:?}", node.name, other.name));
                }
            }
        }
        (leaders.len() > 1).then(|| format!("the nodes name several leaders: {leaders:?}"))
    }

    /// The number of the node that most nodes see as the leader.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let mut named: BTreeMap<String, usize> = BTreeMap::new();
        for view in self.views(None).await {
            if let Some(leader) = view.leader {
                *named.entry(leader).or_default() += 1;
            }
        }
        let (name, _) = named.into_iter().max_by_key(|(_, votes)| *votes)?;
        self.nodes.iter().position(|node| node.name == name)
    }

    /// What the nodes other than `but` believe; those that do not answer are left out.
    pub(crate) async fn views(&self, but: Option<usize>) -> Vec<View> {
        let asked = self.nodes.iter().enumerate().filter(|(at, _)| Some(*at) != but);
        let views = join_all(asked.map(|(_, node)| node.view())).await;
        views.into_iter().flatten().collect()
    }

    /// Every execution of a tool at any of the servers: tool and key, with how often it ran.
    pub(crate) fn executions(&self) -> BTreeMap<(String, String), u32> {
        let mut counts = BTreeMap::new();
        for server in [COUNT, STREAM, LOCAL] {
            let text = fs::read_to_string(execution_log(&self.folder, server)).unwrap_or_default();
            for line in text.lines() {
                let mut words = line.split(' ');
                if let (Some(tool), Some(key)) = (words.next(), words.next()) {
                    *counts.entry((tool.to_owned(), key.to_owned())).or_default() += 1;
                }
            }
        }
        counts
    }

    /// Ends everything in order, the balancer first.
    pub(crate) async fn stop(&mut self) {
        self.front.stop().await;
        for node in &mut self.nodes {
            drop(node.kill());
        }
        self.servers.clear();
        self.redis = None;
    }
}

fn execution_log(folder: &Path, server: &str) -> PathBuf {
    folder.join(format!("executions-{server}"))
}

/// The counting server and the one whose streams can be resumed; the third is a process of the nodes.
async fn servers(
    binary: &Path,
    folder: &Path,
    ip: IpAddr,
) -> Result<(Vec<Process>, Vec<SocketAddr>), Error> {
    let (mut servers, mut urls) = (Vec::new(), Vec::new());
    for (name, extra) in [(COUNT, None), (STREAM, Some("--resumable"))] {
        let address = SocketAddr::new(ip, free_address()?.port());
        let mut command = Command::new(binary);
        command.args(["sample-server", "--name", name, "--http", &address.to_string()]);
        command.arg("--execution-log").arg(execution_log(folder, name)).args(extra);
        let mut server = Process::start(&mut command, &folder.join(format!("server-{name}.log")))?;
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if server.ended().is_some() || Instant::now() > deadline {
                return Err(format!("sample server {name}:\n{}", server.tail()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        servers.push(server);
        urls.push(address);
    }
    Ok((servers, urls))
}

fn configuration(binary: &Path, folder: &Path, urls: &[SocketAddr]) -> String {
    let mut text = String::from("servers:\n");
    for (name, address) in [COUNT, STREAM].iter().zip(urls) {
        text.push_str(&format!("  {name}: {{ url: \"http://{address}/mcp\" }}\n"));
    }
    text.push_str(&format!(
        "  {LOCAL}: {{ command: \"{}\", args: [sample-server, --stdio, --name, {LOCAL}, --execution-log, \"{}\"] }}\n",
        binary.display(),
        execution_log(folder, LOCAL).display()
    ));
    text
}

/// What makes this node differ from the others.
fn environment(
    at: usize,
    addresses: &[Addresses],
    wanted: &Wanted<'_>,
    config: &Path,
) -> Result<Vec<(String, String)>, Error> {
    let own = addresses[at];
    let data = data(wanted.folder, at);
    fs::create_dir_all(&data)?;
    let mut environment = vec![
        ("HOLDFAST_CONFIG", config.display().to_string()),
        ("HOLDFAST_DATA_DIR", data.display().to_string()),
        ("HOLDFAST_CLUSTER_SECRET", "a secret of drills, long enough for all".to_owned()),
        ("HOLDFAST_ADMIN_LISTEN", own.admin.to_string()),
        ("HOLDFAST_LOG", wanted.log.to_owned()),
        ("HA_NODE_ID", name(at)),
        ("PORT", own.client.port().to_string()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ];
    if wanted.together == Together::Cluster {
        let nodes = addresses.iter().enumerate();
        let nodes: Vec<String> =
            nodes.map(|(at, addresses)| format!("{}={}", name(at), addresses.known)).collect();
        environment.extend([
            ("HA_MODE", "cluster".to_owned()),
            ("HA_CLUSTER_NODES", nodes.join(",")),
            ("HOLDFAST_CLUSTER_LISTEN", own.cluster.to_string()),
        ]);
        let timeout = wanted.failover_timeout.map(|timeout| timeout.to_string());
        environment.extend(timeout.map(|timeout| ("HA_FAILOVER_TIMEOUT", timeout)));
    }
    Ok(environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn data(folder: &Path, at: usize) -> PathBuf {
    folder.join(format!("data-{}", name(at)))
}

fn name(at: usize) -> String {
    format!("node-{}", at + 1)
}
