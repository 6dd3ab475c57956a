//! Stories of a failover; what holds for any inputs is in [`properties`], and every cell in
//! `tests/it/tables/failover.rs`.

mod properties;

use super::*;
use crate::health::votes::{Cause, Opinion};

/// A server whose time passes and whose instances change.
pub(super) struct Bench {
    pub(super) state: Failover,
    pub(super) params: Params,
    pub(super) seen: Vec<Seen<'static>>,
    pub(super) now: u64,
}

impl Bench {
    /// `a` is the primary, `b` and `c` are secondaries, `r` is a replica; all are well.
    pub(super) fn new() -> Self {
        let role = |name| match name {
            "a" => Role::Primary,
            "r" => Role::Replica,
            _ => Role::Secondary,
        };
        let seen = ["a", "b", "c", "r"].map(|name| Seen {
            name,
            role: role(name),
            opinion: Some(Opinion::Healthy),
            cause: Cause::Score,
            score: 100,
            since: 0,
            good_checks: 3,
        });
        let params = Params { check: true, ..Params::new("a") };
        Self { state: Failover::new("a"), params, seen: seen.to_vec(), now: 1_000_000 }
    }

    pub(super) fn set(&mut self, name: &str, opinion: Opinion, cause: Cause) {
        let it = self.seen.iter_mut().find(|it| it.name == name).unwrap();
        let score = match opinion {
            Opinion::Healthy => 100,
            Opinion::Degraded => 60,
            Opinion::Unhealthy => 0,
        };
        (it.opinion, it.cause, it.score, it.since) = (Some(opinion), cause, score, self.now);
    }

    pub(super) fn down(&mut self, name: &str) {
        self.set(name, Opinion::Unhealthy, Cause::Unreachable);
    }

    pub(super) fn well(&mut self, name: &str) {
        self.set(name, Opinion::Healthy, Cause::Score);
    }

    pub(super) fn step(&mut self, input: &Input) -> Result<Stepped, Refusal> {
        let stepped = self.state.step(input, &self.seen, &self.params, 1, self.now)?;
        self.state = stepped.next.clone();
        Ok(stepped)
    }

    /// Time passes, with a look at the end of it.
    pub(super) fn tick(&mut self, passes: u64) -> Stepped {
        self.now += passes;
        self.step(&Input::Tick).unwrap()
    }

    pub(super) fn report(&mut self, report: Report) -> Stepped {
        let (generation, step) = (self.state.generation, self.state.step);
        self.step(&Input::Report { generation, step, report }).unwrap()
    }

    /// All reports that the present stage waits for, until the server rests.
    fn finish(&mut self) {
        for _ in 0..100 {
            let Some(stage) = self.state.moving().map(|it| it.stage) else { return };
            match stage {
                Stage::Pause => self.report(Report::Paused),
                Stage::Drain => self.report(Report::Drained),
                Stage::Check => self.report(Report::Checked(Ok(()))),
                Stage::Switch => self.report(Report::Switched),
                Stage::Notify { .. } => self.report(Report::Notified),
                Stage::Ramp { .. } => self.tick(30_000),
            };
        }
        panic!("it does not end: {:?}", self.state);
    }

    fn stage(&self) -> Stage {
        self.state.moving().unwrap().stage
    }
}

#[test]
fn a_primary_that_dies_is_followed_by_its_secondary_in_five_steps() {
    let mut bench = Bench::new();
    bench.down("a");
    let began = bench.tick(0);
    assert_eq!(began.orders[0].command, Command::Pause);
    assert_eq!(bench.state.route(7), Route::Hold);
    let checks = bench.report(Report::Paused);
    assert_eq!(checks.orders[0].command, Command::Check { from: None, to: "b".into() });
    let switched = bench.report(Report::Checked(Ok(())));
    let command = Command::Switch { from: "a".into(), to: "b".into() };
    assert_eq!(switched.orders[0].command, command);
    assert_eq!(bench.state.route(7), Route::To("b"), "nobody waits for the confirmations");
    bench.report(Report::Switched);
    bench.report(Report::Notified);
    assert_eq!((bench.state.phase.label(), bench.state.step), ("secondary_active", 4));
}

