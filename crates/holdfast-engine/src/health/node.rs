//! How well a gateway node is: each reading against three levels.
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
    /// The share of all processors that is in use, 0 to 1.
    Cpu,
    /// The share of the memory that the process may use and uses, 0 to 1.
    Memory,
    /// The share of the data directory's disk that is in use, 0 to 1.
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

/// The worst of the readings, and the first with it; none without a reading.
#[must_use]
pub fn worst(findings: &[Finding]) -> Option<Finding> {
    findings.iter().copied().reduce(|worst, it| if it.level > worst.level { it } else { worst })
}

// === impl Reading ===

impl Reading {
    /// The limits that hold unless the configuration says otherwise.
    #[must_use]
    pub fn limits(self) -> Limits {
        let (warning, critical, emergency) = match self {
            Self::Cpu => (0.70, 0.85, 0.95),
            Self::Memory => (0.75, 0.90, 0.95),
            Self::Disk => (0.80, 0.90, 0.95),
            Self::Success => (0.98, 0.95, 0.90),
            Self::P95 => (500.0, 1000.0, 2000.0),
            Self::Connections => (5000.0, 8000.0, 10000.0),
            Self::CertificateDays => (30.0, 7.0, 1.0),
        };
        Limits { warning, critical, emergency }
    }

    /// Judges a value by the default limits.
    #[must_use]
    pub fn judge(self, value: f64) -> Finding {
        Finding { reading: self, value, level: self.limits().level(value) }
    }

    /// The words for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Success => "success rate",
            Self::P95 => "p95",
            Self::Connections => "connections",
            Self::CertificateDays => "certificate days",
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let levels = values.map(|it| reading.judge(it).level);
            assert_eq!(levels, [Normal, Warning, Critical, Emergency], "{}", reading.label());
        }
        assert_eq!(Reading::Cpu.judge(f64::NAN).level, Critical);
    }

    #[test]
    fn the_worst_reading_speaks_for_the_node() {
        assert_eq!(worst(&[]), None);
        let findings =
            [Reading::Cpu.judge(0.1), Reading::Disk.judge(0.92), Reading::Memory.judge(0.93)];
        assert_eq!(worst(&findings).map(|it| it.reading), Some(Reading::Disk));
    }
}
