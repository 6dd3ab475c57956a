//! A server that fails over, decided by three nodes: health, votes, the failover's machine and the
//! replicated state, put together as the gateway does it, in virtual time.
//!
//! Three instances (`a` is the primary) fail, recover and make errors; nodes crash, freeze, and are cut
//! off from each other and from instances; messages are lost; coordinators die or hand over; operators
//! interfere. Whatever happens, no session is served by two instances, nothing moves by one node's
//! view, steps come one after another from who leads, nothing goes back before its time, and once it is calm the primary is active again, or what an operator moved it to.
//!
//! ```text
//! cargo nextest run -p holdfast-tests --test sim servers           100 seeds
//! HOLDFAST_SIM_SEEDS=5000 … servers::seeds                         more of them
//! HOLDFAST_SIM_SEED=17 … servers::one_seed --no-capture            one, with its trace
//! ```
//!
//! | file | holds |
//! |---|---|
//! | [`world`] | time, network, instances, what goes wrong |
//! | [`group`] | the log, terms, elections |
//! | [`node`] | a node: looks, votes, calls, confirmations |
//! | [`coordinator`] | the leader: counts votes, takes the steps, carries orders out |
//! | [`checks`] | what must hold nevertheless |

mod checks;
mod coordinator;
mod group;
mod node;
mod world;

use std::collections::BTreeMap;

use holdfast_engine::failover::Phase;

use super::number;
use world::{Bug, Kill, Run, When, run};

/// Seeds in a normal run.
const SEEDS: u64 = 100;
/// Within so many seeds a planted bug is found.
const SEEDS_FOR_A_BUG: u64 = 60;

/// What has to have happened in some of the seeds.
const MUST_HAPPEN: [&str; 22] = [
    "switched",
    "failed over in a hurry",
    "failed over gradually",
    "failed over by hand",
    "failed back",
    "failed back by itself",
    "rolled back",
    "hurried in the middle",
    "no way",
    "coordinator died in a move",
    "coordinator handed over in a move",
    "proposals swallowed",
    "proposals repeated",
    "committed by the next leader",
    "steps that came too late",
    "stage ended by its limit",
    "calls held",
    "calls not begun without a lease",
    "nodes frozen",
    "nodes cut off",
    "nodes cut off from an instance",
    "confirmations",
];

fn report(seed: u64, run: &Run, lines: usize) -> String {
    let violation = run.violation.as_deref().unwrap_or("nothing was violated");
    let skipped = run.lines.len().saturating_sub(lines);
    format!("seed {seed}: {violation}\n{}", run.lines[skipped..].join("\n"))
}

#[test]
fn seeds() {
    let count = number("HOLDFAST_SIM_SEEDS").unwrap_or(SEEDS);
    let mut notes: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..count {
        let run = run(seed, None, None);
        assert!(run.violation.is_none(), "{}", report(seed, &run, 60));
        for (what, times) in run.notes {
            *notes.entry(what).or_default() += times;
        }
    }
    println!("{count} seeds: {notes:#?}");
    if count >= SEEDS {
        let never: Vec<_> = MUST_HAPPEN.iter().filter(|it| !notes.contains_key(*it)).collect();
        assert!(never.is_empty(), "never happened in {count} seeds: {never:?}");
    }
}

#[test]
fn one_seed() {
    let seed = number("HOLDFAST_SIM_SEED").unwrap_or_default();
    let run = run(seed, None, None);
    if number("HOLDFAST_SIM_SEED").is_some() {
        println!("{}", report(seed, &run, usize::MAX));
    }
    assert!(run.violation.is_none(), "{}", report(seed, &run, 60));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        let (one, other) = (run(seed, None, None), run(seed, None, None));
        assert_eq!(one.lines, other.lines, "seed {seed}");
        assert!(one.lines.len() > 20, "seed {seed}: {:?}", one.lines);
    }
}

#[test]
fn planted_bugs_are_found() {
    let planted: [(Bug, &[&str]); 11] = [
        (Bug::ConfirmationsAssumed, &["served by", "still run"]),
        (Bug::PauseShorterThanALease, &["served by"]),
        (Bug::LeaseUnchecked, &["served by"]),
        (Bug::HoldIgnored, &["served by", "still run"]),
        (Bug::OneVoteSuffices, &["by one node's view"]),
        (Bug::RampStartsOver, &["the share fell"]),
        (Bug::TermUnchecked, &["a step of term"]),
        (Bug::FollowsUnchecked, &["was made after"]),
        (Bug::DrainConfirmedEarly, &["still run"]),
        (Bug::FailbackBeforeItsDelay, &["before its delay"]),
        (Bug::FailbackBeforeItsChecks, &["good checks"]),
    ];
    for (bug, shown_by) in planted {
        let found = (0..SEEDS_FOR_A_BUG)
            .find_map(|seed| Some((seed, run(seed, Some(bug), None).violation?)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: seed {seed}: {violation}");
        let shown = shown_by.iter().any(|it| violation.contains(it));
        assert!(shown, "{bug:?}: seed {seed}: {violation}");
    }
}

/// A new coordinator that carries only its own orders out lets the check's time pass: the move is taken
/// back, which the test below would not let pass.
#[test]
fn a_coordinator_that_forgets_the_orders_of_the_last_one_is_found() {
    let kill = Kill { way: "by hand", stage: "check", when: When::BeforeOrders };
    let run = run(0, Some(Bug::OrdersForgotten), Some(kill));
    assert_eq!(run.notes.get("coordinator killed on purpose"), Some(&1));
    assert_eq!((run.end.active.as_str(), run.end.generation), ("a", 1), "{}", report(0, &run, 80));
}

/// The coordinator dies at each stage of each kind of move, before and after it carried the stage's
/// orders out: the next one finishes the same move, in the same generation.
#[test]
fn a_coordinator_that_dies_at_any_step_is_followed_by_one_that_goes_on() {
    // By hand and in a hurry from a to b, back from b to a, and to b when a is configured no more.
    let by_hand = ["pause", "drain", "check", "switch", "notify"];
    let hurry = ["pause", "check", "switch", "notify"];
    let back = ["check", "ramp", "pause", "drain", "switch", "notify"];
    let ways =
        [("by hand", &by_hand[..]), ("hurry", &hurry), ("back", &back), ("taken out", &hurry)];
    for (way, stages) in ways {
        for stage in stages {
            for when in [When::BeforeOrders, When::AfterOrders] {
                for seed in 0..5 {
                    let kill = Kill { way, stage, when };
                    let run = run(seed, None, Some(kill));
                    let text = report(seed, &run, 80);
                    assert!(run.violation.is_none(), "{kill:?} {text}");
                    assert_eq!(
                        run.notes.get("coordinator killed on purpose"),
                        Some(&1),
                        "{kill:?} {text}"
                    );
                    let end = if way == "back" { "a" } else { "b" };
                    assert_eq!(run.end.active, end, "{kill:?} {text}");
                    let rests = match way {
                        "back" | "taken out" => Phase::PrimaryActive,
                        _ => Phase::SecondaryActive,
                    };
                    assert_eq!(run.end.phase, rests, "{kill:?} {text}");
                    // One generation per move that was asked for: none was begun anew.
                    let moves = if way == "back" { 2 } else { 1 };
                    assert_eq!(run.end.generation, moves, "{kill:?} {text}");
                }
            }
        }
    }
}
