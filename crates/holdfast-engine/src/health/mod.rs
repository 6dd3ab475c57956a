//! How well a server's instance is, and who says so.
//!
//! | module | decides |
//! |---|---|
//! | [`score`] | what a round of checks comes to, and why |
//! | [`passive`] | what the calls themselves say, at the cost of a few additions per attempt |
//! | [`resources`] | how an instance's own readings of its processor and memory come to a mean |
//! | [`hysteresis`] | when a change of that is believed |
//! | [`schedule`] | when the next check is due |
//! | [`votes`] | what the nodes conclude together |
//! | [`node`] | how well a gateway node is, and what it does about it |
//! | [`aside`] | which nodes may take no traffic for that |
//!
//! From one look to a failover it goes like this: a round of checks gives a [`score::Report`]; enough
//! of the same in a row change what the node takes for true ([`hysteresis::Steady`]); that and what its
//! calls say is its vote ([`votes::Vote`]); the coordinator counts the votes ([`votes::tally`]), and
//! the group's conclusion is the server's verdict (`replicated::Verdict`), which a failover may follow.
//! So one node with a broken network changes its own mind and nobody else's.

pub mod aside;
pub mod hysteresis;
pub mod node;
pub mod passive;
pub mod resources;
pub mod schedule;
pub mod score;
pub mod votes;

use std::fmt;

use serde::{Deserialize, Serialize};

/// How well something is, by its composite score. The order is from well to ill.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum Status {
    /// 0.9 and above.
    #[default]
    Healthy,
    /// 0.7 and above.
    Degraded,
    /// 0.5 and above.
    Warning,
    /// Below 0.5.
    Critical,
}

/// The same on the second scale, of 0 to 100, for people. The order is from well to ill.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Grade {
    /// 90 and above.
    Excellent,
    /// 75 and above.
    Good,
    /// 60 and above.
    Fair,
    /// 40 and above.
    Poor,
    /// Below 40.
    Bad,
}

/// What a score of 0 to 100 calls for. The order is from little to much; each includes those before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Measure {
    /// Nothing.
    #[default]
    Nothing,
    /// It is checked twice as often.
    Watch,
    /// What can be left out is left out: background calls have a quarter of their room, and Reads whose
    /// answer is kept are answered from there.
    Degrade,
    /// Its server leaves it at once, where the group finds it unhealthy; it is checked four times as
    /// often.
    FailOver,
    /// The same, and people are alarmed.
    Emergency,
}

/// Below which score of 0 to 100 each measure is taken. They fall, or are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bars {
    /// For [`Measure::Watch`].
    pub watch: u8,
    /// For [`Measure::Degrade`].
    pub degrade: u8,
    /// For [`Measure::FailOver`].
    pub fail_over: u8,
    /// For [`Measure::Emergency`].
    pub emergency: u8,
}

// === impl Status ===

impl Status {
    /// The status of a composite score of 0 to 1. What is no number is critical.
    #[must_use]
    pub fn of(score: f64) -> Self {
        match score {
            it if it >= 0.9 => Self::Healthy,
            it if it >= 0.7 => Self::Degraded,
            it if it >= 0.5 => Self::Warning,
            _ => Self::Critical,
        }
    }

    /// The word for it in status, logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

// === impl Grade ===

impl Grade {
    /// The grade of a score of 0 to 100.
    #[must_use]
    pub fn of(percent: u8) -> Self {
        match percent {
            90.. => Self::Excellent,
            75.. => Self::Good,
            60.. => Self::Fair,
            40.. => Self::Poor,
            _ => Self::Bad,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
            Self::Bad => "bad",
        }
    }
}

// === impl Measure ===

impl Measure {
    /// All of them, from little to much.
    pub const ALL: [Self; 5] =
        [Self::Nothing, Self::Watch, Self::Degrade, Self::FailOver, Self::Emergency];

    /// The word for it, in `/health` and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Watch => "watch",
            Self::Degrade => "degrade",
            Self::FailOver => "fail_over",
            Self::Emergency => "emergency",
        }
    }
}

impl fmt::Display for Measure {
    /// What is done, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing is done",
            Self::Watch => "it is checked more often",
            Self::Degrade => {
                "background calls have a quarter of their room, and Reads are answered from what is kept"
            }
            Self::FailOver => "its server leaves it where it can",
            Self::Emergency => "people are alarmed",
        })
    }
}

// === impl Bars ===

impl Default for Bars {
    fn default() -> Self {
        Self { watch: 75, degrade: 60, fail_over: 40, emergency: 20 }
    }
}

impl Bars {
    /// What a score of 0 to 100 calls for.
    #[must_use]
    pub fn measure(&self, percent: u8) -> Measure {
        match percent {
            it if it < self.emergency => Measure::Emergency,
            it if it < self.fail_over => Measure::FailOver,
            it if it < self.degrade => Measure::Degrade,
            it if it < self.watch => Measure::Watch,
            _ => Measure::Nothing,
        }
    }
}

/// A score of 0 to 1 as 0 to 100, rounded down: 0.899 is not yet 90. What is no number is 0.
#[must_use]
pub fn percent(score: f64) -> u8 {
    // The addition makes up for sums of weights such as 0.3 + 0.6, which fall short by 1e-16.
    let percent = (score * 100.0 + 1e-9).floor().clamp(0.0, 100.0);
    if percent.is_nan() { 0 } else { percent as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_grades_and_measures_begin_where_they_are_said_to() {
        let statuses = [0.0, 0.499, 0.5, 0.699, 0.7, 0.899, 0.9, 1.0].map(Status::of);
        use Status::*;
        assert_eq!(
            statuses,
            [Critical, Critical, Warning, Warning, Degraded, Degraded, Healthy, Healthy]
        );
        assert_eq!(Status::of(f64::NAN), Critical);
        let grades = [0, 39, 40, 59, 60, 74, 75, 89, 90, 100].map(|it| Grade::of(it).label());
        assert_eq!(
            grades,
            [
                "bad",
                "bad",
                "poor",
                "poor",
                "fair",
                "fair",
                "good",
                "good",
                "excellent",
                "excellent"
            ]
        );
        let measures =
            [0, 19, 20, 39, 40, 59, 60, 74, 75, 100].map(|it| Bars::default().measure(it));
        use Measure::*;
        assert_eq!(
            measures,
            [
                Emergency, Emergency, FailOver, FailOver, Degrade, Degrade, Watch, Watch, Nothing,
                Nothing
            ]
        );
    }

    #[test]
    fn percents_are_rounded_down_and_bounded() {
        let percents = [-1.0, 0.0, 0.899, 0.3 + 0.6, 0.1 + 0.2, 1.0, 7.0, f64::NAN, f64::INFINITY];
        assert_eq!(percents.map(percent), [0, 0, 89, 90, 30, 100, 100, 0, 100]);
    }
}
