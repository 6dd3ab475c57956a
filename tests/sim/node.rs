//! A node: its copy of the machine, its lease, its proposals, its life in the cluster, its exchanges.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_engine::lease::{Granter, Holder};
use holdfast_engine::replicated::{
    Body, ClusterState, Command, ControlCommand, KvCommand, Machine, MemberState, NodeId, Origin,
    Reply,
};

use crate::driver::Exchange;
use crate::ports::{Bug, Input, Ms, ServerEvent};
use crate::rng::Rng;
use crate::world::{BALANCER, Event, Said, World};

pub(crate) const FAILOVER: Duration = Duration::from_millis(1_000);
const TICK: Ms = 50;
/// How long a proposal is tried.
const PROPOSE: Ms = 4_000;
/// How long one attempt of it may take.
const PROPOSE_AGAIN: Ms = 400;

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Tick,
    /// A client's request, by its attempt.
    Arrive(usize),
    /// The client's side of this attempt is closed.
    Gone(usize),
    Server(u64, u32, ServerEvent),
    Reestablished(u64),
    Propose {
        from: usize,
        process: u32,
        command: Box<Command>,
    },
    Replied {
        serial: u64,
        reply: Box<Reply>,
    },
    NotLeader {
        serial: u64,
        leader: Option<usize>,
    },
    Heartbeat {
        term: u64,
        leader: usize,
        commit: usize,
    },
    LeaseAsk {
        from: usize,
        process: u32,
        origin: Origin,
        sent_at: Instant,
    },
    LeaseGranted {
        origin: Origin,
        sent_at: Instant,
        length: Duration,
    },
    LeaseRefused {
        origin: Origin,
    },
    /// A peer's port refused a connection that was tried then: its process is not there.
    Refused(NodeId, Ms),
}

pub(crate) struct Node {
    pub(crate) at: usize,
    pub(crate) id: NodeId,
    pub(crate) up: bool,
    pub(crate) frozen: bool,
    /// Counts its processes; what was meant for an earlier one does not arrive.
    pub(crate) process: u32,
    /// What came while it was frozen.
    pub(crate) backlog: Vec<Message>,
    pub(crate) machine: Machine,
    applied: usize,
    pub(crate) origin: Origin,
    pub(crate) joined: bool,
    pub(crate) holder: Holder,
    serial: u64,
    proposals: BTreeMap<u64, Proposal>,
    pub(crate) leader: Option<usize>,
    pub(crate) term: u64,
    pub(crate) leading: Option<Leading>,
    last_tick: Ms,
    asked_at: Ms,
    pub(crate) exchanges: BTreeMap<u64, Running>,
    /// Requests that are read once the node has joined.
    pub(crate) unread: Vec<usize>,
    /// By how many thousandths its monotonic clock is fast, and its wall clock ahead in ms.
    drift: i64,
    skew: u64,
}

/// A leader's book.
pub(crate) struct Leading {
    pub(crate) term: u64,
    pub(crate) granter: Granter,
    pub(crate) expired_at: Ms,
}

struct Proposal {
    command: Command,
    purpose: Purpose,
    deadline: Ms,
    sent_at: Ms,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Join,
    Exchange(u64),
    Coordinate,
}

/// One call in this node.
pub(crate) struct Running {
    pub(crate) attempt: usize,
    pub(crate) exchange: Exchange,
}

/// Brings a leader's book up to what the group has agreed on.
pub(crate) fn sync(granter: &mut Granter, state: &ClusterState, now: Instant) {
    for (node, member) in &state.members {
        let member_now = Origin { node: *node, generation: member.generation };
        match member.state {
            MemberState::Ready | MemberState::Draining | MemberState::Suspect => {
                granter.watch(member_now, now);
            }
            MemberState::Dead => granter.condemn(member_now),
            MemberState::Left => granter.forget(*node),
        }
    }
}

