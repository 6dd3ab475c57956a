//! `/health`, `/health/live` and `/health/ready`: the same bodies on the client and the admin port.
//!
//! # What ready means
//! A balancer asks whether this node should get traffic, and all nodes share their servers: if a
//! dead server made nodes unready, one dead server would take the whole gateway away. So readiness
//! depends on what is this node's own (listener, session store, draining), and what is not is
//! checked and shown as `degraded` with status 200. A store that is away from every node is nobody's
//! own either: a node is unready for it only while another node has it, since a balancer that finds
//! no node ready answers every call with an error of its own. For the same reason a node that is about
//! to fail (no memory, no disk) is unready only while the coordinator knows that most nodes are not.
//!
//! # What a check costs
//! Servers are looked at actively: a TCP connection is opened and closed, or the command of a stdio
//! server is looked up. Results are kept for five seconds and one round runs at a time, so that
//! whoever can reach the port cannot make the node knock on servers faster than that. A round ends
//! within [`DEADLINE`], below the second that orchestrators wait by default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_config::{Server, Stdio, Transport};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Response, StatusCode};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::report::{Gauged, NodeState, Observed, Report};

/// No check, and so no answer, takes longer.
pub const DEADLINE: Duration = Duration::from_millis(800);

/// How long a server's check counts.
const FRESH: Duration = Duration::from_secs(5);

/// What [`Observed::ready`] returns.
pub type HealthFuture<'a> = Pin<Box<dyn Future<Output = Health> + Send + 'a>>;

/// The health of a node.
#[derive(Clone, Debug)]
pub struct Health {
    /// What the checks amount to.
    pub verdict: Verdict,
    /// The node's name.
    pub node: String,
    /// The gateway's version.
    pub version: String,
    /// How long the node has been running.
    pub uptime: Duration,
    /// Every check with its result.
    pub checks: Vec<Check>,
}

/// What the checks amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The process runs; nothing else was looked at.
    Live,
    /// Everything is as it should be.
    Ready,
    /// Takes traffic; a check that is not critical failed.
    Degraded,
    /// Takes no new traffic: it is draining.
    Draining,
    /// Takes no traffic: a critical check failed.
    NotReady,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// `listener`, `session_store`, `capacity`, `node:` and a reading, or `server:` and the server's name.
    pub name: String,
    /// Whether all is well.
    pub ok: bool,
    /// Whether the node is not ready while it fails.
    pub critical: bool,
    /// How long the check took.
    pub elapsed: Duration,
    /// How old the result is; zero for one made now.
    pub age: Duration,
    /// Why it failed, or what it saw. No addresses: the endpoint needs no credential.
    pub detail: Option<String>,
}

/// What is wrong with the session store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// For people; no addresses.
    pub reason: String,
    /// Whether it is this node's own: then the node is not ready.
    pub critical: bool,
}

/// Runs the checks of one node and keeps the servers' results for a while.
#[derive(Debug)]
pub struct Checker {
    targets: Vec<(String, Target)>,
    last: Mutex<Option<(Instant, Vec<Check>)>>,
}

/// How a server is looked at.
#[derive(Debug)]
enum Target {
    /// Instance ids with host and port; one that answers is enough.
    Tcp(Vec<(String, String, u16)>),
    Command {
        command: String,
        path: Option<OsString>,
        cwd: Option<PathBuf>,
    },
}

/// Whether `path` is one of the health endpoints.
#[must_use]
pub fn serves(path: &str) -> bool {
    matches!(path, "/health" | "/health/live" | "/health/ready")
}

