//! Tells the coordinator what an outage cost clients of this node: Writes that were given up without knowing
//! whether they ran, and sessions that went to another instance.
//!
//! Most of it happens before anybody knows of an outage, and some of it long after. So it is held until there
//! is one that it belongs to ([`holdfast_engine::loss`]), and until the coordinator has it in the group's
//! record. Where its reply is lost it is told once more: the record may count too many, and never too few of
//! what a living node has seen. What a node had not told when it died nobody knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::loss::{Loss, Lost};
use holdfast_engine::objectives::outages;
use holdfast_engine::replicated::{Reply, ServerCommand};
use serde::{Deserialize, Serialize};

use crate::driver::{Reconciler, Status};
use crate::group::LOSS;
use crate::plan::millis;
use crate::report::encode;
use crate::shared::{RETRY, Shared, lock};

const EVERY: Duration = Duration::from_secs(1);
/// An outage is found out within this time, in milliseconds, or the loss is no incident's.
const HELD: u64 = 300_000;
/// So many are held; then the oldest is no incident's.
const MOST: usize = 4_096;

/// What one outage cost clients of one node, beside what was told before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    server: String,
    outage: u64,
    unknown: u32,
    oldest: u64,
    moved: u32,
}

pub(crate) struct Losses {
    shared: Arc<Shared>,
}

// === impl Losses ===

impl Losses {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes what the data plane has counted since the last turn.
    fn take(&self) {
        let (shared, now) = (&self.shared, self.shared.group.time());
        let mut held = lock(&shared.losses);
        for (place, planned) in shared.plan.servers.iter().enumerate() {
            let Some(lost) = shared.plane.take_lost(place) else { continue };
            let mut hold = |what| held.push(Loss { server: planned.name.clone(), at: now, what });
            for (age, count) in lost.unknown {
                hold(Lost::Writes { count, oldest: now.saturating_sub(millis(age)) });
            }
            for (instance, count) in lost.moved {
                let from = planned.instances[instance].id.clone();
                hold(Lost::Sessions { count, from });
            }
        }
        let excess = held.len().saturating_sub(MOST);
        held.drain(..excess);
    }

    /// What has an outage, by that. All of it goes on being held: a reload ends a turn wherever it is.
    fn due(&self) -> BTreeMap<u64, (Cost, Vec<Loss>)> {
        let mut due = BTreeMap::new();
        let mut held = lock(&self.shared.losses);
        if held.is_empty() {
            return due;
        }
        let state = self.shared.state();
        let (events, now) = (&state.servers.events, self.shared.group.time());
        let all = outages(events);
        held.retain(|loss| {
            let planned = self.shared.plan.find(&loss.server).map(|(_, planned)| planned);
            let lead = planned.map_or(0, |it| millis(it.health.interval));
            let Some(outage) = loss.outage(&all, events, lead) else {
                return now.saturating_sub(loss.at) < HELD;
            };
            let new = || (Cost::of(&loss.server, outage), Vec::new());
            let (cost, losses) = due.entry(outage).or_insert_with(new);
            cost.add(&loss.what);
            losses.push(loss.clone());
            true
        });
        due
    }

    /// These have been told.
    fn forget(&self, told: &[Loss]) {
        let mut held = lock(&self.shared.losses);
        for loss in told {
            if let Some(at) = held.iter().position(|it| it == loss) {
                held.remove(at);
            }
        }
    }

    async fn tell(&self, cost: &Cost) -> Result<(), String> {
        let leadership = *self.shared.group.leadership().borrow();
        if leadership.me {
            return self.shared.lose(cost).await;
        }
        let coordinator = leadership.leader.ok_or("no coordinator is known")?;
        let told = self.shared.group.call(coordinator, LOSS, encode(cost)?.into()).await;
        told.map(drop)
    }
}

impl Reconciler for Losses {
    const NAME: &'static str = "losses";

    async fn activate(&mut self) -> Status {
        self.take();
        let mut failed = None;
        for (cost, losses) in self.due().into_values() {
            match self.tell(&cost).await {
                Ok(()) => self.forget(&losses),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Status::Settled(EVERY),
            Some(why) => Status::Failed { why, retry: 10 * RETRY },
        }
    }
}

// === impl Cost ===

impl Cost {
    fn of(server: &str, outage: u64) -> Self {
        Self { server: server.to_owned(), outage, unknown: 0, oldest: 0, moved: 0 }
    }

    fn add(&mut self, what: &Lost) {
        match what {
            Lost::Writes { count, oldest } => {
                self.oldest = if self.unknown == 0 { *oldest } else { self.oldest.min(*oldest) };
                self.unknown = self.unknown.saturating_add(*count);
            }
            Lost::Sessions { count, .. } => self.moved = self.moved.saturating_add(*count),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Has the group take down what a node has told, if this one coordinates.
    ///
    /// # Errors
    /// Why it is not in the record, or may not be: it is to be told again.
    pub(crate) async fn lose(&self, cost: &Cost) -> Result<(), String> {
        if self.coordinates().is_none() {
            return Err("this node does not coordinate".to_owned());
        }
        let Cost { server, outage, unknown, oldest, moved } = cost.clone();
        let command = ServerCommand::Lose { server, outage, unknown, oldest, moved };
        if !self.all_read(&command) {
            return Err("not every node is known to read it".to_owned());
        }
        match self.propose(command).await {
            // The record has forgotten the outage: there is nothing to add it to.
            Ok(Reply::Done { .. } | Reply::Moved { .. } | Reply::Invalid(_)) => Ok(()),
            Ok(other) => Err(format!("the group refuses it: {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
