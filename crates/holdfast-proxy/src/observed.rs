//! The data plane as the admin side sees it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_config::{BulkheadClass, HttpUrl, Transport};
use holdfast_engine::breaker::{self, Phase};
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::health::{Grade, Measure};
use holdfast_engine::limits::bulkhead::ClassStatus;
use holdfast_store::SessionKey;

use crate::Proxy;
use crate::cluster;
use crate::fleet::InstanceSnapshot;
use crate::gateway::Gateway;
use crate::health::{Check, HealthFuture, Trouble};
use crate::metrics::Metrics;
use crate::report::{
    ConfigSummary, Gauged, InstanceReport, Listener, NodeState, Observed, Processes, Report,
    ServerReport, SessionPage, SessionReport, Usage, session_digest,
};
use crate::server::Server;
use crate::session::Session;

/// How long the store may take to show that it lives: with the question to the other nodes it stays
/// below [`crate::health::DEADLINE`].
const STORE_SIGN: Duration = Duration::from_millis(400);

impl Observed for Gateway {
    fn report(&self) -> Report {
        let config = &self.config;
        let limits = &config.limits;
        let gauged = |now, limit| Gauged { now, limit };
        Report {
            node: config.node.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.metrics.started(),
            uptime: self.metrics.uptime(),
            state: self.state(),
            level: self.own.load().level,
            listeners: self.listeners(),
            usage: Usage {
                connections: gauged(self.metrics.connections.get(), limits.connections),
                sessions: gauged(self.sessions.len(), limits.sessions),
                streams: gauged(self.metrics.streams.get(), limits.streams),
                in_flight: gauged(self.metrics.in_flight.get(), limits.in_flight),
            },
            servers: self.servers.iter().map(|server| self.server_report(server)).collect(),
            config: ConfigSummary {
                auth: !self.auth.is_open(),
                principals: config
                    .auth
                    .keys
                    .iter()
                    .map(|key| key.principal.as_str())
                    .collect::<std::collections::BTreeSet<_>>()
                    .len(),
                store: config.sessions.store.label(),
                workers: crate::workers(config),
            },
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    fn sessions(&self, offset: usize, limit: usize) -> SessionPage {
        let mut keys: Vec<SessionKey> = Vec::new();
        self.sessions.each(|session| keys.push(session.key));
        keys.sort_unstable();
        let now = self.clock.now();
        let page = keys.iter().skip(offset).take(limit).filter_map(|key| self.sessions.look(*key));
        SessionPage {
            total: keys.len(),
            sessions: page.map(|session| session_report(&session, now)).collect(),
        }
    }

    fn ready(&self) -> HealthFuture<'_> {
        Box::pin(async move {
            let report = self.report();
            let known = |server: &str| self.server_checks(server);
            let own = self.own.load_full();
            self.checker.ready(&report, self.store_state(), &own.checks, known).await
        })
    }
}

/// That tools of a class are in quarantine, if some are.
fn set_aside(server: &str, (class, status): &(BulkheadClass, ClassStatus)) -> Option<Check> {
    let tools = status.quarantined;
    (tools > 0).then(|| Check {
        name: format!("server:{server}/bulkhead/{}", class.label()),
        ok: false,
        critical: false,
        elapsed: Duration::ZERO,
        age: Duration::ZERO,
        detail: Some(format!("tools that hang and are limited to a quarter of the class: {tools}")),
    })
}

/// That a breaker lets not every call pass, if it is so.
fn kept_back(name: String, whose: &str, breaker: &breaker::Status) -> Option<Check> {
    let held = breaker.held_until.map(|at| at.saturating_duration_since(Instant::now()));
    let detail = match (breaker.phase, held.filter(|left| !left.is_zero())) {
        // What an operator holds closed is called whatever it asks for.
        (Phase::Closed, None) | (Phase::ForcedClosed, _) => return None,
        (Phase::Closed, Some(left)) => {
            let seconds = left.as_secs() + 1;
            format!("it has asked for fewer calls, and gets none for another {seconds} s")
        }
        (phase, _) => format!("{whose} circuit breaker is {}", phase.label()),
    };
    Some(Check {
        name,
        ok: false,
        critical: false,
        elapsed: Duration::ZERO,
        age: Duration::ZERO,
        detail: Some(detail),
    })
}

/// That this node cannot reach an instance, if it is so, and whose trouble it is. What this node alone does not reach
/// has its calls refused or sent elsewhere, and nothing fails over for that.
fn cut_off(it: &InstanceSnapshot, is_alone: bool, name: &impl Fn(&str) -> String) -> Option<Check> {
    let away_for = it.away_for?;
    let so = match it.verdict.opinion {
        Some(Opinion::Healthy) if !is_alone => {
            ", and the others find it healthy: if that lasts, look at this node's network"
        }
        Some(Opinion::Unhealthy) => ", and is found unhealthy: look at the server",
        Some(Opinion::Healthy | Opinion::Degraded) | None => "",
    };
    Some(Check {
        name: name("reach"),
        ok: false,
        critical: false,
        elapsed: Duration::ZERO,
        age: Duration::ZERO,
        detail: Some(format!(
            "it refuses connections from this node for {} s{so}",
            away_for.as_secs()
        )),
    })
}

/// What the group has found of an instance, and what this node's calls and its readings say.
fn found(
    it: &InstanceSnapshot,
    measure: Measure,
    name: &impl Fn(&str) -> String,
) -> impl Iterator<Item = Check> {
    let check = |name: String, ok, detail: String| Check {
        name,
        ok,
        critical: false,
        elapsed: Duration::ZERO,
        age: Duration::ZERO,
        detail: Some(detail),
    };
    let score = it.verdict.score;
    let verdict = it.verdict.opinion.map(|opinion| {
        let grade = Grade::of(score).label();
        let so = match measure {
            Measure::Nothing => String::new(),
            measure => format!("; {}: {measure}", measure.label()),
        };
        let detail = format!("{}, {score} of 100 ({grade}){so}", opinion.label());
        check(name("verdict"), opinion != Opinion::Unhealthy, detail)
    });
    let calls = it.judged.map(|it| check(name("calls"), !it.poor, it.to_string()));
    verdict.into_iter().chain(calls)
}

impl Gateway {
    /// The checks of a server that the control plane made last, instance by instance.
    fn server_checks(&self, server: &str) -> Vec<Check> {
        let Some(fleet) = self.fleet.server(server) else { return Vec::new() };
        let snapshot = fleet.snapshot();
        let (measure, instances) = (snapshot.measure, snapshot.instances);
        let several = instances.len() > 1;
        let mut checks = Vec::new();
        for it in instances {
            let instance = if several { format!("/{}", it.id) } else { String::new() };
            let name = |check: &str| format!("server:{server}{instance}/{check}");
            if !it.checks.is_empty() {
                checks.extend(found(&it, measure, &name));
                checks.extend(cut_off(&it, self.cluster.is_none(), &name));
                checks.extend(kept_back(name("breaker"), "its", &it.breaker));
            }
            for made in it.checks.iter() {
                checks.push(Check {
                    name: name(&made.name),
                    ok: made.error.is_none(),
                    critical: false,
                    elapsed: made.elapsed,
                    age: made.at.elapsed(),
                    detail: made.error.as_deref().or(made.detail.as_deref()).map(str::to_owned),
                });
            }
        }
        if !checks.is_empty() {
            checks.extend(snapshot.classes.iter().filter_map(|it| set_aside(server, it)));
            checks.extend(snapshot.tools.iter().filter_map(|(tool, breaker)| {
                let name = format!("server:{server}/tool/{tool}/breaker");
                kept_back(name, "the tool's own", breaker)
            }));
        }
        checks
    }

