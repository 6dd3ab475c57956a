//! The Raft group, idealised: one log, one leader per term. What a leader accepts is committed a little
//! later; if it is deposed meanwhile, its successor commits a first part, in the old term. A leader that
//! is cut off goes on taking itself for one, and swallows what it is told. An answer to a proposal may be lost: then
//! it is made again, when others may have been taken in.

use std::collections::VecDeque;

use holdfast_engine::failover::Failover;
use holdfast_engine::replicated::{
    Body, Command, ControlCommand, Machine, Origin, Reply, ServerCommand,
};

use super::node::{Leading, Message};
use super::world::{Bug, Ms, NAMES, NODES, TROUBLE, World};

/// Followers that hear nothing for so long elect another leader.
const ELECTION: Ms = 500;

#[derive(Default)]
pub(super) struct Group {
    pub(super) term: u64,
    leader: usize,
    confirmed: Ms,
    pub(super) log: Vec<(u64, Command)>,
    pending: VecDeque<(Ms, u64, Command)>,
    /// Proposals that are made again, and when.
    repeats: Vec<(Ms, Command)>,
    serial: u64,
    beat_at: Ms,
    /// The state after all of the log.
    pub(super) truth: Machine,
}

impl Group {
    pub(super) fn failover(&self) -> &Failover {
        &self.truth.control.servers.by_name["db"].failover
    }
}

impl World {
    /// Three members, the first leads, and a server.
    pub(super) fn found(&mut self) {
        self.group.term = 1;
        for node in 0..NODES {
            let join = ControlCommand::Join {
                node: node as u64,
                name: format!("gateway-{node}"),
                peer: String::new(),
                client: String::new(),
                admin: String::new(),
                version: String::new(),
            };
            self.append(1, self.command(node, 0, join));
        }
        let define = ServerCommand::Define {
            server: "db".into(),
            primary: "a".into(),
            instances: NAMES.map(str::to_owned).to_vec(),
            term: 1,
        };
        self.append(1, self.command(0, 1, ControlCommand::Server(define)));
        self.elect(0);
    }

    /// A node that takes itself for the leader proposes.
    pub(super) fn propose(&mut self, from: usize, command: ServerCommand) {
        let body = ControlCommand::Server(command);
        let leader = self.group.leader;
        let reaches = from == leader || !(self.cut[from][leader] || self.cut[leader][from]);
        if !reaches || !self.has_quorum(from) || !self.has_quorum(leader) {
            return self.note("proposals swallowed");
        }
        // What a deposed coordinator proposes reaches the leader as well, in another term.
        let command = self.command(from, 1, body);
        let at = self.now + self.rng.between(2, 40);
        if self.kill.is_none() && self.now < TROUBLE && self.rng.percent(10) {
            let again = self.now + self.rng.between(40, 800);
            self.group.repeats.push((again, command.clone()));
        }
        self.group.pending.push_back((at, self.group.term, command));
    }

    fn command(&self, node: usize, generation: u64, body: ControlCommand) -> Command {
        let origin = Origin { node: node as u64, generation };
        // Serials are the group's own here: nothing is proposed twice under one.
        let serial = self.group.serial + self.group.log.len() as u64 + self.now * 100;
        Command { origin, serial, settled_below: 0, now: self.now, body: Body::Control(body) }
    }

    fn append(&mut self, term: u64, mut command: Command) {
        self.group.serial += 1;
        command.serial = 1_000_000 + self.group.serial;
        let before = self.group.truth.control.servers.clone();
        let index = self.group.log.len() as u64 + 1;
        let decided = decided_in(&mut command).copied();
        if self.bug == Some(Bug::TermUnchecked)
            && let Some(decided) = decided_in(&mut command)
        {
            *decided = term;
        }
        let reply = enter(self.bug, &mut self.group.truth, index, term, &command);
        if matches!(reply, Reply::Moved { .. } | Reply::Stale { .. }) {
            self.note("steps that came too late");
        }
        self.group.log.push((term, command));
        self.check_entry(&before, decided, term);
    }