/// The answer to a GET or HEAD of a health endpoint: JSON with status 200, or 503 when the node
/// should get no traffic. `/health/live` is 200 as long as the process answers at all. Any other
/// path is a 404.
pub async fn respond(path: &str, observed: &dyn Observed) -> Response<Bytes> {
    let health = match path {
        "/health/live" => observed.live(),
        "/health" | "/health/ready" => observed.ready().await,
        _ => return json_response(StatusCode::NOT_FOUND, r#"{"error":"no such path"}"#.to_owned()),
    };
    json_response(health.status(), health.to_json())
}

// === impl Checker ===

impl Checker {
    /// Checks for the servers of the configuration.
    #[must_use]
    pub fn new(servers: &BTreeMap<String, Server>) -> Self {
        let target = |server: &Server| match &server.transport {
            // Where there is only one, its id says nothing.
            Transport::Http { instances } if instances.len() == 1 => Target::Tcp(
                instances.iter().map(|i| (String::new(), i.url.host.clone(), i.url.port)).collect(),
            ),
            Transport::Http { instances } => Target::Tcp(
                instances.iter().map(|i| (i.id.clone(), i.url.host.clone(), i.url.port)).collect(),
            ),
            Transport::Sse { url } | Transport::WebSocket { url } => {
                Target::Tcp(vec![(String::new(), url.host.clone(), url.port)])
            }
            Transport::Stdio(stdio) => Target::command(stdio),
        };
        let targets = servers.iter().map(|(name, s)| (name.clone(), target(s))).collect();
        Self { targets, last: Mutex::new(None) }
    }

    /// All checks. `store` asks the session store for a sign of life; its trouble is shown as it is.
    /// `own` are the readings of the node itself. `known` has the checks of a server that were made
    /// anyway: it is not looked at besides.
    ///
    /// # Cancel safety
    /// A dropped round leaves the last results as they were.
    pub async fn ready(
        &self,
        report: &Report,
        store: impl Future<Output = Result<(), Trouble>>,
        own: &[Check],
        known: impl Fn(&str) -> Vec<Check>,
    ) -> Health {
        let (store, servers) = tokio::join!(store_check(store), self.server_checks(&known));
        let mut checks = vec![listener_check(report), store, capacity_check(report)];
        checks.extend_from_slice(own);
        checks.extend(servers);
        Health::new(report, checks)
    }

    async fn server_checks(&self, known: &impl Fn(&str) -> Vec<Check>) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut unknown = Vec::new();
        for (name, target) in &self.targets {
            match known(name) {
                made if made.is_empty() => unknown.push((name, target)),
                made => checks.extend(made),
            }
        }
        if !unknown.is_empty() {
            checks.extend(self.looks(&unknown).await);
        }
        checks
    }

    /// Looks at servers of which nothing is known.
    async fn looks(&self, targets: &[(&String, &Target)]) -> Vec<Check> {
        // Held over the round: whoever asks meanwhile gets its result instead of another round.
        let mut last = self.last.lock().await;
        if let Some((at, checks)) = &*last
            && at.elapsed() < FRESH
        {
            let age = at.elapsed();
            return checks.iter().map(|check| Check { age, ..check.clone() }).collect();
        }
        let round = targets.iter().map(|(name, target)| async move {
            let begun = Instant::now();
            let result = target.look().await;
            check(format!("server:{name}"), false, begun.elapsed(), result)
        });
        let checks = join_all(round).await;
        *last = Some((Instant::now(), checks.clone()));
        checks
    }
}

// === impl Target ===

impl Target {
    fn command(stdio: &Stdio) -> Self {
        use holdfast_config::ExposeSecret;
        // The server's own PATH counts where it is given one.
        let path = match stdio.env.get("PATH") {
            Some(path) => Some(OsString::from(path.expose_secret())),
            None => std::env::var_os("PATH"),
        };
        Self::Command { command: stdio.command.clone(), path, cwd: stdio.cwd.clone() }
    }

    /// `Ok` with a remark, if there is one to make.
    async fn look(&self) -> Result<Option<String>, String> {
        match self {
            Self::Tcp(instances) => {
                let looks = instances.iter().map(|(id, host, port)| async move {
                    connect(host, *port).await.map_err(|error| match id.as_str() {
                        "" => error,
                        id => format!("{id}: {error}"),
                    })
                });
                let errors: Vec<String> =
                    join_all(looks).await.into_iter().filter_map(Result::err).collect();
                match errors.len() {
                    0 => Ok(None),
                    n if n < instances.len() => Ok(Some(errors.join("; "))),
                    _ => Err(errors.join("; ")),
                }
            }
            Self::Command { command, path, cwd } => {
                find_command(command, path.as_ref(), cwd.as_deref()).map(|()| None)
            }
        }
    }
}

// === impl Health ===

impl Health {
    /// The process runs: all that liveness says.
    #[must_use]
    pub fn live(report: &Report) -> Self {
        Self::with(Verdict::Live, report, Vec::new())
    }

    /// The verdict over `checks` and the node's state.
    #[must_use]
    pub fn new(report: &Report, checks: Vec<Check>) -> Self {
        let failed = |critical| checks.iter().any(|c| !c.ok && c.critical == critical);
        let verdict = match report.state {
            NodeState::Draining => Verdict::Draining,
            NodeState::Starting => Verdict::NotReady,
            NodeState::Ready if failed(true) => Verdict::NotReady,
            NodeState::Ready if failed(false) => Verdict::Degraded,
            NodeState::Ready => Verdict::Ready,
        };
        Self::with(verdict, report, checks)
    }

    fn with(verdict: Verdict, report: &Report, checks: Vec<Check>) -> Self {
        Self {
            verdict,
            node: report.node.clone(),
            version: report.version.clone(),
            uptime: report.uptime,
            checks,
        }
    }

