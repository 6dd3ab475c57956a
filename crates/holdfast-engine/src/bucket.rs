//! A token bucket for requests per minute.
//!
//! Kept as one instant (the time at which the bucket is full again) instead of a count, so that it
//! needs no timer, no floating point, and no refill while nobody calls.

use std::time::{Duration, Instant};

/// One principal's or server's allowance.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// The time one token takes to come back.
    interval: Duration,
    /// How far `full_at` may lie ahead after a take.
    depth: Duration,
    /// When the bucket is full again; `None` while it never was used.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket of `burst` tokens that gets `per_minute` new ones a minute. Both count as 1 if
    /// they are 0.
    #[must_use]
    pub fn new(per_minute: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(60) / per_minute.max(1);
        Self { interval, depth: interval * burst.max(1), full_at: None }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// When there is none: the time after which there is one, never zero.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.take_ahead(Duration::ZERO, now).map(|_| ())
    }

    /// Takes one token that is there within `patience`; after how long it is. Whoever takes next gets
    /// the one after it.
    ///
    /// # Errors
    /// When there is none so soon: the time after which there is one.
    pub fn take_ahead(&mut self, patience: Duration, now: Instant) -> Result<Duration, Duration> {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval;
        let wait = full_at.duration_since(now).saturating_sub(self.depth);
        if wait > patience {
            return Err(wait);
        }
        self.full_at = Some(full_at);
        Ok(wait)
    }

    /// Takes so many tokens together where there is one: for those that are not there yet, whoever comes
    /// next waits.
    ///
    /// # Errors
    /// As [`Self::take`]; none is taken.
    pub fn take_together(&mut self, count: u32, now: Instant) -> Result<(), Duration> {
        self.take(now)?;
        let others = self.interval.saturating_mul(count.saturating_sub(1));
        self.full_at = self.full_at.map(|full_at| full_at + others);
        Ok(())
    }

    /// Gives so many tokens back that were taken for calls that were then not made.
    pub fn give_back(&mut self, count: u32) {
        let taken = self.interval.saturating_mul(count);
        self.full_at = self.full_at.and_then(|full_at| full_at.checked_sub(taken));
    }

    /// What is left, 0 to 1; 0 while there is no whole token.
    #[must_use]
    pub fn left(&self, now: Instant) -> f32 {
        let ahead = self.full_at.map_or(Duration::ZERO, |it| it.saturating_duration_since(now));
        match self.depth.checked_sub(ahead) {
            Some(left) if left >= self.interval => left.as_secs_f32() / self.depth.as_secs_f32(),
            Some(_) | None => 0.0,
        }
    }

    /// Whether the bucket is full, so that forgetting it changes nothing.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(60, 3);
        for _ in 0..3 {
            assert_eq!(bucket.take(now), Ok(()));
        }
        assert_eq!(bucket.take(now), Err(SECOND));
        assert_eq!(bucket.take(now + SECOND / 4), Err(SECOND * 3 / 4));
        assert_eq!(bucket.take(now + SECOND), Ok(()));
        assert_eq!(bucket.take(now + SECOND), Err(SECOND));
        // A long rest fills it, and no further than the burst.
        let later = now + SECOND * 3600;
        assert!(bucket.is_full(later));
        for _ in 0..3 {
            assert_eq!(bucket.take(later), Ok(()));
        }
        assert!(!bucket.is_full(later));
        assert_eq!(bucket.take(later), Err(SECOND));
    }

    #[test]
    fn what_is_given_back_is_there_again_and_no_more_than_that() {
        let now = Instant::now();
        let mut bucket = Bucket::new(60, 3);
        bucket.take(now).unwrap();
        bucket.take_together(4, now).unwrap();
        assert_eq!(bucket.take(now), Err(SECOND * 3));
        bucket.give_back(4);
        assert_eq!((bucket.take(now), bucket.take(now)), (Ok(()), Ok(())));
        assert_eq!(bucket.take(now), Err(SECOND));
        // A full one is full.
        let later = now + SECOND * 60;
        bucket.give_back(3);
        for _ in 0..3 {
            assert_eq!(bucket.take(later), Ok(()));
        }
        assert_eq!(bucket.take(later), Err(SECOND));
    }

    #[test]
    fn who_waits_has_a_turn_and_the_next_one_the_turn_after_it() {
        let now = Instant::now();
        let mut bucket = Bucket::new(60, 1);
        let turns: Vec<_> = (0..4).map(|_| bucket.take_ahead(SECOND * 2, now)).collect();
        assert_eq!(turns, [Ok(Duration::ZERO), Ok(SECOND), Ok(SECOND * 2), Err(SECOND * 3)]);
        // Nobody passes those who wait.
        assert_eq!(bucket.take(now + SECOND), Err(SECOND * 2));
        assert_eq!(bucket.take(now + SECOND * 3), Ok(()));
    }

    #[test]
    fn what_is_taken_together_counts_as_many_also_beyond_what_is_there() {
        let now = Instant::now();
        let mut bucket = Bucket::new(60, 3);
        assert_eq!(bucket.take_together(5, now), Ok(()));
        assert_eq!(bucket.take_together(2, now), Err(SECOND * 3));
        assert_eq!(bucket.take(now + SECOND * 3), Ok(()));
        assert_eq!(bucket.take_together(0, now + SECOND * 4), Ok(()), "no less than one");
        assert_eq!(bucket.take(now + SECOND * 4), Err(SECOND));
    }

    #[test]
    fn zero_counts_as_one_and_the_largest_numbers_work() {
        let now = Instant::now();
        let mut bucket = Bucket::new(0, 0);
        assert_eq!(bucket.take(now), Ok(()));
        assert_eq!(bucket.take(now), Err(SECOND * 60));
        let mut bucket = Bucket::new(u32::MAX, u32::MAX);
        assert_eq!(bucket.take(now), Ok(()));
        let mut bucket = Bucket::new(1, u32::MAX);
        assert_eq!(bucket.take(now), Ok(()));
    }

    #[test]
    fn a_clock_read_a_little_earlier_on_another_thread_gives_nothing_away() {
        let now = Instant::now() + SECOND;
        let mut bucket = Bucket::new(60, 1);
        assert_eq!(bucket.take(now), Ok(()));
        assert_eq!(bucket.take(now - SECOND / 2), Err(SECOND * 3 / 2));
    }

    proptest! {
        /// In any stretch of time no more pass than the burst and what the stretch brings.
        #[test]
        fn never_more_than_rate_and_burst(
            per_minute in 1u32..600,
            burst in 1u32..20,
            steps in prop::collection::vec(0u64..3_000, 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(per_minute, burst);
            let mut now = start;
            let mut passed: Vec<Instant> = Vec::new();
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(now) {
                    Ok(()) => passed.push(now),
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO);
                        // What it says is true: not before, but then.
                        let before = now + wait - Duration::from_nanos(1);
                        prop_assert!(bucket.clone().take(before).is_err());
                        prop_assert!(bucket.clone().take(now + wait).is_ok());
                    }
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let brought = (*to - *from).as_nanos() * u128::from(per_minute) / 60_000_000_000;
                    let count = u128::try_from(last - first + 1).unwrap();
                    // The interval is rounded down to a nanosecond, hence the one more.
                    prop_assert!(count <= u128::from(burst) + brought + 1);
                }
            }
        }
    }
}
