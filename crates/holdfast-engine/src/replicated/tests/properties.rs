//! What holds whatever is in the log.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::failover::{End, Failover, Manner, Move, Phase, Stage};
use crate::health::votes::{Cause, Opinion};

fn origins() -> impl Strategy<Value = Origin> {
    (1..4_u64, 0..4_u64).prop_map(|(node, generation)| Origin { node, generation })
}

fn expects() -> impl Strategy<Value = Expect> {
    prop_oneof![
        Just(Expect::Any),
        Just(Expect::Absent),
        (0..60_u64).prop_map(Expect::Revision),
        Just(Expect::Revision(u64::MAX)),
    ]
}

fn keys() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        20 => (0..3_u8, any::<bool>()).prop_map(|(at, session)| {
            Bytes::from(format!("{}{at}", if session { "s/" } else { "j/" }))
        }),
        1 => Just(Bytes::from(vec![0; MAX_KEY + 1])),
        1 => Just(Bytes::new()),
    ]
}

fn deadlines() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..200_u64, 1 => Just(u64::MAX)]
}

fn singles() -> impl Strategy<Value = KvCommand> {
    let value = prop_oneof![
        20 => vec(any::<u8>(), 0..4).prop_map(Bytes::from),
        1 => Just(Bytes::from(vec![0; MAX_VALUE + 1])),
    ];
    prop_oneof![
        4 => (keys(), value, expects(), proptest::option::of(deadlines())).prop_map(
            |(key, value, expect, deadline)| KvCommand::Put { key, value, expect, deadline }
        ),
        2 => (keys(), expects()).prop_map(|(key, expect)| KvCommand::Delete { key, expect }),
        1 => (keys(), deadlines()).prop_map(|(key, deadline)| KvCommand::Touch { key, deadline }),
    ]
}

fn kv_commands() -> impl Strategy<Value = KvCommand> {
    prop_oneof![
        6 => singles(),
        1 => vec(singles(), 0..4).prop_map(KvCommand::Batch),
        1 => (0..5_u32).prop_map(|limit| KvCommand::Expire { limit }),
    ]
}

fn control_commands() -> impl Strategy<Value = ControlCommand> {
    use MemberState::*;
    let states = prop_oneof![Just(Ready), Just(Draining), Just(Suspect), Just(Dead), Just(Left)];
    prop_oneof![
        3 => (1..4_u64, 1..3_u64).prop_map(|(node, name_of)| join(node, &name(name_of))),
        3 => (1..4_u64, 0..4_u64, states, 0..2_u64).prop_map(|(node, generation, state, term)| {
            ControlCommand::Declare { node, generation, state, term, reason: "r".into() }
        }),
        1 => (1..4_u64, 0..4_u64)
            .prop_map(|(node, generation)| ControlCommand::Drain { node, generation }),
        1 => (1..4_u64).prop_map(|node| ControlCommand::Leave { node }),
        1 => (0..3_u64, 0..2_u64).prop_map(|(run_id, term)| ControlCommand::AdoptStore {
            run_id: "r".repeat(run_id as usize),
            address: "127.0.0.1:6379".into(),
            term,
        }),
        6 => server_commands().prop_map(ControlCommand::Server),
    ]
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => (0..3_usize).prop_map(|it| ["a", "b", "c"][it].to_owned()),
        1 => Just(String::new()),
        1 => Just("n".repeat(MAX_TEXT + 1)),
    ]
}

fn failovers() -> impl Strategy<Value = Failover> {
    let stage = prop_oneof![
        Just(Stage::Pause),
        (0..=100_u8).prop_map(|percent| Stage::Ramp { percent }),
        Just(Stage::Switch),
        Just(Stage::Switch),
        Just(Stage::Notify { end: End::Switched }),
    ];
    let moves = (names(), names(), stage, any::<bool>());
    (0..4_u64, 0..4_u32, names(), proptest::option::of(moves)).prop_map(
        |(generation, step, active, moves)| {
            let phase = moves.map_or(Phase::SecondaryActive, |(from, to, stage, back)| {
                let cause = "c".to_owned();
                let manner = Manner::Manual;
                let it = Move { from, to, manner, stage, began: 1, checked: false, cause };
                if back { Phase::FailingBack(it) } else { Phase::FailingOver(it) }
            });
            Failover { generation, step, active, phase, ..Failover::new("a") }
        },
    )
}

