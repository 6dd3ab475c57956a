//! A breaker's settings, and the limits within which they make sense.

use std::time::Duration;

/// The settings of one breaker. What lies outside its range counts as the nearest end of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Params {
    /// Whether it opens by itself, or for the cluster. Where it does not, only an operator's word makes it
    /// refuse a call.
    pub enabled: bool,
    /// So many failures in a row open it: at least 1.
    pub consecutive_failures: u32,
    /// The share of failed calls that opens it: 0 to 1, where 1 and more means never. It has to be
    /// exceeded by three standard deviations, so that few calls need more of it: 8 of 50 for 0.05.
    pub failure_rate: f64,
    /// The rate says nothing before so many calls are decided within the window: at least 1.
    pub minimum_calls: u32,
    /// How far the rate looks back: 1 s to 1 day.
    pub window: Duration,
    /// A call that has no answer for so long counts as a failure from then on: 10 ms up to `window`.
    pub slow: Duration,
    /// How long it stays open the first time: at least 1 ms.
    pub open_for: Duration,
    /// The longest that it stays open; the time doubles with each opening until it has closed.
    pub open_at_most: Duration,
    /// The share of calls that pass while it is half-open: 0 to 1.
    pub half_open_share: f64,
    /// While it is half-open or recovering, a call passes if none has for so long, whatever the share.
    pub probe_interval: Duration,
    /// So many successes in a row end the half-open state: at least 1.
    pub successes_to_close: u32,
    /// How long recovery takes, in [`STEPS`](Self::STEPS) steps; zero closes at once.
    pub recover_for: Duration,
    /// The longest time that a server's `Retry-After` is heeded.
    pub back_pressure_at_most: Duration,
}

impl Params {
    /// The steps of a recovery: a tenth of the calls each.
    pub const STEPS: u32 = 10;

    /// The thousandths that pass from the first try on: a session whose lot is below it stays in the share as
    /// that grows. 1 to 100.
    #[must_use]
    pub fn first_share(&self) -> u16 {
        let first = share(self.half_open_share, 0.0).min(1.0 / f64::from(Self::STEPS));
        // Between 0 and 100, so nothing is cut off.
        ((first * 1000.0).round() as u16).max(1)
    }

    /// The same with every value in its range.
    #[must_use]
    pub(super) fn sane(self) -> Self {
        const MS: Duration = Duration::from_millis(1);
        let window = self.window.clamp(1000 * MS, 86_400_000 * MS);
        let open_for = self.open_for.clamp(MS, 86_400_000 * MS);
        Self {
            enabled: self.enabled,
            consecutive_failures: self.consecutive_failures.max(1),
            failure_rate: share(self.failure_rate, 1.0),
            minimum_calls: self.minimum_calls.max(1),
            window,
            slow: self.slow.clamp(10 * MS, window),
            open_for,
            open_at_most: self.open_at_most.clamp(open_for, 86_400_000 * MS),
            half_open_share: share(self.half_open_share, 0.0),
            probe_interval: self.probe_interval.max(MS),
            successes_to_close: self.successes_to_close.max(1),
            recover_for: self.recover_for.min(86_400_000 * MS),
            back_pressure_at_most: self.back_pressure_at_most.min(86_400_000 * MS),
        }
    }

    /// How long it stays open after `strikes` earlier openings without a closing: a step that doubles,
    /// and up to a quarter more by chance, so that nodes that opened together do not try together.
    /// Never longer than `open_at_most`.
    #[must_use]
    pub(super) fn open_time(&self, strikes: u32, chance: u64) -> Duration {
        let longest = self.open_at_most * 4 / 5;
        scattered(self.open_for.saturating_mul(1 << strikes.min(20)).min(longest), chance)
    }

    /// The same where it is to stay open for so long at least.
    #[must_use]
    pub(super) fn open_longer(&self, length: Duration, strikes: u32, chance: u64) -> Duration {
        let longest = self.open_at_most * 4 / 5;
        let step = length.saturating_mul(1 << strikes.min(20)).min(longest);
        scattered(step.max(length), chance)
    }
}

/// The time, and up to a quarter of it more.
fn scattered(step: Duration, chance: u64) -> Duration {
    let quarter = u64::try_from((step / 4).as_nanos()).unwrap_or(u64::MAX);
    // The high half of the product is `chance` scaled to the quarter.
    let extra = (u128::from(chance) * (u128::from(quarter) + 1)) >> 64;
    step + Duration::from_nanos(u64::try_from(extra).unwrap_or(quarter))
}

fn share(value: f64, if_not_a_number: f64) -> f64 {
    if value.is_nan() { if_not_a_number } else { value.clamp(0.0, 1.0) }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: 5,
            failure_rate: 0.05,
            minimum_calls: 50,
            window: Duration::from_secs(600),
            slow: Duration::from_secs(30),
            open_for: Duration::from_secs(30),
            open_at_most: Duration::from_secs(60),
            half_open_share: 0.1,
            probe_interval: Duration::from_secs(1),
            successes_to_close: 3,
            recover_for: Duration::from_secs(300),
            back_pressure_at_most: Duration::from_secs(60),
        }
    }
}
