//! A gateway in a process of its own, with a configuration made for the test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use super::process::{Process, binary, free_address};
use super::spaces::Machine;
use super::wire::Conn;
use super::{DEADLINE, TempDir, within};

/// What a test wants to be configured; everything else keeps its default.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    servers: Vec<(String, String)>,
    listen: Vec<String>,
    sections: Vec<String>,
    tls: bool,
    /// `cluster.failover_timeout`, where it is not that of all tests.
    pub(super) failover_timeout: Option<&'static str>,
    /// Further keys of `node`, of every node of a cluster.
    pub(super) node: Vec<String>,
    /// Variables of one node of a cluster: its number, name and value.
    pub(super) variables: Vec<(usize, String, String)>,
    /// Where the nodes of a cluster listen for clients; 127.0.0.1 unless it is given.
    pub(super) clients: Option<std::net::Ipv4Addr>,
    /// The machines of a cluster's nodes, where each has its own.
    pub(super) machines: Option<Arc<[Machine; 3]>>,
}

/// What the operator's port of a node on a machine of its own is shown.
pub(super) const TOKEN: &str = "a-token-of-the-operator";

/// What a gateway says when it has taken a configuration over, and when it has not.
const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "configuration refused";

/// A running gateway. Dropping it kills it.
pub(crate) struct Gateway {
    process: Process,
    setup: Setup,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    folder: TempDir,
}

// === impl Setup ===

