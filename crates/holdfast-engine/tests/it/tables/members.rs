//! Members of the group, and the leader's book of their leases.

use std::time::{Duration, Instant};

use holdfast_engine::lease::Granter;
use holdfast_engine::replicated::{
    Body, Command, ControlCommand, Machine, MemberState, Origin, Reply,
};

use super::table;

const TERM: u64 = 3;
const NODE: u64 = 7;

const STATES: [(Option<MemberState>, &str); 6] = [
    (None, "not known"),
    (Some(MemberState::Ready), "ready"),
    (Some(MemberState::Suspect), "suspect"),
    (Some(MemberState::Draining), "draining"),
    (Some(MemberState::Dead), "dead"),
    (Some(MemberState::Left), "left"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Joins,
    IsReplaced,
    Declared(MemberState),
    DeclaredInEarlierLife,
    DeclaredByFormer,
    Drains,
    Leaves,
    LeftInEarlierLife,
}

const EVENTS: [(Event, &str); 12] = [
    (Event::Joins, "it joins"),
    (Event::IsReplaced, "another incarnation joins under its name"),
    (Event::Declared(MemberState::Ready), "the coordinator: ready"),
    (Event::Declared(MemberState::Suspect), "the coordinator: suspect"),
    (Event::Declared(MemberState::Dead), "the coordinator: dead"),
    (Event::Declared(MemberState::Draining), "the coordinator: draining"),
    (Event::Declared(MemberState::Left), "the coordinator: left"),
    (Event::DeclaredInEarlierLife, "the coordinator: dead, of an earlier life"),
    (Event::DeclaredByFormer, "a coordinator of an earlier term: dead"),
    (Event::Drains, "it is drained"),
    (Event::Leaves, "it leaves"),
    (Event::LeftInEarlierLife, "it leaves, said in an earlier life"),
];

struct Bench {
    machine: Machine,
    index: u64,
}

impl Bench {
    fn apply(&mut self, origin: Origin, body: ControlCommand) -> Reply {
        self.index += 1;
        let body = Body::Control(body);
        let command = Command { origin, serial: self.index, settled_below: 0, now: 1_000, body };
        self.machine.apply(self.index, TERM, &command)
    }

    fn join(&mut self, node: u64) -> Reply {
        let join = ControlCommand::Join {
            node,
            name: "gateway-1".into(),
            peer: String::new(),
            client: String::new(),
            admin: String::new(),
            version: String::new(),
        };
        self.apply(Origin { node, generation: 0 }, join)
    }

    fn declare(&mut self, generation: u64, state: MemberState, term: u64) -> Reply {
        let reason = "silent".to_owned();
        let declare = ControlCommand::Declare { node: NODE, generation, state, term, reason };
        // Said by a node that is no member here: who decides is told by the term.
        self.apply(Origin { node: 1, generation: 1 }, declare)
    }

    fn leave(&mut self, generation: u64) -> Reply {
        self.apply(Origin { node: NODE, generation }, ControlCommand::Leave { node: NODE })
    }

    /// Its state, and in which life.
    fn name(&self) -> (String, u64) {
        let Some(member) = self.machine.control.members.get(&NODE) else {
            return ("not known".into(), 0);
        };
        let name = STATES.iter().find(|it| it.0 == Some(member.state)).expect("all of them").1;
        (name.into(), member.generation)
    }
}

/// In which life it is at first.
const LIFE: u64 = 2;

fn happens(state: Option<MemberState>, event: Event) -> String {
    let mut bench = Bench { machine: Machine::default(), index: 0 };
    if let Some(state) = state {
        (0..LIFE).for_each(|_| assert!(matches!(bench.join(NODE), Reply::Joined { .. })));
        match state {
            MemberState::Ready => {}
            MemberState::Suspect | MemberState::Dead => {
                bench.declare(LIFE, state, TERM);
            }
            MemberState::Draining => {
                let drain = ControlCommand::Drain { node: NODE, generation: LIFE };
                bench.apply(Origin { node: NODE, generation: LIFE }, drain);
            }
            MemberState::Left => {
                bench.leave(LIFE);
            }
        }
        assert_eq!(bench.machine.control.members[&NODE].state, state);
    }
    let (was, life) = bench.name();
    let reply = match event {
        Event::Joins => bench.join(NODE),
        Event::IsReplaced => bench.join(NODE + 1),
        Event::Declared(state) => bench.declare(LIFE, state, TERM),
        Event::DeclaredInEarlierLife => bench.declare(LIFE - 1, MemberState::Dead, TERM),
        Event::DeclaredByFormer => bench.declare(LIFE, MemberState::Dead, TERM - 1),
        Event::Drains => {
            let drain = ControlCommand::Drain { node: NODE, generation: LIFE };
            bench.apply(Origin { node: NODE, generation: LIFE }, drain)
        }
        Event::Leaves => bench.leave(LIFE),
        Event::LeftInEarlierLife => bench.leave(LIFE - 1),
    };
    let (now, in_life) = bench.name();
    let refused = match reply {
        Reply::Done { .. } | Reply::Joined { .. } => {
            let anew = if in_life > life { " in a new life" } else { "" };
            return format!("{now}{anew}");
        }
        Reply::Fenced { .. } => "fenced",
        Reply::Stale { .. } => "stale",
        Reply::Invalid(_) => "invalid",
        Reply::Unknown => "unknown",
        other => panic!("{other:?}"),
    };
    assert_eq!((now, in_life), (was, life), "what is refused changes nothing");
    format!("refused ({refused})")
}

#[test]
fn members() {
    table("Members", 0).check(&STATES, &EVENTS, happens);
}

/// How the leader's book has the member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Book {
    Unknown,
    /// Granted a moment ago.
    Granted,
    /// Silent for longer than the timeout, under a leader that has led for as long.
    Silent,
    /// The same under a leader that was elected a moment ago.
    New,
    Condemned,
}