#[test]
fn a_target_that_fails_too_is_followed_by_the_next_and_after_three_people_are_asked() {
    let mut bench = Bench::new();
    bench.down("a");
    bench.tick(0);
    bench.report(Report::Paused);
    bench.report(Report::Checked(Err("no".into())));
    assert_eq!((bench.state.generation, bench.state.moving().unwrap().to.as_str()), (2, "c"));
    bench.report(Report::Paused);
    let failed = bench.report(Report::Checked(Err("no".into())));
    assert_eq!(bench.state.phase.label(), "failover_failed");
    assert!(
        matches!(&failed.orders[0].command, Command::Notify { text } if text.contains("a stays active"))
    );
    bench.report(Report::Notified);
    assert!(bench.state.orders(&bench.params, 1).is_empty());
    // Not at once; after the wait once more; then no more by itself.
    assert!(!bench.tick(100).changed);
    assert!(bench.tick(30_000).changed);
    bench.report(Report::Paused);
    bench.report(Report::Checked(Err("no".into())));
    bench.report(Report::Notified);
    assert!(!bench.tick(10_000_000).changed, "{:?}", bench.state);
    // But what became well since is worth a try.
    bench.well("c");
    assert!(bench.tick(1).changed);
    assert_eq!(bench.state.moving().unwrap().to, "c");
    bench.finish();
    assert_eq!((bench.state.active.as_str(), bench.state.attempts), ("c", 0));
}