impl Setup {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One server called `main` behind Streamable HTTP.
    pub(crate) fn http(url: &str) -> Self {
        Self::new().server("main", &format!(r#"{{ url: "{url}" }}"#))
    }

    /// A server by name; its settings as a YAML flow mapping.
    pub(crate) fn server(mut self, name: &str, settings: &str) -> Self {
        self.servers.push((name.into(), settings.into()));
        self
    }

    /// A further line of `listen`, such as `header_timeout: 1s`.
    pub(crate) fn listen(mut self, line: &str) -> Self {
        self.listen.push(line.into());
        self
    }

    /// A further section, such as `limits: { body: 64KiB }`.
    pub(crate) fn section(mut self, section: &str) -> Self {
        self.sections.push(section.into());
        self
    }

    /// How long a node may be silent, or frozen, before the others go on without it.
    pub(crate) fn failover_timeout(mut self, timeout: &'static str) -> Self {
        self.failover_timeout = Some(timeout);
        self
    }

    /// A further key of `node`, of every node of a cluster.
    pub(crate) fn node(mut self, key: &str) -> Self {
        self.node.push(key.into());
        self
    }

    /// The nodes of a cluster listen for clients on this address of the machine.
    pub(crate) fn on(mut self, address: std::net::Ipv4Addr) -> Self {
        self.clients = Some(address);
        self
    }

    /// Each node of a cluster is on a machine of its own, with all of its ports.
    pub(crate) fn on_machines(mut self, machines: &Arc<[Machine; 3]>) -> Self {
        self.machines = Some(Arc::clone(machines));
        self
    }

    /// A variable in the environment of one node of a cluster.
    pub(crate) fn variable(mut self, node: usize, name: &str, value: &str) -> Self {
        self.variables.push((node, name.into(), value.into()));
        self
    }

    /// The client port speaks TLS: readiness is asked for at the operator's.
    pub(crate) fn tls(mut self, certificate: &std::path::Path, key: &std::path::Path) -> Self {
        self.tls = true;
        self.listen(&format!(
            r#"tls: {{ certificate: "{}", key: "{}" }}"#,
            certificate.display(),
            key.display()
        ))
    }

    pub(super) fn text(&self, address: SocketAddr, admin: SocketAddr) -> String {
        let mut text = format!("listen:\n  address: \"{address}\"\n");
        for line in &self.listen {
            text.push_str(&format!("  {line}\n"));
        }
        // Beyond loopback it is for those who know the token.
        let token = self.machines.as_ref().map(|_| format!(", token: \"{TOKEN}\""));
        let token = token.unwrap_or_default();
        text.push_str(&format!(
            "admin: {{ address: \"{admin}\"{token} }}\nlog: {{ level: debug }}\n"
        ));
        // A machine under load takes its time with any answer: unless a test is about when answers
        // become streams, they do not.
        if !self.sections.iter().any(|section| section.starts_with("streams:")) {
            text.push_str("streams: { commit_after: 20s }\n");
        }
        for section in &self.sections {
            text.push_str(&format!("{section}\n"));
        }
        text.push_str("servers:\n");
        for (name, settings) in &self.servers {
            // A recorder keeps every byte: unless a test is about checks, none are made.
            let unchecked = || settings.replacen('{', "{ health: { enabled: false },", 1);
            let settings =
                if settings.contains("health:") { settings.clone() } else { unchecked() };
            text.push_str(&format!("  {name}: {settings}\n"));
        }
        text
    }

    /// Starts the gateway and waits until it is ready.
    pub(crate) async fn start(self) -> Gateway {
        let folder = TempDir::new();
        // A port can be taken between finding and binding it; a gateway that fails for anything
        // else fails again and says why.
        for _ in 0..2 {
            if let Ok(gateway) = self.try_start(&folder).await {
                return gateway.into_gateway(self, folder);
            }
        }
        match self.try_start(&folder).await {
            Ok(gateway) => gateway.into_gateway(self, folder),
            Err(said) => panic!("the gateway does not start; it said:\n{said}"),
        }
    }

    async fn try_start(&self, folder: &TempDir) -> Result<Started, String> {
        let (address, admin) = (free_address(), free_address());
        let config = folder.join("holdfast.yaml");
        std::fs::write(&config, self.text(address, admin)).expect("write the configuration");
        let mut process = Process::start(&mut serve(&config));
        ready(&mut process, if self.tls { admin } else { address }).await?;
        Ok(Started { process, address, admin })
    }
}

struct Started {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Started {
    fn into_gateway(self, setup: Setup, folder: TempDir) -> Gateway {
        let Self { process, address, admin } = self;
        Gateway { process, setup, address, admin, folder }
    }
}

pub(super) fn serve(config: &PathBuf) -> Command {
    let mut command = Command::new(binary());
    command.arg("serve").arg("--config").arg(config);
    // What a developer has set must not reach the tests.
    for (name, _) in std::env::vars() {
        let ours = ["HA_", "HOLDFAST_", "LB_", "SESSION_", "CIRCUIT_", "PORT"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Waits until the port at this address says that the node is ready: both are open then.
async fn ready(process: &mut Process, address: SocketAddr) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while tokio::time::Instant::now() < deadline {
        if let Some(status) = process.ended() {
            // Let the pipe's readers catch up with what it said last.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(format!("{status}\n{}", process.output()));
        }
        if is_ready(address).await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("not ready within {DEADLINE:?}\n{}", process.output()))
}

async fn is_ready(address: SocketAddr) -> bool {
    let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return false };
    let mut conn = Conn::over(stream);
    let request =
        format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    conn.try_send(request).await && conn.answer().await.is_some_and(|it| it.status == 200)
}

// === impl Gateway ===

impl Gateway {
    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        self.process.output()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The file that it was started with.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("holdfast.yaml")
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn terminate(&self) {
        self.process.terminate();
    }

    /// SIGTERM, and waits for the end. Not after [`terminate`](Self::terminate): the second signal
    /// ends a node at once, as one that failed.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process.stop()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        super::eventually("the end of the process", || self.process.ended()).await
    }

    /// Starts it again on the same ports with the same configuration, after it has ended.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.process = Process::start(&mut serve(&self.folder.join("holdfast.yaml")));
        let asked = if self.setup.tls { self.admin } else { self.address };
        if let Err(said) = ready(&mut self.process, asked).await {
            panic!("the gateway does not start again; it said:\n{said}");
        }
    }

    /// Puts another configuration into its file and has it read that; whether it was taken over.
    pub(crate) async fn reconfigure(&mut self, setup: Setup) -> bool {
        let text = setup.text(self.address, self.admin);
        let taken = self.reload_text(&text).await;
        if taken {
            self.setup = setup;
        }
        taken
    }

    /// The same with whatever text.
    pub(crate) async fn reload_text(&self, text: &str) -> bool {
        let (taken, refused) = (self.said(RELOADED), self.said(REFUSED));
        let (new, config) = (self.folder.join("new.yaml"), self.folder.join("holdfast.yaml"));
        std::fs::write(&new, text).expect("write the configuration");
        std::fs::rename(&new, &config).expect("put it in place");
        super::process::signal(self.pid(), "HUP");
        super::eventually("what it makes of the configuration", || {
            let now = (self.said(RELOADED), self.said(REFUSED));
            (now != (taken, refused)).then_some(now.0 > taken)
        })
        .await
    }

    /// How often it has said this.
    fn said(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// The value of a metric without labels, or the sum over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        metric_in(&self.metrics().await, name)
    }

    pub(crate) async fn metrics(&self) -> String {
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        let answer = Conn::open(self.admin).await.exchange(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }

    /// Polls a metric until it fits.
    pub(crate) async fn wait_metric(&self, name: &str, fits: impl Fn(f64) -> bool) {
        within(name, async {
            while !fits(self.metric(name).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// The value of a metric without labels in such a text, or the sum over its labels.
#[track_caller]
pub(super) fn metric_in(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    });
    let values: Vec<f64> = samples
        .map(|line| line.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("a number"))
        .collect();
    assert!(!values.is_empty(), "there is no metric {name} in\n{text}");
    values.iter().sum()
}
