//! `servers.NAME`: one MCP server behind the gateway.

mod balance;
mod breaker;
mod checks;
mod desktop;
mod failover;
mod fallback;
mod health_read;
mod instances;
mod objectives;
mod pool;
mod program;
mod read;
mod url;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_engine::class::ToolClass;
use secrecy::SecretString;

use crate::bulkheads::BulkheadClass;
use crate::health::Health;

pub use self::balance::{Balance, InstanceRate, Strategy};
pub use self::breaker::Breaker;
pub use self::checks::{Check, CheckKind, CheckTarget, MetricSource, ServerHealth};
pub(crate) use self::desktop::{name_for_urls, read_mcp_servers};
pub use self::failover::{Consistency, Failover, FailoverTier, Held};
pub use self::fallback::{Fallback, FallbackCache};
pub use self::objectives::Objectives;
pub use self::pool::Pool;
pub(crate) use self::read::{read_http_url, read_servers};
pub use self::url::{HttpUrl, UrlError};
pub(crate) use self::url::{parse_port, split_port};

/// One MCP server: how it is reached and what is known about it.
#[derive(Clone, Debug)]
pub struct Server {
    /// How it is reached.
    pub transport: Transport,
    /// How long a call waits without a byte from the server. 1s to 1d.
    pub timeout: Duration,
    /// How long a call may take in all. 1s to 7d, at least `timeout`.
    pub max_duration: Duration,
    /// How long a connection to an instance may take. 50ms to 1m.
    pub connect_timeout: Duration,
    /// Whether `readOnlyHint` and `idempotentHint` of its tools decide what may be repeated.
    pub trust_annotations: bool,
    /// What is known about its tools, above what the annotations say.
    pub tools: BTreeMap<String, ToolRule>,
    /// Added to every request to it, in place of a header of that name from the client. The names
    /// are lower case.
    pub headers: BTreeMap<String, SecretString>,
    /// Whether the client's `Authorization` is passed on: only where the gateway's URL is the
    /// resource that the token is for.
    pub forward_authorization: bool,
    /// What a Write of it waits for before it is sent.
    pub tier: Tier,
    /// Calls a minute over all clients; `None`: no limit. 1 to 1,000,000.
    pub requests_per_minute: Option<u32>,
    /// Calls at once after a pause; `None`: a tenth of a minute's.
    pub burst: Option<u32>,
    /// How important its calls are, where a tool's rule does not say otherwise.
    pub class: BulkheadClass,
    /// When calls to it are refused at once.
    pub breaker: Breaker,
    /// How its health is found out.
    pub health: ServerHealth,
    /// Which of its instances gets a call.
    pub balance: Balance,
    /// How it moves to a secondary and back. `None`: it does not.
    pub failover: Option<Failover>,
    /// What stands in for it.
    pub fallback: Fallback,
    /// Servers without which it cannot work: while one of them is refused, so is this one. Names of
    /// `servers`; no cycle.
    pub depends_on: Vec<String>,
    /// The connections to it.
    pub pool: Pool,
    /// What its incidents are measured against; by default those of its tier.
    pub objectives: Objectives,
}

/// What a server has that says nothing of its own: it depends on `health` and the environment.
#[derive(Default)]
pub(crate) struct Defaults {
    pub(crate) breaker: Breaker,
    pub(crate) health: Health,
}

/// How a call that must not run twice is kept from it, by the loss of a node among other things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// It is sent once the cluster's store has its entry, and not at all while the store is away.
    /// The default in a cluster.
    One,
    /// It is sent without waiting for the store. No entry is written, as with [`Tier::Three`]: its
    /// response begins before it is sent, so that no balancer sends it again.
    Two,
    /// No entry is written. What there is without a cluster.
    Three,
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Streamable HTTP, at one address or several equal ones.
    Http {
        /// Never empty; ids are unique.
        instances: Vec<Instance>,
    },
    /// HTTP+SSE of 2024-11-05: `url` is the event stream.
    Sse {
        /// The event stream's address.
        url: HttpUrl,
    },
    /// WebSocket, subprotocol `mcp`.
    WebSocket {
        /// The address; `tls` is `wss`.
        url: HttpUrl,
    },
    /// A process that speaks on its standard input and output.
    Stdio(Stdio),
}

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// A name for people, unique within its server. 1 to 64 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Its address.
    pub url: HttpUrl,
    /// What it is among the others.
    pub role: Role,
    /// Where it is: as in `node.regions`. `None`: not known, and as near as any.
    pub region: Option<String>,
    /// Its share of the calls, among the others'. 0 (no new ones) to 1000; not 0 for all.
    pub weight: u32,
}

