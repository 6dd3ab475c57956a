//! A histogram of durations with a bounded relative error, small enough to keep one per connection.
//!
//! # Why not a list of samples
//! A closed loop makes tens of thousands of samples a second; a list of them would cost memory
//! bandwidth that belongs to what is measured. Buckets grow with the value (log-linear): each power
//! of two is cut into 64, so a reported value is at most 1/64 (1.6 %) above the true one.

use std::time::Duration;

/// log2 of the number of buckets per power of two.
const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
/// Values from 2^40 ns (18 minutes) on share the last bucket.
const MAX_BITS: u32 = 40;
const BUCKETS: usize = SUB * (MAX_BITS - SUB_BITS + 1) as usize;

/// Counts of durations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

// === impl Histogram ===

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(nanos)] += 1;
        self.total += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The smallest bucket limit that at least `quantile` (0.0..=1.0) of the samples do not exceed;
    /// zero when nothing was counted. Never above the greatest sample.
    pub fn quantile(&self, quantile: f64) -> Duration {
        if self.total == 0 {
            return Duration::ZERO;
        }
        let wanted = (quantile.clamp(0.0, 1.0) * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper_limit(index).min(self.max));
            }
        }
        self.max()
    }

    /// The exact mean; zero when nothing was counted.
    pub fn mean(&self) -> Duration {
        if self.total == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos((self.sum / u128::from(self.total)) as u64)
    }

    /// The exact greatest sample.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }
}

/// Below 64 every value has its own bucket; above, the six bits after the leading one choose it.
fn bucket_of(nanos: u64) -> usize {
    if nanos < SUB as u64 {
        return nanos as usize;
    }
    let exponent = 63 - nanos.leading_zeros();
    if exponent >= MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = exponent - SUB_BITS;
    let within = (nanos >> shift) as usize - SUB;
    SUB * (shift as usize + 1) + within
}

/// The greatest value that falls into the bucket.
fn upper_limit(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let shift = index / SUB - 1;
    let within = index % SUB;
    ((SUB + within + 1) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reported_quantile_is_within_one_sixty_fourth_of_the_truth() {
        let mut histogram = Histogram::default();
        let values: Vec<u64> = (1..=10_000).map(|n| n * 977).collect();
        for value in &values {
            histogram.record(Duration::from_nanos(*value));
        }
        for quantile in [0.01, 0.5, 0.9, 0.99, 0.999] {
            let truth = values[(quantile * 10_000.0) as usize - 1];
            let reported = histogram.quantile(quantile).as_nanos() as u64;
            assert!(reported >= truth, "{quantile}: {reported} is below {truth}");
            assert!(reported <= truth + truth / 64 + 1, "{quantile}: {reported} is above {truth}");
        }
        assert_eq!(histogram.max(), Duration::from_nanos(9_770_000));
        assert_eq!(histogram.quantile(1.0), Duration::from_nanos(9_770_000));
    }

    #[test]
    fn every_value_lies_in_the_bucket_that_it_is_counted_in() {
        for exponent in 0..MAX_BITS {
            for offset in [0, 1, 3] {
                let value = (1u64 << exponent) + offset;
                let index = bucket_of(value);
                assert!(upper_limit(index) >= value, "{value}");
                assert!(index == 0 || upper_limit(index - 1) <= value, "{value}");
            }
        }
    }

    #[test]
    fn merging_is_the_same_as_recording_in_one() {
        let (mut left, mut right, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for n in 0..1000u64 {
            let value = Duration::from_micros(n * n);
            if n % 3 == 0 {
                left.record(value)
            } else {
                right.record(value)
            }
            both.record(value);
        }
        left.merge(&right);
        assert_eq!(left.count(), 1000);
        assert_eq!(left.mean(), both.mean());
        for quantile in [0.1, 0.5, 0.99] {
            assert_eq!(left.quantile(quantile), both.quantile(quantile));
        }
    }

    #[test]
    fn an_empty_histogram_answers_zero_and_a_huge_value_fits() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        histogram.record(Duration::from_secs(1 << 20));
        assert_eq!(histogram.count(), 1);
        assert_eq!(histogram.max(), Duration::from_secs(1 << 20));
    }
}
