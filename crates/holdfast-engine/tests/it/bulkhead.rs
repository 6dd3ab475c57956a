//! The bulkhead's promises.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_engine::limits::bulkhead::{
    Bulkheads, ClassId, ClassParams, Entry, Full, HANGS, Ticket, ToolKey,
};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const USER: ClassId = ClassId(0);
const CRITICAL: ClassId = ClassId(1);

fn class(concurrency: u32, queue: u32, priority: u8) -> ClassParams {
    ClassParams { concurrency, queue, queue_timeout: 5 * SECOND, priority }
}

fn queued(entry: Entry) -> Ticket {
    match entry {
        Entry::Queued(ticket) => ticket,
        Entry::Entered | Entry::Refused { .. } => panic!("{entry:?}"),
    }
}

fn fill(all: &mut Bulkheads, class: ClassId, tool: u32, calls: u32, now: Instant) {
    for _ in 0..calls {
        assert_eq!(all.enter(class, ToolKey(tool), now), Entry::Entered);
    }
}

#[test]
fn a_class_that_is_full_takes_no_room_from_another() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(3, 1, 1), class(2, 0, 9)], None, SECOND);
    // Of three tools, so that none of them fills it.
    for tool in 1..=3 {
        fill(&mut all, USER, tool, 1, now);
    }
    queued(all.enter(USER, ToolKey(1), now));
    // It is worth another try after as long as it takes to get through the queue now.
    for (waits, retry_after) in
        [(0, SECOND / 10), (2_000, 2 * SECOND), (4_999, 5 * SECOND - SECOND / 1_000)]
    {
        let then = now + Duration::from_millis(waits);
        let refused = all.enter(USER, ToolKey(1), then);
        assert_eq!(refused, Entry::Refused { retry_after, why: Full::Class });
    }
    fill(&mut all, CRITICAL, 4, 2, now);
}

#[test]
fn where_nobody_may_wait_a_call_is_to_come_back_when_there_is_room_as_a_rule() {
    let ms = Duration::from_millis;
    let now = Instant::now();
    let mut all = Bulkheads::new([class(2, 0, 1)], None, SECOND);
    let refused = |all: &mut Bulkheads, after| match all.enter(USER, ToolKey(3), now + after) {
        Entry::Refused { retry_after, why: Full::Class } => retry_after,
        other => panic!("{other:?}"),
    };
    for tool in 1..=2 {
        fill(&mut all, USER, tool, 1, now);
    }
    // Before anything is known of it: as long as it has been full, within bounds of its own; it is not the
    // queue's timeout, 5 s, which is of those who wait.
    for (after, retry_after) in [(0, 100), (2_000, 2_000), (9_000, 9_000), (99_000, 30_000)] {
        assert_eq!(refused(&mut all, ms(after)), ms(retry_after), "after {after} ms");
    }
    // Then as long as it takes until there is room, or has by now.
    all.leave(USER, ToolKey(1), Some(now + ms(800)));
    fill(&mut all, USER, 1, 1, now + ms(60_000));
    assert_eq!(refused(&mut all, ms(60_000)), ms(800), "a while with room is no part of it");
    assert_eq!(refused(&mut all, ms(61_000)), ms(1_000));
    // One call says little; who leaves unanswered says nothing.
    all.leave(USER, ToolKey(1), Some(now + ms(61_600)));
    fill(&mut all, USER, 1, 1, now + ms(61_600));
    assert_eq!(refused(&mut all, ms(61_600)), ms(900));
    all.leave(USER, ToolKey(1), None);
    fill(&mut all, USER, 1, 1, now + ms(69_000));
    assert_eq!(refused(&mut all, ms(69_000)), ms(900));
}

