//! Looks at the node itself: processors, memory, disk, its calls, its connections, its certificates.
//!
//! What is believed of them ([`holdfast_engine::health::node`]) is shown in `/health`, in the metrics and
//! to the operator, and told to the coordinator. A node that is short of memory or disk lets another one
//! coordinate, as does one that does not run the configuration that the group agreed on; one that is about
//! to fail takes no new traffic either, if the coordinator lets it ([`holdfast_engine::health::aside`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_engine::health::aside::HOLDS;
use holdfast_engine::health::node::{
    Change, Condition, Finding, Level, Measure, Reading, measure, worst,
};
use holdfast_engine::replicated::{READS, ServerCommand, ServerHappened};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::driver::{Reconciler, Status};
use crate::group::NODE;
use crate::machine::Senses;
use crate::plane::{Activity, Check, Own, Traffic};
use crate::report::{Allowed, NodePart, decode_long, encode_long};
use crate::shared::{Shared, lock};

/// Between two samples.
const EVERY: Duration = Duration::from_secs(2);
/// Calls speak for the last minute.
const SPAN: Duration = Duration::from_secs(60);
/// So many calls at least, or they say nothing.
const CALLS: u64 = 20;
/// Files may be on a disk that does not answer.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// Leadership is handed over for want of memory or disk no more often than this.
const HANDS_OVER: Duration = Duration::from_secs(60);
/// The record gets no more than one line of this node in so long.
const RECORDED: Duration = Duration::from_secs(60);

/// How an event of the record about a node begins; the level follows.
const LINE: &str = "node health: ";

pub(crate) struct NodeWatch {
    shared: Arc<Shared>,
    machine: Option<Box<dyn Senses>>,
    /// A reading that has not come back in its time.
    reading: Option<JoinHandle<(crate::machine::Reading, Box<dyn Senses>)>>,
    condition: Condition,
    /// When the last sample of it was taken.
    sampled: Option<Instant>,
    calls: VecDeque<(Instant, Traffic)>,
    aside_until: Option<Instant>,
    handed_over: Option<Instant>,
    recorded: (Level, Option<Instant>),
}

// === impl NodeWatch ===

impl NodeWatch {
    pub(crate) fn new(shared: Arc<Shared>, machine: Box<dyn Senses>) -> Self {
        let planned = &shared.plan.node;
        let condition = Condition::new(|reading| planned.limits[reading as usize]);
        Self {
            machine: Some(machine),
            reading: None,
            condition,
            sampled: None,
            calls: VecDeque::new(),
            aside_until: None,
            handed_over: None,
            recorded: (Level::Normal, None),
            shared,
        }
    }

    /// One sample of everything that has a value.
    async fn sample(&mut self) -> Vec<(Reading, f64)> {
        let mut sample = Vec::new();
        let mut put = |reading, value: Option<f64>| sample.extend(value.map(|it| (reading, it)));
        let Activity { connections, traffic } = self.shared.plane.activity();
        put(Reading::Connections, Some(connections as f64));
        let recent = recent(&mut self.calls, Instant::now(), traffic);
        put(Reading::Success, succeeded(&recent));
        let p95 = recent.quantile(0.95).filter(|_| finished(&recent) >= CALLS);
        put(Reading::P95, p95.map(|it| it.as_secs_f64() * 1e3));
        let read = self.read().await;
        let seen = self.shared.plane.certificates().into_iter().map(|(_, ends)| ends).min();
        put(
            Reading::CertificateDays,
            read.certificate.into_iter().chain(seen).min().map(days_until),
        );
        put(Reading::Cpu, read.cpu);
        put(Reading::Memory, read.memory);
        put(Reading::Disk, read.disk);
        sample
    }

    /// What the machine says; nothing while an earlier reading has not come back.
    async fn read(&mut self) -> crate::machine::Reading {
        let machine = &mut self.machine;
        let begin = || {
            let mut machine = machine.take()?;
            Some(tokio::task::spawn_blocking(move || (machine.read(), machine)))
        };
        let nothing = crate::machine::Reading::default();
        let Some(mut reading) = self.reading.take().or_else(begin) else { return nothing };
        match tokio::time::timeout(READ_WITHIN, &mut reading).await {
            Ok(Ok((reading, machine))) => {
                self.machine = Some(machine);
                reading
            }
            Ok(Err(_)) => nothing,
            Err(_) => {
                self.reading = Some(reading);
                nothing
            }
        }
    }

    fn log(&self, changes: &[Change]) {
        for Change { from, now } in changes {
            let (reading, value) = (now.reading.label(), now.reading.show(now.value));
            let (was, level) = (from.label(), now.level.label());
            match now.level {
                Level::Normal => tracing::info!(reading, value, was, "the node is well again"),
                Level::Warning => {
                    tracing::warn!(reading, value, was, level, "the node needs a look");
                }
                Level::Critical | Level::Emergency => {
                    tracing::error!(reading, value, was, level, "the node is not well");
                }
            }
        }
    }