fn server_commands() -> impl Strategy<Value = ServerCommand> {
    let term = || 0..2_u64;
    let opinion =
        (0..3_usize).prop_map(|it| [Opinion::Healthy, Opinion::Degraded, Opinion::Unhealthy][it]);
    let kind = proptest::option::of(prop_oneof![
        Just(OverrideKind::Opened),
        Just(OverrideKind::ForcedOpen),
        Just(OverrideKind::ForcedClosed),
    ]);
    let define = (names(), vec(names(), 0..4), term()).prop_map(|(primary, instances, term)| {
        ServerCommand::Define { server: "db".into(), primary, instances, term }
    });
    let judge =
        (names(), opinion, any::<u8>(), term()).prop_map(|(instance, opinion, score, term)| {
            ServerCommand::Verdict {
                server: "db".into(),
                instance,
                opinion,
                cause: Cause::Score,
                score,
                evidence_since: 0,
                why: String::new(),
                term,
            }
        });
    let failover = ((0..4_u64, 0..4_u32), failovers(), term()).prop_map(|(follows, next, term)| {
        ServerCommand::Failover {
            server: "db".into(),
            follows,
            next: Box::new(next),
            evidence: String::new(),
            term,
        }
    });
    let breaker = (names(), kind, proptest::option::of(0..4_u64), proptest::option::of(term()))
        .prop_map(|(instance, kind, generation, term)| ServerCommand::Breaker {
            server: "db".into(),
            instance,
            kind,
            generation,
            until: generation.map(|it| it * 50),
            by: "ops".into(),
            why: String::new(),
            term,
        });
    let configure = (names(), 0..4_u64).prop_map(|(id, follows)| ServerCommand::Configure {
        id,
        by: "ops".into(),
        follows,
        rolls_back_to: None,
    });
    let about = (proptest::option::of(0..60_u64), any::<bool>(), term()).prop_map(
        |(outage, ends, term)| ServerCommand::Remark {
            server: "db".into(),
            instance: String::new(),
            what: if ends {
                ServerHappened::Answered { lost: None }
            } else {
                ServerHappened::Noted
            },
            evidence: String::new(),
            outage,
            term,
        },
    );
    let lose = (0..60_u64, any::<(u32, u64, u32)>()).prop_map(|(outage, it)| ServerCommand::Lose {
        server: "db".into(),
        outage,
        unknown: it.0,
        oldest: it.1,
        moved: it.2,
    });
    let held = proptest::option::of(prop_oneof![
        Just(OverrideKind::ForcedOpen),
        Just(OverrideKind::ForcedClosed),
    ]);
    let tool = (names(), held).prop_map(|(tool, kind)| ServerCommand::Tool {
        server: "db".into(),
        tool,
        kind,
        by: "ops".into(),
    });
    let opened = (names(), any::<u64>(), term()).prop_map(|(tool, until, term)| {
        let (server, by, why) = ("db".into(), "n1".into(), String::new());
        ServerCommand::OpenTool { server, tool, until, by, why, term }
    });
    prop_oneof![
        1 => about,
        1 => opened,
        1 => lose,
        1 => tool,
        2 => define,
        2 => judge,
        8 => failover,
        2 => breaker,
        1 => configure,
        1 => term().prop_map(|term| ServerCommand::Retire { server: "db".into(), term }),
    ]
}

fn commands() -> impl Strategy<Value = Command> {
    let bodies = prop_oneof![
        1 => control_commands().prop_map(Body::Control),
        4 => kv_commands().prop_map(Body::Kv),
    ];
    let settled = prop_oneof![9 => Just(0), 1 => 0..40_u64, 1 => Just(u64::MAX)];
    let now = prop_oneof![9 => 0..200_u64, 1 => Just(u64::MAX)];
    (origins(), 0..40_u64, settled, now, bodies).prop_map(
        |(origin, serial, settled_below, now, body)| Command {
            origin,
            serial,
            settled_below,
            now,
            body,
        },
    )
}

/// Logs: entries and their terms, after two joins, so that not everything is refused.
fn logs() -> impl Strategy<Value = Vec<(u64, Command)>> {
    vec((0..2_u64, commands()), 0..60).prop_map(|mut log| {
        for node in [2, 1] {
            let body = Body::Control(join(node, &name(node)));
            let origin = Origin { node, generation: 0 };
            log.insert(0, (0, Command { origin, serial: 0, settled_below: 0, now: 0, body }));
        }
        log
    })
}