#[test]
fn of_one_class_who_waits_longest_goes_first_and_nobody_overtakes() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(1, 9, 1)], None, SECOND);
    fill(&mut all, USER, 9, 1, now);
    let tickets: Vec<Ticket> =
        (0..5).map(|at| queued(all.enter(USER, ToolKey(at), now + SECOND * at / 10))).collect();
    let mut running = ToolKey(9);
    for ticket in tickets {
        all.leave(USER, running, None);
        // There is room, and who comes now stands behind those who wait.
        let newcomer = queued(all.enter(USER, ToolKey(7), now + SECOND));
        assert!(all.cancel(USER, newcomer));
        let granted = all.next(now + SECOND).expect("there is room");
        assert_eq!(granted.ticket, ticket);
        assert_eq!(all.next(now + SECOND), None, "one is all there is room for");
        running = granted.tool;
    }
}

#[test]
fn higher_priority_goes_first_and_every_fourth_time_who_waits_longest() {
    let start = Instant::now();
    let mut all = Bulkheads::new([class(50, 50, 1), class(50, 50, 9)], Some(1), SECOND);
    fill(&mut all, USER, 1, 1, start);
    for _ in 0..8 {
        queued(all.enter(USER, ToolKey(1), start));
    }
    for _ in 0..8 {
        queued(all.enter(CRITICAL, ToolKey(2), start + SECOND));
    }
    all.leave(USER, ToolKey(1), None);
    let mut order = String::new();
    while let Some(granted) = all.next(start + 2 * SECOND) {
        order.push(if granted.class == CRITICAL { 'c' } else { 'u' });
        all.leave(granted.class, granted.tool, None);
    }
    assert_eq!(order, "cccucccuccuuuuuu");
}

#[test]
fn of_two_classes_of_one_priority_who_waits_longest_goes_first() {
    let start = Instant::now();
    let mut all = Bulkheads::new([class(9, 9, 5), class(9, 9, 5)], Some(1), SECOND);
    fill(&mut all, USER, 1, 1, start);
    let second = queued(all.enter(USER, ToolKey(1), start + SECOND));
    let first = queued(all.enter(CRITICAL, ToolKey(2), start));
    for ticket in [first, second] {
        all.leave(USER, ToolKey(1), None);
        all.leave(CRITICAL, ToolKey(2), None);
        assert_eq!(all.next(start + SECOND).map(|it| it.ticket), Some(ticket));
    }
}

/// A tool that hangs holds its class until others have waited for a moment, and then a quarter.
#[test]
fn a_tool_that_hangs_does_not_stop_the_others_of_its_class() {
    let mut now = Instant::now();
    let mut all = Bulkheads::new([class(100, 20, 1)], None, 30 * SECOND);
    fill(&mut all, USER, 1, 100, now);
    now += HANGS;
    for _ in 0..15 {
        queued(all.enter(USER, ToolKey(1), now));
    }
    let ticket = queued(all.enter(USER, ToolKey(2), now));
    assert_eq!(all.next_expiry(), Some(now + SECOND / 10));
    assert!(all.expire(now + SECOND / 11).is_empty());
    assert_eq!(all.next(now + SECOND / 11), None);
    now += SECOND / 10;
    assert!(all.expire(now).is_empty());
    // It runs, past those that wait for the one that hangs.
    assert_eq!(all.next(now).map(|it| it.ticket), Some(ticket));
    assert!(all.is_quarantined(USER, ToolKey(1)));
    let status = all.status(USER).expect("the class");
    assert_eq!((status.running, status.counted, status.quarantined), (101, 26, 1));
    fill(&mut all, USER, 2, 74, now);
    assert_eq!(all.next(now), None, "those that wait for it go on waiting");
    let refused = all.enter(USER, ToolKey(1), now);
    assert!(matches!(refused, Entry::Refused { why: Full::Quarantined, .. }), "{refused:?}");
    queued(all.enter(USER, ToolKey(3), now));
    // Its calls end, one of them with an answer; from its limit on it may have others.
    for _ in 0..75 {
        all.leave(USER, ToolKey(1), None);
        assert_eq!(all.next(now), None);
    }
    all.leave(USER, ToolKey(1), Some(now));
    assert_eq!(all.next(now).map(|it| it.tool), Some(ToolKey(1)));
    assert_eq!(all.next(now), None);
    // When the time is over and it has kept to its limit, it is as free as any.
    for _ in 0..75 {
        all.leave(USER, ToolKey(2), None);
    }
    assert_eq!(all.next(now).map(|it| it.tool), Some(ToolKey(3)));
    assert_eq!(all.expire(now + 5 * SECOND).len(), 14);
    now += 30 * SECOND;
    fill(&mut all, USER, 1, 74, now);
    assert!(!all.is_quarantined(USER, ToolKey(1)));
}

