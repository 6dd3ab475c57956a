//! The servers of the configuration, as the control plane looks at them.
//!
//! Servers and their instances have the same numbers here and in the data plane: their places in the
//! configuration.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_config::{
    Check, CheckKind, Config, Levels, Objectives, Role, Server, ServerHealth, Transport,
};
use holdfast_engine::breaker;
use holdfast_engine::failover::{self, Params};
use holdfast_engine::health::Bars;
use holdfast_engine::health::node::{Limits, Reading};
use holdfast_engine::health::passive::Thresholds;
use holdfast_engine::health::schedule::Rhythm;
use holdfast_engine::health::votes::{Rules, Weights};
use holdfast_engine::replicated::{ServerState, Verdict};

use crate::plane::At;

/// What is to be looked at, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of their names, as the configuration has them.
    pub servers: Vec<Planned>,
    pub(crate) weights: Weights,
    pub(crate) rules: Rules,
    pub(crate) thresholds: Thresholds,
    pub(crate) node: PlannedNode,
    /// A node that did not run for longer than this was frozen, and the others know it.
    pub(crate) gap: Duration,
    /// Whether the nodes agree on one configuration, so that there is one that this plan may fall short of.
    pub(crate) together: bool,
}

/// How the node itself is looked at.
#[derive(Clone, Debug)]
pub(crate) struct PlannedNode {
    /// In the order of [`Reading::ALL`].
    pub(crate) limits: [Limits; Reading::ALL.len()],
    pub(crate) data_dir: Option<PathBuf>,
    /// The files with the certificates that the node shows.
    pub(crate) certificates: Vec<PathBuf>,
}

/// One server.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name in the configuration.
    pub name: String,
    /// In the order of the configuration.
    pub instances: Vec<PlannedInstance>,
    pub(crate) health: ServerHealth,
    /// What is asked beside the configured checks, where none of them makes a new connection.
    pub(crate) knock: Option<Check>,
    pub(crate) bars: Bars,
    pub(crate) objectives: Objectives,
    pub(crate) breaker: Option<BreakerRules>,
    /// The tools that have a breaker of their own.
    pub(crate) tools: Vec<String>,
    pub(crate) failover: Option<Moves>,
}

/// One instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedInstance {
    /// Its name in the configuration; `default` where it has none.
    pub id: String,
    /// What it is among the others.
    pub role: Role,
    /// Where it is.
    pub region: Option<String>,
    /// How it is reached: with another address, another one has its name.
    pub(crate) address: String,
}

/// When the cluster opens a server's breaker, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerRules {
    pub(crate) params: breaker::Params,
    pub(crate) open_for: Duration,
}

/// How a server moves.
#[derive(Clone, Debug)]
pub(crate) struct Moves {
    pub(crate) params: Params,
    /// Bad looks in a row that count.
    pub(crate) threshold: u32,
    pub(crate) error_rate: f64,
    /// How long a move in a failure may take, in milliseconds.
    pub(crate) target: u64,
    /// The call that both sides must answer alike.
    pub(crate) consistency: Option<holdfast_config::Consistency>,
}

// === impl Plan ===

impl Plan {
    /// The plan that a configuration stands for.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let lease = config.lease();
        let votes = &config.health.votes;
        let servers = config.servers.iter();
        Self {
            servers: servers
                .map(|(name, server)| Planned::of(name, server, config.health.measures, lease))
                .collect(),
            weights: votes.weights(),
            thresholds: config.health.passive.thresholds(),
            node: PlannedNode::of(config),
            gap: lease,
            together: config.reload.together && config.cluster.is_some(),
            rules: Rules {
                round: votes.round,
                timeout: votes.timeout,
                unhealthy: votes.fail,
                least: votes.least_nodes as usize,
                alone: config.cluster.as_ref().is_none_or(|cluster| cluster.nodes.len() <= 1),
            },
        }
    }

    /// The server of this name and its place.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Planned)> {
        let place = self.servers.binary_search_by(|server| server.name.as_str().cmp(name)).ok()?;
        Some((place, &self.servers[place]))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.name.clone()).collect()
    }

    /// Where another plan has this instance, if it is there too.
    pub(crate) fn place_in(&self, at: At, other: &Self) -> Option<At> {
        let planned = &self.servers[at.server];
        let it = &planned.instances[at.instance];
        let (server, other) = other.find(&planned.name)?;
        let same = |other: &PlannedInstance| other.id == it.id && other.address == it.address;
        let instance = other.instances.iter().position(same)?;
        Some(At { server, instance })
    }

    /// How long a vote on an instance of this server takes: what is checked seldom is judged by what was found
    /// two rounds ago.
    pub(crate) fn round_of(&self, planned: &Planned) -> Duration {
        self.rules.round.max(planned.health.interval.saturating_mul(2))
    }

    /// Every instance of every server.
    pub(crate) fn all(&self) -> impl Iterator<Item = At> + '_ {
        let instances = |(server, planned): (usize, &Planned)| {
            (0..planned.instances.len()).map(move |instance| At { server, instance })
        };
        self.servers.iter().enumerate().flat_map(instances)
    }
}

