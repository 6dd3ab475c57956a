//! What a history says of outages; what holds of any history is in [`properties`].

mod properties;

use super::*;
use ServerHappened::*;

fn event(at: u64, instance: &str, what: ServerHappened) -> ServerEvent {
    let (server, instance) = ("db".to_owned(), instance.to_owned());
    let evidence = String::new();
    ServerEvent { index: at, at, server, instance, generation: 1, what, evidence }
}

fn verdict(to: Opinion, evidence_since: u64) -> ServerHappened {
    Verdict { from: None, to, active: true, evidence_since }
}

const DOWN: Opinion = Opinion::Unhealthy;
const WELL: Opinion = Opinion::Healthy;

#[test]
fn an_outage_is_measured_from_the_first_evidence_to_the_first_good_answer() {
    let events = [
        event(1_000, "a", verdict(DOWN, 400)),
        event(1_050, "b", FailoverBegan),
        event(1_300, "b", Switched),
        event(1_700, "b", Answered { lost: None }),
        event(2_000, "b", Settled),
    ];
    let outages = outages(&events);
    let [it] = &outages[..] else { panic!("{outages:?}") };
    assert_eq!((it.detection(), it.decided), (600, Some(1_050)));
    assert_eq!((it.switched, it.ended), (Some(1_300), Some(1_700)));
    assert_eq!(it.ending, Ending::FailedOver);
    let met = Judged { took: 1_300, rto: Compliance::Met, in_doubt: 0, rpo: None };
    assert_eq!(it.judge(Objective::of_tier(1), 9_999), met);
    assert_eq!(it.failover(700, 9_999), Some((700, Compliance::Met)));
    assert_eq!(it.failover(699, 9_999), Some((700, Compliance::Breached)));
    let tight = Objective { rto: 1_299, rpo: 0 };
    assert_eq!(it.judge(tight, 9_999).rto, Compliance::Breached);
}

#[test]
fn one_that_goes_on_is_breached_as_soon_as_its_time_is_over() {
    let outages = outages(&[event(1_000, "a", verdict(DOWN, 0))]);
    let at = |now| outages[0].judge(Objective::of_tier(1), now).rto;
    assert_eq!(at(31_000), Compliance::Running);
    assert_eq!(at(31_001), Compliance::Breached);
    assert_eq!(outages[0].failover(1, 31_000), None, "no failover has begun");
    let began = [event(1_000, "a", verdict(DOWN, 0)), event(1_010, "b", FailoverBegan)];
    let begun = &super::outages(&began)[0];
    assert_eq!(begun.failover(1_000, 2_000), Some((1_000, Compliance::Running)));
    assert_eq!(begun.failover(1_000, 2_001), Some((1_001, Compliance::Breached)));
    let used = [event(1_300, "b", Switched), event(1_400, "b", Progressed)];
    let used = [&began[..], &used].concat();
    let used = &super::outages(&used)[0];
    assert_eq!((used.ending, used.ended), (Ending::Open, None), "people are being told");
    assert_eq!(used.failover(1_000, 9_000), Some((400, Compliance::Running)));
    assert_eq!(used.judge(Objective::of_tier(1), 99_000).rto, Compliance::Running);
    let ill = [event(1_500, "b", verdict(DOWN, 0))];
    let ill = [&began[..], &[event(1_300, "b", Switched), event(1_400, "b", Progressed)], &ill];
    let ill = &super::outages(&ill.concat())[0];
    assert_eq!(ill.judge(Objective::of_tier(1), 99_000).rto, Compliance::Breached);
}

