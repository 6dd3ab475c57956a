//! The transitions. Same state, same input, same sight, same time: same outcome.
//!
//! The table of every state and input is in `docs/state-machines.md`, and a test walks it.

mod wish;

use serde::{Deserialize, Serialize};

use super::trigger::{Trigger, target, trigger};
use super::{End, Failed, Failover, Manner, Move, Order, Params, Phase, Role, Seen, Stage};
use crate::health::votes::{Cause, Opinion};

/// A delay doubles this often at most.
const DOUBLINGS: u32 = 3;
/// For so long after a switch, in milliseconds, a verdict from before it says nothing of calls: the nodes, which
/// count anew, have not voted on it yet.
const COUNTS_ANEW: u64 = 3_000;
/// [`Failover::not_before`] of what an operator has taken back.
const UNTIL_FOUND_OTHERWISE: u64 = u64::MAX;
/// The longest cause, in bytes.
const MAX_CAUSE: usize = 256;

/// What makes the machine move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Time has passed, or a verdict has changed.
    Tick,
    /// An order of this step was carried out. Of any other step: ignored.
    Report {
        /// The generation of the order.
        generation: u64,
        /// The step of the order.
        step: u32,
        /// What came of it.
        report: Report,
    },
    /// An operator moves the server to this instance, or to the best; a failback that has not switched yet
    /// is taken back, and begins no more by itself.
    Move {
        /// Where to; none: the best.
        to: Option<String>,
        /// Who says so.
        by: String,
        /// Also to an instance that is unhealthy or of which nothing is known.
        force: bool,
    },
    /// An operator has the primary serve again; a move that has not switched yet is taken back.
    Back {
        /// Who says so.
        by: String,
        /// Without a ramp.
        at_once: bool,
    },
}

/// What came of an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Report {
    /// Every node holds new calls.
    Paused,
    /// No call runs at the old instance.
    Drained,
    /// The check ended: well, or with what was wrong.
    Checked(Result<(), String>),
    /// Every node uses the new instance.
    Switched,
    /// People were told.
    Notified,
}

/// Why an operator's wish is not fulfilled. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A move is under way.
    #[error("the server is already moving")]
    Busy,
    /// It is so already.
    #[error("that instance is active already")]
    Already,
    /// No other instance can serve.
    #[error("no other instance can take over")]
    NoTarget,
    /// The server has no such instance, or it is a replica.
    #[error("there is no such instance that could take over")]
    Unknown,
    /// It is unhealthy, or nothing is known of it.
    #[error("the instance is unhealthy or not known to be well")]
    Unusable,
}

/// What a failback waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hindrance {
    /// An operator: it does not begin by itself, or one moved the server here.
    Operator,
    /// The primary is not well.
    Ill,
    /// This time, in milliseconds since the Unix epoch.
    Until(u64),
    /// So many good checks of the primary in a row, on most nodes.
    Checks(u32),
}

/// What a step comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stepped {
    /// The state from now on; what the coordinator proposes if it changed.
    pub next: Failover,
    /// Whether it is another than before.
    pub changed: bool,
    /// What is to be done in it, once it is committed; if it did not change, again.
    pub orders: Vec<Order>,
}

/// What a step is decided by.
#[derive(Clone, Copy)]
struct Sight<'a> {
    seen: &'a [Seen<'a>],
    params: &'a Params,
    now: u64,
}

// === impl Failover ===

impl Failover {
    /// One step. `seen`: the server's instances, in the order in which they are preferred as targets;
    /// `term`: the coordinator's; `now`: milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Refusal`] of an operator's wish; `Tick` and `Report` are never refused.
    pub fn step(
        &self,
        input: &Input,
        seen: &[Seen<'_>],
        params: &Params,
        term: u64,
        now: u64,
    ) -> Result<Stepped, Refusal> {
        let sight = Sight { seen, params, now };
        let next = match input {
            Input::Tick => sight.tick(self),
            Input::Report { generation, step, report }
                if (*generation, *step) == (self.generation, self.step) =>
            {
                sight.report(self, report)
            }
            Input::Report { .. } => None,
            Input::Move { to, by, force } => Some(sight.wish(self, to.as_deref(), by, *force)?),
            Input::Back { by, at_once } => Some(sight.back(self, by, *at_once)?),
        };
        let changed = next.is_some();
        let next = next.unwrap_or_else(|| self.clone());
        let orders = next.orders(params, term);
        Ok(Stepped { next, changed, orders })
    }
}

impl Failover {
    /// The same server with its move called off by who cannot end it: before the switch the old instance
    /// stays active, and calls go on to it. None: nothing moves, or it has switched.
    #[must_use]
    pub fn called_off(&self, why: &str, now: u64) -> Option<Self> {
        let mut next = self.clone();
        let (Phase::FailingOver(it) | Phase::FailingBack(it)) = &mut next.phase else {
            return None;
        };
        if !it.stage.is_before_switch() {
            return None;
        }
        (it.stage, it.cause) = (Stage::Notify { end: End::RolledBack }, cut(why));
        (next.step, next.since) = (self.step.saturating_add(1), now);
        Some(next)
    }

