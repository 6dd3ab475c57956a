//! The logical servers of the configuration, as calls use them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_config::{ExposeSecret, Transport};
use holdfast_engine::backoff::Backoff;
use holdfast_engine::bucket::Bucket;
use holdfast_engine::class::{CallClass, ToolClass, ToolTable, classify};
use holdfast_mcp::version::Version;
use holdfast_store::Store;
use http::{HeaderName, HeaderValue};

use crate::exchange::Answers;
use crate::fleet::{Kept, ServerFleet, places};
use crate::metrics::Gauge;
use crate::random;
use crate::session::Session;
use crate::upstream::Endpoint;
use crate::upstream::duplex::{self, Way};
use crate::upstream::http::HttpTarget;
use crate::upstream::mux::Mux;
use tokio::sync::Semaphore;

/// One logical MCP server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) index: usize,
    pub(crate) name: Arc<str>,
    pub(crate) settings: holdfast_config::Server,
    pub(crate) endpoint: Endpoint,
    /// Headers that the configuration adds to every request.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    tools: RwLock<ToolTable>,
    versions: RwLock<Vec<Version>>,
    limit: Option<Mutex<Bucket>>,
    /// Of single tools.
    tool_limits: BTreeMap<String, Mutex<Bucket>>,
    /// Its instances as they are now, and who may call them.
    pub(crate) fleet: Arc<ServerFleet>,
    /// Answers that are kept for the time when it is away, where the configuration wants that.
    pub(crate) answers: Option<Answers>,
    /// What its checks are asked on, by instance.
    pub(crate) checks: Box<[Kept]>,
    /// Processes that run for this server now.
    pub(crate) processes: Gauge,
    /// How soon its process may be started again.
    pub(crate) restarts: Restarts,
    /// Whether a legacy call without a session was refused: the next ones get the implicit one.
    pub(crate) wants_session: AtomicBool,
    /// The duplex that all modern clients share.
    pub(crate) shared: tokio::sync::Mutex<Option<Arc<Mux>>>,
    /// Idle sessions that the gateway holds for clients that send none, by principal.
    implicit: Mutex<HashMap<u64, Vec<Arc<Session>>>>,
    /// Calls of such clients at once.
    pub(crate) implicit_calls: Arc<Semaphore>,
    /// The last good `server/discover` result by principal, for the time when the server is away.
    discovered: Mutex<HashMap<u64, Bytes>>,
}

/// Back-off of a process that dies young. The first restart is at once; the wait grows from one
/// early death to the next, up to half a minute, and is forgotten after a life that was long enough.
#[derive(Debug)]
pub(crate) struct Restarts(Mutex<RestartState>);

#[derive(Debug)]
struct RestartState {
    backoff: Backoff,
    not_before: Option<Instant>,
    ending: String,
}

/// A process that lived for this long did not die of starting.
const LONG_LIFE: Duration = Duration::from_secs(5);

/// A configured server that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("servers.{server}: {reason}")]
pub struct ServerError {
    server: String,
    reason: String,
}

/// Calls of clients without a session that run at once per server, each on a session of its own: the
/// ids of two clients may be the same. More wait.
const IMPLICIT_CALLS: usize = 64;

/// Principals whose discover result is kept per server; more would only be forgetful clients.
const MAX_DISCOVERED: usize = 1024;

