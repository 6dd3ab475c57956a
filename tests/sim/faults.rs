//! What goes wrong, when, and for how long: any of it at any time, several at once, until it stops.

use crate::client::BALANCER_PATIENCE;
use crate::ports::Ms;
use crate::world::{BALANCER, Event, FAULTS_END, Place, SERVER, World};

impl World {
    pub(crate) fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return;
        }
        let pause = self.rng.between(100, 900);
        self.after(pause, Event::Fault);
        let node = self.rng.between(0, self.nodes.len() as u64) as usize;
        // Coordinators are hit more often than others.
        let node = if self.rng.percent(25) { self.group.leader } else { node };
        let until = self.now + self.rng.between(100, 3_500);
        let kind = self.rng.between(0, 13);
        self.trace("fault", kind, node as u64);
        match kind {
            0 | 1 => self.crash(node),
            2..=4 => self.freeze(node, until),
            5 => self.isolate(node, until, true, true),
            6 => self.isolate(node, until, true, false),
            7 => self.isolate(node, until, false, true),
            8 => {
                let peer = (node + 1) % self.nodes.len();
                self.cut_both(node, peer, until);
            }
            9 => self.cut_both(node, BALANCER, until),
            10 => {
                self.note("nodes cut off from the server");
                self.cut_both(node, SERVER, until);
            }
            11 => match self.rng.between(0, 4) {
                0 => self.restart_server(),
                1 => self.server.refuses_until = until.min(self.now + 400),
                _ => self.server.cuts_until = until,
            },
            _ => self.hand_over(),
        }
    }

    fn crash(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.note("crashes");
        self.kill(node);
        if self.rng.percent(15) && self.group.leader != node {
            self.lose_directory(node);
        }
        let down = self.rng.between(100, 2_500);
        self.after(down, Event::Restart(node));
    }

    pub(crate) fn restart(&mut self, node: usize) {
        if !self.nodes[node].up {
            self.start_process(node);
        }
    }

    fn freeze(&mut self, node: usize, until: Ms) {
        if !self.nodes[node].up || self.nodes[node].frozen {
            return;
        }
        self.note("freezes");
        self.nodes[node].frozen = true;
        let (wait, process) = (until - self.now, self.nodes[node].process);
        self.after(wait, Event::Thaw(node, process));
    }

    /// What came meanwhile is handled in any order, before or after the node notices its gap.
    pub(crate) fn thaw(&mut self, node: usize, process: u32) {
        if self.nodes[node].process != process || !self.nodes[node].frozen {
            return;
        }
        self.trace("thawed", node as u64, 0);
        self.nodes[node].frozen = false;
        for message in std::mem::take(&mut self.nodes[node].backlog) {
            // What was lost while its buffers were full is sent again after a while.
            let most = if self.rng.percent(20) { 600 } else { 15 };
            let jitter = self.rng.between(0, most);
            self.after(jitter, Event::Node(node, process, message));
        }
    }

    /// Cuts a node off from everything but the server, in one direction or both.
    fn isolate(&mut self, node: usize, until: Ms, inwards: bool, outwards: bool) {
        self.note(if inwards && outwards { "isolations" } else { "one-way isolations" });
        let others: Vec<Place> =
            (0..self.nodes.len()).filter(|it| *it != node).chain([BALANCER]).collect();
        for other in others {
            if inwards {
                self.cut(other, node, until);
            }
            if outwards {
                self.cut(node, other, until);
            }
        }
    }

    fn cut_both(&mut self, one: Place, other: Place, until: Ms) {
        self.cut(one, other, until);
        self.cut(other, one, until);
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        self.trace("healed", 0, 0);
        self.mend_all();
        (self.server.refuses_until, self.server.cuts_until) = (0, 0);
        for node in 0..self.nodes.len() {
            self.restart(node);
            self.thaw(node, self.nodes[node].process);
        }
    }
}

/// Healed clusters answer calls that begin this long afterwards with their result.
pub(crate) const SETTLED: Ms = 4_000;
/// And within this.
pub(crate) const PROMPT: Ms = 9_000;
/// No call waits longer, whatever happens.
pub(crate) const LONGEST: Ms = BALANCER_PATIENCE;
