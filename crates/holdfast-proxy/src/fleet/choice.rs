//! Which instance of a server gets an attempt.
//!
//! [`holdfast_engine::balance`] chooses among those that breakers, the group's verdicts and a failover
//! leave; the instance's own breaker has the last word, and when it says no the next one is asked.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use holdfast_config::Role;
use holdfast_engine::balance::{self, Candidate, NoInstance, Request, Set, Why as Unfit};
use holdfast_engine::class::CallClass;
use holdfast_engine::failover::{Failover, Route};

use super::attempt::Attempt;
use super::chance;
use super::instance::Instance;
use super::refusal::{Refused, Shut};
use super::server::{Ask, ServerFleet};
use crate::clock::recent;

// === impl ServerFleet ===

impl ServerFleet {
    /// Chooses an instance for an attempt that may go anywhere and admits it there; `ask.named` comes
    /// first.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub(crate) fn choose(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Attempt, Refused> {
        if let [_] = &*self.instances {
            return self.enter(0, ask);
        }
        let now = recent();
        loop {
            let failover = self.failover.load_full();
            let attempt = self.choose_by(ask, failover.as_deref(), now)?;
            // Whoever changed the state after it was read here sees this call under way, or this sees
            // the change.
            if failover.is_none() || self.is_still(failover.as_ref()) {
                return Ok(attempt);
            }
        }
    }

    fn is_still(&self, failover: Option<&Arc<Failover>>) -> bool {
        fence(Ordering::SeqCst);
        let present = self.failover.load();
        match (&*present, failover) {
            (Some(present), Some(seen)) => Arc::ptr_eq(present, seen),
            (None, None) => true,
            _ => false,
        }
    }

    fn choose_by(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        failover: Option<&Failover>,
        now: Instant,
    ) -> Result<Attempt, Refused> {
        let active = match failover.map(|it| self.route_of(it, ask.key)) {
            Some(Route::Hold) => return Err(self.held()),
            Some(Route::To(active)) => Some(active),
            None => None,
        };
        // Where its turn was waited for it goes, whatever it has met there before. At a replica it is a Read.
        let is_open = |named: &usize| {
            let for_it = ask.class == CallClass::Read || !self.is_replica(*named);
            for_it && (ask.turn == Some(*named) || !ask.avoid.contains(*named))
        };
        if let Some(named) = ask.named.filter(is_open)
            && self.takes(named, ask.key)
        {
            match self.admit(named, ask, now) {
                Ok(attempt) => return Ok(attempt),
                // What it has begun is known nowhere else. A session is only rather opened there than
                // elsewhere, and who has a turn there may go where a connection is free.
                Err(Shut::Busy) if !ask.opens && ask.turn.is_none() => {
                    return Err(self.nobody(&[(named, Shut::Busy)], None, now));
                }
                Err(_) => {}
            }
        }
        let mut tried = ask.avoid;
        let mut shut = Vec::new();
        loop {
            let next = match self.next(ask, active, tried, now) {
                // What has failed the call may be better than nothing.
                Err(_) if ask.avoid != Set::default() && shut.is_empty() => {
                    self.next(ask, active, Set::default(), now)
                }
                next => next,
            };
            let instance = next.map_err(|none| self.nobody(&shut, Some(&none), now))?;
            match self.admit(instance, ask, now) {
                Ok(attempt) => return Ok(attempt),
                Err(refused) => shut.push((instance, refused)),
            }
            tried.insert(instance);
        }
    }

    /// Admits an attempt of a session that is bound to this instance. One that the server has moved on from takes
    /// none, whatever becomes of the call: two instances would take Writes.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub(crate) fn enter(
        self: &Arc<Self>,
        instance: usize,
        ask: &Ask<'_>,
    ) -> Result<Attempt, Refused> {
        let instance = instance.min(self.instances.len() - 1);
        let now = recent();
        let failover = self.failover.load_full();
        let holds = failover.as_ref().is_some_and(|it| it.route(ask.key) == Route::Hold);
        if holds || self.has_moved_on(instance, ask.key) {
            return Err(self.held());
        }
        let attempt = self
            .admit(instance, ask, now)
            .map_err(|refused| self.nobody(&[(instance, refused)], None, now))?;
        match failover.is_none() || self.is_still(failover.as_ref()) {
            true => Ok(attempt),
            // It waits for its turn, and looks again where its session belongs.
            false => Err(self.held()),
        }
    }

    /// Where a message goes that is not admitted.
    pub(crate) fn pick(&self) -> usize {
        let ask = Ask::opening(None, Set::default());
        let failover = self.failover.load();
        let active = failover.as_deref().map(|it| self.route_of(it, ask.key));
        let active = match active {
            Some(Route::To(active)) => Some(active),
            Some(Route::Hold) | None => None,
        };
        self.next(&ask, active, Set::default(), Instant::now()).unwrap_or(0)
    }

    /// Whether a call with this key, or a session, may go on at this instance, and is well there.
    pub(crate) fn takes(&self, instance: usize, key: u64) -> bool {
        let Some(it) = self.instances.get(instance) else { return false };
        self.sits(it, key) && !it.is_unwell() && !it.is_shut()
    }

    /// Where a failover has a call with this key: at what is configured to take all calls.
    fn route_of<'a>(&'a self, failover: &'a Failover, key: u64) -> Route<'a> {
        let primary = || self.instances.iter().find(|it| it.role == Role::Primary);
        failover.route_within(
            key,
            |id| self.instances.iter().any(|it| *it.id == *id && it.role != Role::Replica),
            primary().map_or("", |it| &it.id),
        )
    }

    fn is_replica(&self, instance: usize) -> bool {
        self.instances.get(instance).is_some_and(|it| it.role == Role::Replica)
    }

    fn sits(&self, it: &Instance, key: u64) -> bool {
        let failover = self.failover.load();
        match failover.as_deref().map(|it| self.route_of(it, key)) {
            Some(Route::To(active)) => it.role == Role::Replica || *it.id == *active,
            Some(Route::Hold) | None => true,
        }
    }

    /// Whether a session with this key belongs elsewhere than at this instance: a failover has taken it from there,
    /// or the configuration has made a replica of it, at which none is opened.
    pub(crate) fn has_moved_on(&self, instance: usize, key: u64) -> bool {
        let belongs = |it: &Instance| it.role != Role::Replica && self.sits(it, key);
        !self.instances.get(instance).is_some_and(belongs)
    }

    /// Waits until that is so.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn moves_on(&self, instance: usize, key: u64) {
        self.comes_to(|| self.has_moved_on(instance, key)).await;
    }

    /// Waits until a failover has taken a call with this key, which lasts, from this instance. A replica keeps it.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn drops(&self, instance: usize, key: u64) {
        let sits = || self.instances.get(instance).is_some_and(|it| self.sits(it, key));
        self.comes_to(|| !sits()).await;
    }

    async fn comes_to(&self, is_so: impl Fn() -> bool) {
        loop {
            let turned = self.turned.notified();
            if is_so() {
                return;
            }
            turned.await;
        }
    }

    /// Whether a session with this key goes elsewhere before its next call: it belongs there, or another instance
    /// would take it and this one does not.
    pub(crate) fn is_to_leave(&self, instance: usize, key: u64) -> bool {
        self.has_moved_on(instance, key)
            || (!self.takes(instance, key) && self.other_than(instance, key))
    }

    /// Whether another instance would take such a session.
    pub(crate) fn other_than(&self, instance: usize, key: u64) -> bool {
        self.any_other(instance, key, |_| true)
    }

    fn any_other(&self, instance: usize, key: u64, is_so: impl Fn(&Instance) -> bool) -> bool {
        (0..self.instances.len()).filter(|it| *it != instance).any(|it| {
            let other = &self.instances[it];
            other.role != Role::Replica && other.weight > 0 && self.takes(it, key) && is_so(other)
        })
    }

    /// The lot of the call's session at an instance, by which it belongs to the share that passes there, or does
    /// not: the same on every node and for as long as it lives. Where one instance is all there is no session
    /// goes elsewhere, and calls are drawn.
    pub(super) fn lot(&self, at: &Instance, ask: &Ask<'_>) -> Option<u16> {
        (ask.bound && self.instances.len() > 1).then(|| lot(at, ask.key))
    }

    /// Whether all calls of a session with this key pass at the instance, as it takes its calls back.
    pub(crate) fn is_of_share(&self, instance: usize, key: u64) -> bool {
        let it = &self.instances[instance.min(self.instances.len() - 1)];
        !it.ramps() || lot(it, key) < self.params.first_share()
    }

    /// The instances that take their calls back bit by bit.
    pub(crate) fn ramping(&self) -> Set {
        let mut ramping = Set::default();
        (0..self.instances.len()).filter(|it| self.instances[*it].ramps()).for_each(|it| {
            ramping.insert(it);
        });
        ramping
    }

    /// Whether another instance takes all calls of such a session.
    pub(crate) fn is_whole_elsewhere(&self, instance: usize, key: u64) -> bool {
        self.any_other(instance, key, |other| !other.ramps())
    }

    /// Whether there is an instance to go to beside these.
    pub(crate) fn has_more(&self, beside: Set, key: u64) -> bool {
        let all = 0..self.instances.len();
        all.filter(|it| !beside.contains(*it))
            .any(|it| self.instances[it].weight > 0 && self.takes(it, key))
    }

    /// Resolves when Reads that wait for this instance, which was chosen at `since`, had better go elsewhere.
    pub(crate) fn gone(&self, instance: usize, since: Instant) -> impl Future<Output = ()> {
        self.instances[instance.min(self.instances.len() - 1)].given_up(since)
    }

    /// The next instance for the call, beside those that were tried.
    fn next(
        &self,
        ask: &Ask<'_>,
        active: Option<&str>,
        tried: Set,
        now: Instant,
    ) -> Result<usize, NoInstance> {
        let reads = ask.class == CallClass::Read;
        // A Write is no test: while another instance takes it, none goes to one that is being tried.
        let writes = matches!(ask.class, CallClass::Write | CallClass::Idempotent);
        let wary = writes
            && self.instances.iter().any(|it| !it.is_tried() && !it.is_shut() && !it.is_unwell());
        let candidate = |(at, it): (usize, &Instance)| {
            let standby =
                active.is_some_and(|active| it.role != Role::Replica && *it.id != *active);
            let admitted = match () {
                () if standby => Err(Unfit::Standby),
                () if it.weight == 0 => Err(Unfit::Draining),
                () if it.is_shut() => Err(it.shut_by().unwrap_or(Unfit::BreakerOpen)),
                () if wary && it.is_tried() => Err(Unfit::Recovering),
                () => Ok(()),
            };
            Candidate {
                role: match it.role {
                    Role::Equal | Role::Primary => balance::Role::Primary,
                    Role::Secondary => balance::Role::Secondary,
                    Role::Replica => balance::Role::Replica,
                },
                distance: it.distance,
                weight: it.weight,
                score: it.score(),
                in_flight: it.in_flight(),
                limit: self.queue.places(),
                latency: it.latency(now),
                // Its turn there is taken already.
                allowance: if ask.turn == Some(at) { 1.0 } else { self.allowance(at, now) },
                back_for: it.back_for(now),
                due: !writes && it.is_due(self.params.probe_interval, now),
                admitted,
                ..Candidate::new(u16::try_from(at).unwrap_or(u16::MAX), it.seed)
            }
        };
        let request = Request {
            is_read: reads,
            key: (self.strategy.strategy == balance::Strategy::Hash)
                .then(|| hash_key(ask.body, &self.hash_on))
                .flatten(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
            tried,
            sticky: None,
        };
        let all = self.instances.iter().enumerate();
        let picked = if self.instances.len() <= FEW {
            let mut few = [Candidate::new(0, 0); FEW];
            few.iter_mut().zip(all).for_each(|(slot, it)| *slot = candidate(it));
            let few = &few[..self.instances.len()];
            balance::pick(few, &request, &self.strategy, chance())
        } else {
            let many: Vec<Candidate> = all.map(candidate).collect();
            balance::pick(&many, &request, &self.strategy, chance())
        };
        picked.map(|picked| picked.index)
    }
}

