//! From what a node knows of itself to what the API says of it. Pure but for the process's figures.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, UNIX_EPOCH};

use holdfast_proxy::health::{Check, Health, Verdict};
use holdfast_proxy::metrics::ProcessUsage;
use holdfast_proxy::report::{Gauged, Report, ServerReport, SessionPage, SessionReport};

use crate::api::{
    CheckDto, ConfigDto, GaugedDto, InstanceDto, LastErrorDto, ListenerDto, NodeDto, NodesDto,
    ProcessDto, ProcessesDto, RecentDto, ServerDto, SessionDto, SessionsDto, StatusDto, ToolDto,
    TotalDto, UsageDto, VerdictDto,
};
use crate::window::{Recent, Window};

/// From this share of failed calls on, a server is shown as degraded.
const DEGRADED: f64 = 0.01;
/// From this share on, as failing.
const FAILING: f64 = 0.5;

/// The whole status. `window` and `report` are readings of the same node at `now`.
pub(crate) fn status(
    report: &Report,
    health: &Health,
    cluster: Option<NodesDto>,
    window: &Window,
    now: Instant,
) -> StatusDto {
    let checks: BTreeMap<&str, &Check> =
        health.checks.iter().map(|check| (check.name.as_str(), check)).collect();
    let mut all = Recent::default();
    let mut servers = Vec::with_capacity(report.servers.len());
    for server in &report.servers {
        let recent = window.recent(&server.name, now, &server.traffic);
        all.add(&recent);
        let check = checks.get(format!("server:{}", server.name).as_str()).copied();
        servers.push(server_dto(server, &recent, check));
    }
    StatusDto {
        verdict: verdict(health, &servers),
        node: NodeDto {
            id: report.node.clone(),
            version: report.version.clone(),
            pid: std::process::id(),
            state: report.state.label().to_owned(),
            started_unix_s: report.started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            uptime_s: report.uptime.as_secs(),
        },
        listeners: report
            .listeners
            .iter()
            .map(|listener| ListenerDto {
                name: listener.name.to_owned(),
                address: listener.address.clone(),
                tls: listener.tls,
                accepting: listener.accepting,
            })
            .collect(),
        usage: UsageDto {
            connections: gauged(report.usage.connections),
            sessions: gauged(report.usage.sessions),
            streams: gauged(report.usage.streams),
            in_flight: gauged(report.usage.in_flight),
        },
        recent: recent_dto(&all),
        servers,
        checks: health.checks.iter().map(check_dto).collect(),
        process: process_dto(ProcessUsage::read()),
        config: ConfigDto {
            auth: report.config.auth,
            principals: report.config.principals,
            store: report.config.store.to_owned(),
            workers: report.config.workers,
        },
        cluster,
    }
}

/// One page of the list of sessions.
pub(crate) fn sessions(page: &SessionPage, offset: usize, me: &str) -> SessionsDto {
    let dto = |session: &SessionReport| SessionDto {
        digest: session.digest.clone(),
        server: session.server.clone(),
        principal: session.principal.clone(),
        version: session.version.clone(),
        client: session.client.clone(),
        age_s: session.age.as_secs(),
        // The two are read off clocks of different grain.
        idle_s: session.idle.min(session.age).as_secs(),
        instance: session.instance.clone(),
        node: session.held_here.then(|| me.to_owned()),
        revision: session.revision,
    };
    let node = me.to_owned();
    SessionsDto {
        node,
        total: page.total,
        offset,
        sessions: page.sessions.iter().map(dto).collect(),
    }
}

fn server_dto(server: &ServerReport, recent: &Recent, check: Option<&Check>) -> ServerDto {
    let (state, reason) = server_state(recent, check);
    let traffic = &server.traffic;
    ServerDto {
        name: server.name.clone(),
        state: state.to_owned(),
        reason,
        transport: server.transport.to_owned(),
        instances: server
            .instances
            .iter()
            .map(|i| InstanceDto { id: i.id.clone(), target: i.target.clone() })
            .collect(),
        versions: server.versions.clone(),
        sessions: server.sessions,
        in_flight: server.in_flight,
        recent: recent_dto(recent),
        total: TotalDto {
            calls: traffic.calls,
            errors: traffic.errors,
            failures: traffic.failures,
            cancelled: traffic.cancelled,
            repeated: server.repeated,
            p50_ms: traffic.quantile(0.5).map(millis),
            p99_ms: traffic.quantile(0.99).map(millis),
        },
        last_success_s: server.last_success.map(|age| age.as_secs()),
        last_error: server
            .last_error
            .as_ref()
            .map(|(age, text)| LastErrorDto { age_s: age.as_secs(), text: text.clone() }),
        tools: server
            .tools
            .iter()
            .map(|(name, breaker)| ToolDto { name: name.clone(), breaker: (*breaker).to_owned() })
            .collect(),
        processes: server.processes.map(|p| ProcessesDto {
            running: p.running,
            started: p.started,
            exited: p.exited,
        }),
        control: None,
    }
}

/// The calls of the last minute speak before the check: a server that answers calls is reachable,
/// whatever a connection attempt says, and one that fails them is not well because a port is open.
fn server_state(recent: &Recent, check: Option<&Check>) -> (&'static str, Option<String>) {
    let unreachable = check.filter(|check| !check.ok);
    let why = |check: &Check| check.detail.clone();
    match (recent.failed_at_the_server(), unreachable) {
        (Some(share), Some(check)) if share > 0.0 => ("unreachable", why(check)),
        (None, Some(check)) => ("unreachable", why(check)),
        (Some(share), _) if share >= FAILING => ("failing", Some(percent_failed(share))),
        (Some(share), _) if share >= DEGRADED => ("degraded", Some(percent_failed(share))),
        (Some(_), Some(check)) => ("degraded", why(check)),
        (Some(_), None) => ("ok", None),
        (None, None) => ("idle", None),
    }
}

