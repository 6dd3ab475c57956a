//! The world of one seed: a server, three networks, clients, and what goes wrong.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use holdfast_engine::breaker::{Cause, Override, Params, Phase};

use super::Bug;
use super::checks::{self, Truth};
use super::coordinator::{Coordinator, Report, Word};
use super::node::{End, Node};
use crate::breaker::rig::Rng;

const MS: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_millis(10);
/// Things go wrong for so long, and then everything has to be well again.
const TROUBLE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(25);

pub(crate) struct Outcome {
    pub(crate) wrong: Option<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) trace: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Server {
    Well,
    /// A few random errors.
    Poor,
    Errors,
    /// One in three.
    SomeErrors,
    Hangs,
    Busy,
    ErrorAnswers,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Network {
    Fine,
    Refuses,
    Swallows,
}

enum Message {
    Report(usize, Report),
    Word(usize, Word),
}

struct World {
    params: Params,
    start: Instant,
    now: Instant,
    rng: Rng,
    bug: Option<Bug>,
    server: Server,
    networks: [Network; 3],
    nodes: [Node; 3],
    truths: [Truth; 3],
    coordinator: Coordinator,
    messages: Vec<(Instant, Message)>,
    /// Until when the coordinator and a node hear nothing of each other.
    apart: [Instant; 3],
    /// A node whose way to the server is broken will be apart from the coordinator instead, then.
    departs: Option<(Instant, usize)>,
    operator_words: u64,
    counts: BTreeMap<&'static str, u64>,
    trace: String,
}

pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    let start = Instant::now();
    let params = Params {
        window: Duration::from_secs(5),
        slow: Duration::from_secs(2),
        open_for: Duration::from_secs(1),
        open_at_most: Duration::from_secs(2),
        probe_interval: 500 * MS,
        recover_for: Duration::from_secs(5),
        ..Params::default()
    };
    let mut world = World {
        params,
        start,
        now: start,
        rng: Rng(seed),
        bug,
        server: Server::Well,
        networks: [Network::Fine; 3],
        nodes: [(); 3].map(|()| Node::new(params, bug, start)),
        truths: [(); 3].map(|()| Truth::new(start)),
        coordinator: Coordinator::new(params, bug),
        messages: Vec::new(),
        apart: [start; 3],
        departs: None,
        operator_words: 2,
        counts: BTreeMap::new(),
        trace: String::new(),
    };
    let wrong = world.live().err();
    Outcome { wrong, counts: world.counts, trace: world.trace }
}

impl World {
    fn live(&mut self) -> Result<(), String> {
        for node in 0..3 {
            self.born(node)?;
        }
        while self.now < self.start + TROUBLE + QUIET {
            self.now += STEP;
            if self.now < self.start + TROUBLE {
                self.trouble()?;
            } else if self.now < self.start + TROUBLE + STEP {
                self.calm();
            }
            self.hopeless();
            self.deliver()?;
            for node in 0..3 {
                self.nodes[node].tick(self.now, &mut self.rng);
                self.look(node)?;
                // Twenty calls a second.
                if self.rng.below(5) == 0 {
                    self.call(node)?;
                }
                if self.rng.below(10) == 0 {
                    let report = self.nodes[node].report(self.now);
                    self.send(Message::Report(node, report));
                }
            }
            if self.rng.below(5) == 0 {
                self.coordinate();
            }
            let heard = self.apart.iter().all(|until| *until + 2000 * MS < self.now);
            checks::always(&self.truths, heard, &self.params, self.now)?;
        }
        for (node, truth) in self.truths.iter().enumerate() {
            if truth.phase != Phase::Closed {
                return Err(format!("node {node} is still {:?} after a long quiet", truth.phase));
            }
        }
        Ok(())
    }

    fn call(&mut self, node: usize) -> Result<(), String> {
        let (server, network, now) = (self.server, self.networks[node], self.now);
        let ends = |rng: &mut Rng| how_it_ends(server, network, rng);
        let result = self.nodes[node].call(now, &mut self.rng, ends);
        self.look(node)?;
        match result {
            Ok(end) => {
                if end == End::ClientLeft {
                    self.count("client leaves");
                }
                self.truths[node].sent(end, now)
            }
            Err(_) => Ok(()),
        }
    }

