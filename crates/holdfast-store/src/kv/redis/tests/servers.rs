//! Real servers: redis-server processes on free ports of 127.0.0.1, each in a directory of its own.
//! They end with their value.
//!
//! A server that was killed has to get its port back, so ports come from below the range from which
//! the kernel takes the local ends of outgoing connections. Other tests look for ports at the same
//! time: a server that ends before it answers is started again on others.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast_config::HostPort;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::Value;

/// Stands for a port that nobody has, in a server's arguments.
pub(crate) const FREE_PORT: &str = "(a free port)";

/// Ports below the kernel's own.
const PORTS: std::ops::Range<u64> = 10_000..20_000;

/// How often a server is started on other ports.
const STARTS: usize = 10;

/// One process.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
}

/// A primary, its replicas, and three Sentinels that watch it.
pub(crate) struct Watched {
    pub(crate) data: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

impl Server {
    /// One with the settings that lose nothing, and then `more`.
    pub(crate) fn start(more: &[&str]) -> Self {
        let safe = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""];
        let safe = [&safe[..], &["--repl-diskless-sync-delay", "0"]].concat();
        Self::spawn(&[&safe[..], more].concat())
    }

    /// One with these settings.
    pub(crate) fn spawn(arguments: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..STARTS {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("holdfast-store-{}-{count}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            fs::create_dir_all(&directory).unwrap();
            let port = free_port();
            let filled = |it: &&str| match *it {
                FREE_PORT => free_port().to_string(),
                other => other.to_owned(),
            };
            let arguments: Vec<String> = arguments.iter().map(filled).collect();
            let child = launch(&directory, port, &arguments);
            let mut server = Self { child, port, directory, arguments };
            if server.comes_up() {
                return server;
            }
        }
        panic!("redis-server ends at once, {STARTS} times, with {arguments:?}");
    }

    pub(crate) fn address(&self) -> HostPort {
        HostPort { host: "127.0.0.1".into(), port: self.port }
    }

    /// Where others come to it: over TLS, if it has a port for that.
    pub(crate) fn met_at(&self) -> HostPort {
        let tls = self.arguments.iter().position(|it| it == "--tls-port");
        let port = tls.map_or(self.port, |at| self.arguments[at + 1].parse().unwrap());
        HostPort { port, ..self.address() }
    }

    /// Ends at once, as by a crash.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again where it was killed, with its data.
    pub(crate) fn restart(&mut self) {
        self.child = launch(&self.directory, self.port, &self.arguments);
        assert!(self.comes_up(), "the redis-server of port {} does not start again", self.port);
    }

    /// What an option of its arguments says.
    pub(crate) fn option(&self, name: &str) -> &str {
        let at = self.arguments.iter().position(|it| it == name).expect("it has the option");
        &self.arguments[at + 1]
    }

    /// Stands still until it is told to go on.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Sends a command over a connection of its own.
    pub(crate) fn ask(&self, command: &[&str]) -> Result<Value, redis::RedisError> {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut sent = redis::cmd(command[0]);
        for argument in &command[1..] {
            sent.arg(argument);
        }
        sent.query(&mut connection)
    }

    /// A line of `INFO`.
    pub(crate) fn info(&self, name: &str) -> Option<String> {
        let text: String = redis::from_redis_value(self.ask(&["INFO", "all"]).ok()?).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")))?;
        Some(line.trim().to_owned())
    }

    /// How often a command was run, as the server counts.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let Some(line) = self.info(&format!("cmdstat_{command}")) else { return 0 };
        let calls = line.split(',').next().and_then(|it| it.strip_prefix("calls=")).unwrap();
        calls.parse().unwrap()
    }

    /// Waits until it answers; says no when it has ended. What answers on its port is not it then.
    fn comes_up(&mut self) -> bool {
        let mut ended = false;
        until("a redis-server answers", || {
            ended = self.child.try_wait().unwrap().is_some();
            let its_own = self.child.id().to_string();
            ended || self.answers() && self.info("process_id").is_none_or(|it| it == its_own)
        });
        !ended
    }