#[test]
fn one_whose_next_instance_is_ill_before_all_use_it_goes_on() {
    let moved = [
        event(1_000, "a", verdict(DOWN, 0)),
        event(1_050, "b", FailoverBegan),
        event(1_300, "b", Switched),
    ];
    let of = |rest: &[ServerEvent]| outages(&[&moved[..], rest].concat()).remove(0);
    let down = event(1_400, "b", verdict(DOWN, 0));
    let used = event(1_500, "b", Progressed);
    let rto = |it: &Outage| it.judge(Objective::of_tier(1), 99_000).rto;
    let waits = of(&[down.clone(), used.clone()]);
    assert_eq!((waits.ending, rto(&waits)), (Ending::Open, Compliance::Breached));
    let failed = event(1_600, "b", Failed);
    let all = of(&[down.clone(), used.clone(), failed.clone()]);
    assert_eq!((rto(&all), all.has_failed), (Compliance::Breached, true));
    assert_eq!(rto(&of(&[used.clone(), failed])), Compliance::Breached);
    // It is left bit by bit, or there is no other: the move settles on it.
    let settled = event(1_900, "b", Settled);
    let open = event(1_700, "b", fail(Cause::BreakerOpen, WELL, 0));
    for ill in [down, open] {
        let it = of(&[used.clone(), ill.clone(), settled.clone()]);
        assert_eq!((it.ending, rto(&it)), (Ending::Open, Compliance::Breached), "{ill:?}");
        let next = [event(2_000, "c", FailoverBegan), event(2_100, "c", Switched)];
        let next = [&[ill][..], &next, &[event(2_200, "c", Settled)]].concat();
        assert_eq!(of(&next).ended, Some(2_200), "c is another one");
    }
    // One that is taken back leaves the server on what was well.
    let back = [used, event(1_600, "a", FailoverBegan), settled];
    assert_eq!((of(&back).ending, of(&back).ended), (Ending::FailedOver, Some(1_900)));
    // Both fall before a move has settled; the first one is well again, and nobody calls.
    let both = [
        event(1_600, "b", verdict(DOWN, 0)),
        event(1_700, "a", FailoverBegan),
        event(1_800, "a", Switched),
        event(1_900, "a", verdict(DOWN, 0)),
        event(2_000, "a", Failed),
        event(5_000, "a", verdict(WELL, 0)),
        event(6_000, "a", Settled),
    ];
    assert_eq!(of(&both).ended, Some(6_000));
}

#[test]
fn one_that_is_moved_by_force_to_what_is_of_no_use_goes_on() {
    let standby =
        |at, to| event(at, "b", Verdict { from: None, to, active: false, evidence_since: 0 });
    let forced = [
        event(1_000, "a", verdict(DOWN, 0)),
        event(1_050, "b", FailoverBegan),
        event(1_300, "b", Switched),
        event(1_400, "b", Progressed),
        event(1_500, "b", Settled),
    ];
    let of = |before: &[ServerEvent], after: &[ServerEvent]| {
        let it = outages(&[before, &forced, after].concat()).remove(0);
        (it.ending, it.ended)
    };
    let (failed_over, open) = (Ending::FailedOver, (Ending::Open, None));
    assert_eq!(of(&[standby(900, DOWN)], &[]), open);
    assert_eq!(of(&[standby(800, DOWN), standby(900, WELL)], &[]), (failed_over, Some(1_400)));
    assert_eq!(of(&[], &[]), (failed_over, Some(1_400)));
    // It goes on until that one is of use, or answers, or another one takes over.
    for it in [event(9_000, "b", verdict(WELL, 0)), event(9_000, "b", Answered { lost: None })] {
        assert_eq!(of(&[standby(900, DOWN)], &[it]), (failed_over, Some(9_000)));
    }
    let away = [
        event(8_000, "c", FailoverBegan),
        event(8_100, "c", Switched),
        event(8_200, "c", Progressed),
        event(9_000, "c", Settled),
    ];
    assert_eq!(of(&[standby(900, DOWN)], &away), (failed_over, Some(8_200)));
}

#[test]
fn an_idle_servers_outage_is_over_with_the_move_whatever_shows_it() {
    let moved = [
        event(1_000, "a", verdict(DOWN, 0)),
        event(1_050, "b", FailoverBegan),
        event(1_300, "b", Switched),
        event(1_400, "b", Progressed),
    ];
    let answered = Answered { lost: None };
    let errs = CallsFail { from: Some(DOWN), cause: Cause::Errors, evidence_since: 0 };
    for what in [answered, verdict(WELL, 0), verdict(Opinion::Degraded, 0), errs, Settled] {
        let all = outages(&[&moved[..], &[event(21_000, "b", what)]].concat());
        assert_eq!((all[0].ending, all[0].ended), (Ending::FailedOver, Some(1_400)), "{what:?}");
    }
}

