//! How well a gateway node is: each reading against three levels, believed once several samples in a
//! row say so, and what follows from it.
//!
//! | reading | warning | critical | emergency |
//! |---|---|---|---|
//! | CPU | 70 % | 85 % | 95 % |
//! | memory | 75 % | 90 % | 95 % |
//! | disk | 80 % | 90 % | 95 % |
//! | success rate, below | 98 % | 95 % | 90 % |
//! | 95th percentile, ms | 500 | 1000 | 2000 |
//! | connections | 5000 | 8000 | 10000 |
//! | days until a certificate ends, below | 30 | 7 | 1 |
//!
//! The node is as well as its worst reading.
//!
//! # What follows
//! Every level is shown. Something is *done* only about memory and disk: they are the node's own, and a
//! node that runs out of them dies, or can write no log. Work that is taken away from a node whose
//! processors or connections are full fills the next one; servers that answer slowly or with errors
//! do so at every node; and a certificate ends on all of them.

/// How bad a reading is. The order is from well to ill.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Level {
    /// Nothing to say.
    #[default]
    Normal,
    /// Somebody should look in the next days.
    Warning,
    /// Somebody should look now.
    Critical,
    /// The node is about to fail.
    Emergency,
}

/// What is read of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reading {
    /// The share of the processors that the node may use and that is in use, 0 to 1.
    Cpu,
    /// The share of the memory that the node may use and that is in use, 0 to 1.
    Memory,
    /// The share of the data directory's disk that is in use, 0 to 1; of a large one of its last part.
    Disk,
    /// The share of calls that succeeded, 0 to 1.
    Success,
    /// The 95th percentile of the response time, in milliseconds.
    P95,
    /// Open client connections.
    Connections,
    /// Days until the certificate ends that ends first.
    CertificateDays,
}

/// Where a reading's levels begin. Where `emergency` is the smallest, less is worse.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// From here on a warning.
    pub warning: f64,
    /// From here on critical.
    pub critical: f64,
    /// From here on an emergency.
    pub emergency: f64,
}

/// A reading and how bad it is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Finding {
    /// What was read.
    pub reading: Reading,
    /// Its value.
    pub value: f64,
    /// How bad that is.
    pub level: Level,
}

/// What a node does about its own state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Measure {
    /// It goes on.
    #[default]
    GoOn,
    /// It lets another node coordinate.
    HandOver,
    /// It wants no new traffic either, if enough others are there ([`super::aside`]).
    StepAside,
}

/// A node's readings over time.
#[derive(Clone, Debug)]
pub struct Condition {
    kept: [Kept; Reading::ALL.len()],
}

/// A change of what is believed of one reading.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    /// What was believed.
    pub from: Level,
    /// What is believed now, and the last value.
    pub now: Finding,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    limits: Limits,
    value: Option<f64>,
    believed: Believed,
}

/// A level that does not follow every sample.
///
/// | believed \ seen | the same | worse | better |
/// |---|---|---|---|
/// | any | counts start over | worse by the mildest of the last [`FALL`] | better by the worst of the last [`RISE`] |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Believed {
    level: Level,
    worse: u32,
    mildest: Level,
    better: u32,
    worst: Level,
}

/// Samples in a row that are believed when they are worse.
pub const FALL: u32 = 3;
/// Samples in a row that are believed when they are better.
pub const RISE: u32 = 5;

/// The worst of the findings, and the first with it; none without a finding.
#[must_use]
pub fn worst(findings: &[Finding]) -> Option<Finding> {
    findings.iter().copied().reduce(|worst, it| if it.level > worst.level { it } else { worst })
}

/// What the node does about these findings.
#[must_use]
pub fn measure(findings: &[Finding]) -> Measure {
    let own = findings.iter().filter(|it| matches!(it.reading, Reading::Memory | Reading::Disk));
    match own.map(|it| it.level).max().unwrap_or_default() {
        Level::Normal | Level::Warning => Measure::GoOn,
        Level::Critical => Measure::HandOver,
        Level::Emergency => Measure::StepAside,
    }
}

// === impl Reading ===