    /// A line in the group's record when the node has become critical, or worse, or is no more so.
    async fn record(&mut self, findings: &[Finding]) {
        let worst = worst(findings);
        let level = worst.map_or(Level::Normal, |it| it.level);
        let (last, at) = self.recorded;
        let is_news = level != last && level.max(last) >= Level::Critical;
        if !is_news || at.is_some_and(|at| at.elapsed() < RECORDED) {
            return;
        }
        let me = self.shared.group.me();
        let state = self.shared.state();
        let Some(member) = state.members.get(&me) else { return };
        let why = worst.map(|it| format!(": {} {}", it.reading.label(), it.reading.show(it.value)));
        let command = ServerCommand::Note {
            server: String::new(),
            instance: member.name.clone(),
            what: ServerHappened::Noted,
            evidence: format!(
                "{LINE}{} is {}{}",
                member.name,
                level.label(),
                why.unwrap_or_default()
            ),
        };
        if self.shared.propose(command).await.is_ok() {
            self.recorded = (level, Some(Instant::now()));
        }
    }

    /// Lets another node coordinate, if one is known that is better off. `needs`: the version of the
    /// configuration for which it is.
    async fn hand_over(&mut self, needs: Option<u64>, why: &str) {
        let Some(avoid) = self.shared.who_is_not_better_off(needs) else { return };
        match needs {
            Some(version) => self.shared.now_hands_over(version),
            None => self.handed_over = Some(Instant::now()),
        }
        tracing::warn!(why, "another node is to coordinate");
        if !self.shared.group.hand_over(avoid).await {
            tracing::warn!("nobody takes over: this node goes on coordinating");
        }
    }

    /// Tells the coordinator; whether this node may step aside.
    async fn tell(&mut self, level: Level, measure: Measure) -> Result<(), String> {
        let asked = Instant::now();
        let me = self.shared.group.me();
        // One that does not agree on versions with the others counts its own.
        let runs = if self.shared.plan.together { self.shared.runs() } else { 0 };
        let part = NodePart { level: level as u8, measure: measure as u8, runs, reads: READS };
        let leadership = *self.shared.group.leadership().borrow();
        let allowed = if leadership.me {
            self.shared.hear_of_node(me, part)
        } else {
            let coordinator = leadership.leader.ok_or("no coordinator is known")?;
            let body = encode_long(part)?;
            decode_long(&self.shared.group.call(coordinator, NODE, body.into()).await?)?
        };
        let Allowed { aside: may, all_read } = allowed;
        self.shared.heed_what_is_read(all_read);
        self.aside_until = (may && measure == Measure::StepAside).then(|| asked + HOLDS);
        Ok(())
    }
}

impl Reconciler for NodeWatch {
    const NAME: &'static str = "node";

    async fn activate(&mut self) -> Status {
        self.shared.beat();
        // So many samples make a level: what has this node tell anew is no reason for one.
        if self.sampled.is_none_or(|at| at.elapsed() >= EVERY / 2) {
            self.sampled = Some(Instant::now());
            let sample = self.sample().await;
            let changes = self.condition.take(&sample);
            self.log(&changes);
        }
        let findings = self.condition.findings();
        let level = worst(&findings).map_or(Level::Normal, |it| it.level);
        let wanted = measure(&findings);
        let told = self.tell(level, wanted).await;
        let aside = self.aside_until.is_some_and(|until| Instant::now() < until);
        self.shared
            .plane
            .is_found(Own { level, checks: checks(&self.condition, &findings, aside) });
        *lock(&self.shared.own) = (findings.clone(), aside);
        let rests = self.handed_over.is_some_and(|at| at.elapsed() < HANDS_OVER);
        if wanted >= Measure::HandOver && !rests && self.shared.coordinates().is_some() {
            self.hand_over(None, "the node is short of memory or disk").await;
        } else if let Some(version) = self.shared.is_overdue() {
            let why = "the node does not run the configuration that the cluster agreed on";
            self.hand_over(Some(version), why).await;
        }
        self.record(&findings).await;
        match told {
            Ok(()) => Status::Settled(EVERY),
            Err(why) => Status::Failed { why, retry: EVERY },
        }
    }
}

/// Whether a line of the record is about a node.
pub(crate) fn is_about_node(evidence: &str) -> bool {
    evidence.starts_with(LINE)
}

