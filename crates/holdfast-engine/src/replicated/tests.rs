//! Stories of `apply`; properties that hold for any log are in [`properties`], those of breakers that are kept in
//! [`kept`].

mod kept;
mod properties;
mod servers;

use super::*;

const A: Origin = Origin { node: 1, generation: 1 };
const B: Origin = Origin { node: 2, generation: 1 };

/// A machine, and the counters that a proposer and the log keep.
#[derive(Default)]
struct Bench {
    machine: Machine,
    index: u64,
    serial: u64,
    now: u64,
}

impl Bench {
    /// Two members, 1 and 2.
    fn new() -> Self {
        let mut bench = Self { serial: 100, now: 1_000, ..Self::default() };
        for node in [1, 2] {
            let reply = bench.control(Origin { node, generation: 0 }, join(node, &name(node)));
            assert_eq!(reply, Reply::Joined { generation: 1 });
        }
        bench
    }

    fn command(&mut self, origin: Origin, body: Body) -> Command {
        self.serial += 1;
        Command { origin, serial: self.serial, settled_below: 0, now: self.now, body }
    }

    fn apply(&mut self, command: &Command) -> Reply {
        self.index += 1;
        self.machine.apply(self.index, 5, command)
    }

    fn kv(&mut self, origin: Origin, body: KvCommand) -> Reply {
        let command = self.command(origin, Body::Kv(body));
        self.apply(&command)
    }

    fn control(&mut self, origin: Origin, body: ControlCommand) -> Reply {
        let command = self.command(origin, Body::Control(body));
        self.apply(&command)
    }

    fn state(&self, node: NodeId) -> MemberState {
        self.machine.control.members[&node].state
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        self.machine.kv.get(key.as_bytes(), self.now).map(|entry| entry.value.as_ref())
    }
}

fn name(node: NodeId) -> String {
    format!("gateway-{node}")
}

fn join(node: NodeId, name: &str) -> ControlCommand {
    ControlCommand::Join {
        node,
        name: name.to_owned(),
        peer: "127.0.0.1:1".into(),
        client: "127.0.0.1:2".into(),
        admin: "127.0.0.1:3".into(),
        version: "0.1.0".into(),
    }
}

fn declare(node: NodeId, generation: u64, state: MemberState) -> ControlCommand {
    ControlCommand::Declare { node, generation, state, term: 5, reason: "why".into() }
}

fn put(key: &str, value: &str, expect: Expect, deadline: Option<u64>) -> KvCommand {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    KvCommand::Put { key, value, expect, deadline }
}

fn revision(reply: &Reply) -> u64 {
    match reply {
        Reply::Done { revision } => *revision,
        other => panic!("not done: {other:?}"),
    }
}

fn is_mismatch(reply: &Reply, value: Option<&str>) -> bool {
    match reply {
        Reply::Mismatch { found } => {
            found.as_ref().map(|it| it.value.as_ref()) == value.map(str::as_bytes)
        }
        _ => false,
    }
}

// === The store ===

#[test]
fn each_redis_server_that_is_adopted_is_an_epoch_of_its_own() {
    let mut bench = Bench::new();
    let adopt = |run_id: &str, term| ControlCommand::AdoptStore {
        run_id: run_id.into(),
        address: "127.0.0.1:6379".into(),
        term,
    };
    let epoch = |bench: &Bench| {
        bench.machine.control.store.as_ref().map(|it| (it.epoch, it.run_id.clone()))
    };
    revision(&bench.control(A, adopt("one", 5)));
    assert_eq!(epoch(&bench), Some((1, "one".into())));
    // Said again, as a coordinator does that did not hear the reply.
    revision(&bench.control(A, adopt("one", 5)));
    assert_eq!(epoch(&bench), Some((1, "one".into())));
    revision(&bench.control(B, adopt("two", 5)));
    assert_eq!(epoch(&bench), Some((2, "two".into())));
    // A coordinator that is none any more changes nothing, and neither does what names no server.
    assert_eq!(bench.control(A, adopt("one", 4)), Reply::Stale { term: 5 });
    assert_eq!(bench.control(A, adopt("", 5)), Reply::Invalid(Invalid::Text));
    let long = "r".repeat(MAX_TEXT + 1);
    assert_eq!(bench.control(A, adopt(&long, 5)), Reply::Invalid(Invalid::Text));
    assert_eq!(epoch(&bench), Some((2, "two".into())));
}

