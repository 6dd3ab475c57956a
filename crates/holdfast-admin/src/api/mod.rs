//! What the admin API says, as both its ends see it: the server serialises these, the CLI's client
//! and the status page read them.
//!
//! Units are in the names (`_s`, `_ms`, `_bytes`); rates are per second; shares are 0 to 1. Fields
//! are only ever added: a reader ignores what it does not know.

mod configuration;
mod control;
mod nodes;

use serde::{Deserialize, Serialize};

pub use self::configuration::{
    ChangeDto, ConfigHistoryDto, ConfigNodeDto, ConfigTextDto, ConfigVersionDto, ReloadRequestDto,
    ReloadedDto, RollbackRequestDto,
};
pub use self::control::{
    BreakerActionDto, BreakerRequestDto, ControlDto, EventDto, EventsDto, FailbackRequestDto,
    FailoverRequestDto, IncidentDto, IncidentsDto, InstanceControlDto, KeptToolDto, OrderedDto,
};
pub use self::nodes::{DrainDto, DrainRequestDto, NodeEntryDto, NodesDto};

/// `GET /api/status`, and each event of `GET /api/events`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusDto {
    /// The answer in one word and one line.
    pub verdict: VerdictDto,
    /// Which node speaks.
    pub node: NodeDto,
    /// Its ports.
    pub listeners: Vec<ListenerDto>,
    /// How much of each cap is used.
    pub usage: UsageDto,
    /// All servers together, over the last minute.
    pub recent: RecentDto,
    /// Every server in the order of the configuration.
    pub servers: Vec<ServerDto>,
    /// The health checks that `/health/ready` shows.
    pub checks: Vec<CheckDto>,
    /// What the process uses.
    pub process: ProcessDto,
    /// What the configuration turns on.
    pub config: ConfigDto,
    /// The nodes, as this one sees them; none for a node that runs alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<NodesDto>,
}

/// The node's state in words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerdictDto {
    /// `ready`, `degraded`, `draining` or `not_ready`.
    pub state: String,
    /// One sentence for a person.
    pub text: String,
}

/// Which node this is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeDto {
    /// `node.id`.
    pub id: String,
    /// The gateway's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// When it started, seconds since 1970.
    pub started_unix_s: u64,
    /// How long it has been running.
    pub uptime_s: u64,
}

/// One port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListenerDto {
    /// `client` or `admin`.
    pub name: String,
    /// The address that was bound.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether connections are accepted.
    pub accepting: bool,
}

/// How much of each cap is used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UsageDto {
    /// Client connections.
    pub connections: GaugedDto,
    /// Client sessions.
    pub sessions: GaugedDto,
    /// SSE streams and WebSocket connections to clients.
    pub streams: GaugedDto,
    /// Calls in the gateway.
    pub in_flight: GaugedDto,
}

/// A number and its cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GaugedDto {
    /// How many there are.
    pub now: usize,
    /// How many there may be.
    pub limit: usize,
}

/// Calls of a stretch of time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct RecentDto {
    /// How long the stretch is: a minute, or less after the start.
    pub window_s: f64,
    /// Calls that ended.
    pub calls: u64,
    /// Calls per second.
    pub rate: f64,
    /// The share of calls that neither the gateway nor the network failed; none without calls.
    pub success: Option<f64>,
    /// Half of the calls were faster.
    pub p50_ms: Option<f64>,
    /// 99 of 100 calls were faster.
    pub p99_ms: Option<f64>,
}

