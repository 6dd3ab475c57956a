//! What all workers of a node share. Everything in it is read without a lock that a call can wait
//! on, or locked for nanoseconds.
//!
//! A [`Gateway`] is the node under one configuration, and a new configuration is a new one; what the
//! node has beside its configuration is its [`Node`], which all of them share. The listener hands each
//! request the present one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use holdfast_config::Config;
use holdfast_engine::backoff::Backoff;
use holdfast_engine::bucket::Bucket;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::event_id::Sealer;
use holdfast_store::{Store, StoreError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, recent};
use crate::cluster::Cluster;
use crate::exchange::{self, OpenEntries};
use crate::fleet::{self, Fleet};
use crate::health::Checker;
use crate::ingress::Connections;
use crate::ingress::edge::Edge;
use crate::metrics::Metrics;
use crate::own::Own;
use crate::principal::Authenticator;
use crate::server::{self, Server, ServerError};
use crate::session::{self, Session, Sessions};
use crate::streams::Streams;
use crate::tls::expiry::Expiries;
use crate::worker::Workers;
use crate::{keys, random, tls, upstream};

/// A node under one configuration. Whoever serves something keeps the one that it began with; what
/// lasts looks for the [latest](Gateway::latest) now and then.
pub(crate) struct Gateway {
    /// What is the same under every configuration.
    pub(crate) node: Arc<Node>,
    pub(crate) config: Arc<Config>,
    pub(crate) edge: Edge,
    pub(crate) auth: Authenticator,
    pub(crate) servers: Vec<Arc<Server>>,
    pub(crate) fleet: Arc<Fleet>,
    by_name: BTreeMap<String, usize>,
    pub(crate) checker: Checker,
}

/// The configuration that a node runs: read once for each request, without a lock.
pub(crate) type Current = ArcSwap<Gateway>;

/// The shared heart of a node.
pub(crate) struct Node {
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: Store,
    pub(crate) sessions: Sessions,
    pub(crate) streams: Streams,
    pub(crate) connections: Connections,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) client_tls: Arc<rustls::ClientConfig>,
    /// When the certificates of `https` servers end, as they were seen.
    pub(crate) expiries: Expiries,
    /// What the control plane finds of this node.
    pub(crate) own: ArcSwap<Own>,
    /// The command that runs a guard.
    pub(crate) guard: Vec<OsString>,
    limits: Mutex<HashMap<u64, Allowed>>,
    /// Set once: no new work, streams end.
    pub(crate) draining: CancellationToken,
    /// Set once, at the drain deadline: what still runs is answered with an error.
    pub(crate) giving_up: CancellationToken,
    /// Set once, when every session has been closed at its server: the workers end.
    pub(crate) gone: CancellationToken,
    /// The client connections of all workers, the calls that other nodes forward, and those whose
    /// client is away that a drain waits for. No worker ends while one is open: sessions, and the
    /// connections to servers that other workers hold, serve them all.
    pub(crate) open: TaskTracker,
    pub(crate) ports: Ports,
    /// None on a node that stands alone.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) workers: Workers,
    /// The journal entries that this process works on.
    pub(crate) journal: OpenEntries,
    /// The parent of every client connection's token.
    connected: Mutex<CancellationToken>,
    /// Where the latest configuration is found.
    latest: OnceLock<Weak<Current>>,
    keys: AtomicUsize,
    lives: AtomicU64,
}

/// A principal's allowance, and what it was made of.
struct Allowed {
    of: (u32, Option<u32>),
    bucket: Bucket,
}

/// Where the node listens, for reports.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    pub(crate) client: OnceLock<SocketAddr>,
    pub(crate) admin: OnceLock<SocketAddr>,
    pub(crate) accepting: AtomicBool,
}

/// How long a cluster may take to find a new leader before what needs it fails.
const STORE_PATIENCE: Duration = Duration::from_secs(8);

/// How many tombstones one sweep forgets.
const DUE: usize = 256;

/// How long a deleted session's key stays taken.
pub(crate) const TOMBSTONE: Duration = Duration::from_secs(24 * 3600);

