//! What the leader does beyond Raft: grants leases, and says who is suspect or dead.
//!
//! | it sees | it does |
//! |---|---|
//! | a member asks for its lease | makes sure with a quorum that it still leads, then grants it |
//! | nothing granted to a member for half the failover timeout | declares it suspect |
//! | nothing for the whole timeout | declares it dead |
//! | the member's port refuses connections, or another incarnation answers, twice | declares it dead at once |
//! | entries past their deadline | has them removed |
//! | a change of the membership left half done, a member that is not in the group any more | finishes it |
//!
//! Each turn looks at the state as it is, so a turn that is missed or a proposal that fails costs time
//! and nothing else. Every declaration carries the term in which it was decided, and is refused by the
//! group in any other: a leader that does not know yet that it was deposed decides nothing.
//!
//! A lease is granted only if a quorum confirmed this leader *after* the request had come. Whoever is
//! elected next is therefore elected after the request was sent, waits a whole timeout before it
//! declares anybody dead, and by then the lease is over.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::lease::Granter;
use holdfast_engine::replicated::{
    Body, ClusterState, ControlCommand, KvCommand, MemberState, NodeId, Origin, Reply, SESSIONS,
};
use holdfast_peer::{Lane, PeerError};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::messages::{BeatAnswer, HELLO, Hello, PING, ReadAnswer, decode, encode};
use crate::node::Node;

/// How often the slow duties are looked at.
const SLOW: Duration = Duration::from_secs(1);
/// Between two looks at a port that refused.
const CONFIRM: Duration = Duration::from_millis(100);
/// How many entries past their deadline are removed by one command.
const EXPIRE: u32 = 1000;
/// How many due keys are looked at to see whether there is any that can be removed.
const LOOK: usize = 4096;

/// A leader's book of its members; one per term.
pub(crate) struct Book {
    term: u64,
    granter: Granter,
    /// Who has been granted a lease in this term.
    granted: BTreeSet<NodeId>,
    declaring: BTreeSet<NodeId>,
    pinging: BTreeSet<NodeId>,
}

// === impl Book ===

impl Book {
    fn new(term: u64, now: Instant, timeout: Duration) -> Self {
        Self {
            term,
            granter: Granter::new(now, timeout),
            granted: BTreeSet::new(),
            declaring: BTreeSet::new(),
            pinging: BTreeSet::new(),
        }
    }

    /// Brings the book up to what the group has agreed on.
    fn sync(&mut self, state: &ClusterState, now: Instant) {
        for (node, member) in &state.members {
            let life = Origin { node: *node, generation: member.generation };
            match member.state {
                MemberState::Left => self.granter.forget(*node),
                MemberState::Dead => self.granter.condemn(life),
                MemberState::Ready | MemberState::Draining | MemberState::Suspect => {
                    self.granter.watch(life, now);
                }
            }
        }
    }
}

// === leases ===

impl Node {
    /// Answers a member's request for its lease.
    pub(crate) async fn grant(
        &self,
        node: NodeId,
        generation: u64,
        within: Duration,
    ) -> BeatAnswer {
        let leadership = *self.leadership.borrow();
        if !leadership.me {
            return BeatAnswer::NotLeader { leader: leadership.leader };
        }
        let index = match self.confirm(within).await {
            Some(ReadAnswer::At(index)) => index,
            Some(ReadAnswer::NotLeader { leader }) => return BeatAnswer::NotLeader { leader },
            None => return BeatAnswer::Unsure,
        };
        let mut applied = self.applied.index();
        if timeout(within, applied.wait_for(|it| *it >= index)).await.is_err() {
            return BeatAnswer::Unsure;
        }
        let state = Arc::clone(&self.applied.control().borrow());
        let now = Instant::now();
        let mut book = self.book(leadership.term, now);
        let Some(book) = book.as_mut().filter(|it| it.term == leadership.term) else {
            return BeatAnswer::Unsure;
        };
        book.sync(&state, now);
        let life = Origin { node, generation };
        if !state.is_current(life) {
            return BeatAnswer::Fenced;
        }
        let Some(length) = book.granter.grant(life, now) else { return BeatAnswer::Fenced };
        book.granted.insert(node);
        BeatAnswer::Granted { millis: u64::try_from(length.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The book of this term; that of an earlier one ends.
    fn book(&self, term: u64, now: Instant) -> MutexGuard<'_, Option<Book>> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.as_ref().is_none_or(|it| it.term < term) {
            *book = Some(Book::new(term, now, self.options.failover_timeout));
        }
        book
    }

    /// Milliseconds since this leader last granted a lease to a node.
    pub(crate) fn heard_ms(&self, node: NodeId) -> Option<u64> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = book.as_ref()?.granter.heard(node)?;
        u64::try_from(heard.elapsed().as_millis()).ok()
    }
}

