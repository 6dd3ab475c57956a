//! A seeded simulation of a cluster: three to five nodes made of the engine's own pieces (the
//! replicated machine, leases, journal, rules of repetition), an idealised Raft group under them, and
//! clients, a balancer and a server around them, all in virtual time and in one thread per seed.
//!
//! Crashes, freezes, partitions, slow and repeated messages, lost proposals and changes of leader come
//! from the seed; so a run can be repeated exactly:
//!
//! ```text
//! cargo nextest run -p holdfast-tests --test sim                     200 seeds
//! HOLDFAST_SIM_SEEDS=10000 cargo nextest run … seeds                 more of them
//! HOLDFAST_SIM_SEED=17 cargo nextest run … one_seed --no-capture     one, with its trace
//! ```
//!
//! | file | holds |
//! |---|---|
//! | [`driver`] | one call's life in a node: the order in which the engine is asked |
//! | [`ports`] | what goes into a driver and comes out; the bugs that can be planted |
//! | [`node`], [`exchanges`] | a node: machine, lease, proposals, lives; its calls |
//! | [`group`] | the log, terms, elections |
//! | [`client`], [`server`] | who calls and who executes |
//! | [`faults`] | what goes wrong |
//! | [`checks`] | what must hold nevertheless |
//! | [`servers`] | another world: three nodes decide about a server that fails over |

mod checks;
mod client;
mod configuration;
mod driver;
mod exchanges;
mod faults;
mod group;
mod node;
mod ports;
mod rng;
mod server;
mod servers;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use ports::Bug;
use world::{Outcome, run};

/// Seeds in a normal run.
const SEEDS: u64 = 200;
/// Within so many seeds a planted bug is found.
const SEEDS_FOR_A_BUG: u64 = 50;

/// What has to have happened in some of the seeds, or the run shows less than it says.
const MUST_HAPPEN: [&str; 30] = [
    "crashes",
    "directories lost",
    "freezes",
    "frozen beyond the failover timeout",
    "isolations",
    "one-way isolations",
    "nodes cut off from the server",
    "server restarts",
    "leadership handed over",
    "committed by the next leader",
    "proposals swallowed by a deposed leader",
    "proposals with unknown outcome",
    "declared dead",
    "decisions stale",
    "lives given up by the group",
    "writes fenced",
    "late settlement refused",
    "not sent: no lease",
    "not sent: another life",
    "client gone before sending",
    "silent node",
    "waits",
    "waits for its turn",
    "ran what waited elsewhere",
    "resumed an orphan",
    "repeated an orphan",
    "gave an orphan up",
    "sessions re-established",
    "two copies",
    "key used anew",
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What to print of a run that failed: its seed, what was violated, and what came before.
fn report(seed: u64, outcome: &Outcome, lines: usize) -> String {
    let violation = outcome.violation.as_deref().unwrap_or("nothing was violated");
    let mut text = format!("seed {seed}: {violation}\n");
    let skipped = outcome.lines.len().saturating_sub(lines);
    for (at, what, a, b) in &outcome.lines[skipped..] {
        let _ = writeln!(text, "{at:>6} {what} {a} {b}");
    }
    let _ = writeln!(text, "alone, with its whole trace: HOLDFAST_SIM_SEED={seed} … one_seed");
    text
}

/// The outcomes of seeds 0 to `count`, in their order, on all cores.
fn run_all(count: u64) -> Vec<Outcome> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, |it| it.get());
    let mut all = BTreeMap::new();
    std::thread::scope(|scope| {
        let work = || {
            let mut mine = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= count {
                    return mine;
                }
                let mut outcome = run(seed, None);
                if outcome.violation.is_none() {
                    outcome.lines.clear();
                }
                mine.push((seed, outcome));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.extend(worker.join().expect("a seed panicked"));
        }
    });
    all.into_values().collect()
}

#[test]
fn seeds() {
    let count = number("HOLDFAST_SIM_SEEDS").unwrap_or(SEEDS);
    let outcomes = run_all(count);
    let mut notes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failures = Vec::new();
    for (seed, outcome) in outcomes.iter().enumerate() {
        if outcome.violation.is_some() {
            failures.push(report(seed as u64, outcome, 60));
        }
        for (what, times) in &outcome.notes {
            *notes.entry(what).or_default() += times;
        }
    }
    let heads: Vec<_> = failures.iter().filter_map(|it| it.lines().next()).collect();
    let first = failures.first().map(String::as_str).unwrap_or_default();
    assert!(failures.is_empty(), "of {count} seeds failed: {heads:#?}\n{first}");
    println!("{count} seeds, {} events", outcomes.iter().map(|it| it.events).sum::<u64>());
    println!("{notes:#?}");
    if count >= SEEDS {
        let never: Vec<_> = MUST_HAPPEN.iter().filter(|it| !notes.contains_key(*it)).collect();
        assert!(never.is_empty(), "never happened in {count} seeds: {never:?}");
    }
}

#[test]
fn one_seed() {
    let seed = number("HOLDFAST_SIM_SEED");
    let outcome = run(seed.unwrap_or_default(), None);
    let text = report(seed.unwrap_or_default(), &outcome, usize::MAX);
    if seed.is_some() {
        println!("{text}");
    }
    assert!(outcome.violation.is_none(), "{text}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut hashes = Vec::new();
    for seed in 0..10 {
        let (one, other) = (run(seed, None), run(seed, None));
        assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
        assert_eq!(one.lines, other.lines, "seed {seed}");
        assert!(one.events > 1_000, "seed {seed} has only {} events", one.events);
        hashes.push(one.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 10, "seeds differ");
}

/// The first seed that finds a planted bug, and how.
fn find(bug: Bug) -> (u64, String) {
    (0..SEEDS_FOR_A_BUG)
        .find_map(|seed| Some((seed, run(seed, Some(bug)).violation?)))
        .unwrap_or_else(|| panic!("{bug:?} was not found in {SEEDS_FOR_A_BUG} seeds"))
}

#[test]
fn planted_bugs_are_found() {
    // A bug, and the violations that show that very one.
    let planted: [(Bug, &[&str]); 7] = [
        (Bug::JournalAfterSend, &["a Write, ran"]),
        (Bug::TakeOverRepeatsWrites, &["a Write, ran"]),
        (Bug::LeaseUnchecked, &["which was given up"]),
        (Bug::LifeUnchecked, &["which was given up"]),
        (Bug::WaitingForgotten, &["a Write, ran", "after its end was told"]),
        (Bug::TurnUnwritten, &["a Write, ran", "while its entry says that it waits"]),
        (Bug::GrantsWithoutQuorum, &["holds a lease", "which was given up"]),
    ];
    for (bug, shown_by) in planted {
        let (seed, violation) = find(bug);
        println!("{bug:?}: seed {seed}: {violation}");
        let shown = shown_by.iter().any(|it| violation.contains(it));
        assert!(shown, "{bug:?}: seed {seed}: {violation}");
    }
}