/// Servers of at most so many instances are balanced without an allocation.
const FEW: usize = 8;

/// A thousand lots, drawn by its key for each instance anew.
fn lot(at: &Instance, key: u64) -> u16 {
    // Below 1000, so nothing is cut off.
    ((u128::from(balance::mix(key ^ at.seed)) * 1000) >> 64) as u16
}

/// The value that the path names in a call's arguments, hashed; `None` where there is none.
fn hash_key(body: &[u8], path: &[String]) -> Option<u64> {
    let message: serde_json::Value = serde_json::from_slice(body).ok()?;
    let mut at = message.get("params")?.get("arguments")?;
    for step in path {
        at = at.get(step)?;
    }
    Some(balance::seed(&at.to_string()))
}

#[cfg(test)]
mod tests {
    use holdfast_engine::balance::Set;
    use holdfast_engine::class::CallClass;
    use holdfast_engine::health::votes::Opinion;

    use super::super::testing::fleet;
    use super::super::{Ask, Verdict};

    fn ask() -> Ask<'static> {
        Ask { class: CallClass::Read, ..Ask::opening(None, Set::default()) }
    }

    #[test]
    fn the_nearest_region_that_is_well_goes_first() {
        let instances = [("far", "asia"), ("own", "eu"), ("next", "us"), ("farther", "moon")];
        let instances = instances.map(|(id, region)| {
            format!("{{ id: {id}, url: \"http://127.0.0.1:1/{id}\", region: {region} }}")
        });
        let text = |node: &str| {
            let instances = instances.join(", ");
            format!("node: {{ {node} }}\nservers: {{ all: {{ instances: [ {instances} ] }} }}")
        };
        // In the order in which they are found unhealthy, one after the other.
        let order = |node: &str| {
            let fleet = fleet(&text(node));
            let server = fleet.server("all").unwrap();
            let mut order = Vec::new();
            // With one of four left so many are gone that all are used.
            for _ in 0..2 {
                let attempt = server.choose(&ask()).unwrap();
                let id = server.id(attempt.instance()).to_owned();
                let verdict =
                    Verdict { opinion: Some(Opinion::Unhealthy), score: 10, why: "test".into() };
                fleet.judge(fleet.at("all", &id).unwrap(), verdict);
                order.push(id);
            }
            order
        };
        assert_eq!(order("regions: [eu, us, asia]"), ["own", "next"]);
        assert_eq!(order("regions: [eu, asia]"), ["own", "far"], "what is not named is farther");
        assert_eq!(order("regions: [moon, asia, us]"), ["farther", "far"]);
        assert_eq!(order("region: us")[0], "next");
    }
}
