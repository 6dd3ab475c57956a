//! The control plane of one node: starts the tasks, hears the other nodes, and obeys operators.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::ProposeError;
use holdfast_config::Webhook;
use holdfast_engine::failover::{Input, Refusal};
use holdfast_engine::replicated::{
    ClusterState, NodeId, OverrideKind, READS, Reply, ServerCommand, tool_key,
};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::{Nudge, Reconciler, run};
use crate::group::{COMPARE, Group, LOSS, NODE, ORDER, REPORT};
use crate::machine::{Machine, Senses};
use crate::operate::{EventView, Force, IncidentView, Operated, Order, OrderError, ServerView};
use crate::plan::{Plan, Planned};
use crate::plane::Plane;
use crate::report::{NodePart, Report, decode, decode_long, encode, encode_long};
use crate::shared::{Mandate, Shared, lock};
use crate::tasks::breaker_sync::BreakerSync;
use crate::tasks::failover::{Mover, wish};
use crate::tasks::follow::Follow;
use crate::tasks::losses::{Cost, Losses};
use crate::tasks::node::NodeWatch;
use crate::tasks::notify::Notify;
use crate::tasks::objectives::Objectives;
use crate::tasks::probe::Probe;
use crate::tasks::report::Reporter;
use crate::tasks::verdict::{Verdicts, is_defined};
use crate::view;

/// How long an order may take to be agreed on.
const ORDER_WITHIN: Duration = Duration::from_secs(3);
/// How long a majority is waited for before an order is refused.
const QUORUM_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked for.
const QUORUM_LOOK: Duration = Duration::from_millis(50);
/// How long this node may take to hear what the group has agreed on.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// Why a coordinator carries out no order that moves a server.
const BEHIND: &str = "the coordinator does not run the cluster's configuration yet, and lets another \
                      node coordinate that does: try again";
/// Why one does not move a server about which it and the group do not know the same.
const OTHERWISE: &str =
    "the cluster knows it with other instances than the coordinator's configuration";
/// Why no tool's breaker is held.
const NOT_ALL: &str = "not every node has said that it knows breakers of tools: one may be of an earlier \
                       version, or has just been started: try again in some seconds";
/// A step that overtakes an order has it decided anew, so often.
const AGAIN: usize = 3;

/// The control plane of one node.
pub struct Control {
    running: Mutex<Running>,
    /// Of every plan that there was.
    tasks: TaskTracker,
    stop: CancellationToken,
    tls: Arc<rustls::ClientConfig>,
}

/// Its tasks under one plan.
struct Running {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// Another plan, which the control plane can go by at once.
#[must_use = "nothing is taken over before it is committed"]
pub struct Prepared {
    plan: Plan,
    plane: Arc<dyn Plane>,
    webhooks: Vec<Webhook>,
}

// === impl Control ===

impl Control {
    /// Starts its tasks on the present runtime. They run until [`Self::stop`].
    #[must_use]
    pub fn start(
        plan: Plan,
        group: Arc<dyn Group>,
        plane: Arc<dyn Plane>,
        webhooks: Vec<Webhook>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Arc<Self> {
        let machine = machine_of(&plan);
        Self::start_on(machine, plan, group, plane, webhooks, tls)
    }

    /// The same on this machine.
    pub(crate) fn start_on(
        machine: Box<dyn Senses>,
        plan: Plan,
        group: Arc<dyn Group>,
        plane: Arc<dyn Plane>,
        webhooks: Vec<Webhook>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Arc<Self> {
        let shared = Shared::new(plan, group, plane, webhooks);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let running = Running::start(machine, shared, &tasks, stop.child_token(), &tls);
        Arc::new(Self { running: Mutex::new(running), tasks, stop, tls })
    }

    /// Another plan, for the servers that `plane` has. Nothing of it is done yet.
    pub fn prepare(&self, plan: Plan, plane: Arc<dyn Plane>, webhooks: Vec<Webhook>) -> Prepared {
        Prepared { plan, plane, webhooks }
    }

    /// Goes by another plan from here on. What was found out about an instance that is still there is
    /// known of it under this one as well, and what the nodes have told each other too; a task that is in
    /// the middle of something is dropped, and its successor begins from what is. To be called on the
    /// runtime of [`Self::start`].
    pub fn commit(&self, prepared: Prepared) {
        let Prepared { plan, plane, webhooks } = prepared;
        let mut running = lock(&self.running);
        running.stop.cancel();
        let shared = Shared::follow(&running.shared, plan, plane, webhooks);
        let (machine, stop) = (machine_of(&shared.plan), self.stop.child_token());
        *running = Running::start(machine, shared, &self.tasks, stop, &self.tls);
    }

    /// What it goes by is this version of the configuration that the group agreed on: from here on it may
    /// decide for the others, should it coordinate.
    pub fn runs(&self, version: u64) {
        self.shared().now_runs(version);
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&lock(&self.running).shared)
    }

    /// Answers what another node's control plane says; `None`: it is not meant for a control plane.
    pub async fn receive(
        &self,
        from: NodeId,
        method: &str,
        body: &[u8],
    ) -> Option<Result<Bytes, String>> {
        match method {
            REPORT => Some(self.hear(from, body)),
            ORDER => Some(self.obey(body).await),
            NODE => Some(self.hear_of_node(from, body)),
            LOSS => Some(self.hear_of_loss(body).await),
            COMPARE => Some(self.compare(body).await),
            _ => None,
        }
    }

    /// Ends the tasks and waits for them.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn hear(&self, from: NodeId, body: &[u8]) -> Result<Bytes, String> {
        let (shared, report): (_, Report) = (self.shared(), decode_long(body)?);
        shared.take(from, report);
        encode_long(shared.desk.others(from)).map(Bytes::from)
    }

