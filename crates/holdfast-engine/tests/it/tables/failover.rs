//! The failover's tables: on the way over, on the way back, in a hurry.

use holdfast_engine::failover::{
    End, Failed, Failover, Input, Manner, Move, Params, Phase, Refusal, Report, Role, Seen, Stage,
};
use holdfast_engine::health::votes::{Cause, Opinion};

use super::table;

/// When every state began, and the switch before it.
const SINCE: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Primary,
    Secondary,
    Over(Manner, Stage),
    Back(Manner, Stage),
    Failed,
    /// On the way over in a hurry, soon after a failover was taken back.
    Again(Stage),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    AllWell,
    AllWellForTheDelay,
    LimitOver,
    FromUnreachable,
    FromErrors,
    FromOpen,
    ToUnhealthy,
    ToDegraded,
    BothUnhealthy,
    FromGone,
    Paused,
    Drained,
    CheckedWell,
    CheckedBad,
    Switched,
    Notified,
    EarlierReport,
    Move,
    Back,
    Force,
    BackAtOnce,
}

const EVENTS: [(Event, &str); 21] = [
    (Event::AllWell, "a moment passes, all are well"),
    (Event::AllWellForTheDelay, "the failback delay passes, all are well"),
    (Event::LimitOver, "the time of its stage is over"),
    (Event::FromUnreachable, "the old one is unreachable"),
    (Event::FromErrors, "the old one has too many errors"),
    (Event::FromOpen, "the old one's breakers are open"),
    (Event::ToUnhealthy, "the new one is unhealthy"),
    (Event::ToDegraded, "the new one is degraded"),
    (Event::BothUnhealthy, "both are unreachable"),
    (Event::FromGone, "the old one is configured no more"),
    (Event::Paused, "all nodes hold"),
    (Event::Drained, "no call runs"),
    (Event::CheckedWell, "the check is good"),
    (Event::CheckedBad, "the check is bad"),
    (Event::Switched, "all nodes use the new one"),
    (Event::Notified, "people were told"),
    (Event::EarlierReport, "a report of an earlier step"),
    (Event::Move, "an operator: move"),
    (Event::Back, "an operator: back"),
    (Event::Force, "an operator: move, forced"),
    (Event::BackAtOnce, "an operator: back, at once"),
];

const NOTIFY: Stage = Stage::Notify { end: End::Switched };
const RAMP: Stage = Stage::Ramp { percent: 10 };

const OVER: [(At, &str); 8] = [
    (At::Primary, "primary"),
    (At::Over(Manner::Gradual, Stage::Check), "over: check"),
    (At::Over(Manner::Gradual, RAMP), "over: ramp 10"),
    (At::Over(Manner::Manual, Stage::Pause), "over: pause"),
    (At::Over(Manner::Manual, Stage::Drain), "over: drain"),
    (At::Over(Manner::Manual, Stage::Switch), "over: switch"),
    (At::Over(Manner::Manual, NOTIFY), "over: notify"),
    (At::Secondary, "secondary"),
];

const BACK: [(At, &str); 7] = [
    (At::Secondary, "secondary"),
    (At::Back(Manner::Gradual, Stage::Check), "back: check"),
    (At::Back(Manner::Gradual, RAMP), "back: ramp 10"),
    (At::Back(Manner::Gradual, Stage::Pause), "back: pause"),
    (At::Back(Manner::Gradual, Stage::Drain), "back: drain"),
    (At::Back(Manner::Gradual, Stage::Switch), "back: switch"),
    (At::Back(Manner::Gradual, NOTIFY), "back: notify"),
];

const HURRY: [(At, &str); 7] = [
    (At::Over(Manner::Immediate, Stage::Pause), "hurry: pause"),
    (At::Over(Manner::Immediate, Stage::Check), "hurry: check"),
    (At::Over(Manner::Immediate, Stage::Switch), "hurry: switch"),
    (At::Again(Stage::Pause), "again: pause"),
    (At::Again(Stage::Check), "again: check"),
    (At::Failed, "failed"),
    (At::Over(Manner::Forced, Stage::Drain), "forced: drain"),
];

fn params() -> Params {
    Params { check: true, ..Params::new("a") }
}

fn state(at: At) -> Failover {
    let step = |from: &str, to: &str, manner, stage: Stage| Move {
        from: from.into(),
        to: to.into(),
        manner,
        stage,
        began: SINCE,
        // Whoever is past the check of a gradual move has it behind it.
        checked: manner == Manner::Gradual && stage != Stage::Check,
        cause: "cause".into(),
    };
    let (active, phase) = match at {
        At::Primary => ("a", Phase::PrimaryActive),
        At::Secondary => ("b", Phase::SecondaryActive),
        At::Again(stage) => {
            let hurry = state(At::Over(Manner::Immediate, stage));
            return Failover { rollbacks: 1, not_before: SINCE + 20_000, ..hurry };
        }
        At::Over(manner, stage) => {
            let active = if stage.is_before_switch() { "a" } else { "b" };
            (active, Phase::FailingOver(step("a", "b", manner, stage)))
        }
        At::Back(manner, stage) => {
            let active = if stage.is_before_switch() { "b" } else { "a" };
            (active, Phase::FailingBack(step("b", "a", manner, stage)))
        }
        At::Failed => ("a", Phase::Failed(Failed { why: "why".into(), told: false })),
    };
    Failover {
        generation: 7,
        step: first_step(at),
        active: active.into(),
        phase,
        since: SINCE,
        switched_at: SINCE,
        ..Failover::new("a")
    }
}

/// Steps that it takes to get there, where that matters: a move that begins there has taken none.
fn first_step(at: At) -> u32 {
    match at {
        At::Over(Manner::Immediate, Stage::Pause) | At::Over(Manner::Gradual, Stage::Check) => 0,
        At::Over(Manner::Immediate, Stage::Check) => 1,
        _ => 3,
    }
}

