//! What a run has shown: counts, pauses, and the promises that were broken.

mod count;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::Error;
use crate::load::ledger::{Call, Kind};
use crate::load::standing::Heard;
use crate::nemesis::Incident;
use crate::run::Plan;
use crate::stack::process::append;

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
    pub(crate) store: &'static str,
    pub(crate) seed: u64,
    pub(crate) rate: u32,
    pub(crate) seconds: u64,
    pub(crate) faults: BTreeMap<String, usize>,
    pub(crate) calls: usize,
    pub(crate) by_kind: BTreeMap<String, usize>,
    pub(crate) outcomes: BTreeMap<String, usize>,
    pub(crate) sessions: usize,
    pub(crate) sessions_lost: usize,
    /// Of sessions that somebody has thrown away with all the rest.
    pub(crate) sessions_flushed: usize,
    pub(crate) opens_refused: usize,
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
    /// Writes under way while another Redis took over, and how many of them were refused.
    pub(crate) writes_in_failover: usize,
    pub(crate) writes_refused_in_failover: usize,
    pub(crate) writes_failed: usize,
    pub(crate) unanswered: usize,
    /// Of those: nothing until the deadline.
    pub(crate) late: usize,
    /// Calls whose connection was lost with the balancer, and those that found none.
    pub(crate) cut_with_front: usize,
    pub(crate) found_no_front: usize,
    pub(crate) wrong: usize,
    pub(crate) reads_failed: usize,
    /// Refused while there was no store to be had.
    pub(crate) reads_refused: usize,
    pub(crate) streams_resumed: usize,
    pub(crate) events_missing: u64,
    pub(crate) events_doubled: u64,
    pub(crate) standing: Heard,
    pub(crate) terms: usize,
    pub(crate) new_leader_ms: Spread,
    pub(crate) noticed_ms: Spread,
    pub(crate) settled_ms: Spread,
    /// Until another Redis was primary, or a standby balancer had taken over.
    pub(crate) replaced_ms: Spread,
    /// Until a node's readiness said that its store was away.
    pub(crate) said_ms: Spread,
    pub(crate) longest_ms: u64,
    /// What the call was that took so long.
    pub(crate) longest: Option<Call>,
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

/// Sessions that were not known any more.
#[derive(Default)]
struct Lost {
    /// When clients asked for the sessions that were opened in the run.
    opened: BTreeMap<String, u64>,
    sessions: BTreeSet<String>,
    /// Since all that Redis held was thrown away.
    flushed: BTreeSet<String>,
}

fn opened(calls: &[Call]) -> BTreeMap<String, u64> {
    let opens = calls.iter().filter(|call| call.kind == Kind::Open);
    opens.filter_map(|call| Some((call.session.clone()?, call.started))).collect()
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
        let mut lost = Lost { opened: opened(&facts.calls), ..Lost::default() };
        for call in &facts.calls {
            let ran = call.key.as_ref().map(|key| facts.executions.get(key).copied().unwrap_or(0));
            report.count(call, ran, &facts.incidents, &mut lost, &mut anomalies);
        }
        report.sessions_lost = lost.sessions.len();
        report.sessions_flushed = lost.flushed.len();
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
            store: plan.store.name(),
            seed: plan.seed,
            rate: plan.rate,
            seconds: facts.length / 1_000,
            faults,
            calls: facts.calls.len(),
            by_kind: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            sessions: facts.sessions + facts.heard.streams,
            sessions_lost: 0,
            sessions_flushed: 0,
            opens_refused: 0,
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
            writes_in_failover: 0,
            writes_refused_in_failover: 0,
            writes_failed: 0,
            unanswered: 0,
            late: 0,
            cut_with_front: 0,
            found_no_front: 0,
            wrong: 0,
            reads_failed: 0,
            reads_refused: 0,
            streams_resumed: 0,
            events_missing: 0,
            events_doubled: 0,
            standing: facts.heard.clone(),
            terms: facts.terms,
            new_leader_ms: seen(|incident| incident.new_leader),
            noticed_ms: seen(|incident| incident.noticed),
            settled_ms: seen(|incident| Some(incident.settled - incident.healed)),
            replaced_ms: seen(|incident| incident.replaced),
            said_ms: seen(|incident| incident.said),
            longest_ms: facts.calls.iter().map(Call::took).max().unwrap_or_default(),
            longest: facts.calls.iter().max_by_key(|call| call.took()).cloned(),
            pauses_ms: BTreeMap::new(),
            latency_ms: BTreeMap::new(),
            incidents: facts.incidents.clone(),
            folder: folder.to_owned(),
            broken: Vec::new(),
        }
    }
}
