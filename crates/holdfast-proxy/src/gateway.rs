//! What all workers of a node share. Everything in it is read without a lock that a call can wait
//! on, or locked for nanoseconds.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use holdfast_config::Config;
use holdfast_engine::backoff::Backoff;
use holdfast_engine::bucket::Bucket;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::event_id::Sealer;
use holdfast_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::exchange::{self, OpenEntries};
use crate::fleet::Fleet;
use crate::health::Checker;
use crate::ingress::Connections;
use crate::ingress::edge::Edge;
use crate::metrics::Metrics;
use crate::own::Own;
use crate::principal::Authenticator;
use crate::server::{Server, ServerError};
use crate::session::{self, Session, Sessions};
use crate::streams::Streams;
use crate::tls::expiry::Expiries;
use crate::worker::Workers;
use crate::{keys, random, tls, upstream};

/// The shared heart of a node.
pub(crate) struct Gateway {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) edge: Edge,
    pub(crate) auth: Authenticator,
    pub(crate) store: Store,
    pub(crate) sessions: Sessions,
    pub(crate) streams: Streams,
    pub(crate) connections: Connections,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) servers: Vec<Arc<Server>>,
    pub(crate) fleet: Arc<Fleet>,
    by_name: BTreeMap<String, usize>,
    pub(crate) client_tls: Arc<rustls::ClientConfig>,
    /// When the certificates of `https` servers end, as they were seen.
    pub(crate) expiries: Expiries,
    /// What the control plane finds of this node.
    pub(crate) own: ArcSwap<Own>,
    pub(crate) checker: Checker,
    limits: Mutex<HashMap<u64, Bucket>>,
    /// Set once: no new work, streams end.
    pub(crate) draining: CancellationToken,
    /// Set once, at the drain deadline: what still runs is answered with an error.
    pub(crate) giving_up: CancellationToken,
    /// Set once, when every session has been closed at its server: the workers end.
    pub(crate) gone: CancellationToken,
    /// The client connections of all workers. No worker ends while one is open: sessions, and the
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
    pub(crate) fn new(
        config: Arc<Config>,
        guard: &[OsString],
        store: Store,
        cluster: Option<Cluster>,
    ) -> Result<Arc<Self>, ServerError> {
        let expiries = Expiries::default();
        let client_tls = tls::client_config(&expiries);
        let fleet = Fleet::new(&config, Instant::now());
        let mut servers = Vec::with_capacity(config.servers.len());
        let mut by_name = BTreeMap::new();
        let mut next_key = 0;
        for (index, (name, settings)) in config.servers.iter().enumerate() {
            let server = Server::new(
                index,
                name,
                settings.clone(),
                &mut next_key,
                &client_tls,
                guard,
                Arc::clone(&fleet.servers()[index]),
            )?;
            servers.push(Arc::new(server));
            by_name.insert(name.clone(), index);
        }
        let names: Vec<String> = config.servers.keys().cloned().collect();
        let limits = &config.limits;
        let metrics = Metrics::new(&names);
        metrics.tell_of(Arc::clone(&fleet), Arc::clone(store.operations()));
        Ok(Arc::new(Self {
            clock: Clock::start(),
            metrics,
            edge: Edge::new(&config.listen, limits.header_bytes),
            auth: Authenticator::new(&config.auth),
            store,
            sessions: Sessions::new(limits.sessions, limits.sessions_per_principal),
            streams: Streams::new(config.streams.retain),
            connections: Connections::default(),
            sealer: Arc::new(keys::sealer(&config)),
            servers,
            fleet,
            by_name,
            client_tls,
            expiries,
            own: ArcSwap::default(),
            checker: Checker::new(&config.servers),
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
            config,
        }))
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
        self.by_name.get(name).map(|index| &self.servers[*index])
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
        Bytes::from(self.sealer.seal_bytes(purpose, plain, random::nonce()))
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
        let deadline = Instant::now() + STORE_PATIENCE;
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

    /// Takes one call from a principal's allowance.
    pub(crate) fn admit(&self, principal: u64) -> Result<(), Duration> {
        let limits = &self.config.limits;
        let all = limits.requests_per_minute.map(|per_minute| (per_minute, limits.burst));
        let Some((per_minute, burst)) = self.auth.rate_of(principal).or(all) else { return Ok(()) };
        let burst = burst.unwrap_or_else(|| (per_minute / 10).max(1));
        let mut buckets = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        buckets
            .entry(principal)
            .or_insert_with(|| Bucket::new(per_minute, burst))
            .take(Instant::now())
    }

    /// Ends a session for good: its id is 404 from here on. `told`: the generation of the binding
    /// that its server was told to end already.
    ///
    /// # Cancel safety
    /// Once begun, the ending goes on when the future is dropped.
    pub(crate) async fn end_session(self: &Arc<Self>, session: &Arc<Session>, told: Option<u32>) {
        if self.sessions.remove(session.key).is_none() {
            return;
        }
        session.set_ending(true);
        let ending = Arc::clone(self).take_down(Arc::clone(session), told);
        if tokio::spawn(ending).await.is_err() {
            tracing::warn!(session = ?session.key, "a session was not taken down to its end");
        }
    }

    /// Takes down what a session that is out of the table has open.
    async fn take_down(self: Arc<Self>, session: Arc<Session>, told: Option<u32>) {
        self.metrics.sessions.set(self.sessions.len());
        let deleted = self.patiently(|| self.store.delete(session.key, TOMBSTONE)).await;
        if let Err(error) = deleted {
            tracing::debug!(session = ?session.key, error = %error, "session was gone already");
        }
        session.stop();
        if let Some(standing) = session.standing().take() {
            standing.end(&self);
        }
        let bound = session.last_bound().await;
        if bound.mux.is_some() || told != Some(bound.generation) {
            exchange::close_at_server(&self, &session.server, &bound).await;
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
            if let Some(standing) = session.standing().as_ref() {
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

    /// Ends what has expired. Runs for the life of the node.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let ttl = self.config.sessions.ttl;
        let period = (ttl / 10).clamp(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            tokio::time::sleep(period).await;
            let now = self.clock.now();
            for session in self.sessions.take_expired(now, ttl) {
                if self.cluster.is_some() {
                    // Only what this node has of it: whether it has expired, its record says.
                    session.stop();
                    continue;
                }
                self.metrics.sessions_expired.inc();
                tracing::debug!(session = ?session.key, "session expired");
                // A server that is slow to say goodbye does not hold up the sweep.
                tokio::spawn(Arc::clone(&self).take_down(session, None));
            }
            if self.cluster.is_none() {
                self.store.expire();
                // Tombstones: sessions have no deadline here.
                self.store.due(DUE).await;
            }
            let now = Instant::now();
            self.streams.sweep(now);
            self.close_unread(now);
            self.metrics.sessions.set(self.sessions.len());
            self.limits
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|_, bucket| !bucket.is_full(now));
        }
    }

    /// Closes standing streams at HTTP servers that no client has read for the retention time.
    fn close_unread(&self, now: Instant) {
        let retain = self.config.streams.retain;
        self.sessions.each(|session| {
            if session.server.is_duplex() {
                return;
            }
            let unread = session.standing().take_if(|open| {
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
