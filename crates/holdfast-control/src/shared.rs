//! What the tasks of one node share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_cluster::{Leadership, ProposeError};
use holdfast_config::Webhook;
use holdfast_engine::health::aside::Aside;
use holdfast_engine::health::node::{Finding, Measure};
use holdfast_engine::loss::Loss;
use holdfast_engine::replicated::{
    ClusterState, ControlCommand, MemberState, NodeId, Reply, ServerCommand, ServerHappened,
    ServerState,
};

use crate::desk::{Desk, FRESH};
use crate::driver::{Nudge, Status};
use crate::group::Group;
use crate::looks::Looks;
use crate::metrics::Metrics;
use crate::plan::{Plan, Planned};
use crate::plane::{At, Plane};
use crate::report::{Heard, NodePart, Others, Report};

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

/// In this time every node has told the coordinator what it finds, and was told of the rest: they report once a
/// second.
const ALL_HEARD: Duration = Duration::from_secs(2);

/// When a task that could not do what it had to tries again.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) group: Arc<dyn Group>,
    pub(crate) plane: Arc<dyn Plane>,
    pub(crate) looks: Looks,
    /// Here and in `metrics` is what outlasts a plan.
    pub(crate) desk: Arc<Desk>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) nudges: Nudges,
    others: Mutex<Told>,
    /// Generation and step of the failover that the data plane goes by, by server.
    follows: Mutex<Vec<(u64, u32)>>,
    /// When each breaker last opened; the last place of each server is for its own.
    pub(crate) openings: Mutex<Vec<Vec<Opening>>>,
    /// Since when calls have failed here, by place.
    pub(crate) troubles: Mutex<BTreeMap<At, Trouble>>,
    /// The webhooks, and what each was told.
    pub(crate) webhooks: Vec<(Webhook, Arc<Announcing>)>,
    /// What was found of this node itself, and whether it has stepped aside.
    pub(crate) own: Mutex<(Vec<Finding>, bool)>,
    /// The coordinator's: what each node says of itself, and who is aside, with the term of the book.
    nodes: Mutex<BTreeMap<NodeId, (NodePart, tokio::time::Instant)>>,
    aside: Mutex<Option<(u64, Aside)>>,
    /// The version of the configuration that this node runs; 0: none of the group's.
    runs: Arc<AtomicU64>,
    /// The term in which this node coordinates without that, and since when.
    behind: Mutex<Option<(u64, tokio::time::Instant)>>,
    /// The version for which this node last handed over, how often, and when: also in earlier terms.
    handed_over: Arc<Mutex<Option<(u64, u32, tokio::time::Instant)>>>,
    pulse: Mutex<Pulse>,
    /// What clients of this node lost, until it is in the group's record.
    pub(crate) losses: Arc<Mutex<Vec<Loss>>>,
}

/// What the other nodes say, as the coordinator last told.
#[derive(Default)]
struct Told {
    /// When it last did.
    at: Option<tokio::time::Instant>,
    /// Since when it has, without a pause in which what it had said was of no use any more.
    since: Option<tokio::time::Instant>,
    heard: BTreeMap<At, Heard>,
}

/// What a coordinator may decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mandate {
    /// In this term.
    pub(crate) term: u64,
    /// Also which servers there are, and which instances they have.
    pub(crate) whole: bool,
}

/// Tells whether this process has been running all the time.
#[derive(Clone, Copy)]
struct Pulse {
    beaten: tokio::time::Instant,
    wall: u64,
    /// How often it was frozen.
    gaps: u64,
    /// What comes before this was said before the last gap, and waited to be read.
    deaf_until: tokio::time::Instant,
}

/// When a breaker last opened, in milliseconds since the Unix epoch, and whether it still is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opening {
    pub(crate) at: u64,
    pub(crate) is_open: bool,
}

/// Since when an instance fails this node's calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// Its breaker has been open by the instance's fault.
    pub(crate) open: Option<tokio::time::Instant>,
    /// They have failed, in milliseconds since the Unix epoch.
    pub(crate) failing: Option<u64>,
}

