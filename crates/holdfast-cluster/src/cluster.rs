//! This node in the cluster: how it starts, what the rest of the gateway can ask of it, how it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{Body, ClusterState, KvEntry, Machine, NodeId, Origin, Reply};
use holdfast_peer::{Counters, Limits, Listener, Peers, Settings};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::admission::RemoveError;
use crate::gate::Gate;
use crate::group::Group;
use crate::leadership::{self, Leadership};
use crate::lease::Lease;
use crate::network::Network;
use crate::node::Node;
use crate::options::{Options, StartError};
use crate::proposals::{ProposeError, Serials};
use crate::reads::Unavailable;
use crate::service::{Forwarded, Serving};
use crate::state_machine::{Applied, Change, StateMachine};
use crate::status::NodeStatus;
use crate::store::Directory;
use crate::types::{Place, Raft};
use crate::wire::Wire;

/// A node that has its identity and its port, and speaks to nobody yet.
pub struct Prepared {
    options: Options,
    directory: Directory,
    peers: Arc<Peers>,
    wire: Arc<dyn Wire>,
    listener: Listener,
}

/// This node in the cluster.
pub struct Cluster {
    node: Arc<Node>,
    peers: Arc<Peers>,
    counters: Arc<Counters>,
    /// Serves the cluster port from [`Prepared::start`] to the end.
    serving: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

// === impl Prepared ===

impl Prepared {
    /// Opens the data directory and the cluster port.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn new(options: Options) -> Result<Self, StartError> {
        options.check()?;
        let (path, name) = (options.data_dir.clone(), options.name.clone());
        let directory = tokio::task::spawn_blocking(move || Directory::open(&path, &name)).await;
        let directory = directory.map_err(|error| StartError::Raft(error.to_string()))??;
        let node = directory.identity.node;
        let (secret, name) = (options.secret.clone(), options.name.clone());
        let settings = Settings::for_failover(options.failover_timeout);
        let peers = Peers::new(secret.clone(), node, name.clone(), settings, Handle::current())?;
        let limits = Limits::for_failover(options.failover_timeout);
        let listener = Listener::bind(options.listen, secret, node, name, limits).await?;
        let wire: Arc<dyn Wire> = Arc::new(Arc::clone(&peers));
        Ok(Self { options, directory, peers, wire, listener })
    }