impl Gateway {
    /// A node under its first configuration.
    ///
    /// # Errors
    /// A server that cannot be used.
    pub(crate) fn start(
        config: Arc<Config>,
        guard: Vec<OsString>,
        store: Store,
        cluster: Option<Cluster>,
    ) -> Result<Arc<Current>, ServerError> {
        let expiries = Expiries::default();
        let names: Vec<String> = config.servers.keys().cloned().collect();
        let metrics = Metrics::new(&names);
        metrics.tell_of_store(Arc::clone(store.operations()));
        let node = Arc::new(Node {
            clock: Clock::start(),
            metrics,
            store,
            sessions: Sessions::new(),
            streams: Streams::new(),
            connections: Connections::default(),
            sealer: Arc::new(keys::sealer(&config)),
            client_tls: tls::client_config(&expiries),
            expiries,
            own: ArcSwap::default(),
            guard,
            limits: Mutex::default(),
            draining: CancellationToken::new(),
            giving_up: CancellationToken::new(),
            gone: CancellationToken::new(),
            open: TaskTracker::new(),
            ports: Ports::default(),
            cluster,
            workers: Workers::default(),
            journal: OpenEntries::default(),
            connected: Mutex::default(),
            latest: OnceLock::new(),
            keys: AtomicUsize::new(0),
            lives: AtomicU64::new(0),
        });
        let gateway = Self::build(node, config, None, |_| false)?;
        gateway.tell_metrics();
        let node = Arc::clone(&gateway.node);
        let current = Arc::new(Current::new(gateway));
        let _ = node.latest.set(Arc::downgrade(&current));
        Ok(current)
    }

    /// The node under a configuration, in place of the one `before`. Nothing of that changes; see
    /// [`Self::begin`]. `goes_on`: whether a server of this name is reached as before.
    ///
    /// # Errors
    /// A server that cannot be used.
    pub(crate) fn build(
        node: Arc<Node>,
        config: Arc<Config>,
        before: Option<&Self>,
        goes_on: impl Fn(&str) -> bool,
    ) -> Result<Arc<Self>, ServerError> {
        let metrics: Vec<_> = config.servers.keys().map(|name| node.metrics.server(name)).collect();
        let counts = |index: usize| Arc::clone(&metrics[index].counts);
        let fleet = Fleet::new(&config, before.map(|it| &*it.fleet), counts, Instant::now());
        let mut servers = Vec::with_capacity(config.servers.len());
        let mut by_name = BTreeMap::new();
        for (index, (name, settings)) in config.servers.iter().enumerate() {
            let parts = server::Parts {
                node: &node,
                fleet: Arc::clone(&fleet.servers()[index]),
                metrics: Arc::clone(&metrics[index]),
                before: before.and_then(|it| it.server(name)).map(|it| &**it),
                goes_on: goes_on(name),
            };
            servers.push(Arc::new(Server::new(name, settings.clone(), parts)?));
            by_name.insert(name.clone(), index);
        }
        Ok(Arc::new(Self {
            edge: Edge::new(&config.listen, config.limits.header_bytes),
            auth: Authenticator::new(&config.auth),
            checker: Checker::new(&config.servers),
            node,
            servers,
            fleet,
            by_name,
            config,
        }))
    }

    /// What goes on from the configuration `before` goes by this one from here on. Cannot fail.
    pub(crate) fn begin(&self, before: &Self) {
        self.fleet.begin(&before.fleet, Instant::now());
        for server in &self.servers {
            server.begin();
        }
        self.tell_metrics();
    }

    fn tell_metrics(&self) {
        let servers = self.servers.iter().map(|it| Arc::clone(&it.metrics));
        self.metrics.tell_of(Arc::clone(&self.fleet), servers);
    }

    /// This node under the configuration that it runs now.
    pub(crate) fn latest(self: &Arc<Self>) -> Arc<Self> {
        let current = self.node.latest.get().and_then(Weak::upgrade);
        current.map_or_else(|| Arc::clone(self), |current| current.load_full())
    }

    /// A session that has just come into the table is shown its server as the latest configuration has
    /// it: that may have been taken over since its request came.
    pub(crate) fn show_latest(self: &Arc<Self>, session: &Session) {
        let latest = self.latest();
        if let Some(server) = latest.server(&session.server().name) {
            session.serve_by(server);
        }
    }

    /// The server of a session as this configuration has it; as the session knows it, where it does not.
    pub(crate) fn server_of(&self, session: &Session) -> Arc<Server> {
        let known = session.server();
        self.server(&known.name).map_or(known, Arc::clone)
    }

