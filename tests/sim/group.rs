//! The Raft group, idealised: one log, one leader per term, and everything around it that goes wrong.
//!
//! What a leader accepts waits to be committed; if the leader is deposed meanwhile, its successor
//! commits a first part of it, in the old term, and the rest is lost. Who proposed learns nothing of
//! either. A leader that is cut off goes on taking itself for one, and swallows what it is told.

use std::collections::VecDeque;

use holdfast_engine::lease::Granter;
use holdfast_engine::replicated::{Command, Machine, Reply};

use crate::node::{FAILOVER, Leading, Message, sync};
use crate::ports::Ms;
use crate::world::{Event, World};

/// Followers that hear nothing for this long elect another leader, at the earliest.
const ELECTION: Ms = 500;

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) log: Vec<Entry>,
    pub(crate) term: u64,
    pub(crate) leader: usize,
    /// When a quorum last answered the leader, and how long the followers wait from then.
    confirmed: Ms,
    wait: Ms,
    pending: VecDeque<Pending>,
    proposals: u64,
    /// The state after all of the log.
    pub(crate) truth: Machine,
}

/// An entry of the log, with what the machine replies to it.
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) command: Command,
    pub(crate) reply: Reply,
}

struct Pending {
    id: u64,
    command: Command,
    from: usize,
    process: u32,
}

impl World {
    /// A proposal reaches the node that leads.
    pub(crate) fn accept(&mut self, from: usize, process: u32, mut command: Command) {
        let leader = self.group.leader;
        command.now = self.wall(leader);
        self.group.proposals += 1;
        let id = self.group.proposals;
        self.group.pending.push_back(Pending { id, command, from, process });
        let replicate = self.rng.between(2, 25);
        self.after(replicate, Event::Commit(id));
    }

    /// Commits what waits, up to this proposal, if the leader has a quorum.
    pub(crate) fn commit(&mut self, id: u64) {
        if !self.group.pending.iter().any(|it| it.id == id) {
            return;
        }
        if !self.leads(self.group.leader) {
            return self.after(50, Event::Commit(id));
        }
        while self.group.pending.front().is_some_and(|it| it.id <= id) {
            if let Some(pending) = self.group.pending.pop_front() {
                self.append(&pending);
            }
        }
        let leader = self.group.leader;
        self.apply_until(leader, self.group.log.len());
        for node in (0..self.nodes.len()).filter(|it| *it != leader) {
            let (term, commit) = (self.group.term, self.group.log.len());
            self.tell(leader, node, Message::Heartbeat { term, leader, commit });
        }
    }

    /// Puts an entry into the log and answers whoever proposed it, if the answer gets there.
    fn append(&mut self, pending: &Pending) {
        let (term, leader) = (self.group.term, self.group.leader);
        let index = self.group.log.len() as u64 + 1;
        let current = self.group.truth.control.is_current(pending.command.origin);
        let reply = self.group.truth.apply(index, term, &pending.command);
        self.trace("committed", index, pending.command.serial);
        self.check_entry(term, current, &pending.command, &reply);
        let message =
            Message::Replied { serial: pending.command.serial, reply: Box::new(reply.clone()) };
        self.group.log.push(Entry { term, command: pending.command.clone(), reply });
        self.send(leader, pending.from, Event::Node(pending.from, pending.process, message));
    }

    // === Elections ===

    /// Looks after the leader, every 50 ms.
    pub(crate) fn election(&mut self) {
        self.after(50, Event::Election);
        let leader = self.group.leader;
        if self.leads(leader) {
            self.group.confirmed = self.now;
        } else if self.now - self.group.confirmed >= self.group.wait {
            let able: Vec<usize> =
                (0..self.nodes.len()).filter(|it| self.has_quorum(*it)).collect();
            if let Some(next) = self.rng.pick(&able) {
                // What the old leader had sent to enough followers is committed by the new one.
                let kept = self.rng.between(0, self.group.pending.len() as u64 + 1);
                for pending in
                    std::mem::take(&mut self.group.pending).into_iter().take(kept as usize)
                {
                    self.note("committed by the next leader");
                    self.append(&pending);
                }
                self.elect(next);
            }
        }
    }

    /// A leader hands over to another node. It may not notice: then it goes on as if it led.
    pub(crate) fn hand_over(&mut self) {
        let able: Vec<usize> = (0..self.nodes.len())
            .filter(|it| *it != self.group.leader && self.has_quorum(*it))
            .collect();
        if let Some(next) = self.rng.pick(&able)
            && self.leads(self.group.leader)
        {
            self.note("leadership handed over");
            if self.rng.percent(50) {
                self.nodes[self.group.leader].leading = None;
            }
            self.group.pending.clear();
            self.elect(next);
        }
    }

    pub(crate) fn elect(&mut self, leader: usize) {
        self.group.term += 1;
        self.group.leader = leader;
        self.group.confirmed = self.now;
        self.group.wait = self.rng.between(ELECTION, 1_400);
        let term = self.group.term;
        self.trace("elected", term, leader as u64);
        self.check_elected(term, leader);
        self.apply_until(leader, self.group.log.len());
        let at = self.instant(leader);
        let node = &mut self.nodes[leader];
        let mut granter = Granter::new(at, FAILOVER);
        sync(&mut granter, &node.machine.control, at);
        node.leader = Some(leader);
        node.term = term;
        node.leading = Some(Leading { term, granter, expired_at: 0 });
    }

    /// Whether this node takes itself for the present term's leader, rightly, and has a quorum. One
    /// that was restarted does not.
    pub(crate) fn leads(&self, node: usize) -> bool {
        let leading = self.nodes[node].leading.as_ref();
        leading.is_some_and(|it| it.term == self.group.term) && self.has_quorum(node)
    }

    /// Whether this node runs and reaches, both ways, enough others that run.
    fn has_quorum(&self, node: usize) -> bool {
        let runs = |it: usize| self.nodes[it].up && !self.nodes[it].frozen;
        let reached = (0..self.nodes.len())
            .filter(|it| {
                *it == node || (runs(*it) && !self.is_cut((node, *it)) && !self.is_cut((*it, node)))
            })
            .count();
        runs(node) && reached > self.nodes.len() / 2
    }
}