impl Node {
    pub(crate) fn new(at: usize, rng: &mut Rng) -> Self {
        Self {
            at,
            id: at as u64 + 1,
            up: false,
            frozen: false,
            process: 0,
            backlog: Vec::new(),
            machine: Machine::default(),
            applied: 0,
            origin: Origin::default(),
            joined: false,
            holder: Holder::new(),
            serial: 0,
            proposals: BTreeMap::new(),
            leader: None,
            term: 0,
            leading: None,
            last_tick: 0,
            asked_at: 0,
            exchanges: BTreeMap::new(),
            unread: Vec::new(),
            drift: rng.between(0, 61) as i64 - 30,
            skew: rng.between(0, 300),
        }
    }

    fn name(&self) -> String {
        format!("gateway-{}", self.at)
    }
}

// === Clocks and processes ===

impl World {
    /// What this node's monotonic clock shows.
    pub(crate) fn instant(&self, node: usize) -> Instant {
        let now = self.now as i64 * (1_000 + self.nodes[node].drift);
        self.base + Duration::from_micros(now as u64)
    }

    /// What this node's wall clock shows.
    pub(crate) fn wall(&self, node: usize) -> Ms {
        self.now + self.nodes[node].skew
    }

    /// A process begins, on the data that the last one left.
    pub(crate) fn start_process(&mut self, at: usize) {
        let now = self.now;
        let serial = self.rng.next() >> 1;
        let node = &mut self.nodes[at];
        node.process += 1;
        node.up = true;
        node.machine = Machine::restore(&node.machine.snapshot()).expect("its own snapshot");
        node.origin = Origin { node: node.id, generation: 0 };
        node.serial = serial;
        (node.leader, node.term, node.last_tick, node.asked_at) = (None, 0, now, 0);
        self.trace("process starts", at as u64, self.nodes[at].id);
        self.join(at);
        self.after(TICK, Event::Node(at, self.nodes[at].process, Message::Tick));
    }

    /// The process is gone at once: clients see their connections break, peers a refused one.
    pub(crate) fn kill(&mut self, at: usize) {
        self.trace("killed", at as u64, self.nodes[at].id);
        let node = &mut self.nodes[at];
        (node.up, node.frozen, node.joined, node.leading) = (false, false, false, None);
        node.holder = Holder::new();
        node.proposals.clear();
        node.backlog.clear();
        let attempts: Vec<usize> =
            std::mem::take(&mut node.exchanges).into_values().map(|it| it.attempt).collect();
        let unread = std::mem::take(&mut node.unread);
        let id = node.id;
        for attempt in attempts.into_iter().chain(unread) {
            self.send_patiently(at, BALANCER, Event::Client(attempt, Said::Broken));
        }
        for peer in (0..self.nodes.len()).filter(|it| *it != at) {
            self.tell(at, peer, Message::Refused(id, self.now));
        }
    }

    /// The directory is lost: the next process is a new incarnation, with a leader's snapshot.
    pub(crate) fn lose_directory(&mut self, at: usize) {
        let snapshot = self.nodes[self.group.leader].machine.snapshot();
        let applied = self.nodes[self.group.leader].applied;
        let fresh = self.nodes.iter().map(|it| it.id).max().unwrap_or_default() + 100;
        let node = &mut self.nodes[at];
        node.machine = Machine::restore(&snapshot).expect("the leader's snapshot");
        (node.id, node.applied) = (fresh, applied);
        self.note("directories lost");
    }

    /// Asks to be a member in a new life. Without one it neither sends nor reads.
    fn join(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.joined = false;
        node.holder.revoke();
        let command = ControlCommand::Join {
            node: node.id,
            name: node.name(),
            peer: String::new(),
            client: String::new(),
            admin: String::new(),
            version: "1".into(),
        };
        let origin = node.origin;
        self.propose(at, origin, Body::Control(command), Purpose::Join);
    }

    // === Messages ===