// === Members ===

#[test]
fn every_cell_of_the_table_of_members() {
    use MemberState::*;
    type Input = fn(u64) -> ControlCommand;
    let inputs: [(&str, Input); 6] = [
        ("join", |_| join(2, "gateway-2")),
        ("suspect", |generation| declare(2, generation, Suspect)),
        ("ready", |generation| declare(2, generation, Ready)),
        ("dead", |generation| declare(2, generation, Dead)),
        ("drain", |generation| ControlCommand::Drain { node: 2, generation }),
        ("leave", |_| ControlCommand::Leave { node: 2 }),
    ];
    // Where a member gets by each input; none: fenced.
    let table = [
        (Ready, [Some(Ready), Some(Suspect), Some(Ready), Some(Dead), Some(Draining), Some(Left)]),
        (
            Suspect,
            [Some(Ready), Some(Suspect), Some(Ready), Some(Dead), Some(Draining), Some(Left)],
        ),
        (
            Draining,
            [Some(Ready), Some(Draining), Some(Draining), Some(Dead), Some(Draining), Some(Left)],
        ),
        (Dead, [Some(Ready), None, None, Some(Dead), None, Some(Left)]),
        (Left, [Some(Ready), None, None, None, None, Some(Left)]),
    ];
    for (from, row) in table {
        for ((what, input), expected) in inputs.iter().zip(row) {
            let mut bench = Bench::new();
            let reached = match from {
                Ready => Reply::Done { revision: 0 },
                Draining => bench.control(A, ControlCommand::Drain { node: 2, generation: 1 }),
                Left => bench.control(A, ControlCommand::Leave { node: 2 }),
                declared => bench.control(A, declare(2, 1, declared)),
            };
            assert!(matches!(reached, Reply::Done { .. }));
            assert_eq!(bench.state(2), from);
            let reply = bench.control(A, input(1));
            match (expected, *what) {
                (None, _) => assert_eq!(reply, Reply::Fenced { generation: Some(1) }),
                (Some(_), "join") => assert_eq!(reply, Reply::Joined { generation: 2 }),
                (Some(_), _) => assert!(matches!(reply, Reply::Done { .. })),
            }
            assert_eq!(bench.state(2), expected.unwrap_or(from), "{from:?} {what}");
        }
    }
}

#[test]
fn a_decision_about_another_life_or_of_another_term_is_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.control(A, join(2, "gateway-2")), Reply::Joined { generation: 2 });
    let fenced = Reply::Fenced { generation: Some(2) };
    assert_eq!(bench.control(A, declare(2, 1, MemberState::Dead)), fenced);
    assert_eq!(bench.control(A, ControlCommand::Drain { node: 2, generation: 1 }), fenced);
    assert_eq!(bench.control(B, ControlCommand::Leave { node: 2 }), fenced);
    let late = ControlCommand::Declare {
        node: 2,
        generation: 2,
        state: MemberState::Dead,
        term: 4,
        reason: String::new(),
    };
    assert_eq!(bench.control(A, late), Reply::Stale { term: 5 });
    assert_eq!(bench.control(A, declare(9, 1, MemberState::Dead)), Reply::Unknown);
    let odd = bench.control(A, declare(2, 2, MemberState::Left));
    assert_eq!(odd, Reply::Invalid(Invalid::State));
    assert_eq!(bench.state(2), MemberState::Ready);
}

