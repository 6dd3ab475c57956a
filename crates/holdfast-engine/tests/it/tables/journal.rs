//! What the second arrival of a call does, what becomes of a call whose owner is gone, and the last check
//! before it is sent.

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::class::CallClass;
use holdfast_engine::journal::{
    Arrival, Entry, NotSent, Orphan, Phase, SENT_WITHIN, arrival, awaited, may_send, orphan,
};
use holdfast_engine::replicated::Origin;

use super::table;

const OWNER: Origin = Origin { node: 7, generation: 2 };
const PRINCIPAL: u64 = 11;

/// What stands at the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Nothing,
    Foreign,
    Pending,
    PendingAlone,
    Streaming,
    StreamingAlone,
    Waiting,
    WaitingAlone,
    Complete,
    TooLarge,
    Failed,
    Unknown,
}

const FOUND: [(Found, &str); 12] = [
    (Found::Nothing, "no entry"),
    (Found::Foreign, "another principal's"),
    (Found::Pending, "pending"),
    (Found::PendingAlone, "pending, its owner is gone"),
    (Found::Streaming, "streaming"),
    (Found::StreamingAlone, "streaming, its owner is gone"),
    (Found::Waiting, "waiting"),
    (Found::WaitingAlone, "waiting, its owner is gone"),
    (Found::Complete, "complete"),
    (Found::TooLarge, "complete, its answer not kept"),
    (Found::Failed, "failed"),
    (Found::Unknown, "unknown"),
];

/// How the call is known to be the entry's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Balancer,
    BalancerOnce,
    Client,
    Waited,
}

const BY: [(By, &str); 4] = [
    (By::Balancer, "arrives by a balancer's id"),
    (By::BalancerOnce, "arrives by a balancer's id, the entry is by a client's"),
    (By::Client, "arrives by a client's id"),
    (By::Waited, "has waited for it"),
];

fn arrives(found: Found, by: By) -> String {
    let complete = |answer| Phase::Complete { answer, status: 200, is_stream: false };
    let streaming =
        Phase::Streaming { stream: 1, server_event: None, server_session: None, instance: 0 };
    let phase = match found {
        Found::Nothing | Found::Foreign | Found::Pending | Found::PendingAlone => Phase::Pending,
        Found::Streaming | Found::StreamingAlone => streaming,
        Found::Waiting | Found::WaitingAlone => Phase::Waiting,
        Found::Complete => complete(Some(Bytes::from_static(b"answer"))),
        Found::TooLarge => complete(None),
        Found::Failed => Phase::Failed,
        Found::Unknown => Phase::Unknown,
    };
    let entry = Entry {
        owner: OWNER,
        principal: if found == Found::Foreign { PRINCIPAL + 1 } else { PRINCIPAL },
        server: "docs".into(),
        class: CallClass::Write as u8,
        instance: 0,
        started: 0,
        by_balancer: by != By::BalancerOnce && by != By::Client,
        phase,
    };
    let entry = (found != Found::Nothing).then_some(&entry);
    let alone = [Found::PendingAlone, Found::StreamingAlone, Found::WaitingAlone];
    let lives = !alone.contains(&found);
    let does = match by {
        By::Waited => awaited(entry, PRINCIPAL, lives),
        By::Balancer | By::BalancerOnce => arrival(entry, PRINCIPAL, true, lives),
        By::Client => arrival(entry, PRINCIPAL, false, lives),
    };
    let word = match does {
        Arrival::Run => "run",
        Arrival::Wait => "wait",
        Arrival::Deliver { .. } => "deliver",
        Arrival::NotKept => "not kept",
        Arrival::TakeOver => "take over",
        Arrival::Unknown => "unknown",
        Arrival::Forbidden => "forbidden",
    };
    word.into()
}

#[test]
fn what_a_second_arrival_does() {
    table("Calls in the journal", 0).check(&BY, &FOUND, |by, found| arrives(found, by));
}

const CLASSES: [(CallClass, &str); 4] = [
    (CallClass::Lifecycle, "lifecycle"),
    (CallClass::Read, "read"),
    (CallClass::Idempotent, "idempotent"),
    (CallClass::Write, "write"),
];

/// Whether its stream is resumable, and whether its client waits.
const LEFT: [((bool, bool), &str); 4] = [
    ((true, true), "its stream is resumable, its client waits"),
    ((true, false), "its stream is resumable, nobody waits"),
    ((false, true), "its client waits"),
    ((false, false), "nobody waits"),
];

fn left(class: CallClass, (resumable, waits): (bool, bool)) -> String {
    let word = match orphan(class, resumable, waits) {
        Orphan::Resume => "resume",
        Orphan::Repeat => "repeat",
        Orphan::OutcomeUnknown => "outcome unknown",
    };
    word.into()
}

#[test]
fn what_becomes_of_a_call_that_was_taken_over() {
    table("Calls in the journal", 1).check(&CLASSES, &LEFT, left);
}

const LEASES: [(bool, &str); 2] = [(true, "with a lease"), (false, "without a lease")];

const OLDER: Origin = Origin { node: 7, generation: 1 };
const OTHER: Origin = Origin { node: 8, generation: 2 };
const JUST_IN_TIME: Duration = SENT_WITHIN.saturating_sub(Duration::from_millis(1));

const ENTRIES: [((Origin, Duration), &str); 5] = [
    ((OWNER, Duration::ZERO), "its own entry"),
    ((OWNER, JUST_IN_TIME), "its own, begun 119.999 s ago"),
    ((OWNER, SENT_WITHIN), "its own, begun 120 s ago"),
    ((OLDER, Duration::ZERO), "of its earlier life"),
    ((OTHER, Duration::ZERO), "another node's"),
];

fn sends(lease: bool, (entry, age): (Origin, Duration)) -> String {
    let word = match may_send(entry, OWNER, lease, age) {
        Ok(()) => "send",
        Err(NotSent::NoLease) => "no lease",
        Err(NotSent::OtherLife) => "other life",
        Err(NotSent::TooOld) => "too old",
    };
    word.into()
}

#[test]
fn the_last_check_before_it_is_sent() {
    table("Calls in the journal", 2).check(&LEASES, &ENTRIES, sends);
}

#[test]
#[ignore = "prints the tables"]
fn print() {
    for (found, name) in FOUND {
        println!("| {name} | {} |", BY.map(|it| arrives(found, it.0)).join(" | "));
    }
    for (state, name) in LEFT {
        println!("| {name} | {} |", CLASSES.map(|it| left(it.0, state)).join(" | "));
    }
    for (entry, name) in ENTRIES {
        println!("| {name} | {} |", LEASES.map(|it| sends(it.0, entry)).join(" | "));
    }
}
