//! Time, network and instances, and what goes wrong with them.

use std::collections::BTreeMap;

use holdfast_engine::failover::{Failover, Params};

use super::checks::Checks;
use super::coordinator::Wish;
use super::group::Group;
use super::node::{Message, Node};
use crate::rng::Rng;

/// Milliseconds.
pub(super) type Ms = u64;

pub(super) const NODES: usize = 3;
pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];
/// The clock's step.
const TICK: Ms = 10;
/// Until then things go wrong; then all is well until the end.
pub(super) const TROUBLE: Ms = 25_000;
const END: Ms = 65_000;
/// A run in which the coordinator is killed on purpose.
const KILLED_END: Ms = 25_000;

/// A mistake in the wiring, planted to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bug {
    /// The coordinator takes the nodes' confirmations for given.
    ConfirmationsAssumed,
    /// Pause and drain end before a silent node's lease does.
    PauseShorterThanALease,
    /// Nodes call without a lease.
    LeaseUnchecked,
    /// Nodes go on calling while they should hold.
    HoldIgnored,
    /// One vote declares an instance unhealthy.
    OneVoteSuffices,
    /// A new coordinator begins a ramp anew.
    RampStartsOver,
    /// A new coordinator carries only its own steps' orders out.
    OrdersForgotten,
    /// The group takes in what a deposed coordinator has decided.
    TermUnchecked,
    /// The group takes a step in whatever it follows: one that is proposed again is made again.
    FollowsUnchecked,
    /// Nodes confirm that nothing runs at an instance while something does.
    DrainConfirmedEarly,
    /// A primary takes over again before it has been well for the delay.
    FailbackBeforeItsDelay,
    /// A primary takes over again that the coordinator has not seen to be well.
    FailbackBeforeItsChecks,
}

/// The coordinator dies at this stage of this move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kill {
    pub(super) way: &'static str,
    pub(super) stage: &'static str,
    pub(super) when: When,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    BeforeOrders,
    AfterOrders,
}

/// What came of a run.
pub(super) struct Run {
    pub(super) violation: Option<String>,
    pub(super) lines: Vec<String>,
    pub(super) notes: BTreeMap<&'static str, u64>,
    pub(super) end: Failover,
}

/// How an instance is.
#[derive(Clone, Copy, Default)]
pub(super) struct Instance {
    pub(super) is_down: bool,
    pub(super) has_errors: bool,
}

pub(super) struct World {
    pub(super) now: Ms,
    pub(super) rng: Rng,
    pub(super) bug: Option<Bug>,
    pub(super) kill: Option<Kill>,
    pub(super) params: Params,
    pub(super) nodes: Vec<Node>,
    pub(super) group: Group,
    pub(super) instances: [Instance; 3],
    /// Those that the configuration has.
    pub(super) configured: [bool; 3],
    /// Node from node.
    pub(super) cut: [[bool; NODES]; NODES],
    /// Node from instance.
    pub(super) blind: [[bool; 3]; NODES],
    pub(super) checks: Checks,
    messages: BTreeMap<(Ms, u64), (usize, usize, Message)>,
    sent: u64,
    pub(super) lines: Vec<String>,
    pub(super) notes: BTreeMap<&'static str, u64>,
}

/// One run.
pub(super) fn run(seed: u64, bug: Option<Bug>, kill: Option<Kill>) -> Run {
    let mut world = World::new(seed, bug, kill);
    let end = if kill.is_some() { KILLED_END } else { END };
    while world.now < end && world.checks.violation.is_none() {
        world.now += TICK;
        match world.kill {
            Some(kill) => world.play(kill),
            None if world.now < TROUBLE => world.trouble(),
            None if world.now == TROUBLE => world.calm(),
            None => {}
        }
        world.deliver();
        world.tick_group();
        for at in 0..NODES {
            world.tick_node(at);
        }
    }
    let state = world.group.failover().clone();
    if kill.is_none() {
        world.check_calm();
    }
    Run { violation: world.checks.violation, lines: world.lines, notes: world.notes, end: state }
}

impl World {
    fn new(seed: u64, bug: Option<Bug>, kill: Option<Kill>) -> Self {
        let mut params = Params {
            failback_delay: 3_000,
            pause_within: 1_500,
            pause_within_immediate: 1_200,
            drain: 1_000,
            check: true,
            check_within: 600,
            ramp_over: 2_000,
            shift_over: 1_000,
            switch_within: 500,
            notify_within: 1_500,
            retry_after: 500,
            ..Params::new("a")
        };
        if kill.is_some() {
            params.automatic_failback = false;
        }
        if kill.is_some() {
            // The next coordinator comes after a second or so, and finishes the same stage.
            (params.pause_within, params.pause_within_immediate) = (4_000, 4_000);
            (params.check_within, params.switch_within, params.drain) = (4_000, 4_000, 4_000);
            (params.notify_within, params.ramp_over) = (4_000, 3_000);
        }
        if bug == Some(Bug::PauseShorterThanALease) {
            (params.pause_within, params.pause_within_immediate, params.drain) = (50, 50, 50);
        }
        let mut world = Self {
            now: 1_000,
            rng: Rng::new(seed),
            bug,
            kill,
            params,
            nodes: (0..NODES).map(|_| Node::new()).collect(),
            group: Group::default(),
            instances: [Instance::default(); 3],
            configured: [true; 3],
            cut: [[false; NODES]; NODES],
            blind: [[false; 3]; NODES],
            checks: Checks::default(),
            messages: BTreeMap::new(),
            sent: 0,
            lines: Vec::new(),
            notes: BTreeMap::new(),
        };
        world.found();
        world
    }

