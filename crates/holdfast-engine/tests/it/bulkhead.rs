//! The bulkhead's promises.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_engine::limits::bulkhead::{
    Bulkheads, ClassId, ClassParams, Entry, Full, ServerKey, Ticket,
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

fn fill(all: &mut Bulkheads, class: ClassId, server: u32, calls: u32, now: Instant) {
    for _ in 0..calls {
        assert_eq!(all.enter(class, ServerKey(server), now), Entry::Entered);
    }
}

#[test]
fn a_class_that_is_full_takes_no_room_from_another() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(3, 1, 1), class(2, 0, 9)], None, SECOND);
    // Of three servers, so that none of them fills it.
    for server in 1..=3 {
        fill(&mut all, USER, server, 1, now);
    }
    queued(all.enter(USER, ServerKey(1), now));
    // It is worth another try after as long as it takes to get through the queue now.
    for (waits, retry_after) in
        [(0, SECOND / 10), (2_000, 2 * SECOND), (4_999, 5 * SECOND - SECOND / 1_000)]
    {
        let then = now + Duration::from_millis(waits);
        let refused = all.enter(USER, ServerKey(1), then);
        assert_eq!(refused, Entry::Refused { retry_after, why: Full::Class });
    }
    fill(&mut all, CRITICAL, 4, 2, now);
    // Where nobody may wait: after as long as somebody would.
    let mut all = Bulkheads::new([class(2, 0, 1)], None, SECOND);
    for server in 1..=2 {
        fill(&mut all, USER, server, 1, now);
    }
    let refused = all.enter(USER, ServerKey(3), now);
    assert_eq!(refused, Entry::Refused { retry_after: 5 * SECOND, why: Full::Class });
}

#[test]
fn of_one_class_who_waits_longest_goes_first_and_nobody_overtakes() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(1, 9, 1)], None, SECOND);
    fill(&mut all, USER, 9, 1, now);
    let tickets: Vec<Ticket> =
        (0..5).map(|at| queued(all.enter(USER, ServerKey(at), now + SECOND * at / 10))).collect();
    let mut running = ServerKey(9);
    for ticket in tickets {
        all.leave(USER, running);
        // There is room, and who comes now stands behind those who wait.
        let newcomer = queued(all.enter(USER, ServerKey(7), now + SECOND));
        assert!(all.cancel(USER, newcomer));
        let granted = all.next(now + SECOND).expect("there is room");
        assert_eq!(granted.ticket, ticket);
        assert_eq!(all.next(now + SECOND), None, "one is all there is room for");
        running = granted.server;
    }
}

#[test]
fn higher_priority_goes_first_and_every_fourth_time_who_waits_longest() {
    let start = Instant::now();
    let mut all = Bulkheads::new([class(50, 50, 1), class(50, 50, 9)], Some(1), SECOND);
    fill(&mut all, USER, 1, 1, start);
    for _ in 0..8 {
        queued(all.enter(USER, ServerKey(1), start));
    }
    for _ in 0..8 {
        queued(all.enter(CRITICAL, ServerKey(2), start + SECOND));
    }
    all.leave(USER, ServerKey(1));
    let mut order = String::new();
    while let Some(granted) = all.next(start + 2 * SECOND) {
        order.push(if granted.class == CRITICAL { 'c' } else { 'u' });
        all.leave(granted.class, granted.server);
    }
    assert_eq!(order, "cccucccuccuuuuuu");
}

#[test]
fn of_two_classes_of_one_priority_who_waits_longest_goes_first() {
    let start = Instant::now();
    let mut all = Bulkheads::new([class(9, 9, 5), class(9, 9, 5)], Some(1), SECOND);
    fill(&mut all, USER, 1, 1, start);
    let second = queued(all.enter(USER, ServerKey(1), start + SECOND));
    let first = queued(all.enter(CRITICAL, ServerKey(2), start));
    for ticket in [first, second] {
        all.leave(USER, ServerKey(1));
        all.leave(CRITICAL, ServerKey(2));
        assert_eq!(all.next(start + SECOND).map(|it| it.ticket), Some(ticket));
    }
}

