//! What the tasks of one node share.

mod mandate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_cluster::ProposeError;
use holdfast_config::Webhook;
use holdfast_engine::health::aside::Aside;
use holdfast_engine::health::node::{Finding, Measure};
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::loss::Loss;
use holdfast_engine::replicated::{
    ClusterState, ControlCommand, MemberState, NodeId, Origin, Reply, ServerCommand, ServerState,
    Verdict,
};

pub(crate) use self::mandate::{GRACE, Mandate};
use crate::desk::{Desk, FRESH};
use crate::driver::{Nudge, Status};
use crate::group::Group;
use crate::looks::Looks;
use crate::metrics::Metrics;
use crate::plan::{Plan, Planned};
use crate::plane::{At, Plane};
use crate::report::{Allowed, Heard, NodePart, Others, Report};

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
    /// When each breaker last opened: of each server its instances', its own, and its tools'.
    pub(crate) openings: Mutex<Vec<Vec<Opening>>>,
    /// Since when calls have failed here, by place.
    pub(crate) troubles: Mutex<BTreeMap<At, Trouble>>,
    /// The webhooks, and what each was told.
    pub(crate) webhooks: Vec<(Webhook, Arc<Announcing>)>,
    /// What was found of this node itself, and whether it has stepped aside.
    pub(crate) own: Mutex<(Vec<Finding>, bool)>,
    /// What all nodes read, as far as this one knows (`replicated::READS`).
    pub(crate) reads: AtomicU32,
    /// What the coordinator has told that all nodes read, and of whom.
    all_read: Arc<Mutex<(u32, Vec<Origin>)>>,
    /// The coordinator's: what each node says of itself, and who is aside, with the term of the book.
    nodes: Mutex<BTreeMap<NodeId, Known>>,
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
    /// What the group had found of instances, by server and id, when their checks were switched on again, and
    /// until when it has had no time to find anything else.
    outdated: Mutex<BTreeMap<(String, String), (Verdict, tokio::time::Instant)>>,
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

/// What a node has told of itself.
#[derive(Clone, Copy, Debug)]
struct Known {
    part: NodePart,
    at: tokio::time::Instant,
    /// The generation that it had here then: what it can read is another matter once it was started again.
    generation: u64,
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
    /// What it was told that each outage cost, what that was at the last look, and since when; by the outage's
    /// index.
    pub(crate) costs: Mutex<BTreeMap<u64, Cost>>,
}