fn percent_failed(share: f64) -> String {
    format!("{:.0} % of the last minute's calls failed", (share * 100.0).max(1.0))
}

fn verdict(health: &Health, servers: &[ServerDto]) -> VerdictDto {
    let troubled: Vec<&ServerDto> =
        servers.iter().filter(|server| !matches!(server.state.as_str(), "ok" | "idle")).collect();
    let failed =
        health.checks.iter().filter(|check| !check.ok && !check.name.starts_with("server:")).map(
            |check| format!("{}: {}", check.name, check.detail.as_deref().unwrap_or("failed")),
        );
    let mut parts: Vec<String> = failed.collect();
    if let [only] = troubled.as_slice() {
        let reason = only.reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default();
        parts.push(format!("server {} is {}{reason}", only.name, only.state));
    } else if !troubled.is_empty() {
        let names: Vec<&str> = troubled.iter().map(|server| server.name.as_str()).collect();
        parts.push(format!(
            "{} of {} servers have trouble: {}",
            names.len(),
            servers.len(),
            names.join(", ")
        ));
    }
    let state = match health.verdict {
        Verdict::Draining => "draining",
        Verdict::NotReady => "not_ready",
        Verdict::Live | Verdict::Ready | Verdict::Degraded if parts.is_empty() => "ready",
        Verdict::Live | Verdict::Ready | Verdict::Degraded => "degraded",
    };
    let lead = match state {
        "draining" => "Draining: running calls end, new ones go elsewhere.",
        "not_ready" => "Not ready: takes no traffic.",
        "degraded" => "Takes traffic, with trouble.",
        _ => "Ready.",
    };
    let rest = match (parts.is_empty(), servers.len()) {
        (false, _) => format!("{}.", capitalised(&parts.join("; "))),
        (true, 0) => "No server is configured.".to_owned(),
        (true, 1) => "No trouble with the one server.".to_owned(),
        (true, n) => format!("No trouble with any of {n} servers."),
    };
    VerdictDto { state: state.to_owned(), text: format!("{lead} {rest}") }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn recent_dto(recent: &Recent) -> RecentDto {
    let seconds = recent.span.as_secs_f64();
    RecentDto {
        window_s: (seconds * 10.0).round() / 10.0,
        calls: recent.traffic.calls,
        // Below a second a rate would jump about.
        rate: recent.traffic.calls as f64 / seconds.max(1.0),
        success: recent.failed().map(|share| 1.0 - share),
        p50_ms: recent.traffic.quantile(0.5).map(millis),
        p99_ms: recent.traffic.quantile(0.99).map(millis),
    }
}

fn check_dto(check: &Check) -> CheckDto {
    CheckDto {
        name: check.name.clone(),
        ok: check.ok,
        critical: check.critical,
        response_time_ms: millis(check.elapsed),
        detail: check.detail.clone(),
    }
}

fn process_dto(usage: ProcessUsage) -> ProcessDto {
    ProcessDto {
        cpu_s: usage.cpu_seconds,
        resident_bytes: usage.resident_bytes,
        open_fds: usage.open_fds,
        max_fds: usage.max_fds,
        threads: usage.threads,
    }
}

fn gauged(Gauged { now, limit }: Gauged) -> GaugedDto {
    GaugedDto { now, limit }
}

/// Milliseconds with two places.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}

#[cfg(test)]
mod tests {
    use holdfast_proxy::metrics::Traffic;

    use super::*;

    fn recent(calls: u64, failures: u64) -> Recent {
        let traffic = Traffic { calls, failures, ..Traffic::default() };
        Recent { span: Duration::from_secs(60), traffic }
    }

    fn check(ok: bool) -> Check {
        Check {
            name: "server:a".to_owned(),
            ok,
            critical: false,
            elapsed: Duration::from_millis(1),
            age: Duration::ZERO,
            detail: (!ok).then(|| "connection refused".to_owned()),
        }
    }

    #[test]
    fn calls_and_check_together_make_a_servers_state() {
        let table = [
            // calls, failures, check ok → state
            (0, 0, true, "idle"),
            (0, 0, false, "unreachable"),
            (100, 0, true, "ok"),
            (1000, 9, true, "ok"),
            (1000, 10, true, "degraded"),
            (100, 50, true, "failing"),
            (100, 50, false, "unreachable"),
            // Answers calls over a connection it already has, but takes no new one.
            (100, 0, false, "degraded"),
        ];
        for (calls, failures, ok, expected) in table {
            let (state, reason) = server_state(&recent(calls, failures), Some(&check(ok)));
            assert_eq!(state, expected, "{calls} calls, {failures} failures, check {ok}");
            assert_eq!(reason.is_none(), matches!(state, "ok" | "idle"));
        }
        assert_eq!(server_state(&recent(1, 0), None).0, "ok");
    }

    #[test]
    fn milliseconds_keep_two_places() {
        assert_eq!(millis(Duration::from_micros(1_234)), 1.23);
        assert_eq!(millis(Duration::from_secs(60)), 60_000.0);
    }

    #[test]
    fn only_the_first_letter_is_changed() {
        assert_eq!(capitalised("server A is failing"), "Server A is failing");
        assert_eq!(capitalised(""), "");
    }
}
