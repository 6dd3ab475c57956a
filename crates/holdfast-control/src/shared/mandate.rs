//! What a node may decide for all, and say to all: by who coordinates, which configuration it runs, and what
//! the others know.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_cluster::Leadership;
use holdfast_engine::health::node::Measure;
use holdfast_engine::replicated::{
    ClusterState, MemberState, NodeId, Origin, READS, ServerCommand, ServerHappened,
};

use super::{Known, Shared, lock};
use crate::desk::members;

/// How long a coordinator that does not run the configuration that holds decides nothing, for another node
/// to take its place; and how long a server is kept that is not configured any more.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// How long a coordinator may take to take a version over before another node is to coordinate.
const OVERDUE: Duration = Duration::from_secs(3);
/// Between the first two times that it hands over for that; each doubles it, up to the longest.
const HANDS_OVER_AGAIN: Duration = Duration::from_secs(5);
const HANDS_OVER_AT_MOST: Duration = Duration::from_secs(60);
/// What a node says of itself counts for so long.
const HEARD_OF: Duration = Duration::from_secs(10);

/// What a coordinator may decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mandate {
    /// In this term.
    pub(crate) term: u64,
    /// Also which servers there are, and which instances they have.
    pub(crate) whole: bool,
}

// === impl Shared ===

impl Shared {
    /// The members to which a node that should not coordinate hands over: ready, and have said lately that
    /// they are better off. `needs`: and run this version of the configuration.
    fn successors(&self, state: &ClusterState, needs: Option<u64>) -> BTreeSet<NodeId> {
        let heard = lock(&self.nodes);
        let is_fit = |node: &NodeId| {
            heard.get(node).is_some_and(|Known { part, at, .. }| {
                at.elapsed() < HEARD_OF
                    && part.measure < Measure::HandOver as u8
                    && needs.is_none_or(|needs| part.runs == needs)
            })
        };
        let ready = state.members.iter().filter(|(_, it)| it.state == MemberState::Ready);
        let others = ready.map(|(node, _)| *node).filter(|node| *node != self.group.me());
        others.filter(is_fit).collect()
    }

    /// The other members that are no successors; none if nobody is one. `needs`: the version that a
    /// successor has to run; else it may do without where this node does.
    pub(crate) fn who_is_not_better_off(&self, needs: Option<u64>) -> Option<BTreeSet<NodeId>> {
        let state = self.state();
        let needs = needs.or_else(|| self.holds(&state).filter(|holds| *holds == self.runs()));
        let successors = self.successors(&state, needs);
        let others = state.members.keys().filter(|node| **node != self.group.me());
        let ill = others.filter(|node| !successors.contains(node)).copied();
        (!successors.is_empty()).then(|| ill.collect())
    }

    /// The term in which this node coordinates, if it does.
    pub(crate) fn coordinates(&self) -> Option<u64> {
        let Leadership { term, me, .. } = *self.group.leadership().borrow();
        me.then_some(term)
    }

    /// What this node may begin for all, if it coordinates. It decides by its own configuration; so it
    /// may where that is what the group agreed on. Where it is not, another node that has it is to
    /// coordinate; after [`GRACE`] in which none could, it may decide about what the group knows as it does.
    pub(crate) fn mandate(&self) -> Option<Mandate> {
        let term = self.coordinates()?;
        let state = self.state();
        if !self.is_behind(&state) {
            *lock(&self.behind) = None;
            return Some(Mandate { term, whole: true });
        }
        let since = self.behind_since(term);
        let holds = self.holds(&state);
        let is_there = holds.is_some_and(|holds| {
            let tried = lock(&self.handed_over).is_some_and(|(of, ..)| of == holds);
            !tried && !self.successors(&state, Some(holds)).is_empty()
        });
        // One that has never agreed on a version will not do so in these seconds either: whoever coordinated
        // before has waited for it, and told the group of servers all the same.
        let never = holds.is_none() && !state.servers.by_name.is_empty();
        let waited = (never || since.elapsed() >= GRACE) && !is_there;
        // Where nothing was agreed on at all, there is nothing that its own may fall short of.
        waited.then_some(Mandate { term, whole: holds.is_none() })
    }

