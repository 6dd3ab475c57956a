//! Where the cluster meets the data plane, the store and the operator's port: none of them knows it.
//!
//! | file | gives | to |
//! |---|---|---|
//! | `epoch` | the Redis server that the group has adopted | the store, where that is Redis |
//! | `group` | the Raft group's values | the store |
//! | `footing` | this node's own standing | the data plane |
//! | `inbound` | what other nodes send | the data plane |
//! | `nodes` | all nodes as they are | the operator's port |

mod epoch;
mod footing;
mod group;
mod inbound;
mod nodes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use holdfast_cluster::{Change, Cluster, Options};
use holdfast_config::Config;
use holdfast_control::Control;
use holdfast_control::versions::Versions;
use holdfast_engine::replicated::{Body, ControlCommand, MemberState};
use holdfast_peer::Secret;
use holdfast_proxy::Proxy;
use holdfast_proxy::cluster::{Changed, Clustered};
use holdfast_store::{Store, StoreChange};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::inbound::Inbound;
pub(crate) use self::nodes::NodesView;

/// This node's membership, from its start to its leaving.
pub(crate) struct Member {
    pub(crate) cluster: Arc<Cluster>,
    inbound: Arc<Inbound>,
    failover_timeout: Duration,
}

/// A store that all nodes share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    /// What changes in it, as this node hears of it.
    pub(crate) changes: mpsc::UnboundedReceiver<Changed>,
}

impl Member {
    /// Starts the node's part in the cluster that the configuration names; `None` without one. It
    /// joins in the background: until it has, the node is not ready.
    ///
    /// # Errors
    /// The data directory or the cluster port cannot be used.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(section) = &config.cluster else { return Ok(None) };
        let data_dir = config.node.data_dir.clone();
        let data_dir = data_dir.context("a node of a cluster needs node.data_dir")?;
        let options = Options {
            name: section.node_id.clone(),
            data_dir,
            listen: section.listen,
            advertise: section.advertise.clone(),
            nodes: section.nodes.clone(),
            secret: Secret::new(&section.secret, section.previous_secret.as_ref()),
            failover_timeout: section.failover_timeout,
            entries_per_snapshot: Options::ENTRIES_PER_SNAPSHOT,
            client: config.listen.address.to_string(),
            admin: config.admin.address.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let inbound = Arc::new(Inbound::default());
        let cluster = Cluster::start(options, Arc::clone(&inbound) as _).await?;
        let failover_timeout = section.failover_timeout;
        Ok(Some(Self { cluster, inbound, failover_timeout }))
    }

    /// Opens the store that all nodes share: the group's own values, or Redis.
    ///
    /// # Errors
    /// The Redis is none, or would lose what it has acknowledged. One that is away is waited for in
    /// the background.
    pub(crate) async fn open_store(&self, config: &Config) -> anyhow::Result<Shared> {
        let (sender, changes) = mpsc::unbounded_channel();
        let Some(settings) = &config.sessions.redis else {
            tokio::spawn(pass_on(self.cluster.changes(), sender));
            let values = group::Values(Arc::clone(&self.cluster));
            return Ok(Shared { store: Store::replicated(Arc::new(values)), changes });
        };
        let (adopted, heeded) = watch::channel(epoch::none_adopted());
        tokio::spawn(epoch::heed(self.cluster.state(), adopted));
        let redis = Store::redis(settings.clone(), heeded).await.context("sessions.store")?;
        tokio::spawn(epoch::adopt(Arc::clone(&self.cluster), redis.primary));
        tokio::spawn(pass_hints_on(redis.changes, sender));
        Ok(Shared { store: redis.store, changes })
    }

    /// What the data plane is told of the cluster; `changes` are the store's.
    pub(crate) fn clustered(&self, changes: mpsc::UnboundedReceiver<Changed>) -> Clustered {
        Clustered {
            state: self.cluster.state(),
            footing: Arc::new(footing::Standing::of(&self.cluster)),
            peers: self.cluster.peers(),
            changes,
            frozen: self.cluster.frozen(),
            failover_timeout: self.failover_timeout,
        }
    }