impl Reading {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::Success,
        Self::P95,
        Self::Connections,
        Self::CertificateDays,
    ];

    /// The word for it, in checks, metrics and lines of the record.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Success => "success",
            Self::P95 => "p95",
            Self::Connections => "connections",
            Self::CertificateDays => "certificate_expiry",
        }
    }

    /// A value of it with its unit, for people.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Cpu | Self::Memory | Self::Disk => format!("{:.0} % used", value * 100.0),
            Self::Success => format!("{:.1} % of calls succeed", value * 100.0),
            Self::P95 => format!("{value:.0} ms"),
            Self::Connections => format!("{value:.0} connections"),
            Self::CertificateDays if value < 0.0 => "a certificate has ended".to_owned(),
            Self::CertificateDays => format!("{value:.1} days until a certificate ends"),
        }
    }
}

// === impl Limits ===

impl Limits {
    /// How bad a value is. What is no number counts as critical.
    #[must_use]
    pub fn level(self, value: f64) -> Level {
        if value.is_nan() {
            return Level::Critical;
        }
        let less_is_worse = self.emergency < self.warning;
        let reached = |limit: f64| if less_is_worse { value < limit } else { value >= limit };
        if reached(self.emergency) {
            Level::Emergency
        } else if reached(self.critical) {
            Level::Critical
        } else if reached(self.warning) {
            Level::Warning
        } else {
            Level::Normal
        }
    }
}

// === impl Level ===

impl Level {
    /// All of them, from well to ill.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Warning, Self::Critical, Self::Emergency];

    /// The word for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Emergency => "emergency",
        }
    }

    /// The level at this place of [`Self::ALL`], as nodes tell it one another; one that a later version
    /// may have is an emergency.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Emergency)
    }
}

// === impl Condition ===

impl Condition {
    /// Nothing was read yet, and nothing is believed to be wrong.
    #[must_use]
    pub fn new(limits: impl Fn(Reading) -> Limits) -> Self {
        let kept = Reading::ALL.map(|reading| Kept {
            limits: limits(reading),
            value: None,
            believed: Believed::default(),
        });
        Self { kept }
    }

    /// Takes one sample of everything. What is not in it could not be read, or has no value, such as
    /// the success rate of no calls: it speaks for no trouble. Returns what is believed anew.
    #[must_use]
    pub fn take(&mut self, sample: &[(Reading, f64)]) -> Vec<Change> {
        let mut changes = Vec::new();
        for reading in Reading::ALL {
            let value = sample.iter().find(|(it, _)| *it == reading).map(|(_, value)| *value);
            let kept = &mut self.kept[reading as usize];
            kept.value = value;
            let seen = value.map_or(Level::Normal, |value| kept.limits.level(value));
            if let Some(from) = kept.believed.take(seen) {
                let now = Finding {
                    reading,
                    value: value.unwrap_or_default(),
                    level: kept.believed.level,
                };
                changes.push(Change { from, now });
            }
        }
        changes
    }

    /// What was read last, with what is believed of it.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |(reading, kept): (Reading, &Kept)| {
            Some(Finding { reading, value: kept.value?, level: kept.believed.level })
        };
        Reading::ALL.into_iter().zip(&self.kept).filter_map(finding).collect()
    }

    /// Where the levels of a reading begin.
    #[must_use]
    pub fn limits(&self, reading: Reading) -> Limits {
        self.kept[reading as usize].limits
    }
}

// === impl Believed ===

impl Believed {
    /// One more sample; what was believed before, if that changes.
    fn take(&mut self, seen: Level) -> Option<Level> {
        match seen.cmp(&self.level) {
            std::cmp::Ordering::Equal => {
                (self.worse, self.better) = (0, 0);
                None
            }
            std::cmp::Ordering::Greater => {
                self.mildest = if self.worse == 0 { seen } else { self.mildest.min(seen) };
                (self.worse, self.better) = (self.worse + 1, 0);
                (self.worse >= FALL).then(|| self.believe(self.mildest))
            }
            std::cmp::Ordering::Less => {
                self.worst = if self.better == 0 { seen } else { self.worst.max(seen) };
                (self.better, self.worse) = (self.better + 1, 0);
                (self.better >= RISE).then(|| self.believe(self.worst))
            }
        }
    }