    /// This incarnation's Raft id.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.directory.identity.node
    }

    /// Where the cluster port is; with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Names the nodes of the first start, when their ports were not known before.
    #[must_use]
    pub fn with_nodes(mut self, nodes: BTreeMap<String, String>) -> Self {
        self.options.nodes = nodes;
        self
    }

    /// Puts something between this node and the network.
    #[must_use]
    pub fn with_wire(mut self, wrap: impl FnOnce(Arc<dyn Wire>) -> Arc<dyn Wire>) -> Self {
        self.wire = wrap(self.wire);
        self
    }

    /// Starts the node. Returns as soon as its parts run; that it is a member shows in
    /// [`Cluster::origin`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self, forwarded: Arc<dyn Forwarded>) -> Result<Arc<Cluster>, StartError> {
        let Self { options, directory, peers, wire, listener } = self;
        let Directory { identity, log, snapshots } = directory;
        let me = identity.node;
        let address =
            options.advertise.clone().or_else(|| options.nodes.get(&options.name).cloned());
        let place = Place {
            name: options.name.clone(),
            address: address.unwrap_or_else(|| listener.local_addr().to_string()),
        };
        let group = Arc::new(Group::new(identity, log.clone()));
        let addresses = Addresses::new(me, Arc::clone(&peers), options.nodes.clone());
        let applied = Applied::new();
        let gate = Arc::new(Gate::new(options.patience(), options.quiet()));
        let network = Network {
            wire: Arc::clone(&wire),
            addresses: Arc::clone(&addresses),
            group: Arc::clone(&group),
            append: options.failover_timeout / 2,
            gate: Arc::clone(&gate),
        };
        let machine = StateMachine::new(Arc::clone(&applied), snapshots);
        let config = Arc::new(options.raft()?);
        let raft = Raft::new(me, config, network, log.clone(), machine).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        gate.watch(raft.clone());

        let (leadership, led) = watch::channel(Leadership::default());
        let (reads, asked) = mpsc::unbounded_channel();
        let failed = watch::Sender::new(None);
        let stop = CancellationToken::new();
        let node = Arc::new(Node {
            me,
            place,
            raft,
            wire,
            addresses,
            applied,
            group,
            gate,
            log: Mutex::new(Some(log)),
            leadership: led,
            origin: watch::Sender::new(Origin { node: me, generation: 0 }),
            lease: Lease::new(),
            frozen: watch::Sender::new(0),
            failed: failed.clone(),
            hindered: watch::Sender::new(None),
            serials: Serials::new(crate::random().map_err(StartError::Random)?),
            reads,
            book: Mutex::default(),
            admission: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            left: CancellationToken::new(),
            options,
        });
        let follow = leadership::follow(node.raft.clone(), leadership, failed, stop.clone());
        node.tasks.spawn(follow);
        node.tasks.spawn(Arc::clone(&node).run_keeper());
        node.tasks.spawn(Arc::clone(&node).run_coordinator());
        let this = Arc::clone(&node);
        node.tasks.spawn(async move { this.run_reads(asked).await });
        let this = Arc::clone(&node);
        node.tasks.spawn(async move { this.run_addresses().await });
        let this = Arc::clone(&node);
        node.tasks.spawn(async move { this.run_housekeeping().await });
        let this = Arc::clone(&node);
        node.tasks.spawn(async move { this.run_succession().await });
        let counters = listener.counters();
        let serving = Serving::new(Arc::clone(&node), forwarded);
        let serving = tokio::spawn(listener.serve(Arc::new(serving), stop));
        let serving = Mutex::new(Some(serving));
        Ok(Arc::new(Cluster { node, peers, counters, serving }))
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts a node of the cluster: [`Prepared::new`] and [`Prepared::start`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        options: Options,
        forwarded: Arc<dyn Forwarded>,
    ) -> Result<Arc<Self>, StartError> {
        Prepared::new(options).await?.start(forwarded).await
    }

    /// This incarnation's Raft id.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.node.me
    }

    /// Who this node is now. The generation is 0 until it has joined, and rises when it joins again:
    /// after it was declared dead or was frozen.
    #[must_use]
    pub fn origin(&self) -> Origin {
        *self.node.origin.borrow()
    }

    /// [`Cluster::origin`], watched.
    #[must_use]
    pub fn origins(&self) -> watch::Receiver<Origin> {
        self.node.origin.subscribe()
    }

    /// Waits until this node is a member. `false` if it is none when the deadline has passed.
    pub async fn joined(&self, deadline: Duration) -> bool {
        let mut origin = self.node.origin.subscribe();
        let joined = origin.wait_for(|it| it.generation > 0);
        matches!(tokio::time::timeout(deadline, joined).await, Ok(Ok(_)))
    }

    /// Members and incidents, as applied here. Changes when they do, not with every entry.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.node.applied.control()
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.node.leadership.clone()
    }

    /// The lease of this node.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.node.lease.clone()
    }

    /// Counts how often this process did not run for longer than the failover timeout. Whoever holds
    /// client connections closes them then; the node joins under a new generation by itself.
    #[must_use]
    pub fn frozen(&self) -> watch::Receiver<u64> {
        self.node.frozen.subscribe()
    }

    /// Why this node can't go on, once it can't: the process has to end, and says this.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.node.failed.subscribe()
    }

    /// Why this node cannot join until somebody does something about it, and what; it tries on. Without
    /// addresses.
    #[must_use]
    pub fn hindered(&self) -> watch::Receiver<Option<String>> {
        self.node.hindered.subscribe()
    }

    /// Proposes a change and waits for its reply; the leader is looked for and the proposal repeated
    /// until the deadline has passed.
    ///
    /// # Errors
    /// See [`ProposeError`]. A reply that refuses (`Mismatch`, `Stale`, ...) is no error; a kv command
    /// that was refused because this node's generation is over is [`ProposeError::Fenced`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it unknown whether the change is made.
    pub async fn propose(&self, body: Body, deadline: Duration) -> Result<Reply, ProposeError> {
        self.node.propose(body, deadline).await
    }

    /// Waits until this node has seen everything that was acknowledged before this call.
    ///
    /// # Errors
    /// [`Unavailable`] if no quorum can be reached by the deadline.
    pub async fn read_index(&self, deadline: Duration) -> Result<(), Unavailable> {
        self.node.read_index(deadline).await
    }

    /// The entry at `key` as this node has it, unless it is past its deadline.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<KvEntry> {
        self.node.applied.read(|machine, now| machine.kv.get(key, now).cloned())
    }

    /// Keys below `prefix` that are past their deadline, at most `limit`.
    #[must_use]
    pub fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        self.node.applied.read(|machine, now| machine.kv.due(prefix, now, limit))
    }

    /// Reads the machine as this node has it; the second argument is the group's time. Has to be short:
    /// nothing is applied meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&Machine, u64) -> T) -> T {
        self.node.applied.read(read)
    }

    /// The group's time, in milliseconds since the Unix epoch: the highest stamp seen, and what has
    /// passed here since.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.node.applied.read(|_, now| now)
    }

    /// Keys that change, as they are applied here. A hint: a receiver that lags is told so, and then
    /// everything may have changed.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.node.applied.changes()
    }

    /// The transport, for forwarding.
    #[must_use]
    pub fn peers(&self) -> Arc<Peers> {
        Arc::clone(&self.peers)
    }

    /// What happened on the cluster port.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// All nodes, as the leader sees them if it can be asked.
    pub async fn nodes(&self) -> Vec<NodeStatus> {
        self.node.nodes().await
    }

    /// All nodes as this one knows them, without asking anybody.
    #[must_use]
    pub fn local_nodes(&self) -> Vec<NodeStatus> {
        self.node.local_nodes()
    }

    /// The names of the other nodes of the group that do not answer this one within the time.
    pub async fn silent(&self, within: Duration) -> Vec<String> {
        self.node.silent(within).await
    }

    /// Hands leadership to the most up-to-date voter, if this node leads; never to one of `avoid`.
    /// Whether it leads no more.
    pub async fn transfer_leadership(&self, avoid: &BTreeSet<NodeId>) -> bool {
        self.node.transfer_leadership(avoid).await
    }

    /// Leaves the cluster, perhaps to be back soon: hands leadership over, gives up the lease, and is
    /// marked as having left, so that the others take over at once. Whether the group has taken that in.
    /// Takes at most six failover timeouts.
    ///
    /// The node keeps its vote until it is stopped, and has it again when it comes back; so restarting
    /// all nodes one after the other changes the group not at all. Who is not to come back is removed
    /// ([`Cluster::remove`]), or the others go on counting on its vote.
    pub async fn leave(&self) -> bool {
        self.node.leave().await
    }

    /// Takes a member that is dead or has left out of the group for good: its vote counts no more. With
    /// its directory it could still join again, as a new voter. Takes at most ten failover timeouts.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, node: NodeId) -> Result<(), RemoveError> {
        self.node.remove(node).await
    }

    /// Ends the node without a word to the others, and waits until its directory can be used again.
    pub async fn stop(&self) {
        let node = &self.node;
        node.stop.cancel();
        node.lease.set(None);
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            // Breaks the connections that are left.
            serving.abort();
            let _ = serving.await;
        }
        // An error means that it has ended already.
        let _ = node.raft.shutdown().await;
        node.tasks.close();
        node.tasks.wait().await;
        node.group.close().await;
        let log = node.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(log) = log {
            // What openraft has spawned lets go of it a little later.
            let _ = tokio::time::timeout(Duration::from_secs(10), log.closed()).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.node.stop.cancel();
        let raft = self.node.raft.clone();
        // Outside a runtime everything has ended with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}
