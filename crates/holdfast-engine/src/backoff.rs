//! Exponential back-off with jitter.
//!
//! Each delay lies between half and the whole of a step that doubles up to a limit. The half that is
//! always waited keeps a crashing server from being restarted in a loop; the other half spreads
//! nodes that lost the same server at the same moment.

use std::time::Duration;

/// The delays before one thing's next attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    step: Duration,
}

impl Backoff {
    /// The first step is `base`, none is longer than `max` (nor is the first).
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        let base = base.min(max);
        Self { base, max, step: base }
    }

    /// The next delay; `random` is any 64 random bits.
    pub fn next(&mut self, random: u64) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(2).min(self.max);
        let half = step / 2;
        let nanos = u64::try_from((step - half).as_nanos()).unwrap_or(u64::MAX);
        // The high half of the product is `random` scaled to 0..=nanos, without bias that matters.
        let scaled = (u128::from(random) * (u128::from(nanos) + 1)) >> 64;
        half + Duration::from_nanos(u64::try_from(scaled).unwrap_or(nanos))
    }

    /// It worked: the next delay is a first one again.
    pub fn reset(&mut self) {
        self.step = self.base;
    }
}