// === the duties ===

impl Node {
    pub(crate) async fn run_coordinator(self: Arc<Self>) {
        let mut tick = interval(self.options.failover_timeout / 10);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut slow_at = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let leadership = *self.leadership.borrow();
            if !leadership.me {
                continue;
            }
            let now = Instant::now();
            // Without a quorum nothing that it decides would be taken in.
            if !self.gate.has_quorum() {
                continue;
            }
            self.watch_members(leadership.term, now);
            if now >= slow_at {
                slow_at = now + SLOW;
                let node = Arc::clone(&self);
                self.tasks.spawn(async move {
                    node.finish_change().await;
                    node.dismiss_strangers().await;
                    node.expire().await;
                });
            }
        }
    }

    fn watch_members(self: &Arc<Self>, term: u64, now: Instant) {
        let state = Arc::clone(&self.applied.control().borrow());
        let timeout = self.options.failover_timeout;
        let mut book = self.book(term, now);
        let Some(book) = book.as_mut().filter(|it| it.term == term) else { return };
        book.sync(&state, now);
        if book.granter.overdue(now).iter().any(|it| it.node == self.me) {
            // That this leader had no quorum for a while makes nobody else its successor.
            book.granter.forget(self.me);
        }
        let condemned: BTreeSet<Origin> = book.granter.condemned().collect();
        for (node, member) in &state.members {
            if *node == self.me && member.state == MemberState::Suspect {
                // Suspected by the leader before, and a leader now: it is heard.
                if book.declaring.insert(*node) {
                    let reason = "it leads";
                    self.spawn_declare(*node, member.generation, MemberState::Ready, term, reason);
                }
                continue;
            }
            if !member.state.may_act() || *node == self.me {
                continue;
            }
            let life = Origin { node: *node, generation: member.generation };
            let silent = book.granter.heard(*node).map(|it| now.saturating_duration_since(it));
            let condemned = condemned.contains(&life);
            let granted = book.granted.contains(node);
            let declaration = verdict(member.state, condemned, silent, granted, timeout);
            if let Some((state, reason)) = declaration
                && book.declaring.insert(*node)
            {
                self.spawn_declare(*node, member.generation, state, term, reason);
            }
            if !condemned && book.pinging.insert(*node) {
                self.spawn_ping(*node, member.generation, term);
            }
        }
    }

    fn spawn_declare(
        self: &Arc<Self>,
        node: NodeId,
        generation: u64,
        state: MemberState,
        term: u64,
        reason: &'static str,
    ) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.declare(node, generation, state, term, reason).await;
            this.in_book(term, |book| book.declaring.remove(&node));
        });
    }

    async fn declare(
        &self,
        node: NodeId,
        generation: u64,
        state: MemberState,
        term: u64,
        reason: &str,
    ) {
        tracing::info!(node, generation, ?state, term, reason, "declares a member");
        let reason = reason.to_owned();
        let command = ControlCommand::Declare { node, generation, state, term, reason };
        match self.propose(Body::Control(command), self.options.failover_timeout).await {
            Ok(Reply::Done { .. }) => {}
            // Another came before it, or this node leads no more.
            Ok(reply) => tracing::debug!(node, ?reply, "the declaration was not needed any more"),
            Err(error) => tracing::info!(node, %error, "the declaration was not made"),
        }
    }

    fn spawn_ping(self: &Arc<Self>, node: NodeId, generation: u64, term: u64) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let looked_at = Instant::now();
            if this.is_gone(node).await {
                let life = Origin { node, generation };
                let condemned = this.in_book(term, |book| book.granter.refused(life, looked_at));
                if condemned == Some(true) {
                    let reason = "its process is gone";
                    this.declare(node, generation, MemberState::Dead, term, reason).await;
                }
            }
            this.in_book(term, |book| book.pinging.remove(&node));
        });
    }

    /// Whether the process of a node is certainly not there: nobody, or somebody else, is at its
    /// addresses, again and again.
    pub(crate) async fn is_gone(&self, node: NodeId) -> bool {
        let within = self.options.failover_timeout / 2;
        let Ok(body) = encode(&()) else { return false };
        match self.wire.call(node, Lane::Control, PING, body.clone(), within).await {
            Err(PeerError::Refused | PeerError::WrongNode { .. }) => {}
            Ok(_) | Err(_) => return false,
        }
        for again in 0..2 {
            if again > 0 {
                sleep(CONFIRM).await;
            }
            let addresses = self.addresses.candidates(node);
            if addresses.is_empty() {
                return false;
            }
            for address in addresses {
                // A connection of its own: the transport remembers a refusal for a moment.
                let answer = self.wire.call_address(&address, HELLO, body.clone(), within).await;
                let gone = match answer {
                    Ok(hello) => decode::<Hello>(&hello).is_ok_and(|it| it.node != node),
                    Err(error) => error.is_refused(),
                };
                if !gone {
                    return false;
                }
            }
        }
        true
    }

    fn in_book<T>(&self, term: u64, change: impl FnOnce(&mut Book) -> T) -> Option<T> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.as_mut().filter(|it| it.term == term).map(change)
    }

    /// Members that have been taken out of the group and are not marked as gone yet.
    async fn dismiss_strangers(&self) {
        let membership = self.membership();
        if membership.get_joint_config().len() > 1 {
            return;
        }
        let state = Arc::clone(&self.applied.control().borrow());
        for (node, member) in &state.members {
            if member.state != MemberState::Left && membership.get_node(node).is_none() {
                let leave = Body::Control(ControlCommand::Leave { node: *node });
                // Tried again in a moment.
                let _ = self.propose(leave, self.options.failover_timeout).await;
            }
        }
    }

    async fn expire(&self) {
        let due = self.applied.read(|machine, now| {
            machine.kv.due(b"", now, LOOK).iter().any(|key| !key.starts_with(SESSIONS))
        });
        if due {
            let expire = Body::Kv(KvCommand::Expire { limit: EXPIRE });
            let _ = self.propose(expire, self.options.failover_timeout).await;
        }
    }
}

