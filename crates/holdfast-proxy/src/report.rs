//! What one node can say about itself: the face that the status page and the CLI read.
//!
//! The structs are plain; the admin side turns them into its own wire format, so a change here is a
//! change of what is known, not of an API. [`Observed`] is all that the admin side knows of the data
//! plane, which lets it be tested without one.

use std::time::{Duration, SystemTime};

use holdfast_engine::health::node::Level;

use crate::health::{Health, HealthFuture};
use crate::metrics::{Metrics, Traffic};

/// A node that can be looked at. Nothing here changes the node.
pub trait Observed: Send + Sync + 'static {
    /// The node's state now. Cheap enough for once a second, not for once per call.
    fn report(&self) -> Report;

    /// The node's metrics.
    fn metrics(&self) -> &Metrics;

    /// Whether the node has begun to drain: it answers, but wants no new work.
    fn draining(&self) -> bool;

    /// Live sessions in a stable order, `limit` of them after the first `offset`.
    fn sessions(&self, offset: usize, limit: usize) -> SessionPage;

    /// Runs all checks that have no recent result and says whether the node should get traffic.
    /// Bounded by [`crate::health::DEADLINE`].
    fn ready(&self) -> HealthFuture<'_>;

    /// The state of the process alone, without looking at anything else.
    fn live(&self) -> Health {
        Health::live(&self.report())
    }
}

/// One node.
#[derive(Clone, Debug)]
pub struct Report {
    /// The node's name, `node.id`.
    pub node: String,
    /// The gateway's version.
    pub version: String,
    /// When the node started.
    pub started: SystemTime,
    /// How long it has been running.
    pub uptime: Duration,
    /// Whether it takes work.
    pub state: NodeState,
    /// How bad the worst reading of the node itself is.
    pub level: Level,
    /// The ports it listens on.
    pub listeners: Vec<Listener>,
    /// What it is busy with, and the caps.
    pub usage: Usage,
    /// The servers in the order of their indexes in the metrics.
    pub servers: Vec<ServerReport>,
    /// What the configuration turns on.
    pub config: ConfigSummary,
}

/// Whether a node takes work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeState {
    /// Not listening yet.
    Starting,
    /// Takes work.
    Ready,
    /// Finishes what it has.
    Draining,
}

/// One port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// `client` or `admin`.
    pub name: &'static str,
    /// The address that was bound, with its port.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether connections are being accepted.
    pub accepting: bool,
}

/// How much of each cap is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Client connections.
    pub connections: Gauged,
    /// Client sessions.
    pub sessions: Gauged,
    /// SSE streams and WebSocket connections to clients.
    pub streams: Gauged,
    /// Calls in the gateway.
    pub in_flight: Gauged,
}

/// A number and its cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauged {
    /// How many there are.
    pub now: usize,
    /// How many there may be.
    pub limit: usize,
}

/// One logical MCP server.
#[derive(Clone, Debug)]
pub struct ServerReport {
    /// Its name in the configuration.
    pub name: String,
    /// `http`, `sse`, `websocket` or `stdio`.
    pub transport: &'static str,
    /// Its addresses, or the command line without its arguments (they may hold secrets).
    pub instances: Vec<InstanceReport>,
    /// Protocol versions that clients and this server have agreed on, oldest first.
    pub versions: Vec<String>,
    /// Sessions that the gateway holds at the server.
    pub sessions: usize,
    /// Calls that are in the gateway now.
    pub in_flight: usize,
    /// Calls since the start.
    pub traffic: Traffic,
    /// Attempts after the first, since the start.
    pub repeated: u64,
    /// How long ago a call succeeded.
    pub last_success: Option<Duration>,
    /// How long ago, and how, something failed.
    pub last_error: Option<(Duration, String)>,
    /// The processes; only for stdio.
    pub processes: Option<Processes>,
    /// Where this node's breakers of single tools are, by the tools' names.
    pub tools: Vec<(String, &'static str)>,
}

/// One address or command of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceReport {
    /// Its name in the configuration.
    pub id: String,
    /// Its URL without credentials and query, or its command.
    pub target: String,
}

/// The processes of a stdio server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Processes {
    /// Running now.
    pub running: usize,
    /// Started since the node started.
    pub started: u64,
    /// Ended without being asked to.
    pub exited: u64,
}

/// What the configuration turns on, without its secrets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigSummary {
    /// Whether clients need an API key.
    pub auth: bool,
    /// How many principals have one.
    pub principals: usize,
    /// The session store: `memory` or `replicated`.
    pub store: &'static str,
    /// Worker threads of the data plane.
    pub workers: usize,
}

/// Part of the list of sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionPage {
    /// All live sessions.
    pub total: usize,
    /// The part that was asked for.
    pub sessions: Vec<SessionReport>,
}

/// One client session. Its id is a credential, so only a digest that cannot be used is here.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// The first 12 hex digits of the id's SHA-256.
    pub digest: String,
    /// The server's name.
    pub server: String,
    /// Whose session it is.
    pub principal: String,
    /// The protocol version agreed on.
    pub version: String,
    /// Name and version that the client gave in `initialize`.
    pub client: Option<String>,
    /// How long ago it began.
    pub age: Duration,
    /// How long ago it was last used.
    pub idle: Duration,
    /// The instance that it is bound to, by its name in the configuration.
    pub instance: Option<String>,
    /// Whether it is bound to a connection or process of this node, which no other node can use.
    pub held_here: bool,
    /// Rises with every write of its record.
    pub revision: u64,
}

impl NodeState {
    /// `starting`, `ready` or `draining`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The digest under which a session is shown.
#[must_use]
pub fn session_digest(id: &str) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write;
    Sha256::digest(id.as_bytes()).iter().take(6).fold(String::with_capacity(12), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_digest_is_twelve_hex_digits_of_the_sha256() {
        // SHA-256("abc") begins with ba7816bf 8f01.
        assert_eq!(super::session_digest("abc"), "ba7816bf8f01");
    }
}
