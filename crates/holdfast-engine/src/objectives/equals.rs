//! Servers that do not move: their calls go to any instance that is usable, so that such a server is out
//! when none is.
//!
//! The history names one of its instances as the active one all the same, the first that it had. What that
//! one alone does is no outage, and what the last usable one does is.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::health::votes::{Cause, Opinion};
use crate::replicated::{ServerEvent, ServerHappened};

/// The instances of servers that do not move, by server, and what each of them is known to be now.
pub type Equals<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Option<Opinion>>>;

/// The history as [`super::outages`] is to read it: of these servers an instance is the active one if no other
/// is usable.
#[must_use]
pub fn as_one<'a, E>(events: E, equals: &Equals<'_>) -> Vec<Cow<'a, ServerEvent>>
where
    E: IntoIterator<Item = &'a ServerEvent>,
    E::IntoIter: Clone,
{
    let events = events.into_iter();
    let mut usable = before(&events, equals);
    let read = |event: &'a ServerEvent| {
        let (server, instance) = (event.server.as_str(), event.instance.as_str());
        let Some(known) = usable.get_mut(server) else { return Cow::Borrowed(event) };
        let active = !known.iter().any(|(name, usable)| *name != instance && *usable);
        let (Some(own), Some(now)) = (known.get_mut(instance), becomes(event.what)) else {
            return Cow::Borrowed(event);
        };
        *own = now;
        let what = match event.what {
            ServerHappened::Verdict { from, to, evidence_since, .. } => {
                ServerHappened::Verdict { from, to, active, evidence_since }
            }
            ServerHappened::CallsFail { from, evidence_since, .. } if !active => {
                let to = Opinion::Degraded;
                ServerHappened::Verdict { from, to, active, evidence_since }
            }
            as_it_is => as_it_is,
        };
        Cow::Owned(ServerEvent { what, ..event.clone() })
    };
    events.map(read).collect()
}

/// What was usable before the first of these lines: what an instance's first line says that it was, and of one
/// without a line what it is.
fn before<'a, 'b>(
    events: &(impl Iterator<Item = &'a ServerEvent> + Clone),
    equals: &Equals<'b>,
) -> BTreeMap<&'b str, BTreeMap<&'b str, bool>> {
    let of = |server: &str, instance: &str, known: Option<Opinion>| {
        let mut own = events.clone().filter(|it| it.server == server && it.instance == instance);
        let was = own.find_map(|it| match it.what {
            ServerHappened::Verdict { from, .. } | ServerHappened::CallsFail { from, .. } => {
                Some(from)
            }
            _ => None,
        });
        is_usable(was.unwrap_or(known))
    };
    let servers = equals.iter().map(|(server, instances)| {
        let instances = instances.iter().map(|(name, known)| (*name, of(server, name, *known)));
        (*server, instances.collect())
    });
    servers.collect()
}

/// Whether an instance is usable after a line about it; `None`: the line says nothing of that.
fn becomes(what: ServerHappened) -> Option<bool> {
    match what {
        ServerHappened::Verdict { to, .. } => Some(is_usable(Some(to))),
        ServerHappened::CallsFail { cause, .. } => Some(cause != Cause::BreakerOpen),
        _ => None,
    }
}

fn is_usable(opinion: Option<Opinion>) -> bool {
    opinion.is_some_and(|it| it < Opinion::Unhealthy)
}
