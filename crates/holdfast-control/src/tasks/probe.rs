//! Checks one instance when it is due, or at once when something speaks against it.
//!
//! Each round makes a new connection, whether or not one of the configured checks does (`Planned::knock`):
//! those that are kept say nothing of whether a call gets in.
//!
//! One task per instance and node: each node is a vantage point of its own, and a check that hangs
//! delays no other. When a round's checks end, how they ended is believed or not by
//! `engine::health::hysteresis`, and the planner says when the next is due. No round waits for checks that
//! decide nothing by themselves ([`Beside`]).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use holdfast_config::{Check, CheckKind};
use holdfast_engine::health::hysteresis::Patience;
use holdfast_engine::health::schedule::{LEAST, Rhythm, Round, Schedule, soon};
use holdfast_engine::health::score::{self, Failure, Outcome, between};
use tokio::time::Instant;

use super::beside::Beside;
use crate::driver::{Reconciler, Status};
use crate::looks::Made;
use crate::plane::{At, CheckResult, Checked};
use crate::random;
use crate::shared::Shared;

/// Good looks in a row that are believed.
const RISE: u32 = 3;
/// Bad looks in a row that are believed, where no failover says otherwise.
const FALL: u32 = 2;
/// Calls that fail bring a check forward, and no nearer to the last one than this.
const HASTE: Duration = LEAST;

/// The first round comes within this time: until then nothing is known.
const SOON: Duration = Duration::from_secs(1);

pub(crate) struct Probe {
    shared: Arc<Shared>,
    at: At,
    schedule: Schedule,
    patience: Patience,
    beside: Beside,
    due: Option<Instant>,
    last: Option<Instant>,
}

// === impl Probe ===

impl Probe {
    pub(crate) fn new(shared: Arc<Shared>, at: At) -> Self {
        let planned = &shared.plan.servers[at.server];
        let fall = planned.failover.as_ref().map_or(FALL, |it| it.threshold);
        let patience = Patience { fall, rise: RISE };
        let (beside, schedule) = (Beside::new(&planned.health.checks), Schedule::new());
        Self { shared, at, schedule, patience, beside, due: None, last: None }
    }

    fn rhythm(&self) -> Rhythm {
        self.shared.plan.servers[self.at.server].rhythm()
    }

    /// Makes the checks of one round side by side.
    async fn round(&mut self) -> Vec<(Check, Checked)> {
        let (shared, at) = (Arc::clone(&self.shared), self.at);
        let checks = &shared.plan.servers[at.server].health.checks;
        self.beside.ask(|check| {
            let shared = Arc::clone(&shared);
            async move {
                let answer = ask(&shared, at, &check.kind).await;
                if check.external { heard(&check.kind, answer) } else { answer }
            }
        });
        let own = checks.iter().filter(|check| check.scores()).map(|check| async {
            match &check.kind {
                // Said by the others' times, below.
                CheckKind::Latency { .. } => skipped(),
                kind => ask(&shared, at, kind).await,
            }
        });
        let knock = async {
            let check = shared.plan.servers[at.server].knock.as_ref()?;
            Some((check.clone(), ask(&shared, at, &check.kind).await))
        };
        let (own, knock): (Vec<Checked>, _) = join(join_all(own), knock).await;
        // That a connection comes about says nothing that the others do not.
        let shut = knock.filter(|(_, it)| matches!(it.outcome, Outcome::Failed(_)));
        // Where all is well there is time for what the monitors say now.
        let is_ill =
            shut.is_some() || own.iter().any(|it| matches!(it.outcome, Outcome::Failed(_)));
        self.beside.hear(if is_ill { Duration::ZERO } else { LEAST }).await;
        let (mut own, mut others) = (own.into_iter(), self.beside.last());
        let ended = |check: &Check| match check.scores() {
            true => Some((check.clone(), own.next()?)),
            false => others.next()?,
        };
        let mut round: Vec<(Check, Checked)> =
            checks.iter().filter_map(ended).chain(shut).collect();
        let scoring = || round.iter().filter(|(check, _)| check.scores());
        let slowest = scoring().map(|(_, it)| it.took).max().unwrap_or_default();
        let all_failed =
            scoring().all(|(_, it)| matches!(it.outcome, Outcome::Failed(_) | Outcome::Skipped));
        for (check, checked) in &mut round {
            if let CheckKind::Latency { good, bad } = check.kind
                && !all_failed
            {
                let value = between(good.as_secs_f64(), bad.as_secs_f64(), slowest.as_secs_f64());
                *checked = Checked {
                    outcome: Outcome::Partly(value),
                    took: slowest,
                    text: format!("{} ms", slowest.as_millis()),
                };
            }
        }
        round
    }

