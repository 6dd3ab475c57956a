//! A group of one member in this process: the real machine, a copy of it that can fall behind, and
//! faults to order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{
    Body, Command, ControlCommand, KvCommand, KvEntry, Machine, Origin, Reply,
};

use super::{ME, START};
use crate::{BoxFuture, Group, GroupError};

/// What happens to the next proposal.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not taken.
    Refuse,
    /// It never arrives, and nobody knows.
    LoseProposal,
    /// It is applied; the reply is lost.
    LoseReply,
    /// It is under way, and is applied before the one after it; the reply is lost.
    Delay,
    /// It is applied and then another node's command; the reply is lost.
    LoseReplyThen(KvCommand),
    /// It is another node's command that comes first.
    Precede(KvCommand),
}

pub(super) struct TestGroup {
    state: Mutex<State>,
    now: AtomicU64,
}

struct State {
    group: Machine,
    local: Machine,
    /// What the group has applied and this node has not.
    behind: VecDeque<(u64, Command)>,
    index: u64,
    faults: VecDeque<Fault>,
    delayed: VecDeque<KvCommand>,
    lags: bool,
    quorum: bool,
    /// The next proposal is the last that the group hears of.
    cut: bool,
    /// Proposals and questions that the group was sent.
    asked: u64,
}

impl TestGroup {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            group: Machine::default(),
            local: Machine::default(),
            behind: VecDeque::new(),
            index: 0,
            faults: VecDeque::new(),
            delayed: VecDeque::new(),
            lags: false,
            quorum: true,
            cut: false,
            asked: 0,
        };
        let group = Arc::new(Self { state: Mutex::new(state), now: AtomicU64::new(START) });
        group.join(ME);
        group
    }

    /// The member begins a life; what it proposed in an earlier one is refused from here on.
    pub(super) fn join(&self, member: Origin) {
        let body = Body::Control(ControlCommand::Join {
            node: member.node,
            name: format!("node-{}", member.node),
            peer: String::new(),
            client: String::new(),
            admin: String::new(),
            version: String::new(),
        });
        let reply = self.state().apply(self.time(), body);
        assert!(matches!(reply, Reply::Joined { .. }), "{reply:?}");
    }

    pub(super) fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// From here on this node has what the group has only when it asks.
    pub(super) fn lag(&self) {
        self.state().lags = true;
    }

    pub(super) fn quorum(&self, quorum: bool) {
        self.state().quorum = quorum;
    }

    /// After the next proposal there is no quorum.
    pub(super) fn cut_after_next(&self) {
        self.state().cut = true;
    }

    pub(super) fn asked(&self) -> u64 {
        self.state().asked
    }

    pub(super) fn advance(&self, by: Duration) {
        self.now.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// What the coordinator does.
    pub(super) fn expire(&self) {
        let now = self.time();
        self.state().apply(now, Body::Kv(KvCommand::Expire { limit: 1000 }));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn decide(&self, command: KvCommand) -> Result<Reply, GroupError> {
        let now = self.time();
        let mut state = self.state();
        state.asked += 1;
        if !state.quorum {
            return Err(GroupError::Unavailable("no quorum".into()));
        }
        state.quorum = !std::mem::take(&mut state.cut);
        while let Some(delayed) = state.delayed.pop_front() {
            state.apply(now, Body::Kv(delayed));
        }
        let lost = || Err(GroupError::Unknown("no reply".into()));
        match state.faults.pop_front() {
            None => Ok(state.apply(now, Body::Kv(command))),
            Some(Fault::Refuse) => Err(GroupError::Unavailable("not taken".into())),
            Some(Fault::LoseProposal) => lost(),
            Some(Fault::LoseReply) => {
                state.apply(now, Body::Kv(command));
                lost()
            }
            Some(Fault::Delay) => {
                state.delayed.push_back(command);
                lost()
            }
            Some(Fault::LoseReplyThen(other)) => {
                state.apply(now, Body::Kv(command));
                state.apply(now, Body::Kv(other));
                lost()
            }
            Some(Fault::Precede(other)) => {
                state.apply(now, Body::Kv(other));
                Ok(state.apply(now, Body::Kv(command)))
            }
        }
    }
}

impl State {
    fn apply(&mut self, now: u64, body: Body) -> Reply {
        self.index += 1;
        let (serial, settled_below) = (self.index, self.index);
        let command = Command { origin: ME, serial, settled_below, now, body };
        let reply = self.group.apply(self.index, 1, &command);
        self.behind.push_back((self.index, command));
        if !self.lags {
            self.catch_up();
        }
        reply
    }

    fn catch_up(&mut self) {
        while let Some((index, command)) = self.behind.pop_front() {
            self.local.apply(index, 1, &command);
        }
    }
}

impl Group for TestGroup {
    fn propose(
        &self,
        command: KvCommand,
        within: Duration,
    ) -> BoxFuture<'_, Result<Reply, GroupError>> {
        assert!(!within.is_zero());
        Box::pin(async move { self.decide(command) })
    }

    fn read_index(&self, within: Duration) -> BoxFuture<'_, Result<(), GroupError>> {
        assert!(!within.is_zero());
        Box::pin(async move {
            let mut state = self.state();
            state.asked += 1;
            if !state.quorum {
                return Err(GroupError::Unavailable("no quorum".into()));
            }
            state.catch_up();
            Ok(())
        })
    }

    fn get(&self, key: &[u8]) -> Option<KvEntry> {
        self.state().local.kv.get(key, self.time()).cloned()
    }

    fn get_even_past(&self, key: &[u8]) -> Option<KvEntry> {
        self.state().local.kv.get_even_past(key).cloned()
    }

    fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        self.state().local.kv.due(prefix, self.time(), limit)
    }

    fn time(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
}
