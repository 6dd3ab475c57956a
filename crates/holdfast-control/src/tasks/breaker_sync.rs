//! Opens a breaker on every node when more than one node's own evidence says so.
//!
//! Evidence of a node's own network is not in the reports, so one node that is cut off opens nothing for
//! the others. After the group's word has run out each node tries again by itself; an opening that was
//! the reason for the last word is no reason for the next one, and the engine forgets the calls that were.
//!
//! Where a server has one instance, the instance's breaker is opened and not the server's: the two would be
//! one event told twice, and an instance that is added later has done nothing to be refused for.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::ProposeError;
use holdfast_engine::breaker::{ClusterCause, cluster_verdict};
use holdfast_engine::replicated::{
    ClusterState, Origin, OverrideKind, ServerCommand, ServerState, tool_key,
};

use crate::desk::members;
use crate::driver::{Reconciler, Status};
use crate::plan::{Planned, millis};
use crate::report::Of;
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
            let whole = (ids.len() > 1).then_some(Of::Server);
            let instances = ids.iter().map(|id| Of::Instance(id));
            let tools = planned.tools.iter().map(|tool| Of::Tool(tool));
            for of in whole.into_iter().chain(instances).chain(tools) {
                let opening = self.opening(&state, planned, known, of, &members, now, term);
                // What a node could not read it would follow no more: its own breakers open by themselves.
                if let Some(command) = opening.filter(|it| self.shared.all_read(it)) {
                    self.shared.propose(command).await?;
                }
            }
        }
        Ok(())
    }

    /// What has to be proposed about a breaker, if anything.
    #[expect(clippy::too_many_arguments, reason = "one look at everything that decides")]
    fn opening(
        &self,
        state: &ClusterState,
        planned: &Planned,
        known: &ServerState,
        of: Of<'_>,
        members: &[Origin],
        now: u64,
        term: u64,
    ) -> Option<ServerCommand> {
        let rules = planned.breaker?;
        let key = match of {
            Of::Server => String::new(),
            Of::Instance(id) => id.to_owned(),
            Of::Tool(tool) => tool_key(tool),
        };
        if known.forced(&key, now).is_some() {
            return None;
        }
        let last = known.breakers.get(&key).map_or(0, |it| it.since);
        let evidence = self.shared.desk.evidence(&planned.name, of, members, last);
        let why = match cluster_verdict(&evidence, &rules.params)? {
            ClusterCause::Nodes(nodes) => {
                format!("it is open on {nodes} of {} nodes", members.len())
            }
            ClusterCause::SummedRate { failed, calls } => {
                format!("{failed} of {calls} calls of all nodes failed")
            }
        };
        let me = state.members.get(&self.shared.group.me());
        let by = me.map(|member| member.name.clone()).unwrap_or_default();
        let (server, until) = (planned.name.clone(), now.saturating_add(millis(rules.open_for)));
        Some(match of {
            Of::Tool(tool) => {
                ServerCommand::OpenTool { server, tool: tool.to_owned(), until, by, why, term }
            }
            Of::Server | Of::Instance(_) => ServerCommand::Breaker {
                server,
                instance: key,
                kind: Some(OverrideKind::Opened),
                generation: None,
                until: Some(until),
                by,
                why,
                term: Some(term),
            },
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
