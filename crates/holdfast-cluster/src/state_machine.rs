//! The replicated machine behind openraft: applies entries, builds and installs snapshots, and tells
//! the rest of the node what changed.
//!
//! The state is in memory. After a restart it is built anew from the snapshot and the committed part of
//! the log. Readers hold the lock for one lookup; `apply` holds it for one entry; a snapshot holds it
//! while the maps are cloned (values are shared) and is encoded and written without it.

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use holdfast_engine::replicated::{Body, ClusterState, Command, KvCommand, Machine, Reply};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{broadcast, watch};

use crate::store::Snapshots;
use crate::types::{LogId, Membership, Outcome, Payload, Snapshot, SnapshotMeta, Types};

/// How many changes a slow receiver may be behind before it is told that it has missed some.
const CHANGES: usize = 4096;

/// A hint that a value changed here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// This key was written or deleted by the entry with this log index.
    Key {
        /// The key.
        key: Bytes,
        /// The revision that it has now, if it is there.
        revision: u64,
    },
    /// A snapshot was installed: everything may have changed.
    Everything,
}

/// What has been applied, as this node's readers see it.
pub(crate) struct Applied {
    state: RwLock<State>,
    control: watch::Sender<Arc<ClusterState>>,
    index: watch::Sender<u64>,
    changes: broadcast::Sender<Change>,
}

struct State {
    machine: Machine,
    /// When the machine's clock last moved: what passes here since then has passed for the group too.
    stamped: Instant,
    applied: Option<LogId>,
    membership: Membership,
}

/// The machine as openraft uses it.
#[derive(Clone)]
pub(crate) struct StateMachine {
    applied: Arc<Applied>,
    snapshots: Snapshots,
}

/// One state, taken to be written as a snapshot.
pub(crate) struct Builder {
    machine: Machine,
    meta: SnapshotMeta,
    snapshots: Snapshots,
}

// === impl Applied ===

impl Applied {
    pub(crate) fn new() -> Arc<Self> {
        let machine = Machine::default();
        let control = watch::Sender::new(Arc::new(machine.control.clone()));
        Arc::new(Self {
            state: RwLock::new(State {
                machine,
                stamped: Instant::now(),
                applied: None,
                membership: Membership::default(),
            }),
            control,
            index: watch::Sender::new(0),
            changes: broadcast::Sender::new(CHANGES),
        })
    }

    /// Reads the machine; `now` is the group's time in milliseconds since the Unix epoch. Keep it short:
    /// `apply` waits.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Machine, u64) -> T) -> T {
        let state = self.state();
        read(&state.machine, state.now())
    }

    pub(crate) fn control(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.control.subscribe()
    }

    /// The log index of the last entry applied.
    pub(crate) fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, log_id: LogId, payload: Payload) -> Outcome {
        let mut state = self.state_mut();
        state.applied = Some(log_id);
        let mut changed = None;
        let outcome = match &payload {
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                state.membership = Membership::new(Some(log_id), membership.clone());
                None
            }
            EntryPayload::Normal(proposal) => {
                let before = (state.machine.control.changed, state.machine.control.time);
                let reply = state.machine.apply(log_id.index, log_id.leader_id.term, &proposal.0);
                let control = &state.machine.control;
                if control.changed != before.0 {
                    changed = Some(Arc::new(control.clone()));
                }
                if control.time != before.1 {
                    state.stamped = Instant::now();
                }
                Some(reply)
            }
        };
        // Told only now: whoever looks at what is told may want to look at the state as well.
        drop(state);
        if let Some(control) = changed {
            self.control.send_replace(control);
        }
        if let (EntryPayload::Normal(proposal), Some(Reply::Done { revision })) =
            (&payload, &outcome)
            && self.changes.receiver_count() > 0
        {
            self.tell(&proposal.0, *revision);
        }
        self.index.send_replace(log_id.index);
        Outcome(outcome)
    }

    fn tell(&self, command: &Command, revision: u64) {
        let Body::Kv(command) = &command.body else { return };
        let commands = match command {
            KvCommand::Batch(commands) => commands.as_slice(),
            one => std::slice::from_ref(one),
        };
        for command in commands {
            let key = match command {
                KvCommand::Put { key, .. } | KvCommand::Delete { key, .. } => key.clone(),
                // A later deadline is no other value; and what has expired was absent before.
                KvCommand::Touch { .. } | KvCommand::Batch(_) | KvCommand::Expire { .. } => {
                    continue;
                }
            };
            // Nobody listening is no failure.
            let _ = self.changes.send(Change::Key { key, revision });
        }
    }

    fn install(&self, meta: &SnapshotMeta, machine: Machine) {
        let index = meta.last_log_id.map_or(0, |it| it.index);
        let control = Arc::new(machine.control.clone());
        *self.state_mut() = State {
            machine,
            stamped: Instant::now(),
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.control.send_replace(control);
        self.index.send_replace(index);
        let _ = self.changes.send(Change::Everything);
    }
}

// === impl State ===

impl State {
    fn now(&self) -> u64 {
        let passed = u64::try_from(self.stamped.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.machine.control.time {
            0 => 0,
            time => time.saturating_add(passed),
        }
    }
}

// === impl StateMachine ===

impl StateMachine {
    pub(crate) fn new(applied: Arc<Applied>, snapshots: Snapshots) -> Self {
        Self { applied, snapshots }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let state = self.applied.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let outcome = self.applied.apply(entry.log_id, entry.payload);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self.applied.state();
        Builder {
            machine: state.machine.clone(),
            meta: SnapshotMeta {
                last_log_id: state.applied,
                last_membership: state.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        let (snapshots, kept) = (self.snapshots.clone(), meta.clone());
        let machine = blocking(move || {
            let machine = Machine::restore(&data)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            snapshots.keep(&kept, &data)?;
            Ok(machine)
        })
        .await?;
        self.applied.install(meta, machine);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshots = self.snapshots.clone();
        blocking(move || snapshots.load()).await
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let machine = std::mem::take(&mut self.machine);
        let (meta, snapshots) = (self.meta.clone(), self.snapshots.clone());
        blocking(move || {
            let data = Bytes::from(machine.snapshot());
            snapshots.keep(&meta, &data)?;
            Ok(Snapshot { meta, snapshot: data })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