    pub(crate) fn deliver(&mut self, at: usize, process: u32, message: Message) {
        let node = &mut self.nodes[at];
        if !node.up || node.process != process {
            if let Message::Arrive(attempt) = message {
                self.send(at, BALANCER, Event::Client(attempt, Said::Broken));
            }
            return;
        }
        if node.frozen {
            return node.backlog.push(message);
        }
        match message {
            Message::Tick => self.tick(at),
            Message::Arrive(attempt) => self.arrive(at, attempt),
            Message::Gone(attempt) => {
                let of = |it: &Running| it.attempt == attempt;
                let found = self.nodes[at].exchanges.iter().find(|(_, it)| of(it)).map(|it| *it.0);
                if let Some(exchange) = found {
                    self.drive(at, exchange, Input::Gone);
                }
            }
            Message::Server(exchange, attempt, event) => {
                self.trace("from server", at as u64, exchange);
                self.drive(at, exchange, Input::Server(attempt, event));
            }
            Message::Reestablished(exchange) => self.drive(at, exchange, Input::Reestablished),
            Message::Propose { from, process, command } => {
                self.proposed(at, from, process, *command);
            }
            Message::Replied { serial, reply } => self.replied(at, serial, Some(*reply)),
            Message::NotLeader { serial, leader } => {
                let now = self.now;
                let node = &mut self.nodes[at];
                node.leader = leader.or(node.leader);
                if let Some(proposal) = node.proposals.get_mut(&serial) {
                    proposal.sent_at = now.saturating_sub(PROPOSE_AGAIN - TICK);
                }
            }
            Message::Heartbeat { term, leader, commit } => {
                self.heard_leader(at, term, leader, commit);
            }
            Message::LeaseAsk { from, process, origin, sent_at } => {
                self.lease_asked(at, from, process, origin, sent_at);
            }
            Message::LeaseGranted { origin, sent_at, length } => {
                let node = &mut self.nodes[at];
                if node.joined && node.origin == origin {
                    node.holder.granted(sent_at, length);
                }
            }
            Message::LeaseRefused { origin } => self.fenced(at, origin),
            Message::Refused(peer, then) => self.peer_refused(at, peer, then),
        }
    }

    fn heard_leader(&mut self, at: usize, term: u64, leader: usize, commit: usize) {
        let node = &mut self.nodes[at];
        if term < node.term {
            return;
        }
        if node.leading.as_ref().is_some_and(|it| it.term < term) {
            node.leading = None;
        }
        (node.term, node.leader) = (term, Some(leader));
        self.apply_until(at, commit);
    }

    /// Applies the log up to an index, and lets everybody look who waits for something.
    pub(crate) fn apply_until(&mut self, at: usize, commit: usize) {
        let now = self.instant(at);
        let (node, group) = (&mut self.nodes[at], &self.group);
        if commit <= node.applied {
            return;
        }
        for index in node.applied..commit {
            let entry = &group.log[index];
            let reply = node.machine.apply(index as u64 + 1, entry.term, &entry.command);
            self.checks.same_reply(at, index, &reply, &entry.reply);
            if let (Some(leading), Body::Control(_)) = (&mut node.leading, &entry.command.body) {
                sync(&mut leading.granter, &node.machine.control, now);
            }
        }
        node.applied = commit;
        for exchange in self.nodes[at].exchanges.keys().copied().collect::<Vec<_>>() {
            self.drive(at, exchange, Input::Changed);
        }
    }

    // === Ticks ===

    fn tick(&mut self, at: usize) {
        self.after(TICK, Event::Node(at, self.nodes[at].process, Message::Tick));
        let gap = self.now - self.nodes[at].last_tick;
        self.nodes[at].last_tick = self.now;
        if gap > FAILOVER.as_millis() as Ms {
            self.was_frozen(at);
        }
        self.resend(at);
        self.ask_for_lease(at);
        self.lead(at);
        for exchange in self.nodes[at].exchanges.keys().copied().collect::<Vec<_>>() {
            self.drive(at, exchange, Input::Tick);
        }
    }

