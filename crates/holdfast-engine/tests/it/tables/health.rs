//! What a node believes after looks at an instance, and what the nodes conclude.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use holdfast_engine::failover::trigger::trigger;
use holdfast_engine::failover::{Manner, Params, Role, Seen};
use holdfast_engine::health::aside::{Aside, COUNTS};
use holdfast_engine::health::hysteresis::{Patience, Steady};
use holdfast_engine::health::node::{Condition, Level, Limits, Reading};
use holdfast_engine::health::schedule::{Rhythm, Round, Schedule, Silence, interval};
use holdfast_engine::health::votes::{Calls, Cause, Opinion, Rules, Vote, heard, tally, voters};
use holdfast_engine::health::{Bars, Grade, Status};
use holdfast_engine::replicated::Origin;
use proptest::prelude::*;

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

/// How many vote unhealthy and degraded, how many are silent, and how many are heard and do not know the
/// instance; the others vote healthy.
type Voting = (u64, u64, u64, u64);

const VOTES: [(Voting, &str); 17] = [
    ((0, 0, 0, 0), "all healthy"),
    ((1, 0, 0, 0), "1 unhealthy"),
    ((2, 0, 0, 0), "2 unhealthy"),
    ((3, 0, 0, 0), "3 unhealthy"),
    ((4, 0, 0, 0), "4 unhealthy"),
    ((5, 0, 0, 0), "5 unhealthy"),
    ((1, 1, 0, 0), "1 unhealthy, 1 degraded"),
    ((0, 2, 0, 0), "2 degraded"),
    ((0, 0, 1, 0), "1 silent"),
    ((2, 0, 1, 0), "2 unhealthy, 1 silent"),
    ((3, 0, 2, 0), "3 unhealthy, 2 silent"),
    ((0, 0, 0, 1), "1 abstains"),
    ((1, 0, 0, 1), "1 unhealthy, 1 abstains"),
    ((2, 0, 0, 1), "2 unhealthy, 1 abstains"),
    ((1, 0, 0, 2), "1 unhealthy, 2 abstain"),
    ((0, 0, 1, 1), "1 silent, 1 abstains"),
    ((3, 0, 0, 2), "3 unhealthy, 2 abstain"),
];