/// Writes in doubt and sessions moved that were told; those that were seen; since when these are so many.
pub(crate) type Cost = ((u32, u32), (u32, u32), tokio::time::Instant);

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
            let last = before.state().newest().unwrap_or(0);
            let since = (before.coordinates(), Some((last, u64::MAX)));
            let (told, since) = (AtomicU64::new(last), Mutex::new(since));
            Arc::new(Announcing { told, since, ..Announcing::default() })
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
        shared.all_read = Arc::clone(&before.all_read);
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
        for (server, planned) in shared.plan.servers.iter().enumerate() {
            let Some((was, known)) = before.plan.find(&planned.name) else { continue };
            let (mut all, before) = (lock(&shared.openings), lock(&before.openings));
            // Of what is no instance.
            let (openings, before) = (&mut all[server], &before[was]);
            let (own, own_before) = (planned.instances.len(), known.instances.len());
            openings[own] = before[own_before];
            for (place, tool) in planned.tools.iter().enumerate() {
                if let Some(at) = known.tools.iter().position(|it| it == tool) {
                    openings[own + 1 + place] = before[own_before + 1 + at];
                }
            }
        }
        shared.outdated = Mutex::new(lock(&before.outdated).clone());
        let state = before.state();
        for at in shared.plan.all() {
            let Some(was) = shared.plan.place_in(at, &before.plan) else { continue };
            let planned = &shared.plan.servers[at.server];
            if planned.health.enabled && !before.plan.servers[was.server].health.enabled {
                let (name, id) = (&planned.name, &planned.instances[at.instance].id);
                let found = state.servers.by_name.get(name).and_then(|it| it.verdicts.get(id));
                let key = (name.clone(), id.clone());
                let until = tokio::time::Instant::now() + 2 * shared.plan.round_of(planned);
                lock(&shared.outdated).extend(found.map(|it| (key, (it.clone(), until))));
            } else {
                let look = before.looks.get(was);
                shared.looks.with(at, |it| *it = look);
            }
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
        let closed =
            |it: &Planned| vec![Opening::default(); it.instances.len() + 1 + it.tools.len()];
        let openings = plan.servers.iter().map(closed).collect();
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
            reads: AtomicU32::new(0),
            all_read: Arc::default(),
            nodes: Mutex::default(),
            aside: Mutex::default(),
            runs: Arc::default(),
            behind: Mutex::default(),
            handed_over: Arc::default(),
            losses: Arc::default(),
            outdated: Mutex::default(),
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

    /// Takes what a node says of itself, and answers it.
    pub(crate) fn hear_of_node(&self, from: NodeId, part: NodePart) -> Allowed {
        if self.is_deaf() {
            return Allowed::default();
        }
        let at = tokio::time::Instant::now();
        let state = self.state();
        let generation = state.members.get(&from).map_or(0, |it| it.generation);
        lock(&self.nodes).insert(from, Known { part, at, generation });
        match self.coordinates() {
            None => Allowed::default(),
            Some(term) => Allowed {
                aside: self.may_step_aside(from, part, &state, term),
                all_read: self.all_of_them_read(&state),
            },
        }
    }

    fn may_step_aside(
        &self,
        from: NodeId,
        part: NodePart,
        state: &ClusterState,
        term: u64,
    ) -> bool {
        let now = tokio::time::Instant::now();
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
        let ready = state.members.iter().filter(|(_, it)| it.state == MemberState::Ready);
        let ready: BTreeSet<NodeId> = ready.map(|(node, _)| *node).collect();
        let names: BTreeSet<&str> = state.members.values().map(|it| it.name.as_str()).collect();
        aside.ask(from, &ready, names.len(), now.into_std())
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.group.state().borrow())
    }

    /// What is agreed on about a server, and how it stands; nothing before it was defined.
    pub(crate) fn server(&self, state: &ClusterState, server: usize) -> Option<ServerState> {
        state.servers.by_name.get(&self.plan.servers[server].name).cloned()
    }

    /// The group's verdict on an instance; none without checks. One that was given before they were switched on
    /// again cannot be told from one that was found anew and is the same: it counts once this node's own checks
    /// find so too, or the group has had the time of two votes to find otherwise.
    pub(crate) fn verdict<'a>(
        &self,
        planned: &Planned,
        known: &'a ServerState,
        instance: &str,
    ) -> Option<&'a Verdict> {
        let verdict = planned.verdict(known, instance)?;
        let mut outdated = lock(&self.outdated);
        if outdated.is_empty() {
            return Some(verdict);
        }
        let key = (planned.name.clone(), instance.to_owned());
        let found = || {
            let at =
                At { server: self.plan.find(&planned.name)?.0, instance: planned.place(instance)? };
            self.looks.get(at).own.map(Opinion::of)
        };
        let is_old = outdated.get(&key).is_some_and(|(old, until)| {
            old == verdict && tokio::time::Instant::now() < *until && found() != verdict.opinion
        });
        if is_old {
            return None;
        }
        outdated.remove(&key);
        Some(verdict)
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
        // Who finds it of no use has met what this node may not have: calls, or a new connection.
        let lost = |heard: Option<&Heard>| {
            let ill = |score: &&f64| Opinion::of(**score) == Opinion::Unhealthy;
            heard.map_or(0, |it| it.scores.iter().filter(ill).count())
        };
        let mut suspects = Vec::new();
        let news = {
            let others = &mut *lock(&self.others);
            let is_news = |(at, it): &(&At, &Heard)| lost(Some(*it)) > lost(others.heard.get(*at));
            suspects.extend(known.iter().filter(is_news).map(|(at, _)| *at));
            let (now, was_fresh) = (tokio::time::Instant::now(), others.is_fresh());
            others.at = Some(now);
            if !was_fresh {
                others.since = Some(now);
            }
            // What was too old to vote with counts again, the same or not.
            std::mem::replace(&mut others.heard, known.clone()) != known || !was_fresh
        };
        for probe in suspects.iter().filter_map(|at| self.nudges.probes.get(at)) {
            probe.nudge();
        }
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
