//! When the leader's process is certainly gone, its successor does not wait longer than it has to.
//!
//! Raft's own timers cannot tell a dead leader from a slow one: a follower waits until the leader's lease
//! is over and then for its election timeout. A port that refuses connections tells more. The election
//! is still Raft's, with a round of pre-votes first, and nobody grants one before the leader's lease at
//! that node is over; so a follower that is mistaken disturbs nobody. What is saved is the election
//! timeout.
//!
//! The voter with the lowest id tries at once, the next ones only when it has had its chance: two who
//! stood at the same moment could take each other's votes away.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::leadership::Leadership;
use crate::node::Node;

impl Node {
    pub(crate) async fn run_succession(&self) {
        let mut tick = interval(self.options.failover_timeout / 10);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let seen = *self.leadership.borrow();
            let Some(leader) = seen.leader.filter(|it| *it != self.me) else { continue };
            let succeed = async {
                if self.is_gone(leader).await {
                    self.stand(seen).await;
                }
            };
            tokio::select! {
                () = succeed => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Stands for election until there is one, or this seems to lead nowhere.
    async fn stand(&self, gone: Leadership) {
        let timeout = self.options.failover_timeout;
        let mut voters: Vec<_> =
            self.membership().voter_ids().filter(|it| Some(*it) != gone.leader).collect();
        voters.sort_unstable();
        let Some(rank) = voters.iter().position(|it| *it == self.me) else { return };
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        tracing::info!(
            leader = gone.leader,
            term = gone.term,
            rank,
            "the leader's process is gone"
        );
        if rank > 0 {
            self.while_gone(gone, self.options.raft_lease() + timeout / 10 * rank, None).await;
        }
        self.while_gone(gone, timeout * 2, Some(timeout / 20)).await;
    }

    /// Waits as long as nothing new is heard; asks for pre-votes every so often, if that is wanted.
    async fn while_gone(&self, gone: Leadership, most: Duration, stand_every: Option<Duration>) {
        let until = Instant::now() + most;
        let mut leadership = self.leadership.clone();
        while *leadership.borrow_and_update() == gone && Instant::now() < until {
            if stand_every.is_some() && self.raft.trigger().elect(true).await.is_err() {
                // Raft has ended, which is reported elsewhere.
                return;
            }
            let pause = stand_every.unwrap_or_else(|| until - Instant::now());
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }
}
