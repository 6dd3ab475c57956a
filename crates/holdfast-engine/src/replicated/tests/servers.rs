//! What the group knows of servers: fences, bounds, history.

use super::*;
use crate::failover::{End, Failover, Manner, Move, Phase, Stage};
use crate::health::votes::{Cause, Opinion};

fn of_server(command: ServerCommand) -> ControlCommand {
    ControlCommand::Server(command)
}

fn define(name: &str, instances: &[&str]) -> ControlCommand {
    of_server(ServerCommand::Define {
        server: name.into(),
        primary: instances.first().copied().unwrap_or_default().into(),
        instances: instances.iter().map(|it| (*it).to_owned()).collect(),
        term: 5,
    })
}

fn verdict(instance: &str, opinion: Opinion, term: u64) -> ControlCommand {
    of_server(ServerCommand::Verdict {
        server: "db".into(),
        instance: instance.into(),
        opinion,
        cause: Cause::Unreachable,
        score: 7,
        evidence_since: 900,
        why: "3 of 3".into(),
        term,
    })
}

fn step(follows: (u64, u32), next: &Failover, term: u64) -> ControlCommand {
    let (server, evidence) = ("db".to_owned(), "evidence".to_owned());
    let next = Box::new(next.clone());
    of_server(ServerCommand::Failover { server, follows, next, evidence, term })
}

fn breaker(
    kind: Option<OverrideKind>,
    generation: Option<u64>,
    term: Option<u64>,
) -> ControlCommand {
    of_server(ServerCommand::Breaker {
        server: "db".into(),
        instance: "a".into(),
        kind,
        generation,
        until: None,
        by: "ops".into(),
        why: "why".into(),
        term,
    })
}

fn remark(what: ServerHappened, outage: Option<u64>, term: u64) -> ControlCommand {
    let (server, instance, evidence) = ("db".into(), "a".into(), "evidence".into());
    of_server(ServerCommand::Remark { server, instance, what, evidence, outage, term })
}

fn lose(outage: u64, unknown: u32, oldest: u64, moved: u32) -> ControlCommand {
    of_server(ServerCommand::Lose { server: "db".into(), outage, unknown, oldest, moved })
}

fn tool(name: &str, kind: Option<OverrideKind>) -> ControlCommand {
    let (server, tool, by) = ("db".into(), name.into(), "ops".into());
    of_server(ServerCommand::Tool { server, tool, kind, by })
}

fn open_tool(name: &str, until: u64, term: u64) -> ControlCommand {
    let (server, tool, by, why) = ("db".into(), name.into(), "n1".into(), "why".into());
    of_server(ServerCommand::OpenTool { server, tool, until, by, why, term })
}

/// Two members, and a server with two instances.
fn bench() -> Bench {
    let mut bench = Bench::new();
    revision(&bench.control(A, define("db", &["a", "b"])));
    bench
}

fn state(bench: &Bench) -> &ServerState {
    &bench.machine.control.servers.by_name["db"]
}

fn happened(bench: &Bench) -> Vec<ServerHappened> {
    bench.machine.control.servers.events.iter().map(|it| it.what).collect()
}

/// A move from a to b at this stage.
fn moving(generation: u64, step: u32, active: &str, stage: Stage) -> Failover {
    let it = Move {
        from: "a".into(),
        to: "b".into(),
        manner: Manner::Manual,
        stage,
        began: 1,
        checked: false,
        cause: "by ops".into(),
    };
    let phase = Phase::FailingOver(it);
    Failover { generation, step, active: active.into(), phase, ..Failover::new("a") }
}

fn changes(bench: &mut Bench, command: ControlCommand) -> (Reply, bool) {
    let before = (bench.machine.control.servers.clone(), bench.machine.control.changed);
    let reply = bench.control(A, command);
    let control = &bench.machine.control;
    let is_changed = control.servers != before.0;
    assert_eq!(is_changed, control.changed != before.1, "watchers are told of what changed");
    (reply, is_changed)
}

