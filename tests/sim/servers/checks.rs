//! What must hold whatever happens.

use holdfast_engine::failover::{End, Failover, Manner, Phase, Stage};
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::replicated::Servers;

use super::world::{NAMES, NODES, World};

#[derive(Default)]
pub(super) struct Checks {
    pub(super) violation: Option<String>,
    /// Log lengths at which the active instance changed, and to which.
    switches: Vec<(usize, usize)>,
    /// Switches that the newest call knew of.
    newest: usize,
    /// The last generation of which a stage lasted as long as it may.
    pub(super) limited: Option<u64>,
}

impl World {
    pub(super) fn violated(&mut self, what: String) {
        if self.checks.violation.is_none() {
            self.line(format!("VIOLATION {what}"));
            self.checks.violation = Some(what);
        }
    }

    /// After each entry of the log. `decided`: the term in which a coordinator had decided it; `term`: that of the
    /// entry.
    pub(super) fn check_entry(&mut self, before: &Servers, decided: Option<u64>, term: u64) {
        let Some(was) = before.by_name.get("db").map(|it| it.failover.clone()) else { return };
        let index = self.group.log.len() as u64;
        let events: Vec<_> = self
            .group
            .truth
            .control
            .servers
            .events
            .iter()
            .filter(|it| it.index == index)
            .cloned()
            .collect();
        for event in &events {
            self.line(format!("{:?} {} {}", event.what, event.instance, event.evidence));
        }
        let is = self.group.failover().clone();
        if is == was {
            return;
        }
        if decided != Some(term) {
            self.violated(format!("a step of term {decided:?} was made in term {term}"));
        }
        let goes_on = (is.generation, is.step) == (was.generation, was.step + 1);
        let begins = (is.generation, is.step) == (was.generation + 1, 0);
        if !goes_on && !begins {
            let [is, was] = [&is, &was].map(|it| (it.generation, it.step));
            self.violated(format!("step {is:?} was made after {was:?}"));
        }
        if is.active != was.active {
            let to = NAMES.iter().position(|it| *it == is.active).unwrap_or(NODES);
            self.checks.switches.push((self.group.log.len(), to));
            self.check_switch(&was, &is);
        }
        self.count(&was, &is);
        let share = |it: &Failover| match it.moving().map(|it| it.stage) {
            Some(Stage::Ramp { percent }) => Some(percent),
            _ => None,
        };
        if is.generation == was.generation
            && let (Some(before), Some(after)) = (share(&was), share(&is))
            && after <= before
        {
            self.violated(format!("the share fell from {before} to {after}"));
        }
        if is.generation > was.generation
            && let Some(it) = is.moving()
            && it.manner != Manner::Forced
        {
            let verdict = &self.group.truth.control.servers.by_name["db"].verdicts[&it.to];
            if !matches!(verdict.opinion, Some(Opinion::Healthy | Opinion::Degraded)) {
                // The verdict may have come in between the decision and its entry.
                self.note("the target failed as the move began");
            }
        }
    }

    /// A coordinator is about to declare an instance unhealthy: two nodes at least found it so lately.
    /// The entry may be committed later, when the leader has a quorum again.
    pub(super) fn check_verdict(&mut self, instance: &str) {
        let Some(at) = NAMES.iter().position(|it| *it == instance) else { return };
        let lately = |it: &Option<u64>| it.is_some_and(|it| self.now <= it + 3_000);
        let blind = self.nodes.iter().filter(|it| lately(&it.bad_at[at])).count();
        if blind < 2 {
            let seen: Vec<_> = self.nodes.iter().map(|it| it.bad_at[at]).collect();
            self.violated(format!(
                "{instance} is unhealthy by one node's view, last seen bad {seen:?}"
            ));
        }
    }

