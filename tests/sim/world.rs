//! The world: virtual time, one queue of events, links that can be cut, and everything that is in it.

use std::collections::BTreeMap;
use std::time::Instant;

use holdfast_engine::replicated::Command;

use crate::checks::Checks;
use crate::client::{Attempt, Call, Session};
use crate::group::Group;
use crate::node::{Message, Node};
use crate::ports::{Bug, Ms, ServerEvent, Token};
use crate::rng::Rng;
use crate::server::Server;

/// Until then faults strike; then everything is healed and must recover.
pub(crate) const FAULTS_END: Ms = 9_000;
/// Clients begin calls until then.
pub(crate) const CALLS_END: Ms = 16_000;
/// The longest run: every call has its answer long before.
const END: Ms = 40_000;

/// A place on the network: a node by its number, or one of these.
pub(crate) type Place = usize;
pub(crate) const BALANCER: Place = 100;
pub(crate) const SERVER: Place = 101;

/// How long a connection goes on sending what was lost (TCP does).
pub(crate) const PATIENCE: Ms = 8_000;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// For one process of a node.
    Node(usize, u32, Message),
    /// A call, or the resumption of its stream, reaches the server.
    Server(Request),
    /// The server has done what it does.
    Executed(Request, Token),
    /// What a node says to a client's connection.
    Client(usize, Said),
    /// A session begins its next call.
    NextCall(usize),
    /// The balancer looks whether an attempt is silent.
    Silence(usize),
    /// The balancer tries another node.
    Retry(usize),
    /// The balancer has no more patience with a call.
    GiveUp(usize),
    /// The group commits what waits until this proposal.
    Commit(u64),
    Election,
    Fault,
    Heal,
    Thaw(usize, u32),
    Restart(usize),
}

/// What a node sends to the server, and where the answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) call: usize,
    pub(crate) node: usize,
    pub(crate) process: u32,
    pub(crate) exchange: u64,
    pub(crate) attempt: u32,
    /// The execution whose stream is resumed.
    pub(crate) resume: Option<Token>,
}

/// What comes back on a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    Headers,
    Answer(crate::ports::Answer),
    /// Refused or broken.
    Broken,
}

/// An event under way: over a link, if it needs one, and how long it is sent again.
pub(crate) struct Queued {
    pub(crate) event: Event,
    link: Option<(Place, Place)>,
    until: Ms,
}

/// One line of the trace.
pub(crate) type Line = (Ms, &'static str, u64, u64);

pub(crate) struct World {
    pub(crate) now: Ms,
    pub(crate) rng: Rng,
    pub(crate) bug: Option<Bug>,
    /// Where monotonic clocks begin.
    pub(crate) base: Instant,
    queue: BTreeMap<(Ms, u64), Queued>,
    sequence: u64,
    cuts: BTreeMap<(Place, Place), Ms>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) group: Group,
    pub(crate) server: Server,
    pub(crate) sessions: Vec<Session>,
    pub(crate) calls: Vec<Call>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) checks: Checks,
    pub(crate) notes: BTreeMap<&'static str, u64>,
    hash: u64,
    lines: Vec<Line>,
}

/// How a run ended.
pub(crate) struct Outcome {
    /// What was violated first, if anything.
    pub(crate) violation: Option<String>,
    /// Over all events, in their order.
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) lines: Vec<Line>,
    pub(crate) notes: BTreeMap<&'static str, u64>,
}