#[test]
fn what_comes_back_by_itself_has_recovered_and_what_nobody_calls_ends_with_the_move() {
    let ending = |rest: &[ServerEvent]| {
        let first = [event(1_000, "a", verdict(DOWN, 0))];
        let events: Vec<_> = first.iter().chain(rest).cloned().collect();
        let outages = outages(&events);
        (outages.len(), outages[0].ending, outages[0].ended)
    };
    let back = [event(5_000, "a", verdict(WELL, 0))];
    assert_eq!(ending(&back), (1, Ending::Recovered, Some(5_000)));
    let told = [event(2_000, "b", Switched), event(4_000, "b", Settled)];
    assert_eq!(ending(&told), (1, Ending::FailedOver, Some(4_000)));
    // From here on all nodes use it; the rest is telling people.
    let used =
        [event(2_000, "b", Switched), event(2_100, "b", Progressed), event(32_000, "b", Settled)];
    assert_eq!(ending(&used), (1, Ending::FailedOver, Some(2_100)));
    // It fails as well, before that is over.
    let fails = [
        event(2_000, "b", Switched),
        event(2_100, "b", Progressed),
        event(9_000, "b", verdict(DOWN, 0)),
        event(9_010, "c", FailoverBegan),
        event(9_020, "c", Progressed),
        event(9_100, "c", Switched),
        event(9_200, "c", Progressed),
        event(32_000, "c", Settled),
    ];
    assert_eq!(ending(&fails), (1, Ending::FailedOver, Some(9_200)));
    let gone = [event(3_000, "", Retired)];
    assert_eq!(ending(&gone), (1, Ending::Retired, Some(3_000)));
    let tried = [event(2_000, "", Failed), event(4_000, "a", verdict(WELL, 0))];
    assert_eq!(ending(&tried), (1, Ending::Recovered, Some(4_000)));
}

#[test]
fn standby_instances_moves_by_hand_and_forgotten_beginnings_are_no_outages() {
    let standby = Verdict { from: None, to: DOWN, active: false, evidence_since: 0 };
    let events = [
        event(1, "b", standby),
        event(2, "b", FailoverBegan),
        event(3, "b", Switched),
        event(4, "b", Answered { lost: None }),
    ];
    assert_eq!(outages(&events), []);
}

fn fail(cause: Cause, from: Opinion, evidence_since: u64) -> ServerHappened {
    CallsFail { from: Some(from), cause, evidence_since }
}

#[test]
fn one_whose_breakers_are_open_is_out_whatever_its_checks_say() {
    let open = fail(Cause::BreakerOpen, WELL, 700);
    let first = [event(1_000, "a", open)];
    assert_eq!((outages(&first)[0].began, outages(&first)[0].ending), (700, Ending::Open));
    let moved = [
        event(1_000, "a", open),
        event(1_010, "b", FailoverBegan),
        event(1_300, "b", Switched),
        event(1_400, "b", Answered { lost: None }),
    ];
    let it = &outages(&moved)[0];
    assert_eq!((it.detection(), it.decided, it.switched), (300, Some(1_010), Some(1_300)));
    assert_eq!((it.ended, it.ending), (Some(1_400), Ending::FailedOver));
    assert_eq!(it.failover(1_000, 9_999), Some((400, Compliance::Met)));
    // It falls further and gets better by degrees: one outage, until its calls succeed.
    let degrees = [
        event(1_000, "a", open),
        event(2_000, "a", verdict(DOWN, 0)),
        event(3_000, "a", fail(Cause::BreakerOpen, DOWN, 0)),
        event(3_500, "a", fail(Cause::Errors, Opinion::Degraded, 0)),
        event(4_000, "a", verdict(Opinion::Degraded, 0)),
    ];
    let all = outages(&degrees);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].began, all[0].ended), (700, Some(4_000)));
    assert_eq!(all[0].ending, Ending::Recovered);
}

#[test]
fn too_many_errors_are_an_outage_if_the_server_leaves_for_them() {
    let bad = event(1_000, "a", fail(Cause::Errors, WELL, 900));
    assert_eq!(outages([&bad]), []);
    let better = [
        bad.clone(),
        event(2_000, "a", verdict(Opinion::Degraded, 0)),
        event(3_000, "b", FailoverBegan),
    ];
    assert_eq!(outages(&better), [], "by then there was another reason");
    let left = [
        bad,
        event(1_100, "b", FailoverBegan),
        event(61_000, "b", Switched),
        event(61_500, "b", Answered { lost: None }),
    ];
    let it = &outages(&left)[0];
    assert_eq!((it.began, it.detected, it.decided), (900, 1_000, Some(1_100)));
    assert_eq!(it.judge(Objective::of_tier(1), 99_999).rto, Compliance::Breached);
    assert_eq!(it.failover(1_000, 99_999), None, "it was in no hurry");
    // One that was down, and is of some use again.
    let after = [
        event(500, "a", verdict(DOWN, 0)),
        event(1_000, "a", fail(Cause::Errors, DOWN, 0)),
        event(1_100, "b", FailoverBegan),
    ];
    let all = outages(&after);
    assert_eq!(
        all.iter().map(|it| it.ending).collect::<Vec<_>>(),
        [Ending::Recovered, Ending::Open]
    );
}

