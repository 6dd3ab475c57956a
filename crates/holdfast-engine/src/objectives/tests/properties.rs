//! What holds of outages whatever a history says, in whatever order.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A line: so many milliseconds after the one before, of this server and instance.
type Line = (u64, usize, usize, ServerHappened);

const SERVERS: [&str; 2] = ["db", "docs"];
const INSTANCES: [&str; 3] = ["a", "b", "c"];

fn opinions() -> impl Strategy<Value = Opinion> {
    (0..3_usize).prop_map(|it| [DOWN, Opinion::Degraded, WELL][it])
}

/// Evidence may be as old as the history, and by another clock it may be newer than its line.
fn verdicts() -> impl Strategy<Value = ServerHappened> {
    let from = || proptest::option::of(opinions());
    let judged = (from(), opinions(), any::<bool>(), 0..9_000_u64).prop_map(
        |(from, to, active, evidence_since)| Verdict { from, to, active, evidence_since },
    );
    let fails = (from(), any::<bool>(), 0..9_000_u64).prop_map(|(from, open, evidence_since)| {
        let cause = if open { Cause::BreakerOpen } else { Cause::Errors };
        CallsFail { from, cause, evidence_since }
    });
    prop_oneof![judged, fails]
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let moves = [FailoverBegan, FailbackBegan, Switched, Progressed, Failed, RolledBack, Settled];
    let rest = [Retired, Defined, BreakerOpened, Noted, Configured, Answered { lost: None }];
    let lost = (1..40_u64, any::<(u32, u64, u32)>())
        .prop_map(|(outage, (unknown, oldest, moved))| Lost { outage, unknown, oldest, moved });
    let what = prop_oneof![
        6 => verdicts(),
        6 => (0..moves.len()).prop_map(move |it| moves[it]),
        2 => (0..rest.len()).prop_map(move |it| rest[it]),
        1 => lost,
    ];
    vec((0..900_u64, 0..SERVERS.len(), 0..INSTANCES.len(), what), 1..40)
}

fn history(lines: &[Line]) -> Vec<ServerEvent> {
    let mut at = 1_000;
    let event = |(index, (after, server, instance, what)): (usize, &Line)| {
        at += after;
        let (server, instance) = (SERVERS[*server].to_owned(), INSTANCES[*instance].to_owned());
        let (index, evidence) = (index as u64 + 1, String::new());
        ServerEvent { index, at, server, instance, generation: 1, what: *what, evidence }
    };
    lines.iter().enumerate().map(event).collect()
}

/// What is told of one later than that it is over.
fn without_cost(outage: &Outage) -> Outage {
    Outage { is_measured: false, unknown: 0, oldest: None, moved: 0, ..outage.clone() }
}

fn without_costs(outages: &[Outage]) -> Vec<Outage> {
    outages.iter().map(without_cost).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// A server is out once at a time, and each outage begins before it is found and ends after that.
    #[test]
    fn outages_of_a_server_come_one_after_another(lines in lines()) {
        let all = outages(&history(&lines));
        let mut last: BTreeMap<&str, &Outage> = BTreeMap::new();
        for it in &all {
            prop_assert!(it.began <= it.detected, "{:?}", it);
            prop_assert_eq!(it.ended.is_some(), it.ending != Ending::Open);
            prop_assert_eq!(it.over.is_some(), it.ending != Ending::Open);
            prop_assert!(it.ended.is_none_or(|ended| it.detected <= ended), "{:?}", it);
            prop_assert!(it.over.is_none_or(|over| it.began_by < over), "{:?}", it);
            match it.ending {
                Ending::FailedOver => prop_assert!(it.switched.is_some(), "{:?}", it),
                Ending::Recovered => prop_assert!(it.switched.is_none(), "{:?}", it),
                Ending::Open | Ending::Retired => {}
            }
            if let Some(before) = last.insert(&it.server, it) {
                let (Some(over), Some(ended)) = (before.over, before.ended) else {
                    return Err(TestCaseError::fail(format!("two at once: {before:?} and {it:?}")));
                };
                prop_assert!(over <= it.index && ended <= it.detected, "{:?} and {:?}", before, it);
            }
        }
    }

    /// Whatever comes after it, an outage that has ended stays as it is, and one that goes on stays the same one
    /// until it ends. So a record that grows tells nobody of an outage that is not there any more.
    #[test]
    fn what_comes_later_changes_nothing_of_what_is_over(lines in lines()) {
        let events = history(&lines);
        let mut before = Vec::new();
        for end in 1..=events.len() {
            let now = outages(&events[..end]);
            for it in &before {
                let it: &Outage = it;
                let same = now.iter().find(|now| now.index == it.index);
                let Some(same) = same else {
                    return Err(TestCaseError::fail(format!("line {end} takes {it:?} away")));
                };
                if it.ending == Ending::Open {
                    let known = |it: &Outage| (it.began, it.detected, it.instance.clone());
                    prop_assert_eq!(known(same), known(it));
                    prop_assert!(same.decided.or(it.decided) == same.decided, "{:?}", same);
                    prop_assert!(it.switched.is_none() || same.switched == it.switched);
                } else {
                    prop_assert_eq!(without_cost(same), without_cost(it));
                }
                prop_assert!(same.unknown >= it.unknown && same.moved >= it.moved);
            }
            before = now;
        }
    }

    /// A server's outages are told by its own lines alone, and what they cost tells of none.
    #[test]
    fn no_server_is_out_for_another_or_for_what_it_cost(lines in lines()) {
        let events = history(&lines);
        let all = outages(&events);
        for server in SERVERS {
            let own = outages(events.iter().filter(|it| it.server == server));
            let of_all: Vec<_> = all.iter().filter(|it| it.server == server).cloned().collect();
            prop_assert_eq!(without_costs(&own), without_costs(&of_all));
        }
        let costs = |it: &&ServerEvent| matches!(it.what, Lost { .. });
        let free = outages(events.iter().filter(|it| !costs(it)));
        prop_assert_eq!(&free, &without_costs(&all));
    }
}