const BOOKS: [(Book, &str); 5] = [
    (Book::Unknown, "not watched"),
    (Book::Granted, "granted"),
    (Book::Silent, "silent"),
    (Book::New, "silent, the leader is new"),
    (Book::Condemned, "condemned"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Asks,
    AsksInNewLife,
    AsksInEarlierLife,
    Counted,
    Dead,
    EarlierLifeDead,
    Refused,
    RefusedBefore,
    JoinedAgain,
    JoinSaidAgain,
    Left,
}

const ASKED: [(Asked, &str); 11] = [
    (Asked::Asks, "it asks"),
    (Asked::AsksInNewLife, "it asks in a new life"),
    (Asked::AsksInEarlierLife, "it asks in an earlier life"),
    (Asked::Counted, "the leader looks who is overdue"),
    (Asked::Dead, "the group declares it dead"),
    (Asked::EarlierLifeDead, "the group declares an earlier life dead"),
    (Asked::Refused, "its port refuses"),
    (Asked::RefusedBefore, "its port refused before it was heard of"),
    (Asked::JoinedAgain, "it joins again"),
    (Asked::JoinSaidAgain, "its join is proposed again"),
    (Asked::Left, "it leaves"),
];

const TIMEOUT: Duration = Duration::from_secs(1);

/// What the book says: whether it grants what is asked, else whether the member is condemned after it.
fn granted(book: Book, asked: Asked) -> String {
    let life = |generation| Origin { node: NODE, generation };
    let member = life(LIFE);
    let begun = Instant::now();
    let now = begun + TIMEOUT * 3;
    let elected = if book == Book::New { now - TIMEOUT / 10 } else { begun };
    let mut granter = Granter::new(elected, TIMEOUT);
    match book {
        Book::Unknown => {}
        Book::Granted => assert!(granter.grant(member, now - TIMEOUT / 10).is_some()),
        Book::Silent => assert!(granter.grant(member, begun + TIMEOUT).is_some()),
        Book::New => granter.watch(member, elected),
        Book::Condemned => granter.condemn(member),
    }
    let grants = |lease: Option<Duration>| {
        if lease == Some(TIMEOUT) { "granted".to_owned() } else { "refused".to_owned() }
    };
    match asked {
        Asked::Asks => return grants(granter.grant(member, now)),
        Asked::AsksInNewLife => return grants(granter.grant(life(LIFE + 1), now)),
        Asked::AsksInEarlierLife => return grants(granter.grant(life(LIFE - 1), now)),
        Asked::Counted => drop(granter.overdue(now)),
        Asked::Dead => granter.condemn(member),
        Asked::EarlierLifeDead => granter.condemn(life(LIFE - 1)),
        Asked::Refused => drop(granter.refused(member, now)),
        Asked::RefusedBefore => drop(granter.refused(member, begun)),
        Asked::JoinedAgain => granter.watch(life(LIFE + 1), now),
        Asked::JoinSaidAgain => granter.watch(member, now),
        Asked::Left => granter.forget(NODE),
    }
    let condemned: Vec<Origin> = granter.condemned().collect();
    match granter.heard(NODE) {
        _ if condemned.contains(&member) => "condemned".into(),
        _ if !condemned.is_empty() => "an earlier life is condemned".into(),
        None => "not watched".into(),
        Some(_) => "watched".into(),
    }
}

#[test]
fn leases() {
    table("Leases", 0).check(&BOOKS, &ASKED, granted);
}

#[test]
#[ignore = "prints the tables"]
fn print() {
    for (event, name) in EVENTS {
        println!("| {name} | {} |", STATES.map(|it| happens(it.0, event)).join(" | "));
    }
    println!();
    for (event, name) in ASKED {
        println!("| {name} | {} |", BOOKS.map(|it| granted(it.0, event)).join(" | "));
    }
}
