//! Opens a breaker on every node when more than one node's own evidence says so.
//!
//! Evidence of a node's own network is not in the reports, so one node that is cut off opens nothing for
//! the others. After the group's word has run out each node tries again by itself; an opening that was
//! the reason for the last word is no reason for the next one, and the engine forgets the calls that were.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::ProposeError;
use holdfast_engine::breaker::{ClusterCause, cluster_verdict};
use holdfast_engine::replicated::{ClusterState, Origin, OverrideKind, ServerCommand, ServerState};

use crate::desk::members;
use crate::driver::{Reconciler, Status};
use crate::plan::{Planned, millis};
use crate::shared::{Shared, concluded};

/// Reports nudge; this is for a nudge that was lost.
const EVERY: Duration = Duration::from_secs(2);

pub(crate) struct BreakerSync {
    shared: Arc<Shared>,
}

// === impl BreakerSync ===

impl BreakerSync {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn decide(&self, term: u64) -> Result<(), ProposeError> {
        let state = self.shared.state();
        let (members, now) = (members(&state), self.shared.group.time());
        for planned in &self.shared.plan.servers {
            let Some(known) = state.servers.by_name.get(&planned.name) else { continue };
            let ids = planned.ids();
            for instance in std::iter::once("").chain(ids.iter().map(String::as_str)) {
                let opening = self.opening(&state, planned, known, instance, &members, now, term);
                if let Some(command) = opening {
                    self.shared.propose(command).await?;
                }
            }
        }
        Ok(())
    }

    /// What has to be proposed about a breaker, if anything; the empty name is the server's own.
    #[expect(clippy::too_many_arguments, reason = "one look at everything that decides")]
    fn opening(
        &self,
        state: &ClusterState,
        planned: &Planned,
        known: &ServerState,
        instance: &str,
        members: &[Origin],
        now: u64,
        term: u64,
    ) -> Option<ServerCommand> {
        let rules = planned.breaker?;
        if known.forced(instance, now).is_some() {
            return None;
        }
        let last = known.breakers.get(instance).map_or(0, |it| it.since);
        let name = (!instance.is_empty()).then_some(instance);
        let evidence = self.shared.desk.evidence(&planned.name, name, members, last);
        let why = match cluster_verdict(&evidence, &rules.params)? {
            ClusterCause::Nodes(nodes) => {
                format!("it is open on {nodes} of {} nodes", members.len())
            }
            ClusterCause::SummedRate { failed, calls } => {
                format!("{failed} of {calls} calls of all nodes failed")
            }
        };
        let me = state.members.get(&self.shared.group.me());
        Some(ServerCommand::Breaker {
            server: planned.name.clone(),
            instance: instance.to_owned(),
            kind: Some(OverrideKind::Opened),
            generation: None,
            until: Some(now.saturating_add(millis(rules.open_for))),
            by: me.map(|member| member.name.clone()).unwrap_or_default(),
            why,
            term: Some(term),
        })
    }
}

impl Reconciler for BreakerSync {
    const NAME: &'static str = "breaker_sync";

    async fn activate(&mut self) -> Status {
        self.shared.beat();
        let Some(may) = self.shared.mandate() else { return Status::Settled(EVERY) };
        concluded(self.decide(may.term).await, EVERY)
    }
}