/// Its probes are the quarter that it keeps: without an answer to one of them its time begins anew, unless
/// none is left.
#[test]
fn it_is_let_back_by_an_answer_or_when_nothing_of_it_is_left() {
    for (left, answered, free) in
        [(2, false, false), (2, true, true), (3, true, false), (0, false, true)]
    {
        let mut now = Instant::now();
        let mut all = Bulkheads::new([class(8, 8, 1)], None, 30 * SECOND);
        fill(&mut all, USER, 1, 8, now);
        now += HANGS;
        queued(all.enter(USER, ToolKey(2), now));
        now += SECOND;
        assert!(all.expire(now).is_empty());
        assert!(all.is_quarantined(USER, ToolKey(1)));
        assert_eq!(all.next(now).map(|it| it.tool), Some(ToolKey(2)));
        for gone in left..8 {
            let says = answered && gone == left;
            all.leave(USER, ToolKey(1), says.then_some(now));
        }
        now += 30 * SECOND;
        all.expire(now - SECOND / 10);
        assert!(all.is_quarantined(USER, ToolKey(1)), "its time is not over");
        all.expire(now);
        assert_eq!(!all.is_quarantined(USER, ToolKey(1)), free, "{left} {answered}");
        if left == 2 && !free {
            // An answer in its second time.
            all.leave(USER, ToolKey(1), Some(now));
            all.expire(now + 29 * SECOND);
            assert!(all.is_quarantined(USER, ToolKey(1)));
            all.expire(now + 30 * SECOND);
            assert!(!all.is_quarantined(USER, ToolKey(1)));
        }
    }
}

/// One that is busy, and slow, answers now and then: nobody is limited for that.
#[test]
fn a_tool_that_answers_does_not_hang() {
    let mut now = Instant::now();
    let mut all = Bulkheads::new([class(8, 8, 1)], None, 30 * SECOND);
    fill(&mut all, USER, 1, 8, now);
    for _ in 0..5 {
        let waits = queued(all.enter(USER, ToolKey(2), now));
        now += HANGS - SECOND / 1000;
        assert!(all.expire(now).is_empty());
        assert!(!all.is_quarantined(USER, ToolKey(1)));
        assert!(all.cancel(USER, waits));
        all.leave(USER, ToolKey(1), Some(now));
        fill(&mut all, USER, 1, 1, now);
    }
    queued(all.enter(USER, ToolKey(2), now));
    assert_eq!(all.next_expiry(), Some(now + 5 * SECOND), "when it would hang");
    all.leave(USER, ToolKey(1), None);
    assert_eq!(all.next(now).map(|it| it.tool), Some(ToolKey(2)));
}

/// Where it is switched off nobody is limited.
#[test]
fn without_a_time_there_is_no_quarantine() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(8, 8, 1)], None, Duration::ZERO);
    fill(&mut all, USER, 1, 8, now);
    queued(all.enter(USER, ToolKey(2), now + HANGS));
    assert!(all.expire(now + HANGS + SECOND).is_empty());
    assert!(!all.is_quarantined(USER, ToolKey(1)));
    assert_eq!(all.next(now + HANGS + SECOND), None);
}

/// Where nobody can wait, the first call of another tool is reason enough.
#[test]
fn without_a_queue_the_others_go_on_at_once() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(8, 0, 1)], None, SECOND);
    fill(&mut all, USER, 1, 8, now);
    let now = now + HANGS;
    fill(&mut all, USER, 2, 6, now);
    assert!(matches!(all.enter(USER, ToolKey(2), now), Entry::Refused { why: Full::Class, .. }));
}