    /// A gap in its own clock: it closes its clients' connections and begins a new life before it
    /// reads anything from them. Calls that are at the server go on; nobody is told here.
    fn was_frozen(&mut self, at: usize) {
        self.trace("was frozen", at as u64, 0);
        self.note("frozen beyond the failover timeout");
        let unread = std::mem::take(&mut self.nodes[at].unread);
        let running: Vec<(u64, usize)> =
            self.nodes[at].exchanges.iter().map(|(id, it)| (*id, it.attempt)).collect();
        for (exchange, attempt) in running {
            self.drive(at, exchange, Input::Gone);
            self.send_patiently(at, BALANCER, Event::Client(attempt, Said::Broken));
        }
        for attempt in unread {
            self.send_patiently(at, BALANCER, Event::Client(attempt, Said::Broken));
        }
        if self.nodes[at].joined {
            self.join(at);
        }
    }

    fn ask_for_lease(&mut self, at: usize) {
        let sent_at = self.instant(at);
        let node = &mut self.nodes[at];
        let Some(leader) = node.leader else { return };
        if node.joined && self.now >= node.asked_at + FAILOVER.as_millis() as Ms / 4 {
            node.asked_at = self.now;
            let (origin, process) = (node.origin, node.process);
            self.tell(at, leader, Message::LeaseAsk { from: at, process, origin, sent_at });
        }
    }

    // === Leading ===

    fn lease_asked(
        &mut self,
        at: usize,
        from: usize,
        process: u32,
        origin: Origin,
        sent_at: Instant,
    ) {
        let now = self.instant(at);
        let sure = self.leads(at) || self.bug == Some(Bug::GrantsWithoutQuorum);
        let node = &mut self.nodes[at];
        let Some(leading) = &mut node.leading else { return };
        let message = if node.machine.control.is_current(origin) {
            let granted = if sure { leading.granter.grant(origin, now) } else { return };
            match granted {
                Some(length) => Message::LeaseGranted { origin, sent_at, length },
                None => Message::LeaseRefused { origin },
            }
        } else if node.machine.control.may_run(origin) {
            return;
        } else {
            Message::LeaseRefused { origin }
        };
        self.send(at, from, Event::Node(from, process, message));
    }

    fn monotonic(&self, at: usize, then: Ms) -> Instant {
        let micros = then as i64 * (1_000 + self.nodes[at].drift);
        self.base + Duration::from_micros(micros as u64)
    }

    fn peer_refused(&mut self, at: usize, peer: NodeId, then: Ms) {
        let looked_at = self.monotonic(at, then);
        let node = &mut self.nodes[at];
        if let (Some(leading), Some(member)) =
            (&mut node.leading, node.machine.control.members.get(&peer))
        {
            let member = Origin { node: peer, generation: member.generation };
            if leading.granter.refused(member, looked_at) {
                self.note("found dead by a refused connection");
            }
        }
    }

    /// The coordinator's duties; whether it still leads, the log decides.
    fn lead(&mut self, at: usize) {
        let now = self.instant(at);
        let node = &mut self.nodes[at];
        let origin = node.origin;
        let Some(leading) = &mut node.leading else { return };
        let term = leading.term;
        let _ = leading.granter.overdue(now);
        let condemned: Vec<Origin> = leading.granter.condemned().collect();
        let expire = self.now >= leading.expired_at + 1_000;
        if expire {
            leading.expired_at = self.now;
            self.propose(
                at,
                origin,
                Body::Kv(KvCommand::Expire { limit: 50 }),
                Purpose::Coordinate,
            );
        }
        for Origin { node: id, generation } in condemned {
            let node = &self.nodes[at];
            let declares = |it: &Proposal| matches!(it.command.body, Body::Control(ControlCommand::Declare { node, .. }) if node == id);
            let living = node.machine.control.is_current(Origin { node: id, generation });
            if living && !node.proposals.values().any(declares) {
                let command = ControlCommand::Declare {
                    node: id,
                    generation,
                    state: MemberState::Dead,
                    term,
                    reason: "not heard of".into(),
                };
                self.propose(at, origin, Body::Control(command), Purpose::Coordinate);
            }
        }
        if self.group.leader == at && self.now % (2 * TICK) < TICK {
            let commit = self.group.log.len();
            for peer in (0..self.nodes.len()).filter(|it| *it != at) {
                self.tell(at, peer, Message::Heartbeat { term, leader: at, commit });
            }
        }
    }

