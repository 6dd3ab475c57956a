//! Proposals: on their way to the leader until it is known what became of them, or time is up.
//!
//! A proposal keeps its serial however often it is sent, so that the group does it once. What is known
//! when the time is up decides the error: if every attempt certainly never reached a log, nothing was
//! done; if one of them may have, nothing is known.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_engine::replicated::{Body, Command, MAX_UNSETTLED, NodeId, Origin, Reply};
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::leadership::Leadership;
use crate::messages::{PROPOSE, ProposeAnswer, ProposeRequest, decode, encode};
use crate::node::Node;
use crate::types::Proposal;

/// Between two attempts while nothing has changed.
const PAUSE: Duration = Duration::from_millis(15);

/// Why a proposal has no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was certainly not applied, and will not be.
    #[error("the group did not take the change in time; it was not made")]
    Unavailable,
    /// It may have been applied, or may be applied yet.
    #[error("it is not known whether the change was made")]
    Unknown,
    /// This node's generation is over: it was declared dead or replaced. Nothing was applied.
    #[error("this node was declared dead or replaced; the change was refused")]
    Fenced,
}

/// The serials of this process.
pub(crate) struct Serials {
    open: Mutex<Open>,
    freed: Notify,
}

struct Open {
    next: u64,
    serials: BTreeSet<u64>,
}

/// A serial that is in use.
struct Serial<'a> {
    serials: &'a Serials,
    serial: u64,
    settled_below: u64,
}

/// What became of one attempt.
enum Attempt {
    Done(Reply),
    /// Certainly in nobody's log.
    NotTaken {
        leader: Option<NodeId>,
    },
    Unknown,
}

// === impl Serials ===

impl Serials {
    /// Begins at `first`, which has to be random: a process must not use those of an earlier one.
    pub(crate) fn new(first: u64) -> Self {
        // Room to count up from the highest.
        let open = Open { next: first >> 8, serials: BTreeSet::new() };
        Self { open: Mutex::new(open), freed: Notify::new() }
    }

    /// The next one, once it is less than [`MAX_UNSETTLED`] ahead of the oldest in use: so many replies
    /// does the group keep.
    async fn next(&self) -> Serial<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(serial) = self.try_next() {
                return serial;
            }
            freed.await;
        }
    }

    fn try_next(&self) -> Option<Serial<'_>> {
        let mut open = self.open();
        let serial = open.next;
        let oldest = open.serials.first().copied().unwrap_or(serial);
        if serial - oldest >= MAX_UNSETTLED as u64 - 1 {
            return None;
        }
        open.next += 1;
        open.serials.insert(serial);
        Some(Serial { serials: self, serial, settled_below: oldest })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serial<'_> {
    /// Nobody will ask for its reply again.
    fn drop(&mut self) {
        self.serials.open().serials.remove(&self.serial);
        self.serials.freed.notify_waiters();
    }
}

// === proposing ===

impl Node {
    /// Proposes under this node's present generation; waits for the first one if there is none yet.
    pub(crate) async fn propose(
        &self,
        body: Body,
        deadline: Duration,
    ) -> Result<Reply, ProposeError> {
        let until = Instant::now() + deadline;
        let mut origin = self.origin.subscribe();
        if timeout_at(until, origin.wait_for(|it| it.generation > 0)).await.is_err() {
            return Err(ProposeError::Unavailable);
        }
        let origin = *origin.borrow();
        self.propose_as(origin, body, until).await
    }

    /// Proposes under a certain generation.
    pub(crate) async fn propose_as(
        &self,
        origin: Origin,
        body: Body,
        until: Instant,
    ) -> Result<Reply, ProposeError> {
        let Ok(serial) = timeout_at(until, self.serials.next()).await else {
            return Err(ProposeError::Unavailable);
        };
        let is_kv = matches!(body, Body::Kv(_));
        let (settled_below, serial_number) = (serial.settled_below, serial.serial);
        let command = Command { origin, serial: serial_number, settled_below, now: 0, body };
        let mut may_be_applied = false;
        let mut hint = None;
        while Instant::now() < until {
            let mut leadership = self.leadership.clone();
            let known = leadership.borrow_and_update().leader;
            let Some(leader) = hint.take().or(known) else {
                wait(&mut leadership, until).await;
                continue;
            };
            let attempt = tokio::select! {
                biased;
                attempt = self.attempt(leader, &command, until) => attempt,
                // What was sent to a leader of the past may be in its log yet.
                () = another(&mut leadership, leader) => Attempt::Unknown,
            };
            match attempt {
                // Refused now says nothing about an earlier attempt.
                Attempt::Done(Reply::Settled) => return Err(ProposeError::Unknown),
                Attempt::Done(Reply::Fenced { .. }) if is_kv && may_be_applied => {
                    return Err(ProposeError::Unknown);
                }
                Attempt::Done(Reply::Fenced { .. }) if is_kv => return Err(ProposeError::Fenced),
                Attempt::Done(reply) => return Ok(reply),
                Attempt::NotTaken { leader: other } => {
                    hint = other.filter(|it| *it != leader);
                    if hint.is_none() {
                        wait(&mut leadership, until).await;
                    }
                }
                Attempt::Unknown => {
                    may_be_applied = true;
                    wait(&mut leadership, until).await;
                }
            }
        }
        Err(if may_be_applied { ProposeError::Unknown } else { ProposeError::Unavailable })
    }

