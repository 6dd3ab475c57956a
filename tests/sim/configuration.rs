//! Versions of the configuration on three nodes, in virtual time: files that are rolled out node by node,
//! taken back, and come late; operators who reload and go back; nodes that crash, also over a proposal,
//! and nodes that cannot take a version over. The rules are the engine's; the log is ideal, but that what
//! is proposed may come late, or never, and its reply may be lost.
//!
//! Whatever happens: a version follows the one that its proposer saw; no node goes back to an earlier
//! version; and once it is calm all nodes run what holds, and that is the file which was rolled out last,
//! unless an operator has decided otherwise since.
//!
//! `HOLDFAST_SIM_SEEDS=5000 cargo nextest run -p holdfast-tests --test sim configuration` runs more seeds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_engine::configuration::follow::{Follow, Next};
use holdfast_engine::configuration::{Memory, Wish};
use holdfast_engine::replicated::{
    Body, Command, Configuration, ControlCommand, Machine, Origin, Reply, ServerCommand,
};

use super::number;
use super::rng::Rng;

const NODES: usize = 3;
const SEEDS: u64 = 200;
/// Milliseconds in which things go wrong, and after that in which nothing does.
const STORMY: u64 = 20_000;
const CALM: u64 = 25_000;
const TICK: u64 = 10;

/// Mistakes that must show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    /// A proposal follows whatever holds when it arrives.
    FollowsAnything,
    /// A file that is an earlier version is proposed like a new one.
    LateIsNew,
    /// A version that could not be taken over is not tried again.
    FailureIsFinal,
}

/// A proposal on its way.
struct Sent {
    arrives: u64,
    node: usize,
    life: u64,
    content: String,
    follows: u64,
    rolls_back_to: Option<u64>,
    by_person: bool,
    /// Whether the file had come to what holds before it changed again.
    in_step: bool,
}

#[derive(Default)]
struct Node {
    up: bool,
    life: u64,
    file: String,
    /// Contents that are on their way to its disk, and when they are there.
    rollout: Vec<(u64, String)>,
    memory: Memory,
    follow: Follow,
    /// A proposal whose reply it waits for.
    waits: bool,
    /// Whether its file is to be looked at.
    look: bool,
    /// Contents that it cannot take over.
    cannot: Option<String>,
    /// The log up to which it knows.
    knows: usize,
}

struct World {
    now: u64,
    begun: Instant,
    rng: Rng,
    bug: Option<Bug>,
    machine: Machine,
    /// All versions that there were: the machine remembers the last ones only.
    log: Vec<Configuration>,
    nodes: Vec<Node>,
    sent: Vec<Sent>,
    contents: u64,
    /// What was rolled out last.
    wanted: String,
    /// Whether an operator has decided since.
    decided: bool,
    /// What an operator went back from, as long as that holds and nobody rolls it out again.
    unwanted: Option<String>,
    notes: BTreeMap<&'static str, u64>,
    violation: Option<String>,
    lines: Vec<String>,
}