    // === Proposals ===

    pub(crate) fn propose(&mut self, at: usize, origin: Origin, body: Body, purpose: Purpose) {
        let now = self.now;
        let node = &mut self.nodes[at];
        node.serial += 1;
        let serial = node.serial;
        let settled_below = node.proposals.keys().next().copied().unwrap_or(serial);
        let command = Command { origin, serial, settled_below, now: 0, body };
        let deadline = if purpose == Purpose::Join { Ms::MAX } else { now + PROPOSE };
        let proposal = Proposal { command, purpose, deadline, sent_at: now };
        node.proposals.insert(serial, proposal);
        self.send_again(at, serial);
    }

    fn send_again(&mut self, at: usize, serial: u64) {
        let others: Vec<usize> = (0..self.nodes.len()).collect();
        let anybody = self.rng.pick(&others).unwrap_or(at);
        let now = self.now;
        let node = &mut self.nodes[at];
        // A leader that does not answer may have been deposed: now and then somebody else is asked.
        let to = if self.rng.percent(80) { node.leader.unwrap_or(anybody) } else { anybody };
        let Some(proposal) = node.proposals.get_mut(&serial) else { return };
        proposal.sent_at = now;
        let command = proposal.command.clone();
        self.send_proposal(at, to, command);
    }

    fn resend(&mut self, at: usize) {
        let now = self.now;
        let all: Vec<(u64, bool, bool)> = self.nodes[at]
            .proposals
            .iter()
            .map(|(serial, it)| (*serial, now >= it.deadline, now >= it.sent_at + PROPOSE_AGAIN))
            .collect();
        for (serial, over, again) in all {
            if over {
                self.note("proposals with unknown outcome");
                self.replied(at, serial, None);
            } else if again {
                self.send_again(at, serial);
            }
        }
    }

    /// A proposal arrives here: at the leader, at one who takes itself for it, or at neither.
    fn proposed(&mut self, at: usize, from: usize, process: u32, command: Command) {
        if self.nodes[at].leading.is_none() {
            let message =
                Message::NotLeader { serial: command.serial, leader: self.nodes[at].leader };
            self.send(at, from, Event::Node(from, process, message));
        } else if self.group.leader == at {
            self.accept(from, process, command);
        } else {
            self.note("proposals swallowed by a deposed leader");
        }
    }

    fn replied(&mut self, at: usize, serial: u64, reply: Option<Reply>) {
        let Some(proposal) = self.nodes[at].proposals.remove(&serial) else { return };
        let origin = proposal.command.origin;
        match (proposal.purpose, &reply) {
            (Purpose::Join, Some(Reply::Joined { generation })) => {
                let node = &mut self.nodes[at];
                node.origin = Origin { node: node.id, generation: *generation };
                (node.joined, node.asked_at) = (true, 0);
                self.trace("joined", at as u64, *generation);
                for attempt in std::mem::take(&mut self.nodes[at].unread) {
                    self.arrive(at, attempt);
                }
            }
            (Purpose::Join, _) => self.join(at),
            (Purpose::Exchange(exchange), _) => {
                if matches!(reply, Some(Reply::Fenced { .. })) {
                    self.note("writes fenced");
                    self.fenced(at, origin);
                }
                self.drive(at, exchange, Input::Written(reply));
            }
            (Purpose::Coordinate, Some(Reply::Fenced { .. })) => self.note("decisions fenced"),
            (Purpose::Coordinate, Some(Reply::Stale { .. })) => self.note("decisions stale"),
            (Purpose::Coordinate, _) => {}
        }
    }

    /// The group has given this life up: begin another.
    fn fenced(&mut self, at: usize, origin: Origin) {
        if self.nodes[at].joined && self.nodes[at].origin == origin {
            self.note("lives given up by the group");
            self.join(at);
        }
    }
}