#[test]
fn a_coordinator_that_is_none_any_more_changes_nothing() {
    let mut bench = bench();
    let next = moving(1, 0, "a", Stage::Pause);
    let commands = [
        of_server(ServerCommand::Retire { server: "db".into(), term: 4 }),
        of_server(ServerCommand::Define {
            server: "x".into(),
            primary: "a".into(),
            instances: vec!["a".into()],
            term: 6,
        }),
        verdict("a", Opinion::Unhealthy, 4),
        step((0, 0), &next, 4),
        of_server(ServerCommand::Notified { up_to: 1, term: 4 }),
        breaker(Some(OverrideKind::Opened), None, Some(4)),
        remark(ServerHappened::Noted, None, 4),
        open_tool("write", u64::MAX, 4),
    ];
    for command in commands {
        let (reply, changed) = changes(&mut bench, command.clone());
        assert_eq!((reply, changed), (Reply::Stale { term: 5 }, false), "{command:?}");
    }
}

#[test]
fn what_any_member_may_say_needs_a_present_life() {
    let mut bench = bench();
    let note = |what| {
        let (server, instance, evidence) = ("db".into(), "a".into(), String::new());
        of_server(ServerCommand::Note { server, instance, what, evidence })
    };
    let configure = |id: &str, follows| {
        let (id, by) = (id.to_owned(), "gateway-1".to_owned());
        of_server(ServerCommand::Configure { id, by, follows, rolls_back_to: None })
    };
    let old = Origin { node: 1, generation: 0 };
    for command in [
        note(ServerHappened::Noted),
        configure("x", 0),
        breaker(Some(OverrideKind::ForcedOpen), None, None),
        tool("write", Some(OverrideKind::ForcedOpen)),
        lose(1, 1, 1, 1),
    ] {
        let reply = bench.control(old, command);
        assert_eq!(reply, Reply::Fenced { generation: Some(1) });
    }
    revision(&bench.control(B, note(ServerHappened::Answered { lost: None })));
    let only_the_group = note(ServerHappened::Switched);
    assert_eq!(bench.control(A, only_the_group), Reply::Invalid(Invalid::Event));
}