fn lost(at: u64, outage: u64, unknown: u32, oldest: u64, moved: u32) -> ServerEvent {
    event(at, "a", Lost { outage, unknown, oldest, moved })
}

#[test]
fn a_write_in_doubt_is_held_against_the_rpo_from_its_receipt_to_the_end_of_the_outage() {
    let began = [event(1_000, "a", verdict(DOWN, 0))];
    let over = [&began[..], &[event(5_000, "a", verdict(WELL, 0))]].concat();
    // As the coordinator writes it when it finds the outage.
    let counted = lost(1_100, 1_000, 0, 0, 0);
    let judged = |events: &[ServerEvent], rpo: u64, now| {
        let it = &outages(events)[0];
        let judged = it.judge(Objective { rto: 30_000, rpo }, now);
        (it.unknown, it.moved, judged.in_doubt, judged.rpo)
    };
    let (met, breached) = (Some(Compliance::Met), Some(Compliance::Breached));
    let running = Some(Compliance::Running);
    assert_eq!(judged(&over, 0, 9_000), (0, 0, 0, None), "nobody counted");
    assert_eq!(judged(&began, 0, 3_000).3, None);
    let nothing = [&over[..], std::slice::from_ref(&counted)].concat();
    assert_eq!(judged(&nothing, 0, 9_000), (0, 0, 0, met), "nothing is in doubt");
    // It was known only when the outage was over, and another node tells of more.
    let late = [&over[..], &[lost(70_000, 1_000, 1, 3_000, 0)]].concat();
    assert_eq!(judged(&late, 0, 99_000), (1, 0, 2_000, breached), "tier 1 allows none");
    assert_eq!(judged(&late, 1_999, 99_000).3, breached);
    assert_eq!(judged(&late, 2_000, 99_000).3, met);
    let more = [&late[..], &[lost(71_000, 1_000, 2, 900, 7)]].concat();
    assert_eq!(judged(&more, 0, 99_000), (3, 7, 4_100, breached), "before the first sign");
    let moved = [&over[..], &[lost(6_000, 1_000, 0, 0, 200)]].concat();
    assert_eq!(judged(&moved, 0, 9_000), (0, 200, 0, met), "a session is no Write");
    let open = [&began[..], &[lost(2_000, 1_000, 1, 900, 0)]].concat();
    assert_eq!(judged(&open, 0, 3_000).3, breached, "it cannot be kept any more");
    assert_eq!(judged(&open, 2_100, 3_000), (1, 0, 2_100, running));
    assert_eq!(judged(&[&began[..], &[counted]].concat(), 0, 3_000).3, running);
    // One that was received as the last thing.
    let last = [&over[..], &[lost(6_000, 1_000, 1, 5_000, 0)]].concat();
    assert_eq!(judged(&last, 0, 9_000), (1, 0, 1, breached));
    let forgotten = [&over[..], &[lost(6_000, 999, 1, 900, 0)]].concat();
    assert_eq!(judged(&forgotten, 0, 9_000), (0, 0, 0, None), "of another outage");
}

#[test]
fn servers_do_not_end_each_others_outages() {
    let mut other = event(2_000, "x", Answered { lost: None });
    other.server = "files".to_owned();
    let events = [event(1_000, "a", verdict(DOWN, 0)), other];
    assert_eq!(outages(&events)[0].ending, Ending::Open);
}