/// What a cluster concludes; a dash where it has fewer nodes than the row needs.
fn concluded(nodes: u64, votes: (u64, u64, u64, u64)) -> String {
    let (unhealthy, degraded, silent, abstain) = votes;
    if unhealthy + degraded + silent + abstain > nodes {
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
    let votes: Vec<_> = (1..=nodes - silent - abstain).map(vote).collect();
    let members: Vec<_> = (1..=nodes).map(member).collect();
    let members = voters(&members, |it| it.node > nodes - abstain);
    let rules = Rules { alone: nodes == 1, ..Rules::default() };
    let tally = tally(&votes, &members, &rules, now);
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

const TRIES: [(u32, &str); 4] = [(0, "well"), (1, "failed once"), (2, "failed twice"), (3, "down")];
const ROUNDS: [(bool, &str); 2] = [(true, "the round passes"), (false, "the round fails")];

/// What a round makes of an instance whose last ones failed so often, and whether it counts.
fn next_check(failed: u32, passed: bool) -> String {
    let rhythm = Rhythm { interval: Duration::from_secs(10), retries: 2, bars: Bars::default() };
    let mut schedule = Schedule::new();
    let mut ends = |passed| {
        let round = Round { passed, took: Duration::ZERO };
        schedule.ended(round, 100, rhythm, 0).counts
    };
    for _ in 0..failed {
        ends(false);
    }
    let counts = ends(passed);
    // Where it is now is told by how often it may fail before that counts.
    let mut left = 0;
    while !ends(false) {
        left += 1;
    }
    let name = if left == 0 && counts { "down" } else { TRIES[2 - left].1 };
    assert_eq!(counts, passed || failed >= 2, "{name}");
    name.into()
}

#[test]
fn when_a_failed_check_counts() {
    table("When the next check comes", 0).check(&TRIES, &ROUNDS, next_check);
}

const LEVELS: [(Level, &str); 4] = [
    (Level::Normal, "normal"),
    (Level::Warning, "warning"),
    (Level::Critical, "critical"),
    (Level::Emergency, "emergency"),
];

use Level::{Critical as C, Emergency as E, Normal as N, Warning as W};

const SAMPLES: [(&[Option<Level>], &str); 7] = [
    (&[Some(E), Some(E)], "emergency, emergency"),
    (&[Some(E), Some(E), Some(E)], "emergency, emergency, emergency"),
    (&[Some(W), Some(E), Some(C)], "warning, emergency, critical"),
    (&[Some(N); 4], "normal four times"),
    (&[Some(N); 5], "normal five times"),
    (&[Some(N), Some(W), Some(N), Some(N), Some(W)], "normal, warning, normal, normal, warning"),
    (&[None; 5], "five times nothing that can be read"),
];

fn read(before: Level, samples: &[Option<Level>]) -> String {
    let limits = Limits { warning: 1.0, critical: 2.0, emergency: 3.0 };
    let mut condition = Condition::new(|_| limits);
    let mut believed = Level::Normal;
    let mut take = |level: Option<Level>| {
        let sample = level.map(|it| (Reading::Disk, f64::from(it as u8)));
        for change in condition.take(sample.as_slice()) {
            believed = change.now.level;
        }
    };
    (0..5).for_each(|_| take(Some(before)));
    samples.iter().for_each(|it| take(*it));
    believed.label().into()
}

#[test]
fn what_is_believed_of_a_nodes_reading() {
    table("A node's readings", 0).check(&LEVELS, &SAMPLES, read);
}

#[derive(Clone, Copy, Debug)]
enum Book {
    Fresh,
    Empty,
    Another,
    Itself,
}

#[derive(Clone, Copy, Debug)]
enum Asks {
    AllReady,
    TwoReady,
    Later,
    OtherBack,
}

const BOOKS: [(Book, &str); 4] = [
    (Book::Fresh, "a new coordinator"),
    (Book::Empty, "nobody is aside"),
    (Book::Another, "another is aside"),
    (Book::Itself, "it is aside"),
];

const ASKED: [(Asks, &str); 4] = [
    (Asks::AllReady, "it asks, all three are ready"),
    (Asks::TwoReady, "it asks, the third is not ready"),
    (Asks::Later, "it asks ten seconds later"),
    (Asks::OtherBack, "the other is back, and it asks"),
];

fn may_step_aside(book: Book, asks: Asks) -> String {
    let (me, other) = (1, 2);
    let all: BTreeSet<u64> = (1..=3).collect();
    let begun = Instant::now();
    let mut aside = Aside::new(begun);
    let mut now = begun + COUNTS;
    match book {
        Book::Fresh => now = begun,
        Book::Empty => {}
        Book::Another => assert!(aside.ask(other, &all, 3, now)),
        Book::Itself => assert!(aside.ask(me, &all, 3, now)),
    }
    let ready = match asks {
        Asks::TwoReady => (1..=2).collect(),
        Asks::AllReady | Asks::Later | Asks::OtherBack => all,
    };
    match asks {
        Asks::Later => now += COUNTS,
        Asks::OtherBack => aside.back(other),
        Asks::AllReady | Asks::TwoReady => {}
    }
    if aside.ask(me, &ready, 3, now) { "may".into() } else { "may not".into() }
}

#[test]
fn who_may_step_aside() {
    table("A node that steps aside", 0).check(&BOOKS, &ASKED, may_step_aside);
}

proptest! {
    /// Whatever is read: a level is believed that was read, never worse than the last three samples that
    /// made it worse, and what is read ten times is believed in the end.
    #[test]
    fn a_level_is_believed_that_was_read(
        samples in proptest::collection::vec(0usize..4, 1..80),
        last in 0usize..4,
    ) {
        let limits = Limits { warning: 1.0, critical: 2.0, emergency: 3.0 };
        let mut condition = Condition::new(|_| limits);
        let mut believed = Level::Normal;
        let mut read = vec![Level::Normal];
        for sample in samples.iter().chain(&[last; 10]) {
            let level = LEVELS[*sample].0;
            read.push(level);
            for change in condition.take(&[(Reading::Cpu, f64::from(level as u8))]) {
                prop_assert_eq!(change.from, believed);
                believed = change.now.level;
                let row = if believed > change.from { 3 } else { 5 };
                let row = &read[read.len().saturating_sub(row)..];
                prop_assert!(row.contains(&believed));
                let beyond = row.iter().all(|it| (*it > change.from) == (believed > change.from));
                prop_assert!(beyond, "{row:?}: {:?} to {believed:?}", change.from);
            }
        }
        prop_assert_eq!(believed, LEVELS[last].0);
    }
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

/// Calls that are there, when one was last answered, how old the last check is, and when that is looked at.
type Moment = (u64, u64, Duration, Duration);

const TIMEOUT: Duration = Duration::from_secs(3);
const OLD: Duration = Duration::from_secs(60);

fn looks(silence: &mut Silence, (calls, answered_at, last, at): Moment, begun: Instant) -> bool {
    let interval = Duration::from_secs(10);
    let rhythm = Rhythm { interval, retries: 2, bars: Bars::default() };
    silence.look(calls, answered_at, last, rhythm, TIMEOUT, begun + at)
}

/// What was seen on the way to each state: the last look is at zero.
const SILENCES: [(&[Moment], &str); 3] = [
    (&[(0, 1_000, OLD, Duration::ZERO)], "idle"),
    (&[(2, 1_000, OLD, Duration::ZERO)], "waiting"),
    (&[(2, 1_000, OLD, Duration::ZERO), (2, 1_000, OLD, TIMEOUT)], "told"),
];

const SEEN: [(Moment, &str); 6] = [
    ((0, 1_000, OLD, Duration::from_secs(9)), "no call is there"),
    ((2, 7_000, OLD, Duration::from_secs(9)), "a call was answered, others are there"),
    ((2, 1_000, OLD, Duration::from_secs(2)), "none was answered, for less than the time-out"),
    (
        (2, 1_000, OLD, Duration::from_secs(9)),
        "none was answered for the time-out, the last check is old",
    ),
    (
        (2, 1_000, Duration::from_secs(4), Duration::from_secs(9)),
        "none was answered for the time-out, the last check is young",
    ),
    ((3, 1_000, OLD, Duration::from_secs(9)), "the same as the last but one, and more calls came"),
];

#[test]
fn calls_that_wait_in_vain() {
    table("Calls that wait in vain", 0).check(&SILENCES, &SEEN, |before, seen| {
        let (begun, mut silence) = (Instant::now(), Silence::default());
        for seen in before {
            looks(&mut silence, *seen, begun);
        }
        if looks(&mut silence, seen, begun) {
            return "checked".to_owned();
        }
        // Who waits tells when the time-out is over; who is idle begins to wait with the first call.
        let (calls, answered_at, _, at) = seen;
        let later = |times: u32| (calls.max(1), answered_at, OLD, at + TIMEOUT * times);
        let tells = [1, 2].map(|times| looks(&mut silence, later(times), begun));
        match tells {
            [true, _] => "waiting",
            [false, true] => "idle",
            [false, false] => "told",
        }
        .to_owned()
    });
}