    /// The version for which another node is to coordinate now, since this one has not taken it over; not
    /// again and again where the one that has it cannot lead.
    pub(crate) fn is_overdue(&self) -> Option<u64> {
        let term = self.coordinates()?;
        let state = self.state();
        let holds = self.holds(&state).filter(|_| self.is_behind(&state))?;
        let rests = lock(&self.handed_over).is_some_and(|(of, times, at)| {
            let pause = HANDS_OVER_AGAIN.saturating_mul(1 << times.saturating_sub(1).min(4));
            of == holds && at.elapsed() < pause.min(HANDS_OVER_AT_MOST)
        });
        (!rests && self.behind_since(term).elapsed() >= OVERDUE).then_some(holds)
    }

    /// It is handed over for this version.
    pub(crate) fn now_hands_over(&self, version: u64) {
        let mut last = lock(&self.handed_over);
        let times = last.filter(|(of, ..)| *of == version).map_or(0, |(_, times, _)| times);
        *last = Some((version, times.saturating_add(1), tokio::time::Instant::now()));
    }

    /// The version of the configuration that this node runs; 0: none of the group's.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Acquire)
    }

    pub(crate) fn now_runs(&self, version: u64) {
        self.runs.store(version, Ordering::Release);
        self.nudges.node.nudge();
        self.nudges.decide();
    }

    /// The version that the group agreed on, where nodes agree on versions.
    fn holds(&self, state: &ClusterState) -> Option<u64> {
        let holds = state.servers.configuration().filter(|_| self.plan.together);
        holds.map(|it| it.version)
    }

    /// A node that has just been started does not know yet what was agreed on.
    fn is_behind(&self, state: &ClusterState) -> bool {
        self.plan.together && self.holds(state).is_none_or(|holds| holds != self.runs())
    }

    fn behind_since(&self, term: u64) -> tokio::time::Instant {
        let mut behind = lock(&self.behind);
        let known = behind.filter(|(of, _)| *of == term).map(|(_, since)| since);
        let since = known.unwrap_or_else(tokio::time::Instant::now);
        *behind = Some((term, since));
        since
    }

    /// Whether every node that acts has told this coordinator that it can read such a command. One that could
    /// not would follow the group no more.
    pub(crate) fn all_read(&self, command: &ServerCommand) -> bool {
        self.all_of_them_read(&self.state()).0 >= command.reads()
    }

    /// What all members read that act, by what each has told this coordinator in its present life, and who they
    /// are.
    pub(super) fn all_of_them_read(&self, state: &ClusterState) -> (u32, Vec<Origin>) {
        let (me, acting) = (self.group.me(), members(state));
        let heard = lock(&self.nodes);
        let reads = |member: &Origin| match heard.get(&member.node) {
            _ if member.node == me => READS,
            Some(known) if known.generation == member.generation => known.part.reads,
            Some(_) | None => 0,
        };
        (acting.iter().map(reads).min().unwrap_or(READS), acting)
    }

    /// Takes what the coordinator tells that all nodes read.
    pub(crate) fn heed_what_is_read(&self, all_read: (u32, Vec<Origin>)) {
        {
            let mut known = lock(&self.all_read);
            // A new coordinator has heard of nobody yet. What was known of these lives holds as long as they do.
            let is_less = all_read.0 < known.0 && all_read.1.iter().all(|it| known.1.contains(it));
            if !is_less {
                *known = all_read;
            }
        }
        self.tell_what_is_read();
    }

    /// Has the data plane know what all nodes read. The coordinator spoke of the members that it knew: one that is
    /// new since may be of another version.
    pub(crate) fn tell_what_is_read(&self) {
        let members = members(&self.state());
        let told = lock(&self.all_read);
        let known = members.iter().all(|member| told.1.contains(member));
        let reads = if known { told.0 } else { 0 };
        self.reads.store(reads, Ordering::Release);
        self.plane.all_read(reads);
    }

    /// The coordinator's line for the record, refused where what it is about is past; of a cluster in which a
    /// node does not know such lines, one that is not. `outage`: the one that it is about, by its index.
    pub(crate) fn remark(
        &self,
        server: &str,
        instance: &str,
        what: ServerHappened,
        evidence: String,
        outage: Option<u64>,
        term: u64,
    ) -> ServerCommand {
        let (server, instance) = (server.to_owned(), instance.to_owned());
        let note = ServerCommand::Note {
            server: server.clone(),
            instance: instance.clone(),
            what,
            evidence: evidence.clone(),
        };
        let remark = ServerCommand::Remark { server, instance, what, evidence, outage, term };
        if self.all_read(&remark) { remark } else { note }
    }
}