    /// Waits, at the start of a node of a cluster, until it knows what the others have learnt of tools.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn learnt(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.learnt().await;
        }
    }

    /// The server of this name, if the configuration has it.
    pub(crate) fn server(&self, name: &str) -> Option<&Arc<Server>> {
        self.place_of(name).map(|place| &self.servers[place])
    }

    /// Where a server of this name stands among all.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// A token that cuts a new client connection.
    pub(crate) fn connected(&self) -> CancellationToken {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).child_token()
    }

    /// Cuts every client connection that is open now: whoever is connected comes back, here or to
    /// another node.
    pub(crate) fn cut_all(&self) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *connected).cancel();
    }

    /// The node that holds the sessions of this server that are opened here: this one, where a
    /// session is a connection.
    pub(crate) fn holder_of(&self, server: &Server) -> Option<Origin> {
        self.cluster.as_ref().filter(|_| server.is_duplex()).map(Cluster::me)
    }

    /// When the record of a session that is used now expires; in a cluster the record decides, and
    /// alone this node does.
    pub(crate) fn expires(&self) -> Option<u64> {
        self.cluster.as_ref()?;
        let ttl = self.config.sessions.ttl;
        let left = u64::try_from((ttl + ttl / 10).as_millis()).unwrap_or(u64::MAX);
        Some(crate::clock::unix_millis().saturating_add(left))
    }

    /// How long a call's stream may be asked for.
    pub(crate) fn keeps_record(&self, server: &Server) -> Duration {
        server.settings.max_duration + self.config.streams.retain
    }

    /// Seals what is stored for others to read back.
    pub(crate) fn seal(&self, purpose: &[u8], plain: &[u8]) -> Bytes {
        let mut sealed = BytesMut::new();
        self.sealer.seal_bytes_onto(purpose, plain, random::nonce(), &mut sealed);
        sealed.freeze()
    }

    pub(crate) fn unseal(&self, purpose: &[u8], sealed: &[u8]) -> Option<Bytes> {
        self.sealer.open_bytes(purpose, sealed).ok().map(Bytes::from)
    }

    /// Does something with the store, and again while the store takes nothing: between two leaders of
    /// a cluster, and after a verdict until this node has joined anew, there is a pause and no failure.
    ///
    /// # Errors
    /// The last one, after eight seconds at most (and what the last try took).
    pub(crate) async fn patiently<T, F>(&self, mut act: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let deadline = recent() + STORE_PATIENCE;
        let mut pause = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
        loop {
            match act().await {
                Err(StoreError::Unavailable(_) | StoreError::Fenced)
                    if self.cluster.is_some() && Instant::now() < deadline =>
                {
                    tokio::time::sleep(pause.next(random::u64())).await;
                }
                done => return done,
            }
        }
    }

    /// Whether this client is a balancer of ours.
    pub(crate) fn trusts(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        self.config.listen.trusted_proxies.iter().any(|net| net.contains(&address))
    }

    pub(crate) fn mux_limits(&self) -> upstream::mux::MuxLimits {
        let queue_bytes = self.config.limits.stream_queue;
        upstream::mux::MuxLimits { queue_bytes, ..upstream::mux::MuxLimits::default() }
    }

    /// Takes so many calls from a principal's allowance.
    pub(crate) fn admit(&self, principal: u64, calls: u32) -> Result<(), Duration> {
        let limits = &self.config.limits;
        let all = limits.requests_per_minute.map(|per_minute| (per_minute, limits.burst));
        let Some(of) = self.auth.rate_of(principal).or(all) else { return Ok(()) };
        let mut buckets = self.node.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = buckets.entry(principal).or_insert_with(|| Allowed::new(of));
        if allowed.of != of {
            *allowed = Allowed::new(of);
        }
        allowed.bucket.take_together(calls, recent())
    }

    /// Gives back what was taken for calls that something else has refused.
    #[cold]
    pub(crate) fn give_back(&self, principal: u64, calls: u32) {
        let mut buckets = self.node.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowed) = buckets.get_mut(&principal) {
            allowed.bucket.give_back(calls);
        }
    }

    /// Ends a session for good: its id is 404 from here on. `told`: the generation of the binding
    /// that its server was told to end already.
    ///
    /// # Cancel safety
    /// Once begun, the ending goes on when the future is dropped.
    pub(crate) async fn end_session(self: &Arc<Self>, session: &Arc<Session>, told: Option<u32>) {
        let Some(ending) = self.begin_end(session, told) else { return };
        if ending.await.is_err() {
            tracing::warn!(session = ?session.key, "a session was not taken down to its end");
        }
    }

    /// The same, of which the first step is done at once: its place in the table is free. `None`: somebody else
    /// has begun it.
    pub(crate) fn begin_end(
        self: &Arc<Self>,
        session: &Arc<Session>,
        told: Option<u32>,
    ) -> Option<JoinHandle<()>> {
        self.sessions.remove(session.key)?;
        session.set_ending(true);
        Some(tokio::spawn(Arc::clone(self).take_down(Arc::clone(session), told)))
    }

    /// Takes down what a session that is out of the table has open.
    async fn take_down(self: Arc<Self>, session: Arc<Session>, told: Option<u32>) {
        self.metrics.sessions.set(self.sessions.len());
        let deleted = self.patiently(|| self.store.delete(session.key, TOMBSTONE)).await;
        if let Err(error) = deleted {
            tracing::debug!(session = ?session.key, error = %error, "session was gone already");
        }
        session.stop();
        if let Some(standing) = session.take_standing(|_| true) {
            standing.end(&self);
        }
        let bound = session.last_bound().await;
        if bound.mux.is_some() || told != Some(bound.generation) {
            exchange::close_at_server(&self, &session.server(), &bound).await;
        }
    }

    /// Begins the drain: nothing new is accepted, standing streams end cleanly and tell their
    /// clients when to come back, running calls go on until the deadline.
    pub(crate) async fn drain(self: Arc<Self>) {
        self.draining.cancel();
        let retry = u64::try_from(self.config.streams.retry.as_millis()).unwrap_or(u64::MAX);
        let mut sessions = Vec::new();
        self.sessions.each(|session| sessions.push(Arc::clone(session)));
        for session in sessions {
            if let Some(standing) = session.standing() {
                standing.log.hint(retry);
                standing.log.finish();
            }
        }
    }

    /// Closes every session at its server: the node is going and takes its sessions along.
    pub(crate) async fn close_all(self: Arc<Self>) {
        let mut sessions = Vec::new();
        self.sessions.each(|session| sessions.push(Arc::clone(session)));
        if self.cluster.is_some() {
            // They live on at the other nodes; what goes is what is open here, with time to end.
            let closed = sessions.iter().map(async |session| {
                session::forget(&self, session.key).await;
                if let Some(mux) = session.bound().mux.clone() {
                    mux.close().await;
                }
            });
            futures_util::future::join_all(closed).await;
            return self.close_shared().await;
        }
        let ended = sessions.iter().map(|session| self.end_session(session, None));
        futures_util::future::join_all(ended).await;
        self.close_shared().await;
    }

    /// Closes the connections that modern clients share.
    async fn close_shared(&self) {
        for server in &self.servers {
            if let Some(mux) = server.shared.lock().await.take() {
                mux.close().await;
            }
        }
    }

    /// Ends what has expired.
    async fn sweep_once(self: &Arc<Self>) {
        let now = self.clock.now();
        for session in self.sessions.take_expired(now, self.config.sessions.ttl) {
            if self.cluster.is_some() {
                // Only what this node has of it: whether it has expired, its record says.
                session.stop();
                continue;
            }
            self.metrics.sessions_expired.inc();
            tracing::debug!(session = ?session.key, "session expired");
            // A server that is slow to say goodbye does not hold up the sweep.
            tokio::spawn(Arc::clone(self).take_down(session, None));
        }
        if self.cluster.is_none() {
            self.store.expire();
            // Tombstones: sessions have no deadline here.
            self.store.due(DUE).await;
        }
        for ended in self.servers.iter().flat_map(|server| server.take_ended_implicit()) {
            if let Some(mux) = &ended.bound().mux {
                session::close_when_idle(self, Arc::clone(mux));
            }
        }
        let now = Instant::now();
        for answers in self.servers.iter().filter_map(|server| server.answers.as_ref()) {
            answers.expire(now);
        }
        self.streams.sweep(now, self.config.streams.retain);
        self.close_unread(now);
        self.metrics.sessions.set(self.sessions.len());
        self.node
            .limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, allowed| !allowed.bucket.is_full(now));
    }

    /// Closes standing streams at HTTP servers that no client has read for the retention time.
    fn close_unread(&self, now: Instant) {
        let retain = self.config.streams.retain;
        self.sessions.each(|session| {
            if session.server().is_duplex() {
                return;
            }
            let unread = session.take_standing(|open| {
                open.log
                    .usage()
                    .1
                    .is_some_and(|since| now.saturating_duration_since(since) > retain)
            });
            if let Some(open) = unread {
                open.log.cancel.cancel();
            }
        });
    }
}

