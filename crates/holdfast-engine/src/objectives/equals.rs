//! Servers that do not move: their calls go to any instance that is usable, so that such a server is out
//! when none is.
//!
//! The history names one of its instances as the active one all the same, the first that it had. What that
//! one alone does is no outage, and what the last usable one does is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::health::votes::{Cause, Opinion};
use crate::replicated::{MAX_TEXT, ServerEvent, ServerHappened};

/// The instances of servers that do not move, by server, and what each of them is known to be now.
pub type Equals<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Option<Opinion>>>;

/// The history as [`super::outages`] is to read it: of these servers an instance is the active one if no other
/// is usable.
#[must_use]
pub fn as_one<'a, E>(events: E, equals: &Equals<'a>) -> Vec<Cow<'a, ServerEvent>>
where
    E: IntoIterator<Item = &'a ServerEvent>,
    E::IntoIter: Clone,
{
    let events = events.into_iter();
    let first = before(events.clone(), equals);
    let mut usable = first.clone();
    let read = |event: &'a ServerEvent| {
        let (server, instance) = (event.server.as_str(), event.instance.as_str());
        let Some(known) = usable.get_mut(server) else { return Cow::Borrowed(event) };
        if event.what == ServerHappened::Defined {
            redefine(known, first.get(server), &event.evidence);
        }
        let Some(now) = becomes(event) else { return Cow::Borrowed(event) };
        let active = !known.iter().any(|(name, usable)| *name != instance && *usable);
        known.insert(instance, now);
        let what = match event.what {
            ServerHappened::Verdict { from, to, evidence_since, .. } => {
                match (active && !now, is_usable(Some(to))) {
                    (true, true) => {
                        let cause = Cause::BreakerOpen;
                        ServerHappened::CallsFail { from, cause, evidence_since }
                    }
                    _ => ServerHappened::Verdict { from, to, active, evidence_since },
                }
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

/// The server has these instances from here on.
fn redefine<'a>(
    known: &mut BTreeMap<&'a str, bool>,
    first: Option<&BTreeMap<&'a str, bool>>,
    list: &'a str,
) {
    if list.len() >= MAX_TEXT {
        // It was cut off.
        return;
    }
    let listed: BTreeSet<&str> = list.split(", ").collect();
    known.retain(|name, _| listed.contains(name));
    for name in listed {
        let was = first.and_then(|it| it.get(name)).copied().unwrap_or(false);
        known.entry(name).or_insert(was);
    }
}

/// What was usable before the first of these lines: what an instance's first line says that it was, and of one
/// without a line what it is.
fn before<'a>(
    events: impl Iterator<Item = &'a ServerEvent>,
    equals: &Equals<'a>,
) -> BTreeMap<&'a str, BTreeMap<&'a str, bool>> {
    let mut first: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for event in events {
        if let ServerHappened::Verdict { from, .. } | ServerHappened::CallsFail { from, .. } =
            event.what
        {
            let of = (event.server.as_str(), event.instance.as_str());
            first.entry(of).or_insert_with(|| is_usable(from));
        }
    }
    let of = |server: &&'a str, instances: &BTreeMap<&'a str, Option<Opinion>>| {
        let mut usable: BTreeMap<&str, bool> =
            instances.iter().map(|(name, known)| (*name, is_usable(*known))).collect();
        // Also what is not configured any more.
        let own = first.iter().filter(|((of, _), _)| of == server);
        usable.extend(own.map(|((_, instance), was)| (*instance, *was)));
        usable
    };
    equals.iter().map(|(server, instances)| (*server, of(server, instances))).collect()
}

/// Whether an instance is usable after a line about it; `None`: the line says nothing of that.
fn becomes(event: &ServerEvent) -> Option<bool> {
    match event.what {
        // Of one that is not the active one a line says in its evidence alone what it is degraded for.
        ServerHappened::Verdict { to, .. } => {
            Some(is_usable(Some(to)) && !event.evidence.ends_with(Cause::BreakerOpen.label()))
        }
        ServerHappened::CallsFail { cause, .. } => Some(cause != Cause::BreakerOpen),
        _ => None,
    }
}

fn is_usable(opinion: Option<Opinion>) -> bool {
    opinion.is_some_and(|it| it < Opinion::Unhealthy)
}