#[test]
fn a_failback_waits_for_the_delay_and_good_checks_and_ramps() {
    let mut bench = Bench::new();
    bench.down("a");
    bench.tick(0);
    bench.finish();
    bench.well("a");
    let good = |bench: &mut Bench, checks| bench.seen[0].good_checks = checks;
    good(&mut bench, 2);
    assert!(!bench.tick(300_000).changed, "two good checks");
    good(&mut bench, 3);
    assert!(bench.tick(0).changed);
    bench.report(Report::Checked(Ok(())));
    let mut shares = Vec::new();
    while let Stage::Ramp { percent } = bench.stage() {
        let to_a = (0..10_000_u64).filter(|key| bench.state.route(*key) == Route::To("a")).count();
        assert!((to_a as i64 - i64::from(percent) * 100).abs() < 200, "{percent} % are {to_a}");
        shares.push(percent);
        assert!(!bench.tick(29_999).changed, "each share is watched for its time");
        bench.tick(1);
    }
    assert_eq!(shares, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    bench.finish();
    assert_eq!(bench.state.phase, Phase::PrimaryActive);
}

#[test]
fn new_calls_wait_from_the_pause_to_the_switch_and_not_before_a_ramp() {
    let mut bench = Bench::new();
    bench.step(&Input::Move { to: None, by: "ops".into(), force: false }).unwrap();
    for (stage, report) in [
        (Stage::Pause, Report::Paused),
        (Stage::Drain, Report::Drained),
        (Stage::Check, Report::Checked(Ok(()))),
    ] {
        assert_eq!((bench.stage(), bench.state.route(1)), (stage, Route::Hold));
        bench.report(report);
    }
    assert_eq!((bench.stage(), bench.state.route(1)), (Stage::Switch, Route::To("b")));
    let mut bench = Bench::new();
    bench.set("a", Opinion::Degraded, Cause::Errors);
    bench.tick(0);
    assert_eq!((bench.stage(), bench.state.route(1)), (Stage::Check, Route::To("a")));
}

/// All sessions are at the new instance already when a ramp has ended: nobody has to wait for the old one's last
/// calls.
#[test]
fn new_calls_wait_for_no_drain_where_all_have_gone_over_already() {
    let mut bench = Bench::new();
    bench.set("a", Opinion::Degraded, Cause::Errors);
    bench.tick(0);
    bench.report(Report::Checked(Ok(())));
    while let Stage::Ramp { .. } = bench.stage() {
        bench.tick(6_000);
    }
    assert_eq!((bench.stage(), bench.state.route(1)), (Stage::Pause, Route::Hold));
    assert!(bench.state.serves("b"), "it goes on where it is");
    bench.report(Report::Paused);
    assert_eq!((bench.stage(), bench.state.route(1)), (Stage::Drain, Route::To("b")));
    assert!(bench.state.serves("b"));
    // The old one fails meanwhile: what is left of the move goes on.
    bench.down("a");
    bench.tick(0);
    assert_eq!((bench.stage(), bench.state.route(1)), (Stage::Switch, Route::To("b")));
}

#[test]
fn a_failback_counts_its_delay_from_the_switch_too() {
    let mut bench = Bench::new();
    // Well again before the switch was made: its verdict is older than the failover.
    bench.down("a");
    bench.tick(0);
    bench.well("a");
    bench.now += 200_000;
    bench.finish();
    assert_eq!(bench.state.phase, Phase::SecondaryActive);
    assert!(!bench.tick(299_999).changed);
    assert!(bench.tick(1).changed);
}

#[test]
fn what_an_operator_moved_stays_until_an_operator_says_so_or_it_fails() {
    let mut bench = Bench::new();
    let wish = |to: &str| Input::Move { to: Some(to.into()), by: "ops".into(), force: false };
    bench.step(&wish("b")).unwrap();
    bench.finish();
    assert!(bench.state.by_hand);
    assert!(!bench.tick(100_000_000).changed, "{:?}", bench.state);
    bench.step(&Input::Back { by: "ops".into(), at_once: false }).unwrap();
    bench.finish();
    assert_eq!(bench.state.phase, Phase::PrimaryActive);
    bench.step(&wish("b")).unwrap();
    bench.finish();
    bench.down("b");
    bench.tick(0);
    bench.finish();
    assert_eq!((bench.state.active.as_str(), bench.state.by_hand), ("a", false));
}

#[test]
fn a_failback_that_does_worse_is_rolled_back_and_waits_longer_each_time() {
    let mut bench = Bench::new();
    bench.down("a");
    bench.tick(0);
    bench.finish();
    bench.well("a");
    for waits in [300_000_u64, 600_000, 1_200_000, 2_400_000, 2_400_000] {
        bench.well("a");
        assert!(!bench.tick(waits - 1).changed, "{waits}");
        assert!(bench.tick(1).changed, "{waits}");
        bench.report(Report::Checked(Ok(())));
        bench.set("a", Opinion::Degraded, Cause::Score);
        bench.tick(0);
        assert_eq!(bench.stage(), Stage::Notify { end: End::RolledBack });
        assert_eq!(bench.state.route(3), Route::To("b"));
        bench.report(Report::Notified);
        assert_eq!(bench.state.phase, Phase::SecondaryActive);
    }
    let never = Params { automatic_failback: false, ..bench.params.clone() };
    bench.params = never;
    bench.well("a");
    assert!(!bench.tick(100_000_000).changed);
    assert!(bench.step(&Input::Back { by: "ops".into(), at_once: true }).is_ok());
    assert_eq!(bench.stage(), Stage::Pause, "at once: without a ramp");
}

#[test]
fn who_can_be_moved_to() {
    let mut bench = Bench::new();
    let wish = |to: Option<&str>, force| {
        let input = Input::Move { to: to.map(str::to_owned), by: "ops".into(), force };
        let stepped = bench.state.step(&input, &bench.seen, &bench.params, 1, bench.now);
        stepped.map(|it| it.next.moving().unwrap().to.clone())
    };
    assert_eq!(wish(None, false), Ok("b".into()));
    assert_eq!(wish(Some("c"), false), Ok("c".into()));
    assert_eq!(wish(Some("a"), false), Err(Refusal::Already));
    assert_eq!(wish(Some("r"), true), Err(Refusal::Unknown));
    assert_eq!(wish(Some("x"), true), Err(Refusal::Unknown));
    bench.down("c");
    let wish = |to: &str, force| {
        let input = Input::Move { to: Some(to.to_owned()), by: "ops".into(), force };
        bench.state.step(&input, &bench.seen, &bench.params, 1, bench.now).is_ok()
    };
    assert!(!wish("c", false));
    assert!(wish("c", true));
}

#[test]
fn a_gate_lets_no_earlier_step_or_coordinator_through() {
    let fence = |term, generation, step| Fence { term, generation, step };
    let mut gate = Gate::default();
    assert!(gate.admits(fence(3, 1, 2)));
    assert!(gate.admits(fence(3, 1, 2)), "the same again");
    assert!(gate.admits(fence(4, 1, 2)), "by the next coordinator");
    assert!(!gate.admits(fence(3, 1, 2)), "by the last one");
    assert!(!gate.admits(fence(3, 1, 3)));
    assert!(!gate.admits(fence(4, 1, 1)));
    assert!(gate.admits(fence(4, 2, 0)));
    assert!(!gate.admits(fence(4, 1, 9)));
}

#[test]
fn what_triggers_what() {
    let bench = Bench::new();
    let with = |opinion, cause, score| {
        let seen = Seen { opinion, cause, score, ..bench.seen[0] };
        trigger::trigger(Some(&seen), &bench.params).map(|it| it.manner)
    };
    use Cause::*;
    use Opinion::*;
    let (immediate, gradual) = (Some(Manner::Immediate), Some(Manner::Gradual));
    for cause in [Unreachable, Authentication, Critical] {
        assert_eq!(with(Some(Unhealthy), cause, 90), immediate);
        assert_eq!(with(Some(Degraded), cause, 60), None);
    }
    assert_eq!(with(Some(Unhealthy), BreakerOpen, 90), immediate);
    assert_eq!(with(Some(Degraded), BreakerOpen, 95), immediate);
    for cause in [Errors, Exhausted] {
        assert_eq!(with(Some(Unhealthy), cause, 45), gradual);
        assert_eq!(with(Some(Unhealthy), cause, 39), immediate);
        assert_eq!(with(Some(Degraded), cause, 80), gradual);
    }
    assert_eq!(with(Some(Degraded), Score, 50), None);
    assert_eq!(with(Some(Degraded), Score, 49), gradual);
    assert_eq!(with(Some(Healthy), Errors, 0), None);
    assert_eq!(with(None, Unreachable, 0), None, "nothing is known");
    assert_eq!(trigger::trigger(None, &bench.params).map(|it| it.manner), immediate);
}

/// `a` was active and is taken out of the configuration, in which `primary` is the primary now.
fn taken_out(primary: &str, opinions: [Option<Opinion>; 2]) -> (Bench, Stepped) {
    let mut bench = Bench::new();
    bench.seen.retain(|it| it.name == "b" || it.name == "c");
    bench.params.primary = primary.to_owned();
    for (it, opinion) in bench.seen.iter_mut().zip(opinions) {
        (it.role, it.opinion) = (Role::Secondary, opinion);
        if it.name == primary {
            it.role = Role::Primary;
        }
    }
    let stepped = bench.tick(100);
    (bench, stepped)
}

#[test]
fn what_is_configured_no_more_is_left_at_once_for_the_primary() {
    use Opinion::{Healthy, Unhealthy};
    // Not for the first that is well: its calls are at the primary already.
    let (mut bench, stepped) = taken_out("c", [Some(Healthy), Some(Healthy)]);
    let it = stepped.next.moving().unwrap();
    assert_eq!((it.to.as_str(), it.manner, it.stage), ("c", Manner::Immediate, Stage::Pause));
    assert_eq!(it.cause, "a is not configured any more");
    bench.finish();
    assert_eq!((bench.state.active.as_str(), &bench.state.phase), ("c", &Phase::PrimaryActive));
    // Nothing is known of it yet: it serves, and nobody is told of a failure.
    let (mut bench, stepped) = taken_out("c", [Some(Healthy), None]);
    assert!(!stepped.changed, "{:?}", stepped.next);
    let serves = bench.state.route_within(7, |it| it != "a", "c");
    assert_eq!(serves, Route::To("c"));
    bench.well("c");
    assert_eq!(bench.tick(100).next.moving().map(|it| it.to.as_str()), Some("c"));
    // One that is of no use is nobody's target.
    let (_, stepped) = taken_out("c", [Some(Healthy), Some(Unhealthy)]);
    assert_eq!(stepped.next.moving().map(|it| it.to.as_str()), Some("b"));
    let (_, stepped) = taken_out("c", [Some(Unhealthy), Some(Unhealthy)]);
    assert!(matches!(stepped.next.phase, Phase::Failed(_)), "{:?}", stepped.next);
}

/// A replica takes Reads alone: it is left as what is configured no more, however well it is.
#[test]
fn what_became_a_replica_is_left_at_once_for_the_primary() {
    let mut bench = Bench::new();
    (bench.seen[0].role, bench.seen[2].role) = (Role::Replica, Role::Primary);
    bench.params.primary = "c".to_owned();
    let stepped = bench.tick(100);
    let it = stepped.next.moving().unwrap();
    assert_eq!((it.to.as_str(), it.manner, it.stage), ("c", Manner::Immediate, Stage::Pause));
    assert_eq!(it.cause, "a is a replica now");
    assert!(!bench.tick(100).changed, "that it is well is no reason to stay");
    bench.finish();
    assert_eq!((bench.state.active.as_str(), &bench.state.phase), ("c", &Phase::PrimaryActive));
    // One that becomes a replica on the way is no target any more.
    bench.step(&Input::Move { to: Some("b".into()), by: "ops".into(), force: true }).unwrap();
    bench.seen[1].role = Role::Replica;
    let stepped = bench.tick(100);
    let it = stepped.next.moving().unwrap();
    assert_eq!(it.stage, Stage::Notify { end: End::RolledBack });
    assert_eq!(it.cause, "b is a replica now");
    bench.finish();
    assert_eq!(bench.state.phase, Phase::PrimaryActive);
}

/// Until the group finds otherwise of the instance: for a reason that is still the same one nothing begins again.
#[test]
fn a_gradual_failover_that_an_operator_takes_back_does_not_begin_again() {
    let mut bench = Bench::new();
    bench.set("a", Opinion::Degraded, Cause::Errors);
    assert!(bench.tick(1_000).changed);
    bench.step(&Input::Back { by: "ops".into(), at_once: false }).unwrap();
    bench.tick(10_000);
    bench.report(Report::Notified);
    assert_eq!(bench.state.phase, Phase::PrimaryActive);
    for _ in 0..100 {
        assert!(!bench.tick(60_000).changed, "the operator has said so");
    }
    bench.well("a");
    assert!(!bench.tick(1_000).changed);
    bench.now += 1_000;
    bench.set("a", Opinion::Degraded, Cause::Errors);
    assert!(bench.tick(1_000).changed, "it is ill again");
    // One that fails is left, whatever was said of it before.
    bench.step(&Input::Back { by: "ops".into(), at_once: false }).unwrap();
    bench.report(Report::Notified);
    assert!(!bench.tick(600_000).changed);
    bench.down("a");
    assert_eq!(bench.tick(0).next.moving().map(|it| it.manner), Some(Manner::Immediate));
    bench.finish();
    assert_eq!(bench.state.active, "b");
    // What was said of one says nothing of another.
    bench.now += 300_000;
    bench.well("a");
    bench.now += 300_000;
    bench.set("b", Opinion::Degraded, Cause::Errors);
    assert_eq!(bench.tick(0).next.moving().map(|it| it.manner), Some(Manner::Gradual));
}

#[test]
fn breakers_that_are_open_are_left_at_once_for_a_healthy_instance_and_for_no_other() {
    let mut bench = Bench::new();
    bench.set("a", Opinion::Degraded, Cause::BreakerOpen);
    for name in ["b", "c"] {
        bench.set(name, Opinion::Degraded, Cause::Score);
    }
    assert!(!bench.tick(0).changed, "from bad to no better is no way to go");
    bench.well("c");
    let began = bench.tick(0);
    let it = began.next.moving().unwrap();
    assert_eq!((it.to.as_str(), it.manner), ("c", Manner::Immediate));
    bench.finish();
    // Now this one fails its calls, and the others have just become well.
    bench.set("c", Opinion::Degraded, Cause::BreakerOpen);
    bench.now += 1;
    bench.well("a");
    bench.well("b");
    assert!(!bench.tick(1_000).changed, "they were ill since the switch");
    assert!(bench.tick(300_000).changed, "and have been well for the delay");
}

/// Nothing is served there: what was rolled back before only makes a move bit by bit wait.
#[test]
fn open_breakers_are_left_whatever_was_rolled_back_before() {
    for (cause, leaves) in [(Cause::BreakerOpen, true), (Cause::Errors, false)] {
        let mut bench = Bench::new();
        bench.state.not_before = bench.now + 600_000;
        bench.set("a", Opinion::Degraded, cause);
        assert_eq!(bench.tick(0).changed, leaves, "{cause:?}");
    }
}

/// The nodes count calls anew from a switch on; until they have voted on that, their verdict is of before.
#[test]
fn calls_that_failed_before_an_instance_was_active_move_nothing_until_the_nodes_counted_anew() {
    let placed_at_b = |opinion, cause| {
        let mut bench = Bench::new();
        bench.set("b", opinion, cause);
        bench.now += 1_000;
        bench.step(&Input::Move { to: Some("b".into()), by: "ops".into(), force: true }).unwrap();
        bench.finish();
        assert_eq!((bench.state.active.as_str(), bench.state.switched_at), ("b", bench.now));
        bench
    };
    for cause in [Cause::Errors, Cause::BreakerOpen] {
        let mut bench = placed_at_b(Opinion::Degraded, cause);
        assert!(!bench.tick(2_999).changed, "{cause:?}");
        assert!(bench.tick(1).changed, "{cause:?}: they have not found otherwise");
        // What is found after the switch is of the calls after it.
        let mut bench = placed_at_b(Opinion::Degraded, cause);
        bench.now += 1;
        bench.set("b", Opinion::Degraded, cause);
        assert!(bench.tick(0).changed, "{cause:?}");
        // And what no call can be served by is not waited for.
        assert!(placed_at_b(Opinion::Unhealthy, cause).tick(0).changed, "{cause:?}");
    }
    assert!(placed_at_b(Opinion::Degraded, Cause::Exhausted).tick(0).changed, "no word of calls");
}

#[test]
fn an_operator_stops_a_failback_and_it_does_not_begin_again() {
    let mut bench = Bench::new();
    bench.down("a");
    bench.tick(0);
    bench.finish();
    bench.well("a");
    bench.tick(300_000);
    bench.report(Report::Checked(Ok(())));
    assert_eq!(bench.stage(), Stage::Ramp { percent: 10 });
    let to = |name: Option<&str>| Input::Move {
        to: name.map(str::to_owned),
        by: "ops".into(),
        force: false,
    };
    assert_eq!(bench.step(&to(Some("c"))), Err(Refusal::Busy), "elsewhere is another move");
    bench.step(&to(None)).unwrap();
    assert_eq!(bench.stage(), Stage::Notify { end: End::RolledBack });
    bench.finish();
    assert_eq!(bench.state.active, "b");
    assert!(!bench.tick(100_000_000).changed);
    bench.step(&Input::Back { by: "ops".into(), at_once: false }).unwrap();
    bench.finish();
    assert_eq!((bench.state.phase.clone(), bench.state.by_hand), (Phase::PrimaryActive, false));
}

#[test]
fn a_move_is_called_off_before_its_switch_and_calls_go_on_to_where_they_went() {
    let mut bench = Bench::new();
    assert_eq!(bench.state.called_off("why", bench.now), None);
    let to = Input::Move { to: Some("c".into()), by: "ops".into(), force: false };
    bench.step(&to).unwrap();
    assert_eq!(bench.state.route(7), Route::Hold);
    let next = bench.state.called_off("why", bench.now).unwrap();
    assert_eq!((next.generation, next.step), (bench.state.generation, bench.state.step + 1));
    assert_eq!((next.route(7), next.moving().unwrap().cause.as_str()), (Route::To("a"), "why"));
    assert_eq!(next.called_off("again", bench.now), None);
    bench.finish();
    assert_eq!(bench.state.called_off("why", bench.now), None);
}

/// From one that is of some use nobody goes to one that is no better, also when the first target fails.
#[test]
fn who_left_for_a_healthy_one_goes_on_to_a_healthy_one_only() {
    let after = |cause, opinion| {
        let mut bench = Bench::new();
        bench.set("a", opinion, cause);
        bench.set("c", Opinion::Degraded, Cause::Score);
        bench.tick(0);
        let to = |bench: &Bench| bench.state.moving().map(|it| it.to.clone());
        assert_eq!(to(&bench).as_deref(), Some("b"));
        bench.down("b");
        bench.tick(0);
        (to(&bench), bench.stage())
    };
    let (to, stage) = after(Cause::Unreachable, Opinion::Unhealthy);
    assert_eq!((to.as_deref(), stage), (Some("c"), Stage::Pause));
    let (_, stage) = after(Cause::BreakerOpen, Opinion::Degraded);
    assert_eq!(stage, Stage::Notify { end: End::RolledBack });
}

/// As a check that fails at the target for the reason that the active instance fails for.
#[test]
fn who_is_left_in_vain_although_it_is_of_some_use_is_not_left_again_at_once() {
    let mut bench = Bench::new();
    bench.set("a", Opinion::Degraded, Cause::BreakerOpen);
    bench.tick(0);
    for to in ["b", "c"] {
        assert_eq!(bench.state.moving().map(|it| it.to.as_str()), Some(to));
        bench.report(Report::Paused);
        bench.report(Report::Checked(Err("no".into())));
    }
    assert_eq!(bench.stage(), Stage::Notify { end: End::RolledBack });
    let moves = bench.state.generation;
    for _ in 0..5 {
        bench.tick(20);
        assert_eq!(bench.state.generation, moves, "its calls are not held again");
    }
    bench.report(Report::Notified);
    assert!(bench.state.moving().is_none() && !bench.tick(20).changed);
    bench.tick(bench.state.not_before - bench.now);
    assert_eq!(bench.state.moving().map(|it| it.to.as_str()), Some("b"), "another try later");
}

/// Its calls are held once for nothing, and not each time that it is ill for a moment.
#[test]
fn an_instance_that_flaps_is_left_when_it_is_ill_again_before_the_rest_is_over() {
    let mut bench = Bench::new();
    let flaps = |bench: &mut Bench| {
        bench.down("a");
        bench.tick(0);
        assert_eq!(bench.stage(), Stage::Pause);
        bench.well("a");
        bench.tick(100);
        bench.stage()
    };
    let taken_back = Stage::Notify { end: End::RolledBack };
    assert_eq!(flaps(&mut bench), taken_back);
    bench.finish();
    // Once the rest is over it is as the first time, and the next rest is longer.
    let first = bench.state.not_before - bench.now;
    bench.tick(first);
    assert_eq!(flaps(&mut bench), taken_back);
    bench.finish();
    let second = bench.state.not_before - bench.now;
    assert!(first < second && second <= 80_000, "{first} {second}");
    bench.tick(second - 1_000);
    assert_eq!(flaps(&mut bench), Stage::Pause, "it goes on");
    bench.finish();
    assert_eq!((bench.state.active.as_str(), bench.state.rollbacks), ("b", 0));
}

/// That the primary did worse is no reason to leave the secondary for a moment's trouble, for all the longer rest.
#[test]
fn a_failback_that_was_rolled_back_makes_no_failover_go_on() {
    let mut bench = Bench::new();
    bench.down("a");
    bench.tick(0);
    bench.finish();
    bench.well("a");
    bench.tick(300_000);
    bench.set("a", Opinion::Degraded, Cause::Score);
    bench.report(Report::Checked(Ok(())));
    bench.tick(0);
    bench.finish();
    assert!(bench.state.rollbacks == 1 && bench.state.active == "b");
    bench.well("a");
    bench.down("b");
    bench.tick(0);
    assert_eq!(bench.stage(), Stage::Pause);
    bench.well("b");
    bench.tick(100);
    assert_eq!(bench.stage(), Stage::Notify { end: End::RolledBack });
}

#[test]
fn where_nothing_works_one_that_is_of_some_use_again_serves_and_nobody_goes_to_its_like() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.down(name);
    }
    bench.tick(0);
    assert!(matches!(bench.state.phase, Phase::Failed(_)), "{:?}", bench.state);
    bench.now += 1;
    for name in ["a", "b", "c"] {
        bench.set(name, Opinion::Degraded, Cause::BreakerOpen);
    }
    assert!(bench.tick(0).changed);
    assert_eq!((&bench.state.phase, bench.state.attempts), (&Phase::PrimaryActive, 0));
    assert!(!bench.tick(0).changed, "{:?}", bench.state);
}