#[test]
fn a_server_that_does_not_move_is_out_while_none_of_its_instances_is_usable() {
    let of = |instance, at, from, to, active| {
        event(at, instance, Verdict { from, to, active, evidence_since: 0 })
    };
    // The history takes `a` for the active one, as it does where there is none.
    let (first, second) =
        (|at, from, to| of("a", at, from, to, true), |at, from, to| of("b", at, from, to, false));
    let well = [first(1, None, WELL), second(2, None, WELL)];
    let read = |more: &[ServerEvent], b: Option<Opinion>| {
        let equals = Equals::from([("db", BTreeMap::from([("a", None), ("b", b)]))]);
        let all = [&well[..], more].concat();
        let all = as_one(&all, &equals);
        let all = outages(all.iter().map(AsRef::as_ref));
        all.iter().map(|it| (it.instance.clone(), it.detected, it.ended)).collect::<Vec<_>>()
    };
    let one = |instance: &str, at, ended| vec![(instance.to_owned(), at, ended)];
    let a_falls = first(100, Some(WELL), DOWN);
    assert_eq!(read(std::slice::from_ref(&a_falls), None), [], "the other one serves");
    let both = [a_falls.clone(), second(200, Some(WELL), DOWN)];
    assert_eq!(read(&both, None), one("b", 200, None));
    let again =
        [&both[..], &[second(300, Some(DOWN), WELL), first(400, Some(DOWN), WELL)]].concat();
    assert_eq!(read(&again, None), one("b", 200, Some(300)));
    let other = [&both[..], &[first(300, Some(DOWN), Opinion::Degraded)]].concat();
    assert_eq!(read(&other, None), one("b", 200, Some(300)), "with errors, but it serves");
    let calls = |at, cause| CallsFail { from: Some(WELL), cause, evidence_since: at };
    let opens = event(100, "a", calls(90, Cause::BreakerOpen));
    assert_eq!(read(std::slice::from_ref(&opens), None), [], "its calls go to the other one");
    let opens = [second(50, Some(WELL), DOWN), opens];
    assert_eq!(read(&opens, None), one("a", 100, None));
    // Of one that is not the active one only the evidence says that its breakers are open.
    let mut b_opens = second(50, Some(WELL), Opinion::Degraded);
    b_opens.evidence = "3 of 3 nodes voted: score 1.00, breaker open".to_owned();
    let a_opens = event(100, "a", calls(90, Cause::BreakerOpen));
    assert_eq!(read(&[b_opens.clone(), a_opens.clone()], None), one("a", 100, None));
    b_opens.at = 200;
    assert_eq!(read(&[a_opens, b_opens], None), one("b", 200, None));
    // What is not configured any more was there at its time.
    let mut defined = event(300, "", Defined);
    defined.evidence = "a".to_owned();
    let alone = Equals::from([("db", BTreeMap::from([("a", None)]))]);
    let gone = [&well[..], &[a_falls.clone(), first(200, Some(DOWN), WELL), defined]].concat();
    let now = |more: &[ServerEvent]| {
        let all = [&gone[..], more].concat();
        outages(as_one(&all, &alone).iter().map(AsRef::as_ref)).len()
    };
    assert_eq!(now(&[]), 0, "the other one served");
    assert_eq!(now(&[first(400, Some(WELL), DOWN)]), 1);
    // What the history has forgotten of one without a line is what it still is.
    let equals = |b| Equals::from([("db", BTreeMap::from([("a", None), ("b", b)]))]);
    let only = [a_falls];
    let out = |b| outages(as_one(&only, &equals(b)).iter().map(AsRef::as_ref)).len();
    assert_eq!((out(Some(WELL)), out(Some(DOWN)), out(None)), (0, 1, 1));
    // The name that it had before it had several instances.
    let renamed = event(100, "a", verdict(DOWN, 0));
    let ServerEvent { what: Verdict { from, to, evidence_since, .. }, .. } = renamed else {
        panic!()
    };
    let stale = [event(100, "a", Verdict { from, to, active: false, evidence_since })];
    assert_eq!(outages(&stale).len(), 0);
    let alone = Equals::from([("db", BTreeMap::from([("a", None)]))]);
    assert_eq!(outages(as_one(&stale, &alone).iter().map(AsRef::as_ref)).len(), 1);
}

#[test]
fn totals_add_up() {
    let events = [
        event(1_000, "a", verdict(DOWN, 0)),
        event(2_000, "a", verdict(WELL, 0)),
        event(10_000, "a", verdict(DOWN, 0)),
        event(11_000, "", Failed),
        event(11_500, "b", Switched),
        event(13_000, "b", Answered { lost: None }),
        lost(15_000, 10_000, 1, 9_000, 0),
        event(20_000, "b", verdict(DOWN, 0)),
    ];
    let totals = totals(&outages(&events), Objective { rto: 2_000, rpo: 0 }, 25_000);
    let expected = Totals {
        outages: 3,
        open: 1,
        met: 1,
        breached: 2,
        lost: 1,
        failed_over: 1,
        failed: 1,
        worst: 5_000,
        down: 9_000,
        mean_to_recover: 2_000,
    };
    assert_eq!(totals, expected);
    assert_eq!(super::totals(&[], Objective::of_tier(3), 0), Totals::default());
}

#[test]
fn every_tier_allows_what_the_requirements_say() {
    let tiers = [1, 2, 3].map(|it| {
        let it = Objective::of_tier(it);
        (it.rto, it.rpo)
    });
    assert_eq!(tiers, [(30_000, 0), (120_000, 300_000), (300_000, 900_000)]);
}