/// One server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerDto {
    /// Its name in the configuration.
    pub name: String,
    /// `ok`, `idle` (no call for a minute), `degraded`, `failing` or `unreachable`.
    pub state: String,
    /// Why it is not `ok`.
    pub reason: Option<String>,
    /// `http`, `sse`, `websocket` or `stdio`.
    pub transport: String,
    /// Its addresses or its command.
    pub instances: Vec<InstanceDto>,
    /// Protocol versions agreed on so far.
    pub versions: Vec<String>,
    /// Sessions that the gateway holds at it.
    pub sessions: usize,
    /// Calls that are in the gateway now.
    pub in_flight: usize,
    /// The last minute.
    pub recent: RecentDto,
    /// Since the start of the node.
    pub total: TotalDto,
    /// How long ago a call succeeded.
    pub last_success_s: Option<u64>,
    /// What failed last.
    pub last_error: Option<LastErrorDto>,
    /// The processes; only for stdio.
    pub processes: Option<ProcessesDto>,
    /// The tools that have a breaker of their own (`breaker.per_tool`), as this node has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolDto>,
    /// What the cluster has agreed on about it: health, failover, breakers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlDto>,
}

/// A tool that has a breaker of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ToolDto {
    /// Its name in the configuration.
    pub name: String,
    /// `closed`, `open`, `half_open` or `recovering`.
    pub breaker: String,
}

/// One address or command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceDto {
    /// Its name in the configuration.
    pub id: String,
    /// Its URL or command.
    pub target: String,
}

/// Calls of one server since the start of the node.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct TotalDto {
    /// Calls that ended.
    pub calls: u64,
    /// In an error, the server's own included.
    pub errors: u64,
    /// In an error of the gateway or the network.
    pub failures: u64,
    /// Ended by the client.
    pub cancelled: u64,
    /// Attempts after the first.
    pub repeated: u64,
    /// Half of the calls were faster.
    pub p50_ms: Option<f64>,
    /// 99 of 100 calls were faster.
    pub p99_ms: Option<f64>,
}

/// What failed last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastErrorDto {
    /// How long ago.
    pub age_s: u64,
    /// What.
    pub text: String,
}

/// Processes of a stdio server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessesDto {
    /// Running now.
    pub running: usize,
    /// Started since the start of the node.
    pub started: u64,
    /// Ended without being asked to.
    pub exited: u64,
}

/// One health check.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CheckDto {
    /// What was checked.
    pub name: String,
    /// Whether all is well.
    pub ok: bool,
    /// Whether the node is not ready while it fails.
    pub critical: bool,
    /// How long it took.
    pub response_time_ms: f64,
    /// Why it failed, or what it saw.
    pub detail: Option<String>,
}

/// What the process uses. What the system does not say is left out.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProcessDto {
    /// CPU time of all threads.
    pub cpu_s: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Most of them that may be open.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// What the configuration turns on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigDto {
    /// Whether clients need an API key.
    pub auth: bool,
    /// How many principals have one.
    pub principals: usize,
    /// The session store.
    pub store: String,
    /// Worker threads of the data plane.
    pub workers: usize,
}

/// `GET /api/servers`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServersDto {
    /// Every server in the order of the configuration.
    pub servers: Vec<ServerDto>,
}

/// `GET /api/sessions?offset=0&limit=100`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionsDto {
    /// The node that speaks.
    #[serde(default)]
    pub node: String,
    /// All live sessions that the node has in hand.
    pub total: usize,
    /// How many were skipped.
    pub offset: usize,
    /// The part that was asked for.
    pub sessions: Vec<SessionDto>,
}

/// One client session. Its id is a credential and is not here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionDto {
    /// The beginning of the id's SHA-256: enough to tell sessions apart, no use as an id.
    pub digest: String,
    /// The server's name.
    pub server: String,
    /// Whose session it is.
    pub principal: String,
    /// The protocol version agreed on.
    pub version: String,
    /// Name and version of the client, as it says.
    pub client: Option<String>,
    /// How long ago it began.
    pub age_s: u64,
    /// How long ago it was last used.
    pub idle_s: u64,
    /// The instance of the server that it is bound to, by its name in the configuration.
    #[serde(default)]
    pub instance: Option<String>,
    /// The node whose connection or process it is bound to; none when any node can serve it.
    #[serde(default)]
    pub node: Option<String>,
    /// Rises with every write of its record.
    #[serde(default)]
    pub revision: u64,
}

/// The body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorDto {
    /// What is wrong and what to do about it.
    pub error: String,
}