    /// Whether the store takes writes: memory does as long as the process lives, and a cluster from a
    /// node that it has granted a lease. A store that is away from here is this node's own trouble if
    /// another node has it; without it for all of them, each serves what needs no store.
    async fn store_state(&self) -> Result<(), Trouble> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let own = |reason| Trouble { reason, critical: true };
        if !cluster.is_leased_or_was(Instant::now()) {
            let reason = cluster.hindrance().unwrap_or_else(|| {
                "this node has no lease: it has not joined, or the cluster has no quorum".to_owned()
            });
            return Err(own(reason));
        }
        let Err(reason) = self.store_answers().await else { return Ok(()) };
        match cluster::ask_for_store(self).await {
            Some(node) => Err(own(format!("{reason}; {node} has it"))),
            None => Err(Trouble { reason, critical: false }),
        }
    }

    /// A sign of life of the store, as this node sees it.
    pub(crate) async fn store_answers(&self) -> Result<(), String> {
        let answer = tokio::time::timeout(STORE_SIGN, self.store.health()).await;
        answer.unwrap_or_else(|_| {
            Err(format!("the store has not answered within {} ms", STORE_SIGN.as_millis()))
        })
    }

    fn state(&self) -> NodeState {
        if self.draining() {
            NodeState::Draining
        } else if self.ports.accepting.load(Ordering::Relaxed) {
            NodeState::Ready
        } else {
            NodeState::Starting
        }
    }

