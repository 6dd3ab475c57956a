//! The admin port: bound first, so that a port in use is an error at the start, then run.

mod connections;
mod guard;
mod routes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use holdfast_config::Admin as Section;
use holdfast_control::Operated;
use holdfast_control::versions::Configured;
use holdfast_proxy::metrics::Traffic;
use holdfast_proxy::report::{Observed, Report};
use holdfast_proxy::tls::{CertReloader, TlsError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

use crate::api::{NodesDto, StatusDto};
use crate::cluster::Nodes;
use crate::window::Window;
use crate::{control, nodes, status};
use guard::Guard;
pub(crate) use routes::refuse;

/// How often the servers' counts are read, and how often the feed speaks.
const TICK: Duration = Duration::from_secs(1);
/// How long the cluster's own view may take. [`Nodes::nodes`] answers sooner; if it does not, the
/// rest of the status is shown without it.
const VIEW: Duration = Duration::from_secs(2);

/// Why the admin port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken or not ours.
    #[error("cannot listen on the admin address {address} (admin.address)")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Others than this machine could reach it, and nothing would ask who they are.
    #[error("the admin address {address} is not loopback, so admin.token must be set")]
    TokenNeeded {
        /// As configured.
        address: SocketAddr,
    },
    /// The certificate cannot be used.
    #[error("TLS on the admin port (admin.tls)")]
    Tls(#[from] TlsError),
}

/// The admin port, listening but not yet answering.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<CertReloader>>,
    shared: Arc<Shared>,
}

/// The settings of an admin port that a running node can change.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Other settings, which the port can go by at once.
#[derive(Debug)]
#[must_use = "nothing is taken over before it is committed"]
pub struct Prepared(Guard);

/// What the handlers work with.
pub(crate) struct Shared {
    observed: Arc<dyn Observed>,
    /// Empty for a node that runs alone.
    nodes: OnceLock<Arc<dyn Nodes>>,
    /// Empty until the control plane runs.
    operated: OnceLock<Arc<dyn Operated>>,
    /// Empty until the node runs, and where it has no file.
    configured: OnceLock<Arc<dyn Configured>>,
    guard: RwLock<Arc<Guard>>,
    window: Mutex<Window>,
    /// The latest status as JSON; filled only while someone follows the feed.
    feed: watch::Sender<Arc<str>>,
    /// Ends the feeds, which would otherwise outlive every drain.
    stopping: CancellationToken,
}

/// Binds and serves the admin port until `shutdown` is cancelled and its requests have ended, at
/// most five seconds later.
///
/// # Errors
/// When the port cannot be bound, the certificate cannot be loaded, or a token is missing. Nothing
/// that happens later ends it.
pub async fn serve(
    observed: Arc<dyn Observed>,
    section: &Section,
    shutdown: CancellationToken,
) -> Result<(), AdminError> {
    Admin::bind(observed, section).await?.run(shutdown).await;
    Ok(())
}

// === impl Admin ===

impl Admin {
    /// Takes the port and loads the certificate. Connections wait until [`Self::run`].
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn bind(observed: Arc<dyn Observed>, section: &Section) -> Result<Self, AdminError> {
        let address = section.address;
        if !address.ip().is_loopback() && section.token.is_none() {
            return Err(AdminError::TokenNeeded { address });
        }
        let tls = section.tls.as_ref().map(CertReloader::load).transpose()?;
        let bind_error = |source| AdminError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let report = observed.report();
        let window = Window::new(Instant::now(), traffic(&report));
        let shared = Arc::new(Shared {
            guard: RwLock::new(Arc::new(Guard::new(address, section))),
            window: Mutex::new(window),
            feed: watch::Sender::new(Arc::from("")),
            stopping: CancellationToken::new(),
            nodes: OnceLock::new(),
            operated: OnceLock::new(),
            configured: OnceLock::new(),
            observed,
        });
        Ok(Self { listener, address, tls, shared })
    }

    /// The address with the port that was really taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What of its settings can change while it runs.
    #[must_use]
    pub fn settings(&self) -> AdminSettings {
        AdminSettings { address: self.address, shared: Arc::clone(&self.shared) }
    }