#[test]
fn a_new_incarnation_replaces_the_old_one_which_cannot_come_back() {
    let mut bench = Bench::new();
    let fresh = Origin { node: 22, generation: 0 };
    assert_eq!(bench.control(fresh, join(22, "gateway-2")), Reply::Joined { generation: 1 });
    assert_eq!(bench.state(2), MemberState::Left);
    let old = bench.kv(B, put("k", "late", Expect::Any, None));
    assert_eq!(old, Reply::Fenced { generation: Some(1) });
    assert_eq!(bench.control(B, join(2, "gateway-2")), Reply::Fenced { generation: None });
    assert_eq!(bench.machine.control.by_name("gateway-2").map(|(node, _)| node), Some(22));
    // Once the new one has left, the old one may.
    bench.control(A, ControlCommand::Leave { node: 22 });
    assert_eq!(bench.control(B, join(2, "gateway-2")), Reply::Joined { generation: 2 });
    assert_eq!(bench.machine.control.by_name("gateway-2").map(|(node, _)| node), Some(2));
    // A member that is there cannot take another's name.
    assert_eq!(bench.control(A, join(1, "gateway-2")), Reply::Fenced { generation: None });
}

#[test]
fn who_may_act_and_who_may_still_run() {
    let mut bench = Bench::new();
    let next = Origin { generation: 2, ..B };
    let state = &bench.machine.control;
    assert!(state.is_current(B) && state.may_run(B));
    assert!(!state.is_current(next) && state.may_run(next), "this state lags behind");
    assert!(state.may_run(Origin { node: 9, generation: 1 }), "its join is not here yet");
    bench.control(A, declare(2, 1, MemberState::Suspect));
    assert!(bench.machine.control.is_current(B));
    bench.control(A, declare(2, 1, MemberState::Dead));
    let state = &bench.machine.control;
    assert!(!state.is_current(B) && !state.may_run(B));
    bench.control(A, join(2, "gateway-2"));
    let state = &bench.machine.control;
    assert!(!state.may_run(B) && state.may_run(next) && state.is_current(next));
}

#[test]
fn members_incidents_and_texts_are_bounded() {
    let mut bench = Bench::default();
    let long = "x".repeat(MAX_TEXT + 1);
    assert_eq!(bench.control(A, join(1, &long)), Reply::Invalid(Invalid::Text));
    assert_eq!(bench.control(A, join(1, "")), Reply::Invalid(Invalid::Text));
    for node in 0..MAX_MEMBERS as u64 {
        let reply = bench.control(A, join(node, &name(node)));
        assert_eq!(reply, Reply::Joined { generation: 1 });
    }
    assert_eq!(bench.control(A, join(999, "one-more")), Reply::Invalid(Invalid::Members));
    // A full cluster can still be repaired.
    assert_eq!(bench.control(A, join(999, &name(7))), Reply::Joined { generation: 1 });
    assert_eq!(bench.control(A, join(3, &name(3))), Reply::Joined { generation: 2 });
    for node in 1000..1200 {
        bench.now += 1;
        assert_eq!(bench.control(A, join(node, &name(5))), Reply::Joined { generation: 1 });
    }
    assert_eq!(bench.machine.control.members.len(), MAX_MEMBERS + MAX_LEFT);
    assert_eq!(bench.machine.windows.len(), MAX_MEMBERS + MAX_LEFT);
    assert_eq!(bench.machine.control.incidents.len(), MAX_INCIDENTS);
    let reason = format!("{}\u{e9}\u{e9}", "x".repeat(MAX_TEXT - 1));
    let command = ControlCommand::Declare {
        node: 1,
        generation: 1,
        state: MemberState::Dead,
        term: 5,
        reason,
    };
    bench.control(A, command);
    let last = bench.machine.control.incidents.back().unwrap();
    assert_eq!((last.what, last.reason.len()), (Happened::Died, MAX_TEXT - 1));
}

#[test]
fn changed_stands_still_while_only_values_change() {
    let mut bench = Bench::new();
    let changed = bench.machine.control.changed;
    bench.kv(A, put("k", "v", Expect::Any, None));
    bench.control(A, declare(2, 1, MemberState::Ready));
    assert_eq!(bench.machine.control.changed, changed);
    assert_eq!(bench.machine.control.index, bench.index);
    bench.control(A, declare(2, 1, MemberState::Suspect));
    assert_eq!(bench.machine.control.changed, bench.index);
}

// === Serials ===