    /// [`Failover::not_before`], where that is a time.
    fn waits_until(&self) -> u64 {
        Some(self.not_before).filter(|it| *it != UNTIL_FOUND_OTHERWISE).unwrap_or_default()
    }

    /// What a server waits for that rests on another instance than its primary before it goes back by
    /// itself. None: nothing, or it does not rest there. `seen` and `now` as for [`Failover::step`].
    #[must_use]
    pub fn hindrance(&self, seen: &[Seen<'_>], params: &Params, now: u64) -> Option<Hindrance> {
        let sight = Sight { seen, params, now };
        (self.phase == Phase::SecondaryActive).then(|| sight.hindrance(self)).flatten()
    }
}

// === impl Sight: what happens by itself ===

impl Sight<'_> {
    fn tick(&self, state: &Failover) -> Option<Failover> {
        match &state.phase {
            Phase::PrimaryActive | Phase::SecondaryActive => self.settled(state),
            Phase::Failed(failed) => self.failed(state, failed),
            Phase::FailingOver(it) | Phase::FailingBack(it) => self.moving(state, it),
        }
    }

    fn settled(&self, state: &Failover) -> Option<Failover> {
        let active = self.could_serve(&state.active);
        if let Some(trigger) = self.reason_to_leave(state) {
            let Trigger { manner, cause, to } = trigger;
            let text = self.leaves(state, cause);
            return match self.refuge(state, &trigger, &[]) {
                Some(to) => {
                    // What was tried once, long ago, is no worse than the others.
                    let rested = self.now >= self.rests_until(state);
                    let tried = if rested { Vec::new() } else { state.tried.clone() };
                    let state = Failover { tried, ..state.clone() };
                    Some(self.begin(&state, to.name, manner, &text))
                }
                None if to == Opinion::Healthy => None,
                // Its calls go to the primary as it is, of which nobody can say more yet.
                None if active.is_none() && self.primary_is_new() => None,
                None => {
                    Some(self.fail(state, &format!("{text}, and no other instance can take over")))
                }
            };
        }
        if self.rests(&state.active) != state.phase {
            return Some(self.settle(state));
        }
        let primary = self.find(&self.params.primary)?;
        let is_due = state.phase == Phase::SecondaryActive && self.hindrance(state).is_none();
        let text = || format!("{} is well again", primary.name);
        is_due.then(|| self.begin_back(state, Manner::Gradual, &text()))
    }

    /// What keeps the server from going back to its primary; none: nothing.
    fn hindrance(&self, state: &Failover) -> Option<Hindrance> {
        let Some(primary) = self.find(&self.params.primary) else { return Some(Hindrance::Ill) };
        let delay = self.params.failback_delay;
        let since = primary.since.max(state.switched_at);
        // What was taken back was a move away from here.
        let until = since.saturating_add(delay).max(state.waits_until());
        if !self.params.automatic_failback || state.by_hand {
            Some(Hindrance::Operator)
        } else if !primary.is_well() {
            Some(Hindrance::Ill)
        } else if self.now < until {
            Some(Hindrance::Until(until))
        } else {
            let few = primary.good_checks < self.params.good_checks;
            few.then_some(Hindrance::Checks(self.params.good_checks))
        }
    }