    /// Takes a node's transitions and judges them.
    fn look(&mut self, node: usize) -> Result<(), String> {
        for it in self.nodes[node].transitions() {
            let at = (self.now - self.start).as_millis();
            let _ =
                writeln!(self.trace, "{at} node {node}: {:?} → {:?}: {}", it.from, it.to, it.cause);
            self.count(match (it.to, it.cause) {
                (Phase::Open, Cause::InARow(_)) => "opened: in a row",
                (Phase::Open, Cause::Rate { .. }) => "opened: rate",
                (Phase::Open, Cause::NotReachedInARow(_)) => "opened: not reached",
                (Phase::Open, Cause::ProbeFailed) => "opened: probe failed",
                (Phase::Open, Cause::Cluster) => "opened: cluster",
                (Phase::Open, _) => "opened: otherwise",
                (Phase::HalfOpen, _) => "half-open",
                (Phase::Recovering, Cause::ProbesSucceeded) => "recovering",
                (Phase::Recovering, _) => "degraded",
                (Phase::Closed, _) => "closed",
                (Phase::ForcedOpen | Phase::ForcedClosed, _) => "operator",
            });
            if it.to == Phase::Open {
                checks::opened(node, &it, &self.truths, &self.params, self.now)?;
            }
            if it.to != self.truths[node].phase {
                self.truths[node].since = self.now;
            }
            self.truths[node].phase = it.to;
            self.truths[node].own = it.cause.is_the_servers();
        }
        Ok(())
    }

    // --- messages ---

    fn send(&mut self, message: Message) {
        let (Message::Report(node, _) | Message::Word(node, _)) = message;
        if self.rng.below(10) == 0 || self.apart[node] > self.now {
            return;
        }
        let delay = u32::try_from(self.rng.below(50)).expect("small");
        // Some words come once more, long after.
        if let Message::Word(node, word) = message
            && self.rng.below(4) == 0
        {
            let late = u32::try_from(self.rng.below(5_000)).expect("small");
            self.messages.push((self.now + MS * late, Message::Word(node, word)));
        }
        self.messages.push((self.now + MS * delay, message));
    }

