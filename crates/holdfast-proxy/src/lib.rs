//! The data plane: from a client's request to a server's answer.
//!
//! A node is one [`Proxy`]: N worker threads, each with a current-thread runtime, a listening
//! socket of its own and upstream connections of its own, over one shared `Gateway`. Of a cluster it
//! knows the state that it last heard ([`cluster`]), and nothing of how the nodes agree.
//! `docs/life-of-a-request.md` walks a call through the modules:
//!
//! | module | holds |
//! |---|---|
//! | `listener` | accepting, TLS, connection limits, drain |
//! | `ingress` | client transports: checks at the edge, Streamable HTTP, WebSocket, HTTP+SSE |
//! | `exchange` | one call's life: choose, send, decide, relay |
//! | [`fleet`] | servers and instances: breakers, health, balancing, admission |
//! | `session` | client sessions, re-establishing, standing streams |
//! | `reload` | another configuration, whole or not at all |
//! | `streams`, `resume` | stream logs, event ids, clients that come back |
//! | [`own`] | the node itself, for the control plane |
//! | `upstream` | server transports: HTTP pool, duplex connections, mux |

mod asked;
mod body;
mod boxes;
mod clock;
pub mod cluster;
mod decimal;
mod exchange;
mod failure;
pub mod fleet;
mod gateway;
pub mod health;
mod hold;
mod hop;
mod ingress;
mod keys;
mod listener;
pub mod metrics;
mod observed;
pub mod own;
mod principal;
mod random;
mod reload;
pub mod report;
mod response;
mod resume;
mod scratch;
mod server;
mod session;
mod spliced;
mod streams;
pub mod tls;
pub mod upstream;
mod worker;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use holdfast_config::Config;
use holdfast_store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::cluster::{Clustered, Feeds};
use crate::gateway::{Current, Gateway, Node};
pub use crate::reload::{Prepared, Refused, Servers};
pub use crate::server::ServerError;
use crate::tls::{CertReloader, TlsError};

/// What the binary knows and the configuration does not.
#[derive(Debug)]
pub struct Options {
    /// The command that runs [`upstream::duplex::guard`], up to the guarded command itself.
    pub guard: Vec<OsString>,
    /// Where sessions are kept.
    pub store: Store,
    /// The cluster that this node is a member of, if it is one.
    pub cluster: Option<Clustered>,
}

/// One node's data plane.
pub struct Proxy {
    node: Arc<Node>,
    /// The configuration that new requests are served by.
    current: Arc<Current>,
    address: SocketAddr,
    listeners: std::sync::Mutex<Vec<std::net::TcpListener>>,
    tls: Option<Arc<CertReloader>>,
    /// What the cluster tells, until the housekeeping takes it over.
    feeds: std::sync::Mutex<Option<Feeds>>,
}

/// The worker threads of a running node.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
}

/// A node that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A server of the configuration cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client port cannot be bound.
    #[error("cannot listen on {address} (listen.address)")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// A worker thread cannot be started.
    #[error("cannot start a worker thread: {0}")]
    Worker(io::Error),
}

// === impl Proxy ===

impl Proxy {
    /// Checks everything and binds the client port. Nothing is accepted yet.
    ///
    /// # Errors
    /// [`BuildError`] names the setting.
    pub fn build(config: Arc<Config>, options: Options) -> Result<Arc<Self>, BuildError> {
        let Options { guard, store, cluster } = options;
        let (cluster, feeds) = cluster.map(Clustered::split).unzip();
        let current = Gateway::start(Arc::clone(&config), guard, store, cluster)?;
        let gateway = current.load_full();
        let tls = config.listen.tls.as_ref().map(CertReloader::load).transpose()?;
        let address = config.listen.address;
        let workers = workers(&config);
        let bind = |source| BuildError::Bind { address, source };
        let listeners = holdfast_net::bind(address, workers).map_err(bind)?;
        let address = listeners[0].local_addr().map_err(bind)?;
        let _ = gateway.ports.client.set(address);
        if gateway.auth.is_open() {
            tracing::warn!(
                "no API keys are configured: every client is the same anonymous principal"
            );
        }
        let listeners = std::sync::Mutex::new(listeners);
        let feeds = std::sync::Mutex::new(feeds);
        let node = Arc::clone(&gateway.node);
        Ok(Arc::new(Self { node, current, address, listeners, tls, feeds }))
    }

