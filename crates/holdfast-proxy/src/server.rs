//! The logical servers of the configuration, as calls use them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
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
use crate::failure::Failure;
use crate::fleet::{Kept, ServerFleet};
use crate::gateway::Node;
use crate::metrics::{Gauge, ServerMetrics, shard, shard_count};
use crate::random;
use crate::session::Session;
use crate::upstream::Endpoint;
use crate::upstream::duplex::{self, Way};
use crate::upstream::http::HttpTarget;
use crate::upstream::mux::Mux;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// One logical MCP server, as one configuration has it: a call keeps the one that it began with.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) settings: holdfast_config::Server,
    pub(crate) endpoint: Endpoint,
    /// Headers that the configuration adds to every request.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    limit: Option<Arc<Allowed>>,
    /// Of single tools.
    tool_limits: BTreeMap<String, Arc<Allowed>>,
    /// Its instances as they are now, and who may call them.
    pub(crate) fleet: Arc<ServerFleet>,
    /// Answers that are kept for the time when it is away, where the configuration wants that.
    pub(crate) answers: Option<Arc<Answers>>,
    /// The last good `server/discover` results, for the same time.
    pub(crate) discovered: Arc<Discovered>,
    /// What its checks are asked on, by instance.
    pub(crate) checks: Box<[Arc<Kept>]>,
    /// What is counted of it.
    pub(crate) metrics: Arc<ServerMetrics>,
    /// What goes on when the configuration changes.
    pub(crate) life: Arc<Life>,
}

/// What there is of a server beyond one configuration: what was learnt of it, and what is open to it.
/// A server that is reached in another way than before begins another one.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: Arc<str>,
    /// No other has it.
    pub(crate) number: u64,
    tools: RwLock<ToolTable>,
    versions: RwLock<Vec<Version>>,
    /// Processes that run for this server now.
    pub(crate) processes: Gauge,
    /// How soon its process may be started again.
    pub(crate) restarts: Restarts,
    /// Whether a legacy call without a session was refused: the next ones get the implicit one, until it gives
    /// none, or refuses a call that has one in the same way.
    pub(crate) wants_session: AtomicBool,
    /// Whether it has given a session to whoever initialized one: then it may refuse others in any words.
    pub(crate) gives_sessions: AtomicBool,
    /// The duplex that all modern clients share.
    pub(crate) shared: tokio::sync::Mutex<Option<Arc<Mux>>>,
    /// Idle sessions that the gateway holds for clients that send none, each with whom it serves; the one
    /// used last comes last.
    implicit: Mutex<VecDeque<(u128, Arc<Session>)>>,
    /// Calls of such clients at once.
    pub(crate) implicit_calls: Arc<Semaphore>,
    /// Answers of the gateway's own to what it asks over HTTP that are under way at once.
    pub(crate) own_answers: Arc<Semaphore>,
    /// Set once, when the configuration has it no more: streams end, and what runs goes on.
    pub(crate) leaving: CancellationToken,
    /// Set once, when another life of the server takes this one's place.
    pub(crate) replaced: CancellationToken,
    /// Set once, at the end of the time that is left to what runs, or of the node's drain. Every running
    /// call waits for it, so each thread has one of its own: they do not meet on a lock.
    giving_up: Box<[CancellationToken]>,
    gives_up: CancellationToken,
}

/// An allowance of calls, and what it was made of.
#[derive(Debug)]
struct Allowed {
    of: (u32, Option<u32>),
    bucket: Mutex<Bucket>,
}

/// An allowance that is used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// After how long there is a call again.
    pub(crate) wait: Duration,
    /// It is a tool's, and not the server's.
    pub(crate) of_tool: bool,
}

/// What a server is built of, beside its settings.
pub(crate) struct Parts<'a> {
    pub(crate) node: &'a Node,
    pub(crate) fleet: Arc<ServerFleet>,
    pub(crate) metrics: Arc<ServerMetrics>,
    /// The same server of the configuration before.
    pub(crate) before: Option<&'a Server>,
    /// Whether it is reached as before, so that what there is of it goes on.
    pub(crate) goes_on: bool,
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

