//! The bulkhead's two tables: a call, and a tool.

use std::time::{Duration, Instant};

use holdfast_engine::limits::bulkhead::{
    Bulkheads, ClassId, ClassParams, Entry, HANGS, Ticket, ToolKey,
};

use super::table;

const SECOND: Duration = Duration::from_secs(1);
const CLASS: ClassId = ClassId(0);
const OURS: ToolKey = ToolKey(1);
const OTHER: ToolKey = ToolKey(2);
const THIRD: ToolKey = ToolKey(3);

fn bulkheads(concurrency: u32, queue: u32) -> Bulkheads {
    let class = ClassParams { concurrency, queue, queue_timeout: 5 * SECOND, priority: 1 };
    Bulkheads::new([class], None, 30 * SECOND)
}

/// A class in which our tool is in quarantine and holds eight calls, and another one holds one.
fn quarantined(queue: u32) -> Bulkheads {
    let now = Instant::now() - SECOND;
    let mut all = bulkheads(8, queue);
    for _ in 0..8 {
        assert_eq!(all.enter(CLASS, OURS, now - HANGS), Entry::Entered);
    }
    assert!(matches!(all.enter(CLASS, OTHER, now), Entry::Queued(_)));
    assert!(all.expire(now + SECOND / 10).is_empty());
    assert_eq!(all.next(now + SECOND / 10).map(|it| it.tool), Some(OTHER));
    assert!(all.is_quarantined(CLASS, OURS));
    all
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    New,
    Queued,
    Entered,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CallEvent {
    EntersRoom,
    EntersFull,
    EntersAllFull,
    EntersQuarantined,
    EntersQuarantinedQueueTaken,
    Room,
    TimeOver,
    Cancelled,
    Leaves,
}

const CALLS: [(Call, &str); 4] = [
    (Call::New, "New"),
    (Call::Queued, "Queued"),
    (Call::Entered, "Entered"),
    (Call::Gone, "Gone"),
];

const CALL_EVENTS: [(CallEvent, &str); 9] = [
    (CallEvent::EntersRoom, "enters, there is room"),
    (CallEvent::EntersFull, "enters, the class is full"),
    (CallEvent::EntersAllFull, "enters, the queue is full too"),
    (CallEvent::EntersQuarantined, "enters, its tool is in quarantine at its limit"),
    (CallEvent::EntersQuarantinedQueueTaken, "the same, and its tool has its quarter of the queue"),
    (CallEvent::Room, "there is room for the next"),
    (CallEvent::TimeOver, "its time in the queue is over"),
    (CallEvent::Cancelled, "it is cancelled"),
    (CallEvent::Leaves, "it leaves"),
];

/// One call of our tool beside one of another, in a class for two with a queue for one.
struct One {
    bulkheads: Bulkheads,
    ticket: Option<Ticket>,
    state: Call,
}

impl One {
    fn new(state: Call, now: Instant) -> Self {
        let mut one = Self { bulkheads: bulkheads(2, 1), ticket: None, state: Call::New };
        assert_eq!(one.bulkheads.enter(CLASS, OTHER, now), Entry::Entered);
        match state {
            Call::New => {}
            Call::Queued => {
                assert_eq!(one.bulkheads.enter(CLASS, THIRD, now), Entry::Entered);
                one.enter(OURS, now);
            }
            Call::Entered => one.enter(OURS, now),
            Call::Gone => {
                one.enter(OURS, now);
                one.leave();
            }
        }
        assert_eq!(one.state, state);
        one
    }

    fn enter(&mut self, tool: ToolKey, now: Instant) {
        self.state = match self.bulkheads.enter(CLASS, tool, now) {
            Entry::Entered => Call::Entered,
            Entry::Queued(ticket) => {
                self.ticket = Some(ticket);
                Call::Queued
            }
            Entry::Refused { retry_after, .. } => {
                assert!(!retry_after.is_zero());
                Call::Gone
            }
        };
    }

    /// Leaves where there is something to leave: a call that has not entered has no place to give back.
    fn leave(&mut self) {
        if self.state == Call::Entered {
            self.bulkheads.leave(CLASS, OURS, None);
            self.state = Call::Gone;
        }
    }
}

fn call_happens(state: Call, event: CallEvent) -> String {
    let now = Instant::now();
    let enters = matches!(
        event,
        CallEvent::EntersRoom
            | CallEvent::EntersFull
            | CallEvent::EntersAllFull
            | CallEvent::EntersQuarantined
            | CallEvent::EntersQuarantinedQueueTaken
    );
    if enters && state != Call::New {
        // A call enters once: there is nothing that could do it again.
        return "–".to_owned();
    }
    let mut one = One::new(state, now);
    match event {
        CallEvent::EntersRoom => one.enter(OURS, now),
        CallEvent::EntersFull | CallEvent::EntersAllFull => {
            assert_eq!(one.bulkheads.enter(CLASS, THIRD, now), Entry::Entered);
            if event == CallEvent::EntersAllFull {
                assert!(matches!(one.bulkheads.enter(CLASS, THIRD, now), Entry::Queued(_)));
            }
            one.enter(OURS, now);
        }
        CallEvent::EntersQuarantined | CallEvent::EntersQuarantinedQueueTaken => {
            one.bulkheads = quarantined(4);
            if event == CallEvent::EntersQuarantinedQueueTaken {
                assert!(matches!(one.bulkheads.enter(CLASS, OURS, now), Entry::Queued(_)));
            }
            one.enter(OURS, now);
        }
        CallEvent::Room => {
            one.bulkheads.leave(CLASS, OTHER, None);
            let granted = one.bulkheads.next(now + SECOND);
            assert_eq!(granted.map(|it| it.ticket), one.ticket);
            if let Some(granted) = granted {
                assert_eq!((granted.tool, granted.waited), (OURS, SECOND));
                one.state = Call::Entered;
            }
            assert_eq!(one.bulkheads.next(now + SECOND), None);
        }
        CallEvent::TimeOver => {
            assert!(one.bulkheads.expire(now + 5 * SECOND - SECOND / 1000).is_empty());
            let expired = one.bulkheads.expire(now + 5 * SECOND);
            assert_eq!(expired, Vec::from_iter(one.ticket));
            if !expired.is_empty() {
                one.state = Call::Gone;
            }
        }
        CallEvent::Cancelled => {
            let ticket = one.ticket.unwrap_or(Ticket(99));
            let waited = one.bulkheads.cancel(CLASS, ticket);
            assert_eq!(waited, state == Call::Queued);
            assert!(!one.bulkheads.cancel(CLASS, ticket), "once");
            if waited {
                one.state = Call::Gone;
            }
        }
        CallEvent::Leaves => one.leave(),
    }
    // What the machine counts is what the call's state says.
    let status = one.bulkheads.status(CLASS).expect("the class");
    let another = [CallEvent::EntersAllFull, CallEvent::EntersQuarantinedQueueTaken];
    assert_eq!(status.waiting > 0, one.state == Call::Queued || another.contains(&event));
    format!("{:?}", one.state)
}

#[test]
fn every_cell_of_the_table_of_a_call_is_as_it_says() {
    table("Bulkhead", 0).check(&CALLS, &CALL_EVENTS, call_happens);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Free,
    Quarantined,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ToolEvent {
    FillsOther,
    FillsOtherNoQueue,
    FillsOwn,
    Half,
    Answers,
    TimeOverAnswered,
    TimeOverSilent,
    TimeOverGone,
    TimeOverHolds,
    LastLeaves,
}

const TOOLS: [(Tool, &str); 2] = [(Tool::Free, "Free"), (Tool::Quarantined, "Quarantined")];

const TOOL_EVENTS: [(ToolEvent, &str); 10] = [
    (ToolEvent::FillsOther, "it holds more than half of a full class, another's call waits 100 ms"),
    (
        ToolEvent::FillsOtherNoQueue,
        "it holds more than half of a full class, another's call cannot wait",
    ),
    (ToolEvent::FillsOwn, "it holds more than half of a full class, its own call waits 100 ms"),
    (ToolEvent::Half, "it holds half of a full class, another's call waits 100 ms"),
    (ToolEvent::Answers, "the same as the first, and it has answered a call within five seconds"),
    (
        ToolEvent::TimeOverAnswered,
        "the quarantine's time is over, it keeps to its limit and has answered a call",
    ),
    (
        ToolEvent::TimeOverSilent,
        "the quarantine's time is over, it keeps to its limit and has answered none",
    ),
    (ToolEvent::TimeOverGone, "the quarantine's time is over, none of its calls is left"),
    (ToolEvent::TimeOverHolds, "the quarantine's time is over, it holds more"),
    (ToolEvent::LastLeaves, "its last call leaves before the time is over"),
];

fn tool_happens(state: Tool, event: ToolEvent) -> String {
    let mut now = Instant::now();
    let queue = if event == ToolEvent::FillsOtherNoQueue { 0 } else { 4 };
    let enter = |all: &mut Bulkheads, tool, calls: u32, now| {
        (0..calls).filter(|_| all.enter(CLASS, tool, now) == Entry::Entered).count()
    };
    let leave = |all: &mut Bulkheads, tool, calls: u32| {
        (0..calls).for_each(|_| all.leave(CLASS, tool, None));
    };
    let silent = now - HANGS;
    let (mut all, held) = match state {
        Tool::Free => (bulkheads(8, queue), 0),
        Tool::Quarantined => (quarantined(4), 8),
    };
    match event {
        ToolEvent::FillsOther | ToolEvent::FillsOtherNoQueue | ToolEvent::FillsOwn => {
            if state == Tool::Free {
                assert_eq!(enter(&mut all, OURS, 5, silent), 5);
                assert_eq!(enter(&mut all, OTHER, 3, now), 3);
            } else {
                assert_eq!(enter(&mut all, OTHER, 8, now), 5, "two of its eight count, and one");
            }
            let newcomer = if event == ToolEvent::FillsOwn { OURS } else { THIRD };
            enter(&mut all, newcomer, 1, now);
            if queue > 0 {
                let free = all.is_quarantined(CLASS, OURS) != (state == Tool::Free);
                assert!(free, "not at once");
                all.expire(now + SECOND / 10);
            }
        }
        ToolEvent::Answers => {
            if state == Tool::Free {
                enter(&mut all, OURS, 6, silent);
                all.leave(CLASS, OURS, Some(now));
                enter(&mut all, OTHER, 3, now);
            } else {
                all.leave(CLASS, OURS, Some(now));
                enter(&mut all, OTHER, 8, now);
            }
            enter(&mut all, THIRD, 1, now);
            all.expire(now + SECOND / 10);
        }
        ToolEvent::Half => {
            leave(&mut all, OURS, held / 2);
            enter(&mut all, OURS, 4 - held / 2, silent);
            enter(&mut all, OTHER, 2, now);
            enter(&mut all, ToolKey(4), 2, now);
            enter(&mut all, THIRD, 1, now);
            all.expire(now + SECOND / 10);
        }
        ToolEvent::TimeOverAnswered
        | ToolEvent::TimeOverSilent
        | ToolEvent::TimeOverGone
        | ToolEvent::TimeOverHolds => {
            let keeps = match event {
                ToolEvent::TimeOverHolds => 3,
                ToolEvent::TimeOverGone => 0,
                _ => 2,
            };
            let says = matches!(event, ToolEvent::TimeOverAnswered | ToolEvent::TimeOverHolds);
            for _ in keeps..held {
                all.leave(CLASS, OURS, says.then_some(now));
            }
            now += 30 * SECOND;
            enter(&mut all, THIRD, 1, now);
        }
        ToolEvent::LastLeaves => {
            leave(&mut all, OURS, held);
            now += 28 * SECOND;
            enter(&mut all, THIRD, 1, now);
        }
    }
    let quarantined = all.is_quarantined(CLASS, OURS);
    format!("{:?}", if quarantined { Tool::Quarantined } else { Tool::Free })
}

#[test]
fn every_cell_of_the_table_of_a_tool_is_as_it_says() {
    table("Bulkhead", 1).check(&TOOLS, &TOOL_EVENTS, tool_happens);
}
