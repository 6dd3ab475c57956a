//! Keeps this node a living member: joins, asks for the lease, and notices when it was frozen.
//!
//! One loop that never waits for anything but its own short tick and the results of what it started. So
//! a gap between two turns means that this process did not run (stopped, starved, its machine paused),
//! and after a gap longer than the failover timeout others may have taken over what this node had in
//! hand: its lease is given up, [`frozen`](crate::Cluster::frozen) counts, and it joins under a new
//! generation. What was asked before the gap is not believed after it. A pause of the machine that
//! stops the monotonic clock shows in the wall clock; if that is set forward by more than the timeout
//! against the other, it costs an unneeded join.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::lease::Holder;
use holdfast_engine::replicated::{Body, ControlCommand, NodeId, Origin, Reply};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::leadership::fail;
use crate::messages::{BEAT, Beat, BeatAnswer, decode, encode};
use crate::node::Node;
use crate::proposals::{ProposeError, wall_clock};

/// Between two attempts to join.
const PAUSE: Duration = Duration::from_millis(50);

/// What something that the loop had started came to.
enum Event {
    Joined {
        generation: u64,
    },
    /// This incarnation cannot be a member any more.
    Refused(String),
    Beaten {
        sent_at: Instant,
        generation: u64,
        answer: Option<BeatAnswer>,
    },
}

/// What the loop knows.
struct Keeper {
    holder: Holder,
    /// A join is under way.
    joining: bool,
    beating: bool,
    beat_at: Instant,
    /// Leases that were asked for earlier are not taken.
    valid_since: Instant,
    turned: Instant,
    wall: u64,
}

