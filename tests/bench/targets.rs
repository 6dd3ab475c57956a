//! What is measured: nginx and the gateway in its forms, before the same server.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_drill::bench::Holding;
use holdfast_tests::ports::free_address;

use crate::{Error, measure, sessions};

/// What is measured: one or several processes behind one address. All end when it is dropped.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Where calls go.
    pub(crate) path: &'static str,
    /// In the order in which they were started; they end in the opposite one.
    processes: Vec<Process>,
    /// How many of the last of them count as the target: a Redis beside a node does not.
    counted: usize,
}

/// Where calls go if there is one server.
const PATH: &str = "/mcp";

/// Where nginx has a buffer that an answer of 64 KiB fits in.
pub(crate) const ROOMY: &str = "/roomy";

/// A running process that listens; killed when dropped.
pub(crate) struct Process {
    child: Child,
    folder: PathBuf,
}

/// A gateway of one or more nodes with a configuration of its own, node by node.
pub(crate) struct Gateway {
    nodes: Vec<(Process, SocketAddr)>,
}

/// How the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// One node with its memory.
    Alone,
    /// The same, holding [`MANY_SESSIONS`] sessions that nobody uses.
    ManySessions,
    /// The same with [`MANY_SERVERS`] servers in its configuration.
    ManyServers,
    /// A cluster of one node with Redis beside it.
    Redis,
    /// Three nodes with the store of their own; calls go to one of them.
    Replicated,
    /// The same three nodes behind the shipped nginx, which gets the calls.
    ThreeBehindNginx,
}

/// Sessions and servers of the forms that show whether a call costs more with them.
const MANY_SESSIONS: usize = 10_000;
const MANY_SERVERS: usize = 100;

/// Both have two workers: the machine has two cores.
const WORKERS: usize = 2;

// === impl Target ===

impl Target {
    /// A plain proxy with kept connections: what the gateway is compared with.
    pub(crate) fn nginx(server: SocketAddr) -> Result<Self, Error> {
        let (folder, address) = (folder("nginx")?, free_address()?);
        let at = folder.display();
        let text = format!(
            "worker_processes {WORKERS};
daemon off;
pid {at}/pid;
error_log {at}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
  access_log off;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  keepalive_requests 1000000000;
  upstream server {{ server {server}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {address} reuseport;
    location / {{
      proxy_pass http://server;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $http_host;
      proxy_buffering off;
      client_max_body_size 16m;
    }}
    location {ROOMY} {{
      proxy_pass http://server{PATH};
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $http_host;
      proxy_buffering off;
      proxy_buffer_size 128k;
      proxy_buffers 4 128k;
      client_max_body_size 16m;
    }}
  }}
}}
"
        );
        let config = folder.join("nginx.conf");
        fs::write(&config, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(&config);
        let process = Process::start("nginx", command, address, folder, START)?;
        Ok(Self { name: "nginx", address, path: PATH, processes: vec![process], counted: 1 })
    }

    /// The gateway with its defaults, but for limits that a measurement would reach.
    pub(crate) fn gateway(server: SocketAddr, limits: &str) -> Result<Self, Error> {
        let (node, address) = node("gateway", &Self::configuration(server, limits, 1), &[])?;
        Ok(Self { name: "holdfast", address, path: PATH, processes: vec![node], counted: 1 })
    }

    /// The gateway in one of its forms.
    pub(crate) fn form(form: Form, server: SocketAddr) -> Result<Self, Error> {
        let configuration = Self::configuration(server, "", 1);
        match form {
            Form::Alone => Self::gateway(server, ""),
            Form::ManySessions => {
                let gateway = Self::gateway(server, &sessions::limits(MANY_SESSIONS))?;
                sessions::hold(gateway.address, MANY_SESSIONS, Holding::Session)?;
                Ok(gateway)
            }
            Form::ManyServers => {
                let configuration = Self::configuration(server, "", MANY_SERVERS);
                let (node, address) = node("gateway", &configuration, &[])?;
                let path = "/mcp/bench-1";
                Ok(Self { name: "holdfast", address, path, processes: vec![node], counted: 1 })
            }
            Form::Redis => {
                let (redis, at) = redis()?;
                let (mut nodes, addresses) = cluster(1, &configuration, &stored_in(at))?;
                nodes.insert(0, redis);
                let address = addresses[0];
                Ok(Self { name: "holdfast", address, path: PATH, processes: nodes, counted: 1 })
            }
            Form::Replicated => {
                let (processes, addresses) = cluster(3, &configuration, &[])?;
                let address = addresses[0];
                Ok(Self { name: "holdfast", address, path: PATH, processes, counted: 3 })
            }
            Form::ThreeBehindNginx => {
                let (mut processes, addresses) = cluster(3, &configuration, &[])?;
                let (front, address) = shipped_nginx(&addresses)?;
                processes.push(front);
                Ok(Self { name: "holdfast", address, path: PATH, processes, counted: 4 })
            }
        }
    }

    fn configuration(server: SocketAddr, limits: &str, servers: usize) -> String {
        let mut text = format!("{limits}\nservers:\n");
        for number in 1..=servers {
            text.push_str(&format!(
                "  bench-{number}:
    url: \"http://{server}/mcp\"
    tools: {{ echo: read, events: read, announce: read, write: write }}
"
            ));
        }
        text
    }

    /// The processes that count, and those that they have started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let others = self.processes.len() - self.counted;
        self.processes.iter().skip(others).flat_map(|it| measure::family(it.child.id())).collect()
    }
}