    fn hear_of_node(&self, from: NodeId, body: &[u8]) -> Result<Bytes, String> {
        let part: NodePart = decode_long(body)?;
        encode_long(self.shared().hear_of_node(from, part)).map(Bytes::from)
    }

    async fn hear_of_loss(&self, body: &[u8]) -> Result<Bytes, String> {
        let cost: Cost = decode(body)?;
        self.shared().lose(&cost).await?;
        encode(&()).map(Bytes::from)
    }

    async fn compare(&self, body: &[u8]) -> Result<Bytes, String> {
        let wanted = decode(body)?;
        encode(&crate::compare::compare(&self.shared(), &wanted).await).map(Bytes::from)
    }

    /// An operator's order that another node has passed on.
    async fn obey(&self, body: &[u8]) -> Result<Bytes, String> {
        let (order, by): (Order, String) = decode(body)?;
        let done = self.carry_out(&order, &by).await;
        encode(&done).map(Bytes::from)
    }

    /// Carries out an order, or has the coordinator do it.
    async fn carry_out(&self, order: &Order, by: &str) -> Result<(), OrderError> {
        let shared = &*self.shared();
        if let Order::Breaker { instance, force, .. } = order {
            let planned = planned(shared, order.server())?;
            return self::force(shared, planned, instance.as_deref(), *force, by).await;
        }
        if shared.coordinates().is_none() {
            planned(shared, order.server())?;
            return pass_on(shared, order, by).await;
        }
        if let Order::ToolBreaker { server, tool, force } = order {
            return force_tool(shared, planned(shared, server)?, tool, *force, by).await;
        }
        let Some(Mandate { term, .. }) = shared.mandate() else {
            let server = order.server().to_owned();
            return Err(OrderError::Refused { server, why: BEHIND.to_owned() });
        };
        let planned = planned(shared, order.server())?;
        let input = match order {
            Order::FailOver { to, .. } => {
                if let Some(to) = to {
                    instance_of(planned, to)?;
                }
                Input::Move { to: to.clone(), by: by.to_owned(), force: false }
            }
            Order::ForceOver { to, .. } => {
                instance_of(planned, to)?;
                Input::Move { to: Some(to.clone()), by: by.to_owned(), force: true }
            }
            Order::FailBack { .. } => Input::Back { by: by.to_owned(), at_once: false },
            Order::BackAtOnce { .. } => Input::Back { by: by.to_owned(), at_once: true },
            Order::Breaker { .. } | Order::ToolBreaker { .. } => return Ok(()),
        };
        for _ in 0..AGAIN {
            if move_server(shared, planned, &input, term).await? {
                return Ok(());
            }
        }
        Err(OrderError::TimedOut)
    }
}

// === impl Running ===

impl Running {
    /// Starts the tasks of a plan.
    fn start(
        machine: Box<dyn Senses>,
        shared: Arc<Shared>,
        tasks: &TaskTracker,
        stop: CancellationToken,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Self {
        let this = Self { shared: Arc::clone(&shared), stop };
        let nudges = &shared.nudges;
        for (at, nudge) in &nudges.probes {
            if shared.plan.servers[at.server].health.enabled {
                this.spawn(tasks, Probe::new(Arc::clone(&shared), *at), nudge);
            }
        }
        this.spawn(tasks, Reporter::new(Arc::clone(&shared)), &nudges.report);
        this.spawn(tasks, Follow::new(Arc::clone(&shared)), &nudges.follow);
        this.spawn(tasks, Losses::new(Arc::clone(&shared)), &nudges.losses);
        this.spawn(tasks, Verdicts::new(Arc::clone(&shared)), &nudges.verdict);
        this.spawn(tasks, BreakerSync::new(Arc::clone(&shared)), &nudges.breakers);
        for (server, nudge) in &nudges.failover {
            this.spawn(tasks, Mover::new(Arc::clone(&shared), *server), nudge);
        }
        this.spawn(tasks, NodeWatch::new(Arc::clone(&shared), machine), &nudges.node);
        this.spawn(tasks, Objectives::new(Arc::clone(&shared)), &nudges.objectives);
        for (place, nudge) in nudges.notify.iter().enumerate() {
            let notify = Notify::new(Arc::clone(&shared), place, Arc::clone(tls));
            this.spawn(tasks, notify, nudge);
        }
        tasks.spawn(watch(Arc::clone(&shared), this.stop.clone()));
        tasks.spawn(keep_beating(shared, this.stop.clone()));
        this
    }

    fn spawn<R: Reconciler + 'static>(&self, tasks: &TaskTracker, reconciler: R, nudge: &Nudge) {
        let turns = self.shared.metrics.turns(R::NAME);
        tasks.spawn(run(reconciler, nudge.clone(), turns, self.stop.clone()));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Operated for Control {
    fn servers(&self) -> Vec<ServerView> {
        let shared = self.shared();
        let state = shared.state();
        let places = 0..shared.plan.servers.len();
        places.map(|place| view::server(&shared, &state, place)).collect()
    }

    fn events(&self, limit: usize) -> Vec<EventView> {
        self.shared().group.events(limit).iter().map(view::event).collect()
    }

    fn incidents(&self) -> Vec<IncidentView> {
        let shared = self.shared();
        let state = shared.state();
        let now = state.time.max(shared.group.time());
        view::incidents(&shared.plan, &state, now)
    }

    fn order(&self, order: Order) -> BoxFuture<'_, Result<(), OrderError>> {
        Box::pin(async move {
            let shared = self.shared();
            let me = shared.group.me();
            let node = shared.state().members.get(&me).map(|member| member.name.clone());
            let by = format!("an operator at {}", node.unwrap_or_default());
            let before = step_of(&shared.state(), order.server());
            if !comes_to_quorum(&shared).await {
                planned(&shared, order.server())?;
                return Err(minority(&shared, false).await);
            }
            let carried = tokio::time::timeout(ORDER_WITHIN, self.carry_out(&order, &by));
            match carried.await.unwrap_or(Err(OrderError::TimedOut)) {
                // It went meanwhile: that is what nobody answers for.
                Err(OrderError::TimedOut) if !shared.group.has_quorum() => {
                    return Err(minority(&shared, true).await);
                }
                Err(OrderError::NoQuorum) => return Err(minority(&shared, false).await),
                carried => carried?,
            }
            if !matches!(order, Order::Breaker { .. } | Order::ToolBreaker { .. }) {
                // Whoever asks this node next is to see what was ordered.
                let mut state = shared.group.state();
                let seen = state.wait_for(|state| step_of(state, order.server()) > before);
                let _ = tokio::time::timeout(SEEN_WITHIN, seen).await;
            }
            Ok(())
        })
    }

    fn render(&self, out: &mut String) {
        let shared = self.shared();
        let state = shared.state();
        let now = state.time.max(shared.group.time());
        shared.metrics.render(out);
        {
            let (findings, aside) = &*lock(&shared.own);
            crate::metrics::render_node(findings, *aside, out);
        }
        crate::metrics::render_reads(shared.reads.load(Ordering::Acquire) >= READS, out);
        crate::metrics::render_servers(&self.servers(), out);
        crate::metrics::render_incidents(&view::incidents(&shared.plan, &state, now), out);
    }
}

/// The machine that this process runs on, as far as the plan looks at it.
fn machine_of(plan: &Plan) -> Box<dyn Senses> {
    let node = &plan.node;
    Box::new(Machine::new(node.data_dir.clone(), node.certificates.clone()))
}

/// Between the turns of those who decide.
async fn keep_beating(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(shared.plan.gap / 8);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                shared.beat();
            }
        }
    }
}

