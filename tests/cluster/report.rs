//! What a run has shown: counts, pauses, and the promises that were broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::Error;
use crate::load::ledger::{Call, Kind, Outcome};
use crate::load::standing::Heard;
use crate::nemesis::{Incident, What};
use crate::run::Plan;
use crate::stack::process::append;

const OUTCOME_UNKNOWN: i64 = -31_002;
/// Anomalies that are kept in full.
const KEPT: usize = 1_000;

/// What a run has left behind.
pub(crate) struct Facts {
    pub(crate) calls: Vec<Call>,
    pub(crate) incidents: Vec<Incident>,
    /// Tool and key, with how often it ran.
    pub(crate) executions: BTreeMap<(String, String), u32>,
    pub(crate) heard: Heard,
    /// Sessions that there were.
    pub(crate) sessions: usize,
    pub(crate) terms: usize,
    pub(crate) several_leaders: Vec<String>,
    /// Why the run ended early, if it did.
    pub(crate) aborted: Vec<String>,
    /// Milliseconds.
    pub(crate) length: u64,
}

/// The figures; `docs/drills.md` says what each one means.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) front: &'static str,
    pub(crate) seed: u64,
    pub(crate) rate: u32,
    pub(crate) seconds: u64,
    pub(crate) faults: BTreeMap<String, usize>,
    pub(crate) calls: usize,
    pub(crate) by_kind: BTreeMap<String, usize>,
    pub(crate) outcomes: BTreeMap<String, usize>,
    pub(crate) sessions: usize,
    pub(crate) sessions_lost: usize,
    pub(crate) writes: usize,
    pub(crate) writes_doubled: usize,
    pub(crate) writes_phantom: usize,
    pub(crate) writes_denied_but_ran: usize,
    pub(crate) writes_moved_result: usize,
    pub(crate) writes_moved_unknown: usize,
    pub(crate) writes_moved_other: usize,
    pub(crate) writes_unknown: usize,
    pub(crate) writes_unknown_in_calm: usize,
    pub(crate) writes_refused_isolated: usize,
    pub(crate) writes_failed: usize,
    pub(crate) unanswered: usize,
    pub(crate) wrong: usize,
    pub(crate) reads_failed: usize,
    pub(crate) streams_resumed: usize,
    pub(crate) events_missing: u64,
    pub(crate) events_doubled: u64,
    pub(crate) standing: Heard,
    pub(crate) terms: usize,
    pub(crate) new_leader_ms: Spread,
    pub(crate) noticed_ms: Spread,
    pub(crate) settled_ms: Spread,
    /// Per client, over the faults: the longest that a quick call took.
    pub(crate) pauses_ms: BTreeMap<String, Spread>,
    /// Per client, over all its quick calls.
    pub(crate) latency_ms: BTreeMap<String, Spread>,
    pub(crate) incidents: Vec<Incident>,
    pub(crate) folder: PathBuf,
    /// The promises that did not hold, in words; empty when all did.
    pub(crate) broken: Vec<String>,
}

/// Of some figures: how many, and where they lie.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) median: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

// === impl Spread ===

impl Spread {
    fn of(figures: impl IntoIterator<Item = u64>) -> Self {
        let mut figures: Vec<u64> = figures.into_iter().collect();
        figures.sort_unstable();
        let at = |share: usize| {
            let index = (figures.len() * share).div_ceil(100).saturating_sub(1);
            figures.get(index).copied().unwrap_or_default()
        };
        Self { count: figures.len(), median: at(50), p99: at(99), max: at(100) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, median, p99, max } = self;
        write!(out, "median {median}, p99 {p99}, max {max} ({count})")
    }
}

/// Puts anomalies aside while they are counted.
struct Anomalies(Vec<serde_json::Value>);

impl Anomalies {
    fn note(&mut self, what: &str, call: &Call, ran: Option<u32>) {
        if self.0.len() < KEPT {
            self.0.push(json!({ "what": what, "ran": ran, "call": call }));
        }
    }
}

