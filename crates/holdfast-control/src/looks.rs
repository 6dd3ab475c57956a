//! What this node has found out about every instance by its own checks.

use std::sync::{Mutex, PoisonError};

use holdfast_engine::health::hysteresis::{Patience, Steady};
use holdfast_engine::health::score::{Checked, Failure, report};
use holdfast_engine::health::{Status, percent};
use tokio::time::Instant;

use crate::plan::Plan;
use crate::plane::At;

/// The findings of one node, by place.
#[derive(Debug)]
pub(crate) struct Looks(Vec<Vec<Mutex<Look>>>);

/// The findings about one instance.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Look {
    /// By checks of the node's own, once it is believed; 0 where the instance cannot be used at all.
    pub(crate) own: Option<f64>,
    /// By checks from outside.
    pub(crate) external: Option<f64>,
    /// Why it cannot be used at all, as of the last round that counted.
    pub(crate) fatal: Option<Failure>,
    /// Whether a number that the instance tells of itself is used up.
    pub(crate) exhausted: bool,
    /// Good rounds in a row.
    pub(crate) good: u32,
    /// When the last round that counted ended.
    pub(crate) at: Option<Instant>,
    /// When the present run of bad rounds began, in milliseconds since the Unix epoch; 0: all is well.
    pub(crate) bad_since: u64,
    /// The last round was worse than what is believed: the next one may decide.
    pub(crate) in_doubt: bool,
    /// What took the score down, the worst first.
    pub(crate) why: Vec<String>,
    steady: Steady,
}

/// One check of a round, as it is taken down.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Made<'a> {
    pub(crate) check: Checked<'a>,
    /// Made from outside the node's own path to the instance.
    pub(crate) external: bool,
    /// What was wrong.
    pub(crate) text: String,
}

// === impl Looks ===

impl Looks {
    pub(crate) fn new(plan: &Plan) -> Self {
        let of = |instances: usize| (0..instances).map(|_| Mutex::default()).collect();
        Self(plan.servers.iter().map(|server| of(server.instances.len())).collect())
    }

    pub(crate) fn get(&self, at: At) -> Look {
        self.with(at, |look| look.clone())
    }

    /// Begins anew: what was seen is of another time, and is no part of a row that goes on now.
    pub(crate) fn begin_anew(&self) {
        for look in self.0.iter().flatten() {
            *look.lock().unwrap_or_else(PoisonError::into_inner) = Look::default();
        }
    }