    fn deliver(&mut self) -> Result<(), String> {
        let (due, later) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|(at, _): &(Instant, Message)| *at <= self.now);
        self.messages = later;
        for (_, message) in due {
            match message {
                Message::Report(node, report) => self.coordinator.hear(node, report),
                Message::Word(node, word) => self.word(node, word)?,
            }
        }
        Ok(())
    }

    fn word(&mut self, node: usize, word: Word) -> Result<(), String> {
        let news = self.nodes[node].word(word.until, word.generation, self.now);
        let newest = self.truths[node].newest_word;
        if !news {
            self.count("old word refused");
        }
        if news && word.generation <= newest {
            return Err(format!("node {node} takes word {} after {newest}", word.generation));
        }
        self.truths[node].newest_word = newest.max(word.generation);
        self.look(node)?;
        self.truths[node].own &= !news;
        Ok(())
    }

    /// The coordinator decides, and says its last word again: some are lost, and who has not heard it
    /// is not heard, even when its time is over.
    fn coordinate(&mut self) {
        self.coordinator.decide(self.now);
        if let Some(word) = self.coordinator.word {
            for node in 0..3 {
                self.send(Message::Word(node, word));
            }
        }
    }

    // --- what goes wrong ---

    fn trouble(&mut self) -> Result<(), String> {
        if let Some((_, node)) = self.departs.take_if(|(at, _)| *at <= self.now) {
            self.networks[node] = Network::Fine;
            let time = u32::try_from(self.rng.below(25_000)).expect("small");
            self.apart[node] = self.now + MS * time;
            self.happens("node is apart from the coordinator");
        }
        match self.rng.below(2500) {
            0..8 => {
                let modes = [
                    (Server::Well, "server is well"),
                    (Server::Well, "server is well"),
                    (Server::Poor, "server makes a few errors"),
                    (Server::Errors, "server fails"),
                    (Server::SomeErrors, "server fails in part"),
                    (Server::Hangs, "server hangs"),
                    (Server::Busy, "server is busy"),
                    (Server::ErrorAnswers, "server answers with errors of its own"),
                ];
                let (mode, name) = modes[self.rng.below(8) as usize];
                self.server = mode;
                self.happens(name);
            }
            8..16 => {
                let node = self.rng.below(3) as usize;
                let modes = [
                    (Network::Fine, "network is fine"),
                    (Network::Fine, "network is fine"),
                    (Network::Refuses, "network refuses"),
                    (Network::Swallows, "network swallows"),
                ];
                let (mode, name) = modes[self.rng.below(4) as usize];
                self.networks[node] = mode;
                self.happens(name);
                let broken = self.networks.iter().filter(|it| **it != Network::Fine).count();
                if broken == 1 && self.server == Server::Well {
                    self.count("one node alone is cut off");
                }
            }
            16..18 => {
                let node = self.rng.below(3) as usize;
                self.happens("node restarts");
                self.nodes[node] = Node::new(self.params, self.bug, self.now);
                self.truths[node].restarts(self.now);
                self.born(node)?;
            }
            18 => {
                let node = self.rng.below(3) as usize;
                let words = [Override::Open, Override::Closed, Override::Automatic];
                let word = words[self.rng.below(3) as usize];
                self.force(node, word);
                self.look(node)?;
            }
            19..25 => {
                let node = self.rng.below(3) as usize;
                self.networks[node] = Network::Swallows;
                self.departs = Some((self.now + 2800 * MS, node));
                self.happens("network swallows");
            }
            _ => {}
        }
        Ok(())
    }

    /// A node that starts has no recovery; what the cluster has said it hears at once.
    fn born(&mut self, node: usize) -> Result<(), String> {
        let phase = self.nodes[node].breaker.phase();
        if phase != Phase::Closed {
            return Err(format!("node {node} starts {phase:?}"));
        }
        self.coordinator.word.map_or(Ok(()), |word| self.word(node, word))
    }

    fn force(&mut self, node: usize, word: Override) {
        self.operator_words += 1;
        self.nodes[node].breaker.force(word, self.operator_words, self.now);
        self.truths[node].forced = word;
    }

    fn calm(&mut self) {
        self.server = Server::Well;
        self.networks = [Network::Fine; 3];
        self.apart = [self.now; 3];
        for node in 0..3 {
            self.force(node, Override::Automatic);
        }
        self.happens("calm");
    }

    fn hopeless(&mut self) {
        for (truth, network) in self.truths.iter_mut().zip(self.networks) {
            let hopeless =
                network != Network::Fine || matches!(self.server, Server::Errors | Server::Hangs);
            truth.hopeless_since = hopeless.then(|| truth.hopeless_since.unwrap_or(self.now));
        }
    }

    fn happens(&mut self, what: &'static str) {
        let at = (self.now - self.start).as_millis();
        let networks = self.networks;
        let _ = writeln!(self.trace, "{at} {what} ({:?}, {networks:?})", self.server);
        self.count(what);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

fn how_it_ends(server: Server, network: Network, rng: &mut Rng) -> (End, Duration) {
    let ms = |low: u64, high: u64, rng: &mut Rng| {
        MS * u32::try_from(low + rng.below(high - low)).expect("small")
    };
    // The client has enough after five seconds.
    let hangs = (End::Hung, 5000 * MS);
    match network {
        Network::Refuses => return (End::Refused, ms(1, 20, rng)),
        Network::Swallows => return hangs,
        Network::Fine => {}
    }
    if rng.below(20) == 0 && server != Server::Hangs {
        return (End::ClientLeft, ms(1, 300, rng));
    }
    let takes = ms(5, 300, rng);
    let end = match server {
        Server::Well => End::Answer,
        Server::Poor if rng.below(100) == 0 => End::ServerError,
        Server::Poor => End::Answer,
        Server::Errors => End::ServerError,
        Server::SomeErrors if rng.below(3) == 0 => End::ServerError,
        Server::SomeErrors => End::Answer,
        Server::Hangs => return hangs,
        Server::Busy if rng.below(2) == 0 => End::Busy,
        Server::Busy => End::Answer,
        Server::ErrorAnswers => End::ErrorAnswer,
    };
    (end, takes)
}