    /// From here on the data plane serves what other nodes send.
    pub(crate) fn serves(&self, proxy: Arc<Proxy>) {
        self.inbound.serves(proxy);
    }

    /// From here on the control plane hears those of other nodes.
    pub(crate) fn decides(&self, control: Arc<Control>) {
        self.inbound.decides(control);
    }

    /// From here on other nodes are told what this one runs.
    pub(crate) fn configures(&self, versions: Arc<Versions>) {
        self.inbound.configures(versions);
    }

    /// Tells the group that this node drains, and lets it drain when the group says so; ends the
    /// process where the node cannot go on in the cluster.
    pub(crate) async fn follow(cluster: Arc<Cluster>, drain: CancellationToken) {
        let mut state = cluster.state();
        let mut failed = cluster.failed();
        let told = async {
            drain.cancelled().await;
            let origin = cluster.origin();
            let command =
                ControlCommand::Drain { node: origin.node, generation: origin.generation };
            let told = cluster.propose(Body::Control(command), TELLING).await;
            if let Err(error) = told {
                tracing::warn!(%error, "the cluster does not know that this node drains");
            }
            std::future::pending::<()>().await;
        };
        let asked = async {
            let wanted = state.wait_for(|state| {
                let me = cluster.origin();
                state.members.get(&me.node).is_some_and(|member| {
                    member.state == MemberState::Draining && member.generation == me.generation
                })
            });
            if wanted.await.is_ok() && !drain.is_cancelled() {
                tracing::info!("the cluster asks this node to drain");
                drain.cancel();
            }
            std::future::pending::<()>().await;
        };
        let broken = async {
            let reason = failed.wait_for(Option::is_some).await.map(|reason| (*reason).clone());
            let reason = reason.ok().flatten().unwrap_or_else(|| "it has stopped".into());
            tracing::error!(%reason, "this node cannot go on in its cluster: the process ends");
            std::process::exit(CANNOT_GO_ON);
        };
        tokio::join!(told, asked, broken);
    }

    /// Goes, so that the others take over at once; the node's vote waits for its return.
    pub(crate) async fn leave(self) {
        if !self.cluster.leave().await {
            tracing::warn!("left without the cluster's knowledge: it will notice by itself");
        }
        self.cluster.stop().await;
    }
}

/// How long the group may take to hear that this node drains.
const TELLING: Duration = Duration::from_secs(2);

/// The exit status of a node whose Raft core has stopped: its supervisor starts it again.
const CANNOT_GO_ON: i32 = 70;

/// Whether the data plane has a copy of what is at this key: sessions, and hints about servers.
fn concerns_calls(key: &[u8]) -> bool {
    key.starts_with(holdfast_engine::replicated::SESSIONS) || key.starts_with(b"h/")
}

/// Hands changes to the data plane.
async fn pass_on(mut changes: broadcast::Receiver<Change>, sender: mpsc::UnboundedSender<Changed>) {
    loop {
        let change = match changes.recv().await {
            Ok(Change::Key { key, .. }) => {
                if !concerns_calls(&key) {
                    continue;
                }
                Changed::Key(key.to_vec())
            }
            Ok(Change::Everything) | Err(broadcast::error::RecvError::Lagged(_)) => {
                Changed::Everything
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if sender.send(change).is_err() {
            return;
        }
    }
}

/// The same for what Redis tells of changes by other nodes.
async fn pass_hints_on(
    mut changes: mpsc::UnboundedReceiver<StoreChange>,
    sender: mpsc::UnboundedSender<Changed>,
) {
    while let Some(change) = changes.recv().await {
        let change = match change {
            StoreChange::Key(key) if concerns_calls(&key) => Changed::Key(key.to_vec()),
            StoreChange::Key(_) => continue,
            StoreChange::Everything => Changed::Everything,
        };
        if sender.send(change).is_err() {
            return;
        }
    }
}
