//! What a node believes after looks at an instance, and what the nodes conclude.

use std::time::{Duration, Instant};

use holdfast_engine::failover::trigger::trigger;
use holdfast_engine::failover::{Manner, Params, Role, Seen};
use holdfast_engine::health::hysteresis::{Patience, Steady};
use holdfast_engine::health::schedule::interval;
use holdfast_engine::health::votes::{Calls, Cause, Opinion, Rules, Vote, heard, tally};
use holdfast_engine::health::{Bars, Grade, Status};
use holdfast_engine::replicated::Origin;

use super::table;

const STATUSES: [Status; 4] =
    [Status::Healthy, Status::Degraded, Status::Warning, Status::Critical];

const BELIEVED: [(Option<Status>, &str); 5] = [
    (None, "unknown"),
    (Some(Status::Healthy), "healthy"),
    (Some(Status::Degraded), "degraded"),
    (Some(Status::Warning), "warning"),
    (Some(Status::Critical), "critical"),
];

const LOOKS: [(&[Status], &str); 10] = [
    (&[Status::Healthy], "healthy"),
    (&[Status::Healthy; 2], "healthy, healthy"),
    (&[Status::Healthy; 3], "healthy, healthy, healthy"),
    (&[Status::Degraded], "degraded"),
    (&[Status::Degraded; 2], "degraded, degraded"),
    (&[Status::Degraded; 3], "degraded, degraded, degraded"),
    (&[Status::Critical], "critical"),
    (&[Status::Critical; 2], "critical, critical"),
    (&[Status::Critical, Status::Warning], "critical, warning"),
    (&[Status::Critical, Status::Healthy, Status::Critical], "critical, healthy, critical"),
];

/// What is believed after these looks, by the defaults: two for worse, three for better.
fn believed(before: Option<Status>, looks: &[Status]) -> String {
    let patience = Patience::default();
    let mut steady = Steady::new();
    // The way to a belief: as many looks as it takes from wherever it is.
    for seen in before.iter().flat_map(|it| [*it; 3]) {
        let _ = steady.look(seen, patience);
    }
    assert_eq!(steady.status(), before);
    for seen in looks {
        let _ = steady.look(*seen, patience);
    }
    steady.status().map_or_else(|| "unknown".into(), |it| it.to_string())
}

#[test]
fn what_a_node_believes() {
    assert_eq!(STATUSES.len() + 1, BELIEVED.len());
    table("Believed status", 0).check(&BELIEVED, &LOOKS, believed);
}

const CLUSTERS: [(u64, &str); 6] =
    [(1, "1 node"), (2, "2 nodes"), (3, "3 nodes"), (4, "4 nodes"), (5, "5 nodes"), (7, "7 nodes")];

/// How many vote unhealthy and degraded, and how many are silent; the others vote healthy.
const VOTES: [((u64, u64, u64), &str); 11] = [
    ((0, 0, 0), "all healthy"),
    ((1, 0, 0), "1 unhealthy"),
    ((2, 0, 0), "2 unhealthy"),
    ((3, 0, 0), "3 unhealthy"),
    ((4, 0, 0), "4 unhealthy"),
    ((5, 0, 0), "5 unhealthy"),
    ((1, 1, 0), "1 unhealthy, 1 degraded"),
    ((0, 2, 0), "2 degraded"),
    ((0, 0, 1), "1 silent"),
    ((2, 0, 1), "2 unhealthy, 1 silent"),
    ((3, 0, 2), "3 unhealthy, 2 silent"),
];

/// What a cluster concludes; a dash where it has fewer nodes than the row needs.
fn concluded(nodes: u64, (unhealthy, degraded, silent): (u64, u64, u64)) -> String {
    if unhealthy + degraded + silent > nodes {
        return "–".into();
    }
    let now = Instant::now();
    let member = |node| Origin { node, generation: 1 };
    let vote = |node| {
        let opinion = match node {
            it if it <= unhealthy => Opinion::Unhealthy,
            it if it <= unhealthy + degraded => Opinion::Degraded,
            _ => Opinion::Healthy,
        };
        let (from, age) = (member(node), Duration::ZERO);
        Vote { from, opinion, score: 0.5, cause: Cause::Score, received: now, age }
    };
    let votes: Vec<_> = (1..=nodes - silent).map(vote).collect();
    let members: Vec<_> = (1..=nodes).map(member).collect();
    let tally = tally(&votes, &members, &Rules::default(), now);
    tally.opinion.map_or_else(|| "nothing".into(), |it| it.label().into())
}