/// A server that hangs holds its class until others have waited for a moment, and then a quarter.
#[test]
fn a_server_that_hangs_does_not_stop_the_others_of_its_class() {
    let mut now = Instant::now();
    let mut all = Bulkheads::new([class(100, 20, 1)], None, 30 * SECOND);
    fill(&mut all, USER, 1, 100, now);
    for _ in 0..15 {
        queued(all.enter(USER, ServerKey(1), now));
    }
    let ticket = queued(all.enter(USER, ServerKey(2), now));
    assert_eq!(all.next_expiry(), Some(now + SECOND / 10));
    assert!(all.expire(now + SECOND / 11).is_empty());
    assert_eq!(all.next(now + SECOND / 11), None);
    now += SECOND / 10;
    assert!(all.expire(now).is_empty());
    // It runs, past those that wait for the one that hangs.
    assert_eq!(all.next(now).map(|it| it.ticket), Some(ticket));
    assert!(all.is_quarantined(USER, ServerKey(1)));
    let status = all.status(USER).expect("the class");
    assert_eq!((status.running, status.counted, status.quarantined), (101, 26, 1));
    fill(&mut all, USER, 2, 74, now);
    assert_eq!(all.next(now), None, "those that wait for it go on waiting");
    let refused = all.enter(USER, ServerKey(1), now);
    assert!(matches!(refused, Entry::Refused { why: Full::Quarantined, .. }), "{refused:?}");
    queued(all.enter(USER, ServerKey(3), now));
    // Its calls end; from its limit on it may have others.
    for _ in 0..75 {
        all.leave(USER, ServerKey(1));
        assert_eq!(all.next(now), None);
    }
    all.leave(USER, ServerKey(1));
    assert_eq!(all.next(now).map(|it| it.server), Some(ServerKey(1)));
    assert_eq!(all.next(now), None);
    // When the time is over and it has kept to its limit, it is as free as any.
    for _ in 0..75 {
        all.leave(USER, ServerKey(2));
    }
    assert_eq!(all.next(now).map(|it| it.server), Some(ServerKey(3)));
    assert_eq!(all.expire(now + 5 * SECOND).len(), 14);
    now += 30 * SECOND;
    fill(&mut all, USER, 1, 74, now);
    assert!(!all.is_quarantined(USER, ServerKey(1)));
}

/// Where nobody can wait, the first call of another server is reason enough.
#[test]
fn without_a_queue_the_others_go_on_at_once() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(8, 0, 1)], None, SECOND);
    fill(&mut all, USER, 1, 8, now);
    fill(&mut all, USER, 2, 6, now);
    assert!(matches!(all.enter(USER, ServerKey(2), now), Entry::Refused { why: Full::Class, .. }));
}

/// A busy server whose calls end lets the others in before they lose their patience.
#[test]
fn a_busy_server_is_not_quarantined() {
    let mut now = Instant::now();
    let mut all = Bulkheads::new([class(10, 20, 1)], None, SECOND);
    fill(&mut all, USER, 1, 10, now);
    for _ in 0..200 {
        queued(all.enter(USER, ServerKey(2), now));
        now += SECOND / 20;
        assert!(all.expire(now).is_empty());
        all.leave(USER, ServerKey(1));
        let granted = all.next(now).expect("there is room");
        all.leave(USER, granted.server);
        fill(&mut all, USER, 1, 1, now);
    }
    assert!(!all.is_quarantined(USER, ServerKey(1)));
}

#[test]
fn a_server_alone_in_its_class_may_fill_it() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(10, 1, 1)], None, SECOND);
    fill(&mut all, USER, 1, 10, now);
    queued(all.enter(USER, ServerKey(1), now));
    assert!(!all.is_quarantined(USER, ServerKey(1)));
}

#[test]
fn who_has_waited_too_long_is_named_once_and_the_time_is_said_before() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(1, 9, 1)], None, SECOND);
    assert_eq!(all.next_expiry(), None);
    fill(&mut all, USER, 1, 1, now);
    let first = queued(all.enter(USER, ServerKey(1), now));
    let second = queued(all.enter(USER, ServerKey(1), now + SECOND));
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
    assert_eq!(all.enter(ClassId(7), ServerKey(1), now), Entry::Entered);
    all.leave(ClassId(7), ServerKey(1));
    all.leave(USER, ServerKey(1));
    fill(&mut all, USER, 1, 1, now);
    all.leave(USER, ServerKey(1));
    all.leave(USER, ServerKey(1));
    fill(&mut all, USER, 1, 1, now);
    assert_eq!(all.status(ClassId(7)), None);
    assert!(!all.cancel(ClassId(7), Ticket(1)));
}