/// Whether the order was taken in; otherwise the server's state has changed meanwhile.
async fn move_server(
    shared: &Shared,
    planned: &Planned,
    input: &Input,
    term: u64,
) -> Result<bool, OrderError> {
    let server = planned.name.clone();
    if planned.failover.is_none() {
        return Err(OrderError::NoSecondary { server });
    }
    let state = shared.state();
    let Some(known) = state.servers.by_name.get(&server) else {
        return Err(OrderError::TooEarly { server });
    };
    if !is_defined(&state, planned) {
        return Err(OrderError::Refused { server, why: OTHERWISE.to_owned() });
    }
    let next = wish(shared, planned, known, input, term);
    let next = next.map_err(|refusal| refused(refusal, planned, known, input))?;
    let failover = &known.failover;
    let command = ServerCommand::Failover {
        server,
        follows: (failover.generation, failover.step),
        next: Box::new(next),
        evidence: String::new(),
        term,
    };
    let reply = shared.propose(command).await.map_err(unheard)?;
    shared.nudges.fail_over();
    Ok(matches!(reply, Reply::Done { .. }))
}

async fn force(
    shared: &Shared,
    planned: &Planned,
    instance: Option<&str>,
    force: Force,
    by: &str,
) -> Result<(), OrderError> {
    if let Some(instance) = instance {
        instance_of(planned, instance)?;
    }
    let command = ServerCommand::Breaker {
        server: planned.name.clone(),
        instance: instance.unwrap_or_default().to_owned(),
        kind: kept_at(force),
        generation: None,
        until: None,
        by: by.to_owned(),
        why: String::new(),
        term: None,
    };
    keep(shared, planned, command).await
}

