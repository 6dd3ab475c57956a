//! What evidence and time do to a breaker.

use std::time::{Duration, Instant};

use super::window::{Booking, Window, clearly_above};
use super::{Breaker, Cause, Params, Phase, State, Transition};

/// How many transitions are kept for a caller that does not take them.
const KEPT: usize = 8;

impl Breaker {
    // --- evidence ---

    /// `has_tried`: its beginning has counted as a try that went well.
    pub(super) fn succeeded(&mut self, booking: Booking, has_tried: bool, now: Instant) {
        self.window.succeeded(booking);
        self.in_a_row = 0;
        self.not_reached_in_a_row = 0;
        match &mut self.state {
            State::HalfOpen { .. } if !has_tried => self.tried_well(now),
            State::HalfOpen { .. } => {}
            State::Recovering { calls, .. } => *calls = calls.saturating_add(1),
            State::Closed | State::Open { .. } | State::ForcedOpen | State::ForcedClosed => {}
        }
    }

    /// A call that tries the server went well, or has begun to: how long it will take says nothing.
    pub(super) fn tried_well(&mut self, now: Instant) {
        if let State::HalfOpen { succeeded } = &mut self.state {
            *succeeded += 1;
            if *succeeded >= self.params.successes_to_close {
                self.recover(now);
            }
        }
    }

    pub(super) fn failed(&mut self, now: Instant, chance: u64) {
        self.window.failed(1);
        self.not_reached_in_a_row = 0;
        self.weigh_failures(1, 1, now, chance);
    }

    /// Failures that the window has: so many, and so many of them without a success since.
    #[cold]
    fn weigh_failures(&mut self, more: u32, in_a_row: u32, now: Instant, chance: u64) {
        self.in_a_row = self.in_a_row.saturating_add(in_a_row);
        let counts = self.window.counts();
        let enough = self.enough(self.in_a_row);
        match self.state {
            State::Closed => {
                if enough {
                    self.open(Cause::InARow(self.in_a_row), now, chance);
                } else if self.above(counts.failed, counts.calls()) {
                    let cause = Cause::Rate { failed: counts.failed, calls: counts.calls() };
                    self.open(cause, now, chance);
                }
            }
            State::HalfOpen { .. } => self.open(Cause::ProbeFailed, now, chance),
            State::Recovering { .. } if enough => {
                self.open(Cause::InARow(self.in_a_row), now, chance);
            }
            State::Recovering { .. } => {
                self.degrade(more, |failed, calls| Cause::Degraded { failed, calls }, now, chance);
            }
            State::Open { .. } | State::ForcedOpen | State::ForcedClosed => {}
        }
    }

    #[cold]
    pub(super) fn not_reached(&mut self, now: Instant, chance: u64) {
        self.window.not_reached();
        self.not_reached_in_a_row = self.not_reached_in_a_row.saturating_add(1);
        let counts = self.window.counts();
        let all = counts.calls().saturating_add(counts.not_reached);
        let enough = self.enough(self.not_reached_in_a_row);
        let rate = |failed, calls| Cause::NotReachedRate { failed, calls };
        match self.state {
            State::Closed | State::Recovering { .. } if enough => {
                self.open(Cause::NotReachedInARow(self.not_reached_in_a_row), now, chance);
            }
            State::Closed => {
                if self.above(counts.not_reached, all) {
                    self.open(rate(counts.not_reached, all), now, chance);
                }
            }
            State::HalfOpen { .. } => self.open(Cause::ProbeNotReached, now, chance),
            State::Recovering { .. } => self.degrade(1, rate, now, chance),
            State::Open { .. } | State::ForcedOpen | State::ForcedClosed => {}
        }
    }

    /// Whether a row is long enough. Where errors come quickly and answers take their time, a row of
    /// errors says little while a lot is under way: it has to be a tenth of that, and as long as there are
    /// answers that have begun and go on, which say more against it.
    fn enough(&self, in_a_row: u32) -> bool {
        let begun = self.window.begun_to_answer();
        let silent = self.window.under_way().saturating_sub(begun);
        in_a_row >= self.params.consecutive_failures.max(silent / 10 + begun)
    }

    /// Whether the rate is too high, even if all goes well that is under way.
    fn above(&self, failed: u32, calls: u32) -> bool {
        let all = calls.saturating_add(self.window.under_way());
        calls >= self.params.minimum_calls && clearly_above(failed, all, self.params.failure_rate)
    }

    /// Counts failures of a step of the recovery; if they are too many, it goes one step back.
    fn degrade(&mut self, more: u32, cause: impl Fn(u32, u32) -> Cause, now: Instant, chance: u64) {
        let under_way = self.window.under_way();
        let State::Recovering { step, calls, failed, .. } = &mut self.state else { return };
        *calls = calls.saturating_add(more);
        *failed = failed.saturating_add(more);
        let all = calls.saturating_add(under_way);
        if !clearly_above(*failed, all, self.params.failure_rate) {
            return;
        }
        let (step, cause) = (*step, cause(*failed, *calls));
        if step > 1 {
            let next = now + self.step_length();
            self.state = State::Recovering { step: step - 1, next, calls: 0, failed: 0 };
            self.note(Phase::Recovering, cause, now, None);
            self.set_wake(now);
        } else {
            self.open(cause, now, chance);
        }
    }

