//! What a round of checks comes to: one number, the status it stands for, and why.
//!
//! The score is the mean of the checks' values by weight. A check that could not be made says nothing
//! and is left out; if none could be made there is no score. A *critical* check that fails makes the
//! instance critical whatever the others say; so does a new connection that does not come about: what
//! the others ask over connections that they keep, no new caller gets.

use super::{Status, percent};

/// How one check ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Outcome {
    /// All is well.
    Passed,
    /// In between, 0 to 1: a latency, a queue's depth.
    Partly(f64),
    /// It failed.
    Failed(Failure),
    /// It was not made: nothing is known.
    Skipped,
}

/// Why a check failed, as far as it matters to what is done about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    /// No connection: refused, no route, no name, TLS.
    Unreachable,
    /// The instance does not accept the gateway's credential.
    Authentication,
    /// No answer in time.
    TimedOut,
    /// An answer, and not the right one.
    Wrong,
}

/// One check of a round.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Checked<'a> {
    /// Its name, as configured.
    pub name: &'a str,
    /// What it counts; only the proportion matters. 0: nothing, but for what its failure alone does.
    pub weight: f64,
    /// Its failure alone makes the instance critical.
    pub critical: bool,
    /// That it passes shows little: an instance takes a connection and serves nobody. So it speaks
    /// against no failure of the others.
    pub slight: bool,
    /// It makes a new connection, as calls do. If none comes about the instance cannot be reached,
    /// whatever answers over those that were there before.
    pub knocks: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// What pulls a score down most.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Why<'a> {
    /// Nothing: all checks passed.
    AllPassed,
    /// A critical check failed, or one that knocks.
    Critical(&'a str, Failure),
    /// This check, of those that are not critical, takes the most off: so much of 1.
    Mostly(&'a str, f64),
}

/// What a round of checks says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Report<'a> {
    /// The composite score, 0 to 1.
    pub score: f64,
    /// Its status; critical if a critical check failed, or one that knocks.
    pub status: Status,
    /// What pulls it down most.
    pub why: Why<'a>,
    /// Why the instance cannot be used at all, if it cannot: no connection, no credential or no answer
    /// by any check that was made, slight ones that passed aside; or the failure of one that knocks, or of a
    /// critical one.
    pub fatal: Option<Failure>,
}

/// The report on a round of checks; none if none was made, or only slight ones of several while the others rest: that
/// an instance takes connections does not make it well again. That it takes none is a report all the same.
#[must_use]
pub fn report<'a>(checks: &[Checked<'a>]) -> Option<Report<'a>> {
    let made = |it: &&Checked<'a>| it.outcome != Outcome::Skipped && it.weight > 0.0;
    let total: f64 = checks.iter().filter(made).map(|it| it.weight).sum();
    let failed = |decides: fn(&Checked<'_>) -> bool| {
        checks.iter().find_map(|it| match it.outcome {
            Outcome::Failed(failure) if decides(it) => Some((it.name, failure)),
            _ => None,
        })
    };
    let critical = failed(|it| it.knocks).or_else(|| failed(|it| it.critical));
    let rest =
        checks.iter().any(|it| !it.slight && it.weight > 0.0 && it.outcome == Outcome::Skipped)
            && checks.iter().filter(made).all(|it| it.slight && it.outcome == Outcome::Passed);
    if critical.is_none() && (total <= 0.0 || rest) {
        return None;
    }
    let lost = |it: &Checked<'_>| it.weight / total * (1.0 - value(it.outcome));
    let score = match total > 0.0 {
        true => (1.0 - checks.iter().filter(made).map(lost).sum::<f64>()).clamp(0.0, 1.0),
        false => 0.0,
    };
    let why = match critical {
        Some((name, failure)) => Why::Critical(name, failure),
        None => checks
            .iter()
            .filter(made)
            .map(|it| (it.name, lost(it)))
            .filter(|(_, lost)| *lost > 0.0)
            .max_by(|one, other| one.1.total_cmp(&other.1))
            .map_or(Why::AllPassed, |(name, lost)| Why::Mostly(name, lost)),
    };
    let status = if critical.is_some() { Status::Critical } else { Status::of(score) };
    let fatal = critical.map(|(_, failure)| failure).or_else(|| all_fatal(checks));
    Some(Report { score, status, why, fatal })
}

/// How well a measured value is: 1 up to `good`, 0 from `bad` on, on a line in between. `bad` may lie
/// on either side of `good`; where both are the same, only what is on the good side of them is well.
#[must_use]
pub fn between(good: f64, bad: f64, value: f64) -> f64 {
    if value.is_nan() {
        return 0.0;
    }
    let rises = bad > good;
    if if rises { value <= good } else { value >= good } {
        return 1.0;
    }
    if if rises { value >= bad } else { value <= bad } {
        return 0.0;
    }
    ((value - bad) / (good - bad)).clamp(0.0, 1.0)
}