/// It hangs for longer than the queue is long: that is full of its own calls, and nobody else gets to wait.
#[test]
fn a_tool_that_fills_the_queue_too_does_not_stop_the_others() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(4, 2, 1)], None, SECOND);
    fill(&mut all, USER, 1, 4, now);
    let own = [1, 1].map(|tool| queued(all.enter(USER, ToolKey(tool), now)));
    let refused = all.enter(USER, ToolKey(2), now + HANGS - SECOND / 1000);
    assert!(
        matches!(refused, Entry::Refused { why: Full::Class, .. }),
        "it may be busy: {refused:?}"
    );
    let now = now + HANGS;
    let refused = all.enter(USER, ToolKey(1), now);
    assert!(matches!(refused, Entry::Refused { why: Full::Class, .. }), "its own: {refused:?}");
    fill(&mut all, USER, 2, 3, now);
    assert!(all.is_quarantined(USER, ToolKey(1)));
    assert_eq!(all.next(now), None, "its own wait on");
    assert!(own.into_iter().all(|ticket| all.cancel(USER, ticket)));
}

/// What all classes have room for together is all that one of them has.
#[test]
fn a_tool_that_hangs_is_limited_where_all_classes_together_are_full() {
    let mut now = Instant::now();
    // Of one class.
    let mut all = Bulkheads::new([class(8, 8, 1)], Some(4), SECOND);
    fill(&mut all, USER, 1, 4, now);
    now += HANGS;
    let waits = queued(all.enter(USER, ToolKey(2), now));
    assert_eq!(all.next_expiry(), Some(now + SECOND / 10));
    now += SECOND / 10;
    all.relieve(now);
    assert!(all.is_quarantined(USER, ToolKey(1)));
    assert_eq!(all.next(now).map(|it| it.ticket), Some(waits));
    let status = all.status(USER).expect("the class");
    assert_eq!((status.concurrency, status.running, status.counted), (4, 5, 2));

    // Of two, of which neither is full: it keeps those of both waiting.
    for (waits_in, tool) in [(USER, 2), (CRITICAL, 9)] {
        let mut all = Bulkheads::new([class(10, 8, 1), class(5, 8, 9)], Some(10), SECOND);
        fill(&mut all, USER, 1, 6, now);
        fill(&mut all, CRITICAL, 9, 4, now);
        let now = now + HANGS;
        let own = queued(all.enter(USER, ToolKey(1), now));
        all.relieve(now + SECOND / 10);
        assert!(!all.is_quarantined(USER, ToolKey(1)), "its own call waits for nobody else");
        assert!(all.cancel(USER, own));
        let waits = queued(all.enter(waits_in, ToolKey(tool), now));
        all.relieve(now + SECOND / 10);
        assert!(all.is_quarantined(USER, ToolKey(1)), "{waits_in:?}");
        assert_eq!(all.next(now + SECOND / 10).map(|it| it.ticket), Some(waits));
        assert!(!all.is_quarantined(CRITICAL, ToolKey(9)));
    }
}

/// A busy tool whose calls end lets the others in before they lose their patience.
#[test]
fn a_busy_tool_is_not_quarantined() {
    let mut now = Instant::now();
    let mut all = Bulkheads::new([class(10, 20, 1)], None, SECOND);
    fill(&mut all, USER, 1, 10, now);
    for _ in 0..200 {
        queued(all.enter(USER, ToolKey(2), now));
        now += SECOND / 20;
        assert!(all.expire(now).is_empty());
        all.leave(USER, ToolKey(1), Some(now));
        let granted = all.next(now).expect("there is room");
        all.leave(USER, granted.tool, None);
        fill(&mut all, USER, 1, 1, now);
    }
    assert!(!all.is_quarantined(USER, ToolKey(1)));
}

#[test]
fn a_tool_alone_in_its_class_may_fill_it() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(10, 1, 1)], None, SECOND);
    fill(&mut all, USER, 1, 10, now);
    queued(all.enter(USER, ToolKey(1), now + HANGS));
    all.expire(now + HANGS + SECOND);
    assert!(!all.is_quarantined(USER, ToolKey(1)));
}