/// The same with the breaker of a tool. The coordinator does it, since it knows whether all nodes know that
/// there is such a word.
async fn force_tool(
    shared: &Shared,
    planned: &Planned,
    tool: &str,
    force: Force,
    by: &str,
) -> Result<(), OrderError> {
    let server = planned.name.clone();
    // What is held and configured no more can be let go.
    let state = shared.state();
    let kept = state.servers.by_name.get(&server);
    let is_held = kept.is_some_and(|it| it.breakers.contains_key(&tool_key(tool)));
    let may_be = force == Force::Clear && is_held;
    if !may_be && !planned.tools.iter().any(|it| it == tool) {
        let known = planned.tools.clone();
        return Err(OrderError::UnknownTool { server, tool: tool.to_owned(), known });
    }
    let kind = kept_at(force);
    let (tool, by) = (tool.to_owned(), by.to_owned());
    let command = ServerCommand::Tool { server: server.clone(), tool, kind, by };
    if !shared.all_read(&command) {
        return Err(OrderError::NotHeld { server, why: NOT_ALL.to_owned() });
    }
    keep(shared, planned, command).await
}

fn kept_at(force: Force) -> Option<OverrideKind> {
    match force {
        Force::Open => Some(OverrideKind::ForcedOpen),
        Force::Closed => Some(OverrideKind::ForcedClosed),
        Force::Clear => None,
    }
}