    pub(crate) fn with<T>(&self, at: At, change: impl FnOnce(&mut Look) -> T) -> T {
        change(&mut self.0[at.server][at.instance].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Look ===

impl Look {
    /// The score of 0 to 100 that is believed; of an instance that was never seen 100.
    pub(crate) fn percent(&self) -> u8 {
        self.own.map_or(100, percent)
    }

    /// A bad sign that does not count yet.
    pub(crate) fn suspect(&mut self, now: u64) {
        if self.bad_since == 0 {
            self.bad_since = now;
        }
    }

    /// Takes a round that counts. `now`: milliseconds since the Unix epoch.
    pub(crate) fn take(&mut self, round: &[Made<'_>], patience: Patience, at: Instant, now: u64) {
        let of = |external: bool| -> Vec<Checked<'_>> {
            round.iter().filter(|it| it.external == external).map(|it| it.check).collect()
        };
        let all: Vec<Checked<'_>> = round.iter().map(|it| it.check).collect();
        let Some(whole) = report(&all) else { return };
        let score = if whole.fatal.is_some() {
            0.0
        } else {
            report(&of(false)).map_or(whole.score, |own| own.score)
        };
        let status = if whole.fatal.is_some() { Status::Critical } else { Status::of(score) };
        let changed = self.steady.look(status, patience).is_some();
        // Until a change is believed, what was believed before stands.
        if changed || self.steady.status() == Some(status) || self.steady.status().is_none() {
            if self.steady.status().is_some() {
                self.own = Some(score);
            }
            self.fatal = whole.fatal;
        }
        let is_worse = |believed| status > believed;
        self.in_doubt = status != Status::Healthy && self.steady.status().is_none_or(is_worse);
        self.external = report(&of(true)).map(|it| it.score);
        self.good = self.steady.good();
        self.at = Some(at);
        if status == Status::Healthy {
            self.bad_since = 0;
        } else {
            self.suspect(now);
        }
        self.why = reasons(round);
    }
}

/// What is wrong, the heaviest first.
fn reasons(round: &[Made<'_>]) -> Vec<String> {
    use holdfast_engine::health::score::Outcome;
    let mut bad: Vec<(f64, String)> = Vec::new();
    for made in round {
        let check = &made.check;
        let (lost, what) = match check.outcome {
            Outcome::Failed(failure) => (check.weight, failure.label().to_owned()),
            Outcome::Partly(value) if value < 1.0 => {
                (check.weight * (1.0 - value), format!("{:.0} of 100", value * 100.0))
            }
            Outcome::Passed | Outcome::Partly(_) | Outcome::Skipped => continue,
        };
        let text = match made.text.as_str() {
            "" => format!("{}: {what}", check.name),
            text => format!("{}: {what} ({text})", check.name),
        };
        bad.push((lost + if check.critical { 1_000.0 } else { 0.0 }, text));
    }
    bad.sort_by(|a, b| b.0.total_cmp(&a.0));
    bad.into_iter().map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_engine::health::score::Outcome;

    use super::*;

    const PATIENCE: Patience = Patience { fall: 2, rise: 3 };

    fn made(name: &'static str, weight: f64, outcome: Outcome) -> Made<'static> {
        let check = Checked { name, weight, critical: false, slight: name == "connect", outcome };
        Made { check, external: false, text: String::new() }
    }

    fn take(look: &mut Look, round: &[Made<'_>], now: u64) {
        look.take(round, PATIENCE, Instant::now(), now);
    }

    #[test]
    fn a_change_is_believed_after_its_looks_and_the_first_bad_sign_is_kept() {
        let well = [made("connect", 0.3, Outcome::Passed), made("ping", 0.7, Outcome::Passed)];
        let refused = Outcome::Failed(Failure::Unreachable);
        let gone = [made("connect", 0.3, refused), made("ping", 0.7, refused)];
        let mut look = Look::default();
        assert_eq!(look.own, None);
        take(&mut look, &well, 1_000);
        assert_eq!((look.own, look.bad_since), (Some(1.0), 0));
        look.suspect(1_900);
        take(&mut look, &gone, 2_000);
        assert_eq!((look.own, look.bad_since, look.fatal), (Some(1.0), 1_900, None), "one look");
        take(&mut look, &gone, 3_000);
        let unreachable = Some(Failure::Unreachable);
        assert_eq!((look.own, look.bad_since, look.fatal), (Some(0.0), 1_900, unreachable));
        assert_eq!(look.why[0], "ping: unreachable");
        take(&mut look, &well, 4_000);
        assert_eq!((look.own, look.good, look.bad_since), (Some(0.0), 1, 0), "not well yet");
        take(&mut look, &well, 5_000);
        take(&mut look, &well, 6_000);
        assert_eq!((look.own, look.good), (Some(1.0), 3));
    }

    #[test]
    fn checks_from_outside_are_kept_apart() {
        let mut outside = made("metrics", 1.0, Outcome::Partly(0.5));
        outside.external = true;
        let mut look = Look::default();
        take(&mut look, &[made("ping", 1.0, Outcome::Passed), outside], 1_000);
        assert_eq!((look.own, look.external), (Some(1.0), Some(0.5)));
        assert_eq!(look.why, ["metrics: 50 of 100"]);
    }

    #[test]
    fn a_critical_check_that_fails_leaves_nothing_of_the_score() {
        let mut query = made("query", 0.1, Outcome::Failed(Failure::Wrong));
        query.check.critical = true;
        let round = [made("ping", 0.9, Outcome::Passed), query];
        let mut look = Look::default();
        take(&mut look, &round, 1_000);
        take(&mut look, &round, 2_000);
        assert_eq!((look.own, look.fatal), (Some(0.0), Some(Failure::Wrong)));
    }
}
