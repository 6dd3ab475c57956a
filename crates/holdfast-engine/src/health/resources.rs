//! What an instance says of its own processor, memory and waiting for I/O, as a mean over [`WINDOW`].
//!
//! The numbers come from checks, each as often as those are made: a share of the whole, or a sum that only
//! rises (`process_cpu_seconds_total`), of which counts what it rises by in a second. A number that is told
//! no more is forgotten after one window.

use super::passive::Indicators;

/// Over how long a mean goes, in milliseconds.
pub const WINDOW: u64 = 300_000;

/// One of an instance's own resources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resource {
    /// Its processors.
    Cpu,
    /// Its memory.
    Memory,
    /// The share of its time in which it waits for I/O.
    IoWait,
}

/// What one number that was read stands for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Scale {
    /// What stands for all of the resource; above 0.
    pub full: f64,
    /// The number only rises, and counts by what it rises in a second.
    pub counter: bool,
}

/// The readings of one instance.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Resources {
    kept: [Kept; Resource::ALL.len()],
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Kept {
    mean: Fading,
    /// The last number and when it was read, in milliseconds.
    last: Option<(f64, u64)>,
}

/// The mean of a reading over a window: of all readings while they are younger than that, and then older
/// ones fade away.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Fading {
    mean: f64,
    /// When it was first and last fed, in milliseconds; none: never.
    fed: Option<(u64, u64)>,
}

// === impl Resource ===

impl Resource {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::IoWait];

    /// The word for it in the configuration, checks and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::IoWait => "io_wait",
        }
    }
}

// === impl Resources ===

impl Resources {
    /// A check has read `number` at `now`: milliseconds since any zero that stays the same. The share that
    /// it stands for; none of a counter's first number, of one that was set back, or of no number.
    pub fn feed(&mut self, resource: Resource, number: f64, scale: Scale, now: u64) -> Option<f64> {
        let kept = &mut self.kept[resource as usize];
        let before = kept.last.replace((number, now));
        let value = if scale.counter {
            let (last, at) = before?;
            let seconds = now.checked_sub(at).filter(|it| *it > 0)? as f64 / 1e3;
            (number >= last).then(|| (number - last) / seconds)?
        } else {
            number
        };
        let share = value / scale.full;
        if !share.is_finite() {
            return None;
        }
        kept.mean.feed(share, now);
        Some(share)
    }

    /// Puts the means at `now` where they belong.
    pub fn put(&self, indicators: &mut Indicators, now: u64) {
        let [cpu, memory, io_wait] = self.kept.map(|it| it.mean.read(now));
        (indicators.cpu, indicators.memory, indicators.io_wait) = (cpu, memory, io_wait);
    }
}

// === impl Fading ===

impl Fading {
    fn feed(&mut self, value: f64, now: u64) {
        let (first, last) = match self.fed {
            Some((first, last)) if now.saturating_sub(last) <= WINDOW => (first, last),
            Some(_) | None => {
                *self = Self { mean: value, fed: Some((now, now)) };
                return;
            }
        };
        // A reading stands for the time since the one before it.
        let since = now.saturating_sub(last) as f64;
        let whole = now.saturating_sub(first).clamp(1, WINDOW) as f64;
        self.mean += (value - self.mean) * (since / whole).min(1.0);
        self.fed = Some((first, now.max(last)));
    }

    fn read(&self, now: u64) -> Option<f64> {
        self.fed.filter(|(_, at)| now.saturating_sub(*at) <= WINDOW).map(|_| self.mean)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARE: Scale = Scale { full: 1.0, counter: false };

    fn seen(resources: &Resources, now: u64) -> [Option<f64>; 3] {
        let mut indicators = Indicators::default();
        resources.put(&mut indicators, now);
        [indicators.cpu, indicators.memory, indicators.io_wait]
    }

    #[test]
    fn a_mean_goes_over_the_window_and_is_forgotten_after_it() {
        let mut it = Resources::default();
        assert_eq!(seen(&it, 0), [None; 3]);
        it.feed(Resource::Memory, 1.0, SHARE, 0);
        assert_eq!(seen(&it, WINDOW), [None, Some(1.0), None]);
        assert_eq!(seen(&it, WINDOW + 1), [None; 3]);
        // Half of the time full, half of it empty.
        for (number, at) in [(0.0, 0), (1.0, 100_000), (0.0, 200_000)] {
            it.feed(Resource::IoWait, number, SHARE, at);
        }
        assert_eq!(seen(&it, 200_000)[2], Some(0.5));
        // One busy reading of fifteen seconds is a twentieth of the window.
        let mut busy = Resources::default();
        for at in (0..=600_000).step_by(15_000) {
            busy.feed(Resource::Cpu, f64::from(u8::from(at == 600_000)), SHARE, at);
        }
        assert_eq!(seen(&busy, 600_000)[0], Some(0.05));
    }

    #[test]
    fn numbers_are_shares_of_what_is_full_and_counters_count_by_the_second() {
        let mut it = Resources::default();
        let percent = Scale { full: 100.0, counter: false };
        assert_eq!(it.feed(Resource::Memory, 85.0, percent, 0), Some(0.85));
        let seconds = Scale { full: 4.0, counter: true };
        let mut cpu = |number, at| it.feed(Resource::Cpu, number, seconds, at);
        assert_eq!(cpu(100.0, 0), None, "one number is no rise");
        assert_eq!(cpu(120.0, 10_000), Some(0.5));
        assert_eq!(cpu(5.0, 20_000), None, "it began anew");
        assert_eq!(cpu(45.0, 30_000), Some(1.0));
        assert_eq!(cpu(45.0, 30_000), None, "no time went by");
        assert_eq!(cpu(f64::NAN, 40_000), None);
        assert_eq!(seen(&it, 30_000)[1], Some(0.85));
    }

    proptest! {
        #[test]
        fn a_mean_lies_between_what_was_read(
            readings in prop::collection::vec((0.0f64..=1.0, 0u64..400_000), 1..60),
        ) {
            let (mut it, mut now) = (Resources::default(), 0);
            for (value, pause) in &readings {
                now += pause;
                it.feed(Resource::Cpu, *value, SHARE, now);
            }
            let mean = seen(&it, now)[0].unwrap();
            let least = readings.iter().map(|it| it.0).fold(1.0, f64::min);
            let most = readings.iter().map(|it| it.0).fold(0.0, f64::max);
            prop_assert!((least - 1e-9..=most + 1e-9).contains(&mean), "{mean}");
        }
    }
}