/// Calls of three servers in two classes, as the test counts them.
#[derive(Default)]
struct Model {
    running: BTreeMap<(ClassId, ServerKey), u32>,
    waiting: BTreeMap<Ticket, (ClassId, ServerKey, Instant)>,
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
        for (step, class, server, wait) in steps {
            let (class, server) = (ClassId(class), ServerKey(server));
            match step {
                0..=3 => match all.enter(class, server, now) {
                    Entry::Entered => *model.running.entry((class, server)).or_default() += 1,
                    Entry::Queued(ticket) => {
                        prop_assert!(model.waiting.insert(ticket, (class, server, now)).is_none());
                    }
                    Entry::Refused { retry_after, .. } => prop_assert!(!retry_after.is_zero()),
                },
                4..=6 => {
                    if let Some(running) = model.running.get_mut(&(class, server))
                        && *running > 0
                    {
                        *running -= 1;
                        all.leave(class, server);
                    }
                }
                7 => now += Duration::from_millis(wait),
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
                let (class, server, since) =
                    model.waiting.remove(&granted.ticket).expect("waited");
                prop_assert_eq!((granted.class, granted.server), (class, server));
                prop_assert_eq!(granted.waited, now - since);
                // Of its class and server nobody waits longer.
                let before = model.waiting.iter().any(|(ticket, (other, whose, _))| {
                    (*other, *whose) == (class, server) && *ticket < granted.ticket
                });
                prop_assert!(!before);
                *model.running.entry((class, server)).or_default() += 1;
            }
            let mut counted = 0;
            let mut room = Vec::new();
            for (class, limit) in [(USER, concurrency), (CRITICAL, 3)] {
                let status = all.status(class).expect("a class");
                let of = |(key, calls): (&(ClassId, ServerKey), &u32)| {
                    if key.0 == class { *calls } else { 0 }
                };
                prop_assert_eq!(status.running, model.running.iter().map(of).sum::<u32>());
                let waiting = model.waiting.values().filter(|it| it.0 == class).count();
                prop_assert_eq!(status.waiting as usize, waiting);
                prop_assert!(status.waiting <= queue && status.counted <= limit);
                // What counts is what each server holds, and of one in quarantine up to a quarter.
                let quarter = (limit / 4).max(1);
                let counts = (0..3).map(|server| {
                    let server = ServerKey(server);
                    let held = model.running.get(&(class, server)).copied().unwrap_or(0);
                    if all.is_quarantined(class, server) { held.min(quarter) } else { held }
                });
                prop_assert_eq!(status.counted, counts.sum::<u32>());
                counted += status.counted;
                room.push((class, status.counted < limit, quarter));
            }
            prop_assert!(total.is_none_or(|total| counted <= total));
            // Nobody waits who could run.
            if total.is_none_or(|total| counted < total) {
                for (class, server, _) in model.waiting.values() {
                    let (_, room, quarter) = room[usize::from(class.0)];
                    let held = model.running.get(&(*class, *server)).copied().unwrap_or(0);
                    let limited = all.is_quarantined(*class, *server) && held >= quarter;
                    prop_assert!(!room || limited, "{server:?} waits beside free room");
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
    all.reconfigure([class(2, 2, 1)], None);
    let first = queued(all.enter(USER, ServerKey(1), now));
    let second = queued(all.enter(USER, ServerKey(1), now));
    for left in 1..=2 {
        all.leave(USER, ServerKey(1));
        assert_eq!(all.next(now), None, "{left} of 4 have left, and 2 may run");
    }
    all.leave(USER, ServerKey(1));
    assert_eq!(all.next(now).map(|granted| granted.ticket), Some(first));
    assert_eq!(all.next(now), None);
    all.reconfigure([class(9, 2, 1)], None);
    assert_eq!(all.next(now).map(|granted| granted.ticket), Some(second));
    let all_together = |all: &Bulkheads| all.status(USER).map(|it| (it.running, it.counted));
    assert_eq!(all_together(&all), Some((3, 3)));
    all.reconfigure([class(9, 0, 1)], Some(3));
    let refused = all.enter(USER, ServerKey(1), now);
    assert_eq!(refused, Entry::Refused { retry_after: 5 * SECOND, why: Full::Class });
}

#[test]
fn a_server_in_quarantine_takes_room_by_the_limit_that_holds_now() {
    let now = Instant::now();
    let mut all = Bulkheads::new([class(8, 0, 1)], None, 60 * SECOND);
    fill(&mut all, USER, 1, 8, now);
    // Another server's call cannot wait: the one that fills the class is limited to a quarter.
    fill(&mut all, USER, 2, 1, now);
    let counted = |all: &Bulkheads| all.status(USER).map(|it| (it.running, it.counted));
    assert_eq!(counted(&all), Some((9, 3)));
    all.reconfigure([class(16, 0, 1)], None);
    assert_eq!(counted(&all), Some((9, 5)));
    for _ in 0..8 {
        all.leave(USER, ServerKey(1));
    }
    all.leave(USER, ServerKey(2));
    assert_eq!(counted(&all), Some((0, 0)));
}
