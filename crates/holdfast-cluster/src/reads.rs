//! Reads that see whatever was acknowledged before they were asked for.
//!
//! The leader makes sure that it still leads (a round to a quorum) and says how far the log was; this
//! node waits until it has applied that far. Whoever asks while a round is under way shares the next
//! one: never the running one, which may have begun before a write that the asker knows of.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::messages::{READ, ReadAnswer, decode, encode};
use crate::node::Node;
use crate::proposals::{another, wait};

/// No quorum could be reached in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the group could not be asked in time")]
pub struct Unavailable;

/// Somebody who waits for a round, and is told the log index of its end.
pub(crate) type Asker = oneshot::Sender<u64>;

impl Node {
    pub(crate) async fn read_index(&self, deadline: Duration) -> Result<(), Unavailable> {
        let until = Instant::now() + deadline;
        let (asker, answer) = oneshot::channel();
        self.reads.send(asker).map_err(|_| Unavailable)?;
        let Ok(Ok(index)) = timeout_at(until, answer).await else { return Err(Unavailable) };
        let mut applied = self.applied.index();
        match timeout_at(until, applied.wait_for(|it| *it >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }

    /// Makes the rounds, one at a time. Ends with the stop.
    pub(crate) async fn run_reads(&self, mut asked: mpsc::UnboundedReceiver<Asker>) {
        let mut askers = Vec::new();
        loop {
            if askers.is_empty() {
                tokio::select! {
                    asker = asked.recv() => match asker {
                        Some(asker) => askers.push(asker),
                        None => return,
                    },
                    () = self.stop.cancelled() => return,
                }
            }
            while let Ok(asker) = asked.try_recv() {
                askers.push(asker);
            }
            let round = self.round();
            let index = tokio::select! {
                index = round => index,
                () = self.stop.cancelled() => return,
            };
            match index {
                Some(index) => {
                    for asker in askers.drain(..) {
                        // Who has stopped waiting needs no answer.
                        let _ = asker.send(index);
                    }
                }
                None => askers.retain(|it| !it.is_closed()),
            }
        }
    }

    /// One round. Takes at most a failover timeout.
    async fn round(&self) -> Option<u64> {
        let until = Instant::now() + self.options.failover_timeout;
        let mut leadership = self.leadership.clone();
        let mut hint = None;
        while Instant::now() < until {
            let known = leadership.borrow_and_update().leader;
            let Some(leader) = hint.take().or(known) else {
                wait(&mut leadership, until).await;
                continue;
            };
            let within = (until - Instant::now()).min(self.options.failover_timeout / 2);
            let answer = async {
                if leader == self.me {
                    return self.confirm(within).await;
                }
                let body = encode(&()).ok()?;
                let lane = holdfast_peer::Lane::Control;
                let answer = self.wire.call(leader, lane, READ, body, within).await;
                let answer = answer.inspect_err(|it| self.addresses.failed(leader, it)).ok()?;
                decode(&answer).ok()
            };
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                () = another(&mut leadership, leader) => continue,
            };
            match answer {
                Some(ReadAnswer::At(index)) => return Some(index),
                Some(ReadAnswer::NotLeader { leader: other }) => {
                    hint = other.filter(|it| *it != leader);
                    if hint.is_none() {
                        wait(&mut leadership, until).await;
                    }
                }
                None => wait(&mut leadership, until).await,
            }
        }
        None
    }

    /// Makes sure with a quorum that this node leads, and says how far the log was. None if that could
    /// not be found out in time.
    pub(crate) async fn confirm(&self, within: Duration) -> Option<ReadAnswer> {
        match timeout(within, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await {
            Ok(Ok((read, _))) => Some(ReadAnswer::At(read.index())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(elsewhere)))) => {
                Some(ReadAnswer::NotLeader { leader: elsewhere.leader_id })
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }
}
