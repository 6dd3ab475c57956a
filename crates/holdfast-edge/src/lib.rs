//! `holdfast edge`: a thin balancer in front of the nodes, for those who have none.
//!
//! What a general balancer cannot do is done here: the nodes are probed actively, so that a frozen
//! one is noticed in about half a second; every request carries an id that is fresh and the same
//! over all its sendings, so that nodes that share a journal run it once; a request for which
//! nothing has come back goes to another node; a stream whose node dies ends cleanly, so that the
//! client comes back with its last event id; and when no node is left, a call is answered with a
//! JSON-RPC error under its own id.
//!
//! The nodes behind an edge must be one cluster. Over nodes that do not share a journal a call that
//! is sent twice may run twice (`docs/decisions/0007-edge.md`).
//!
//! | module | holds |
//! |---|---|
//! | `decide` | which node, and what to do next: pure, no clock |
//! | `answer` | what to say when no node is left: pure |
//! | `nodes`, `probe` | how each node stands, and how that is found out |
//! | `forward`, `attempt`, `pool` | a request's way to a node |
//! | `relay`, `tunnel` | the response's way back |
//! | `listener`, `receive`, `headers` | the client port and what is checked of every request |

mod answer;
mod attempt;
mod decide;
mod forward;
mod headers;
mod listener;
mod nodes;
mod pool;
mod probe;
mod receive;
mod relay;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::listener::Edge as Shared;
use crate::nodes::Nodes;

/// How an edge behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The port for clients; port 0 is any free one.
    pub listen: SocketAddr,
    /// Client ports of the nodes, `HOST:PORT`. At least one, none twice.
    pub nodes: Vec<String>,
    /// Worker threads; 0 is one per core.
    pub workers: usize,
    /// How often each node is asked whether it is ready. 10 ms or more.
    pub probe_interval: Duration,
    /// How long its answer may take before it counts as frozen.
    pub probe_deadline: Duration,
    /// How long a request is held while no node lives.
    pub hold: Duration,
    /// How long a request may wait for the head of its response; without one, for as long as a
    /// node lives that has it.
    pub deadline: Option<Duration>,
    /// The largest body, in bytes. Bodies are kept in memory, so that they can be sent again.
    pub body: usize,
    /// Connections of clients at once.
    pub connections: usize,
    /// How long running requests may take once the edge drains.
    pub drain_deadline: Duration,
}

impl Options {
    /// The usual behaviour in front of `nodes`.
    #[must_use]
    pub fn new(listen: SocketAddr, nodes: Vec<String>) -> Self {
        Self {
            listen,
            nodes,
            workers: 0,
            probe_interval: Duration::from_millis(150),
            probe_deadline: Duration::from_millis(400),
            hold: Duration::from_secs(30),
            deadline: None,
            body: 16 * 1024 * 1024,
            connections: 8_000,
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// An edge whose port is open; nothing is accepted yet.
pub struct Edge {
    shared: Arc<Shared>,
    listeners: Vec<std::net::TcpListener>,
    address: SocketAddr,
}

/// The threads of a running edge.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    /// Ends the probing once the workers have ended.
    over: CancellationToken,
    prober: JoinHandle<()>,
}

/// An edge that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nothing to balance over.
    #[error("an edge needs at least one node")]
    NoNode,
    /// More nodes than an edge keeps count of.
    #[error("{0} nodes are more than the {most} that an edge takes", most = nodes::MOST)]
    TooManyNodes(usize),
    /// Not `HOST:PORT`, or a node that is named twice.
    #[error("node {node:?} {why}")]
    Node {
        /// As it was given.
        node: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The client port cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

// === impl Edge ===

impl Edge {
    /// Checks the options and binds the client port.
    ///
    /// # Errors
    /// [`StartError`] says what is wrong.
    pub fn bind(options: Options) -> Result<Self, StartError> {
        let nodes = Nodes::new(&options.nodes)?;
        let workers = match options.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let address = options.listen;
        let bind = |source| StartError::Bind { address, source };
        let listeners = holdfast_net::bind(address, workers).map_err(bind)?;
        let address = listeners[0].local_addr().map_err(bind)?;
        Ok(Self { shared: Arc::new(Shared::new(options, nodes)), listeners, address })
    }

    /// The client port as bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Starts probing and serving. Once `drain` is cancelled nothing is accepted any more, and what
    /// runs has until the drain deadline.
    ///
    /// # Errors
    /// [`StartError::Thread`] if the operating system gives no thread.
    pub fn run(self, drain: CancellationToken) -> Result<Running, StartError> {
        let over = CancellationToken::new();
        let (shared, stop) = (Arc::clone(&self.shared), over.clone());
        let prober = spawn("holdfast-edge-probe", async move {
            probe::all(&shared, stop).await;
        })?;
        let mut threads = Vec::with_capacity(self.listeners.len());
        for (index, listener) in self.listeners.into_iter().enumerate() {
            let (shared, drain) = (Arc::clone(&self.shared), drain.clone());
            let name = format!("holdfast-edge-{index}");
            threads.push(spawn(&name, listener::work(shared, listener, drain))?);
        }
        Ok(Running { threads, over, prober })
    }
}

fn spawn<F>(name: &str, work: F) -> Result<JoinHandle<()>, StartError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(work))
        .map_err(StartError::Thread)
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
        self.over.cancel();
        let _ = self.prober.join();
    }

    /// Waits until every worker has finished.
    ///
    /// # Cancel safety
    /// The workers go on; nothing is lost but the wait.
    pub async fn finished(self) {
        let _ = tokio::task::spawn_blocking(move || self.join()).await;
    }
}