// === impl PlannedNode ===

impl PlannedNode {
    fn of(config: &Config) -> Self {
        let health = &config.node.health;
        let days = |it: Duration| it.as_secs_f64() / 86_400.0;
        let ms = |it: Duration| it.as_secs_f64() * 1e3;
        let limits = Reading::ALL.map(|reading| match reading {
            Reading::Cpu => limits(&health.cpu, |it| it),
            Reading::Memory => limits(&health.memory, |it| it),
            Reading::Disk => limits(&health.disk, |it| it),
            Reading::Success => limits(&health.success, |it| it),
            Reading::P95 => limits(&health.p95, ms),
            Reading::Connections => limits(&health.connections, |it| it as f64),
            Reading::CertificateDays => limits(&health.certificate_expiry, days),
        });
        let tls = [&config.listen.tls, &config.admin.tls].into_iter().flatten();
        let redis = config.sessions.redis.as_ref().and_then(|redis| redis.tls.as_ref());
        let client = redis.and_then(|tls| tls.client_cert.clone());
        Self {
            limits,
            data_dir: config.node.data_dir.clone(),
            certificates: tls.map(|it| it.certificate.clone()).chain(client).collect(),
        }
    }
}

fn limits<T: Copy>(levels: &Levels<T>, value: impl Fn(T) -> f64) -> Limits {
    Limits {
        warning: value(levels.warning),
        critical: value(levels.critical),
        emergency: value(levels.emergency),
    }
}

// === impl Planned ===

impl Planned {
    fn of(name: &str, server: &Server, bars: Bars, lease: Duration) -> Self {
        let instances = match &server.transport {
            Transport::Http { instances } => instances
                .iter()
                .map(|it| PlannedInstance {
                    id: it.id.clone(),
                    role: it.role,
                    region: it.region.clone(),
                    address: it.url.to_string(),
                })
                .collect(),
            Transport::Sse { url } | Transport::WebSocket { url } => vec![only(url.to_string())],
            Transport::Stdio(process) => {
                vec![only(format!("{} {:?}", process.command, process.args))]
            }
        };
        let health = health(server);
        let mut planned = Self {
            name: name.to_owned(),
            instances,
            knock: knock(server, &health.checks),
            health,
            bars,
            objectives: server.objectives,
            breaker: breaker(&server.breaker),
            tools: server.breaker.per_tool.clone(),
            failover: None,
        };
        let moves = server.failover.as_ref();
        planned.failover = moves.map(|it| moves_of(it, &planned, lease));
        planned
    }

    /// The group's verdict on an instance. None without checks: what was found by earlier ones holds no more.
    pub(crate) fn verdict<'a>(
        &self,
        known: &'a ServerState,
        instance: &str,
    ) -> Option<&'a Verdict> {
        known.verdicts.get(instance).filter(|_| self.health.enabled)
    }

    /// Which instance serves while all is well: the primary, or the first.
    pub(crate) fn primary(&self) -> &str {
        let primary = self.instances.iter().find(|it| it.role == Role::Primary);
        primary.or_else(|| self.instances.first()).map_or("", |it| &it.id)
    }

    /// How often it is checked.
    pub(crate) fn rhythm(&self) -> Rhythm {
        let ServerHealth { interval, retries, .. } = self.health;
        Rhythm { interval, retries, bars: self.bars }
    }

    pub(crate) fn place(&self, id: &str) -> Option<usize> {
        self.instances.iter().position(|it| it.id == id)
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.instances.iter().map(|it| it.id.clone()).collect()
    }
}

