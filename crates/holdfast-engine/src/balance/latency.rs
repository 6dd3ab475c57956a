//! How long an instance usually takes: a mean that follows rises at once and falls slowly.
//!
//! A slow answer counts at once, whole; after it the mean falls by half in [`HALVES`]. So an instance
//! that stalls is avoided from its first late answer on, and forgiven over seconds. The mean falls
//! while nothing comes, too: what was slow is tried again.
//!
//! A *fast failure* would look like a fast answer, and draw all calls to a broken instance. It is
//! charged [`PENALTY`] instead of its own time, and more than a call of the same instance would take.
//!
//! One word, fed by every thread without a lock: two that feed it at the same time may lose one of the
//! two. Microseconds as 32-bit floats above, the time of the last change below, in milliseconds that
//! begin anew every 49 days.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The mean falls by half in so many milliseconds.
pub const HALVES: f32 = 5_000.0;
/// What a failure is charged at least, in microseconds.
pub const PENALTY: f32 = 1_000_000.0;
/// Times longer than the mean that a failure is charged at least.
const PENALTY_FACTOR: f32 = 4.0;
/// No call counts for longer, in microseconds.
const LONGEST: f32 = 3.6e9;

/// How long an instance usually takes.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

// === impl Latency ===

impl Latency {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer came after so many microseconds. `now`: milliseconds since any zero that stays.
    pub fn answered(&self, micros: u64, now: u64) {
        self.feed((micros as f32).clamp(1.0, LONGEST), now);
    }

    /// A failure came after so many microseconds.
    pub fn failed(&self, micros: u64, now: u64) {
        let mean = self.read(now);
        let charged = (micros as f32).max(PENALTY).max(mean * PENALTY_FACTOR);
        // A failure after a failure is no longer than the first, or the sum would never be forgiven.
        self.feed(charged.min((micros as f32).max(PENALTY * PENALTY_FACTOR)).min(LONGEST), now);
    }

    /// What it usually takes, in microseconds; 0: not known.
    #[must_use]
    pub fn read(&self, now: u64) -> f32 {
        let (mean, at) = unpack(self.0.load(Relaxed));
        mean * kept(at, now)
    }

    fn feed(&self, sample: f32, now: u64) {
        let (mean, at) = unpack(self.0.load(Relaxed));
        let kept = kept(at, now);
        let faded = mean * kept;
        // A rise counts whole, a fall by the time that has passed.
        let next = if sample > faded { sample } else { faded + (sample - faded) * (1.0 - kept) };
        self.0.store(pack(next.max(1.0), now), Relaxed);
    }
}

/// The share of a mean that is left.
fn kept(at: u32, now: u64) -> f32 {
    // A clock read a little earlier on another thread is no 49 days.
    let passed = (now as u32).wrapping_sub(at);
    let passed = if passed > u32::MAX / 2 { 0 } else { passed };
    (-(passed as f32) / HALVES).exp2()
}

fn pack(mean: f32, now: u64) -> u64 {
    u64::from(mean.to_bits()) << 32 | u64::from(now as u32)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_counts_at_once_and_is_forgiven_slowly() {
        let latency = Latency::new();
        assert_eq!(latency.read(0), 0.0);
        latency.answered(1_000, 0);
        assert_eq!(latency.read(0), 1_000.0);
        latency.answered(100_000, 1);
        assert_eq!(latency.read(1), 100_000.0);
        assert!((latency.read(5_001) - 50_000.0).abs() < 10.0);
        latency.answered(1_000, 5_001);
        let after = latency.read(5_001);
        assert!(
            (after - 25_500.0).abs() < 100.0,
            "half of the way down, half of the rest: {after}"
        );
    }

    #[test]
    fn a_fast_failure_is_dearer_than_any_usual_call() {
        let (failing, slow) = (Latency::new(), Latency::new());
        for now in 0..100 {
            failing.failed(200, now);
            slow.answered(300_000, now);
        }
        assert!(failing.read(100) > slow.read(100));
        assert!(failing.read(100) <= PENALTY * PENALTY_FACTOR, "and not without end");
        assert!(failing.read(60_000) < 5_000.0, "and it is forgiven");
    }

    #[test]
    fn a_failure_after_a_long_wait_costs_the_wait() {
        let latency = Latency::new();
        latency.failed(30_000_000, 0);
        assert_eq!(latency.read(0), 30_000_000.0);
    }

    #[test]
    fn the_clock_begins_anew_and_may_lag() {
        let latency = Latency::new();
        let end = u64::from(u32::MAX);
        latency.answered(1_000, end);
        assert!((latency.read(end + 5_000) - 500.0).abs() < 1.0);
        latency.answered(1_000, 2_000);
        assert!(latency.read(1_999) <= 1_000.0);
        latency.answered(u64::MAX, 3_000);
        assert_eq!(latency.read(3_000), LONGEST);
    }
}