/// What an instance is among the others of its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// All are alike.
    #[default]
    Equal,
    /// Takes the calls while it is well.
    Primary,
    /// Takes them when the primary is not.
    Secondary,
    /// Takes Reads.
    Replica,
}

/// A server that is a process of this machine.
#[derive(Clone, Debug)]
pub struct Stdio {
    /// The program: a path, or a name looked up in `PATH`.
    pub command: String,
    /// Its arguments, passed as they are.
    pub args: Vec<String>,
    /// Its environment, beside the few variables that every process needs (`PATH`, `HOME`, …): the
    /// gateway's own environment is not passed on.
    pub env: BTreeMap<String, SecretString>,
    /// Where it runs; `None`: where the gateway does.
    pub cwd: Option<PathBuf>,
    /// How long it may take to end before it is killed. 0s to 1m.
    pub stop_grace: Duration,
}

/// What the operator says about one tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolRule {
    /// What a call of it may do. `None`: what its annotations say.
    pub effect: Option<ToolClass>,
    /// How important a call of it is. `None`: as its server's.
    pub class: Option<BulkheadClass>,
    /// Calls of it a minute over all clients; `None`: no limit. 1 to 1,000,000.
    pub requests_per_minute: Option<u32>,
    /// Calls of it at once after a pause; `None`: a tenth of a minute's.
    pub burst: Option<u32>,
}

impl Server {
    /// A server with every default.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            timeout: Duration::from_secs(300),
            max_duration: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(2),
            trust_annotations: true,
            tools: BTreeMap::new(),
            headers: BTreeMap::new(),
            forward_authorization: false,
            tier: Tier::Three,
            requests_per_minute: None,
            burst: None,
            class: BulkheadClass::User,
            breaker: Breaker::default(),
            health: ServerHealth::default(),
            balance: Balance::default(),
            failover: None,
            fallback: Fallback::default(),
            depends_on: Vec::new(),
            pool: Pool::default(),
            objectives: Objectives::of(Tier::Three),
        }
    }

    /// Its instances over Streamable HTTP; empty where it is reached otherwise.
    pub fn instances(&self) -> &[Instance] {
        match &self.transport {
            Transport::Http { instances } => instances,
            Transport::Sse { .. } | Transport::WebSocket { .. } | Transport::Stdio(_) => &[],
        }
    }

    /// How important a call of `tool` is.
    pub fn class_of(&self, tool: Option<&str>) -> BulkheadClass {
        tool.and_then(|tool| self.tools.get(tool)?.class).unwrap_or(self.class)
    }
}

impl Instance {
    /// One among equals, of unknown region and weight 100.
    pub fn new(id: impl Into<String>, url: HttpUrl) -> Self {
        Self { id: id.into(), url, role: Role::Equal, region: None, weight: 100 }
    }
}

impl Role {
    /// The word for it in the configuration and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Replica => "replica",
        }
    }
}

impl Defaults {
    /// For a server that is written in another's form, without keys of ours.
    fn put(&self, server: &mut Server) {
        server.breaker = self.breaker.clone();
        server.health = ServerHealth::of(&self.health);
    }
}

impl Tier {
    /// 1, 2 or 3.
    pub fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

impl Transport {
    /// The word for it in `status`, logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Sse { .. } => "sse",
            Self::WebSocket { .. } => "websocket",
            Self::Stdio(_) => "stdio",
        }
    }
}

impl Stdio {
    /// A process with every default.
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            stop_grace: Duration::from_secs(2),
        }
    }
}
