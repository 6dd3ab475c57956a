//! What must hold, checked at the moment at which it could be violated, against what really happened:
//! the server's executions, the committed log, and what clients were told.

use std::collections::BTreeMap;

use holdfast_engine::class::CallClass;
use holdfast_engine::journal::Phase;
use holdfast_engine::replicated::{
    Body, Command, ControlCommand, MemberState, NodeId, Origin, Reply,
};

use crate::client::Told;
use crate::driver::decode;
use crate::faults::{LONGEST, PROMPT, SETTLED};
use crate::ports::{Answer, Bug};
use crate::world::{FAULTS_END, World};

#[derive(Default)]
pub(crate) struct Checks {
    /// The first violation; the run ends with it.
    pub(crate) violation: Option<String>,
    /// Who was elected in each term.
    leaders: BTreeMap<u64, NodeId>,
}

impl Checks {
    fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Every node gets the same reply from the same entry.
    pub(crate) fn same_reply(&mut self, node: usize, index: usize, got: &Reply, first: &Reply) {
        if got != first {
            self.fail(format!("node {node} got {got:?} from entry {index}, the leader {first:?}"));
        }
    }
}

impl World {
    fn executions(&self, call: usize) -> usize {
        self.server.executions.values().filter(|it| it.call == call).count()
    }

    /// A Write runs at most once, and what "did not run" never does.
    pub(crate) fn check_execution(&mut self, call: usize) {
        let (times, known) = (self.executions(call), &self.calls[call]);
        if known.class == CallClass::Write && times > 1 + known.anew {
            self.checks.fail(format!("call {call}, a Write, ran {times} times"));
        }
        let denied = matches!(known.answered, Some((_, Told::ByNode(Answer::DidNotRun))));
        if denied && known.anew == 0 {
            self.checks.fail(format!("call {call} ran after its client was told that it did not"));
        }
    }

    /// A call gets one answer, and a true one.
    pub(crate) fn check_answer(&mut self, call: usize, told: Told) {
        if self.calls[call].answered.is_some() {
            self.checks.fail(format!("call {call} got a second answer: {told:?}"));
        }
        match told {
            Told::ByNode(Answer::Result(token)) => {
                let true_of = self.server.executions.get(&token).is_some_and(|it| it.call == call);
                let ran =
                    self.server.executions.get(&token).is_some_and(|it| it.done_at <= self.now);
                if !true_of || !ran {
                    self.checks.fail(format!("call {call} got the result {token}, not its own"));
                }
            }
            Told::ByNode(Answer::DidNotRun) if self.executions(call) > self.calls[call].anew => {
                self.checks
                    .fail(format!("call {call} ran, and its client was told that it did not"));
            }
            Told::ByNode(_) | Told::ByBalancer | Told::Lost => {}
        }
    }

    /// A node gives at most one answer on a connection.
    pub(crate) fn check_attempt(&mut self, attempt: usize) {
        if self.attempts[attempt].answers > 1 {
            let call = self.attempts[attempt].call;
            self.checks.fail(format!("call {call} got two answers on one connection"));
        }
    }

    /// At the moment of sending, the committed journal says that exactly this life of this node sends
    /// the call, and the group has not given that life up. And nothing is sent after its end was told.
    pub(crate) fn check_sending(&mut self, call: usize, owner: Origin, revision: Option<u64>) {
        let known = &self.calls[call];
        if known.class < CallClass::Idempotent || self.bug == Some(Bug::JournalAfterSend) {
            return;
        }
        let truth = &self.group.truth;
        let entry = truth.kv.get(known.key.as_ref(), truth.control.time).and_then(decode);
        let waits = entry.as_ref().is_some_and(|(entry, _)| entry.phase == Phase::Waiting);
        let mine = entry.is_some_and(|(entry, at)| {
            entry.owner == owner && Some(at) == revision && !entry.phase.is_finished()
        });
        // An Idempotent in two copies may be repeated for the second, whose client still waits there.
        let single = known.by_balancer || known.class == CallClass::Write;
        let told = |it: Told| matches!(it, Told::ByNode(Answer::Result(_) | Answer::DidNotRun));
        if !truth.control.is_current(owner) {
            self.checks.fail(format!("call {call} was sent by {owner:?}, which was given up"));
        } else if !mine {
            self.checks.fail(format!("call {call} was sent by {owner:?}, not its owner"));
        } else if waits {
            self.checks.fail(format!("call {call} was sent while its entry says that it waits"));
        } else if known.answered.is_some_and(|(_, it)| told(it)) && known.anew == 0 && single {
            self.checks.fail(format!("call {call} was sent after its end was told"));
        }
    }

    /// One leader per term.
    pub(crate) fn check_elected(&mut self, term: u64, leader: usize) {
        if self.checks.leaders.insert(term, self.nodes[leader].id).is_some() {
            self.checks.fail(format!("two leaders in term {term}"));
        }
    }

    /// What an entry did when it was committed; `current` says whether its origin might act then.
    pub(crate) fn check_entry(
        &mut self,
        term: u64,
        current: bool,
        command: &Command,
        reply: &Reply,
    ) {
        // A repeated proposal gets its first reply, with the first one's revision, and does nothing.
        let index = self.group.truth.control.index;
        let done = matches!(reply, Reply::Done { revision } if *revision == index);
        match &command.body {
            Body::Kv(_) if done && !current => {
                let origin = command.origin;
                self.checks.fail(format!("entry {index}: {origin:?} wrote, and was given up"));
            }
            Body::Control(ControlCommand::Declare {
                node,
                generation,
                state,
                term: decided,
                ..
            }) if done => {
                let leader = self.checks.leaders.get(decided).copied();
                if *decided != term || leader != Some(command.origin.node) {
                    self.checks.fail(format!(
                        "entry {index} of term {term}: a decision of {} in term {decided} applied",
                        command.origin.node
                    ));
                }
                if *state == MemberState::Dead {
                    self.note("declared dead");
                    self.check_lease(*node, *generation);
                }
            }
            _ => {}
        }
    }

    /// Nobody is declared dead who still holds a lease.
    fn check_lease(&mut self, id: NodeId, generation: u64) {
        let Some(at) = self.nodes.iter().position(|it| it.id == id && it.up) else { return };
        let (node, now) = (&self.nodes[at], self.instant(at));
        if node.origin.generation == generation && node.holder.holds(now) {
            self.checks.fail(format!("node {at} was declared dead and holds a lease"));
        }
    }

    /// Once the faults have stopped: every call has its answer in time, those that began later their
    /// result, and all nodes the same state.
    pub(crate) fn check_end(&mut self) {
        for (at, call) in self.calls.iter().enumerate() {
            let Some((when, told)) = call.answered else {
                return self.checks.fail(format!("call {at} never got an answer"));
            };
            let took = when - call.started;
            let calm = call.started >= FAULTS_END + SETTLED;
            if took > LONGEST {
                return self.checks.fail(format!("call {at} got its answer after {took} ms"));
            }
            if calm && (took > PROMPT || !matches!(told, Told::ByNode(Answer::Result(_)))) {
                return self
                    .checks
                    .fail(format!("call {at}, after the faults: {told:?}, {took} ms"));
            }
        }
        let calm = self.calls.iter().filter(|it| it.started >= FAULTS_END + SETTLED).count();
        if calm == 0 {
            self.checks.fail("no call began after the faults".into());
        }
        let length = self.group.log.len();
        for at in 0..self.nodes.len() {
            self.apply_until(at, length);
            if self.nodes[at].machine.snapshot() != self.group.truth.snapshot() {
                self.checks.fail(format!("node {at} ended in another state"));
            }
        }
    }
}
