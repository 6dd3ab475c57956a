//! Clients, one call after another each, and the balancer in front of the nodes.
//!
//! The balancer sends a call that broke, or got no headers for a while, to another node under the same
//! request id, says whether it is its first attempt, and answers itself when its patience is over.
//! Once headers have come it never repeats: then the client goes on with the stream at another node.
//!
//! Some calls come without a balancer's id. Nobody sends those again, but some come in two copies at
//! once, and their ids begin anew: once a call of theirs is finished, its key may name another one.

use holdfast_engine::{class::CallClass, journal::CallKey};

use crate::driver::decode;
use crate::node::Message;
use crate::ports::{Answer, Ms};
use crate::server::class_of;
use crate::world::{BALANCER, CALLS_END, Event, Said, World};

/// How long the balancer waits for headers.
const SILENCE: (Ms, Ms) = (1_300, 2_600);
/// How long the balancer works on a call.
pub(crate) const BALANCER_PATIENCE: Ms = 14_000;

pub(crate) struct Session {
    at: u64,
    /// Counts the keys of calls without a balancer's id.
    counter: u64,
}

pub(crate) struct Call {
    /// Drawn at random; the call's class and the server's manner follow from it.
    pub(crate) number: u64,
    session: usize,
    pub(crate) class: CallClass,
    pub(crate) by_balancer: bool,
    pub(crate) key: CallKey,
    pub(crate) started: Ms,
    pub(crate) answered: Option<(Ms, Told)>,
    /// Executions beyond the first that are as they should be: a second copy that arrived after the
    /// first was finished is another call, as far as anybody can know.
    pub(crate) anew: usize,
    /// Attempts so far; a call without a balancer's id that came in two copies has two at once.
    tries: u32,
}

/// Who told the client what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    ByNode(Answer),
    /// The balancer's own error: it may have run.
    ByBalancer,
    /// A broken connection, which says nothing.
    Lost,
}

pub(crate) struct Attempt {
    pub(crate) call: usize,
    pub(crate) node: usize,
    pub(crate) post: bool,
    pub(crate) first: bool,
    /// The client's side is open.
    pub(crate) live: bool,
    pub(crate) committed: bool,
    /// Answers that the node gave on it.
    pub(crate) answers: u32,
}

impl Session {
    pub(crate) fn new(at: usize) -> Self {
        Self { at: at as u64, counter: 0 }
    }
}

impl World {
    pub(crate) fn next_call(&mut self, session: usize) {
        if self.now >= CALLS_END {
            return;
        }
        let at = self.calls.len();
        let number = self.rng.next() >> 20;
        let by_balancer = !self.rng.percent(20);
        let key = if by_balancer { self.key(1, number) } else { self.counted_key(session) };
        self.calls.push(Call {
            number,
            session,
            class: class_of(number),
            by_balancer,
            key,
            started: self.now,
            answered: None,
            anew: 0,
            tries: 0,
        });
        self.trace("call", at as u64, number);
        self.after(BALANCER_PATIENCE, Event::GiveUp(at));
        self.attempt(at, true, None);
        if !by_balancer && self.rng.percent(40) {
            self.note("two copies");
            self.attempt(at, true, None);
        }
    }