proptest! {
    #[test]
    fn apply_is_deterministic_and_a_snapshot_is_the_state(log in logs(), cut in 0..60_usize) {
        let (mut one, mut other) = (Machine::default(), Machine::default());
        for (at, (term, command)) in log.iter().enumerate() {
            let index = at as u64 + 1;
            if at == cut {
                let again = Machine::restore(&other.snapshot()).unwrap();
                prop_assert_eq!(&again, &other);
                prop_assert_eq!(again.snapshot(), one.snapshot());
                other = again;
            }
            prop_assert_eq!(one.apply(index, *term, command), other.apply(index, *term, command));
            one.kv.audit();
        }
        prop_assert_eq!(one, other);
    }

    #[test]
    fn commands_survive_their_encoding(command in commands()) {
        let bytes = postcard::to_stdvec(&command).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Command>(&bytes).unwrap(), command);
    }

    #[test]
    fn bytes_that_are_no_snapshot_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Machine::restore(&[&[SNAPSHOT_FORMAT], &bytes[..]].concat());
    }

    /// Against the simplest map that could be right.
    #[test]
    fn expectations_and_revisions(log in vec((singles(), 0..10_u64), 0..60)) {
        let mut machine = Bench::new().machine;
        let mut model: BTreeMap<Bytes, KvEntry> = BTreeMap::new();
        let mut now = machine.control.time;
        let mut last_revision = BTreeMap::new();
        for (at, (body, step)) in log.iter().enumerate() {
            now += step;
            let index = 100 + at as u64;
            let body = move_deadline(body.clone(), 1_000);
            let reply = machine.apply(index, 0, &Command {
                origin: A, serial: index, settled_below: index, now, body: Body::Kv(body.clone()),
            });
            let key = body.keys().next().unwrap().clone();
            let stored = model.get(&key).cloned();
            let found = stored.clone().filter(|it| it.deadline.is_none_or(|it| it > now));
            let holds = |expect: &Expect, found: &Option<KvEntry>| match expect {
                Expect::Any => true,
                Expect::Absent => found.is_none(),
                Expect::Revision(it) => found.as_ref().is_some_and(|found| found.revision == *it),
            };
            let valid = !key.is_empty() && key.len() <= MAX_KEY;
            let expected = match body {
                _ if !valid => Reply::Invalid(Invalid::Key),
                KvCommand::Put { value, .. } if value.len() > MAX_VALUE => {
                    Reply::Invalid(Invalid::Value)
                }
                KvCommand::Put { value, expect, deadline, .. } if holds(&expect, &found) => {
                    model.insert(key.clone(), KvEntry { value, revision: index, deadline });
                    Reply::Done { revision: index }
                }
                KvCommand::Delete { expect: expect @ Expect::Revision(_), .. }
                    if holds(&expect, &stored) =>
                {
                    model.remove(&key);
                    Reply::Done { revision: index }
                }
                KvCommand::Delete { expect: expect @ (Expect::Any | Expect::Absent), .. }
                    if holds(&expect, &found) =>
                {
                    model.remove(&key);
                    Reply::Done { revision: index }
                }
                KvCommand::Touch { deadline, .. } if found.is_some() => {
                    let entry = model.get_mut(&key).unwrap();
                    entry.deadline = entry.deadline.map(|it| it.max(deadline));
                    Reply::Done { revision: entry.revision }
                }
                _ => Reply::Mismatch { found },
            };
            prop_assert_eq!(&reply, &expected);
            prop_assert_eq!(machine.kv.entries(), &model);
            if let Some(entry) = machine.kv.get_even_past(&key) {
                let last = last_revision.insert(key.clone(), entry.revision).unwrap_or_default();
                prop_assert!(entry.revision >= last, "{} after {}", entry.revision, last);
            }
        }
    }

    /// The same log with any of its entries proposed once more, any time later: the same state, but
    /// for what tells that the log is longer.
    #[test]
    fn a_proposal_repeated_has_no_second_effect(
        log in vec(kv_commands(), 1..30),
        again in vec((0..30_usize, 0..30_usize), 0..10),
    ) {
        let command = |at: usize| Command {
            origin: A, serial: at as u64, settled_below: 0, now: 1_000, body: Body::Kv(log[at].clone()),
        };
        let mut entries: Vec<(usize, u64)> = Vec::new();
        for at in 0..log.len() {
            entries.push((at, 100 * (at as u64 + 1)));
        }
        let mut once = Bench::new().machine;
        let replies: Vec<Reply> =
            entries.iter().map(|(at, index)| once.apply(*index, 0, &command(*at))).collect();
        let mut twice = Bench::new().machine;
        for (at, index) in &entries {
            prop_assert_eq!(&twice.apply(*index, 0, &command(*at)), &replies[*at]);
            for (offset, (_, old)) in again.iter().filter(|(after, _)| after == at).enumerate() {
                let old = old % (at + 1);
                let index = index + 1 + offset as u64;
                prop_assert_eq!(&twice.apply(index, 0, &command(old)), &replies[old]);
            }
        }
        prop_assert_eq!(once.kv, twice.kv);
    }

    /// Nothing that an origin writes is done once its member is dead, gone, or in another life.
    #[test]
    fn only_the_living_write(log in logs()) {
        let mut machine = Machine::default();
        for (at, (term, command)) in log.iter().enumerate() {
            let current = machine.control.is_current(command.origin);
            let (before, members) = (machine.kv.clone(), machine.control.members.clone());
            let reply = machine.apply(at as u64 + 1, *term, command);
            match &command.body {
                Body::Kv(_) if !current => prop_assert_eq!(&machine.kv, &before),
                Body::Kv(_) => {}
                Body::Control(body) => {
                    prop_assert_eq!(&machine.kv, &before);
                    if let ControlCommand::Declare { term: decided, .. } = body
                        && decided != term
                    {
                        prop_assert_eq!(&machine.control.members, &members, "{:?}", reply);
                    }
                }
            }
            for (node, member) in members {
                let now = machine.control.members.get(&node).map(|it| it.generation);
                prop_assert!(now >= Some(member.generation), "a generation fell");
            }
        }
    }
}

