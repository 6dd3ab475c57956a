//! What a node of the cluster is started with, and why it may not start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_peer::{BindError, Secret, SetupError};

use crate::store::DirectoryError;

/// The shortest failover timeout: a heartbeat is a tenth of it.
pub const MIN_FAILOVER_TIMEOUT: Duration = Duration::from_millis(200);
/// The longest failover timeout.
pub const MAX_FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configured name of this node.
    pub name: String,
    /// Where its identity, log and snapshot are. One directory per node.
    pub data_dir: PathBuf,
    /// The cluster port.
    pub listen: SocketAddr,
    /// `host:port` under which the others reach the cluster port; if not given, what `nodes` says about
    /// this name, else the address listened on.
    pub advertise: Option<String>,
    /// The nodes of the first start, this one included: `host:port` of the cluster port by name.
    pub nodes: BTreeMap<String, String>,
    /// The cluster secret.
    pub secret: Secret,
    /// How long a node may be silent before others take over, 200 ms to 60 s. Heartbeats and elections
    /// are derived from it (1 s: 100 ms, 500 to 900 ms).
    pub failover_timeout: Duration,
    /// How many entries of the log a snapshot replaces.
    pub entries_per_snapshot: u64,
    /// `host:port` of this node's client listener, for the others to know.
    pub client: String,
    /// `host:port` of this node's admin listener.
    pub admin: String,
    /// The gateway's version.
    pub version: String,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option is out of its range.
    #[error("{0}")]
    Option(&'static str),
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The cluster port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The transport cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The operating system gives no randomness.
    #[error("cannot draw random numbers")]
    Random(#[source] std::io::Error),
    /// Raft does not start from what is on disk.
    #[error("raft does not start: {0}")]
    Raft(String),
}

// === impl Options ===

impl Options {
    /// The usual number of entries that a snapshot replaces.
    pub const ENTRIES_PER_SNAPSHOT: u64 = 5_000;

    pub(crate) fn check(&self) -> Result<(), StartError> {
        if self.name.is_empty() {
            return Err(StartError::Option("a node of a cluster needs a name"));
        }
        if !(MIN_FAILOVER_TIMEOUT..=MAX_FAILOVER_TIMEOUT).contains(&self.failover_timeout) {
            return Err(StartError::Option("the failover timeout is 200 ms to 60 s"));
        }
        if self.entries_per_snapshot == 0 {
            return Err(StartError::Option("a snapshot replaces at least one entry"));
        }
        Ok(())
    }

    /// How long followers wait for a leader that was heard: the longest election timeout.
    pub(crate) fn raft_lease(&self) -> Duration {
        self.failover_timeout * 9 / 10
    }

    /// How long a quorum may be silent before the leader falls silent too: less than its lease, since
    /// the others wait for that to end once more.
    pub(crate) fn patience(&self) -> Duration {
        self.failover_timeout * 7 / 10
    }

    /// How long it holds back then: long enough for its lease at the others to end and for an election.
    pub(crate) fn quiet(&self) -> Duration {
        self.raft_lease() * 5 / 2
    }

    pub(crate) fn raft(&self) -> Result<openraft::Config, StartError> {
        let timeout = u64::try_from(self.failover_timeout.as_millis()).unwrap_or(u64::MAX);
        let longest = timeout * 9 / 10;
        let quiet = u64::try_from(self.quiet().as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "holdfast".to_owned(),
            heartbeat_interval: timeout / 10,
            election_timeout_min: timeout / 2,
            election_timeout_max: longest,
            enable_pre_vote: Some(true),
            // A process leads only in terms that it was elected in itself.
            enable_leader_restore: Some(false),
            // A leader that is heard and does not hear would be followed for ever.
            quorum_loss_probe_interval: Some(quiet),
            // For one part of a snapshot, its installation included.
            install_snapshot_timeout: 30_000,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.entries_per_snapshot),
            max_in_snapshot_log_to_keep: self.entries_per_snapshot / 5,
            purge_batch_size: 64,
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| StartError::Raft(error.to_string()))
    }
}