    fn listeners(&self) -> Vec<Listener> {
        let accepting = self.ports.accepting.load(Ordering::Relaxed) && !self.draining();
        let client = self.ports.client.get().map(|address| Listener {
            name: "client",
            address: address.to_string(),
            tls: self.config.listen.tls.is_some(),
            accepting,
        });
        let admin = self.ports.admin.get().map(|address| Listener {
            name: "admin",
            address: address.to_string(),
            tls: self.config.admin.tls.is_some(),
            accepting: true,
        });
        client.into_iter().chain(admin).collect()
    }

    fn server_report(&self, server: &Server) -> ServerReport {
        let counted = &server.metrics;
        let transport = &server.settings.transport;
        let instance = |id: &str, target: String| InstanceReport { id: id.to_owned(), target };
        let (instances, processes) = match transport {
            Transport::Http { instances } => {
                (instances.iter().map(|i| instance(&i.id, shown(&i.url))).collect(), None)
            }
            Transport::Sse { url } | Transport::WebSocket { url } => {
                (vec![instance("default", shown(url))], None)
            }
            Transport::Stdio(process) => {
                let (started, exited) = (counted.process_starts.get(), counted.process_exits.get());
                let processes = Processes { running: server.processes.get(), started, exited };
                (vec![instance("default", process.command.clone())], Some(processes))
            }
        };
        ServerReport {
            name: server.name.to_string(),
            transport: transport.label(),
            instances,
            versions: server.versions().iter().map(|v| v.as_str().to_owned()).collect(),
            sessions: counted.sessions.get(),
            in_flight: counted.in_flight.get(),
            traffic: counted.traffic(),
            repeated: counted.attempts_repeated.get(),
            last_success: counted.last_success(),
            last_error: counted.last_error(),
            processes,
            tools: server
                .fleet
                .tools_now()
                .into_iter()
                .map(|(tool, breaker)| (tool.into(), breaker.phase.label()))
                .collect(),
        }
    }
}

/// A URL without its query, which may hold a credential.
fn shown(url: &HttpUrl) -> String {
    let url = url.to_string();
    url.split_once('?').map_or_else(|| url.clone(), |(path, _)| path.to_owned())
}

fn session_report(session: &Session, now: Duration) -> SessionReport {
    let record = session.record();
    let (bound, server) = (session.bound(), session.server());
    SessionReport {
        digest: session_digest(session.id().to_str().unwrap_or_default()),
        server: server.name.to_string(),
        principal: session.owner.name.to_string(),
        version: session.version.as_str().to_owned(),
        client: client_info(&record.initialize),
        age: now.saturating_sub(session.created()),
        idle: now.saturating_sub(session.idle_since()),
        instance: match &server.settings.transport {
            Transport::Http { instances } => server
                .fleet
                .place(bound.mark)
                .and_then(|at| instances.get(at))
                .map(|i| i.id.clone()),
            Transport::Sse { .. } | Transport::WebSocket { .. } | Transport::Stdio(_) => None,
        },
        held_here: bound.mux.is_some(),
        revision: record.revision,
    }
}

/// Name and version out of an `initialize` request.
fn client_info(initialize: &[u8]) -> Option<String> {
    let message: serde_json::Value = serde_json::from_slice(initialize).ok()?;
    let info = message.get("params")?.get("clientInfo")?;
    let name: String = info.get("name")?.as_str()?.chars().take(64).collect();
    let version: Option<String> =
        info.get("version").and_then(|v| v.as_str()).map(|v| v.chars().take(32).collect());
    Some(match version {
        Some(version) => format!("{name} {version}"),
        None => name,
    })
}

impl Observed for Proxy {
    fn report(&self) -> Report {
        self.current.load().report()
    }

    fn metrics(&self) -> &Metrics {
        &self.node.metrics
    }

    fn draining(&self) -> bool {
        self.node.draining.is_cancelled()
    }

    fn sessions(&self, offset: usize, limit: usize) -> SessionPage {
        Observed::sessions(&**self.current.load(), offset, limit)
    }

    fn ready(&self) -> HealthFuture<'_> {
        let gateway = self.current.load_full();
        Box::pin(async move { gateway.ready().await })
    }
}