// === impl Report ===

impl Report<'_> {
    /// The score as 0 to 100.
    #[must_use]
    pub fn percent(&self) -> u8 {
        percent(self.score)
    }
}

// === impl Failure ===

impl Failure {
    /// The words for it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Authentication => "authentication failed",
            Self::TimedOut => "timed out",
            Self::Wrong => "wrong answer",
        }
    }
}

// === impl Why ===

impl std::fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllPassed => f.write_str("all checks passed"),
            Self::Critical(name, failure) => {
                write!(f, "check {name} alone: {}", failure.label())
            }
            Self::Mostly(name, lost) => write!(f, "mostly check {name} (-{:.2})", lost),
        }
    }
}

fn value(outcome: Outcome) -> f64 {
    match outcome {
        Outcome::Passed => 1.0,
        Outcome::Partly(value) if value.is_nan() => 0.0,
        Outcome::Partly(value) => value.clamp(0.0, 1.0),
        Outcome::Failed(_) | Outcome::Skipped => 0.0,
    }
}

/// The failure of all checks that were made, if it is one with which nothing can be done.
fn all_fatal(checks: &[Checked<'_>]) -> Option<Failure> {
    let fails = |it: &Checked<'_>| matches!(it.outcome, Outcome::Failed(_));
    let says =
        checks.iter().filter(|it| it.outcome != Outcome::Skipped && (!it.slight || fails(it)));
    let mut says = says.map(|it| it.outcome);
    let Some(Outcome::Failed(first)) = says.next() else { return None };
    (first != Failure::Wrong && says.all(|it| it == Outcome::Failed(first))).then_some(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(name: &str, weight: f64, outcome: Outcome) -> Checked<'_> {
        Checked { name, weight, critical: false, slight: false, knocks: false, outcome }
    }

    const REFUSED: Outcome = Outcome::Failed(Failure::Unreachable);

    #[test]
    fn the_score_is_the_mean_by_weight_and_names_what_costs_most() {
        let report = report(&[
            check("connect", 0.3, Outcome::Passed),
            check("ping", 0.5, Outcome::Partly(0.8)),
            check("tool", 0.2, Outcome::Failed(Failure::Wrong)),
        ])
        .unwrap();
        assert_eq!(report.percent(), 70);
        assert_eq!(report.status, Status::Degraded);
        assert!(matches!(report.why, Why::Mostly("tool", lost) if (lost - 0.2).abs() < 1e-9));
        assert_eq!(report.fatal, None);
    }

    #[test]
    fn what_was_not_checked_says_nothing() {
        assert_eq!(report(&[]), None);
        assert_eq!(report(&[check("ping", 1.0, Outcome::Skipped)]), None);
        let report =
            report(&[check("ping", 0.1, Outcome::Passed), check("tool", 0.9, Outcome::Skipped)])
                .unwrap();
        assert_eq!((report.status, report.why), (Status::Healthy, Why::AllPassed));
    }

    /// An instance that is ill, and puts its checks off, is not well because it takes connections.
    #[test]
    fn while_the_others_rest_slight_ones_say_nothing_but_that_it_cannot_be_reached() {
        let connect =
            |outcome| Checked { slight: true, knocks: true, ..check("connect", 0.3, outcome) };
        let rests = check("ping", 0.7, Outcome::Skipped);
        assert_eq!(report(&[connect(Outcome::Passed), rests]), None);
        let refused = report(&[connect(REFUSED), rests]).unwrap();
        assert_eq!((refused.score, refused.fatal), (0.0, Some(Failure::Unreachable)));
        let added = Checked { weight: 0.0, ..connect(REFUSED) };
        let refused = report(&[added, rests]).unwrap();
        assert_eq!((refused.score, refused.fatal), (0.0, Some(Failure::Unreachable)));
        // Where there is nothing else it is all that is known.
        assert_eq!(report(&[connect(Outcome::Passed)]).unwrap().status, Status::Healthy);
    }

    #[test]
    fn a_critical_check_that_fails_decides_alone() {
        let failed = Outcome::Failed(Failure::TimedOut);
        let critical = Checked { critical: true, ..check("query", 0.01, failed) };
        let report = report(&[check("ping", 1.0, Outcome::Passed), critical]).unwrap();
        assert_eq!(report.status, Status::Critical);
        assert_eq!(report.why, Why::Critical("query", Failure::TimedOut));
        assert_eq!(report.fatal, Some(Failure::TimedOut));
        assert!(report.score > 0.9, "the number still says what the checks say");
    }

    #[test]
    fn only_what_no_check_gets_past_is_fatal() {
        let both = [check("connect", 0.3, REFUSED), check("ping", 0.7, REFUSED)];
        assert_eq!(report(&both).unwrap().fatal, Some(Failure::Unreachable));
        let one = [check("connect", 0.3, Outcome::Passed), check("ping", 0.7, REFUSED)];
        assert_eq!(report(&one).unwrap().fatal, None);
        let slow = [check("ping", 0.7, Outcome::Failed(Failure::TimedOut))];
        assert_eq!(report(&slow).unwrap().fatal, Some(Failure::TimedOut));
        let skipped = [check("connect", 0.3, REFUSED), check("ping", 0.7, Outcome::Skipped)];
        assert_eq!(report(&skipped).unwrap().fatal, Some(Failure::Unreachable));
    }

    #[test]
    fn measured_values_fall_on_a_line_in_either_direction() {
        let latency = [0.0, 100.0, 300.0, 500.0, 900.0].map(|it| between(100.0, 500.0, it));
        assert_eq!(latency, [1.0, 1.0, 0.5, 0.0, 0.0]);
        let quota = [1000.0, 100.0, 60.0, 20.0, 0.0].map(|it| between(100.0, 20.0, it));
        assert_eq!(quota, [1.0, 1.0, 0.5, 0.0, 0.0]);
        assert_eq!([1.0, 2.0].map(|it| between(1.5, 1.5, it)), [0.0, 1.0]);
        assert_eq!(between(1.0, 2.0, f64::NAN), 0.0);
    }

    proptest! {
        #[test]
        fn a_score_is_in_its_range_and_no_failure_makes_it_better(
            checks in prop::collection::vec((0.01f64..100.0, 0.0f64..=1.0), 1..8),
            fails in 0usize..8,
        ) {
            let mut checks: Vec<_> = checks
                .into_iter()
                .map(|(weight, value)| check("x", weight, Outcome::Partly(value)))
                .collect();
            let before = report(&checks).unwrap();
            prop_assert!((0.0..=1.0).contains(&before.score));
            let at = fails % checks.len();
            checks[at].outcome = Outcome::Failed(Failure::Wrong);
            let after = report(&checks).unwrap();
            prop_assert!(after.score <= before.score + 1e-9);
            prop_assert!(after.status >= before.status || (after.score - before.score).abs() < 1e-9);
        }
    }

    #[test]
    fn a_connection_that_comes_about_does_not_speak_for_one_that_says_nothing() {
        let connect = Checked { slight: true, ..check("connect", 1.0, Outcome::Passed) };
        let with = |outcome| report(&[connect, check("ping", 1.0, outcome)]).unwrap().fatal;
        for failure in [Failure::TimedOut, Failure::Authentication, Failure::Unreachable] {
            assert_eq!(with(Outcome::Failed(failure)), Some(failure));
        }
        assert_eq!(with(Outcome::Failed(Failure::Wrong)), None, "it answers");
        assert_eq!(with(Outcome::Partly(0.0)), None);
        assert_eq!(report(&[connect]).unwrap().fatal, None);
        let refused = Checked { outcome: REFUSED, ..connect };
        assert_eq!(report(&[refused]).unwrap().fatal, Some(Failure::Unreachable));
    }

    /// Whatever it counts beside the others, and also where it was not configured and counts nothing.
    #[test]
    fn what_answers_over_connections_that_are_kept_does_not_speak_for_one_that_takes_no_new_ones() {
        for weight in [0.0, 0.3, 1.0] {
            let connect = |outcome| Checked {
                slight: true,
                knocks: true,
                ..check("connect", weight, outcome)
            };
            let with =
                |outcome| report(&[connect(outcome), check("ping", 0.7, Outcome::Passed)]).unwrap();
            let shut = with(REFUSED);
            assert_eq!(shut.fatal, Some(Failure::Unreachable));
            assert_eq!(shut.status, Status::Critical);
            assert_eq!(shut.why, Why::Critical("connect", Failure::Unreachable));
            assert_eq!(with(Outcome::Passed).fatal, None);
            assert_eq!(with(Outcome::Skipped).fatal, None);
            // It is named before what a critical check says, which nobody gets to.
            let query =
                Checked { critical: true, ..check("query", 1.0, Outcome::Failed(Failure::Wrong)) };
            let both = report(&[query, connect(REFUSED)]).unwrap();
            assert_eq!(both.fatal, Some(Failure::Unreachable));
        }
    }
}
