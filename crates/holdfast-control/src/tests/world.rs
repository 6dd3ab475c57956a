//! A cluster that exists here only: one replicated machine, nodes with a control plane each, servers
//! that are up or not, links that can be cut, and coordinators that die where a test says.

mod plane;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::{Leadership, ProposeError};
use holdfast_config::Config;
use holdfast_engine::breaker;
use holdfast_engine::failover::Route;
use holdfast_engine::replicated::{
    Body, ClusterState, Command, ControlCommand, Machine, MemberState, NodeId, Origin, Reply,
    ServerCommand, ServerHappened, ServerState,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Control;
use crate::group::Group;
use crate::machine::{Reading, Senses};
use crate::plan::Plan;
use crate::plane::Plane;
use crate::shared::lock;

pub(crate) use self::plane::FakePlane;

/// Where the group's clock begins, in milliseconds since the Unix epoch.
pub(crate) const BEGAN: u64 = 1_000_000_000_000;

/// When the coordinator dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kill {
    /// Its so-many-th proposal never arrives.
    Before(u64),
    /// It is committed, and nobody hears of that.
    After(u64),
    /// It does not die: another is elected while its first proposal with these words is under way.
    Depose(&'static str),
}

pub(crate) struct World {
    machine: Mutex<Machine>,
    state: watch::Sender<Arc<ClusterState>>,
    term: AtomicU64,
    proposals: AtomicU64,
    /// What nodes have said to each other.
    calls: AtomicU64,
    kill: Mutex<Option<Kill>>,
    /// The stage at which it was.
    killed_at: Mutex<Option<&'static str>>,
    begun: Instant,
    pub(crate) nodes: Vec<Node>,
    /// Whether the nodes agree on configurations.
    together: bool,
    /// Instances that do not answer, by id.
    down: Mutex<BTreeSet<String>>,
    /// Instances that take no new connections, and answer over those that there are.
    shut: Mutex<BTreeSet<String>>,
    /// Instances that take connections and say nothing.
    frozen: Mutex<BTreeSet<String>>,
    /// How long an instance takes to answer a check, where that is long.
    slow: Mutex<BTreeMap<String, Duration>>,
    /// Instances that answer everything but tools.
    hung: Mutex<BTreeSet<String>>,
    /// Instances whose checks pass in part.
    poorly: Mutex<BTreeSet<String>>,
    /// So many checks of a node at an instance are lost.
    lost: Mutex<BTreeMap<(usize, String), u32>>,
    /// Nodes that no election makes the coordinator.
    unelectable: Mutex<BTreeSet<usize>>,
    /// A node reaches nothing behind the gateway.
    blind: Mutex<BTreeSet<usize>>,
    /// A node's calls at an instance fail, though its checks pass.
    fails: Mutex<BTreeSet<(usize, String)>>,
    /// The part of an instance's calls that ends in an error, of all nodes; of the others nobody has enough to say.
    error_rates: Mutex<BTreeMap<String, f64>>,
    /// For how long no call was answered, where calls are.
    answered_ago: Mutex<Duration>,
    /// No client calls a node.
    idle: Mutex<BTreeSet<usize>>,
    /// What an instance answers to a call.
    answers: Mutex<BTreeMap<String, String>>,
}

pub(crate) struct Node {
    leadership: watch::Sender<Leadership>,
    control: OnceLock<Weak<Control>>,
    kept: Mutex<Option<Arc<Control>>>,
    pub(crate) plane: Arc<FakePlane>,
    dead: Mutex<bool>,
    /// So often it finds that it reaches a majority, and then no more.
    quorum_for: Mutex<Option<u32>>,
    /// What the machine that it runs on says.
    pub(crate) machine: FakeMachine,
}

#[derive(Clone, Default)]
pub(crate) struct FakeMachine(pub(crate) Arc<Mutex<Reading>>);

/// A node's place in the world's group.
struct Seat {
    world: Arc<World>,
    node: usize,
}

fn id(node: usize) -> NodeId {
    node as u64 + 1
}

// === impl Node ===

impl Node {
    pub(crate) fn loses_its_coordinator(&self) {
        self.leadership.send_modify(|it| (it.leader, it.me) = (None, false));
    }

    /// It reaches no majority any more, which it finds after it has looked so often; and still takes for the
    /// coordinator whoever it was.
    pub(crate) fn is_cut_off(&self, looks: u32) {
        *lock(&self.quorum_for) = Some(looks);
    }

    /// It says nothing any more; nobody has declared it dead yet.
    pub(crate) fn falls_silent(&self) {
        *lock(&self.dead) = true;
    }
}

// === impl World ===

impl World {
    /// Starts `nodes` nodes with this configuration; the first coordinates.
    pub(crate) fn start(yaml: &str, nodes: usize) -> Arc<Self> {
        Self::start_by(yaml, nodes, false)
    }

    /// The same of nodes that have agreed on this configuration and run it, as the first version.
    pub(crate) fn start_together(yaml: &str, nodes: usize) -> Arc<Self> {
        let world = Self::start_by(yaml, nodes, true);
        let version = world.agree();
        for node in 0..nodes {
            world.control(node).runs(version);
        }
        world
    }

    /// Nodes that would agree on a configuration, and never do.
    pub(crate) fn start_apart(yaml: &str, nodes: usize) -> Arc<Self> {
        Self::start_by(yaml, nodes, true)
    }

    fn start_by(yaml: &str, nodes: usize, together: bool) -> Arc<Self> {
        let config = configuration(yaml);
        let plan = Plan { together, ..Plan::of(&config) };
        let ids: Vec<Vec<String>> = plan.servers.iter().map(|server| server.ids()).collect();
        let node = |node| Node {
            leadership: watch::Sender::default(),
            control: OnceLock::new(),
            kept: Mutex::default(),
            plane: Arc::new(FakePlane { node, ids: ids.clone(), ..FakePlane::default() }),
            dead: Mutex::new(false),
            quorum_for: Mutex::default(),
            machine: FakeMachine::default(),
        };
        let world = Arc::new(Self {
            machine: Mutex::default(),
            state: watch::Sender::default(),
            term: AtomicU64::new(0),
            proposals: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            kill: Mutex::default(),
            killed_at: Mutex::default(),
            begun: Instant::now(),
            nodes: (0..nodes).map(node).collect(),
            together,
            down: Mutex::default(),
            shut: Mutex::default(),
            frozen: Mutex::default(),
            slow: Mutex::default(),
            hung: Mutex::default(),
            poorly: Mutex::default(),
            lost: Mutex::default(),
            unelectable: Mutex::default(),
            blind: Mutex::default(),
            fails: Mutex::default(),
            error_rates: Mutex::default(),
            answered_ago: Mutex::default(),
            idle: Mutex::default(),
            answers: Mutex::default(),
        });
        for node in 0..nodes {
            world.apply(
                node,
                ControlCommand::Join {
                    node: id(node),
                    name: format!("n{}", node + 1),
                    peer: String::new(),
                    client: String::new(),
                    admin: String::new(),
                    version: String::new(),
                },
            );
        }
        world.elect(0);
        for node in 0..nodes {
            let seat = Arc::new(Seat { world: Arc::clone(&world), node });
            let plane = Arc::clone(&world.nodes[node].plane);
            let _ = plane.world.set(Arc::downgrade(&world));
            let machine = Box::new(world.nodes[node].machine.clone());
            let (plan, webhooks) = (plan.clone(), config.notify.clone());
            let control = Control::start_on(machine, plan, seat, plane, webhooks, tls());
            let _ = world.nodes[node].control.set(Arc::downgrade(&control));
            *lock(&world.nodes[node].kept) = Some(control);
        }
        world
    }

    /// Agrees on another version of the configuration, whose number is returned; who runs it is another
    /// matter.
    pub(crate) fn agree(&self) -> u64 {
        let holds = self.state().servers.configuration().map_or(0, |it| it.version);
        let (id, by) = (format!("{holds}"), "n1".to_owned());
        let command = ServerCommand::Configure { id, by, follows: holds, rolls_back_to: None };
        self.apply(0, ControlCommand::Server(command));
        holds + 1
    }

    /// Has a node go by another configuration from here on; its new data plane.
    pub(crate) fn reload(self: &Arc<Self>, node: usize, yaml: &str) -> Arc<FakePlane> {
        let config = configuration(yaml);
        let plan = Plan { together: self.together, ..Plan::of(&config) };
        let ids = plan.servers.iter().map(|server| server.ids()).collect();
        let plane = Arc::new(FakePlane { node, ids, ..FakePlane::default() });
        let _ = plane.world.set(Arc::downgrade(self));
        // An instance that is still there keeps its breaker.
        let before = &self.nodes[node].plane;
        for (was, breaker) in std::mem::take(&mut *lock(&before.breakers)) {
            if let Some(at) = plane.place(&before.ids[was.server][was.instance]) {
                lock(&plane.breakers).insert(at, breaker);
            }
        }
        let control = self.control(node);
        let prepared = control.prepare(plan, Arc::clone(&plane) as Arc<dyn Plane>, config.notify);
        control.commit(prepared);
        plane
    }

    pub(crate) fn time(&self) -> u64 {
        BEGAN + u64::try_from(self.begun.elapsed().as_millis()).expect("a short test")
    }

    /// Has another node coordinate, in the next term.
    pub(crate) fn elect(&self, leader: usize) {
        let term = self.term.fetch_add(1, Ordering::SeqCst) + 1;
        for (node, it) in self.nodes.iter().enumerate() {
            let me = node == leader;
            it.leadership.send_replace(Leadership { leader: Some(id(leader)), term, me });
        }
    }

    /// Leadership is handed to this node in vain from here on: a third one is elected.
    pub(crate) fn cannot_lead(&self, node: usize) {
        lock(&self.unelectable).insert(node);
    }

    /// How often a node has said something to another.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// How often somebody was elected.
    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::SeqCst)
    }

    pub(crate) fn coordinator(&self) -> usize {
        let term = self.term.load(Ordering::SeqCst);
        let leads = |node: &Node| {
            let it = *node.leadership.borrow();
            it.me && it.term == term
        };
        self.nodes.iter().position(leads).expect("a coordinator")
    }

    /// `kill -9`: it neither acts nor answers; the group notices, and another coordinates.
    pub(crate) fn kill(&self, node: usize) {
        *lock(&self.nodes[node].dead) = true;
        // Its tasks end with it.
        lock(&self.nodes[node].kept).take();
        let next = (0..self.nodes.len()).find(|it| self.lives(*it)).expect("a node that lives");
        if self.nodes[node].leadership.borrow().me {
            self.elect(next);
        }
        let term = self.term.load(Ordering::SeqCst);
        let state = MemberState::Dead;
        let (dead, generation, reason) = (id(node), 1, String::new());
        self.apply(next, ControlCommand::Declare { node: dead, generation, state, term, reason });
    }

    pub(crate) fn kill_coordinator(&self, when: Kill) {
        self.proposals.store(0, Ordering::SeqCst);
        *lock(&self.kill) = Some(when);
    }

    pub(crate) fn was_killed(&self) -> bool {
        lock(&self.kill).is_none()
    }

    /// The stage of the move in which it was, if one was under way.
    pub(crate) fn killed_at(&self) -> Option<&'static str> {
        *lock(&self.killed_at)
    }

    fn strike(&self, node: usize) {
        lock(&self.kill).take();
        let state = self.state();
        let stage = state.servers.by_name.values().find_map(|it| it.failover.moving());
        *lock(&self.killed_at) = stage.map(|it| it.stage.label());
        self.kill(node);
    }

    pub(crate) fn control(&self, node: usize) -> Arc<Control> {
        self.nodes[node].control.get().and_then(Weak::upgrade).expect("it runs")
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| self.lives(*node))
    }

    fn lives(&self, node: usize) -> bool {
        !*lock(&self.nodes[node].dead)
    }

    /// Whether it takes no new connections.
    pub(crate) fn set_shut(&self, instance: &str, shut: bool) {
        let mut all = lock(&self.shut);
        if shut {
            all.insert(instance.to_owned());
        } else {
            all.remove(instance);
        }
    }

    /// A node's call has found out that it takes none.
    pub(crate) fn is_refused(&self, node: usize, instance: &str) {
        let plane = &self.nodes[node].plane;
        let at = plane.place(instance).expect("an instance");
        lock(&plane.suspects).push(at);
        plane.changed.notify_one();
    }

    pub(crate) fn set_down(&self, instance: &str, down: bool) {
        let mut all = lock(&self.down);
        if down {
            all.insert(instance.to_owned());
        } else {
            all.remove(instance);
        }
    }

    pub(crate) fn freeze(&self, instance: &str) {
        lock(&self.frozen).insert(instance.to_owned());
    }

    /// Checks of this instance take so long from here on.
    pub(crate) fn slow(&self, instance: &str, took: Duration) {
        lock(&self.slow).insert(instance.to_owned(), took);
    }

    pub(crate) fn make_poorly(&self, instance: &str) {
        lock(&self.poorly).insert(instance.to_owned());
    }

    /// Loses the next checks of every node at an instance.
    pub(crate) fn lose(&self, instance: &str, checks: u32) {
        let all = (0..self.nodes.len()).map(|node| ((node, instance.to_owned()), checks));
        lock(&self.lost).extend(all);
    }

    pub(crate) fn hang_calls(&self, instance: &str) {
        lock(&self.hung).insert(instance.to_owned());
    }

    /// Whether this instance fails the calls of these nodes; its checks pass.
    pub(crate) fn set_failing(&self, instance: &str, nodes: &[usize], fails: bool) {
        let mut all = lock(&self.fails);
        for node in nodes {
            let it = (*node, instance.to_owned());
            if fails {
                all.insert(it)
            } else {
                all.remove(&it)
            };
        }
    }

    /// Calls of these nodes at an instance fail until their breakers open, wherever the server is.
    pub(crate) fn open_breakers(&self, instance: &str, nodes: &[usize]) {
        let now = Instant::now().into_std();
        for node in nodes {
            let plane = &self.nodes[*node].plane;
            let at = plane.place(instance).expect("it is there");
            plane.with_breaker(at, |breaker| {
                for key in 0..20 {
                    if let Ok(permit) = breaker.admit(now, key) {
                        breaker.settle(permit, breaker::Outcome::Failure, now, key);
                    }
                }
                assert!(breaker.is_open_by_server());
            });
        }
    }

    /// Every third call of this instance ends in an error from here on.
    pub(crate) fn errs(&self, instance: &str) {
        lock(&self.error_rates).insert(instance.to_owned(), 0.33);
    }

    /// There are calls enough to say that they go well.
    pub(crate) fn calls_go_well(&self, instance: &str) {
        lock(&self.error_rates).insert(instance.to_owned(), 0.0);
    }

    /// The last calls were answered so long ago, all the time.
    pub(crate) fn answered_before(&self, ago: Duration) {
        *lock(&self.answered_ago) = ago;
    }

    /// No client calls these nodes.
    pub(crate) fn idle(&self, nodes: &[usize]) {
        lock(&self.idle).extend(nodes);
    }

    pub(crate) fn blind(&self, node: usize) {
        lock(&self.blind).insert(node);
    }

    pub(crate) fn answers(&self, instance: &str, text: &str) {
        lock(&self.answers).insert(instance.to_owned(), text.to_owned());
    }

    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.borrow())
    }

    /// Only asked for what is defined.
    pub(crate) fn server(&self, name: &str) -> ServerState {
        self.state().servers.by_name.get(name).cloned().expect("a server that is defined")
    }

    /// What happened to a server so far, in words.
    pub(crate) fn history(&self, server: &str) -> Vec<String> {
        let state = self.state();
        let events = state.servers.events.iter().filter(|event| event.server == server);
        events.map(|event| format!("{} {}", event.at - BEGAN, crate::view::text(event))).collect()
    }

    pub(crate) fn count(&self, fits: impl Fn(&ServerHappened) -> bool) -> usize {
        self.state().servers.events.iter().filter(|event| fits(&event.what)).count()
    }

    /// Lets time pass until it is so; the history if it never is.
    #[track_caller]
    pub(crate) fn until<'a>(
        &'a self,
        what: &'a str,
        within: Duration,
        fits: impl Fn(&Self) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + within;
            while !fits(self) {
                if Instant::now() > deadline {
                    let names: Vec<String> = self.state().servers.by_name.keys().cloned().collect();
                    let history: Vec<String> =
                        names.iter().flat_map(|name| self.history(name)).collect();
                    panic!("{caller}: not {what} within {within:?}:\n{}", history.join("\n"));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Whether every living node's calls go to this instance.
    pub(crate) fn all_go_to(&self, server: usize, instance: &str) -> bool {
        self.living().all(|node| {
            let routes = lock(&self.nodes[node].plane.routes);
            routes.get(&server).is_some_and(|it| it.route(7) == Route::To(instance))
        })
    }

    pub(crate) fn apply(&self, by: usize, command: ControlCommand) -> Reply {
        let mut machine = lock(&self.machine);
        let index = machine.control.index + 1;
        let command = Command {
            origin: Origin { node: id(by), generation: 1 },
            serial: index,
            settled_below: 0,
            now: self.time(),
            body: Body::Control(command),
        };
        let before = machine.control.changed;
        let reply = machine.apply(index, self.term.load(Ordering::SeqCst), &command);
        if machine.control.changed != before {
            self.state.send_replace(Arc::new(machine.control.clone()));
        }
        reply
    }

    fn propose(&self, by: usize, command: ControlCommand) -> Result<Reply, ProposeError> {
        if !self.lives(by) {
            return Err(ProposeError::Unavailable);
        }
        let mine = self.nodes[by].leadership.borrow().me;
        let number = if mine { self.proposals.fetch_add(1, Ordering::SeqCst) } else { u64::MAX };
        let kill = *lock(&self.kill);
        if kill == Some(Kill::Before(number)) {
            self.strike(by);
            return Err(ProposeError::Unknown);
        }
        if let Some(Kill::Depose(words)) = kill
            && mine
            && format!("{command:?}").contains(words)
        {
            lock(&self.kill).take();
            self.elect(self.living().find(|node| *node != by).expect("a node that lives"));
        }
        let reply = self.apply(by, command);
        if kill == Some(Kill::After(number)) {
            self.strike(by);
            return Err(ProposeError::Unknown);
        }
        Ok(reply)
    }
}

impl Senses for FakeMachine {
    fn read(&mut self) -> Reading {
        *lock(&self.0)
    }
}

// === impl Seat ===

impl Group for Seat {
    fn me(&self) -> NodeId {
        id(self.node)
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.world.state.subscribe()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.world.nodes[self.node].leadership.subscribe()
    }

    fn propose(&self, command: ControlCommand) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        Box::pin(async move {
            // The way to a majority and back.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let reply = self.world.propose(self.node, command);
            if !self.world.lives(self.node) {
                std::future::pending::<()>().await;
            }
            reply
        })
    }

    fn time(&self) -> u64 {
        self.world.time()
    }

    fn wall(&self) -> u64 {
        self.world.time()
    }

    fn has_quorum(&self) -> bool {
        let mut looks = lock(&self.world.nodes[self.node].quorum_for);
        let holds = *looks != Some(0);
        *looks = looks.map(|it| it.saturating_sub(1));
        holds
    }

    fn silent(&self) -> BoxFuture<'_, Vec<String>> {
        let all = 0..self.world.nodes.len();
        let dead = all.filter(|node| !self.world.lives(*node));
        Box::pin(std::future::ready(dead.map(|node| format!("n{}", node + 1)).collect()))
    }

    fn hand_over(&self, avoid: BTreeSet<NodeId>) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let able = |node: &usize| *node != self.node && !avoid.contains(&id(*node));
            let next = self.world.living().find(able);
            if let Some(next) = next {
                let unable = lock(&self.world.unelectable).clone();
                let mut others = self.world.living().filter(|node| *node != self.node);
                let elected = others.find(|node| !unable.contains(node));
                self.world.elect(elected.filter(|_| unable.contains(&next)).unwrap_or(next));
            }
            next.is_some()
        })
    }

    fn call(
        &self,
        to: NodeId,
        method: &'static str,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            self.world.calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            let to = usize::try_from(to - 1).expect("a node");
            if !self.world.lives(self.node) || !self.world.lives(to) {
                return Err("broken".to_owned());
            }
            let control = self.world.control(to);
            control.receive(id(self.node), method, &body).await.expect("a known method")
        })
    }
}

fn configuration(yaml: &str) -> Config {
    let nothing = |_: &str| None;
    holdfast_config::parse(yaml, "test", &nothing).unwrap_or_else(|problems| panic!("{problems}"))
}

pub(crate) fn tls() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions that the provider has");
    let none = rustls::RootCertStore::empty();
    Arc::new(builder.with_root_certificates(none).with_no_client_auth())
}
