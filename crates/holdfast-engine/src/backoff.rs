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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn steps_double_up_to_the_limit_and_start_over() {
        let mut backoff = Backoff::new(ms(100), ms(500));
        let most: Vec<_> = (0..5).map(|_| backoff.next(u64::MAX)).collect();
        assert_eq!(most, [ms(100), ms(200), ms(400), ms(500), ms(500)]);
        backoff.reset();
        let least: Vec<_> = (0..5).map(|_| backoff.next(0)).collect();
        assert_eq!(least, [ms(50), ms(100), ms(200), ms(250), ms(250)]);
    }

    #[test]
    fn the_delay_lies_in_its_range_where_the_random_number_lies_in_its_own() {
        let delay = |random| Backoff::new(ms(100), ms(500)).next(random);
        assert_eq!(delay(u64::MAX / 4), Duration::from_micros(62_500));
        assert_eq!(delay(u64::MAX / 2), ms(75));
        assert_eq!(delay(u64::MAX / 4 * 3), Duration::from_micros(87_500));
    }

    #[test]
    fn the_limit_holds_for_the_first_step_too_and_nothing_overflows() {
        assert_eq!(Backoff::new(ms(100), ms(30)).next(u64::MAX), ms(30));
        assert_eq!(Backoff::new(Duration::ZERO, ms(30)).next(u64::MAX), Duration::ZERO);
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        backoff.next(u64::MAX);
        assert!(backoff.next(u64::MAX) >= Duration::MAX / 2);
    }

    proptest! {
        #[test]
        fn every_delay_is_between_half_and_all_of_its_step(
            base in 1u64..10_000,
            max in 1u64..1_000_000,
            randoms in prop::collection::vec(any::<u64>(), 1..40),
        ) {
            let mut backoff = Backoff::new(ms(base), ms(max));
            let mut step = ms(base.min(max));
            for random in randoms {
                let delay = backoff.next(random);
                prop_assert!(step / 2 <= delay && delay <= step, "{delay:?} of {step:?}");
                step = (step * 2).min(ms(max));
            }
        }
    }
}