/// How far the history was announced to one webhook.
#[derive(Debug, Default)]
pub(crate) struct Announcing {
    /// The log index up to which this node has announced it.
    told: AtomicU64,
    /// The term in which this node began to announce; and the last line that it has announced.
    pub(crate) since: Mutex<(Option<u64>, Option<Line>)>,
}

/// A line of the history: its log index, and its place among those with the same one.
pub(crate) type Line = (u64, u64);

/// Who is to look when something has changed.
#[derive(Default)]
pub(crate) struct Nudges {
    /// By place.
    pub(crate) probes: BTreeMap<At, Nudge>,
    pub(crate) report: Nudge,
    pub(crate) follow: Nudge,
    pub(crate) verdict: Nudge,
    pub(crate) breakers: Nudge,
    /// By the place of the server; of those that can move.
    pub(crate) failover: BTreeMap<usize, Nudge>,
    pub(crate) node: Nudge,
    pub(crate) notify: Vec<Nudge>,
    pub(crate) objectives: Nudge,
    pub(crate) losses: Nudge,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        plan: Plan,
        group: Arc<dyn Group>,
        plane: Arc<dyn Plane>,
        webhooks: Vec<Webhook>,
    ) -> Arc<Self> {
        let webhooks = webhooks.into_iter().map(|it| (it, Arc::default())).collect();
        Arc::new(Self::of(plan, group, plane, webhooks))
    }

    /// The same node under another plan: what it has found out and heard that still means something.
    pub(crate) fn follow(
        before: &Self,
        plan: Plan,
        plane: Arc<dyn Plane>,
        webhooks: Vec<Webhook>,
    ) -> Arc<Self> {
        let mut known = before.webhooks.clone();
        let announcing = |webhook: &Webhook| {
            let at = known.iter().position(|(it, _)| it.url == webhook.url)?;
            Some(known.swap_remove(at).1)
        };
        // One that is new is told of what happens from here on.
        let new = || {
            let last = before.state().servers.events.back().map_or(0, |event| event.index);
            let since = (before.coordinates(), Some((last, u64::MAX)));
            Arc::new(Announcing { told: AtomicU64::new(last), since: Mutex::new(since) })
        };
        let mut announcing = announcing;
        let webhooks = webhooks.into_iter().map(|webhook| {
            let announcing = announcing(&webhook).unwrap_or_else(new);
            (webhook, announcing)
        });
        let webhooks = webhooks.collect();
        let mut shared = Self::of(plan, Arc::clone(&before.group), plane, webhooks);
        shared.desk = Arc::clone(&before.desk);
        shared.metrics = Arc::clone(&before.metrics);
        shared.own = Mutex::new(lock(&before.own).clone());
        shared.nodes = Mutex::new(lock(&before.nodes).clone());
        shared.aside = Mutex::new(lock(&before.aside).clone());
        shared.runs = Arc::clone(&before.runs);
        shared.behind = Mutex::new(*lock(&before.behind));
        shared.handed_over = Arc::clone(&before.handed_over);
        shared.pulse = Mutex::new(*lock(&before.pulse));
        shared.losses = Arc::clone(&before.losses);
        {
            let (mut others, told) = (lock(&shared.others), lock(&before.others));
            (others.at, others.since) = (told.at, told.since);
        }
        for at in shared.plan.all() {
            let Some(was) = shared.plan.place_in(at, &before.plan) else { continue };
            let look = before.looks.get(was);
            shared.looks.with(at, |it| *it = look);
            lock(&shared.others).heard.insert(at, before.others(was));
            lock(&shared.openings)[at.server][at.instance] =
                lock(&before.openings)[was.server][was.instance];
            let trouble = lock(&before.troubles).get(&was).copied();
            lock(&shared.troubles).extend(trouble.map(|it| (at, it)));
        }
        Arc::new(shared)
    }

    fn of(
        plan: Plan,
        group: Arc<dyn Group>,
        plane: Arc<dyn Plane>,
        webhooks: Vec<(Webhook, Arc<Announcing>)>,
    ) -> Self {
        let probes = plan.all().map(|at| (at, Nudge::default())).collect();
        let moves = |(_, server): &(usize, &Planned)| server.failover.is_some();
        let failover = plan.servers.iter().enumerate().filter(moves);
        let failover = failover.map(|(server, _)| (server, Nudge::default())).collect();
        let closed = |instances: usize| vec![Opening::default(); instances + 1];
        let openings = plan.servers.iter().map(|it| closed(it.instances.len())).collect();
        Self {
            looks: Looks::new(&plan),
            follows: Mutex::new(vec![(0, 0); plan.servers.len()]),
            nudges: Nudges {
                probes,
                failover,
                notify: webhooks.iter().map(|_| Nudge::default()).collect(),
                ..Nudges::default()
            },
            openings: Mutex::new(openings),
            troubles: Mutex::default(),
            desk: Arc::default(),
            metrics: Arc::default(),
            others: Mutex::default(),
            webhooks,
            own: Mutex::default(),
            nodes: Mutex::default(),
            aside: Mutex::default(),
            runs: Arc::default(),
            behind: Mutex::default(),
            handed_over: Arc::default(),
            losses: Arc::default(),
            pulse: Mutex::new(Pulse {
                beaten: tokio::time::Instant::now(),
                wall: group.wall(),
                gaps: 0,
                deaf_until: tokio::time::Instant::now(),
            }),
            plan,
            group,
            plane,
        }
    }

    /// Begins a turn. After a gap in its own clock (the process was frozen, or the machine) this node
    /// knows nothing any more: votes that it has heard are old, its own looks are no rows that go on,
    /// and others may have coordinated. How often that has been.
    ///
    /// Whoever decides calls it first, so that it does not depend on which timer is heard first.
    pub(crate) fn beat(&self) -> u64 {
        let (now, wall) = (tokio::time::Instant::now(), self.group.wall());
        let mut pulse = lock(&self.pulse);
        let gap = now.saturating_duration_since(pulse.beaten);
        // A machine that sleeps may stop the one clock and not the other.
        let slept = Duration::from_millis(wall.saturating_sub(pulse.wall)).saturating_sub(gap);
        (pulse.beaten, pulse.wall) = (now, wall);
        if gap.max(slept) > self.plan.gap {
            (pulse.gaps, pulse.deaf_until) = (pulse.gaps + 1, now + self.plan.gap);
            tracing::warn!(gap_ms = gap.max(slept).as_millis(), "the control plane begins anew");
            self.desk.clear();
            self.looks.begin_anew();
            *lock(&self.others) = Default::default();
            lock(&self.nodes).clear();
            *lock(&self.aside) = None;
        }
        pulse.gaps
    }

    /// Whether what comes now may have been said before the last gap.
    fn is_deaf(&self) -> bool {
        self.beat();
        tokio::time::Instant::now() < lock(&self.pulse).deaf_until
    }

    /// Takes what a node says of itself; whether it may step aside.
    pub(crate) fn hear_of_node(&self, from: NodeId, part: NodePart) -> bool {
        if self.is_deaf() {
            return false;
        }
        let now = tokio::time::Instant::now();
        lock(&self.nodes).insert(from, (part, now));
        let Some(term) = self.coordinates() else { return false };
        let mut book = lock(&self.aside);
        let fresh = || (term, Aside::new(now.into_std()));
        let (of, aside) = book.get_or_insert_with(fresh);
        if *of != term {
            (*of, *aside) = fresh();
        }
        if part.measure < Measure::StepAside as u8 {
            aside.back(from);
            return false;
        }
        let state = self.state();
        let ready = state.members.iter().filter(|(_, it)| it.state == MemberState::Ready);
        let ready: BTreeSet<NodeId> = ready.map(|(node, _)| *node).collect();
        let names: BTreeSet<&str> = state.members.values().map(|it| it.name.as_str()).collect();
        aside.ask(from, &ready, names.len(), now.into_std())
    }

    /// The members to which a node that should not coordinate hands over: ready, and have said lately that
    /// they are better off. `needs`: and run this version of the configuration.
    fn successors(&self, state: &ClusterState, needs: Option<u64>) -> BTreeSet<NodeId> {
        let heard = lock(&self.nodes);
        let is_fit = |node: &NodeId| {
            heard.get(node).is_some_and(|(part, at)| {
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
        let waited = since.elapsed() >= GRACE && !is_there;
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

    /// Takes the report of a node, this one's included, and has the coordinator's tasks look.
    pub(crate) fn take(&self, from: NodeId, report: Report) {
        if self.is_deaf() {
            return;
        }
        self.desk.put(from, report, tokio::time::Instant::now());
        self.nudges.decide();
    }

    /// Takes what the coordinator tells of the others' checks and calls.
    pub(crate) fn heed(&self, others: Others) {
        let mut known: BTreeMap<At, Heard> = BTreeMap::new();
        let place = |server: &str, instance: &str| {
            let (server, planned) = self.plan.find(server)?;
            Some(At { server, instance: planned.place(instance)? })
        };
        for (server, instance, scores) in others.scores {
            if let Some(at) = place(&server, &instance) {
                known.entry(at).or_default().scores = scores;
            }
        }
        for (server, instance, calls) in others.calls {
            if let Some(at) = place(&server, &instance) {
                known.entry(at).or_default().calls.push(calls);
            }
        }
        let news = {
            let others = &mut *lock(&self.others);
            let (now, was_fresh) = (tokio::time::Instant::now(), others.is_fresh());
            others.at = Some(now);
            if !was_fresh {
                others.since = Some(now);
            }
            // What was too old to vote with counts again, the same or not.
            std::mem::replace(&mut others.heard, known.clone()) != known || !was_fresh
        };
        // This node's vote is another one then, and may be what the others wait for.
        if news {
            self.nudges.report.nudge();
        }
    }

    /// What the others say of an instance. Where no coordinator has told of them for some time, nothing: it
    /// may be minutes old by the time that the next one asks for a vote.
    pub(crate) fn others(&self, at: At) -> Heard {
        let others = lock(&self.others);
        others.heard.get(&at).filter(|_| others.is_fresh()).cloned().unwrap_or_default()
    }

    /// Whether the coordinator has told of the others for so long that it has heard of all of them.
    pub(crate) fn knows_the_others(&self) -> bool {
        let others = lock(&self.others);
        others.is_fresh() && others.since.is_some_and(|since| since.elapsed() >= ALL_HEARD)
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
        last.is_none_or(|event| event.index <= self.all_told())
    }

    /// Up to which log index every webhook was told; of none, of everything.
    pub(crate) fn all_told(&self) -> u64 {
        let told = self.webhooks.iter().map(|(_, it)| it.told.load(Ordering::Acquire));
        told.min().unwrap_or(u64::MAX)
    }

    /// Everything up to this log index was announced to this webhook, or given up.
    pub(crate) fn now_told(&self, webhook: usize, index: u64) {
        self.webhooks[webhook].1.told.fetch_max(index, Ordering::AcqRel);
        self.nudges.fail_over();
    }

    /// Whether every node that acts has told this coordinator that it can read such a command. One that could
    /// not would follow the group no more.
    pub(crate) fn all_read(&self, command: &ServerCommand) -> bool {
        let (needs, me, state) = (command.reads(), self.group.me(), self.state());
        let heard = lock(&self.nodes);
        let reads = |node: &NodeId| {
            *node == me || heard.get(node).is_some_and(|(part, _)| part.reads >= needs)
        };
        let acting = state.members.iter().filter(|(_, it)| it.state.may_act());
        acting.map(|(node, _)| node).all(|node| needs == 0 || reads(node))
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

    /// Proposes a change of what is agreed on about servers.
    ///
    /// # Errors
    /// What stood in the way. That the change came too late, or was made already, is none.
    pub(crate) async fn propose(&self, command: ServerCommand) -> Result<Reply, ProposeError> {
        self.group.propose(ControlCommand::Server(command)).await
    }
}

// === impl Told ===

impl Told {
    fn is_fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() <= FRESH)
    }
}

// === impl Nudges ===

impl Nudges {
    /// There is news for whoever decides.
    pub(crate) fn decide(&self) {
        for nudge in [&self.verdict, &self.breakers, &self.objectives] {
            nudge.nudge();
        }
        self.fail_over();
    }

    /// There is news for whoever moves servers.
    pub(crate) fn fail_over(&self) {
        for nudge in self.failover.values() {
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