    /// Shows the cluster that this node is one of, from now on. The first one stays.
    pub fn clustered(&self, nodes: Arc<dyn Nodes>) {
        let _ = self.shared.nodes.set(nodes);
    }

    /// Shows the servers' control plane, and has it obey, from now on. The first one stays.
    pub fn operated(&self, operated: Arc<dyn Operated>) {
        let _ = self.shared.operated.set(operated);
    }

    /// Shows the configuration, and has it taken over anew, from now on. The first one stays.
    pub fn configured(&self, configured: Arc<dyn Configured>) {
        let _ = self.shared.configured.set(configured);
    }

    /// Serves until `shutdown` is cancelled, then lets running requests end for five seconds.
    ///
    /// # Cancel safety
    /// Dropping it closes the port; open connections are cut.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, tls, shared, address } = self;
        let router = routes::router(Arc::clone(&shared));
        let stopping = shared.stopping.clone();
        tracing::debug!(%address, tls = tls.is_some(), "admin port open");
        let watch_certificate = async {
            match &tls {
                Some(reloader) => Arc::clone(reloader).watch().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = connections::serve(listener, tls.clone(), router, shutdown, stopping) => {}
            () = keep_reading(&shared) => {}
            () = watch_certificate => {}
        }
    }
}

// === impl AdminSettings ===

impl AdminSettings {
    /// Another token, other names: `admin.token` and `admin.public_hosts`. Nothing changes yet.
    ///
    /// # Errors
    /// [`AdminError::TokenNeeded`].
    pub fn prepare(&self, section: &Section) -> Result<Prepared, AdminError> {
        if !self.address.ip().is_loopback() && section.token.is_none() {
            return Err(AdminError::TokenNeeded { address: self.address });
        }
        Ok(Prepared(Guard::new(self.address, section)))
    }

    /// Each request from here on is let in by these.
    pub fn commit(&self, prepared: Prepared) {
        let mut guard = self.shared.guard.write().unwrap_or_else(PoisonError::into_inner);
        *guard = Arc::new(prepared.0);
    }
}

/// Reads the counts once a second, for ever, and feeds those who follow.
async fn keep_reading(shared: &Shared) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        shared.observed.metrics().look(now);
        let report = shared.observed.report();
        shared.window().push(now, traffic(&report));
        if shared.feed.receiver_count() > 0 {
            let status = shared.status().await;
            shared.feed.send_replace(json(&status).into());
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The status now. Waits for health checks and the other nodes,
    /// [`holdfast_proxy::health::DEADLINE`] or two seconds at most.
    async fn status(&self) -> StatusDto {
        let (health, cluster) = tokio::join!(self.observed.ready(), self.cluster());
        let report = self.observed.report();
        let cluster = cluster.and_then(Result::ok);
        let now = Instant::now();
        let mut status = status::status(&report, &health, cluster, &self.window(), now);
        let views = self.operated().map(Operated::servers).unwrap_or_default();
        for server in &mut status.servers {
            let view = views.iter().find(|view| view.name == server.name);
            server.control = view.map(control::control);
        }
        status
    }

    /// The rules of who may ask.
    fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.guard.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The servers' control plane, once it runs.
    pub(crate) fn operated(&self) -> Option<&dyn Operated> {
        self.operated.get().map(|operated| &**operated)
    }

    /// The configuration, once the node runs.
    pub(crate) fn configured(&self) -> Option<&Arc<dyn Configured>> {
        self.configured.get()
    }

    /// The cluster as this node sees it, if that comes in time; none for a node alone.
    async fn cluster(&self) -> Option<Result<NodesDto, Elapsed>> {
        let nodes = self.nodes.get()?;
        let view = tokio::time::timeout(VIEW, nodes.nodes()).await;
        Some(view.map(|view| nodes::together(&view)))
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("guard", &*self.guard()).finish_non_exhaustive()
    }
}

fn traffic(report: &Report) -> BTreeMap<String, Traffic> {
    report.servers.iter().map(|server| (server.name.clone(), server.traffic.clone())).collect()
}

/// The DTOs hold strings, numbers and lists: all of it has a JSON form.
fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data: {error}"))
}