// === impl Gateway ===

impl Gateway {
    /// One node that runs alone.
    pub(crate) fn alone(configuration: &str) -> Result<Self, Error> {
        Ok(Self { nodes: vec![node("gateway", configuration, &[])?] })
    }

    /// A cluster with a store of its own.
    pub(crate) fn cluster(many: usize, configuration: &str) -> Result<Self, Error> {
        let (nodes, addresses) = cluster(many, configuration, &[])?;
        Ok(Self { nodes: nodes.into_iter().zip(addresses).collect() })
    }

    /// Where a node listens for clients.
    pub(crate) fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].1
    }

    /// The sum of the samples of a metric that begin like this.
    pub(crate) fn metric(&self, node: usize, name: &str) -> Result<f64, Error> {
        let admin = fs::read_to_string(self.nodes[node].0.folder.join(ADMIN))?;
        let text = get(admin.parse()?, "/metrics")?;
        let samples = text.lines().filter(|line| line.starts_with(name));
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Orders something at a node's operator's port.
    pub(crate) fn order(&self, node: usize, path: &str, body: &str) -> Result<(), Error> {
        let admin = fs::read_to_string(self.nodes[node].0.folder.join(ADMIN))?;
        let mut stream = TcpStream::connect(&admin)?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let is_done = answer.starts_with("HTTP/1.1 2");
        if is_done { Ok(()) } else { Err(format!("{path} {body}: {answer}").into()) }
    }

    /// Bytes of memory that the node holds.
    pub(crate) fn rss(&self, node: usize) -> u64 {
        measure::rss(&[self.nodes[node].0.child.id()])
    }
}

/// The file in a node's folder that names its operator's port.
const ADMIN: &str = "admin";