/// See [`Server::own_answers`]: a server that asks and takes no answers holds no more than these.
const OWN_ANSWERS: usize = 64;

/// Sessions that are kept for such clients while none of their calls runs, per server. Of more clients
/// that are told apart, whoever has not called for longest has one opened anew.
const MAX_IMPLICIT: usize = 256;

/// What a server has said of itself (`server/discover`).
#[derive(Debug, Default)]
pub(crate) struct Discovered(Mutex<DiscoveredBy>);

#[derive(Debug, Default)]
struct DiscoveredBy {
    /// What it says that everybody may have.
    everybody: Option<Bytes>,
    /// By a digest of who asked.
    audience: HashMap<u128, Bytes>,
}

/// Askers whose discover result is kept per server; more would only be forgetful clients.
const MAX_DISCOVERED: usize = 1024;

impl Deref for Server {
    type Target = Life;

    fn deref(&self) -> &Life {
        &self.life
    }
}

impl Server {
    /// Changes nothing of what the same server of the configuration before has; see [`Self::begin`].
    ///
    /// # Errors
    /// [`ServerError`] names the setting.
    pub(crate) fn new(
        name: &str,
        settings: holdfast_config::Server,
        parts: Parts<'_>,
    ) -> Result<Self, ServerError> {
        let Parts { node, fleet, metrics, before, goes_on } = parts;
        let fail = |reason: String| ServerError { server: name.to_owned(), reason };
        if let Some((one, other)) = fleet.alike() {
            return Err(fail(format!(
                "the instances {one} and {other} cannot be told apart: give one of them another id"
            )));
        }
        let mut headers = Vec::new();
        for (header, value) in &settings.headers {
            let header = HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| fail(format!("headers.{header} is not a header name")))?;
            let mut value = HeaderValue::from_str(value.expose_secret())
                .map_err(|_| fail(format!("headers.{header} is not a header value")))?;
            value.set_sensitive(true);
            headers.push((header, value));
        }
        let tls = &node.client_tls;
        let endpoint = match &settings.transport {
            Transport::Http { instances } => {
                let mut targets = Vec::with_capacity(instances.len());
                for (at, instance) in instances.iter().enumerate() {
                    let known = before.and_then(|it| it.target(fleet.mark(at)));
                    // What is pooled for it is used on.
                    let key = known.map_or_else(|| node.next_key(), |it| it.key);
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
                duplex(name, Way::Stdio { guard: node.guard.clone(), process: process.clone() })
            }
        };
        let allowed = |per_minute: u32, burst: Option<u32>, known: Option<&Arc<Allowed>>| {
            let of = (per_minute, burst);
            let same = known.filter(|known| known.of == of);
            same.map_or_else(|| Arc::new(Allowed::new(of)), Arc::clone)
        };
        let limit = settings.requests_per_minute.map(|per_minute| {
            let known = before.and_then(|it| it.limit.as_ref());
            allowed(per_minute, settings.burst, known)
        });
        let tool_limits = settings.tools.iter().filter_map(|(tool, rule)| {
            let known = before.and_then(|it| it.tool_limits.get(tool));
            Some((tool.clone(), allowed(rule.requests_per_minute?, rule.burst, known)))
        });
        // What it has answered speaks for another server, or for one that is asked under another name, as
        // little as for another server's clients.
        let same = before.filter(|it| {
            goes_on
                && it.headers == headers
                && it.settings.forward_authorization == settings.forward_authorization
        });
        let kept = same.filter(|it| it.settings.fallback.cache == settings.fallback.cache);
        let answers = match kept {
            Some(before) => before.answers.clone(),
            None => settings.fallback.cache.map(|cache| Arc::new(Answers::new(cache))),
        };
        let discovered = same.map_or_else(Arc::default, |it| Arc::clone(&it.discovered));
        let life = before.filter(|_| goes_on).map_or_else(
            || Arc::new(Life::new(name, node, &settings)),
            |before| Arc::clone(&before.life),
        );
        let instances = match &endpoint {
            Endpoint::Http(targets) => targets.len(),
            Endpoint::Duplex(_) => 1,
        };
        let check = |at: usize| {
            let before = before.filter(|_| goes_on);
            let known = before.and_then(|it| it.checks.get(it.fleet.place(fleet.mark(at))?));
            known.map_or_else(Arc::default, Arc::clone)
        };
        Ok(Self {
            checks: (0..instances).map(check).collect(),
            metrics,
            tool_limits: tool_limits.collect(),
            answers,
            discovered,
            endpoint,
            headers,
            limit,
            fleet,
            life,
            settings,
        })
    }