#[test]
fn a_join_repeated_makes_no_second_life_and_another_process_does() {
    let mut bench = Bench::default();
    let first = bench.command(Origin::default(), Body::Control(join(1, "gateway-1")));
    assert_eq!(bench.apply(&first), Reply::Joined { generation: 1 });
    assert_eq!(bench.apply(&first), Reply::Joined { generation: 1 });
    let second = bench.command(A, Body::Control(join(1, "gateway-1")));
    assert_eq!(bench.apply(&second), Reply::Joined { generation: 2 });
    assert_eq!(bench.apply(&first), Reply::Joined { generation: 1 }, "known after all");
    assert_eq!(bench.apply(&second), Reply::Joined { generation: 2 });
    assert_eq!(bench.machine.control.members[&1].generation, 2);
}

#[test]
fn a_repeated_proposal_gets_the_first_reply_until_it_is_settled() {
    let mut bench = Bench::new();
    let first = bench.command(A, Body::Kv(put("k", "1", Expect::Absent, None)));
    let done = bench.apply(&first);
    let lost = bench.command(B, Body::Kv(put("k", "2", Expect::Absent, None)));
    assert!(is_mismatch(&bench.apply(&lost), Some("1")));
    bench.kv(A, KvCommand::Delete { key: "k".into(), expect: Expect::Any });
    assert_eq!(bench.apply(&first), done);
    assert!(is_mismatch(&bench.apply(&lost), Some("1")), "refused once is refused");
    assert_eq!(bench.value("k"), None);
    // The same serial of another origin is another proposal.
    let other = Command { origin: B, serial: 7, ..first.clone() };
    assert_ne!(bench.apply(&other), done);
    assert_eq!(bench.value("k"), Some(&b"1"[..]));
    let mut settling = bench.command(A, Body::Kv(put("x", "1", Expect::Any, None)));
    settling.settled_below = first.serial + 1;
    bench.apply(&settling);
    assert_eq!(bench.apply(&first), Reply::Settled);
    // A command that calls itself settled is not done either.
    let mut odd = bench.command(A, Body::Kv(put("x", "2", Expect::Any, None)));
    odd.settled_below = odd.serial + 1;
    assert_eq!(bench.apply(&odd), Reply::Settled);
    assert_eq!(bench.value("x"), Some(&b"1"[..]));
}

#[test]
fn unsettled_replies_are_bounded_and_what_is_forgotten_is_not_done_again() {
    let mut bench = Bench::new();
    let first = bench.command(A, Body::Kv(put("first", "1", Expect::Absent, None)));
    bench.apply(&first);
    for round in 0..2 * MAX_UNSETTLED {
        bench.kv(A, put("k", &round.to_string(), Expect::Any, None));
    }
    assert_eq!(bench.machine.windows[&1].len(), (MAX_UNSETTLED, 0));
    bench.kv(A, KvCommand::Delete { key: "first".into(), expect: Expect::Any });
    assert_eq!(bench.apply(&first), Reply::Settled);
    assert_eq!(bench.value("first"), None);
    let large = "x".repeat(MAX_VALUE);
    bench.kv(A, put("large", &large, Expect::Any, None));
    for _ in 0..100 {
        let reply = bench.kv(A, put("large", "", Expect::Absent, None));
        assert!(matches!(reply, Reply::Mismatch { found: Some(_) }));
    }
    let (count, bytes) = bench.machine.windows[&1].len();
    assert!((10..=16).contains(&count) && bytes <= MAX_UNSETTLED_BYTES, "{count} {bytes}");
}

#[test]
fn what_a_dead_node_writes_is_refused_but_its_first_replies_are_known() {
    let mut bench = Bench::new();
    let before = bench.command(B, Body::Kv(put("k", "mine", Expect::Absent, None)));
    let done = bench.apply(&before);
    bench.control(A, declare(2, 1, MemberState::Dead));
    let fenced = Reply::Fenced { generation: Some(1) };
    let at = Expect::Revision(revision(&done));
    assert_eq!(bench.kv(B, put("k", "late", at, None)), fenced);
    assert_eq!(bench.apply(&before), done);
    bench.control(A, join(2, "gateway-2"));
    let fenced = Reply::Fenced { generation: Some(2) };
    assert_eq!(bench.kv(B, put("k", "later", Expect::Any, None)), fenced);
    assert_eq!(bench.apply(&before), fenced);
    assert_eq!(bench.value("k"), Some(&b"mine"[..]));
    let alive = Origin { generation: 2, ..B };
    assert!(matches!(bench.kv(alive, put("k", "new", at, None)), Reply::Done { .. }));
    let stranger = Origin { node: 9, generation: 1 };
    assert_eq!(bench.kv(stranger, put("k", "no", Expect::Any, None)), Reply::Unknown);
}

