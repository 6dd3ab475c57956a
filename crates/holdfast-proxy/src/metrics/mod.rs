//! Everything the gateway counts, and the text that Prometheus scrapes.
//!
//! # Cost
//! A call pays for counting with a few relaxed adds on cache lines that belong to its thread: no
//! lock, no map look-up, no label formatting (a metrics façade with labels per call costs a third
//! of a whole proxied call). Names and labels exist only while [`Metrics::render`] writes them.
//!
//! # Labels
//! Labels are enums of this module or server names out of the configuration, never anything that a
//! client sends. So the number of series is bounded by the configuration.
//!
//! # When the configuration changes
//! A server that leaves takes its gauges along once they are 0; its counters stay until the process
//! ends, and rise on should it come back.
//!
//! The names are listed with meaning and unit in `docs/metrics.md`; a test compares the two.

mod calls;
mod cell;
mod fleet;
mod process;
mod render;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use holdfast_mcp::method::Method;
use holdfast_store::Operations;

use calls::Calls;
pub use calls::{BOUNDS_MICROS, BUCKETS, CallOutcome, Traffic};
pub use cell::{Counter, Gauge, GaugeGuard};
pub(crate) use cell::{shard, shard_count};
pub use process::ProcessUsage;

use crate::fleet::{Counts, Fleet};

/// All metrics of one node. One per process; shared by reference count.
#[derive(Debug)]
pub struct Metrics {
    /// Client connections that are open on the client port.
    pub connections: Gauge,
    /// Client connections accepted.
    pub connections_accepted: Counter,
    /// Client connections closed at once because the cap was reached.
    pub connections_refused: Counter,
    /// TLS handshakes with clients that failed.
    pub tls_failures: Counter,

    /// Live client sessions on this node. Set from the session table, not moved by guards.
    pub sessions: Gauge,
    /// Sessions begun by `initialize`.
    pub sessions_created: Counter,
    /// Sessions that reached their time to live without use.
    pub sessions_expired: Counter,
    /// Sessions ended by the client's DELETE.
    pub sessions_deleted: Counter,
    /// Sessions refused because a cap (node or principal) was reached.
    pub sessions_refused: Counter,
    /// Sessions established anew at a server that had lost them, unseen by the client.
    pub sessions_restored: Counter,

    /// Streams to clients that are open: SSE, those of single calls included, and WebSocket.
    pub streams: Gauge,
    /// WebSocket connections of clients that are open.
    pub websockets: Gauge,
    /// Streams taken up again by a client with `Last-Event-ID`.
    pub streams_resumed: Counter,
    /// Resumptions where events were missing that could not be brought back.
    pub stream_gaps: Counter,
    /// Standing streams that the gateway ended cleanly so that the client opens a new one.
    pub streams_rotated: Counter,
    /// Streams cut because the client read too slowly and its queue was full.
    pub slow_readers: Counter,
    /// SSE events and WebSocket messages sent to clients.
    pub events: Counter,

    /// Calls that are in the gateway now, all servers together.
    pub in_flight: Gauge,

    rejections: [Counter; Rejection::ALL.len()],
    /// Every server that the configuration has named since the start. None is ever taken out: what
    /// was counted goes on where it was when a server that went comes back.
    servers: RwLock<BTreeMap<Box<str>, Arc<ServerMetrics>>>,
    started: Instant,
    started_wall: SystemTime,
    /// What is counted and known of the servers' instances; read by a scrape alone.
    fleet: ArcSwapOption<Fleet>,
    /// What the store was asked to do; read by a scrape alone.
    store: OnceLock<Arc<Operations>>,
}