fn seen(name: &'static str, opinion: Opinion, cause: Cause) -> Seen<'static> {
    let role = if name == "a" { Role::Primary } else { Role::Secondary };
    let score = match opinion {
        Opinion::Healthy => 100,
        Opinion::Degraded => 60,
        Opinion::Unhealthy => 5,
    };
    Seen { name, role, opinion: Some(opinion), cause, score, since: SINCE, good_checks: 3 }
}

/// What the machine comes to: where it is, or why a wish was refused.
fn happens(at: At, event: Event) -> String {
    let (params, before) = (params(), state(at));
    // From which instance to which: where a state moves, or would.
    let (from, to) = match at {
        At::Back(..) | At::Secondary => ("b", "a"),
        At::Primary | At::Over(..) | At::Again(_) | At::Failed => ("a", "b"),
    };
    let well = |name| seen(name, Opinion::Healthy, Cause::Score);
    let down = |name| seen(name, Opinion::Unhealthy, Cause::Unreachable);
    let both = match event {
        Event::FromUnreachable => vec![down(from), well(to)],
        Event::FromErrors => vec![seen(from, Opinion::Degraded, Cause::Errors), well(to)],
        Event::FromOpen => vec![seen(from, Opinion::Degraded, Cause::BreakerOpen), well(to)],
        Event::ToUnhealthy => vec![well(from), down(to)],
        Event::ToDegraded => vec![well(from), seen(to, Opinion::Degraded, Cause::Score)],
        Event::BothUnhealthy => vec![down(from), down(to)],
        Event::FromGone => vec![well(to)],
        _ if at == At::Failed => vec![down(from), down(to)],
        _ => vec![well(from), well(to)],
    };
    let step = before.step;
    let report = |report| Input::Report { generation: 7, step, report };
    let by = || "ops".to_owned();
    let input = match event {
        Event::Paused => report(Report::Paused),
        Event::Drained => report(Report::Drained),
        Event::CheckedWell => report(Report::Checked(Ok(()))),
        Event::CheckedBad => report(Report::Checked(Err("differs".into()))),
        Event::Switched => report(Report::Switched),
        Event::Notified => report(Report::Notified),
        Event::EarlierReport => Input::Report { generation: 6, step, report: Report::Paused },
        Event::Move => Input::Move { to: None, by: by(), force: false },
        Event::Back => Input::Back { by: by(), at_once: false },
        Event::Force => Input::Move { to: Some(to.into()), by: by(), force: true },
        Event::BackAtOnce => Input::Back { by: by(), at_once: true },
        Event::AllWell
        | Event::AllWellForTheDelay
        | Event::LimitOver
        | Event::FromUnreachable
        | Event::FromErrors
        | Event::FromOpen
        | Event::ToUnhealthy
        | Event::ToDegraded
        | Event::BothUnhealthy
        | Event::FromGone => Input::Tick,
    };
    let now = SINCE
        + match event {
            Event::AllWellForTheDelay => params.failback_delay,
            // The longest of all limits; nobody waits so long elsewhere.
            Event::LimitOver => 30_000,
            _ => 100,
        };
    match before.step(&input, &both, &params, 1, now) {
        Err(refusal) => format!("refused ({})", word(refusal)),
        Ok(stepped) => {
            assert_eq!(stepped.changed, stepped.next != before);
            if stepped.changed {
                let begins = stepped.next.generation == 8 && stepped.next.step == 0;
                let goes_on = stepped.next.generation == 7 && stepped.next.step == step + 1;
                assert!(begins || goes_on, "{at:?} {event:?} {:?}", stepped.next);
            }
            name(&stepped.next)
        }
    }
}

fn word(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Busy => "busy",
        Refusal::Already => "already",
        Refusal::NoTarget => "no target",
        Refusal::Unknown => "unknown",
        Refusal::Unusable => "unusable",
    }
}

fn name(state: &Failover) -> String {
    let (way, it) = match &state.phase {
        Phase::PrimaryActive => return "primary".into(),
        Phase::SecondaryActive => return "secondary".into(),
        Phase::Failed(it) if it.told => return "failed and told".into(),
        Phase::Failed(_) => return "failed".into(),
        Phase::FailingOver(it) if it.manner == Manner::Immediate => ("hurry", it),
        Phase::FailingOver(it) if it.manner == Manner::Forced => ("forced", it),
        Phase::FailingOver(it) => ("over", it),
        Phase::FailingBack(it) if it.manner == Manner::Immediate => ("hurry back", it),
        Phase::FailingBack(it) => ("back", it),
    };
    match it.stage {
        Stage::Ramp { percent } => format!("{way}: ramp {percent}"),
        Stage::Notify { end: End::RolledBack } => format!("{way}: rolled back"),
        stage => format!("{way}: {}", stage.label()),
    }
}

#[test]
fn on_the_way_over() {
    table("Failover", 1).check(&OVER, &EVENTS, happens);
}

#[test]
fn on_the_way_back() {
    table("Failover", 2).check(&BACK, &EVENTS, happens);
}

#[test]
fn in_a_hurry() {
    table("Failover", 3).check(&HURRY, &EVENTS, happens);
}

#[test]
#[ignore = "prints the tables"]
fn print() {
    for states in [&OVER[..], &BACK, &HURRY] {
        let names: Vec<_> = states.iter().map(|it| it.1).collect();
        println!("| event | {} |\n|{}", names.join(" | "), "---|".repeat(names.len() + 1));
        for (event, name) in EVENTS {
            let cells: Vec<_> = states.iter().map(|it| happens(it.0, event)).collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
        println!();
    }
}