    fn believe(&mut self, level: Level) -> Level {
        (self.worse, self.better) = (0, 0);
        std::mem::replace(&mut self.level, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(reading: Reading) -> Limits {
        let (warning, critical, emergency) = match reading {
            Reading::Cpu => (0.70, 0.85, 0.95),
            Reading::Memory => (0.75, 0.90, 0.95),
            Reading::Disk => (0.80, 0.90, 0.95),
            Reading::Success => (0.98, 0.95, 0.90),
            Reading::P95 => (500.0, 1000.0, 2000.0),
            Reading::Connections => (5000.0, 8000.0, 10000.0),
            Reading::CertificateDays => (30.0, 7.0, 1.0),
        };
        Limits { warning, critical, emergency }
    }

    #[test]
    fn every_reading_has_its_levels_where_the_table_says() {
        use Level::*;
        let cases = [
            (Reading::Cpu, [0.69, 0.70, 0.85, 0.95]),
            (Reading::Memory, [0.74, 0.75, 0.90, 0.95]),
            (Reading::Disk, [0.79, 0.80, 0.90, 0.95]),
            (Reading::Success, [0.98, 0.979, 0.949, 0.899]),
            (Reading::P95, [499.0, 500.0, 1000.0, 2000.0]),
            (Reading::Connections, [4999.0, 5000.0, 8000.0, 10000.0]),
            (Reading::CertificateDays, [30.0, 29.9, 6.9, 0.9]),
        ];
        for (reading, values) in cases {
            let levels = values.map(|it| limits(reading).level(it));
            assert_eq!(levels, [Normal, Warning, Critical, Emergency], "{}", reading.label());
            assert_eq!(limits(reading).level(f64::NAN), Critical);
        }
        for (number, level) in (0..).zip(Level::ALL) {
            assert_eq!((level as u8, Level::from_number(number)), (number, level));
        }
    }

    /// What one reading is believed to be after these samples of its level.
    #[test]
    fn worse_is_believed_after_three_samples_and_better_after_five() {
        let table: [(&str, &str); 8] = [
            ("ww", "n"),
            ("www", "w"),
            ("wnww", "n"),
            // What lies beyond counts for what they have in common.
            ("wew", "w"),
            ("cec", "c"),
            ("eeewwww", "e"),
            ("eeewwwnw", "w"),
            ("eeennnnn", "n"),
        ];
        let level = |letter| match letter {
            'n' => (0.1, Level::Normal),
            'w' => (0.7, Level::Warning),
            'c' => (0.85, Level::Critical),
            _ => (0.95, Level::Emergency),
        };
        for (samples, expected) in table {
            let mut condition = Condition::new(limits);
            let mut changes = 0;
            for sample in samples.chars() {
                changes += condition.take(&[(Reading::Cpu, level(sample).0)]).len();
            }
            let expected = level(expected.chars().next().unwrap()).1;
            let found = condition.findings();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].level, expected, "{samples}");
            assert!(changes <= 2, "{samples}: {changes}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_trouble_and_is_not_shown() {
        let mut condition = Condition::new(limits);
        for _ in 0..FALL {
            let _ = condition.take(&[(Reading::Success, 0.5), (Reading::Disk, 0.99)]);
        }
        let levels = |it: &Condition| it.findings().iter().map(|it| it.level).collect::<Vec<_>>();
        assert_eq!(levels(&condition), [Level::Emergency; 2]);
        let mut changes = Vec::new();
        for _ in 0..RISE {
            changes = condition.take(&[(Reading::Disk, 0.99)]);
        }
        assert_eq!(levels(&condition), [Level::Emergency]);
        let [change] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!((change.from, change.now.level), (Level::Emergency, Level::Normal));
    }

    #[test]
    fn the_worst_reading_speaks_for_the_node() {
        assert_eq!(worst(&[]), None);
        let of = |reading, value| Finding { reading, value, level: limits(reading).level(value) };
        let findings = [of(Reading::Cpu, 0.1), of(Reading::Disk, 0.92), of(Reading::Memory, 0.93)];
        assert_eq!(worst(&findings).map(|it| it.reading), Some(Reading::Disk));
    }

    #[test]
    fn only_what_is_the_nodes_own_has_consequences() {
        for reading in Reading::ALL {
            for level in Level::ALL {
                let expected = match (reading, level) {
                    (Reading::Memory | Reading::Disk, Level::Critical) => Measure::HandOver,
                    (Reading::Memory | Reading::Disk, Level::Emergency) => Measure::StepAside,
                    _ => Measure::GoOn,
                };
                let finding = Finding { reading, value: 0.0, level };
                assert_eq!(measure(&[finding]), expected, "{} {}", reading.label(), level.label());
            }
        }
    }
}