    /// Where to go for this reason. From bad to no better is no way to go: where only a healthy instance
    /// will do, it is one that was not ill since the last switch, or has been well for the failback delay
    /// since; and once rolled back a move bit by bit waits. So two instances whose calls fail in turn do not pass a
    /// server to each other all the time. Never to one that is barred.
    fn refuge(&self, state: &Failover, trigger: &Trigger, barred: &[String]) -> Option<&Seen<'_>> {
        if trigger.to != Opinion::Healthy {
            return self.target(state, barred);
        }
        let stays_well = |it: &Seen<'_>| {
            let waited = self.now.saturating_sub(it.since) >= self.params.failback_delay;
            it.is_well() && (state.switched_at == 0 || it.since <= state.switched_at || waited)
        };
        let unfit = self.seen.iter().filter(|it| !stays_well(it)).map(|it| it.name.to_owned());
        // What was just tried in vain rests: the active instance is of some use.
        let rests_until = self.rests_until(state);
        let rests = |_: &&String| self.now < rests_until;
        let tried = state.tried.iter().filter(rests).chain(barred);
        let unfit: Vec<String> = unfit.chain(tried.cloned()).collect();
        target(self.seen, &state.active, &unfit)
            .filter(|_| trigger.manner == Manner::Immediate || self.now >= rests_until)
    }

    /// Until when moves that do not press rest.
    fn rests_until(&self, state: &Failover) -> u64 {
        let is_as_it_was = |it: &Seen<'_>| it.since <= state.since;
        match state.not_before {
            UNTIL_FOUND_OTHERWISE if self.find(&state.active).is_some_and(is_as_it_was) => u64::MAX,
            _ => state.waits_until(),
        }
    }

    fn failed(&self, state: &Failover, failed: &Failed) -> Option<Failover> {
        let active = self.could_serve(&state.active);
        let trigger = trigger(active, self.params);
        let is_usable = active.is_some_and(Seen::is_usable);
        let recovered = || Failover { attempts: 0, tried: Vec::new(), ..self.settle(state) };
        if trigger.is_none() && is_usable {
            return Some(recovered());
        }
        if let Some(trigger) = trigger {
            let rested = self.now >= state.not_before && state.attempts < self.params.max_attempts;
            // What became well after it had failed is worth another try in any case.
            let is_new = |name: &str| self.find(name).is_some_and(|it| it.since > state.since);
            let barred = state.tried.iter().filter(|it| !rested && !is_new(it)).cloned();
            let barred: Vec<String> = barred.collect();
            if let Some(to) = self.refuge(state, &trigger, &barred) {
                let text = self.leaves(state, trigger.cause);
                return Some(self.begin(state, to.name, Manner::Immediate, &text));
            }
            // It is of some use again, and there is nothing better.
            if is_usable {
                return Some(recovered());
            }
        }
        let gives_up = !failed.told && self.waited(state) >= self.params.notify_within;
        gives_up.then(|| self.told(state, failed))
    }

    fn moving(&self, state: &Failover, it: &Move) -> Option<Failover> {
        if let Stage::Notify { .. } = it.stage {
            // Who has to act does not wait until people were told of the last time.
            let trigger = self.reason_to_leave(state);
            if trigger.is_some_and(|it| it.manner == Manner::Immediate)
                && let Some(next) = self.settled(state)
            {
                return Some(next);
            }
        }
        if it.stage.is_before_switch() {
            let to = self.could_serve(&it.to);
            let ramps_back =
                matches!((&state.phase, it.stage), (Phase::FailingBack(_), Stage::Ramp { .. }));
            // How a forced target is, is the operator's business; the check still guards it.
            let is_fit = |to: &Seen<'_>| match it.manner {
                Manner::Forced => true,
                _ if ramps_back => to.is_well(),
                Manner::Immediate | Manner::Gradual | Manner::Manual => to.is_usable(),
            };
            if !to.is_some_and(is_fit) {
                let condition = match self.find(&it.to) {
                    Some(to) if to.role == Role::Replica => "a replica now",
                    to => to.and_then(|to| to.opinion).map_or("unknown", |it| it.label()),
                };
                return Some(self.abort(state, it, &format!("{} is {condition}", it.to)));
            }
            if self.has_no_reason_any_more(state, it) {
                return Some(self.roll_back(state, it, &format!("{} is well again", it.from)));
            }
            let from = trigger(self.find(&it.from), self.params);
            if it.manner != Manner::Immediate
                && let Some(Trigger { manner: Manner::Immediate, to: worst, .. }) = from
                && to.is_some_and(|to| to.is_at_least(worst))
            {
                return Some(self.hurry(state, it));
            }
        }
        let limit = self.limit(it);
        (self.waited(state) >= limit).then(|| self.expire(state, it))
    }

    /// What its condition calls for, of the active instance. That its calls failed before it was active is none
    /// of it.
    fn reason_to_leave(&self, state: &Failover) -> Option<Trigger> {
        let active = self.find(&state.active);
        let is_of_before = active.is_some_and(|it| {
            it.cause.is_of_calls()
                && it.opinion != Some(Opinion::Unhealthy)
                && it.since < state.switched_at
                && self.now < state.switched_at.saturating_add(COUNTS_ANEW)
        });
        trigger(active, self.params).filter(|_| !is_of_before)
    }

    /// Whether a move that the group began has nothing to flee from any more: the old instance is well while all
    /// calls of the server still are, or wait, there. Later that says less: of few calls few fail. What an
    /// operator began goes on, in a hurry too: then it has taken more steps. So does what began while the server
    /// rests from one that was taken back, if it goes to where all is well: an instance that is ill again so soon
    /// would have its calls held time after time.
    fn has_no_reason_any_more(&self, state: &Failover, it: &Move) -> bool {
        let first = match (&state.phase, it.manner, it.stage) {
            (Phase::FailingOver(_), Manner::Immediate, Stage::Pause) => 0,
            (Phase::FailingOver(_), Manner::Immediate, Stage::Check) => 1,
            (Phase::FailingOver(_), Manner::Gradual, Stage::Check | Stage::Ramp { .. }) => 0,
            _ => return false,
        };
        let is_well = |name| self.could_serve(name).is_some_and(Seen::is_well);
        let flaps = self.rests_from_a_failover(state, it.began) && is_well(&it.to);
        state.step == first && is_well(&it.from) && !flaps
    }

    /// Whether a failover was taken back so short a time before that. A failback rests longer.
    fn rests_from_a_failover(&self, state: &Failover, at: u64) -> bool {
        let rest = doubled(self.params.retry_after, state.rollbacks);
        let left = state.not_before.saturating_sub(at);
        state.rollbacks > 0 && (1..=rest).contains(&left)
    }

    fn report(&self, state: &Failover, report: &Report) -> Option<Failover> {
        let it = match &state.phase {
            Phase::Failed(failed) if !failed.told && *report == Report::Notified => {
                return Some(self.told(state, failed));
            }
            Phase::PrimaryActive | Phase::SecondaryActive | Phase::Failed(_) => return None,
            Phase::FailingOver(it) | Phase::FailingBack(it) => it,
        };
        match (it.stage, report) {
            (Stage::Pause, Report::Paused)
            | (Stage::Drain, Report::Drained)
            | (Stage::Switch, Report::Switched) => Some(self.advance(state, it.clone())),
            (Stage::Check, Report::Checked(Ok(()))) => {
                Some(self.advance(state, Move { checked: true, ..it.clone() }))
            }
            (Stage::Check, Report::Checked(Err(why))) => {
                Some(self.abort(state, it, &format!("check of {}: {why}", it.to)))
            }
            (Stage::Notify { .. }, Report::Notified) => Some(self.settle(state)),
            (
                Stage::Pause
                | Stage::Drain
                | Stage::Check
                | Stage::Ramp { .. }
                | Stage::Switch
                | Stage::Notify { .. },
                _,
            ) => None,
        }
    }

    /// How long a stage may last, in milliseconds.
    fn limit(&self, it: &Move) -> u64 {
        let params = self.params;
        match it.stage {
            Stage::Pause if it.manner == Manner::Immediate => params.pause_within_immediate,
            Stage::Pause => params.pause_within,
            Stage::Drain => params.drain,
            Stage::Check => params.check_within,
            Stage::Ramp { .. } => {
                let steps = 100_u64.div_ceil(u64::from(params.ramp_step.clamp(1, 100)));
                self.ramp_over(it) / steps
            }
            Stage::Switch => params.switch_within,
            Stage::Notify { .. } => params.notify_within,
        }
    }

    /// A stage has lasted as long as it may.
    fn expire(&self, state: &Failover, it: &Move) -> Failover {
        match it.stage {
            Stage::Pause | Stage::Drain | Stage::Switch => self.advance(state, it.clone()),
            Stage::Check => self.abort(state, it, &format!("check of {}: no answer", it.to)),
            Stage::Ramp { percent: 100.. } => self.advance(state, it.clone()),
            Stage::Ramp { percent } => {
                let percent = percent.saturating_add(self.params.ramp_step.max(1)).min(100);
                self.at_stage(state, it.clone(), Stage::Ramp { percent })
            }
            Stage::Notify { .. } => self.settle(state),
        }
    }
}