    /// Takes a round down; when the next one is due.
    fn conclude(&mut self, round: &[(Check, Checked)]) -> Duration {
        self.shared.plane.checked(self.at, round.iter().map(shown).collect());
        // What an instance reads of its resources is the data plane's, which has kept it.
        let counted = || round.iter().filter(|(check, _)| check.scores() || check.external);
        let made: Vec<Made<'_>> = counted().map(|(check, it)| taken(check, it)).collect();
        let own = made.iter().filter(|it| !it.external);
        let checks: Vec<score::Checked<'_>> = own.map(|it| it.check).collect();
        let Some(report) = score::report(&checks) else { return self.rhythm().interval };
        let shared = &self.shared;
        let (passed, percent) =
            shared.looks.with(self.at, |look| (!look.is_news(&report), look.percent()));
        let scoring = round.iter().filter(|(check, _)| check.scores());
        let took = scoring.map(|(_, it)| it.took).max().unwrap_or_default();
        let (ended, rhythm) = (Round { passed, took }, self.rhythm());
        let next = self.schedule.ended(ended, percent, rhythm, random());
        let now = shared.group.time();
        let is_news = next.counts && self.beside.take_news();
        shared.looks.with(self.at, |look| {
            if is_news {
                look.hear(&made, self.patience);
            }
            if next.counts {
                look.exhausted = is_exhausted(round);
                look.take(&made, self.patience, Instant::now(), now);
            } else {
                look.suspect(&report, now);
                look.in_doubt = true;
            }
        });
        shared.nudges.report.nudge();
        // What cannot be used at all is looked at again at once until it is believed, or not so.
        let (believed, in_doubt) =
            shared.looks.with(self.at, |look| (look.fatal.is_some(), look.in_doubt));
        match next.wait {
            wait if report.fatal.is_some() && !believed => LEAST.min(wait),
            wait if in_doubt && next.counts => soon(ended, rhythm, random()).min(wait),
            wait => wait,
        }
    }
}

impl Reconciler for Probe {
    const NAME: &'static str = "probe";

    async fn activate(&mut self) -> Status {
        let now = Instant::now();
        // The first turn only finds out when to begin, so that not all of them begin at once.
        let Some(due) = self.due else {
            let rhythm = self.rhythm();
            let interval = rhythm.interval.min(SOON);
            let first = Schedule::first(Rhythm { interval, ..rhythm }, random());
            self.due = Some(now + first);
            return Status::Settled(first);
        };
        // A nudge: calls fail. It counts once, and not while a check is as good as now.
        let soonest = self.last.map_or(now, |last| last + HASTE);
        let due = due.min(soonest.max(now));
        if due > now {
            return Status::Settled(due - now);
        }
        let gaps = self.shared.beat();
        let round = self.round().await;
        self.last = Some(Instant::now());
        if self.shared.beat() != gaps {
            // What was in time then was late when it was heard.
            self.due = self.last;
            return Status::Settled(Duration::ZERO);
        }
        let wait = self.conclude(&round);
        self.due = Some(Instant::now() + wait);
        Status::Settled(wait)
    }
}

/// What a monitor outside of the cluster says. One that gives no answer says nothing of the instance: no
/// answer at all, or none with the number that was to be read there.
fn heard(kind: &CheckKind, answer: Checked) -> Checked {
    match answer.outcome {
        Outcome::Failed(failure)
            if failure != Failure::Wrong || !matches!(kind, CheckKind::Http { .. }) =>
        {
            let text = format!("it says nothing: {}: {}", failure.label(), answer.text);
            Checked { outcome: Outcome::Skipped, text, ..answer }
        }
        Outcome::Failed(_) | Outcome::Passed | Outcome::Partly(_) | Outcome::Skipped => answer,
    }
}

/// Makes one check.
async fn ask(shared: &Shared, at: At, kind: &CheckKind) -> Checked {
    let within = shared.plan.servers[at.server].health.timeout;
    let asked = shared.plane.check(at, kind, within);
    // The data plane keeps to the time as well; this is for one that does not.
    let asked = tokio::time::timeout(within.saturating_mul(2), asked).await;
    asked.unwrap_or_else(|_| Checked {
        outcome: Outcome::Failed(Failure::TimedOut),
        took: within,
        text: "no answer in time".to_owned(),
    })
}

pub(super) fn skipped() -> Checked {
    Checked { outcome: Outcome::Skipped, took: Duration::ZERO, text: String::new() }
}

fn taken<'a>(check: &'a Check, it: &Checked) -> Made<'a> {
    let is_ill = matches!(it.outcome, Outcome::Failed(_) | Outcome::Partly(_));
    Made {
        check: score::Checked {
            name: &check.name,
            weight: check.weight,
            critical: check.critical,
            slight: matches!(check.kind, CheckKind::Connect | CheckKind::Latency { .. }),
            knocks: check.kind == CheckKind::Connect,
            outcome: it.outcome,
        },
        external: check.external,
        text: if is_ill { it.text.clone() } else { String::new() },
    }
}

/// A check as `/health` shows it.
fn shown((check, it): &(Check, Checked)) -> CheckResult {
    let at = Instant::now().into_std();
    let error = match it.outcome {
        Outcome::Failed(failure) if it.text.is_empty() => Some(failure.label().into()),
        Outcome::Failed(failure) => Some(format!("{}: {}", failure.label(), it.text).into()),
        Outcome::Passed | Outcome::Partly(_) | Outcome::Skipped => None,
    };
    let says = check.external
        || it.outcome == Outcome::Skipped
        || matches!(check.kind, CheckKind::Resource { .. });
    let detail = (says && !it.text.is_empty()).then(|| it.text.as_str().into());
    CheckResult { name: check.name.as_str().into(), error, detail, elapsed: it.took, at }
}

/// Whether a number that the instance tells of itself has reached its worst.
fn is_exhausted(round: &[(Check, Checked)]) -> bool {
    round.iter().any(|(check, it)| {
        matches!(check.kind, CheckKind::Metric { .. })
            && !check.external
            && matches!(it.outcome, Outcome::Partly(value) if value <= 0.0)
    })
}
