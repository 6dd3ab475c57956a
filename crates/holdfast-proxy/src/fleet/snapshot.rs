//! The fleet as it is shown: to people, to metrics, to whoever was away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_config::{BulkheadClass, Role};
use holdfast_engine::breaker;
use holdfast_engine::failover::Failover;
use holdfast_engine::health::Measure;
use holdfast_engine::health::passive::{Indicators, Judgement};
use holdfast_engine::limits::bulkhead::ClassStatus;

use super::control::{CheckResult, Verdict};
use super::{Fleet, ServerFleet, chance};

/// One server.
#[derive(Clone, Debug)]
pub struct ServerSnapshot {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Which instance takes its calls, and what move is under way, where only one does.
    pub failover: Option<Arc<Failover>>,
    /// What its health calls for.
    pub measure: Measure,
    /// New calls wait for a failover.
    pub paused: bool,
    /// No instance can be called.
    pub shut: bool,
    /// Its instances, in the order of the configuration.
    pub instances: Vec<InstanceSnapshot>,
    /// The breakers of single tools, by name, in the order of the configuration.
    pub tools: Vec<(Box<str>, breaker::Status)>,
    /// Its classes.
    pub classes: Vec<(BulkheadClass, ClassStatus)>,
    /// Calls that wait for a connection.
    pub waiting: u32,
    /// Repeats that are under way or were begun lately, and how many there may be.
    pub repeats: (u32, u32),
}

/// One instance.
#[derive(Clone, Debug)]
pub struct InstanceSnapshot {
    /// Its name in the configuration.
    pub id: Box<str>,
    /// What it is among the others.
    pub role: Role,
    /// Its breaker.
    pub breaker: breaker::Status,
    /// When the breaker lets calls pass again, if it is open.
    pub opens_in: Option<Duration>,
    /// For how long it cannot be reached from here.
    pub away_for: Option<Duration>,
    /// Calls that are under way.
    pub in_flight: u32,
    /// How long it usually takes; a failure counts as a second at least.
    pub latency: Duration,
    /// What its calls say.
    pub indicators: Indicators,
    /// What they come to; `None`: too few of them.
    pub judged: Option<Judgement>,
    /// How well it is for whoever shares calls out, 0 to 1.
    pub share: f64,
    /// What is found of it.
    pub verdict: Arc<Verdict>,
    /// This node's last checks of it.
    pub checks: Arc<Vec<CheckResult>>,
    /// For how long it has not answered a call; `None`: it never has.
    pub answered_ago: Option<Duration>,
}

// === impl Fleet ===

impl Fleet {
    /// All servers now. For a scrape or a page, not for a call.
    #[must_use]
    pub fn snapshot(&self) -> Vec<ServerSnapshot> {
        self.servers.iter().map(|server| server.snapshot()).collect()
    }
}

// === impl ServerFleet ===

impl ServerFleet {
    /// This server now.
    #[must_use]
    pub fn snapshot(&self) -> ServerSnapshot {
        let now = Instant::now();
        ServerSnapshot {
            name: Arc::clone(&self.name),
            failover: self.failover.load_full(),
            measure: self.measure(),
            paused: self.is_paused(),
            shut: self.is_shut(),
            instances: (0..self.instances.len()).map(|at| self.one(at, now)).collect(),
            tools: self.tools_now(),
            classes: self.gate.status(&self.name, now),
            waiting: self.waiting(),
            repeats: self.gate.repeats(),
        }
    }

    /// The breakers of single tools now.
    pub(crate) fn tools_now(&self) -> Vec<(Box<str>, breaker::Status)> {
        let now = Instant::now();
        let one = |number| {
            let (name, _) = &self.tools[number];
            let status = self.steer_tool(number, |breaker| {
                breaker.tick(now, chance());
                breaker.status()
            });
            (name.clone(), status)
        };
        (0..self.tools.len()).map(one).collect()
    }

    fn one(&self, at: usize, now: Instant) -> InstanceSnapshot {
        let it = &self.instances[at];
        let breaker = it.steer(
            |breaker| {
                breaker.tick(now, chance());
                breaker.status()
            },
            |change| self.tell(at, change),
        );
        let indicators = it.indicators(it.millis(now));
        it.weigh(&indicators, &self.thresholds);
        InstanceSnapshot {
            id: it.id.clone(),
            role: it.role,
            breaker,
            opens_in: breaker.open_until.map(|until| until.saturating_duration_since(now)),
            away_for: it.away_for(now),
            in_flight: it.in_flight(),
            latency: Duration::from_micros(it.latency(now) as u64),
            indicators,
            judged: indicators.judge(&self.thresholds),
            share: f64::from(it.score()),
            verdict: it.verdict(),
            checks: it.checks.load_full(),
            answered_ago: it.answered_ago(now),
        }
    }
}

// === impl InstanceSnapshot ===

impl InstanceSnapshot {
    /// How well it is, 0 to 1: what is found of it, less what its calls and readings take off. Nothing
    /// where its breaker is open or it cannot be reached.
    #[must_use]
    pub fn score(&self) -> f64 {
        if self.opens_in.is_some() || self.away_for.is_some() {
            return 0.0;
        }
        self.share
    }
}
