//! What a breaker knows of its calls: which are under way and since when, and how the others ended.
//!
//! A breaker that counts only calls that have ended is blind for as long as a call may hang. So a call
//! is booked when it is *admitted*, in the slot of time in which that happens. A slot whose calls are
//! all older than `slow` is *ripe*: what is still booked in it counts as failed from then on, however
//! it ends. Thereby every admission is evidence after `slow` and an eighth at the latest, and no call
//! is counted twice.
//!
//! Calls that are decided, ended or ripe, are counted for the length of the window. The numbers are
//! kept as sums: a call costs a comparison with the next moment at which something ripens or falls out
//! of the window, and a few additions.

use std::time::{Duration, Instant};

use super::row::Row;

/// Slots for calls under way: eight to a `slow`, one that is being filled, and some to spare.
pub(super) const SLOTS: usize = 16;
/// A slot is ripe when so many others have ended since it did.
const UNRIPE: u64 = 8;
/// Parts of the window.
const PARTS: usize = 30;

/// How far above the threshold a rate has to be, in standard deviations of a rate that lies exactly
/// at it. With three, one random error in a hundred does not exceed a threshold of five in any amount
/// of calls that a server lives to see.
const DEVIATIONS: f64 = 3.0;

/// How many calls ended how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) succeeded: u32,
    /// By the server's fault.
    pub(super) failed: u32,
    /// Without reaching the server.
    pub(super) not_reached: u32,
}

/// Calls that have just become overdue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Overdue {
    pub(super) calls: u32,
    /// Those of them that were admitted after every call that has succeeded.
    pub(super) in_a_row: u32,
}

/// Where a call is booked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Booking {
    slot: u64,
    number: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Calls under way that have not begun to answer, by slots; and all that are under way.
    slots: [u32; SLOTS],
    under_way: u32,
    /// Those under way that have begun to answer.
    begun: u32,
    /// The number of the slot that is being filled, from 0 on.
    slot: u64,
    slot_ends: Instant,
    slot_width: Duration,
    /// Slots with lower numbers are ripe.
    ripe: u64,
    row: Row,

    parts: [Counts; PARTS],
    part: usize,
    part_ends: Instant,
    part_width: Duration,
    sum: Counts,
}

// === impl Window ===

impl Window {
    pub(super) fn new(window: Duration, slow: Duration, now: Instant) -> Self {
        let slot_width = slow / u32::try_from(UNRIPE).unwrap_or(8);
        let part_width = window / u32::try_from(PARTS).unwrap_or(30);
        Self {
            slots: [0; SLOTS],
            under_way: 0,
            begun: 0,
            slot: 0,
            slot_ends: now + slot_width,
            slot_width,
            ripe: 0,
            row: Row::default(),
            parts: [Counts::default(); PARTS],
            part: 0,
            part_ends: now + part_width,
            part_width,
            sum: Counts::default(),
        }
    }

    /// When [`roll`](Self::roll) next has something to do.
    pub(super) fn wake(&self) -> Instant {
        self.slot_ends.min(self.part_ends)
    }

    /// Books a call as under way.
    pub(super) fn admitted(&mut self) -> Booking {
        let slot = self.slot;
        self.slots[index(slot)] += 1;
        self.under_way += 1;
        Booking { slot, number: self.row.admitted((self.ripe..=slot).rev()) }
    }

    /// Takes a call off the book. False if it has been counted as overdue before.
    pub(super) fn ended(&mut self, Booking { slot, number }: Booking) -> bool {
        if slot < self.ripe || slot > self.slot {
            return false;
        }
        self.row.ended(slot, number);
        let in_slot = &mut self.slots[index(slot)];
        *in_slot = in_slot.saturating_sub(1);
        self.under_way = self.under_way.saturating_sub(1);
        true
    }

    /// A call has begun to answer: it is under way and cannot be overdue. False if it has been counted as overdue
    /// before.
    pub(super) fn begun(&mut self, booking: Booking) -> bool {
        let is_booked = self.ended(booking);
        self.under_way += u32::from(is_booked);
        self.begun += u32::from(is_booked);
        is_booked
    }