    /// 200, or 503 when the node should get no traffic.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.verdict {
            Verdict::Live | Verdict::Ready | Verdict::Degraded => StatusCode::OK,
            Verdict::Draining | Verdict::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The body of the health endpoints: JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let live = self.verdict == Verdict::Live;
        let body = HealthBody {
            status: self.verdict.label(),
            node: &self.node,
            version: &self.version,
            uptime_s: self.uptime.as_secs(),
            checks: (!live).then(|| self.checks.iter().map(CheckBody::of).collect()),
        };
        serde_json::to_string(&body).unwrap_or_else(|error| unreachable!("plain data: {error}"))
    }
}

impl Verdict {
    /// The value of `status` in the body.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::NotReady => "not_ready",
        }
    }
}

#[derive(Serialize)]
struct HealthBody<'a> {
    status: &'static str,
    node: &'a str,
    version: &'a str,
    uptime_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<CheckBody<'a>>>,
}

#[derive(Serialize)]
struct CheckBody<'a> {
    name: &'a str,
    ok: bool,
    critical: bool,
    response_time_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> CheckBody<'a> {
    fn of(check: &'a Check) -> Self {
        // To the microsecond.
        let millis = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        let detail = check.detail.as_deref();
        Self {
            name: &check.name,
            ok: check.ok,
            critical: check.critical,
            response_time_ms: millis(check.elapsed),
            age_ms: (!check.age.is_zero()).then(|| millis(check.age)),
            error: detail.filter(|_| !check.ok),
            detail: detail.filter(|_| check.ok),
        }
    }
}

// The single checks.

fn listener_check(report: &Report) -> Check {
    let begun = Instant::now();
    let closed = report.listeners.iter().filter(|l| l.name == "client" && !l.accepting).count();
    let result = match (report.listeners.iter().any(|l| l.name == "client"), closed) {
        (false, _) => Err("the client port is not open".to_owned()),
        (true, 0) => Ok(None),
        (true, _) => Err("the client port accepts no connections".to_owned()),
    };
    check("listener".to_owned(), true, begun.elapsed(), result)
}

async fn store_check(store: impl Future<Output = Result<(), Trouble>>) -> Check {
    let begun = Instant::now();
    let (critical, result) = match timeout(DEADLINE, store).await {
        Ok(Ok(())) => (true, Ok(None)),
        Ok(Err(trouble)) => (trouble.critical, Err(trouble.reason)),
        Err(_) => (true, Err(format!("no answer within {} ms", DEADLINE.as_millis()))),
    };
    check("session_store".to_owned(), critical, begun.elapsed(), result)
}

/// Not critical: taking a full node away moves its load to the others, which are then full.
fn capacity_check(report: &Report) -> Check {
    let begun = Instant::now();
    let usage = &report.usage;
    let parts = [
        ("connections", usage.connections),
        ("sessions", usage.sessions),
        ("streams", usage.streams),
        ("calls", usage.in_flight),
    ];
    let text = |(name, Gauged { now, limit }): &(&str, Gauged)| format!("{now} of {limit} {name}");
    let full: Vec<String> = parts.iter().filter(|(_, g)| g.now >= g.limit).map(text).collect();
    let result = if full.is_empty() {
        Ok(Some(parts.iter().map(text).collect::<Vec<_>>().join(", ")))
    } else {
        Err(format!("full: {}", full.join(", ")))
    };
    check("capacity".to_owned(), false, begun.elapsed(), result)
}

async fn connect(host: &str, port: u16) -> Result<(), String> {
    match timeout(DEADLINE, TcpStream::connect((host, port))).await {
        Ok(Ok(_closed_at_once)) => Ok(()),
        // The kind, not the text: it says no address, and the same on every system.
        Ok(Err(error)) => Err(error.kind().to_string()),
        Err(_) => Err(format!("no connection within {} ms", DEADLINE.as_millis())),
    }
}

/// Whether the system would find `command` and may execute it.
fn find_command(command: &str, path: Option<&OsString>, cwd: Option<&Path>) -> Result<(), String> {
    if command.contains('/') {
        let file = cwd.map_or_else(|| PathBuf::from(command), |cwd| cwd.join(command));
        return match file.metadata() {
            Ok(_) if executable(&file) => Ok(()),
            Ok(_) => Err("the command is not executable".to_owned()),
            Err(error) => Err(format!("the command: {}", error.kind())),
        };
    }
    let folders = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>());
    match folders.unwrap_or_default().iter().any(|folder| executable(&folder.join(command))) {
        true => Ok(()),
        false => Err("the command is not in PATH".to_owned()),
    }
}

fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn check(
    name: String,
    critical: bool,
    elapsed: Duration,
    result: Result<Option<String>, String>,
) -> Check {
    let ok = result.is_ok();
    let detail = result.unwrap_or_else(Some);
    Check { name, ok, critical, elapsed, age: Duration::ZERO, detail }
}

fn json_response(status: StatusCode, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