// === Values ===

#[test]
fn expectations_hold_against_what_is_there_now() {
    let mut bench = Bench::new();
    let first = revision(&bench.kv(A, put("k", "1", Expect::Absent, Some(2_000))));
    assert!(is_mismatch(&bench.kv(B, put("k", "2", Expect::Absent, None)), Some("1")));
    let second = revision(&bench.kv(B, put("k", "2", Expect::Revision(first), Some(2_000))));
    assert!(second > first);
    assert!(is_mismatch(&bench.kv(A, put("k", "3", Expect::Revision(first), None)), Some("2")));
    // A touch moves the deadline forward only, and nobody's revision.
    let touch = |deadline| KvCommand::Touch { key: "k".into(), deadline };
    assert_eq!(bench.kv(A, touch(3_000)), Reply::Done { revision: second });
    assert_eq!(bench.kv(A, touch(2_500)), Reply::Done { revision: second });
    bench.now = 2_999;
    assert_eq!(bench.value("k"), Some(&b"2"[..]));
    bench.now = 3_000;
    assert_eq!(bench.value("k"), None);
    // Past its deadline it is absent, but for whoever cleans up.
    assert!(is_mismatch(&bench.kv(A, touch(9_000)), None));
    assert!(is_mismatch(&bench.kv(A, put("k", "4", Expect::Revision(second), None)), None));
    let delete = |expect| KvCommand::Delete { key: "k".into(), expect };
    assert!(is_mismatch(&bench.kv(A, delete(Expect::Revision(first))), None));
    assert!(matches!(bench.kv(A, delete(Expect::Revision(second))), Reply::Done { .. }));
    assert!(bench.machine.kv.is_empty());
    assert!(matches!(bench.kv(A, delete(Expect::Absent)), Reply::Done { .. }));
    assert!(matches!(bench.kv(A, put("k", "5", Expect::Absent, None)), Reply::Done { .. }));
    let fifth = bench.index;
    assert_eq!(bench.kv(A, touch(9_000)), Reply::Done { revision: fifth });
    assert_eq!(bench.machine.kv.get(b"k", 0).unwrap().deadline, None, "it never ends");
}

#[test]
fn a_batch_is_done_whole_or_not_at_all() {
    let mut bench = Bench::new();
    bench.kv(A, put("k", "1", Expect::Absent, None));
    let half = KvCommand::Batch(vec![
        put("new", "1", Expect::Absent, None),
        put("k", "2", Expect::Absent, None),
    ]);
    assert!(is_mismatch(&bench.kv(A, half), Some("1")));
    assert_eq!((bench.value("new"), bench.value("k")), (None, Some(&b"1"[..])));
    let whole = KvCommand::Batch(vec![
        put("new", "1", Expect::Absent, None),
        KvCommand::Delete { key: "k".into(), expect: Expect::Any },
    ]);
    let keys: Vec<_> = whole.keys().cloned().collect();
    assert_eq!(keys, ["new", "k"]);
    assert_eq!(revision(&bench.kv(A, whole)), bench.index);
    assert_eq!((bench.value("new"), bench.value("k")), (Some(&b"1"[..]), None));
    let twice = KvCommand::Batch(vec![put("k", "1", Expect::Any, None); 2]);
    assert_eq!(bench.kv(A, twice), Reply::Invalid(Invalid::Nested));
    let nested = KvCommand::Batch(vec![KvCommand::Batch(Vec::new())]);
    assert_eq!(bench.kv(A, nested), Reply::Invalid(Invalid::Nested));
    let keys: Vec<_> = (0..=MAX_BATCH).map(|it| it.to_string()).collect();
    let many = keys.iter().map(|key| put(key, "", Expect::Any, None)).collect::<Vec<_>>();
    assert_eq!(bench.kv(A, KvCommand::Batch(many.clone())), Reply::Invalid(Invalid::Batch));
    assert_eq!(revision(&bench.kv(A, KvCommand::Batch(many[1..].to_vec()))), bench.index);
}

