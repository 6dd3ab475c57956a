//! What is forgotten when the servers' history is full, so that what goes on is not.
//!
//! A server that flaps fills no more than its own part of the record. Where a region is lost and a hundred
//! servers write at once, the lines of outages that go on stay: what they are judged by, and what was
//! announced of them. Of the others the oldest go first, of which people have been told the longest ago.
//! The same history gives the same line on every node.

use std::collections::{BTreeMap, VecDeque};

use super::{ServerEvent, ServerHappened};
use crate::health::votes::Opinion;
use crate::objectives::{Ending, Outage, outages};

/// The place of the line that is forgotten next: one of this server, or of any. The last line is new, and
/// stays.
pub(super) fn least_needed(events: &VecDeque<ServerEvent>, of: Option<&str>) -> Option<usize> {
    let kept = kept(events);
    let lines = || {
        let old = events.len().saturating_sub(1);
        let all = events.iter().take(old).enumerate();
        all.filter(|(_, event)| of.is_none_or(|server| event.server == server))
    };
    let free = lines().find(|(place, _)| !kept[*place]);
    free.or_else(|| lines().next()).map(|(place, _)| place)
}

/// Whether each line belongs to an outage that goes on, and is needed to judge it.
fn kept(events: &VecDeque<ServerEvent>) -> Vec<bool> {
    let all = outages(events);
    let open = all.iter().filter(|it| it.ending == Ending::Open);
    // Whether a failover came to nothing is known by the first that did.
    let mut open: BTreeMap<&str, (&Outage, bool)> =
        open.map(|it| (it.server.as_str(), (it, false))).collect();
    let is_needed = |event: &ServerEvent| {
        let Some((outage, failed)) = open.get_mut(event.server.as_str()) else { return false };
        if event.index < outage.index {
            return false;
        }
        match event.what {
            ServerHappened::Verdict { to, active, .. } => {
                event.index == outage.index && active && to == Opinion::Unhealthy
            }
            ServerHappened::CallsFail { .. } => event.index == outage.index,
            ServerHappened::FailoverBegan => outage.decided == Some(event.at),
            ServerHappened::Switched => outage.switched == Some(event.at),
            ServerHappened::Failed => !std::mem::replace(failed, true),
            ServerHappened::Progressed => outage.in_use == Some(event.at),
            // What was announced of it. That others of the server are of no use is not what it is judged by.
            ServerHappened::Noted => event.instance == outage.instance && !event.is_alarm(),
            ServerHappened::Lost { outage: of, .. } => of == outage.index,
            ServerHappened::FailbackBegan
            | ServerHappened::RolledBack
            | ServerHappened::Settled
            | ServerHappened::Answered { .. }
            | ServerHappened::BreakerOpened
            | ServerHappened::BreakerForcedOpen
            | ServerHappened::BreakerForcedClosed
            | ServerHappened::BreakerReleased
            | ServerHappened::Defined
            | ServerHappened::Retired
            | ServerHappened::Configured => false,
        }
    };
    events.iter().map(is_needed).collect()
}