/// A server, and steps of its failover: from where it is, or from anywhere.
fn step_logs() -> impl Strategy<Value = Vec<(bool, (u64, u32), Failover)>> {
    vec((any::<bool>(), (0..4_u64, 0..4_u32), failovers()), 1..80)
}

proptest! {
    /// Whatever coordinators propose: the active instance changes once per generation at most, and
    /// only to where the move goes; generation and step only rise.
    #[test]
    fn one_switch_per_generation(log in step_logs()) {
        let mut bench = Bench::new();
        revision(&bench.control(A, ControlCommand::Server(ServerCommand::Define {
            server: "db".into(),
            primary: "a".into(),
            instances: vec!["a".into(), "b".into(), "c".into()],
            term: 5,
        })));
        let present = |bench: &Bench| bench.machine.control.servers.by_name["db"].failover.clone();
        let mut switched = BTreeMap::<u64, u32>::new();
        for (fits, follows, mut next) in log {
            let before = present(&bench);
            let follows = if fits { (before.generation, before.step) } else { follows };
            if fits && next.generation != before.generation + 1 {
                (next.generation, next.step) = (before.generation, before.step + 1);
            }
            let command = ServerCommand::Failover {
                server: "db".into(),
                follows,
                next: Box::new(next),
                evidence: String::new(),
                term: 5,
            };
            bench.control(A, ControlCommand::Server(command));
            let after = present(&bench);
            let place = |it: &Failover| (it.generation, it.step);
            prop_assert!(place(&after) >= place(&before));
            if after.active != before.active {
                *switched.entry(after.generation).or_default() += 1;
                prop_assert_eq!(after.generation, before.generation);
                prop_assert_eq!(after.moving().map(|it| &it.to), Some(&after.active));
            }
        }
        prop_assert!(switched.values().all(|it| *it == 1), "{:?}", switched);
    }
}

/// Deadlines near the clock of [`Bench`].
fn move_deadline(command: KvCommand, by: u64) -> KvCommand {
    match command {
        KvCommand::Put { key, value, expect, deadline } => KvCommand::Put {
            key,
            value,
            expect,
            deadline: deadline.map(|it| it.saturating_add(by)),
        },
        KvCommand::Touch { key, deadline } => {
            KvCommand::Touch { key, deadline: deadline.saturating_add(by) }
        }
        other => other,
    }
}