    /// The client port as bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves a request that another node has forwarded.
    ///
    /// # Cancel safety
    /// Dropped, the request's client counts as disconnected.
    pub async fn forwarded(
        &self,
        request: http::Request<hyper::body::Incoming>,
    ) -> http::Response<cluster::Forwarded> {
        cluster::serve(&self.current.load_full(), request).await
    }

    /// Answers a note of another node's data plane.
    ///
    /// # Errors
    /// A text that says what is wrong with the note.
    pub async fn note(&self, method: &str, note: &[u8]) -> Result<bytes::Bytes, String> {
        cluster::answer(&self.current.load_full(), method, note).await
    }

    /// Says where the admin side listens, for reports.
    pub fn admin_listens(&self, address: SocketAddr) {
        let _ = self.node.ports.admin.set(address);
    }

    /// Starts the workers. They run until `drain` is cancelled, then finish what they have.
    ///
    /// # Errors
    /// [`BuildError::Worker`] if the operating system gives no thread.
    pub fn run(self: &Arc<Self>, drain: CancellationToken) -> Result<Running, BuildError> {
        let listeners = std::mem::take(
            &mut *self.listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        let mut threads = Vec::with_capacity(listeners.len());
        for (index, listener) in listeners.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(BuildError::Worker)?;
            let proxy = Arc::clone(self);
            let drain = drain.clone();
            let accepting = self.node.open.token();
            let thread = std::thread::Builder::new()
                .name(format!("holdfast-worker-{index}"))
                .spawn(move || runtime.block_on(proxy.work(index, listener, accepting, drain)))
                .map_err(BuildError::Worker)?;
            threads.push(thread);
        }
        self.node.ports.accepting.store(true, Ordering::Relaxed);
        Ok(Running { threads })
    }

    async fn work(
        self: Arc<Self>,
        index: usize,
        listener: std::net::TcpListener,
        accepting: TaskTrackerToken,
        drain: CancellationToken,
    ) {
        // Set however the first worker ends: the others wait for nobody who is not there.
        let _gone = (index == 0).then(|| self.node.gone.clone().drop_guard());
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(error = %error, "a worker cannot use its listening socket");
                return;
            }
        };
        self.node.workers.join(tokio::runtime::Handle::current());
        // Connections to servers belong to the thread that opened them, and so does their upkeep.
        tokio::spawn(async {
            loop {
                tokio::time::sleep(POOL_UPKEEP).await;
                upstream::pool::trim();
            }
        });
        // The first worker does the node's housekeeping beside its calls.
        if index == 0 {
            tokio::spawn(gateway::sweep(Arc::clone(&self.current)));
            tokio::spawn(gateway::keep_time(Arc::clone(&self.current)));
            let feeds = self.feeds.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if let Some(feeds) = feeds {
                tokio::spawn(cluster::follow(self.current.load_full(), feeds));
                tokio::spawn(cluster::keep(self.current.load_full()));
            }
            if let Some(tls) = &self.tls {
                tokio::spawn(Arc::clone(tls).watch());
            }
            let current = Arc::clone(&self.current);
            tokio::spawn(async move {
                drain.cancelled().await;
                current.load_full().drain().await;
            });
        }
        listener::serve(Arc::clone(&self.current), listener, self.tls.clone()).await;
        drop(accepting);
        listener::drained(&self.current.load_full()).await;
        self.node.workers.end();
        if index > 0 {
            // What this worker runs for the node's sessions is needed until they are closed.
            return self.node.gone.cancelled().await;
        }
        // The node's sessions end with it; its servers are told while there is time.
        let told = self.current.load_full().close_all();
        let _ = tokio::time::timeout(FAREWELL, told).await;
    }
}

/// How often idle connections to servers are looked through.
const POOL_UPKEEP: std::time::Duration = std::time::Duration::from_secs(3);

/// How long servers are given to hear that their sessions have ended.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);

fn workers(config: &Config) -> usize {
    match config.listen.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

// === impl Running ===

impl Running {
    /// Waits until every worker has finished. Blocks the calling thread.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }

    /// Waits until every worker has finished.
    ///
    /// # Cancel safety
    /// The workers go on; nothing is lost but the wait.
    pub async fn finished(self) {
        let _ = tokio::task::spawn_blocking(move || self.join()).await;
    }
}