    pub(super) fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }

    pub(super) fn line(&mut self, text: String) {
        self.lines.push(format!("{:>6} {text}", self.now));
    }

    /// Whether a node sees an instance's port answer.
    pub(super) fn sees(&self, node: usize, instance: usize) -> bool {
        !self.blind[node][instance] && !self.instances[instance].is_down
    }

    // === Network ===

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.cut[from][to] || (self.now < TROUBLE && self.rng.percent(3)) {
            return;
        }
        let delay = if from == to { 0 } else { self.rng.between(1, 25) };
        self.sent += 1;
        self.messages.insert((self.now + delay, self.sent), (from, to, message));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.messages.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (from, to, message) = entry.remove();
            if self.nodes[to].runs() && !self.cut[from][to] {
                self.hear(to, from, message);
            } else if self.nodes[to].is_frozen {
                // It lies in the socket until the process goes on.
                self.sent += 1;
                self.messages.insert((self.now + 50, self.sent), (from, to, message));
            }
        }
    }

    // === What goes wrong ===

    fn trouble(&mut self) {
        if !self.rng.percent(2) {
            return;
        }
        let (node, other) = (self.any(NODES), self.any(NODES));
        // The primary fails more often than the others.
        let instance = if self.rng.percent(60) { 0 } else { self.any(3) };
        match self.rng.between(0, 15) {
            0 | 1 => {
                self.instances[instance].is_down = true;
                self.line(format!("{} goes down", NAMES[instance]));
            }
            2..=4 => {
                self.instances[instance] = Instance::default();
                self.line(format!("{} is well", NAMES[instance]));
            }
            5 => {
                self.instances[instance].has_errors = true;
                self.line(format!("{} has errors", NAMES[instance]));
            }
            6 => {
                self.blind[node][instance] ^= true;
                let (name, blind) = (NAMES[instance], self.blind[node][instance]);
                self.line(format!("node {node} is blind to {name}: {blind}"));
                self.note("nodes cut off from an instance");
            }
            7 => self.crash(node),
            8 => {
                self.nodes[node].is_frozen = true;
                self.line(format!("node {node} is frozen"));
                self.note("nodes frozen");
            }
            9 => {
                self.nodes[node].is_frozen = false;
                self.line(format!("node {node} is not frozen"));
            }
            10 if node != other => {
                for it in 0..NODES {
                    (self.cut[node][it], self.cut[it][node]) = (it != node, it != node);
                }
                self.note("nodes cut off");
                self.line(format!("node {node} is cut off"));
                // What is to be safe then is worth trying often.
                if self.rng_half() {
                    self.wish(Wish::Move);
                }
            }
            11 => self.cut = [[false; NODES]; NODES],
            12 => self.hand_over(),
            13 => self.wish(Wish::Move),
            14 => {
                let wish = if self.rng_half() { Wish::Back } else { Wish::BackAtOnce };
                self.wish(wish);
            }
            _ => {}
        }
        // One fault of nodes at a time is the promise; two at once only stop decisions.
        for it in 0..NODES {
            if !self.nodes[it].is_up && self.rng.percent(30) {
                self.restart(it);
            }
        }
    }

    fn calm(&mut self) {
        self.cut = [[false; NODES]; NODES];
        self.blind = [[false; 3]; NODES];
        self.instances = [Instance::default(); 3];
        for at in 0..NODES {
            self.nodes[at].is_frozen = false;
            if !self.nodes[at].is_up {
                self.restart(at);
            }
        }
        self.line("calm".into());
    }

    /// The story in which the coordinator is to die: a move by hand, in a hurry, or back, or away from
    /// what is configured no more.
    fn play(&mut self, kill: Kill) {
        match (kill.way, self.now) {
            ("by hand" | "back", 3_000) => self.wish(Wish::MoveTo("b")),
            ("back", 8_000) => self.wish(Wish::Back),
            ("hurry", 3_000) => {
                self.instances[0].is_down = true;
                // Of two that could take over, the one whose name the test knows.
                self.instances[2].is_down = true;
            }
            ("taken out", 3_000) => {
                self.configured[0] = false;
                self.params.primary = "b".into();
                self.line("a is taken out, and b is the primary".into());
            }
            _ => {}
        }
        for at in 0..NODES {
            if !self.nodes[at].is_up && self.now >= self.nodes[at].died_at + 5_000 {
                self.restart(at);
            }
        }
    }

    pub(super) fn crash(&mut self, node: usize) {
        if self.nodes[node].is_up {
            self.line(format!("node {node} crashes"));
            if self.nodes[node].leads.is_some() && self.group.failover().moving().is_some() {
                self.note("coordinator died in a move");
            }
            self.nodes[node].crash(self.now);
        }
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
    }

    fn wish(&mut self, wish: Wish) {
        if let Some(leader) = (0..NODES).find(|it| self.nodes[*it].leads.is_some()) {
            self.nodes[leader].wishes.push(wish);
        }
    }

    pub(super) fn any(&mut self, of: usize) -> usize {
        self.rng.between(0, of as u64) as usize
    }

    pub(super) fn rng_half(&mut self) -> bool {
        self.rng.percent(50)
    }
}
