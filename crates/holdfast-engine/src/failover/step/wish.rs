//! What operators wish: a server moved, had back, or left where it is.

use super::super::trigger::target;
use super::super::{Failover, Manner, Phase, Role, Stage};
use super::{Refusal, Sight, UNTIL_FOUND_OTHERWISE};

// === impl Sight ===

impl Sight<'_> {
    pub(super) fn wish(
        &self,
        state: &Failover,
        to: Option<&str>,
        by: &str,
        force: bool,
    ) -> Result<Failover, Refusal> {
        if let Phase::FailingBack(it) = &state.phase
            && it.stage.is_before_switch()
            && to.is_none_or(|to| to == state.active)
        {
            // Whoever stops a failback does not want it to begin again by itself.
            let stays = self.roll_back(state, it, &format!("taken back by {by}"));
            return Ok(Failover { by_hand: true, ..stays });
        }
        is_free(state)?;
        let to = match to {
            Some(name) if name == state.active => return Err(Refusal::Already),
            Some(name) => {
                self.find(name).filter(|it| it.role != Role::Replica).ok_or(Refusal::Unknown)?
            }
            None => target(self.seen, &state.active, &[]).ok_or(Refusal::NoTarget)?,
        };
        if !to.is_usable() && !force {
            return Err(Refusal::Unusable);
        }
        let manner = if force { Manner::Forced } else { Manner::Manual };
        let cause = match to.opinion {
            _ if to.is_usable() => format!("by {by}"),
            Some(opinion) => format!("by {by}, although {} is {}", to.name, opinion.label()),
            None => format!("by {by}, although nothing is known of {}", to.name),
        };
        Ok(self.begin(state, to.name, manner, &cause))
    }

    pub(super) fn back(
        &self,
        state: &Failover,
        by: &str,
        at_once: bool,
    ) -> Result<Failover, Refusal> {
        if let Phase::FailingOver(it) = &state.phase
            && it.stage.is_before_switch()
        {
            let stays = self.roll_back(state, it, &format!("taken back by {by}"));
            // Whoever stops what the group began knows why it did: it does not begin again for that.
            return Ok(match it.manner {
                Manner::Gradual => Failover { not_before: UNTIL_FOUND_OTHERWISE, ..stays },
                Manner::Immediate | Manner::Manual | Manner::Forced => stays,
            });
        }
        is_free(state)?;
        if state.active == self.params.primary {
            return Err(Refusal::Already);
        }
        let primary = self.find(&self.params.primary).ok_or(Refusal::Unknown)?;
        if !primary.is_usable() {
            return Err(Refusal::Unusable);
        }
        let manner = if at_once { Manner::Manual } else { Manner::Gradual };
        Ok(self.begin_back(state, manner, &format!("by {by}")))
    }
}

/// Whether a new move may begin: nothing moves, or people are merely being told.
fn is_free(state: &Failover) -> Result<(), Refusal> {
    match state.moving().map(|it| it.stage) {
        None | Some(Stage::Notify { .. }) => Ok(()),
        Some(_) => Err(Refusal::Busy),
    }
}