#[test]
fn who_has_waited_too_long_is_named_once_and_the_time_is_said_before() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(1, 9, 1)], None, SECOND);
    assert_eq!(all.next_expiry(), None);
    fill(&mut all, USER, 1, 1, now);
    let first = queued(all.enter(USER, ToolKey(1), now));
    let second = queued(all.enter(USER, ToolKey(1), now + SECOND));
    assert_eq!(all.next_expiry(), Some(now + 5 * SECOND));
    assert!(all.expire(now + 4 * SECOND).is_empty());
    assert_eq!(all.expire(now + 5 * SECOND), [first]);
    assert_eq!(all.next_expiry(), Some(now + 6 * SECOND));
    assert_eq!(all.expire(now + 9 * SECOND), [second]);
    assert!(all.expire(now + 9 * SECOND).is_empty());
}

#[test]
fn a_class_that_is_not_known_has_no_limits_and_leaving_too_often_does_no_harm() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(0, 0, 1)], Some(0), Duration::ZERO);
    assert_eq!(all.enter(ClassId(7), ToolKey(1), now), Entry::Entered);
    all.leave(ClassId(7), ToolKey(1), None);
    all.leave(USER, ToolKey(1), None);
    fill(&mut all, USER, 1, 1, now);
    all.leave(USER, ToolKey(1), None);
    all.leave(USER, ToolKey(1), None);
    fill(&mut all, USER, 1, 1, now);
    assert_eq!(all.status(ClassId(7)), None);
    assert!(!all.cancel(ClassId(7), Ticket(1)));
}

/// Calls of three tools in two classes, as the test counts them.
#[derive(Default)]
struct Model {
    running: BTreeMap<(ClassId, ToolKey), u32>,
    waiting: BTreeMap<Ticket, (ClassId, ToolKey, Instant)>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_lost_let_in_twice_or_left_waiting_beside_free_room(
        concurrency in 1u32..9,
        queue in 0u32..6,
        total in prop::option::of(1u32..12),
        steps in prop::collection::vec((0u8..9, 0u16..2, 0u32..3, 0u64..3_000), 1..300),
    ) {
        let mut now = Instant::now();
        let classes = [class(concurrency, queue, 1), class(3, queue, 9)];
        let mut all = Bulkheads::new(classes, total, 10 * SECOND);
        let mut model = Model::default();
        for (step, class, tool, wait) in steps {
            let (class, tool) = (ClassId(class), ToolKey(tool));
            match step {
                0..=3 => match all.enter(class, tool, now) {
                    Entry::Entered => *model.running.entry((class, tool)).or_default() += 1,
                    Entry::Queued(ticket) => {
                        prop_assert!(model.waiting.insert(ticket, (class, tool, now)).is_none());
                    }
                    Entry::Refused { retry_after, .. } => prop_assert!(!retry_after.is_zero()),
                },
                4..=6 => {
                    if let Some(running) = model.running.get_mut(&(class, tool))
                        && *running > 0
                    {
                        *running -= 1;
                        all.leave(class, tool, wait.is_multiple_of(2).then_some(now));
                    }
                }
                7 => now += Duration::from_millis(wait * 3),
                _ => {
                    let ticket = model.waiting.keys().next().copied();
                    if let Some(ticket) = ticket {
                        let (class, ..) = model.waiting.remove(&ticket).expect("waits");
                        prop_assert!(all.cancel(class, ticket));
                    }
                }
            }
            for ticket in all.expire(now) {
                let (.., since) = model.waiting.remove(&ticket).expect("waited");
                prop_assert!(now - since >= 5 * SECOND);
            }
            while let Some(granted) = all.next(now) {
                let (class, tool, since) =
                    model.waiting.remove(&granted.ticket).expect("waited");
                prop_assert_eq!((granted.class, granted.tool), (class, tool));
                prop_assert_eq!(granted.waited, now - since);
                // Of its class and tool nobody waits longer.
                let before = model.waiting.iter().any(|(ticket, (other, whose, _))| {
                    (*other, *whose) == (class, tool) && *ticket < granted.ticket
                });
                prop_assert!(!before);
                *model.running.entry((class, tool)).or_default() += 1;
            }
            let mut counted = 0;
            let mut room = Vec::new();
            for (class, limit) in [(USER, concurrency), (CRITICAL, 3)] {
                // None has room for more than all of them.
                let limit = total.map_or(limit, |total| limit.min(total));
                let status = all.status(class).expect("a class");
                let of = |(key, calls): (&(ClassId, ToolKey), &u32)| {
                    if key.0 == class { *calls } else { 0 }
                };
                prop_assert_eq!(status.running, model.running.iter().map(of).sum::<u32>());
                let waiting = model.waiting.values().filter(|it| it.0 == class).count();
                prop_assert_eq!(status.waiting as usize, waiting);
                prop_assert!(status.waiting <= queue && status.counted <= limit);
                // What counts is what each tool holds, and of one in quarantine up to a quarter.
                let quarter = (limit / 4).max(1);
                let counts = (0..3).map(|tool| {
                    let tool = ToolKey(tool);
                    let held = model.running.get(&(class, tool)).copied().unwrap_or(0);
                    if all.is_quarantined(class, tool) { held.min(quarter) } else { held }
                });
                prop_assert_eq!(status.counted, counts.sum::<u32>());
                counted += status.counted;
                room.push((class, status.counted < limit, quarter));
            }
            prop_assert!(total.is_none_or(|total| counted <= total));
            // Nobody waits who could run.
            if total.is_none_or(|total| counted < total) {
                for (class, tool, _) in model.waiting.values() {
                    let (_, room, quarter) = room[usize::from(class.0)];
                    let held = model.running.get(&(*class, *tool)).copied().unwrap_or(0);
                    let limited = all.is_quarantined(*class, *tool) && held >= quarter;
                    prop_assert!(!room || limited, "{tool:?} waits beside free room");
                }
            }
        }
    }
}