/// The one instance of a server that is a connection.
fn only(address: String) -> PlannedInstance {
    PlannedInstance { id: "default".to_owned(), role: Role::Equal, region: None, address }
}

/// The standard checks ask nothing that costs a process of its own, or that only a client's credential
/// opens: then a connection has to do. What is configured is asked as it is.
fn health(server: &Server) -> ServerHealth {
    let mut health = server.health.clone();
    let is_process = matches!(server.transport, Transport::Stdio(_));
    if (is_process || server.forward_authorization) && health.checks == Check::standard() {
        health.checks.retain(|check| check.kind == CheckKind::Connect);
    }
    health
}

/// Checks keep their connections, and an instance that takes no new ones goes on answering over those. So each
/// round makes a new one, also where no check of its own does; a process has none. It counts nothing but its
/// failure.
fn knock(server: &Server, checks: &[Check]) -> Option<Check> {
    let connects = |check: &Check| check.scores() && check.kind == CheckKind::Connect;
    let is_needed = checks.iter().any(Check::scores) && !checks.iter().any(connects);
    let is_address = !matches!(server.transport, Transport::Stdio(_));
    (is_needed && is_address).then(|| Check {
        name: CheckKind::Connect.label().to_owned(),
        kind: CheckKind::Connect,
        weight: 0.0,
        critical: false,
        external: false,
    })
}

/// What the cluster's verdict is made by; none where no breaker is wanted.
fn breaker(it: &holdfast_config::Breaker) -> Option<BreakerRules> {
    let params = breaker::Params {
        consecutive_failures: it.consecutive_failures,
        failure_rate: it.failure_rate,
        minimum_calls: it.minimum_calls,
        window: it.window,
        open_for: it.open_for,
        ..breaker::Params::default()
    };
    it.enabled.then_some(BreakerRules { params, open_for: it.open_for })
}

fn moves_of(it: &holdfast_config::Failover, planned: &Planned, lease: Duration) -> Moves {
    let held = it.held(lease, planned.health.timeout);
    let params = Params {
        automatic_failback: it.automatic_failback,
        failback_delay: millis(it.failback_delay),
        good_checks: it.good_checks,
        degradation: it.degradation,
        fail_over: planned.bars.fail_over,
        pause_within: millis(held.pause),
        pause_within_immediate: millis(held.pause_immediate),
        drain: millis(held.drain),
        check: it.consistency.is_some(),
        check_within: millis(held.check),
        ramp_step: percent(it.ramp_step),
        ramp_over: millis(it.ramp_over),
        shift_over: millis(it.shift_over),
        switch_within: millis(held.switch),
        ..Params::new(planned.primary())
    };
    Moves {
        params,
        threshold: it.threshold,
        error_rate: it.error_rate,
        target: millis(it.tier.target()),
        consistency: it.consistency.clone(),
    }
}

/// The role in the failover's terms: where all are alike, none is a primary.
pub(crate) fn role(role: Role) -> failover::Role {
    match role {
        Role::Primary => failover::Role::Primary,
        Role::Secondary | Role::Equal => failover::Role::Secondary,
        Role::Replica => failover::Role::Replica,
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn percent(share: f64) -> u8 {
    let percent = (share * 100.0).round().clamp(1.0, 100.0);
    percent as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_checks_start_no_process_and_need_no_clients_credential() {
        let yaml = r#"servers:
  plain: { url: "http://127.0.0.1:1/mcp" }
  theirs: { url: "http://127.0.0.1:2/mcp", forward_authorization: true }
  process: { command: cat }
  asked: { command: cat, health: { checks: [ { type: ping } ] } }
"#;
        let config = holdfast_config::parse(yaml, "test", &|_| None).expect("a configuration");
        let kinds = |planned: &Planned| -> Vec<&'static str> {
            planned.health.checks.iter().map(|check| check.kind.label()).collect()
        };
        let plan = Plan::of(&config);
        let found: Vec<_> = plan.servers.iter().map(|it| (it.name.as_str(), kinds(it))).collect();
        assert_eq!(
            found,
            [
                ("asked", vec!["ping"]),
                ("plain", vec!["connect", "ping"]),
                ("process", vec!["connect"]),
                ("theirs", vec!["connect"]),
            ]
        );
    }
}
