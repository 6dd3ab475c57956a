//! Admission where not every call passes.

use std::time::{Duration, Instant};

use super::{Breaker, Params, Refused, State, Why};

impl Breaker {
    /// Lets a share of the calls pass, those of the sessions in it, and one whenever none has for an interval.
    #[cold]
    pub(super) fn some_pass(
        &mut self,
        lot: Option<u16>,
        now: Instant,
        chance: u64,
    ) -> Result<(), Refused> {
        let interval = self.params.probe_interval;
        let why = match self.state {
            State::ForcedOpen => return refuse(Why::ForcedOpen, interval),
            State::Open { until } => {
                return refuse(Why::Open, until.saturating_duration_since(now));
            }
            State::HalfOpen { .. } => Why::HalfOpen,
            State::Recovering { .. } => Why::Recovering,
            State::Closed | State::ForcedClosed => Why::BackPressure,
        };
        if let Some(until) = self.held_until {
            return refuse(Why::BackPressure, until.saturating_duration_since(now));
        }
        let silent =
            self.last_probe.is_none_or(|last| now.saturating_duration_since(last) >= interval);
        if lot.is_some_and(|lot| lot < self.thousandths()) {
            // Its session was drawn, and its calls are not.
        } else if silent {
            self.share.charge();
        } else if !self.share.passes(self.thousandths(), chance) {
            return refuse(why, interval);
        }
        self.last_probe = Some(now);
        Ok(())
    }

    /// How many of a thousand calls pass, back-pressure and probes aside.
    pub(super) fn thousandths(&self) -> u16 {
        let share = match self.state {
            State::Closed | State::ForcedClosed => 1.0,
            State::Open { .. } | State::ForcedOpen => 0.0,
            State::HalfOpen { .. } => self.params.half_open_share,
            State::Recovering { step, .. } => f64::from(step) / f64::from(Params::STEPS),
        };
        // Between 0 and 1000, so nothing is cut off.
        (share * 1000.0).round() as u16
    }

    /// The server asked for time.
    #[cold]
    pub(super) fn hold(&mut self, retry_after: Duration, now: Instant) {
        let until = now + retry_after.min(self.params.back_pressure_at_most);
        if until > now {
            self.held_until = self.held_until.max(Some(until));
            self.set_wake(now);
        }
    }
}

fn refuse(why: Why, after: Duration) -> Result<(), Refused> {
    Err(Refused { retry_after: after.max(Duration::from_millis(1)), why })
}