    /// A coordinator is about to let the primary take over again by itself: by the state that it knows that has been
    /// well for the delay, and the coordinator's own checks were good.
    pub(super) fn check_failback(&mut self, at: usize, state: &Failover) {
        self.note("failed back by itself");
        let primary = &self.params.primary;
        let Some(place) = NAMES.iter().position(|it| *it == *primary) else { return };
        let node = &self.nodes[at];
        let verdict = &node.machine.control.servers.by_name["db"].verdicts[primary];
        let well_for = self.now.saturating_sub(verdict.since.max(state.switched_at));
        let is_well = verdict.opinion == Some(Opinion::Healthy);
        if !is_well || well_for < self.params.failback_delay {
            self.violated(format!("a failback before its delay: {well_for} ms after {verdict:?}"));
        } else if node.good_looks[place] < self.params.good_checks {
            let good = node.good_looks[place];
            self.violated(format!("a failback after {good} good checks"));
        }
    }

    /// The active instance changes: where that is done in order, nothing runs at the old one.
    fn check_switch(&mut self, was: &Failover, is: &Failover) {
        self.note("switched");
        let in_order = is.moving().is_some_and(|it| it.manner != Manner::Immediate);
        let old = NAMES.iter().position(|it| *it == was.active).unwrap_or_default();
        // A drain that took its whole time may leave calls behind, and so may a node that is away.
        let drained = was
            .moving()
            .is_some_and(|it| it.stage != Stage::Drain || self.now < was.since + self.params.drain);
        let running = self
            .nodes
            .iter()
            .filter(|it| it.runs() && it.holds_lease(self.now))
            .any(|it| it.calls.iter().any(|call| call.0 == old));
        let limited = self.checks.limited == Some(is.generation);
        if in_order && drained && running && !limited {
            self.violated(format!("calls still run at {} after an orderly switch", was.active));
        }
    }

    /// A node begins a call at an instance, knowing so much of the log.
    pub(super) fn check_call(&mut self, node: usize, applied: usize, instance: usize) {
        let known = self.checks.switches.iter().filter(|it| it.0 <= applied).count();
        if known >= self.checks.newest {
            self.checks.newest = known;
            return;
        }
        let active = self.checks.switches[self.checks.newest - 1].1;
        if active != instance {
            let (old, new) = (NAMES[instance], NAMES[active]);
            self.violated(format!(
                "node {node} has a session served by {old} while {new} is active"
            ));
        }
    }

    /// What the run is to show beside what it checks.
    fn count(&mut self, was: &Failover, is: &Failover) {
        let stage = is.moving().map(|it| it.stage);
        let manner = is.moving().map(|it| it.manner);
        if stage == Some(Stage::Switch) {
            self.note(match (&is.phase, manner) {
                (Phase::FailingBack(_), _) => "failed back",
                (_, Some(Manner::Immediate)) => "failed over in a hurry",
                (_, Some(Manner::Gradual)) => "failed over gradually",
                _ => "failed over by hand",
            });
        }
        if matches!(stage, Some(Stage::Notify { end: End::RolledBack })) {
            self.note("rolled back");
        }
        if matches!(is.phase, Phase::Failed(_)) {
            self.note("no way");
        }
        let hurried = |it: &Failover| it.moving().is_some_and(|it| it.manner == Manner::Immediate);
        if is.generation == was.generation && hurried(is) && !hurried(was) {
            self.note("hurried in the middle");
        }
    }

    /// All was well for long enough: the primary is active unless an operator moved it, and all know.
    pub(super) fn check_calm(&mut self) {
        let is = self.group.failover().clone();
        let moved = is.by_hand && is.phase == Phase::SecondaryActive;
        if !moved && (is.phase != Phase::PrimaryActive || is.active != "a") {
            self.violated(format!("not settled: {is:?}"));
        }
        if self.nodes.iter().any(|it| it.failover() != Some(&is)) {
            self.violated("the nodes do not agree".into());
        }
        let wrong = self.group.truth.control.servers.by_name["db"]
            .verdicts
            .values()
            .any(|it| it.opinion != Some(Opinion::Healthy));
        if wrong {
            self.violated("not settled: an instance is not found healthy".into());
        }
    }
}