impl Server {
    pub(crate) fn new(
        index: usize,
        name: &str,
        settings: holdfast_config::Server,
        next_key: &mut usize,
        tls: &Arc<rustls::ClientConfig>,
        guard: &[OsString],
        fleet: Arc<ServerFleet>,
    ) -> Result<Self, ServerError> {
        let fail = |reason: String| ServerError { server: name.to_owned(), reason };
        let mut headers = Vec::new();
        for (header, value) in &settings.headers {
            let header = HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| fail(format!("headers.{header} is not a header name")))?;
            let mut value = HeaderValue::from_str(value.expose_secret())
                .map_err(|_| fail(format!("headers.{header} is not a header value")))?;
            value.set_sensitive(true);
            headers.push((header, value));
        }
        let endpoint = match &settings.transport {
            Transport::Http { instances } => {
                let mut targets = Vec::with_capacity(instances.len());
                for instance in instances {
                    let key = *next_key;
                    *next_key += 1;
                    let target = HttpTarget::new(instance.url.clone(), key)
                        .map_err(|error| fail(format!("{}: {error}", instance.url)))?;
                    targets.push(Arc::new(target.keeping(settings.pool.idle_timeout)));
                }
                Endpoint::Http(targets)
            }
            Transport::Sse { url } => {
                duplex(name, Way::Sse { url: url.clone(), tls: url.tls.then(|| Arc::clone(tls)) })
            }
            Transport::WebSocket { url } => {
                let tls = url.tls.then(|| Arc::clone(tls));
                duplex(name, Way::WebSocket { url: url.clone(), tls })
            }
            Transport::Stdio(process) => {
                duplex(name, Way::Stdio { guard: guard.to_vec(), process: process.clone() })
            }
        };
        let rules = settings.tools.iter();
        let overrides: BTreeMap<_, _> =
            rules.filter_map(|(tool, rule)| Some((tool.clone(), rule.effect?))).collect();
        let bucket = |per_minute: u32, burst: Option<u32>| {
            let burst = burst.unwrap_or_else(|| (per_minute / 10).max(1));
            Mutex::new(Bucket::new(per_minute, burst))
        };
        let limit = settings.requests_per_minute.map(|it| bucket(it, settings.burst));
        let tool_limits = settings.tools.iter().filter_map(|(tool, rule)| {
            Some((tool.clone(), bucket(rule.requests_per_minute?, rule.burst)))
        });
        Ok(Self {
            index,
            name: Arc::from(name),
            checks: places(&endpoint),
            answers: settings.fallback.cache.map(Answers::new),
            endpoint,
            headers,
            tools: RwLock::new(ToolTable::new(settings.trust_annotations, overrides)),
            versions: RwLock::default(),
            limit,
            tool_limits: tool_limits.collect(),
            fleet,
            processes: Gauge::default(),
            restarts: Restarts::default(),
            wants_session: AtomicBool::new(false),
            shared: tokio::sync::Mutex::default(),
            implicit: Mutex::default(),
            implicit_calls: Arc::new(Semaphore::new(IMPLICIT_CALLS)),
            discovered: Mutex::default(),
            settings,
        })
    }

    /// Whether it is a process of ours.
    pub(crate) fn is_process(&self) -> bool {
        matches!(&self.endpoint, Endpoint::Duplex(target) if matches!(target.way, Way::Stdio { .. }))
    }

    pub(crate) fn is_duplex(&self) -> bool {
        matches!(self.endpoint, Endpoint::Duplex(_))
    }

    /// The class of a call, fixed at receipt.
    /// The class of a call; what other nodes have learnt of its tool counts where this one knows
    /// nothing.
    pub(crate) fn classify(&self, store: &Store, method: &str, tool: Option<&str>) -> CallClass {
        let unknown = {
            let tools = self.tools.read().unwrap_or_else(PoisonError::into_inner);
            let unknown = store.is_shared() && tool.is_some_and(|tool| !tools.has(tool));
            if !unknown {
                return classify(method, tool, &tools);
            }
            unknown
        };
        if unknown && let Some(hints) = store.hints(&self.name) {
            self.take_hints(&hints);
        }
        classify(method, tool, &self.tools.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Learns from a `tools/list` answer which tools may be repeated; whether that is news.
    pub(crate) fn learn_tools(&self, answer: &[u8]) -> bool {
        let hints = holdfast_mcp::tools::tool_hints(answer);
        let known = {
            let tools = self.tools.read().unwrap_or_else(PoisonError::into_inner);
            hints.iter().all(|hint| tools.knows(&hint.name, hint.read_only, hint.idempotent))
        };
        if known {
            return false;
        }
        let mut tools = self.tools.write().unwrap_or_else(PoisonError::into_inner);
        for hint in hints {
            tools.learn(&hint.name, hint.read_only, hint.idempotent);
        }
        true
    }

    /// What was learnt of the tools, for other nodes.
    pub(crate) fn hints(&self) -> Bytes {
        let tools = self.tools.read().unwrap_or_else(PoisonError::into_inner);
        let learnt: Vec<(&str, bool)> =
            tools.learnt().map(|(name, class)| (name, class == ToolClass::Read)).collect();
        postcard::to_allocvec(&learnt).unwrap_or_default().into()
    }

    /// Takes in what another node has learnt.
    pub(crate) fn take_hints(&self, hints: &[u8]) {
        let Ok(learnt) = postcard::from_bytes::<Vec<(&str, bool)>>(hints) else { return };
        let mut tools = self.tools.write().unwrap_or_else(PoisonError::into_inner);
        for (name, reads) in learnt {
            tools.learn(name, reads, true);
        }
    }

    /// Takes one call from the server's allowance.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        match &self.limit {
            Some(bucket) => bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now),
            None => Ok(()),
        }
    }

    /// Takes one call from its tool's allowance, where the tool has one.
    pub(crate) fn admit_tool(&self, tool: &str, now: Instant) -> Result<(), Duration> {
        if self.tool_limits.is_empty() {
            return Ok(());
        }
        match self.tool_limits.get(tool) {
            Some(bucket) => bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now),
            None => Ok(()),
        }
    }

    pub(crate) fn instances(&self) -> usize {
        match &self.endpoint {
            Endpoint::Http(targets) => targets.len(),
            Endpoint::Duplex(_) => 1,
        }
    }

    /// A protocol version that a client and this server have agreed on.
    pub(crate) fn saw_version(&self, version: Version) {
        if self.versions.read().unwrap_or_else(PoisonError::into_inner).contains(&version) {
            return;
        }
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        if !versions.contains(&version) {
            versions.push(version);
            versions.sort();
        }
    }

    pub(crate) fn versions(&self) -> Vec<Version> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idle session for a client of this principal that has none; the one used last.
    pub(crate) fn take_implicit(&self, principal: u64) -> Option<Arc<Session>> {
        let mut implicit = self.implicit.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = implicit.get_mut(&principal)?;
        let session = idle.pop();
        if idle.is_empty() {
            implicit.remove(&principal);
        }
        session
    }

    /// Gives a session back after its call.
    pub(crate) fn keep_implicit(&self, session: Arc<Session>) {
        let mut implicit = self.implicit.lock().unwrap_or_else(PoisonError::into_inner);
        implicit.entry(session.principal).or_default().push(session);
    }

    pub(crate) fn keep_discovered(&self, principal: u64, answer: Bytes) {
        let mut kept = self.discovered.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_DISCOVERED || kept.contains_key(&principal) {
            kept.insert(principal, answer);
        }
    }

    pub(crate) fn discovered(&self, principal: u64) -> Option<Bytes> {
        self.discovered.lock().unwrap_or_else(PoisonError::into_inner).get(&principal).cloned()
    }
}

fn duplex(server: &str, way: Way) -> Endpoint {
    let limits = duplex::Limits::default();
    Endpoint::Duplex(Box::new(duplex::Target { server: Arc::from(server), way, limits }))
}

// === impl Restarts ===

impl Default for Restarts {
    fn default() -> Self {
        Self(Mutex::new(RestartState {
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
            not_before: None,
            ending: String::new(),
        }))
    }
}

impl Restarts {
    /// How long to wait before the next start.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.not_before?.checked_duration_since(now).filter(|pause| !pause.is_zero())
    }

    /// A process ended without being asked to.
    pub(crate) fn ended(&self, born: Instant, now: Instant, ending: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.clone_into(&mut state.ending);
        if now.saturating_duration_since(born) >= LONG_LIFE {
            state.backoff.reset();
            state.not_before = None;
        } else {
            let wait = state.backoff.next(random::u64());
            state.not_before = Some(now + wait);
        }
    }

    /// Why there is a wait, for the error that says so.
    pub(crate) fn describe(&self) -> String {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        format!("its process keeps ending as soon as it starts: {}", state.ending)
    }
}