#[test]
fn what_the_nodes_conclude() {
    table("Conclusion of the nodes", 0).check(&CLUSTERS, &VOTES, concluded);
}

/// What a node's own calls say of an instance, and its own checks.
type Own = (Option<Calls>, Option<f64>);

const NODES: [(Own, &str); 5] = [
    ((None, Some(1.0)), "no calls, healthy"),
    ((None, Some(0.8)), "no calls, not healthy"),
    ((None, None), "no calls, not checked"),
    ((Some(Calls::Succeed), Some(1.0)), "calls succeed"),
    ((Some(Calls::Fail(Cause::Errors)), Some(1.0)), "calls fail"),
];

const OPEN: Calls = Calls::Fail(Cause::BreakerOpen);
const ERRORS: Calls = Calls::Fail(Cause::Errors);

/// What its peers' calls say.
const PEERS: [(&[Calls], &str); 7] = [
    (&[], "no peer has calls"),
    (&[Calls::Succeed], "a peer's calls succeed"),
    (&[ERRORS], "a peer's calls fail"),
    (&[OPEN], "a peer's breaker is open"),
    (&[ERRORS, Calls::Succeed], "one peer's calls fail, another's succeed"),
    (&[OPEN, ERRORS], "one peer's breaker is open, another's calls fail"),
    (&[OPEN, OPEN, Calls::Succeed], "two peers' breakers are open, a third's calls succeed"),
];

fn named((own, local): Own, peers: &[Calls]) -> String {
    let seen = match own {
        Some(Calls::Fail(cause)) => cause,
        Some(Calls::Succeed) | None => Cause::Score,
    };
    heard(own, local, peers).unwrap_or(seen).label().into()
}

#[test]
fn what_others_calls_say() {
    table("What others' calls say", 0).check(&NODES, &PEERS, named);
}

const SCORES: [(u8, &str); 10] = [
    (100, "100"),
    (75, "75"),
    (74, "74"),
    (60, "60"),
    (59, "59"),
    (40, "40"),
    (39, "39"),
    (20, "20"),
    (19, "19"),
    (0, "0"),
];

type Measured = fn(u8) -> String;

const MEASURED: [(Measured, &str); 4] = [
    (|score| Grade::of(score).label().into(), "the grade"),
    (|score| Bars::default().measure(score).label().into(), "the measure"),
    (|score| times_as_often(score), "checks, times as often"),
    (|score| how_it_is_left(score).into(), "how an unhealthy instance is left, for its score"),
];

fn times_as_often(score: u8) -> String {
    let minute = Duration::from_secs(60);
    let each = interval(minute, score, &Bars::default());
    (minute.as_secs() / each.as_secs()).to_string()
}

fn how_it_is_left(score: u8) -> &'static str {
    let seen = Seen {
        name: "a",
        role: Role::Primary,
        opinion: Some(Opinion::Unhealthy),
        cause: Cause::Score,
        score,
        since: 0,
        good_checks: 0,
    };
    let trigger = trigger(Some(&seen), &Params::new("a")).expect("it is left");
    match trigger.manner {
        Manner::Immediate => "immediate",
        Manner::Gradual => "gradual",
        Manner::Manual | Manner::Forced => "by hand",
    }
}

#[test]
fn what_a_score_calls_for() {
    table("Measures", 0).check(&SCORES, &MEASURED, |score, measured| measured(score));
}

#[test]
#[ignore = "prints the tables"]
fn print() {
    let after = |looks: &&'static [Status]| BELIEVED.map(|it| believed(it.0, looks));
    for (look, name) in &LOOKS {
        println!("| {name} | {} |", after(look).join(" | "));
    }
    for (votes, name) in VOTES {
        println!("| {name} | {} |", CLUSTERS.map(|it| concluded(it.0, votes)).join(" | "));
    }
}