    pub(super) fn tick_group(&mut self) {
        let leader = self.group.leader;
        let is_led = self.nodes[leader].leads.as_ref().is_some_and(|it| it.term == self.group.term)
            && self.has_quorum(leader);
        if is_led {
            self.group.confirmed = self.now;
            while self.group.pending.front().is_some_and(|it| it.0 <= self.now) {
                if let Some((_, term, command)) = self.group.pending.pop_front() {
                    self.append(term, command);
                }
            }
            let due: Vec<_> = self.group.repeats.extract_if(.., |it| it.0 <= self.now).collect();
            for (_, command) in due {
                self.note("proposals repeated");
                self.append(self.group.term, command);
            }
            if self.now >= self.group.beat_at {
                self.group.beat_at = self.now + 30;
                self.beat(leader);
            }
        } else if self.now >= self.group.confirmed + ELECTION {
            let able: Vec<usize> = (0..NODES).filter(|it| self.has_quorum(*it)).collect();
            if let Some(next) = self.rng.pick(&able) {
                let kept = self.any(self.group.pending.len() + 1);
                for (_, term, command) in
                    std::mem::take(&mut self.group.pending).into_iter().take(kept)
                {
                    self.note("committed by the next leader");
                    self.append(term, command);
                }
                self.elect(next);
            }
        }
    }

    /// A heartbeat: the log up to here.
    fn beat(&mut self, leader: usize) {
        let (term, commit) = (self.group.term, self.group.log.len());
        for node in 0..NODES {
            self.send(leader, node, Message::Beat { term, commit });
        }
    }

    pub(super) fn hand_over(&mut self) {
        let old = self.group.leader;
        let able: Vec<usize> = (0..NODES).filter(|it| *it != old && self.has_quorum(*it)).collect();
        let Some(next) = self.rng.pick(&able) else { return };
        if self.group.failover().moving().is_some() {
            self.note("coordinator handed over in a move");
        }
        // The old one may not notice for a while.
        if self.rng_half() {
            self.nodes[old].leads = None;
        }
        self.group.pending.clear();
        self.elect(next);
    }

    fn elect(&mut self, leader: usize) {
        self.group.term += 1;
        self.group.leader = leader;
        self.group.confirmed = self.now;
        self.line(format!("node {leader} leads term {}", self.group.term));
        self.apply_until(leader, self.group.log.len());
        let (term, now) = (self.group.term, self.now);
        self.nodes[leader].leads = Some(Leading::new(term, now));
    }

    pub(super) fn apply_until(&mut self, node: usize, commit: usize) {
        while self.nodes[node].applied < commit {
            let at = self.nodes[node].applied;
            let (term, command) = self.group.log[at].clone();
            enter(self.bug, &mut self.nodes[node].machine, at as u64 + 1, term, &command);
            self.nodes[node].applied = at + 1;
        }
    }

    /// Whether this node runs and reaches enough others that run.
    pub(super) fn has_quorum(&self, node: usize) -> bool {
        let reached = (0..NODES)
            .filter(|it| {
                let linked = !self.cut[node][*it] && !self.cut[*it][node];
                *it == node || (self.nodes[*it].runs() && linked)
            })
            .count();
        self.nodes[node].runs() && reached > NODES / 2
    }
}

/// The term in which a coordinator decided this.
fn decided_in(command: &mut Command) -> Option<&mut u64> {
    let Body::Control(ControlCommand::Server(command)) = &mut command.body else { return None };
    match command {
        ServerCommand::Failover { term, .. } | ServerCommand::Verdict { term, .. } => Some(term),
        _ => None,
    }
}

/// Applies an entry of the log.
fn enter(
    bug: Option<Bug>,
    machine: &mut Machine,
    index: u64,
    term: u64,
    command: &Command,
) -> Reply {
    let reply = machine.apply(index, term, command);
    if bug == Some(Bug::FollowsUnchecked)
        && matches!(reply, Reply::Moved { .. })
        && let Body::Control(ControlCommand::Server(command)) = &command.body
        && let ServerCommand::Failover { server, next, .. } = command
        && let Some(known) = machine.control.servers.by_name.get_mut(server)
    {
        known.failover = Failover::clone(next);
    }
    reply
}