/// What is counted per server. Calls count without a look-up: whoever serves one holds this.
#[derive(Debug)]
pub struct ServerMetrics {
    name: Box<str>,
    calls: Calls,
    /// What is counted where calls are admitted.
    pub(crate) counts: Arc<Counts>,
    /// Whether the configuration has it now.
    configured: AtomicBool,
    /// Calls to this server that are in the gateway now.
    pub in_flight: Gauge,
    /// Sessions that the gateway holds at this server.
    pub sessions: Gauge,
    /// Attempts after the first, of calls that were allowed to be repeated.
    pub attempts_repeated: Counter,
    /// Connections opened to the server, processes not included.
    pub connects: Counter,
    /// Connections to the server that could not be opened.
    pub connect_failures: Counter,
    /// Streams of the server that broke before they ended.
    pub streams_broken: Counter,
    /// Processes started for the server (stdio).
    pub process_starts: Counter,
    /// Processes of the server that ended without being asked to (stdio).
    pub process_exits: Counter,
    seen: Mutex<Seen>,
}

/// When the server last did well and badly.
#[derive(Debug, Default)]
struct Seen {
    last_success: Option<Instant>,
    successes: u64,
    last_error: Option<(Instant, Box<str>)>,
}

/// Why a request was refused before it became a call to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// The `Host` is not one of ours, or the request line contradicts it.
    Host,
    /// The `Origin` is not allowed.
    Origin,
    /// No valid API key.
    Unauthorized,
    /// Not HTTP that may be forwarded, or not JSON-RPC.
    Malformed,
    /// Header and body disagree, or a required header is missing.
    HeaderMismatch,
    /// Body over its limit.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// Path, method or content type that the gateway does not serve.
    NotServed,
    /// A session id that is unknown, expired, deleted, or another principal's.
    UnknownSession,
    /// A `Last-Event-ID` that was not issued by this gateway.
    BadEventId,
    /// Over the requests per minute.
    RateLimited,
    /// A cap on sessions, streams or calls was reached.
    AtCapacity,
}

// === impl Metrics ===

impl Metrics {
    /// Metrics for the servers of the configuration.
    #[must_use]
    pub fn new(server_names: &[String]) -> Arc<Self> {
        let metrics = Self {
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            tls_failures: Counter::default(),
            sessions: Gauge::default(),
            sessions_created: Counter::default(),
            sessions_expired: Counter::default(),
            sessions_deleted: Counter::default(),
            sessions_refused: Counter::default(),
            sessions_restored: Counter::default(),
            streams: Gauge::default(),
            websockets: Gauge::default(),
            streams_resumed: Counter::default(),
            stream_gaps: Counter::default(),
            streams_rotated: Counter::default(),
            slow_readers: Counter::default(),
            events: Counter::default(),
            in_flight: Gauge::default(),
            rejections: std::array::from_fn(|_| Counter::default()),
            servers: RwLock::default(),
            started: Instant::now(),
            started_wall: SystemTime::now(),
            fleet: ArcSwapOption::empty(),
            store: OnceLock::new(),
        };
        metrics.configure(server_names.iter().map(|name| Arc::new(ServerMetrics::new(name))));
        Arc::new(metrics)
    }

    /// From here on a scrape tells of these servers and their instances.
    pub(crate) fn tell_of(
        &self,
        fleet: Arc<Fleet>,
        servers: impl Iterator<Item = Arc<ServerMetrics>>,
    ) {
        self.configure(servers);
        self.fleet.store(Some(fleet));
    }

    /// From here on a scrape tells of the store.
    pub(crate) fn tell_of_store(&self, store: Arc<Operations>) {
        let _ = self.store.set(store);
    }

    /// The configuration has these servers from here on, and no others.
    fn configure(&self, now: impl Iterator<Item = Arc<ServerMetrics>>) {
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        for server in servers.values() {
            server.configured.store(false, Ordering::Relaxed);
        }
        for server in now {
            server.configured.store(true, Ordering::Relaxed);
            servers.insert(server.name.clone(), server);
        }
    }

    /// Counts a request that was refused before it became a call.
    pub fn rejected(&self, why: Rejection) {
        self.rejections[why as usize].inc();
    }