/// What a deposed coordinator says of the outage that it knew lands on no other.
#[test]
fn a_line_about_an_outage_that_is_past_is_refused() {
    let answered = ServerHappened::Answered { lost: None };
    let mut bench = bench();
    assert_eq!(
        bench.control(A, remark(answered, Some(1), 5)),
        Reply::Moved { generation: 0, step: 0 },
        "there is none"
    );
    let first = revision(&bench.control(A, verdict("a", Opinion::Unhealthy, 5)));
    assert!(changes(&mut bench, remark(answered, Some(first), 5)).1);
    revision(&bench.control(A, verdict("a", Opinion::Healthy, 5)));
    let second = revision(&bench.control(A, verdict("a", Opinion::Unhealthy, 5)));
    let past = Reply::Moved { generation: second, step: 0 };
    assert_eq!(changes(&mut bench, remark(answered, Some(first), 5)), (past, false));
    // That it took too long may be said of one that is over.
    assert!(changes(&mut bench, remark(ServerHappened::Noted, Some(first), 5)).1);
    let of = |bench: &Bench| {
        let all = crate::objectives::outages(&bench.machine.control.servers.events);
        all.iter().map(|it| (it.index, it.ended.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(of(&bench), [(first, true), (second, false)]);
    assert!(changes(&mut bench, remark(answered, Some(second), 5)).1);
    assert_eq!(of(&bench), [(first, true), (second, true)]);
    assert!(changes(&mut bench, remark(ServerHappened::Noted, None, 5)).1, "about none");
    let only_the_group = remark(ServerHappened::Switched, None, 5);
    assert_eq!(bench.control(A, only_the_group), Reply::Invalid(Invalid::Event));
}

#[test]
fn what_an_outage_costs_is_one_line_of_the_record_that_grows() {
    let mut bench = bench();
    let outage = revision(&bench.control(A, verdict("a", Opinion::Unhealthy, 5)));
    let past = Reply::Moved { generation: outage, step: 0 };
    assert_eq!(changes(&mut bench, lose(outage + 1, 1, 900, 0)), (past, false));
    assert!(changes(&mut bench, lose(outage, 0, 0, 0)).1, "that it is measured");
    assert!(!changes(&mut bench, lose(outage, 0, 0, 0)).1, "said again");
    for (told, expected) in [
        ((0, 0, 20), (0, 0, 20)),
        ((2, 900, 0), (2, 900, 20)),
        ((1, 950, 3), (3, 900, 23)),
        ((1, 800, 0), (4, 800, 23)),
        ((u32::MAX, 0, 0), (u32::MAX, 1, 23)),
    ] {
        assert!(changes(&mut bench, lose(outage, told.0, told.1, told.2)).1);
        let (unknown, oldest, moved) = expected;
        let line = ServerHappened::Lost { outage, unknown, oldest, moved };
        assert_eq!(happened(&bench)[2..], [line]);
    }
    let outages = crate::objectives::outages(&bench.machine.control.servers.events);
    assert_eq!((outages[0].oldest, outages[0].moved), (Some(1), 23));
}

#[test]
fn operators_keep_the_breakers_of_single_tools() {
    use OverrideKind::*;
    let mut bench = bench();
    let kept = |bench: &Bench, tool: &str| {
        let it = state(bench).forced(&tool_key(tool), bench.now)?;
        Some((it.kind, it.generation))
    };
    assert!(changes(&mut bench, tool("write", Some(ForcedOpen))).1);
    assert!(!changes(&mut bench, tool("write", Some(ForcedOpen))).1, "said again");
    let (kind, first) = kept(&bench, "write").unwrap();
    assert_eq!((kind, kept(&bench, "read")), (ForcedOpen, None));
    assert!(state(&bench).forced("write", bench.now).is_none(), "no instance's");
    // What is configured otherwise, or no more for a while, goes on being kept.
    assert!(changes(&mut bench, define("db", &["a", "c"])).1);
    assert!(changes(&mut bench, tool("write", Some(ForcedClosed))).1);
    let (kind, second) = kept(&bench, "write").unwrap();
    assert_eq!((kind, second > first), (ForcedClosed, true));
    let retire = of_server(ServerCommand::Retire { server: "db".into(), term: 5 });
    assert!(changes(&mut bench, retire).1);
    assert_eq!(bench.control(A, tool("write", None)), Reply::Unknown);
    assert!(changes(&mut bench, define("db", &["a", "b"])).1);
    assert_eq!(kept(&bench, "write"), Some((ForcedClosed, second)));
    assert!(changes(&mut bench, tool("write", None)).1);
    assert!(!changes(&mut bench, tool("write", None)).1, "said again");
    assert_eq!(kept(&bench, "write"), None);
    let events = happened(&bench);
    assert_eq!(events.last(), Some(&ServerHappened::BreakerReleased));
    let invalid = |it| Reply::Invalid(it);
    assert_eq!(bench.control(A, tool("write", Some(Opened))), invalid(Invalid::Override));
    assert_eq!(bench.control(A, tool("", Some(ForcedOpen))), invalid(Invalid::Text));
    for number in 0..MAX_TOOLS {
        revision(&bench.control(A, tool(&format!("t{number}"), Some(ForcedOpen))));
    }
    let more = tool("one more", Some(ForcedOpen));
    assert_eq!(bench.control(A, more), invalid(Invalid::Tools));
    // They take no place of instances that are held.
    revision(&bench.control(A, breaker(Some(ForcedOpen), None, None)));
    assert!(changes(&mut bench, define("db", &["b"])).1);
    assert!(state(&bench).forced("a", bench.now).is_some());
}

#[test]
fn the_group_opens_single_tools_and_leaves_those_that_are_held() {
    use OverrideKind::*;
    let mut bench = bench();
    let kept = |bench: &Bench, tool: &str| {
        state(bench).forced(&tool_key(tool), bench.now).map(|it| (it.kind, it.until))
    };
    let until = bench.now + 1_000;
    assert!(changes(&mut bench, open_tool("write", until, 5)).1);
    assert!(!changes(&mut bench, open_tool("write", until, 5)).1, "said again");
    assert_eq!(kept(&bench, "write"), Some((Opened, Some(until))));
    assert_eq!(happened(&bench).last(), Some(&ServerHappened::BreakerOpened));
    // An instance that comes or goes is no news of a tool.
    assert!(changes(&mut bench, define("db", &["a", "c"])).1);
    assert_eq!(kept(&bench, "write"), Some((Opened, Some(until))));
    assert!(changes(&mut bench, tool("write", Some(ForcedClosed))).1);
    let (reply, changed) = changes(&mut bench, open_tool("write", until + 1, 5));
    assert!(matches!((reply, changed), (Reply::Moved { .. }, false)), "an operator holds it");
    assert!(changes(&mut bench, tool("write", None)).1);
    assert!(changes(&mut bench, open_tool("write", until, 5)).1);
    assert!(changes(&mut bench, tool("write", None)).1, "an operator lets it go");
    assert_eq!(kept(&bench, "write"), None);
    assert_eq!(bench.control(A, open_tool("", until, 5)), Reply::Invalid(Invalid::Text));
    // What is over makes room, and nothing else does.
    for number in 0..MAX_TOOLS {
        revision(&bench.control(A, open_tool(&format!("t{number}"), until, 5)));
    }
    let full = Reply::Invalid(Invalid::Tools);
    assert_eq!(changes(&mut bench, tool("write", Some(ForcedOpen))), (full.clone(), false));
    assert_eq!(changes(&mut bench, open_tool("write", until, 5)), (full, false));
    bench.now = until;
    assert!(changes(&mut bench, define("db", &["a", "b"])).1);
    assert_eq!(state(&bench).breakers.len(), 0);
    for number in 0..MAX_TOOLS {
        revision(&bench.control(A, open_tool(&format!("t{number}"), until + 1, 5)));
    }
    bench.now = until + 1;
    assert!(changes(&mut bench, tool("write", Some(ForcedOpen))).1);
    assert_eq!(state(&bench).breakers.len(), 1);
}

/// A node reads what the log has had, whichever version wrote it; and no node is sent what it cannot read.
#[test]
fn commands_and_lines_keep_their_numbers() {
    let number = |command: &ControlCommand| {
        let bytes = postcard::to_stdvec(command).unwrap();
        let ControlCommand::Server(it) = command else { panic!("{command:?}") };
        assert_eq!((bytes[0], it.reads() <= READS), (5, true), "{command:?}");
        (bytes[1], it.reads())
    };
    let note = ServerCommand::Note {
        server: String::new(),
        instance: String::new(),
        what: ServerHappened::Noted,
        evidence: String::new(),
    };
    let numbers = [
        (define("db", &["a"]), (0, 0)),
        (breaker(None, None, None), (4, 0)),
        (of_server(ServerCommand::Notified { up_to: 1, term: 4 }), (6, 0)),
        (of_server(note), (7, 0)),
        (remark(ServerHappened::Noted, None, 1), (8, 1)),
        (lose(1, 1, 1, 1), (9, 1)),
        (lose(1, 0, 0, 0), (9, 2)),
        (tool("t", None), (10, 1)),
        (open_tool("t", 1, 1), (11, 2)),
    ];
    for (command, expected) in numbers {
        assert_eq!(number(&command), expected, "{command:?}");
    }
    let line = |what: ServerHappened| postcard::to_stdvec(&what).unwrap()[0];
    let lost = ServerHappened::Lost { outage: 1, unknown: 1, oldest: 1, moved: 1 };
    assert_eq!((line(ServerHappened::Noted), line(lost)), (16, 18));
}

#[test]
fn alarms_push_no_outage_out_of_the_record() {
    let mut bench = bench();
    let _ = bench.control(A, verdict("a", Opinion::Unhealthy, 5));
    for instance in ["a", "b"].into_iter().cycle().take(2 * MAX_EVENTS_OF_SERVER) {
        let evidence = format!("{ALARM}{instance} has 3 of 100, bad");
        let (server, instance, what) = ("db".into(), instance.into(), ServerHappened::Noted);
        let note = ServerCommand::Note { server, instance, what, evidence };
        revision(&bench.control(A, of_server(note)));
    }
    let events = &bench.machine.control.servers.events;
    assert_eq!(events.len(), MAX_EVENTS_OF_SERVER);
    let outages = crate::objectives::outages(events);
    assert_eq!(outages.iter().map(|it| it.instance.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn servers_are_defined_changed_and_retired_and_keep_what_is_known() {
    let mut bench = bench();
    assert_eq!(state(&bench).failover, Failover::new("a"));
    revision(&bench.control(A, verdict("a", Opinion::Unhealthy, 5)));
    let (_, changed) = changes(&mut bench, define("db", &["a", "b"]));
    assert!(!changed, "said again");
    assert!(changes(&mut bench, define("db", &["a", "c"])).1);
    let known: Vec<_> =
        state(&bench).verdicts.iter().map(|it| (it.0.as_str(), it.1.opinion)).collect();
    assert_eq!(known, [("a", Some(Opinion::Unhealthy)), ("c", None)]);
    assert_eq!(bench.control(A, verdict("b", Opinion::Healthy, 5)), Reply::Unknown);
    let retire = || of_server(ServerCommand::Retire { server: "db".into(), term: 5 });
    assert!(changes(&mut bench, retire()).1);
    assert!(!changes(&mut bench, retire()).1);
    assert_eq!(bench.control(A, verdict("a", Opinion::Healthy, 5)), Reply::Unknown);
}

#[test]
fn a_verdict_is_as_old_as_its_opinion_and_enters_the_history_when_that_changes() {
    let mut bench = bench();
    let at = bench.now;
    assert!(changes(&mut bench, verdict("a", Opinion::Unhealthy, 5)).1);
    assert!(!changes(&mut bench, verdict("a", Opinion::Unhealthy, 5)).1);
    bench.now += 500;
    let mut other = verdict("a", Opinion::Unhealthy, 5);
    if let ControlCommand::Server(ServerCommand::Verdict { score, .. }) = &mut other {
        *score = 255;
    }
    assert!(changes(&mut bench, other).1, "another score");
    let verdict = &state(&bench).verdicts["a"];
    assert_eq!((verdict.since, verdict.score, verdict.evidence_since), (at, 100, 900));
    let unhealthy = ServerHappened::Verdict {
        from: None,
        to: Opinion::Unhealthy,
        active: true,
        evidence_since: 900,
    };
    assert_eq!(happened(&bench), [ServerHappened::Defined, unhealthy]);
}

#[test]
fn of_two_coordinators_one_goes_on_and_a_step_said_twice_is_made_once() {
    let mut bench = bench();
    let pause = moving(1, 0, "a", Stage::Pause);
    assert!(changes(&mut bench, step((0, 0), &pause, 5)).1);
    assert!(!changes(&mut bench, step((0, 0), &pause, 5)).1, "the same again");
    let other = moving(1, 1, "a", Stage::Drain);
    let late = bench.control(B, step((0, 0), &other, 5));
    assert_eq!(late, Reply::Moved { generation: 1, step: 0 });
    assert!(changes(&mut bench, step((1, 0), &other, 5)).1);
    assert!(changes(&mut bench, step((1, 1), &moving(1, 2, "b", Stage::Switch), 5)).1);
    let told = Failover { phase: Phase::SecondaryActive, ..moving(1, 3, "b", Stage::Pause) };
    assert!(changes(&mut bench, step((1, 2), &told, 5)).1);
    use ServerHappened::*;
    assert_eq!(happened(&bench), [Defined, FailoverBegan, Progressed, Switched, Settled]);
    let last = bench.machine.control.servers.events.back().unwrap();
    assert_eq!((last.instance.as_str(), last.generation), ("b", 1));
}

#[test]
fn a_step_that_cannot_follow_is_refused() {
    let mut bench = bench();
    let refused = |bench: &mut Bench, follows, next: Failover| {
        let (reply, changed) = changes(bench, step(follows, &next, 5));
        assert!(!changed);
        reply
    };
    let no = Reply::Invalid(Invalid::Step);
    // Two generations at once; not from its first step; another active instance without a switch.
    assert_eq!(refused(&mut bench, (0, 0), moving(2, 0, "a", Stage::Pause)), no);
    assert_eq!(refused(&mut bench, (0, 0), moving(1, 1, "a", Stage::Pause)), no);
    assert_eq!(refused(&mut bench, (0, 0), moving(1, 0, "b", Stage::Switch)), no);
    let jump = Failover { active: "b".into(), step: 1, ..Failover::new("a") };
    assert_eq!(refused(&mut bench, (0, 0), jump), no);
    revision(&bench.control(A, step((0, 0), &moving(1, 0, "a", Stage::Pause), 5)));
    let elsewhere = moving(1, 1, "c", Stage::Switch);
    assert_eq!(refused(&mut bench, (1, 0), elsewhere), no);
    revision(&bench.control(A, step((1, 0), &moving(1, 1, "b", Stage::Switch), 5)));
    // Back before the switch in the same generation, and so to a second switch.
    assert_eq!(refused(&mut bench, (1, 1), moving(1, 2, "b", Stage::Pause)), no);
    let end = Stage::Notify { end: End::Switched };
    assert_eq!(refused(&mut bench, (1, 1), moving(1, 2, "a", end)), no);
    let long = Failover { tried: vec!["t".into(); MAX_INSTANCES + 1], ..moving(1, 2, "b", end) };
    assert_eq!(refused(&mut bench, (1, 1), long), Reply::Invalid(Invalid::Text));
    let nameless = Failover { tried: vec![String::new()], ..moving(1, 2, "b", end) };
    assert_eq!(refused(&mut bench, (1, 1), nameless), Reply::Invalid(Invalid::Text));
}

#[test]
fn operators_force_breakers_and_the_group_does_not_overrule_them() {
    use OverrideKind::*;
    let mut bench = bench();
    let forced =
        |bench: &Bench| state(bench).forced("a", bench.now).map(|it| (it.kind, it.generation));
    assert!(changes(&mut bench, breaker(Some(Opened), None, Some(5))).1);
    assert!(!changes(&mut bench, breaker(Some(Opened), None, Some(5))).1);
    let (kind, first) = forced(&bench).unwrap();
    assert_eq!(kind, Opened);
    revision(&bench.control(B, breaker(Some(ForcedClosed), None, None)));
    let (kind, second) = forced(&bench).unwrap();
    assert_eq!((kind, second > first), (ForcedClosed, true));
    let moved = Reply::Moved { generation: second, step: 0 };
    assert_eq!(bench.control(A, breaker(Some(Opened), None, Some(5))), moved);
    assert_eq!(bench.control(A, breaker(None, None, Some(5))), moved);
    assert_eq!(bench.control(A, breaker(None, Some(first), None)), moved, "of an earlier one");
    assert!(changes(&mut bench, breaker(None, Some(second), None)).1);
    assert!(!changes(&mut bench, breaker(None, Some(second), None)).1);
    revision(&bench.control(A, breaker(Some(ForcedOpen), None, None)));
    let (kind, third) = forced(&bench).unwrap();
    assert_eq!((kind, third > second), (ForcedOpen, true), "generations go on rising");
    // Also of a server that was away meanwhile, and of which nothing was held.
    assert!(changes(&mut bench, breaker(None, None, None)).1);
    let retire = of_server(ServerCommand::Retire { server: "db".into(), term: 5 });
    assert!(changes(&mut bench, retire).1);
    assert!(bench.machine.control.servers.by_name.is_empty());
    assert!(changes(&mut bench, define("db", &["a", "b"])).1);
    revision(&bench.control(A, breaker(Some(ForcedClosed), None, None)));
    let (_, fourth) = forced(&bench).unwrap();
    assert!(fourth > third, "{fourth} {third}");
    let invalid = Reply::Invalid(Invalid::Override);
    assert_eq!(bench.control(A, breaker(Some(Opened), None, None)), invalid);
    assert_eq!(bench.control(A, breaker(Some(ForcedOpen), None, Some(5))), invalid);
}

#[test]
fn what_operators_hold_of_servers_that_are_gone_takes_no_ones_place() {
    let mut bench = bench();
    revision(&bench.control(A, breaker(Some(OverrideKind::ForcedOpen), None, None)));
    let retire = of_server(ServerCommand::Retire { server: "db".into(), term: 5 });
    assert!(changes(&mut bench, retire.clone()).1);
    assert!(!changes(&mut bench, retire).1, "said again");
    for number in 0..MAX_SERVERS {
        revision(&bench.control(A, define(&format!("s{number}"), &["a"])));
    }
    let servers = &bench.machine.control.servers.by_name;
    assert_eq!((servers.len(), servers.contains_key("db")), (MAX_SERVERS, false));
    let more = bench.control(A, define("more", &["a"]));
    assert_eq!(more, Reply::Invalid(Invalid::Servers));
    // Nor does what is held of instances that come and go.
    for number in 0..4 * MAX_INSTANCES {
        let name = format!("i{number}");
        revision(&bench.control(A, define("s0", &["a", &name])));
        let held = of_server(ServerCommand::Breaker {
            server: "s0".into(),
            instance: name,
            kind: Some(OverrideKind::ForcedOpen),
            generation: None,
            until: None,
            by: "ops".into(),
            why: String::new(),
            term: None,
        });
        revision(&bench.control(A, held));
    }
    let held = &bench.machine.control.servers.by_name["s0"].breakers;
    assert!(held.len() <= 2 * MAX_INSTANCES + 1, "{}", held.len());
    assert!(held.contains_key(&format!("i{}", 4 * MAX_INSTANCES - 1)));
}

#[test]
fn an_override_with_an_end_ends() {
    let mut bench = bench();
    let mut command = breaker(Some(OverrideKind::ForcedOpen), None, None);
    if let ControlCommand::Server(ServerCommand::Breaker { until, .. }) = &mut command {
        *until = Some(1_500);
    }
    revision(&bench.control(A, command));
    assert!(state(&bench).forced("a", 1_499).is_some());
    assert!(state(&bench).forced("a", 1_500).is_none());
    bench.now = 1_500;
    let (_, changed) = changes(&mut bench, breaker(Some(OverrideKind::Opened), None, Some(5)));
    assert!(changed, "the group may open what no operator keeps any more");
}

#[test]
fn configurations_follow_each_other_and_the_last_eight_are_remembered() {
    let mut bench = bench();
    let configure = |id: &str, follows, rolls_back_to| {
        let (id, by) = (id.to_owned(), "gateway-1".to_owned());
        of_server(ServerCommand::Configure { id, by, follows, rolls_back_to })
    };
    assert!(changes(&mut bench, configure("one", 0, None)).1);
    assert!(!changes(&mut bench, configure("one", 0, None)).1, "every node proposes its file");
    let late = bench.control(B, configure("two", 0, None));
    assert_eq!(late, Reply::Moved { generation: 1, step: 0 });
    for version in 2..=20_u64 {
        assert!(changes(&mut bench, configure(&format!("v{version}"), version - 1, Some(1))).1);
    }
    let servers = &bench.machine.control.servers;
    let holds = servers.configuration().unwrap();
    assert_eq!((holds.version, holds.id.as_str(), holds.rolls_back_to), (20, "v20", Some(1)));
    assert_eq!(servers.configurations.len(), MAX_VERSIONS);
    assert_eq!(bench.control(A, configure("", 20, None)), Reply::Invalid(Invalid::Text));
}