// === impl Sight: where to, and why ===

impl Sight<'_> {
    /// Where a server goes that leaves its active instance. Of one that is configured no more, or a replica now, the
    /// calls are at the primary already, so they stay there unless the primary is of no use.
    fn target(&self, state: &Failover, barred: &[String]) -> Option<&Seen<'_>> {
        let primary = self.find(&self.params.primary);
        match self.could_serve(&state.active) {
            None if self.primary_is_new() => None,
            None => primary
                .filter(|it| it.is_usable() && !barred.contains(&self.params.primary))
                .or_else(|| target(self.seen, &state.active, barred)),
            Some(_) => target(self.seen, &state.active, barred),
        }
    }

    /// Whether the primary is configured, and nothing is known of it yet.
    fn primary_is_new(&self) -> bool {
        self.find(&self.params.primary).is_some_and(|it| it.opinion.is_none())
    }

    fn leaves(&self, state: &Failover, cause: Cause) -> String {
        match self.find(&state.active) {
            Some(it) if it.role == Role::Replica => format!("{} is a replica now", state.active),
            Some(_) => cause.tells_of(&state.active),
            None => format!("{} is not configured any more", state.active),
        }
    }
}

// === impl Sight: the states that follow ===

impl Sight<'_> {
    fn begin(&self, state: &Failover, to: &str, manner: Manner, cause: &str) -> Failover {
        self.set_out(state, to, manner, cause, Phase::FailingOver)
    }

    fn begin_back(&self, state: &Failover, manner: Manner, cause: &str) -> Failover {
        self.set_out(state, &self.params.primary, manner, cause, Phase::FailingBack)
    }

    fn set_out(
        &self,
        state: &Failover,
        to: &str,
        manner: Manner,
        cause: &str,
        phase: fn(Move) -> Phase,
    ) -> Failover {
        let mut it = Move {
            from: state.active.clone(),
            to: to.to_owned(),
            manner,
            stage: Stage::Pause,
            began: self.now,
            checked: false,
            cause: cut(cause),
        };
        it.stage = self.first(&it);
        Failover {
            generation: state.generation.saturating_add(1),
            step: 0,
            since: self.now,
            not_before: state.waits_until(),
            phase: phase(it),
            ..state.clone()
        }
    }

    /// The next stage of a move that has nothing more to do in its present one.
    fn advance(&self, state: &Failover, it: Move) -> Failover {
        let stage = self.after(&it);
        let by_hand = matches!(it.manner, Manner::Manual | Manner::Forced)
            && matches!(state.phase, Phase::FailingOver(_));
        let mut next = self.at_stage(state, it, stage);
        if stage == Stage::Switch
            && let Some(to) = next.moving().map(|it| it.to.clone())
        {
            next.by_hand = by_hand && to != self.params.primary;
            next.active = to;
            next.switched_at = self.now;
            (next.attempts, next.rollbacks, next.tried) = (0, 0, Vec::new());
        }
        next
    }

    /// The first stage of a move, past those in which nothing is to be done.
    fn first(&self, it: &Move) -> Stage {
        match it.manner {
            Manner::Immediate | Manner::Manual | Manner::Forced => Stage::Pause,
            Manner::Gradual if self.is_to_check(it) => Stage::Check,
            Manner::Gradual => self.ramp(it),
        }
    }

    /// The stage after the present one, past those in which nothing is to be done.
    fn after(&self, it: &Move) -> Stage {
        match it.stage {
            Stage::Pause if it.manner == Manner::Immediate => self.check(it),
            Stage::Pause => Stage::Drain,
            // Checked before the ramp: its calls are at the new one already.
            Stage::Drain if it.manner == Manner::Gradual => Stage::Switch,
            Stage::Drain => self.check(it),
            Stage::Check if it.manner == Manner::Gradual => self.ramp(it),
            Stage::Check => Stage::Switch,
            Stage::Ramp { .. } => Stage::Pause,
            Stage::Switch | Stage::Notify { .. } => Stage::Notify { end: End::Switched },
        }
    }

    fn check(&self, it: &Move) -> Stage {
        if self.is_to_check(it) { Stage::Check } else { Stage::Switch }
    }

    fn is_to_check(&self, it: &Move) -> bool {
        self.params.check && !it.checked
    }

    fn ramp(&self, it: &Move) -> Stage {
        match self.ramp_over(it) {
            0 => Stage::Pause,
            _ => Stage::Ramp { percent: self.params.ramp_step.clamp(1, 100) },
        }
    }

    fn ramp_over(&self, it: &Move) -> u64 {
        let is_back = it.to == self.params.primary;
        if is_back { self.params.ramp_over } else { self.params.shift_over }
    }

    /// The old instance has become useless: what waits for it ends.
    fn hurry(&self, state: &Failover, it: &Move) -> Failover {
        let was_held = matches!(it.stage, Stage::Drain)
            || (it.stage == Stage::Check && it.manner != Manner::Gradual);
        let cause = cut(&format!("{}; {} fails", it.cause, it.from));
        let it = Move { manner: Manner::Immediate, cause, ..it.clone() };
        match it.stage {
            Stage::Drain => self.advance(state, it),
            stage if was_held => self.at_stage(state, it, stage),
            _ => self.at_stage(state, it, Stage::Pause),
        }
    }

    /// A move that comes to nothing. In a hurry there is another one, to where the reason to leave allows it.
    fn abort(&self, state: &Failover, it: &Move, why: &str) -> Failover {
        if it.manner != Manner::Immediate {
            return self.roll_back(state, it, why);
        }
        let from = self.could_serve(&it.from);
        let mut next = state.clone();
        next.attempts = next.attempts.saturating_add(1);
        if !next.tried.contains(&it.to) {
            next.tried.push(it.to.clone());
        }
        let to = trigger(from, self.params).and_then(|it| self.refuge(state, &it, &next.tried));
        if next.attempts < self.params.max_attempts
            && let Some(to) = to
        {
            let cause = format!("{}; {why}", it.cause);
            return self.begin(&next, to.name, Manner::Immediate, &cause);
        }
        if from.is_some_and(Seen::is_usable) {
            return self.roll_back(&Failover { tried: next.tried, ..state.clone() }, it, why);
        }
        let wait = doubled(self.params.retry_after, next.attempts.saturating_sub(1));
        next.not_before = self.now.saturating_add(wait);
        self.fail(&next, why)
    }

    /// The old instance stays active, and people are told.
    fn roll_back(&self, state: &Failover, it: &Move, why: &str) -> Failover {
        let mut next = state.clone();
        let is_back = matches!(state.phase, Phase::FailingBack(_));
        let first = if is_back { self.params.failback_delay } else { self.params.retry_after };
        next.rollbacks = next.rollbacks.saturating_add(1);
        next.not_before = self.now.saturating_add(doubled(first, next.rollbacks));
        let it = Move { cause: cut(why), ..it.clone() };
        self.at_stage(&next, it, Stage::Notify { end: End::RolledBack })
    }

    fn at_stage(&self, state: &Failover, it: Move, stage: Stage) -> Failover {
        let it = Move { stage, ..it };
        let phase = match state.phase {
            Phase::FailingBack(_) => Phase::FailingBack(it),
            _ => Phase::FailingOver(it),
        };
        self.next(state, phase)
    }

    fn settle(&self, state: &Failover) -> Failover {
        let next = self.next(state, self.rests(&state.active));
        match state.not_before {
            // What was found when the operator said so is what counts.
            UNTIL_FOUND_OTHERWISE => Failover { since: state.since, ..next },
            _ => next,
        }
    }

    fn fail(&self, state: &Failover, why: &str) -> Failover {
        self.next(state, Phase::Failed(Failed { why: cut(why), told: false }))
    }

    /// The time of the failure stays: what became well after it is worth a try.
    fn told(&self, state: &Failover, failed: &Failed) -> Failover {
        let phase = Phase::Failed(Failed { told: true, ..failed.clone() });
        Failover { since: state.since, ..self.next(state, phase) }
    }

    fn next(&self, state: &Failover, phase: Phase) -> Failover {
        let step = state.step.saturating_add(1);
        Failover { step, phase, since: self.now, ..state.clone() }
    }

    /// Where a server is that does not move.
    fn rests(&self, active: &str) -> Phase {
        if active == self.params.primary { Phase::PrimaryActive } else { Phase::SecondaryActive }
    }

    fn find(&self, name: &str) -> Option<&Seen<'_>> {
        self.seen.iter().find(|it| it.name == name)
    }

    /// The same of one that may be active: a replica never is.
    fn could_serve(&self, name: &str) -> Option<&Seen<'_>> {
        self.find(name).filter(|it| it.role != Role::Replica)
    }

    fn waited(&self, state: &Failover) -> u64 {
        self.now.saturating_sub(state.since)
    }
}

fn doubled(wait: u64, times: u32) -> u64 {
    wait.saturating_mul(1 << times.min(DOUBLINGS))
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_CAUSE)].to_owned()
}