    /// Takes such a call off the book.
    pub(super) fn finished(&mut self) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        self.begun = self.begun.saturating_sub(1);
        true
    }

    pub(super) fn succeeded(&mut self, booking: Booking) {
        self.row.succeeded(booking.number);
        self.add(Counts { succeeded: 1, ..Counts::default() });
    }

    pub(super) fn failed(&mut self, calls: u32) {
        self.add(Counts { failed: calls, ..Counts::default() });
    }

    pub(super) fn not_reached(&mut self) {
        self.add(Counts { not_reached: 1, ..Counts::default() });
    }

    fn add(&mut self, more: Counts) {
        self.parts[self.part].add(more);
        self.sum.add(more);
    }

    /// Moves on to `now`: what is overdue is counted and returned, what is too old is forgotten.
    pub(super) fn roll(&mut self, now: Instant) -> Overdue {
        if now >= self.part_ends {
            let steps = steps(now, self.part_ends, self.part_width);
            self.part_ends += self.part_width * steps;
            for _ in 0..steps.min(u32::try_from(PARTS).unwrap_or(30)) {
                self.part = (self.part + 1) % PARTS;
                self.sum.take_away(self.parts[self.part]);
                self.parts[self.part] = Counts::default();
            }
        }
        let mut overdue = Overdue::default();
        if now >= self.slot_ends {
            let steps = steps(now, self.slot_ends, self.slot_width);
            let filled = self.slot;
            self.slot_ends += self.slot_width * steps;
            self.slot += u64::from(steps);
            let ripe = self.slot.saturating_sub(UNRIPE);
            self.row.begins(filled + 1);
            for slot in self.ripe..ripe.min(filled + 1) {
                overdue.calls += std::mem::take(&mut self.slots[index(slot)]);
                overdue.in_a_row += self.row.take(slot);
            }
            self.ripe = ripe;
            for slot in ripe.max(filled + 2)..=self.slot {
                self.row.begins(slot);
            }
        }
        if overdue.calls > 0 {
            self.under_way = self.under_way.saturating_sub(overdue.calls);
            self.failed(overdue.calls);
        }
        overdue
    }

    /// Forgets how calls ended, and goes on with those under way.
    pub(super) fn forget_ended(&mut self) {
        self.parts = [Counts::default(); PARTS];
        self.sum = Counts::default();
    }

    /// Calls that have not ended and are not overdue, those that have begun to answer among them.
    pub(super) fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Those of them that have begun to answer, and not ended.
    pub(super) fn begun_to_answer(&self) -> u32 {
        self.begun
    }

    /// What is decided within the window.
    pub(super) fn counts(&self) -> Counts {
        self.sum
    }
}

/// Whether so many failures of so many calls are more than `rate` and chance explain.
pub(crate) fn clearly_above(failed: u32, calls: u32, rate: f64) -> bool {
    let (failed, calls) = (f64::from(failed), f64::from(calls));
    let above = failed - calls * rate;
    above > 0.0 && above * above >= DEVIATIONS * DEVIATIONS * calls * rate * (1.0 - rate)
}

fn steps(now: Instant, end: Instant, width: Duration) -> u32 {
    let behind = now.saturating_duration_since(end).as_nanos();
    u32::try_from(behind / width.as_nanos().max(1) + 1).unwrap_or(u32::MAX)
}

pub(super) fn index(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

// === impl Counts ===

impl Counts {
    /// Calls that reached the server.
    pub(super) fn calls(self) -> u32 {
        self.succeeded.saturating_add(self.failed)
    }

    fn add(&mut self, more: Self) {
        self.succeeded = self.succeeded.saturating_add(more.succeeded);
        self.failed = self.failed.saturating_add(more.failed);
        self.not_reached = self.not_reached.saturating_add(more.not_reached);
    }

    fn take_away(&mut self, less: Self) {
        self.succeeded = self.succeeded.saturating_sub(less.succeeded);
        self.failed = self.failed.saturating_sub(less.failed);
        self.not_reached = self.not_reached.saturating_sub(less.not_reached);
    }
}