impl Node {
    pub(crate) async fn run_keeper(self: Arc<Self>) {
        let timeout = self.options.failover_timeout;
        let (events, mut happened) = mpsc::unbounded_channel();
        let now = Instant::now();
        let mut keeper = Keeper {
            holder: Holder::new(),
            joining: true,
            beating: false,
            beat_at: now,
            valid_since: now,
            turned: now,
            wall: wall_clock(),
        };
        self.spawn_join(&events);
        let mut tick = interval(timeout / 8);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                _ = tick.tick() => None,
                event = happened.recv() => event,
                () = self.stop.cancelled() => break,
            };
            let now = Instant::now();
            if keeper.was_frozen(now, timeout) {
                tracing::warn!("this process did not run for longer than the failover timeout");
                keeper.begin_anew(now);
                self.lease.set(None);
                self.frozen.send_modify(|it| *it += 1);
                self.spawn_join(&events);
                // What has come meanwhile is about the life that is over.
                while happened.try_recv().is_ok() {}
                continue;
            }
            if self.left.is_cancelled() {
                self.lease.set(None);
                continue;
            }
            match event {
                // A join from before a gap may end after the one that followed it.
                Some(Event::Joined { generation })
                    if generation <= self.origin.borrow().generation => {}
                Some(Event::Joined { generation }) => {
                    keeper.joining = false;
                    keeper.beat_at = now;
                    let origin = Origin { node: self.me, generation };
                    self.origin.send_replace(origin);
                    tracing::info!(node = self.me, generation, "joined the cluster");
                }
                Some(Event::Refused(reason)) => {
                    self.lease.set(None);
                    fail(&self.failed, reason);
                    return;
                }
                Some(Event::Beaten { sent_at, generation, answer }) => {
                    keeper.beating = false;
                    let current = self.origin.borrow().generation == generation;
                    if !current || keeper.joining || sent_at < keeper.valid_since {
                        continue;
                    }
                    match answer {
                        Some(BeatAnswer::Granted { millis }) => {
                            keeper.holder.granted(sent_at, Duration::from_millis(millis));
                            self.lease.set(keeper.holder.until());
                        }
                        Some(BeatAnswer::Fenced) => {
                            tracing::warn!(
                                generation,
                                "declared dead: joins under a new generation"
                            );
                            keeper.begin_anew(now);
                            self.lease.set(None);
                            self.spawn_join(&events);
                        }
                        // Asked again soon: somebody else may lead by then.
                        Some(BeatAnswer::NotLeader { .. } | BeatAnswer::Unsure) | None => {
                            keeper.beat_at = now + timeout / 16;
                        }
                    }
                }
                None => {}
            }
            if !keeper.joining && !keeper.beating && now >= keeper.beat_at {
                keeper.beating = true;
                keeper.beat_at = now + timeout / 4;
                self.spawn_beat(&events);
            }
        }
        self.lease.set(None);
    }

    fn spawn_beat(self: &Arc<Self>, events: &mpsc::UnboundedSender<Event>) {
        let (node, events) = (Arc::clone(self), events.clone());
        let generation = self.origin.borrow().generation;
        self.tasks.spawn(async move {
            let sent_at = Instant::now();
            let answer = node.beat(generation).await;
            // The loop has ended if nobody receives it.
            let _ = events.send(Event::Beaten { sent_at, generation, answer });
        });
    }

    async fn beat(&self, generation: u64) -> Option<BeatAnswer> {
        let within = self.options.failover_timeout / 2;
        let leader = self.leadership.borrow().leader?;
        let answer = self.beat_at(leader, generation, within).await;
        match answer {
            Some(BeatAnswer::NotLeader { leader: Some(other) }) if other != leader => {
                self.beat_at(other, generation, within).await
            }
            answer => answer,
        }
    }

    async fn beat_at(&self, at: NodeId, generation: u64, within: Duration) -> Option<BeatAnswer> {
        if at == self.me {
            return Some(self.grant(self.me, generation, within).await);
        }
        let body = encode(&Beat { generation }).ok()?;
        let answer = self.wire.call(at, holdfast_peer::Lane::Control, BEAT, body, within).await;
        let answer = answer.inspect_err(|error| self.addresses.failed(at, error)).ok()?;
        decode(&answer).ok()
    }

    fn spawn_join(self: &Arc<Self>, events: &mpsc::UnboundedSender<Event>) {
        let (node, events) = (Arc::clone(self), events.clone());
        self.tasks.spawn(async move {
            let event = tokio::select! {
                event = node.join() => event,
                () = node.stop.cancelled() => return,
                () = node.left.cancelled() => return,
            };
            let _ = events.send(event);
        });
    }

    /// Becomes a voter if it is none, then a member under its next generation.
    async fn join(&self) -> Event {
        loop {
            if let Err(reason) = self.become_voter().await {
                return Event::Refused(reason);
            }
            let options = &self.options;
            let command = ControlCommand::Join {
                node: self.me,
                name: options.name.clone(),
                peer: self.place.address.clone(),
                client: options.client.clone(),
                admin: options.admin.clone(),
                version: options.version.clone(),
            };
            let until = tokio::time::Instant::now() + options.failover_timeout * 4;
            let origin = *self.origin.borrow();
            match self.propose_as(origin, Body::Control(command), until).await {
                Ok(Reply::Joined { generation }) => return Event::Joined { generation },
                Ok(Reply::Fenced { .. }) => {
                    return Event::Refused(format!(
                        "another directory has joined as {:?} since this one was used: stop one of \
                         the two, and start this one with an empty directory if it is the right one",
                        options.name,
                    ));
                }
                Ok(Reply::Invalid(invalid)) => {
                    return Event::Refused(format!("this node cannot join: {invalid}"));
                }
                Ok(reply) => {
                    tracing::warn!(?reply, "joining the cluster: an unexpected reply");
                    sleep(PAUSE).await;
                }
                Err(ProposeError::Unavailable | ProposeError::Unknown | ProposeError::Fenced) => {
                    tracing::info!("joining the cluster: the group does not answer, trying on");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

// === impl Keeper ===

impl Keeper {
    fn was_frozen(&mut self, now: Instant, timeout: Duration) -> bool {
        let wall = wall_clock();
        let gap = now.saturating_duration_since(self.turned);
        let wall_gap = Duration::from_millis(wall.saturating_sub(self.wall));
        (self.turned, self.wall) = (now, wall);
        gap > timeout || wall_gap.saturating_sub(gap) > timeout
    }

    fn begin_anew(&mut self, now: Instant) {
        self.holder.revoke();
        self.joining = true;
        self.beating = false;
        self.valid_since = now;
    }
}
