//! A node: looks at the instances, votes, serves calls as it knows the state, and confirms.

use std::collections::BTreeMap;

use holdfast_engine::failover::{Command, Failover, Gate, Order, Route};
use holdfast_engine::health::Status;
use holdfast_engine::health::hysteresis::{Patience, Steady};
use holdfast_engine::health::votes::{Cause, Opinion};
use holdfast_engine::replicated::Machine;

use super::coordinator::Wish;
use super::world::{Bug, Ms, NAMES, NODES, World};

/// How long a lease lasts for its holder; the leader counts 1000.
const LEASE: Ms = 900;
/// From one look at an instance to the next.
const LOOK: Ms = 150;
/// Sessions that call.
const SESSIONS: u64 = 24;

pub(super) enum Message {
    /// The leader of a term, and how much of the log is committed.
    Beat { term: u64, commit: usize },
    /// A node asks for a lease.
    Lease { asked: Ms },
    /// The leader grants it, with the log up to here.
    Granted { term: u64, asked: Ms, commit: usize },
    /// What a node finds about an instance, and when: a coordinator that was frozen finds old votes in
    /// its sockets.
    Vote { instance: usize, opinion: Opinion, cause: Cause, score: f64, at: Ms },
    /// The coordinator asks for a confirmation.
    Ask(Order),
    /// A node confirms a step.
    Confirm { generation: u64, step: u32 },
}

pub(super) struct Node {
    pub(super) is_up: bool,
    pub(super) is_frozen: bool,
    pub(super) died_at: Ms,
    pub(super) machine: Machine,
    pub(super) applied: usize,
    pub(super) leader: Option<usize>,
    term: u64,
    lease_from: Option<Ms>,
    pub(super) steady: [Steady; 3],
    look_at: Ms,
    /// When a look at the instance last failed.
    pub(super) bad_at: [Option<Ms>; 3],
    /// Good looks at it in a row, counted apart from what is tested.
    pub(super) good_looks: [u32; 3],
    gate: Gate,
    /// Calls that run: at which instance, until when.
    pub(super) calls: Vec<(usize, Ms)>,
    pub(super) leads: Option<Leading>,
    pub(super) wishes: Vec<Wish>,
}

/// What a node knows while it takes itself for the leader.
pub(super) struct Leading {
    pub(super) term: u64,
    pub(super) since: Ms,
    /// When each was granted a lease.
    pub(super) heard: [Ms; NODES],
    pub(super) votes: BTreeMap<(usize, usize), (Opinion, Cause, f64, Ms)>,
    /// The step that is being confirmed, and who has.
    pub(super) confirms: (u64, u32, [bool; NODES]),
    pub(super) asked_at: Ms,
    pub(super) proposed: (u64, u32, Ms),
    pub(super) judged_at: [Ms; 3],
    /// Steps that this coordinator itself has proposed: what `Bug::OrdersForgotten` goes by.
    pub(super) own: Vec<(u64, u32)>,
}

impl Leading {
    pub(super) fn new(term: u64, now: Ms) -> Self {
        Self {
            term,
            since: now,
            heard: [now; NODES],
            votes: BTreeMap::new(),
            confirms: (0, 0, [false; NODES]),
            asked_at: 0,
            proposed: (0, 0, 0),
            judged_at: [0; 3],
            own: Vec::new(),
        }
    }

    /// Who may act in the leader's eyes: whoever was granted a lease within a failover timeout.
    pub(super) fn lives(&self, node: usize, now: Ms) -> bool {
        now < self.heard[node].max(self.since) + 1_000
    }
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            is_up: true,
            is_frozen: false,
            died_at: 0,
            machine: Machine::default(),
            applied: 0,
            leader: None,
            term: 0,
            lease_from: None,
            steady: [Steady::new(); 3],
            look_at: 0,
            bad_at: [None; 3],
            good_looks: [0; 3],
            gate: Gate::default(),
            calls: Vec::new(),
            leads: None,
            wishes: Vec::new(),
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.is_up && !self.is_frozen
    }

    pub(super) fn crash(&mut self, now: Ms) {
        self.is_up = false;
        self.is_frozen = false;
        self.leads = None;
        self.died_at = now;
        self.calls.clear();
    }

    /// Again, with what it had on disk. What it saw before stays seen: its last votes still count.
    pub(super) fn restart(&mut self) {
        let machine = std::mem::take(&mut self.machine);
        let (applied, bad_at) = (self.applied, self.bad_at);
        *self = Self { machine, applied, bad_at, ..Self::new() };
    }

    pub(super) fn failover(&self) -> Option<&Failover> {
        self.machine.control.servers.by_name.get("db").map(|it| &it.failover)
    }

    pub(super) fn holds_lease(&self, now: Ms) -> bool {
        self.lease_from.is_some_and(|from| now < from + LEASE)
    }
}

impl World {
    pub(super) fn tick_node(&mut self, at: usize) {
        if !self.nodes[at].runs() {
            return;
        }
        let now = self.now;
        self.nodes[at].calls.retain(|it| it.1 > now);
        self.look(at);
        self.call(at);
        if self.nodes[at].leads.is_some() {
            self.coordinate(at);
        }
    }

