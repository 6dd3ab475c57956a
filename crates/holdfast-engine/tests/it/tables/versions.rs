//! How a node follows the versions that the group agrees on.

use std::time::{Duration, Instant};

use holdfast_engine::configuration::follow::{Follow, Next, PAUSE};
use holdfast_engine::replicated::Configuration;

use super::table;

/// What the node runs, and what it could not take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File,
    That,
    Earlier,
    FailedNow,
    FailedBefore,
    FailedEarlier,
}

const NODES: [(Node, &str); 6] = [
    (Node::File, "runs its file"),
    (Node::That, "runs that version"),
    (Node::Earlier, "runs an earlier one"),
    (Node::FailedNow, "could not take it over"),
    (Node::FailedBefore, "could not, the pause is past"),
    (Node::FailedEarlier, "could not take an earlier one over"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    NothingHolds,
    Looks,
    Changed,
    Newer,
    Took,
    FailsAgain,
}

const EVENTS: [(Event, &str); 6] = [
    (Event::NothingHolds, "nothing was agreed on"),
    (Event::Looks, "it looks"),
    (Event::Changed, "something here has changed"),
    (Event::Newer, "a newer version was agreed on"),
    (Event::Took, "it takes the version over"),
    (Event::FailsAgain, "it fails to, as before"),
];

const THAT: u64 = 5;

fn next(node: Node, event: Event) -> String {
    let begun = Instant::now();
    let now = begun + PAUSE + Duration::from_secs(1);
    let mut follow = Follow::default();
    match node {
        Node::File => {}
        Node::That => follow.took(THAT),
        Node::Earlier => follow.took(THAT - 1),
        Node::FailedNow => drop(follow.failed_to(THAT, "no TOKEN", now)),
        Node::FailedBefore => drop(follow.failed_to(THAT, "no TOKEN", begun)),
        Node::FailedEarlier => drop(follow.failed_to(THAT - 1, "no TOKEN", now)),
    }
    let holds = |version| Configuration {
        version,
        id: format!("{version:064}"),
        by: "gateway-1".into(),
        at: 0,
        rolls_back_to: None,
    };
    let mut held = Some(holds(THAT));
    let mut told = "";
    match event {
        Event::NothingHolds => held = None,
        Event::Looks => {}
        Event::Changed => follow.changed(now),
        Event::Newer => held = Some(holds(THAT + 1)),
        Event::Took => follow.took(THAT),
        Event::FailsAgain => {
            told = if follow.failed_to(THAT, "no TOKEN", now) { " and say so" } else { "" };
        }
    }
    match follow.next(held.as_ref(), now) {
        Next::Rest => "rest".into(),
        Next::Take(THAT) => "take it".into(),
        Next::Take(_) => "take the newer".into(),
        Next::Wait(at) => {
            assert_eq!(at, now + PAUSE);
            format!("wait{told}")
        }
    }
}

#[test]
fn versions() {
    table("Versions of the configuration", 0).check(&NODES, &EVENTS, next);
}

#[test]
#[ignore = "prints the table"]
fn print() {
    for (event, name) in EVENTS {
        println!("| {name} | {} |", NODES.map(|it| next(it.0, event)).join(" | "));
    }
}