    fn answers(&self) -> bool {
        self.ask(&["PING"]).is_ok() && self.info("loading").as_deref() == Some("0")
            || self.info("redis_mode").as_deref() == Some("sentinel")
            || matches!(self.ask(&["PING"]), Err(error) if error.to_string().contains("uth"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
        // A Sentinel's file has a directory of its own.
        if let Some(directory) = file_of(&self.arguments).and_then(|it| Path::new(it).parent()) {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

impl Watched {
    /// Two replicas and three Sentinels, who take a second to miss the primary.
    pub(crate) fn start(more: &[&str]) -> Self {
        Self::start_with(more, &[])
    }

    /// The same, and the Sentinels have settings of their own as well.
    pub(crate) fn start_with(more: &[&str], sentinels: &[&str]) -> Self {
        let primary = Server::start(more);
        let of = ["--replicaof", &format!("127.0.0.1 {}", primary.met_at().port)];
        let replicas = (0..2).map(|_| Server::start(&[&of, more].concat()));
        let data: Vec<_> = std::iter::once(primary).chain(replicas.collect::<Vec<_>>()).collect();
        until("two replicas are in step", || {
            data[0].info("connected_slaves").as_deref() == Some("2")
                && data[1..].iter().all(|it| it.info("master_link_status").as_deref() == Some("up"))
        });
        let sentinels: Vec<_> =
            (0..3).map(|_| sentinel(data[0].met_at().port, sentinels)).collect();
        until("the Sentinels know each other and the replicas", || {
            sentinels.iter().all(|it| {
                it.info("master0").is_some_and(|it| {
                    it.contains("status=ok") && it.contains("slaves=2,sentinels=3")
                })
            })
        });
        Self { data, sentinels }
    }

    pub(crate) fn addresses(&self) -> Vec<HostPort> {
        self.sentinels.iter().map(Server::met_at).collect()
    }
}

fn sentinel(primary: u16, more: &[&str]) -> Server {
    // A Sentinel writes what it learns into its file.
    let directory = std::env::temp_dir().join(format!(
        "holdfast-sentinel-{}-{}",
        std::process::id(),
        free_port()
    ));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("sentinel.conf");
    let text = format!(
        "sentinel monitor mymaster 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds mymaster 1000\n\
         sentinel failover-timeout mymaster 3000\n\
         sentinel parallel-syncs mymaster 2\n"
    );
    fs::write(&file, text).unwrap();
    Server::spawn(&[&[file.to_str().unwrap(), "--sentinel"], more].concat())
}

/// Three masters that share the slots, without replicas.
pub(crate) fn cluster(more: &[&str]) -> Vec<Server> {
    let nodes: Vec<_> = (0..3).map(|_| member(more)).collect();
    let slots = [(0, 5460), (5461, 10922), (10923, 16383)];
    for (number, (node, (first, last))) in nodes.iter().zip(slots).enumerate() {
        let epoch = (number + 1).to_string();
        node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).unwrap();
        node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).unwrap();
    }
    for other in &nodes[1..] {
        meet(&nodes[0], other);
    }
    until("the cluster covers its slots", || {
        nodes.iter().all(|node| {
            let info = node.ask(&["CLUSTER", "INFO"]).unwrap();
            let info: String = redis::from_redis_value(info).unwrap();
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
    });
    nodes
}

/// A master more, which gets this slot from the one that has it, empty.
pub(crate) fn newcomer(nodes: &[Server], slot: u16) -> Server {
    let new = member(&[]);
    meet(&nodes[0], &new);
    let id: String = redis::from_redis_value(new.ask(&["CLUSTER", "MYID"]).unwrap()).unwrap();
    let slot = slot.to_string();
    until("all know it", || {
        std::iter::once(&new)
            .chain(nodes)
            .all(|node| node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]).is_ok())
    });
    new
}

/// A replica of a master, and in step with it.
pub(crate) fn replica_of(master: &Server) -> Server {
    let replica = member(&[]);
    meet(master, &replica);
    let id: String = redis::from_redis_value(master.ask(&["CLUSTER", "MYID"]).unwrap()).unwrap();
    until("the replica knows its master", || replica.ask(&["CLUSTER", "REPLICATE", &id]).is_ok());
    until("the replica is in step", || {
        replica.info("master_link_status").as_deref() == Some("up")
            && master.info("connected_slaves").as_deref() == Some("1")
    });
    replica
}

/// One that may become a node of a cluster.
fn member(more: &[&str]) -> Server {
    let timeout = ["--cluster-node-timeout", "2000", "--cluster-port", FREE_PORT];
    Server::start(&[&["--cluster-enabled", "yes"][..], &timeout, more].concat())
}

fn meet(one: &Server, other: &Server) {
    let bus = other.option("--cluster-port");
    let port = other.met_at().port.to_string();
    one.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]).unwrap();
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The configuration file, where there is one among a server's arguments.
fn file_of(arguments: &[String]) -> Option<&String> {
    arguments.first().filter(|first| !first.starts_with("--"))
}

fn launch(directory: &PathBuf, port: u16, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    let file = file_of(arguments);
    let arguments = &arguments[usize::from(file.is_some())..];
    command.args(file).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.arg("--dir").arg(directory).args(arguments);
    let log = fs::File::create(directory.join("log")).unwrap();
    command.stdout(log).stdin(Stdio::null());
    command.spawn().unwrap_or_else(|error| {
        panic!("redis-server cannot be started ({error}): these tests need Redis 7 installed")
    })
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let drawn = std::iter::repeat_with(|| {
        let chance = RandomState::new().hash_one(()) % (PORTS.end - PORTS.start);
        u16::try_from(PORTS.start + chance).unwrap()
    });
    drawn.take(1_000).find(free).expect("there is a free port")
}