    fn look(&mut self, at: usize) {
        if self.now < self.nodes[at].look_at {
            return;
        }
        // Frozen meanwhile: what it believed is of another time.
        if self.now > self.nodes[at].look_at + 1_000 {
            self.nodes[at].steady = [Steady::new(); 3];
            self.nodes[at].good_looks = [0; 3];
        }
        self.nodes[at].look_at = self.now + LOOK + self.rng.between(0, 30);
        for instance in 0..3 {
            let sees = self.sees(at, instance);
            let has_errors = self.instances[instance].has_errors;
            let (status, cause) = match (sees, has_errors) {
                (false, _) => (Status::Critical, Cause::Unreachable),
                (true, true) => (Status::Warning, Cause::Errors),
                (true, false) => (Status::Healthy, Cause::Score),
            };
            let node = &mut self.nodes[at];
            if !sees {
                node.bad_at[instance] = Some(self.now);
            }
            let is_good = sees && !has_errors;
            node.good_looks[instance] = if is_good { node.good_looks[instance] + 1 } else { 0 };
            let _ = node.steady[instance].look(status, Patience { fall: 2, rise: 3 });
            let (Some(believed), Some(leader)) = (node.steady[instance].status(), node.leader)
            else {
                continue;
            };
            let score = match believed {
                Status::Healthy => 1.0,
                Status::Degraded => 0.8,
                Status::Warning => 0.6,
                Status::Critical => 0.0,
            };
            let (opinion, looked) = (Opinion::of(score), self.now);
            let vote = Message::Vote { instance, opinion, cause, score, at: looked };
            self.send(at, leader, vote);
        }
    }

    /// Sessions call as the node knows the state.
    fn call(&mut self, at: usize) {
        if !self.rng.percent(40) {
            return;
        }
        let key = self.rng.between(0, SESSIONS);
        let node = &self.nodes[at];
        let Some(failover) = node.failover() else { return };
        if !node.holds_lease(self.now) && self.bug != Some(Bug::LeaseUnchecked) {
            return self.note("calls not begun without a lease");
        }
        let place = |name: &str| NAMES.iter().position(|it| *it == name);
        let is_configured = |name: &str| place(name).is_some_and(|it| self.configured[it]);
        let name = match failover.route_within(key, is_configured, &self.params.primary) {
            Route::To(name) => name,
            Route::Hold if self.bug == Some(Bug::HoldIgnored) => &failover.active,
            Route::Hold => return self.note("calls held"),
        };
        let Some(instance) = place(name) else { return };
        let applied = node.applied;
        if self.sees(at, instance) {
            let until = self.now + self.rng.between(10, 250);
            self.nodes[at].calls.push((instance, until));
            self.check_call(at, applied, instance);
            if !self.configured[instance] {
                self.violated(format!("{} is called and configured no more", NAMES[instance]));
            }
        }
    }

    pub(super) fn hear(&mut self, at: usize, from: usize, message: Message) {
        match message {
            Message::Beat { term, commit } => {
                let node = &mut self.nodes[at];
                if term < node.term {
                    return;
                }
                node.term = term;
                node.leader = Some(from);
                if node.leads.as_ref().is_some_and(|it| it.term < term) {
                    node.leads = None;
                }
                self.apply_until(at, commit);
                let asked = self.now;
                self.send(at, from, Message::Lease { asked });
            }
            Message::Lease { asked } => {
                // A leader grants once a quorum has confirmed that it leads.
                let (now, term) = (self.now, self.group.term);
                let commit = self.group.log.len();
                let has_quorum = self.has_quorum(at);
                let leading = self.nodes[at].leads.as_mut().filter(|it| it.term == term);
                if let Some(leading) = leading.filter(|_| has_quorum) {
                    leading.heard[from] = now;
                    self.send(at, from, Message::Granted { term, asked, commit });
                }
            }
            Message::Granted { term, asked, commit } => {
                let now = self.now;
                let node = &mut self.nodes[at];
                if term < node.term {
                    return;
                }
                // It was frozen or cut off for longer than the failover timeout: it closes its
                // connections before it goes on.
                if !node.holds_lease(now) {
                    node.calls.clear();
                }
                node.lease_from = node.lease_from.max(Some(asked));
                self.apply_until(at, commit);
            }
            Message::Vote { instance, opinion, cause, score, at: looked } => {
                if let Some(leading) = self.nodes[at].leads.as_mut() {
                    leading.votes.insert((instance, from), (opinion, cause, score, looked));
                }
            }
            Message::Ask(order) => self.confirm(at, from, &order),
            Message::Confirm { generation, step } => {
                if let Some(leading) = self.nodes[at].leads.as_mut()
                    && (leading.confirms.0, leading.confirms.1) == (generation, step)
                {
                    leading.confirms.2[from] = true;
                }
            }
        }
    }

    /// A node confirms what it knows and does, and nothing that an older coordinator asks.
    fn confirm(&mut self, at: usize, from: usize, order: &Order) {
        let node = &mut self.nodes[at];
        if !node.gate.admits(order.fence) {
            return;
        }
        let (generation, step) = (order.fence.generation, order.fence.step);
        let knows =
            node.failover().is_some_and(|it| (it.generation, it.step) == (generation, step));
        let is_done = match &order.command {
            Command::Drain { .. } if self.bug == Some(Bug::DrainConfirmedEarly) => true,
            Command::Drain { instance, .. } => {
                let runs = |it: &(usize, Ms)| NAMES[it.0] == instance;
                !node.calls.iter().any(runs)
            }
            Command::Pause | Command::Switch { .. } => true,
            Command::Check { .. } | Command::Shift { .. } | Command::Notify { .. } => false,
        };
        if knows && is_done {
            self.note("confirmations");
            self.send(at, from, Message::Confirm { generation, step });
        }
    }
}