    fn key(&self, kind: u8, number: u64) -> CallKey {
        let mut key = [kind; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        CallKey(key)
    }

    /// The session's last key again, if the journal says that its call is finished, as when a client
    /// begins to count anew; else the next one.
    fn counted_key(&mut self, session: usize) -> CallKey {
        let Session { at, counter } = self.sessions[session];
        let last = self.key(2, at << 32 | counter);
        let machine = &self.group.truth;
        let finished = machine
            .kv
            .get(last.as_ref(), machine.control.time)
            .and_then(decode)
            .is_some_and(|(entry, _)| entry.phase.is_finished());
        // Nothing of the last call is under way any more: no second copy, no connection that broke.
        let quiet = |it: &Call| it.tries == 1 && matches!(it.answered, Some((_, Told::ByNode(_))));
        let idle = self.calls.iter().filter(|it| it.key == last).all(quiet);
        if finished && idle && self.rng.percent(60) {
            self.note("key used anew");
            return last;
        }
        self.sessions[session].counter += 1;
        self.key(2, at << 32 | (counter + 1))
    }

    /// Sends a call to a node, not to `not` if there is another.
    fn attempt(&mut self, call: usize, post: bool, not: Option<usize>) {
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(|it| Some(*it) != not).collect();
        let Some(node) = self.rng.pick(&nodes) else { return };
        self.calls[call].tries += 1;
        let at = self.attempts.len();
        let first = self.calls[call].by_balancer && self.calls[call].tries == 1;
        self.attempts.push(Attempt {
            call,
            node,
            post,
            first,
            live: true,
            committed: false,
            answers: 0,
        });
        self.trace("attempt", call as u64, node as u64);
        let event = Event::Node(node, self.nodes[node].process, Message::Arrive(at));
        self.send_patiently(BALANCER, node, event);
        let silence = self.rng.between(SILENCE.0, SILENCE.1);
        self.after(silence, Event::Silence(at));
    }

    /// No headers yet: on to another node. Calls without an id are not sent again.
    pub(crate) fn silence(&mut self, at: usize) {
        let Attempt { call, live, committed, .. } = self.attempts[at];
        if live && !committed && self.calls[call].by_balancer {
            self.note("silent node");
            self.abandon(at);
            self.retry(call);
        }
    }

    pub(crate) fn retry(&mut self, call: usize) {
        let busy = self.attempts.iter().any(|it| it.call == call && it.live);
        if self.calls[call].answered.is_none() && !busy {
            let last = self.attempts.iter().rev().find(|it| it.call == call);
            let (node, post) = last.map_or((None, true), |it| (Some(it.node), it.post));
            let committed = last.is_some_and(|it| it.committed);
            self.attempt(call, post && !committed, node);
        }
    }

    fn abandon(&mut self, at: usize) {
        let attempt = &mut self.attempts[at];
        if std::mem::replace(&mut attempt.live, false) {
            let node = attempt.node;
            let event = Event::Node(node, self.nodes[node].process, Message::Gone(at));
            self.send_patiently(BALANCER, node, event);
        }
    }

    /// Something comes back on a connection; it counts if the client's side is still open.
    pub(crate) fn said(&mut self, at: usize, said: Said) {
        let Attempt { call, live, .. } = self.attempts[at];
        if !live {
            return;
        }
        match said {
            Said::Headers => self.attempts[at].committed = true,
            Said::Answer(answer) => self.finish(call, Told::ByNode(answer)),
            Said::Broken => {
                self.attempts[at].live = false;
                if self.calls[call].by_balancer {
                    let pause = self.rng.between(20, 150);
                    self.after(pause, Event::Retry(call));
                } else if !self.attempts.iter().any(|it| it.call == call && it.live) {
                    self.finish(call, Told::Lost);
                }
            }
        }
    }

    pub(crate) fn give_up(&mut self, call: usize) {
        if self.calls[call].answered.is_none() {
            self.note("balancer gave up");
            self.finish(call, Told::ByBalancer);
        }
    }

    fn finish(&mut self, call: usize, told: Told) {
        self.check_answer(call, told);
        let code = match told {
            Told::ByNode(Answer::Result(token)) => token,
            Told::ByNode(Answer::DidNotRun) => 1 << 60,
            Told::ByNode(Answer::MayHaveRun) => 2 << 60,
            Told::ByBalancer => 3 << 60,
            Told::Lost => 4 << 60,
        };
        self.trace("answered", call as u64, code);
        self.calls[call].answered = Some((self.now, told));
        for at in 0..self.attempts.len() {
            if self.attempts[at].call == call {
                self.abandon(at);
            }
        }
        let think = self.rng.between(5, 160);
        self.after(think, Event::NextCall(self.calls[call].session));
    }
}