    // --- time ---

    /// Everything that time alone does. Calls between whose times nothing happens do not come here.
    #[cold]
    pub(super) fn advance(&mut self, now: Instant, chance: u64) {
        self.held_until = self.held_until.filter(|until| *until > now);
        if !matches!(self.state, State::Open { .. } | State::ForcedOpen) {
            let overdue = self.window.roll(now);
            if overdue.calls > 0 {
                self.weigh_failures(overdue.calls, overdue.in_a_row, now, chance);
            }
        }
        match self.state {
            State::Open { until } if until <= now => self.half_open(Cause::TimePassed, now),
            State::Recovering { step, next, .. } if next <= now => self.step_on(step, next, now),
            State::Closed
            | State::Open { .. }
            | State::HalfOpen { .. }
            | State::Recovering { .. }
            | State::ForcedOpen
            | State::ForcedClosed => {}
        }
        self.set_wake(now);
    }

    pub(super) fn set_wake(&mut self, now: Instant) {
        let own = match self.state {
            State::Open { until } => until,
            State::Recovering { next, .. } => next.min(self.window.wake()),
            State::Closed | State::HalfOpen { .. } | State::ForcedClosed => self.window.wake(),
            // It waits for an operator.
            State::ForcedOpen => now + Duration::from_secs(3600),
        };
        self.wake = self.held_until.map_or(own, |until| until.min(own));
    }

    /// One step further, or as many as have gone by.
    fn step_on(&mut self, mut step: u32, mut next: Instant, now: Instant) {
        while next <= now {
            if step >= Params::STEPS {
                // What is under way goes on being watched; what went wrong on the way is forgiven.
                self.window.forget_ended();
                self.note(Phase::Closed, Cause::Recovered, now, None);
                self.state = State::Closed;
                self.strikes = 0;
                self.own_doubt = false;
                return;
            }
            step += 1;
            next += self.step_length();
        }
        self.state = State::Recovering { step, next, calls: 0, failed: 0 };
    }

    fn step_length(&self) -> Duration {
        (self.params.recover_for / Params::STEPS).max(Duration::from_millis(1))
    }

    // --- changes of state ---

    fn open(&mut self, cause: Cause, now: Instant, chance: u64) {
        if !self.params.enabled {
            return;
        }
        let until = now + self.params.open_time(self.strikes, chance);
        self.own_doubt = cause.is_the_servers();
        self.is_servers = self.own_doubt;
        self.open_until(until, cause, now);
    }

    /// What was counted stays, to be shown and told, until calls are let through again.
    pub(super) fn open_until(&mut self, until: Instant, cause: Cause, now: Instant) {
        self.strikes = self.strikes.saturating_add(1);
        self.note(Phase::Open, cause, now, Some(until.saturating_duration_since(now)));
        self.state = State::Open { until };
        self.epoch = self.epoch.wrapping_add(1);
        self.set_wake(now);
    }

    pub(super) fn half_open(&mut self, cause: Cause, now: Instant) {
        self.enter(State::HalfOpen { succeeded: 0 }, cause, now);
    }

    /// The calls that tried it stay evidence, those still under way too.
    fn recover(&mut self, now: Instant) {
        if self.params.recover_for.is_zero() {
            self.close(Cause::ProbesSucceeded, now);
            return;
        }
        self.note(Phase::Recovering, Cause::ProbesSucceeded, now, None);
        let next = now + self.step_length();
        self.state = State::Recovering { step: 1, next, calls: 0, failed: 0 };
        self.set_wake(now);
    }

    pub(super) fn close(&mut self, cause: Cause, now: Instant) {
        self.strikes = 0;
        self.own_doubt = false;
        self.enter(State::Closed, cause, now);
    }

    /// Begins a state with nothing counted.
    pub(super) fn enter(&mut self, state: State, cause: Cause, now: Instant) {
        let from = self.phase();
        self.state = state;
        let to = self.phase();
        self.remember(Transition { from, to, cause, at: now, open_for: None });
        self.forget(now);
        self.set_wake(now);
    }

    /// Forgets the evidence; calls under way become stragglers.
    pub(super) fn forget(&mut self, now: Instant) {
        self.epoch = self.epoch.wrapping_add(1);
        self.window = Window::new(self.params.window, self.params.slow, now);
        self.in_a_row = 0;
        self.not_reached_in_a_row = 0;
        self.last_probe = None;
    }

    fn note(&mut self, to: Phase, cause: Cause, at: Instant, open_for: Option<Duration>) {
        self.remember(Transition { from: self.phase(), to, cause, at, open_for });
    }

    fn remember(&mut self, transition: Transition) {
        if self.transitions.len() >= KEPT {
            self.transitions.remove(0);
        }
        self.transitions.push(transition);
    }
}