    async fn attempt(&self, leader: NodeId, command: &Command, until: Instant) -> Attempt {
        // A leader that was cut off without our hearing of another is given up after a while.
        let within = (until - Instant::now()).min(self.options.failover_timeout * 2);
        if leader == self.me {
            return self.write(command.clone(), within).await.into();
        }
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let request = ProposeRequest { command: command.clone(), within: millis };
        let Ok(body) = encode(&request) else { return Attempt::NotTaken { leader: None } };
        let lane = holdfast_peer::Lane::Control;
        match self.wire.call(leader, lane, PROPOSE, body, within).await {
            Ok(answer) => match decode::<ProposeAnswer>(&answer) {
                Ok(answer) => answer.into(),
                Err(_) => Attempt::Unknown,
            },
            Err(error) if error.certainly_not_sent() => {
                self.addresses.failed(leader, &error);
                Attempt::NotTaken { leader: None }
            }
            Err(_) => Attempt::Unknown,
        }
    }

    /// Writes to the log, if this node leads.
    pub(crate) async fn write(&self, mut command: Command, within: Duration) -> ProposeAnswer {
        command.now = wall_clock();
        let write = self.raft.client_write(Proposal(command));
        match tokio::time::timeout(within, write).await {
            Ok(Ok(written)) => match written.data.0 {
                Some(reply) => ProposeAnswer::Done(reply),
                None => ProposeAnswer::Unknown,
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere)))) => {
                ProposeAnswer::NotLeader { leader: elsewhere.leader_id }
            }
            Ok(Err(_)) | Err(_) => ProposeAnswer::Unknown,
        }
    }
}

impl From<ProposeAnswer> for Attempt {
    fn from(answer: ProposeAnswer) -> Self {
        match answer {
            ProposeAnswer::Done(reply) => Self::Done(reply),
            ProposeAnswer::NotLeader { leader } => Self::NotTaken { leader },
            ProposeAnswer::Unknown => Self::Unknown,
        }
    }
}

/// Returns when something new is heard: that another than `leader` leads.
pub(crate) async fn another(leadership: &mut watch::Receiver<Leadership>, leader: NodeId) {
    while leadership.changed().await.is_ok() {
        if leadership.borrow_and_update().leader.is_some_and(|now| now != leader) {
            return;
        }
    }
    std::future::pending().await
}

/// Waits a moment, or less if something is heard of the leader.
pub(crate) async fn wait(leadership: &mut watch::Receiver<Leadership>, until: Instant) {
    tokio::select! {
        changed = leadership.changed() => if changed.is_err() { sleep(PAUSE).await },
        () = sleep(PAUSE) => {}
        () = tokio::time::sleep_until(until) => {}
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn wall_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn serials_are_settled_from_below_and_never_run_too_far_ahead() {
        let serials = Serials::new(256);
        let first = serials.next().await;
        let second = serials.next().await;
        assert_eq!((first.serial, first.settled_below), (1, 1));
        assert_eq!((second.serial, second.settled_below), (2, 1));
        drop(second);
        let mut more: Vec<_> = std::iter::from_fn(|| serials.try_next()).collect();
        assert_eq!(more.first().map(|it| it.settled_below), Some(1));
        assert_eq!(more.last().map(|it| it.serial), Some(MAX_UNSETTLED as u64 - 1));
        drop(first);
        let next = serials.next().await;
        assert_eq!(next.settled_below, 3);
        more.clear();
        assert_eq!(serials.next().await.settled_below, next.serial);
    }
}