#[test]
fn a_lower_limit_lets_nobody_in_until_enough_have_left_and_a_higher_one_at_once() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(4, 2, 1)], None, SECOND);
    fill(&mut all, USER, 1, 4, now);
    all.reconfigure([class(2, 2, 1)], None, SECOND);
    let first = queued(all.enter(USER, ToolKey(1), now));
    let second = queued(all.enter(USER, ToolKey(1), now));
    for left in 1..=2 {
        all.leave(USER, ToolKey(1), None);
        assert_eq!(all.next(now), None, "{left} of 4 have left, and 2 may run");
    }
    all.leave(USER, ToolKey(1), None);
    assert_eq!(all.next(now).map(|granted| granted.ticket), Some(first));
    assert_eq!(all.next(now), None);
    all.reconfigure([class(9, 2, 1)], None, SECOND);
    assert_eq!(all.next(now).map(|granted| granted.ticket), Some(second));
    let all_together = |all: &Bulkheads| all.status(USER).map(|it| (it.running, it.counted));
    assert_eq!(all_together(&all), Some((3, 3)));
    all.reconfigure([class(9, 0, 1)], Some(3), SECOND);
    let refused = all.enter(USER, ToolKey(1), now);
    assert_eq!(refused, Entry::Refused { retry_after: SECOND / 10, why: Full::Class });
}

#[test]
fn a_tool_in_quarantine_takes_room_by_the_limit_that_holds_now() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(8, 0, 1)], None, 60 * SECOND);
    fill(&mut all, USER, 1, 8, now);
    // Another tool's call cannot wait: the one that fills the class is limited to a quarter.
    let now = now + HANGS;
    fill(&mut all, USER, 2, 1, now);
    let counted = |all: &Bulkheads| all.status(USER).map(|it| (it.running, it.counted));
    assert_eq!(counted(&all), Some((9, 3)));
    all.reconfigure([class(16, 0, 1)], None, 60 * SECOND);
    assert_eq!(counted(&all), Some((9, 5)));
    for _ in 0..8 {
        all.leave(USER, ToolKey(1), None);
    }
    all.leave(USER, ToolKey(2), None);
    assert_eq!(counted(&all), Some((0, 0)));
}