// === impl Report ===

impl Report {
    /// # Errors
    /// When the anomalies or the figures cannot be written to the folder.
    pub(crate) fn new(plan: &Plan, facts: Facts, folder: &Path) -> Result<Self, Error> {
        let mut report = Self::empty(plan, &facts, folder);
        let mut anomalies = Anomalies(Vec::new());
        let mut lost = BTreeSet::new();
        for call in &facts.calls {
            let ran = call.key.as_ref().map(|key| facts.executions.get(key).copied().unwrap_or(0));
            report.count(call, ran, &facts.incidents, &mut lost, &mut anomalies);
        }
        report.sessions_lost = lost.len();
        report.writes_doubled = facts
            .executions
            .iter()
            .filter(|((tool, _), times)| tool == "write" && **times > 1)
            .count();
        report.pauses(&facts);
        report.events_missing += report.standing.missing;
        report.events_doubled += report.standing.doubled;
        report.judge(&facts);
        let mut file = append(&folder.join("anomalies.jsonl"))?;
        for anomaly in &anomalies.0 {
            writeln!(file, "{anomaly}")?;
        }
        fs::write(folder.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
        Ok(report)
    }

    fn empty(plan: &Plan, facts: &Facts, folder: &Path) -> Self {
        let mut faults = BTreeMap::new();
        for incident in &facts.incidents {
            let leader = if incident.was_leader { " of the leader" } else { "" };
            *faults.entry(format!("{:?}{leader}", incident.what)).or_default() += 1;
        }
        let seen = |figure: fn(&Incident) -> Option<u64>| {
            Spread::of(facts.incidents.iter().filter_map(figure))
        };
        Self {
            front: plan.front.name(),
            seed: plan.seed,
            rate: plan.rate,
            seconds: facts.length / 1_000,
            faults,
            calls: facts.calls.len(),
            by_kind: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            sessions: facts.sessions + facts.heard.streams,
            sessions_lost: 0,
            writes: 0,
            writes_doubled: 0,
            writes_phantom: 0,
            writes_denied_but_ran: 0,
            writes_moved_result: 0,
            writes_moved_unknown: 0,
            writes_moved_other: 0,
            writes_unknown: 0,
            writes_unknown_in_calm: 0,
            writes_refused_isolated: 0,
            writes_failed: 0,
            unanswered: 0,
            wrong: 0,
            reads_failed: 0,
            streams_resumed: 0,
            events_missing: 0,
            events_doubled: 0,
            standing: facts.heard.clone(),
            terms: facts.terms,
            new_leader_ms: seen(|incident| incident.new_leader),
            noticed_ms: seen(|incident| incident.noticed),
            settled_ms: seen(|incident| Some(incident.settled - incident.healed)),
            pauses_ms: BTreeMap::new(),
            latency_ms: BTreeMap::new(),
            incidents: facts.incidents.clone(),
            folder: folder.to_owned(),
            broken: Vec::new(),
        }
    }

    fn count(
        &mut self,
        call: &Call,
        ran: Option<u32>,
        incidents: &[Incident],
        lost: &mut BTreeSet<String>,
        anomalies: &mut Anomalies,
    ) {
        *self.by_kind.entry(format!("{:?}", call.kind)).or_default() += 1;
        *self.outcomes.entry(name(&call.outcome)).or_default() += 1;
        self.streams_resumed += call.resumed as usize;
        self.events_missing += u64::from(call.events_missing);
        self.events_doubled += u64::from(call.events_doubled);
        if call.events_missing + call.events_doubled > 0 {
            anomalies.note("events missing or doubled", call, ran);
        }
        if call.outcome.is_unanswered() {
            self.unanswered += 1;
            anomalies.note("no answer", call, ran);
        }
        if let Outcome::SessionLost { .. } = call.outcome {
            lost.insert(
                call.session.clone().unwrap_or_else(|| format!("{} {}", call.client, call.id)),
            );
            anomalies.note("session lost", call, ran);
        }
        if let Outcome::Wrong { .. } = call.outcome {
            self.wrong += 1;
            anomalies.note("wrong answer", call, ran);
        }
        let failed = matches!(call.outcome, Outcome::Error { .. });
        if failed && (call.kind.is_read() || call.kind == Kind::Idle) {
            self.reads_failed += 1;
            anomalies.note("read failed", call, ran);
        }
        if call.kind.is_write() {
            self.count_write(call, ran.unwrap_or(0), incidents, anomalies);
        }
    }

    fn count_write(
        &mut self,
        call: &Call,
        ran: u32,
        incidents: &[Incident],
        anomalies: &mut Anomalies,
    ) {
        self.writes += 1;
        if ran > 1 {
            anomalies.note("ran twice", call, Some(ran));
        }
        if call.moved {
            match (&call.outcome, call.outcome.code()) {
                (Outcome::Result, _) => self.writes_moved_result += 1,
                (_, Some(OUTCOME_UNKNOWN)) => self.writes_moved_unknown += 1,
                _ => self.writes_moved_other += 1,
            }
        }
        match &call.outcome {
            Outcome::Result if ran == 0 => {
                self.writes_phantom += 1;
                anomalies.note("a result, but it never ran", call, Some(ran));
            }
            Outcome::Error { code: OUTCOME_UNKNOWN, .. } => {
                self.writes_unknown += 1;
                let during = |it: &Incident| call.overlaps(it.from, it.settled + 1_000);
                let rolling = |it: &Incident| it.what == What::Rolling && during(it);
                if !incidents.iter().any(during) || incidents.iter().any(rolling) {
                    self.writes_unknown_in_calm += 1;
                    anomalies.note("outcome unknown without a fault", call, Some(ran));
                }
            }
            Outcome::Error { may_have_run, .. } => {
                if *may_have_run == Some(false) && ran > 0 {
                    self.writes_denied_but_ran += 1;
                    anomalies.note("said not to have run, but it did", call, Some(ran));
                }
                let during = |it: &Incident| it.isolates() && call.overlaps(it.from, it.settled);
                if incidents.iter().any(during) && ran == 0 {
                    self.writes_refused_isolated += 1;
                } else {
                    self.writes_failed += 1;
                    anomalies.note("write failed", call, Some(ran));
                }
            }
            _ => {}
        }
    }

    /// How long clients waited: over all quick calls, and at the worst in each fault.
    fn pauses(&mut self, facts: &Facts) {
        let mut clients: BTreeMap<String, Vec<&Call>> = BTreeMap::new();
        let quick = |call: &&Call| matches!(call.kind, Kind::Read | Kind::Write);
        for call in facts.calls.iter().filter(quick) {
            let client = match call.client.as_str() {
                "raw" => format!("raw {}", json!(call.era).as_str().unwrap_or_default()),
                sdk => sdk.to_owned(),
            };
            clients.entry(client).or_default().push(call);
        }
        for (client, calls) in clients {
            let worst = facts.incidents.iter().map(|incident| {
                let during = |call: &&&Call| call.overlaps(incident.from, incident.settled);
                calls.iter().filter(during).map(|call| call.took()).max().unwrap_or_default()
            });
            self.pauses_ms.insert(client.clone(), Spread::of(worst));
            self.latency_ms.insert(client, Spread::of(calls.iter().map(|call| call.took())));
        }
    }

    fn judge(&mut self, facts: &Facts) {
        let counts = [
            (self.sessions_lost, "sessions lost"),
            (self.writes_doubled, "writes run twice"),
            (self.writes_phantom, "writes with a result that never ran"),
            (self.writes_denied_but_ran, "writes said not to have run that did"),
            (self.writes_unknown_in_calm, "writes with an unknown outcome and no reason"),
            (self.writes_failed, "writes failed"),
            (self.unanswered, "calls without an answer"),
            (self.wrong, "wrong answers"),
            (self.reads_failed, "reads failed"),
            (usize::try_from(self.events_missing).unwrap_or(usize::MAX), "stream events missing"),
            (usize::try_from(self.events_doubled).unwrap_or(usize::MAX), "stream events doubled"),
            (self.standing.lost, "standing streams lost"),
        ];
        self.broken = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .chain(facts.several_leaders.iter().map(|it| format!("two leaders in one {it}")))
            .chain(facts.aborted.iter().map(|why| format!("the run ended early: {why}")))
            .collect();
        if self.calls == 0 || self.writes == 0 {
            self.broken.push("nothing was called".into());
        }
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "  {name:<44} {value}");
        };
        row("balancer", &self.front);
        row("seed", &self.seed);
        row("length", &format!("{} s at {} calls/s", self.seconds, self.rate));
        row("faults", &list(&self.faults));
        row("calls", &format!("{}: {}", self.calls, list(&self.by_kind)));
        row("outcomes", &list(&self.outcomes));
        row("sessions lost", &format!("{} of {}", self.sessions_lost, self.sessions));
        row("writes run twice", &format!("{} of {}", self.writes_doubled, self.writes));
        row("calls without an answer", &self.unanswered);
        row("wrong answers", &self.wrong);
        row("reads failed", &self.reads_failed);
        let (result, unknown, other) =
            (self.writes_moved_result, self.writes_moved_unknown, self.writes_moved_other);
        let moved = format!("{result} with their result, {unknown} with -31002, {other} otherwise");
        row("writes that lost their node under way", &moved);
        row("writes with an unknown outcome", &self.writes_unknown);
        row("  of these without a reason", &self.writes_unknown_in_calm);
        row("writes refused by a node without a quorum", &self.writes_refused_isolated);
        row("writes failed otherwise", &self.writes_failed);
        row("writes with a result that never ran", &self.writes_phantom);
        row("writes said not to have run that did", &self.writes_denied_but_ran);
        row("streams resumed", &self.streams_resumed);
        let events = format!("{} missing, {} doubled", self.events_missing, self.events_doubled);
        row("stream events", &events);
        let standing = &self.standing;
        row(
            "standing streams",
            &format!(
                "{}, of {} numbers each; lost {}, reopened {}, cut {}, GETs failed {}",
                standing.streams,
                standing.told,
                standing.lost,
                standing.reopened,
                standing.abrupt,
                standing.failed
            ),
        );
        row("terms with a leader", &self.terms);
        row("new leader, ms", &self.new_leader_ms);
        row("fault noticed, ms", &self.noticed_ms);
        row("settled after the fault, ms", &self.settled_ms);
        for (client, pauses) in &self.pauses_ms {
            row(&format!("pause of {client}, ms"), pauses);
        }
        for (client, latency) in &self.latency_ms {
            row(&format!("quick calls of {client}, ms"), latency);
        }
        if self.broken.is_empty() {
            text.push_str("every promise held\n");
        }
        for broken in &self.broken {
            let _ = writeln!(text, "BROKEN: {broken}");
        }
        text
    }
}

fn name(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Result => "result".into(),
        Outcome::Error { code, .. } => code.to_string(),
        Outcome::Wrong { .. } => "wrong".into(),
        Outcome::SessionLost { .. } => "session lost".into(),
        Outcome::Status { status, .. } => format!("status {status}"),
        Outcome::Broken { .. } => "broken".into(),
        Outcome::Nothing { .. } => "nothing".into(),
    }
}

fn list(counts: &BTreeMap<String, usize>) -> String {
    let each = counts.iter().map(|(name, count)| format!("{name} {count}"));
    each.collect::<Vec<_>>().join(", ")
}