/// What the last minute's calls come to.
fn recent(calls: &mut VecDeque<(Instant, Traffic)>, now: Instant, traffic: Traffic) -> Traffic {
    calls.push_back((now, traffic.clone()));
    while calls.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) {
        calls.pop_front();
    }
    calls.front().map(|(_, oldest)| traffic.since(oldest)).unwrap_or_default()
}

/// Calls that were tried to their end: not what the client gave up, nor what was refused for another server.
fn finished(recent: &Traffic) -> u64 {
    recent.calls.saturating_sub(recent.cancelled).saturating_sub(recent.unasked)
}

/// The share of calls that did not fail for the gateway's or the network's reasons.
fn succeeded(recent: &Traffic) -> Option<f64> {
    let finished = finished(recent);
    let failures = recent.failures.saturating_sub(recent.unasked);
    (finished >= CALLS).then(|| 1.0 - failures as f64 / finished as f64)
}

/// Below zero once it is over.
fn days_until(ends: u64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    (ends as f64 - now as f64) / 86_400.0
}

/// The findings as `/health` shows them.
fn checks(condition: &Condition, findings: &[Finding], aside: bool) -> Vec<Check> {
    let check = |it: &Finding| {
        let is_ill = it.level >= Level::Critical;
        let own = measure(std::slice::from_ref(it)) == Measure::StepAside;
        let value = it.reading.show(it.value);
        let detail = match it.level {
            Level::Normal => value,
            level => format!("{value}: {} ({})", level.label(), bounds(condition, it.reading)),
        };
        Check {
            name: format!("node:{}", it.reading.label()),
            ok: !is_ill,
            // While others have the traffic.
            critical: aside && own,
            elapsed: Duration::ZERO,
            age: Duration::ZERO,
            detail: Some(detail),
        }
    };
    findings.iter().map(check).collect()
}

fn bounds(condition: &Condition, reading: Reading) -> String {
    let limits = condition.limits(reading);
    let number = |value: f64| match reading {
        Reading::Cpu | Reading::Memory | Reading::Disk | Reading::Success => {
            format!("{:.0} %", value * 100.0)
        }
        Reading::P95 => format!("{value:.0} ms"),
        Reading::Connections => format!("{value:.0}"),
        Reading::CertificateDays => format!("{value:.0} d"),
    };
    let [warning, critical, emergency] =
        [limits.warning, limits.critical, limits.emergency].map(number);
    format!("warning {warning}, critical {critical}, emergency {emergency}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(calls: u64, failures: u64) -> Traffic {
        Traffic { calls, failures, ..Traffic::default() }
    }

    #[test]
    fn calls_speak_for_the_last_minute_and_only_if_there_are_some() {
        let begun = Instant::now();
        let at = |s| begun + Duration::from_secs(s);
        let mut calls = VecDeque::new();
        assert_eq!(succeeded(&recent(&mut calls, at(0), traffic(1_000, 900))), None);
        assert_eq!(succeeded(&recent(&mut calls, at(2), traffic(1_019, 900))), None, "too few");
        assert_eq!(succeeded(&recent(&mut calls, at(4), traffic(1_040, 910))), Some(0.75));
        let later = recent(&mut calls, at(70), traffic(1_140, 910));
        assert_eq!(succeeded(&later), Some(1.0), "the failures are more than a minute ago");
        assert!(calls.len() <= 3);
        let cancelled = Traffic { cancelled: 30, ..traffic(40, 5) };
        assert_eq!(succeeded(&cancelled), None);
        let refused_for_another = Traffic { unasked: 60, ..traffic(160, 60) };
        assert_eq!(succeeded(&refused_for_another), Some(1.0));
    }

    #[test]
    fn only_an_emergency_of_its_own_makes_the_node_unready_and_only_when_it_may() {
        let limits =
            holdfast_engine::health::node::Limits { warning: 0.5, critical: 0.6, emergency: 0.7 };
        let condition = Condition::new(|_| limits);
        for reading in [Reading::Cpu, Reading::Memory] {
            for level in Level::ALL {
                for aside in [false, true] {
                    let finding = Finding { reading, value: 0.5, level };
                    let [check] = &checks(&condition, &[finding], aside)[..] else { panic!() };
                    assert_eq!(check.ok, level < Level::Critical);
                    let unready = aside && reading == Reading::Memory && level == Level::Emergency;
                    assert_eq!(check.critical && !check.ok, unready, "{level:?} {aside}");
                }
            }
        }
        let finding = Finding { reading: Reading::Memory, value: 0.65, level: Level::Critical };
        let [check] = &checks(&condition, &[finding], false)[..] else { panic!() };
        let said = "65 % used: critical (warning 50 %, critical 60 %, emergency 70 %)";
        assert_eq!((check.name.as_str(), check.detail.as_deref()), ("node:memory", Some(said)));
    }
}