    /// From here on it takes the calls: what it has in common with the one before goes by its settings.
    pub(crate) fn begin(&self) {
        let mut tools = self.life.tools.write().unwrap_or_else(PoisonError::into_inner);
        tools.reconfigure(self.settings.trust_annotations, overrides(&self.settings));
    }

    /// The instance with this mark, where it is reached over HTTP.
    fn target(&self, mark: u32) -> Option<&Arc<HttpTarget>> {
        let Endpoint::Http(targets) = &self.endpoint else { return None };
        targets.get(self.fleet.place(mark)?)
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

    /// Takes so many calls from the server's allowance, and those of each tool from the tool's, where they have
    /// one: from all of them, or from none.
    ///
    /// # Errors
    /// [`Spent`].
    pub(crate) fn admit<'a>(
        &self,
        calls: u32,
        tools: impl IntoIterator<Item = (&'a str, u32)> + Clone,
        now: Instant,
    ) -> Result<(), Spent> {
        if let Some(allowed) = &self.limit {
            allowed.take(calls, now).map_err(|wait| Spent { wait, of_tool: false })?;
        }
        if self.tool_limits.is_empty() {
            return Ok(());
        }
        for (at, (tool, own)) in tools.clone().into_iter().enumerate() {
            let Some(allowed) = self.tool_limits.get(tool) else { continue };
            if let Err(wait) = allowed.take(own, now) {
                for (tool, own) in tools.into_iter().take(at) {
                    self.tool_limits.get(tool).into_iter().for_each(|it| it.give_back(own));
                }
                self.limit.iter().for_each(|it| it.give_back(calls));
                return Err(Spent { wait, of_tool: true });
            }
        }
        Ok(())
    }

    pub(crate) fn instances(&self) -> usize {
        match &self.endpoint {
            Endpoint::Http(targets) => targets.len(),
            Endpoint::Duplex(_) => 1,
        }
    }

    /// What a call that it cannot wait for any longer ends with.
    pub(crate) fn given_up(&self) -> Failure {
        match self.leaving.is_cancelled() {
            true => Failure::removed(&self.name),
            false => Failure::restarting(&self.name),
        }
    }
}

// === impl Life ===

impl Life {
    fn new(name: &str, node: &Node, settings: &holdfast_config::Server) -> Self {
        let gives_up = node.giving_up.child_token();
        let tools = ToolTable::new(settings.trust_annotations, overrides(settings));
        Self {
            name: Arc::from(name),
            number: node.next_life(),
            tools: RwLock::new(tools),
            versions: RwLock::default(),
            processes: Gauge::default(),
            restarts: Restarts::default(),
            wants_session: AtomicBool::new(false),
            gives_sessions: AtomicBool::new(false),
            shared: tokio::sync::Mutex::default(),
            implicit: Mutex::default(),
            implicit_calls: Arc::new(Semaphore::new(IMPLICIT_CALLS)),
            own_answers: Arc::new(Semaphore::new(OWN_ANSWERS)),
            leaving: CancellationToken::new(),
            replaced: CancellationToken::new(),
            giving_up: (0..shard_count()).map(|_| gives_up.child_token()).collect(),
            gives_up,
        }
    }