async fn keep(
    shared: &Shared,
    planned: &Planned,
    command: ServerCommand,
) -> Result<(), OrderError> {
    let server = planned.name.clone();
    match shared.propose(command).await.map_err(unheard)? {
        Reply::Done { .. } => Ok(()),
        Reply::Unknown => Err(OrderError::TooEarly { server }),
        Reply::Invalid(invalid) => Err(OrderError::NotHeld { server, why: invalid.to_string() }),
        other => Err(OrderError::NotHeld { server, why: format!("{other:?}") }),
    }
}

async fn pass_on(shared: &Shared, order: &Order, by: &str) -> Result<(), OrderError> {
    let leader = shared.group.leadership().borrow().leader;
    let leader = leader.ok_or(OrderError::NoQuorum)?;
    let body = encode(&(order, by)).map_err(|_| OrderError::TimedOut)?;
    let answer = shared.group.call(leader, ORDER, body.into()).await;
    let answer = answer.map_err(|_| OrderError::TimedOut)?;
    decode::<Result<(), OrderError>>(&answer).unwrap_or(Err(OrderError::TimedOut))
}

/// Whether there is a majority, or is in a moment: a node that has just been started, or was short of time, has not heard
/// of it yet.
async fn comes_to_quorum(shared: &Shared) -> bool {
    let until = Instant::now() + QUORUM_WITHIN;
    while !shared.group.has_quorum() {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(QUORUM_LOOK).await;
    }
    true
}

/// There is no majority; and who does not answer.
async fn minority(shared: &Shared, is_sent: bool) -> OrderError {
    OrderError::Minority { silent: shared.group.silent().await, is_sent }
}

fn planned<'a>(shared: &'a Shared, server: &str) -> Result<&'a Planned, OrderError> {
    let found = shared.plan.find(server).map(|(_, planned)| planned);
    found.ok_or_else(|| OrderError::UnknownServer {
        server: server.to_owned(),
        known: shared.plan.names(),
    })
}

/// Nudges whoever has to look when the group's state, the coordinator, or a breaker here has changed.
async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let (mut state, mut leadership) = (shared.group.state(), shared.group.leadership());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                state.mark_unchanged();
                shared.nudges.agreed();
            }
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
                leadership.mark_unchanged();
                // A new coordinator has heard nothing yet.
                shared.nudges.report.nudge();
                shared.nudges.node.nudge();
                shared.nudges.agreed();
            }
            suspects = shared.plane.changed() => {
                shared.nudges.report.nudge();
                for at in suspects {
                    if let Some(nudge) = shared.nudges.probes.get(&at) {
                        nudge.nudge();
                    }
                }
            }
        }
    }
}

/// Generation and step of a server's failover.
fn step_of(state: &ClusterState, server: &str) -> Option<(u64, u32)> {
    let failover = &state.servers.by_name.get(server)?.failover;
    Some((failover.generation, failover.step))
}

fn instance_of(planned: &Planned, instance: &str) -> Result<(), OrderError> {
    planned.place(instance).map(|_| ()).ok_or_else(|| OrderError::UnknownInstance {
        server: planned.name.clone(),
        instance: instance.to_owned(),
        known: planned.ids(),
    })
}

fn refused(
    refusal: Refusal,
    planned: &Planned,
    known: &holdfast_engine::replicated::ServerState,
    input: &Input,
) -> OrderError {
    let server = planned.name.clone();
    match (refusal, known.failover.moving()) {
        (Refusal::Busy, Some(moving)) => OrderError::Running {
            server,
            to: moving.to.clone(),
            stage: moving.stage.label().into(),
        },
        (Refusal::Already, _) => {
            OrderError::There { server, instance: known.failover.active.clone() }
        }
        (refusal, _) => {
            let target = match input {
                Input::Move { to: Some(to), .. } => Some(to.as_str()),
                Input::Back { .. } => Some(planned.primary()),
                _ => None,
            };
            let verdict = target.and_then(|id| planned.verdict(known, id));
            let why = match verdict {
                Some(verdict) if !verdict.why.is_empty() => format!("{refusal} ({})", verdict.why),
                Some(_) | None => refusal.to_string(),
            };
            OrderError::Refused { server, why }
        }
    }
}

fn unheard(error: ProposeError) -> OrderError {
    match error {
        ProposeError::Unavailable | ProposeError::Fenced => OrderError::NoQuorum,
        ProposeError::Unknown => OrderError::TimedOut,
    }
}