fn content(number: u64) -> String {
    format!("{number:064x}")
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut machine = Machine::default();
        for node in 1..=NODES as u64 {
            let join = ControlCommand::Join {
                node,
                name: format!("n{node}"),
                peer: String::new(),
                client: String::new(),
                admin: String::new(),
                version: String::new(),
            };
            machine.apply(node, 1, &command(Body::Control(join), node, node));
        }
        let node = |_| Node { file: content(0), ..Node::default() };
        let mut world = Self {
            now: 0,
            begun: Instant::now(),
            rng: Rng::new(seed),
            bug,
            machine,
            log: Vec::new(),
            nodes: (0..NODES).map(node).collect(),
            sent: Vec::new(),
            contents: 0,
            wanted: content(0),
            decided: false,
            unwanted: None,
            notes: BTreeMap::new(),
            violation: None,
            lines: Vec::new(),
        };
        (0..NODES).for_each(|at| world.start(at));
        world
    }

    fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }

    fn line(&mut self, text: String) {
        self.lines.push(format!("{:6} {text}", self.now));
    }

    fn violated(&mut self, what: String) {
        self.line(format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    fn instant(&self) -> Instant {
        self.begun + Duration::from_millis(self.now)
    }

    // --- nodes ---

    fn start(&mut self, at: usize) {
        self.line(format!("n{} starts", at + 1));
        let node = &mut self.nodes[at];
        (node.up, node.life) = (true, node.life + 1);
        (node.follow, node.waits, node.look, node.knows) = (Follow::default(), false, true, 0);
    }

    fn crash(&mut self, at: usize) {
        if self.nodes[at].waits {
            self.note("died over a proposal");
        }
        self.line(format!("n{} dies", at + 1));
        self.nodes[at].up = false;
    }

    fn turn(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let arrived: Vec<String> = {
            let (there, coming) = node.rollout.drain(..).partition(|(when, _)| *when <= now);
            node.rollout = coming;
            let there: Vec<(u64, String)> = there;
            there.into_iter().map(|it| it.1).collect()
        };
        if let Some(file) = arrived.last() {
            (node.file, node.look) = (file.clone(), true);
            self.line(format!("n{} has file {}", at + 1, short(file)));
        }
        if !self.nodes[at].up {
            return;
        }
        if self.rng.percent(60) {
            self.nodes[at].knows = self.log.len();
        }
        if self.nodes[at].look && !self.nodes[at].waits {
            self.look(at, false);
        }
        self.take(at);
    }

    /// Looks at the file with fresh knowledge, as a person asks or because it has changed.
    fn look(&mut self, at: usize, asked: bool) {
        self.nodes[at].knows = self.log.len();
        let (file, history) = (self.nodes[at].file.clone(), self.remembered());
        self.nodes[at].memory.learn(&history);
        let mut wish = self.nodes[at].memory.wish(&file, asked, &history);
        if let (Wish::Late { version, .. }, Some(Bug::LateIsNew)) = (wish, self.bug) {
            wish = Wish::Propose { follows: version };
        }
        match wish {
            Wish::Propose { follows } => {
                self.nodes[at].memory.offers(&file);
                self.send(at, file, follows, None, asked);
            }
            Wish::Agreed { .. } | Wish::Behind { .. } | Wish::Late { .. } => {
                if matches!(wish, Wish::Late { .. }) {
                    self.note("came late");
                }
                let holds = history.last().filter(|it| it.id == file);
                self.nodes[at].memory.looked(&file, holds.map(|it| it.version));
                self.nodes[at].look = false;
            }
        }
    }

    fn send(&mut self, at: usize, content: String, follows: u64, back: Option<u64>, person: bool) {
        self.line(format!("n{} proposes {} after {follows}", at + 1, short(&content)));
        let arrives = self.now + self.rng.between(1, 200);
        let life = self.nodes[at].life;
        self.nodes[at].waits = true;
        self.sent.push(Sent {
            arrives,
            node: at,
            life,
            content,
            follows,
            rolls_back_to: back,
            by_person: person,
            in_step: self.nodes[at].memory.agreed >= follows,
        });
    }

    fn take(&mut self, at: usize) {
        let now = self.instant();
        let holds = self.log[..self.nodes[at].knows].last().cloned();
        let node = &mut self.nodes[at];
        let Next::Take(version) = node.follow.next(holds.as_ref(), now) else { return };
        let failed = node.follow.failed().is_some_and(|it| it.0 == version);
        if failed && self.bug == Some(Bug::FailureIsFinal) {
            return;
        }
        if node.cannot.is_some() && node.cannot == holds.map(|it| it.id) {
            node.follow.failed_to(version, "no TOKEN", now);
            self.note("could not take a version over");
            return;
        }
        let runs = node.follow.runs();
        node.follow.took(version);
        if failed {
            self.note("took over later what it could not");
        }
        if version < runs {
            self.violated(format!("n{} goes back from version {runs} to {version}", at + 1));
        }
    }

    // --- the group ---

    fn remembered(&self) -> Vec<Configuration> {
        self.machine.control.servers.configurations.iter().cloned().collect()
    }

    fn arrive(&mut self, it: &Sent) {
        if self.now < STORMY && self.rng.percent(8) {
            self.note("proposals lost");
            return self.answer(it, None);
        }
        let holds = self.log.last().map_or(0, |it| it.version);
        let anything = self.bug == Some(Bug::FollowsAnything);
        let configure = ServerCommand::Configure {
            id: it.content.clone(),
            by: format!("n{}", it.node + 1),
            follows: if anything { holds } else { it.follows },
            rolls_back_to: it.rolls_back_to,
        };
        let index = self.machine.control.index + 1;
        let body = Body::Control(ControlCommand::Server(configure));
        let origin = it.node as u64 + 1;
        let reply = self.machine.apply(index, 1, &command(body, origin, index));
        let last = self.machine.control.servers.configuration().cloned();
        if let Some(last) = last.filter(|last| last.version > holds) {
            self.line(format!("version {} is {}", last.version, short(&last.id)));
            if last.version != it.follows + 1 {
                self.violated(format!(
                    "version {} follows one that its proposer had not seen: it saw {}",
                    last.version, it.follows
                ));
            }
            if it.by_person {
                self.decided = true;
                let from = self.log.last().filter(|_| it.rolls_back_to.is_some());
                let from = from.filter(|from| from.rolls_back_to.is_none());
                self.unwanted = from.map(|from| from.id.clone());
            } else if self.unwanted.as_ref() == Some(&it.content) && !it.in_step {
                let what = short(&it.content);
                self.violated(format!("a late file brings {what} back, from which somebody went"));
            } else {
                // Something new has come since, and what follows from that is another story.
                self.unwanted = None;
            }
            self.log.push(last);
        }
        self.answer(it, Some(reply));
    }

    /// The reply comes to the node, if it is still the one that asked.
    fn answer(&mut self, it: &Sent, reply: Option<Reply>) {
        let holds = self.log.last().filter(|last| last.id == it.content).map(|it| it.version);
        let node = &mut self.nodes[it.node];
        if !node.up || node.life != it.life {
            return;
        }
        node.waits = false;
        match reply {
            // Not known: it looks again.
            None => node.look = true,
            Some(Reply::Moved { .. }) => {
                if node.file == it.content && it.rolls_back_to.is_none() {
                    node.memory.looked(&it.content, None);
                    node.look = false;
                }
                self.note("overtaken");
            }
            Some(_) => {
                if it.rolls_back_to.is_none() {
                    node.memory.looked(&it.content, holds);
                    node.look = node.file != it.content;
                }
            }
        }
    }

    // --- what happens ---

    fn roll_out(&mut self) {
        // Something new, or something that there was: a change is taken back.
        let known = self.contents;
        let number = if self.rng.percent(70) { known + 1 } else { self.rng.between(0, known + 1) };
        if content(number) == self.wanted {
            // No file changes by it.
            return;
        }
        self.contents = self.contents.max(number);
        self.wanted = content(number);
        self.decided = false;
        self.unwanted = self.unwanted.take().filter(|it| *it != self.wanted);
        self.line(format!("{} is rolled out", short(&self.wanted)));
        for at in 0..NODES {
            let last = self.nodes[at].rollout.last().map_or(self.now, |it| it.0);
            let when = last.max(self.now) + self.rng.between(1, 1_500);
            let wanted = self.wanted.clone();
            self.nodes[at].rollout.push((when, wanted));
        }
        self.note("rolled out");
    }

    fn interfere(&mut self) {
        let at = self.rng.between(0, NODES as u64) as usize;
        if !self.nodes[at].up || self.nodes[at].waits {
            return;
        }
        if self.rng.percent(50) {
            self.note("reloaded by a person");
            return self.look(at, true);
        }
        let history = self.remembered();
        let Some(holds) = history.last().cloned() else { return };
        let earlier: Vec<&Configuration> = history.iter().filter(|it| it.id != holds.id).collect();
        if let Some(to) = self.rng.pick(&earlier).cloned() {
            self.note("went back");
            self.send(at, to.id.clone(), holds.version, Some(to.version), true);
        }
    }

    fn storm(&mut self) {
        if self.rng.percent(1) && self.rng.percent(40) {
            self.roll_out();
        }
        if self.rng.percent(1) && self.rng.percent(40) {
            self.interfere();
        }
        for at in 0..NODES {
            match self.nodes[at].up {
                true if self.rng.percent(1) && self.rng.percent(30) => self.crash(at),
                false if self.rng.percent(2) => self.start(at),
                _ => {}
            }
            if self.nodes[at].waits && self.nodes[at].up && self.rng.percent(2) {
                self.crash(at);
            }
            if self.rng.percent(1) && self.rng.percent(20) {
                self.nodes[at].cannot = self.log.last().map(|it| it.id.clone());
            }
        }
    }

    fn run(mut self) -> Self {
        while self.now < STORMY + CALM && self.violation.is_none() {
            self.now += TICK;
            if self.now < STORMY {
                self.storm();
            } else {
                for at in 0..NODES {
                    self.nodes[at].cannot = None;
                    if !self.nodes[at].up {
                        self.start(at);
                    }
                }
            }
            let now = self.now;
            let (there, coming) = self.sent.drain(..).partition(|it| it.arrives <= now);
            self.sent = coming;
            let there: Vec<Sent> = there;
            there.iter().for_each(|it| self.arrive(it));
            (0..NODES).for_each(|at| self.turn(at));
        }
        if self.violation.is_none() {
            self.check_calm();
        }
        self
    }

    fn check_calm(&mut self) {
        let Some(holds) = self.log.last().cloned() else {
            return self.violated("nothing was ever agreed on".to_owned());
        };
        for at in 0..NODES {
            let runs = self.nodes[at].follow.runs();
            if runs != holds.version {
                let version = holds.version;
                self.violated(format!("n{} runs {runs}, and {version} holds", at + 1));
            }
        }
        if !self.decided && holds.id != self.wanted {
            let (is, wanted) = (short(&holds.id), short(&self.wanted));
            self.violated(format!("{is} holds, and {wanted} was rolled out last"));
        }
    }
}

fn short(content: &str) -> String {
    content.trim_start_matches('0').to_owned() + "."
}

fn command(body: Body, node: u64, serial: u64) -> Command {
    let origin = Origin { node, generation: 1 };
    Command { origin, serial, settled_below: serial, now: serial, body }
}

fn run(seed: u64, bug: Option<Bug>) -> World {
    World::new(seed, bug).run()
}

fn report(seed: u64, world: &World) -> String {
    let violation = world.violation.as_deref().unwrap_or("nothing was violated");
    let from = world.lines.len().saturating_sub(60);
    format!("seed {seed}: {violation}\n{}", world.lines[from..].join("\n"))
}

#[test]
fn seeds() {
    let count = number("HOLDFAST_SIM_SEEDS").unwrap_or(SEEDS);
    let mut notes: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..count {
        let world = run(seed, None);
        assert!(world.violation.is_none(), "{}", report(seed, &world));
        for (what, times) in world.notes {
            *notes.entry(what).or_default() += times;
        }
    }
    println!("{count} seeds: {notes:#?}");
    let must = [
        "rolled out",
        "came late",
        "overtaken",
        "reloaded by a person",
        "went back",
        "died over a proposal",
        "proposals lost",
        "could not take a version over",
        "took over later what it could not",
    ];
    let never: Vec<_> = must.iter().filter(|it| !notes.contains_key(*it)).collect();
    assert!(never.is_empty() || count < SEEDS, "never happened in {count} seeds: {never:?}");
}

#[test]
fn planted_bugs_are_found() {
    for (bug, shown_by) in [
        (Bug::FollowsAnything, "had not seen"),
        (Bug::LateIsNew, "brings"),
        (Bug::FailureIsFinal, "holds"),
    ] {
        let found = (0..SEEDS).find_map(|seed| Some((seed, run(seed, Some(bug)).violation?)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: seed {seed}: {violation}");
        assert!(violation.contains(shown_by), "{bug:?}: seed {seed}: {violation}");
    }
}
