//! What the tasks of one node share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_cluster::{Leadership, ProposeError};
use holdfast_engine::replicated::{
    ClusterState, ControlCommand, NodeId, Reply, ServerCommand, ServerState,
};

use crate::desk::Desk;
use crate::driver::{Nudge, Status};
use crate::group::Group;
use crate::looks::Looks;
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::plane::{At, Plane};
use crate::report::{Others, Report};

/// When a task that could not do what it had to tries again.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) group: Arc<dyn Group>,
    pub(crate) plane: Arc<dyn Plane>,
    pub(crate) looks: Looks,
    pub(crate) desk: Desk,
    pub(crate) metrics: Metrics,
    pub(crate) nudges: Nudges,
    /// The other nodes' own scores, as the coordinator last told.
    others: Mutex<BTreeMap<At, Vec<f64>>>,
    /// Generation and step of the failover that the data plane goes by, by server.
    follows: Mutex<Vec<(u64, u32)>>,
    /// By webhook: the log index up to which this node has announced the history to it.
    told: Vec<AtomicU64>,
}

/// Who is to look when something has changed.
#[derive(Default)]
pub(crate) struct Nudges {
    /// By place.
    pub(crate) probes: BTreeMap<At, Nudge>,
    pub(crate) report: Nudge,
    pub(crate) follow: Nudge,
    pub(crate) verdict: Nudge,
    pub(crate) breakers: Nudge,
    pub(crate) failover: Nudge,
    pub(crate) notify: Vec<Nudge>,
    pub(crate) objectives: Nudge,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        plan: Plan,
        group: Arc<dyn Group>,
        plane: Arc<dyn Plane>,
        webhooks: usize,
    ) -> Arc<Self> {
        let probes = plan.all().map(|at| (at, Nudge::default())).collect();
        Arc::new(Self {
            looks: Looks::new(&plan),
            follows: Mutex::new(vec![(0, 0); plan.servers.len()]),
            nudges: Nudges {
                probes,
                notify: (0..webhooks).map(|_| Nudge::default()).collect(),
                ..Nudges::default()
            },
            desk: Desk::default(),
            metrics: Metrics::default(),
            others: Mutex::default(),
            told: (0..webhooks).map(|_| AtomicU64::new(0)).collect(),
            plan,
            group,
            plane,
        })
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.group.state().borrow())
    }

    /// What is agreed on about a server, and how it stands; nothing before it was defined.
    pub(crate) fn server(&self, state: &ClusterState, server: usize) -> Option<ServerState> {
        state.servers.by_name.get(&self.plan.servers[server].name).cloned()
    }

    /// The term in which this node coordinates, if it does.
    pub(crate) fn coordinates(&self) -> Option<u64> {
        let Leadership { term, me, .. } = *self.group.leadership().borrow();
        me.then_some(term)
    }

    /// Takes the report of a node, this one's included, and has the coordinator's tasks look.
    pub(crate) fn take(&self, from: NodeId, report: Report) {
        self.desk.put(from, report, tokio::time::Instant::now());
        self.nudges.decide();
    }

    /// Takes what the coordinator tells of the others' checks.
    pub(crate) fn heed(&self, others: Others) {
        let mut known = BTreeMap::new();
        for (server, instance, scores) in others.0 {
            let place = self.plan.find(&server);
            let place = place.and_then(|(at, it)| Some((at, it.place(&instance)?)));
            if let Some((server, instance)) = place {
                known.insert(At { server, instance }, scores);
            }
        }
        // This node's vote is another one then, and may be what the others wait for.
        if std::mem::replace(&mut *lock(&self.others), known.clone()) != known {
            self.nudges.report.nudge();
        }
    }

    pub(crate) fn others(&self, at: At) -> Vec<f64> {
        lock(&self.others).get(&at).cloned().unwrap_or_default()
    }

    pub(crate) fn follows(&self, server: usize) -> (u64, u32) {
        lock(&self.follows)[server]
    }

    pub(crate) fn now_follows(&self, server: usize, step: (u64, u32)) {
        lock(&self.follows)[server] = step;
    }

    /// Whether everything of this server's history was announced, or given up.
    pub(crate) fn is_told(&self, server: &str) -> bool {
        let state = self.state();
        let last = state.servers.events.iter().rev().find(|event| event.server == server);
        let told = || self.told.iter().map(|told| told.load(Ordering::Acquire)).min();
        last.is_none_or(|event| event.index <= told().unwrap_or(u64::MAX))
    }

    /// Everything up to this log index was announced to this webhook, or given up.
    pub(crate) fn now_told(&self, webhook: usize, index: u64) {
        self.told[webhook].fetch_max(index, Ordering::AcqRel);
        self.nudges.failover.nudge();
    }

    /// Proposes a change of what is agreed on about servers.
    ///
    /// # Errors
    /// What stood in the way. That the change came too late, or was made already, is none.
    pub(crate) async fn propose(&self, command: ServerCommand) -> Result<Reply, ProposeError> {
        self.group.propose(ControlCommand::Server(command)).await
    }
}

// === impl Nudges ===

impl Nudges {
    /// There is news for whoever decides.
    pub(crate) fn decide(&self) {
        for nudge in [&self.verdict, &self.breakers, &self.failover, &self.objectives] {
            nudge.nudge();
        }
    }

    /// What is agreed on has changed.
    pub(crate) fn agreed(&self) {
        for nudge in std::iter::once(&self.follow).chain(&self.notify) {
            nudge.nudge();
        }
        self.decide();
    }
}

/// How a turn ended whose proposals went like this.
pub(crate) fn concluded(result: Result<(), ProposeError>, pause: Duration) -> Status {
    match result {
        Ok(()) => Status::Settled(pause),
        Err(error) => Status::Failed { why: error.to_string(), retry: RETRY },
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
