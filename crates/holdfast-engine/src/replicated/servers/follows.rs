//! Which state of a failover may follow another, and what the history calls it.

use super::apply::are_names;
use super::{MAX_INSTANCES, ServerHappened};
use crate::failover::{End, Failover, Move, Phase, Stage};
use crate::replicated::{Invalid, MAX_TEXT, Reply};

/// Whether a state may follow another: by the next step of its generation, or the first of the next;
/// with one change of the active instance per generation, to where the move goes.
pub(super) fn is_next(now: &Failover, next: &Failover) -> Result<(), Reply> {
    let follows = next.generation == now.generation && next.step > now.step;
    let begins = next.generation == now.generation.saturating_add(1) && next.step == 0;
    if !(follows || begins) {
        return Err(Reply::Invalid(Invalid::Step));
    }
    let texts = [&next.active].into_iter().chain(&next.tried);
    let moved = next.moving().into_iter().flat_map(|it| [&it.from, &it.to]);
    are_names(texts.chain(moved).map(String::as_str))?;
    let long = match &next.phase {
        Phase::Failed(it) => it.why.len() > MAX_TEXT,
        Phase::FailingOver(it) | Phase::FailingBack(it) => it.cause.len() > MAX_TEXT,
        Phase::PrimaryActive | Phase::SecondaryActive => false,
    };
    if long || next.tried.len() > MAX_INSTANCES {
        return Err(Reply::Invalid(Invalid::Text));
    }
    let is_open = |it: &Failover| it.moving().is_some_and(|it| it.stage.is_before_switch());
    // Once it has switched or was taken back, a generation does not start over.
    if follows && !is_open(now) && is_open(next) {
        return Err(Reply::Invalid(Invalid::Step));
    }
    let by_move =
        |it: &Move| it.stage == Stage::Switch && it.to == next.active && it.from == now.active;
    let switches = follows && is_open(now) && next.moving().is_some_and(by_move);
    if next.active != now.active && !switches {
        return Err(Reply::Invalid(Invalid::Step));
    }
    Ok(())
}

/// What the history calls the step.
pub(super) fn happened(now: &Failover, next: &Failover) -> ServerHappened {
    let begins = next.generation != now.generation;
    match &next.phase {
        Phase::FailingOver(_) if begins => ServerHappened::FailoverBegan,
        Phase::FailingBack(_) if begins => ServerHappened::FailbackBegan,
        Phase::FailingOver(it) | Phase::FailingBack(it) => match it.stage {
            Stage::Switch => ServerHappened::Switched,
            Stage::Notify { end: End::RolledBack } => ServerHappened::RolledBack,
            Stage::Pause
            | Stage::Drain
            | Stage::Check
            | Stage::Ramp { .. }
            | Stage::Notify { .. } => ServerHappened::Progressed,
        },
        Phase::Failed(it) if !it.told => ServerHappened::Failed,
        Phase::Failed(_) => ServerHappened::Progressed,
        Phase::PrimaryActive | Phase::SecondaryActive => ServerHappened::Settled,
    }
}

/// The step in a few words, behind what the history calls it.
pub(super) fn describe(what: ServerHappened, next: &Failover) -> String {
    let it = match &next.phase {
        Phase::PrimaryActive | Phase::SecondaryActive => {
            return format!("{} is active", next.active);
        }
        Phase::Failed(it) if it.told => return format!("people were told: {}", it.why),
        Phase::Failed(it) => return it.why.clone(),
        Phase::FailingOver(it) | Phase::FailingBack(it) => it,
    };
    let Move { to, cause, manner, stage, .. } = it;
    let manner = manner.label();
    match (stage, what) {
        (Stage::Notify { end: End::RolledBack }, _) => cause.clone(),
        (Stage::Notify { end: End::Switched }, _) => format!("people are told that {to} is active"),
        (Stage::Switch, _) => format!("{cause} ({manner})"),
        (Stage::Ramp { percent }, ServerHappened::Progressed) => {
            format!("{percent} % of the sessions use {to}: {cause} ({manner})")
        }
        (stage, ServerHappened::Progressed) => {
            format!("on the way to {to}: {cause} ({manner}, {})", stage.label())
        }
        (stage, _) => format!("{cause} ({manner}, {})", stage.label()),
    }
}
