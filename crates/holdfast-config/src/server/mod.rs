//! `servers.NAME`: one MCP server behind the gateway.

mod desktop;
mod read;
mod url;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_engine::class::ToolClass;
use secrecy::SecretString;

pub(crate) use self::desktop::read_mcp_servers;
pub(crate) use self::read::read_servers;
pub use self::url::{HttpUrl, UrlError};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolRule {
    /// What a call of it may do.
    pub class: ToolClass,
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
        }
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