/// A node, and where it listens for clients.
fn node(
    name: &str,
    configuration: &str,
    environment: &[(&str, String)],
) -> Result<(Process, SocketAddr), Error> {
    let binary = binary()?;
    let (folder, address, admin) = (folder(name)?, free_address()?, free_address()?);
    let text = format!(
        "listen: {{ address: \"{address}\", workers: {WORKERS} }}
admin: {{ address: \"{admin}\" }}
{configuration}"
    );
    let config = folder.join("holdfast.yaml");
    fs::write(&config, text)?;
    fs::write(folder.join(ADMIN), admin.to_string())?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(&config).envs(environment.iter().cloned());
    command.env("HOLDFAST_DATA_DIR", folder.join("data"));
    Ok((Process::start(name, command, address, folder, START)?, address))
}

/// Nodes of one cluster that are ready, and where they listen for clients.
fn cluster(
    many: usize,
    configuration: &str,
    environment: &[(&str, String)],
) -> Result<(Vec<Process>, Vec<SocketAddr>), Error> {
    let peers: Vec<SocketAddr> = (0..many).map(|_| free_address()).collect::<Result<_, _>>()?;
    let names: Vec<String> = (1..=many).map(|number| format!("node-{number}")).collect();
    let listed: Vec<String> =
        names.iter().zip(&peers).map(|(name, peer)| format!("{name}={peer}")).collect();
    let listed = listed.join(",");
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    for (name, peer) in names.iter().zip(&peers) {
        let environment = [&member(name, *peer, &listed)[..], environment].concat();
        let (node, address) = node(name, configuration, &environment)?;
        nodes.push(node);
        addresses.push(address);
    }
    for (node, address) in nodes.iter().zip(&addresses) {
        node.wait_until_ready(*address, Duration::from_secs(30))?;
    }
    Ok((nodes, addresses))
}

/// The environment of a node in a cluster of these.
pub(crate) fn member(name: &str, peer: SocketAddr, listed: &str) -> [(&'static str, String); 5] {
    [
        ("HA_MODE", "cluster".to_owned()),
        ("HA_NODE_ID", name.to_owned()),
        ("HA_CLUSTER_NODES", listed.to_owned()),
        ("HOLDFAST_CLUSTER_SECRET", "a secret of the benchmark, long enough".to_owned()),
        ("HOLDFAST_CLUSTER_LISTEN", peer.to_string()),
    ]
}

/// The environment of a node whose store is a Redis.
pub(crate) fn stored_in(redis: SocketAddr) -> [(&'static str, String); 2] {
    [("SESSION_STORE", "redis".to_owned()), ("SESSION_STORE_URL", format!("redis://{redis}"))]
}

fn is_ready(address: SocketAddr) -> bool {
    get(address, "/health/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The whole answer, head and body.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A Redis that keeps what it acknowledges as the shipped one does.
pub(crate) fn redis() -> Result<(Process, SocketAddr), Error> {
    let (folder, address) = (folder("redis")?, free_address()?);
    let mut command = Command::new("redis-server");
    let port = address.port().to_string();
    command.args(["--bind", "127.0.0.1", "--port", &port, "--appendonly", "yes"]);
    command.arg("--dir").arg(&folder);
    Ok((Process::start("redis-server", command, address, folder, START)?, address))
}

/// The nginx of `nginx/nginx.conf` before three nodes.
fn shipped_nginx(nodes: &[SocketAddr]) -> Result<(Process, SocketAddr), Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let (folder, address) = (folder("front")?, free_address()?);
    let mut text = fs::read_to_string(root.join("nginx/nginx.conf"))?
        .replace("${HOLDFAST_LISTEN}", &address.to_string());
    for (number, node) in nodes.iter().enumerate() {
        text = text.replace(&format!("${{HOLDFAST_NODE_{}}}", number + 1), &node.to_string());
    }
    let config = folder.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&folder).arg("-c").arg(&config);
    command.arg("-g").arg(format!("daemon off; pid {};", folder.join("pid").display()));
    Ok((Process::start("nginx", command, address, folder, START)?, address))
}

// === impl Process ===

impl Process {
    /// Starts it and waits until it listens at `address`, at most for so long.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        address: SocketAddr,
        folder: PathBuf,
        patience: Duration,
    ) -> Result<Self, Error> {
        let log = folder.join(LOG);
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().map_err(|e| format!("start {name}: {e}"))?;
        let deadline = Instant::now() + patience;
        while TcpStream::connect(address).is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                drop(child.kill());
                return Err(format!("{name} does not start:\n{}", said(&log)).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { child, folder })
    }

    /// Waits until a node takes calls, at most for so long.
    pub(crate) fn wait_until_ready(
        &self,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        while !is_ready(address) {
            if Instant::now() > deadline {
                return Err(format!("a node is not ready:\n{}", said(&self.log())).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Has it end in order, and looks at what it leaves behind before its folder goes.
    pub(crate) fn ended<T>(
        mut self,
        patience: Duration,
        look: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.ask_to_end(patience);
        look()
    }

    fn ask_to_end(&mut self, patience: Duration) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + patience;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join(LOG)
    }
}

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(20);

/// What a process says, in its folder.
const LOG: &str = "output.log";

impl Drop for Target {
    fn drop(&mut self) {
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // nginx's workers end with their master only when it ends in order.
            self.ask_to_end(Duration::from_secs(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn said(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

/// The gateway's binary.
pub(crate) fn binary() -> Result<std::ffi::OsString, Error> {
    let named = std::env::var_os("HOLDFAST_BIN");
    Ok(named.ok_or("HOLDFAST_BIN is not set: start this with `cargo xtask bench`")?)
}

pub(crate) fn folder(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::temp_dir().join(format!("holdfast-bench-{}-{name}", std::process::id()));
    fs::create_dir_all(&path)?;
    Ok(path)
}