impl Deref for Gateway {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

// === impl Node ===

impl Node {
    /// The key of a new instance in the pools of all threads.
    pub(crate) fn next_key(&self) -> usize {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of a new server's life.
    pub(crate) fn next_life(&self) -> u64 {
        self.lives.fetch_add(1, Ordering::Relaxed)
    }
}

// === impl Allowed ===

impl Allowed {
    fn new(of: (u32, Option<u32>)) -> Self {
        let (per_minute, burst) = of;
        let burst = burst.unwrap_or_else(|| (per_minute / 10).max(1));
        Self { of, bucket: Bucket::new(per_minute, burst) }
    }
}

/// Ends what has expired, by the configuration of the time. Runs for the life of the node.
pub(crate) async fn sweep(current: Arc<Current>) {
    loop {
        let ttl = current.load().config.sessions.ttl;
        let period = (ttl / 10).clamp(Duration::from_millis(200), Duration::from_secs(5));
        tokio::time::sleep(period).await;
        let gateway = current.load_full();
        gateway.sweep_once().await;
    }
}

/// Lets time pass for instances with calls under way. Runs for the life of the node.
pub(crate) async fn keep_time(current: Arc<Current>) {
    loop {
        tokio::time::sleep(fleet::TICK).await;
        current.load().fleet.tick();
    }
}