/// Runs one seed, with a planted bug or none.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    let mut world = World::new(seed, bug);
    world.start();
    while world.checks.violation.is_none() && world.step() {}
    if world.checks.violation.is_none() {
        world.check_end();
    }
    Outcome {
        violation: world.checks.violation,
        hash: world.hash,
        events: world.sequence,
        lines: world.lines,
        notes: world.notes,
    }
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = (0..rng.between(3, 6) as usize).map(|at| Node::new(at, &mut rng)).collect();
        Self {
            now: 0,
            rng,
            bug,
            base: Instant::now(),
            queue: BTreeMap::new(),
            sequence: 0,
            cuts: BTreeMap::new(),
            nodes,
            group: Group::default(),
            server: Server::default(),
            sessions: (0..10).map(Session::new).collect(),
            calls: Vec::new(),
            attempts: Vec::new(),
            checks: Checks::default(),
            notes: BTreeMap::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            lines: Vec::new(),
        }
    }

    fn start(&mut self) {
        for node in 0..self.nodes.len() {
            self.start_process(node);
        }
        self.elect(0);
        for session in 0..self.sessions.len() {
            let think = self.rng.between(200, 400);
            self.after(think, Event::NextCall(session));
        }
        self.after(50, Event::Election);
        self.after(800, Event::Fault);
        self.after(FAULTS_END, Event::Heal);
    }

    /// Handles the next event; false when there is none left or the time is over.
    fn step(&mut self) -> bool {
        let Some(((at, _), queued)) = self.queue.pop_first() else { return false };
        if at > END || (at > CALLS_END && self.calls.iter().all(|it| it.answered.is_some())) {
            return false;
        }
        self.now = at;
        if queued.link.is_some_and(|link| self.is_cut(link)) {
            if self.now < queued.until {
                let again = self.rng.between(40, 120);
                self.enqueue(again, queued);
            }
            return true;
        }
        self.handle(queued.event);
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Node(node, process, message) => self.deliver(node, process, message),
            Event::Server(request) => self.at_server(request),
            Event::Executed(request, token) => self.executed(request, token),
            Event::Client(attempt, said) => self.said(attempt, said),
            Event::NextCall(session) => self.next_call(session),
            Event::Silence(attempt) => self.silence(attempt),
            Event::Retry(call) => self.retry(call),
            Event::GiveUp(call) => self.give_up(call),
            Event::Commit(id) => self.commit(id),
            Event::Election => self.election(),
            Event::Fault => self.fault(),
            Event::Heal => self.heal(),
            Event::Thaw(node, process) => self.thaw(node, process),
            Event::Restart(node) => self.restart(node),
        }
    }

    // === Time and links ===

    pub(crate) fn after(&mut self, delay: Ms, event: Event) {
        self.enqueue(delay, Queued { event, link: None, until: 0 });
    }

    /// A message that is lost if the link is cut.
    pub(crate) fn send(&mut self, from: Place, to: Place, event: Event) {
        if !self.is_cut((from, to)) {
            let delay = self.delay();
            self.enqueue(delay, Queued { event, link: Some((from, to)), until: 0 });
        }
    }

    /// A message on a connection: sent again while the link is cut, and given up at last.
    pub(crate) fn send_patiently(&mut self, from: Place, to: Place, event: Event) {
        let (delay, until) = (self.delay(), self.now + PATIENCE);
        self.enqueue(delay, Queued { event, link: Some((from, to)), until });
    }

    /// To a process of a node, lost if the link is cut.
    pub(crate) fn tell(&mut self, from: Place, node: usize, message: Message) {
        let process = self.nodes[node].process;
        self.send(from, node, Event::Node(node, process, message));
    }

    fn enqueue(&mut self, delay: Ms, queued: Queued) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), queued);
    }

    /// Mostly short; now and then a message is overtaken by many others.
    fn delay(&mut self) -> Ms {
        if self.rng.percent(4) { self.rng.between(20, 400) } else { self.rng.between(1, 12) }
    }

    pub(crate) fn cut(&mut self, from: Place, to: Place, until: Ms) {
        let present = self.cuts.entry((from, to)).or_default();
        *present = until.max(*present);
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn is_cut(&self, link: (Place, Place)) -> bool {
        self.cuts.get(&link).is_some_and(|until| self.now < *until)
    }

    // === Trace ===

    /// Takes down what happened: part of the hash of the run, and printed if it fails.
    pub(crate) fn trace(&mut self, what: &'static str, a: u64, b: u64) {
        for number in [self.now, a, b].into_iter().chain(what.bytes().map(u64::from)) {
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push((self.now, what, a, b));
    }

    pub(crate) fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }
}

/// Server events travel to the exchange that asked.
impl World {
    pub(crate) fn server_says(&mut self, request: Request, event: ServerEvent) {
        let message = Message::Server(request.exchange, request.attempt, event);
        let event = Event::Node(request.node, request.process, message);
        self.send_patiently(SERVER, request.node, event);
    }

    /// A proposal goes to whom this node takes for the leader.
    pub(crate) fn send_proposal(&mut self, from: usize, to: usize, command: Command) {
        let process = self.nodes[from].process;
        let repeated = self.rng.percent(5);
        let message = Message::Propose { from, process, command: Box::new(command) };
        if repeated {
            self.tell(from, to, message.clone());
        }
        self.tell(from, to, message);
    }
}