    /// How many requests were refused for `why`.
    #[must_use]
    pub fn rejections(&self, why: Rejection) -> u64 {
        self.rejections[why as usize].get()
    }

    /// The counts of this server. Those of one that no configuration had so far are new, and nobody
    /// else's before the node goes by the configuration that has it.
    #[must_use]
    pub fn server(&self, name: &str) -> Arc<ServerMetrics> {
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        servers.get(name).map_or_else(|| Arc::new(ServerMetrics::new(name)), Arc::clone)
    }

    /// Every server that the configuration has named since the start, in the order of the names.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<ServerMetrics>> {
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        servers.values().map(Arc::clone).collect()
    }

    /// Notes for each server whether calls have succeeded since the last look. Called once a second
    /// by the admin side, so that a call itself need not read the time for the status page.
    pub fn look(&self, now: Instant) {
        for server in self.servers() {
            let traffic = server.traffic();
            let successes = traffic.calls - traffic.failures - traffic.cancelled;
            let mut seen = server.seen();
            if successes > seen.successes {
                seen.successes = successes;
                seen.last_success = Some(now);
            }
        }
    }

    /// Since when the node runs, as the wall clock had it at the start.
    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.started_wall
    }

    /// How long the node has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Appends all metrics in the Prometheus text format 0.0.4. Reads the process's own resource
    /// use; a few dozen microseconds, so not for the data plane's threads under load.
    pub fn render(&self, out: &mut String) {
        render::render(self, out);
    }
}

// === impl ServerMetrics ===

impl ServerMetrics {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            calls: Calls::new(),
            counts: Arc::default(),
            configured: AtomicBool::new(false),
            in_flight: Gauge::default(),
            sessions: Gauge::default(),
            attempts_repeated: Counter::default(),
            connects: Counter::default(),
            connect_failures: Counter::default(),
            streams_broken: Counter::default(),
            process_starts: Counter::default(),
            process_exits: Counter::default(),
            seen: Mutex::default(),
        }
    }

    /// The name in the configuration: the label `server_id`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a call that ended. `elapsed` is from its receipt to the last byte of its answer.
    #[inline]
    pub fn call(&self, method: Method, outcome: CallOutcome, elapsed: Duration) {
        self.calls.record(method, outcome, elapsed);
    }

    /// Its calls since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.calls.traffic()
    }

    /// Whether the configuration has it now.
    fn is_configured(&self) -> bool {
        self.configured.load(Ordering::Relaxed)
    }

    /// Notes what went wrong last, for the status page. `text` must hold no secret and no client
    /// data; it is cut after 300 characters. Off the path of calls that succeed.
    pub fn failed(&self, text: &str) {
        let text: String = text.chars().take(300).collect();
        self.seen().last_error = Some((Instant::now(), text.into()));
    }

    /// How long ago a call succeeded, to the second; `None` when none has. Needs [`Metrics::look`].
    #[must_use]
    pub fn last_success(&self) -> Option<Duration> {
        self.seen().last_success.map(|at| at.elapsed())
    }

    /// How long ago and how something failed last.
    #[must_use]
    pub fn last_error(&self) -> Option<(Duration, String)> {
        self.seen().last_error.as_ref().map(|(at, text)| (at.elapsed(), text.to_string()))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Rejection ===

impl Rejection {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 12] = [
        Self::Host,
        Self::Origin,
        Self::Unauthorized,
        Self::Malformed,
        Self::HeaderMismatch,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::NotServed,
        Self::UnknownSession,
        Self::BadEventId,
        Self::RateLimited,
        Self::AtCapacity,
    ];

    /// The value of the label `reason`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Origin => "origin",
            Self::Unauthorized => "unauthorized",
            Self::Malformed => "malformed",
            Self::HeaderMismatch => "header_mismatch",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::NotServed => "not_served",
            Self::UnknownSession => "unknown_session",
            Self::BadEventId => "bad_event_id",
            Self::RateLimited => "rate_limited",
            Self::AtCapacity => "at_capacity",
        }
    }
}