    /// The token that says that what runs is waited for no longer, as this thread has it.
    pub(crate) fn giving_up(&self) -> CancellationToken {
        self.giving_up[shard(self.giving_up.len())].clone()
    }

    /// What still runs is waited for no longer.
    pub(crate) fn give_up(&self) {
        self.gives_up.cancel();
    }

    /// The idle sessions that it holds for clients that send none, with whom each serves.
    pub(crate) fn take_all_implicit(&self) -> VecDeque<(u128, Arc<Session>)> {
        std::mem::take(&mut *self.idle())
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

    /// An idle session for a client that has none, and is known like this; the one used last.
    pub(crate) fn take_implicit(&self, audience: u128) -> Option<Arc<Session>> {
        let mut idle = self.idle();
        let found = idle.iter().rposition(|(whose, _)| *whose == audience)?;
        idle.remove(found).map(|(_, session)| session)
    }

    /// Takes out the sessions that have ended while nobody had them.
    pub(crate) fn take_ended_implicit(&self) -> Vec<Arc<Session>> {
        let mut ended = Vec::new();
        self.idle().retain(|(_, session)| {
            let is_over = session.is_stopped();
            if is_over {
                ended.push(Arc::clone(session));
            }
            !is_over
        });
        ended
    }

    /// Takes out those used longest ago that leave no room for another one.
    pub(crate) fn take_excess_implicit(&self) -> Vec<Arc<Session>> {
        let mut idle = self.idle();
        let excess = (idle.len() + 1).saturating_sub(MAX_IMPLICIT);
        idle.drain(..excess).map(|(_, session)| session).collect()
    }

    /// Takes out the one of this principal that was used longest ago, whomever it serves.
    pub(crate) fn take_oldest_implicit(&self, principal: u64) -> Option<Arc<Session>> {
        let mut idle = self.idle();
        let found = idle.iter().position(|(_, session)| session.principal() == principal)?;
        idle.remove(found).map(|(_, session)| session)
    }

    /// Gives a session back after its call.
    pub(crate) fn keep_implicit(&self, audience: u128, session: Arc<Session>) {
        self.idle().push_back((audience, session));
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(u128, Arc<Session>)>> {
        self.implicit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn duplex(server: &str, way: Way) -> Endpoint {
    let limits = duplex::Limits::default();
    Endpoint::Duplex(Box::new(duplex::Target { server: Arc::from(server), way, limits }))
}

/// What the operator says of its tools.
fn overrides(settings: &holdfast_config::Server) -> BTreeMap<String, ToolClass> {
    let rules = settings.tools.iter();
    rules.filter_map(|(tool, rule)| Some((tool.clone(), rule.effect?))).collect()
}

// === impl Discovered ===

impl Discovered {
    /// `audience`: whose it is; `None`: everybody's.
    pub(crate) fn keep(&self, audience: Option<u128>, answer: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(audience) = audience else {
            kept.everybody = Some(answer);
            return;
        };
        if kept.audience.len() >= MAX_DISCOVERED && !kept.audience.contains_key(&audience) {
            // Whoever still asks is known again at once.
            let any = kept.audience.keys().next().copied();
            any.and_then(|any| kept.audience.remove(&any));
        }
        kept.audience.insert(audience, answer);
    }

    /// The audience's own, else everybody's.
    pub(crate) fn get(&self, audience: u128) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.audience.get(&audience).or(kept.everybody.as_ref()).cloned()
    }
}

// === impl Allowed ===

impl Allowed {
    fn new(of: (u32, Option<u32>)) -> Self {
        let (per_minute, burst) = of;
        let burst = burst.unwrap_or_else(|| (per_minute / 10).max(1));
        Self { of, bucket: Mutex::new(Bucket::new(per_minute, burst)) }
    }

    fn take(&self, calls: u32, now: Instant) -> Result<(), Duration> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take_together(calls, now)
    }

    fn give_back(&self, calls: u32) {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).give_back(calls);
    }
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
