//! What this node has found out about every instance by its own checks.

use std::sync::{Mutex, PoisonError};

use holdfast_engine::health::hysteresis::{Patience, Steady};
use holdfast_engine::health::score::{Checked, Failure, Report, report};
use holdfast_engine::health::votes::Opinion;
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
    /// By monitors outside of the cluster, once it is believed; none where none says anything.
    pub(crate) external: Option<f64>,
    /// Why it cannot be used at all, as of the last round that counted.
    pub(crate) fatal: Option<Failure>,
    /// Whether a number that the instance tells of itself is used up.
    pub(crate) exhausted: bool,
    /// Good rounds in a row.
    pub(crate) good: u32,
    /// When the last round that counted ended.
    pub(crate) at: Option<Instant>,
    /// The last round was worse than what is believed: the next one may decide.
    pub(crate) in_doubt: bool,
    /// What took the score down, the worst first.
    pub(crate) why: Vec<String>,
    /// When the present run of rounds began in which it was no better than degraded, and no better than
    /// unhealthy, in milliseconds since the Unix epoch; 0: the last one was better.
    bad_since: [u64; 2],
    steady: Steady,
    /// What the monitors say.
    outside: Steady,
}

/// One check of a round, as it is taken down.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Made<'a> {
    pub(crate) check: Checked<'a>,
    /// What a monitor outside of the cluster finds.
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

    /// When the present run of rounds began that found it so or worse, in milliseconds since the Unix epoch; 0:
    /// the last one found it better.
    pub(crate) fn bad_since(&self, opinion: Opinion) -> u64 {
        match opinion {
            Opinion::Healthy => 0,
            Opinion::Degraded => self.bad_since[0],
            Opinion::Unhealthy => self.bad_since[1],
        }
    }

    /// A bad sign that does not count yet.
    pub(crate) fn suspect(&mut self, seen: &Report<'_>, now: u64) {
        let runs = usize::from(status(seen) != Status::Healthy)
            + usize::from(status(seen) == Status::Critical);
        for since in self.bad_since[..runs].iter_mut().filter(|since| **since == 0) {
            *since = now;
        }
    }

    /// Takes a round that counts. `now`: milliseconds since the Unix epoch.
    pub(crate) fn take(&mut self, round: &[Made<'_>], patience: Patience, at: Instant, now: u64) {
        let Some(whole) = report(&checks(round, false)) else { return };
        let score = if whole.fatal.is_some() { 0.0 } else { whole.score };
        let status = status(&whole);
        let changed = self.steady.look(status, patience).is_some();
        // Until a change is believed, what was believed before stands.
        if changed || self.steady.status() == Some(status) || self.steady.status().is_none() {
            if self.steady.status().is_some() {
                self.own = Some(score);
            }
            self.fatal = whole.fatal;
        }
        self.in_doubt = self.is_worse(status);
        self.good = self.steady.good();
        self.at = Some(at);
        self.suspect(&whole, now);
        // What is better ends the runs of what was worse: an outage does not begin with the slow hours
        // before it.
        match status {
            Status::Healthy => self.bad_since = [0; 2],
            Status::Degraded | Status::Warning => self.bad_since[1] = 0,
            Status::Critical => {}
        }
        self.why = reasons(round);
    }

    /// Whether a round is worse than what is believed.
    pub(crate) fn is_news(&self, round: &Report<'_>) -> bool {
        self.is_worse(status(round))
    }

    fn is_worse(&self, seen: Status) -> bool {
        seen != Status::Healthy && self.steady.status().is_none_or(|believed| seen > believed)
    }

    /// Takes what the monitors say in a round in which there is news of them. One that cannot be asked says
    /// nothing: it is its own trouble.
    pub(crate) fn hear(&mut self, round: &[Made<'_>], patience: Patience) {
        let Some(said) = report(&checks(round, true)).map(|it| it.score) else {
            (self.external, self.outside) = (None, Steady::new());
            return;
        };
        let status = Status::of(said);
        let changed = self.outside.look(status, patience).is_some();
        if self.outside.status().is_some() && (changed || self.outside.status() == Some(status)) {
            self.external = Some(said);
        }
    }
}

fn status(round: &Report<'_>) -> Status {
    if round.fatal.is_some() { Status::Critical } else { Status::of(round.score) }
}

/// The checks of a round that are the node's own, or those that are not.
fn checks<'a>(round: &[Made<'a>], external: bool) -> Vec<Checked<'a>> {
    round.iter().filter(|it| it.external == external).map(|it| it.check).collect()
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

    const DOWN: Opinion = Opinion::Unhealthy;

    fn made(name: &'static str, weight: f64, outcome: Outcome) -> Made<'static> {
        let connects = name == "connect";
        let (slight, knocks) = (connects, connects);
        let check = Checked { name, weight, critical: false, slight, knocks, outcome };
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
        assert_eq!((look.own, look.bad_since(DOWN)), (Some(1.0), 0));
        let bad = [gone[0].check, gone[1].check];
        look.suspect(&report(&bad).unwrap(), 1_900);
        take(&mut look, &gone, 2_000);
        assert_eq!(
            (look.own, look.bad_since(DOWN), look.fatal),
            (Some(1.0), 1_900, None),
            "one look"
        );
        take(&mut look, &gone, 3_000);
        let unreachable = Some(Failure::Unreachable);
        assert_eq!((look.own, look.bad_since(DOWN), look.fatal), (Some(0.0), 1_900, unreachable));
        assert_eq!(look.why[0], "ping: unreachable");
        take(&mut look, &well, 4_000);
        assert_eq!((look.own, look.good, look.bad_since(DOWN)), (Some(0.0), 1, 0), "not well yet");
        take(&mut look, &well, 5_000);
        take(&mut look, &well, 6_000);
        assert_eq!((look.own, look.good), (Some(1.0), 3));
    }

    #[test]
    fn what_is_worse_than_before_began_when_it_became_so() {
        let poor = [made("ping", 1.0, Outcome::Partly(0.7))];
        let gone = [made("ping", 1.0, Outcome::Failed(Failure::Unreachable))];
        let well = [made("ping", 1.0, Outcome::Passed)];
        let mut look = Look::default();
        let mut begins = |round: &[Made<'_>], now| {
            take(&mut look, round, now);
            [Opinion::Healthy, Opinion::Degraded, DOWN].map(|opinion| look.bad_since(opinion))
        };
        assert_eq!(begins(&well, 1_000), [0, 0, 0]);
        assert_eq!(begins(&poor, 2_000), [0, 2_000, 0]);
        assert_eq!(begins(&poor, 3_000), [0, 2_000, 0]);
        assert_eq!(begins(&gone, 4_000), [0, 2_000, 4_000]);
        assert_eq!(begins(&gone, 5_000), [0, 2_000, 4_000]);
        assert_eq!(begins(&poor, 6_000), [0, 2_000, 0]);
        assert_eq!(begins(&gone, 7_000), [0, 2_000, 7_000]);
        assert_eq!(begins(&well, 8_000), [0, 0, 0]);
    }

    #[test]
    fn what_monitors_say_is_kept_apart_and_believed_like_the_rest() {
        let mut look = Look::default();
        let mut hears = |says| {
            let monitor = Made { external: true, ..made("monitor", 1.0, says) };
            let round = [made("ping", 1.0, Outcome::Passed), monitor];
            look.hear(&round, PATIENCE);
            take(&mut look, &round, 1_000);
            assert_eq!((look.own, look.good > 0, look.bad_since(DOWN)), (Some(1.0), true, 0));
            (look.external, look.why.len())
        };
        let down = Outcome::Failed(Failure::Wrong);
        assert_eq!(hears(Outcome::Passed), (Some(1.0), 0));
        assert_eq!(hears(down), (Some(1.0), 1), "one word");
        assert_eq!(hears(down), (Some(0.0), 1));
        assert_eq!(hears(Outcome::Passed), (Some(0.0), 0));
        assert_eq!(hears(Outcome::Skipped), (None, 0), "it cannot be asked");
        assert_eq!(hears(Outcome::Passed), (Some(1.0), 0), "and begins anew");
    }

    /// What is kept goes on answering while nobody new gets in.
    #[test]
    fn one_that_takes_no_new_connections_is_of_no_use_after_its_looks_and_well_again_after_theirs()
    {
        let refused = Outcome::Failed(Failure::Unreachable);
        let of = |connect| [made("connect", 0.3, connect), made("ping", 0.7, Outcome::Passed)];
        let mut look = Look::default();
        let mut sees = |round: &[Made<'_>], now| {
            take(&mut look, round, now);
            (look.own, look.fatal, look.good)
        };
        let unreachable = Some(Failure::Unreachable);
        assert_eq!(sees(&of(Outcome::Passed), 1_000), (Some(1.0), None, 1));
        assert_eq!(sees(&of(refused), 2_000), (Some(1.0), None, 0), "one look");
        assert_eq!(sees(&of(refused), 3_000), (Some(0.0), unreachable, 0));
        assert_eq!(sees(&of(Outcome::Passed), 4_000), (Some(0.0), unreachable, 1), "not well yet");
        assert_eq!(sees(&of(Outcome::Passed), 5_000), (Some(0.0), unreachable, 2));
        assert_eq!(sees(&of(Outcome::Passed), 6_000), (Some(1.0), None, 3));
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