#[test]
fn nothing_is_larger_than_it_may_be() {
    let mut bench = Bench::new();
    let key = "k".repeat(MAX_KEY + 1);
    for key in ["", key.as_str()] {
        assert_eq!(bench.kv(A, put(key, "", Expect::Any, None)), Reply::Invalid(Invalid::Key));
        let touch = KvCommand::Touch { key: key.to_owned().into(), deadline: 1 };
        assert_eq!(bench.kv(A, touch), Reply::Invalid(Invalid::Key));
    }
    let value = "v".repeat(MAX_VALUE + 1);
    assert_eq!(bench.kv(A, put("k", &value, Expect::Any, None)), Reply::Invalid(Invalid::Value));
    assert!(bench.machine.kv.is_empty());
    let largest = bench.kv(A, put(&key[1..], &value[1..], Expect::Any, None));
    assert_eq!(revision(&largest), bench.index);
    assert_eq!(bench.machine.kv.bytes(), MAX_KEY + MAX_VALUE);
}

#[test]
fn expiry_leaves_sessions_to_whoever_closes_them() {
    let mut bench = Bench::new();
    for at in 0..5_u64 {
        bench.kv(A, put(&format!("s/{at}"), "session", Expect::Any, Some(2_000 + at)));
        bench.kv(A, put(&format!("j/{at}"), "entry", Expect::Any, Some(2_000 + at)));
    }
    bench.kv(A, put("j/stays", "entry", Expect::Any, None));
    bench.now = 2_003;
    assert!(matches!(bench.kv(A, KvCommand::Expire { limit: 3 }), Reply::Done { .. }));
    assert_eq!(bench.machine.kv.len(), 11 - 3);
    bench.kv(A, KvCommand::Expire { limit: u32::MAX });
    assert_eq!(bench.machine.kv.len(), 11 - 4);
    let due = |prefix: &str, limit| bench.machine.kv.due(prefix.as_bytes(), bench.now, limit);
    assert_eq!(due("s/", 9), ["s/0", "s/1", "s/2", "s/3"]);
    assert_eq!(due("s/2", 9), ["s/2"]);
    assert_eq!(due("", 2), ["s/0", "s/1"]);
    assert!(due("j/", 9).is_empty());
    assert!(bench.machine.kv.get(b"s/0", bench.now).is_none());
    assert!(bench.machine.kv.get_even_past(b"s/0").is_some());
    let range = bench.machine.kv.range(b"s/", bench.now);
    assert_eq!(range.map(|(key, _)| key.clone()).collect::<Vec<_>>(), ["s/4"]);
    let range = bench.machine.kv.range(b"j/", 0);
    assert_eq!(range.map(|(key, _)| key.clone()).collect::<Vec<_>>(), ["j/4", "j/stays"]);
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let bench = Bench::new();
    let good = bench.machine.snapshot();
    assert!(matches!(Machine::restore(&[]), Err(RestoreError::Format { found: None })));
    let mut other = good.clone();
    other[0] = 9;
    assert!(matches!(Machine::restore(&other), Err(RestoreError::Format { found: Some(9) })));
    for length in 1..good.len() {
        assert!(matches!(Machine::restore(&good[..length]), Err(RestoreError::Damaged(_))));
    }
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(Machine::restore(&longer), Err(RestoreError::Damaged(_))));
}

#[test]
fn a_nested_batch_has_no_encoded_form() {
    let nested = KvCommand::Batch(vec![KvCommand::Batch(Vec::new())]);
    assert!(postcard::to_stdvec(&nested).is_err());
    // Batches in batches, as deep as a message is long: refused at the first, not followed down.
    let deep = [3_u8, 1].repeat(1 << 20);
    assert!(postcard::from_bytes::<KvCommand>(&deep).is_err());
}