/// What a leader has to declare of a member that may act: as the group takes it, whether this leader has
/// condemned it, how long it has heard nothing of it, and whether it ever has.
fn verdict(
    state: MemberState,
    condemned: bool,
    silent: Option<Duration>,
    granted: bool,
    timeout: Duration,
) -> Option<(MemberState, &'static str)> {
    let late = silent.is_some_and(|it| it > timeout / 2);
    match state {
        _ if condemned => {
            Some((MemberState::Dead, "no lease was granted for the failover timeout"))
        }
        MemberState::Ready if late => {
            Some((MemberState::Suspect, "not heard of for half the failover timeout"))
        }
        // That this leader is new does not mean that it has heard of the member.
        MemberState::Suspect if !late && granted => Some((MemberState::Ready, "heard of again")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use MemberState::{Dead, Draining, Ready, Suspect};
        let (soon, late) = (Some(Duration::from_millis(500)), Some(Duration::from_millis(501)));
        for (state, condemned, silent, granted, expected) in [
            (Ready, false, soon, true, None),
            (Ready, false, late, true, Some(Suspect)),
            (Ready, false, None, false, None),
            (Ready, true, None, true, Some(Dead)),
            (Suspect, false, late, true, None),
            (Suspect, false, soon, true, Some(Ready)),
            (Suspect, false, soon, false, None),
            (Suspect, true, None, false, Some(Dead)),
            (Draining, false, late, true, None),
            (Draining, true, None, true, Some(Dead)),
        ] {
            let verdict = verdict(state, condemned, silent, granted, Duration::from_secs(1));
            assert_eq!(verdict.map(|it| it.0), expected, "{state:?} {condemned} {silent:?}");
        }
    }
}
