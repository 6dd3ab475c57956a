//! What one check of an instance is asked through: the proxy's own upstream, past the breakers and
//! counted nowhere.
//!
//! Checks of an instance share a session that is kept, so that a check costs one message. A server
//! that has forgotten it is asked for another one within the same check; a server of the modern era has
//! no sessions, and is spoken to as such from its first refusal on.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_config::{CheckKind, CheckTarget, HttpUrl, MetricSource, Transport};
use holdfast_engine::health::resources::Scale;
use holdfast_engine::health::score::{Failure, Outcome, between};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::At;
use crate::exchange::probe::{Asked, Session, Trouble, get};
use crate::gateway::Gateway;
use crate::server::Server;

/// How a check ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Whether it is well.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// What was wrong, or what the result says where a tool was called. No addresses.
    pub text: String,
}

// === impl Kept ===

impl Kept {
    /// The session, which is nobody's any more.
    pub(crate) async fn take(&self) -> Option<Session> {
        self.session.lock().await.take()
    }

    /// How long it still wants to be left alone.
    fn rests(&self) -> Option<Duration> {
        let until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn rest(&self, rest: Duration) {
        let until = Some(Instant::now() + rest);
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

// === impl Checked ===

impl Checked {
    /// The node ends: nothing was checked.
    pub(crate) fn not_made() -> Self {
        let text = "the node is ending".to_owned();
        Self { outcome: Outcome::Skipped, took: Duration::ZERO, text }
    }
}

/// What the checks of one instance share.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    session: tokio::sync::Mutex<Option<Session>>,
    /// Until when it has asked for fewer calls: it is asked nothing on the session.
    rests_until: std::sync::Mutex<Option<Instant>>,
}

/// Makes a check, within its time.
///
/// # Cancel safety
/// The request is given up; the session that is kept stays, or is opened anew by the next check.
pub(crate) async fn check(
    gateway: &Arc<Gateway>,
    at: At,
    kind: &CheckKind,
    within: Duration,
) -> Checked {
    let begun = Instant::now();
    let done = match gateway.servers.get(at.server) {
        Some(server) => tokio::time::timeout(within, one(gateway, server, at.instance, kind)).await,
        None => Ok(Err(Trouble::new(Failure::Wrong, "there is no such server"))),
    };
    let took = begun.elapsed();
    let (outcome, text) = match done {
        Ok(Ok((outcome, text))) => (outcome, text),
        // It is there, and says when it wants to be asked again: neither well nor ill.
        Ok(Err(Trouble { rest: Some(rest), text, .. })) => {
            (Outcome::Skipped, format!("{text}, for {} s", rest.as_secs_f64().ceil()))
        }
        Ok(Err(trouble)) => (Outcome::Failed(trouble.failure), trouble.text),
        // As for calls: what lets nobody in is not there.
        Err(_) if *kind == CheckKind::Connect => (
            Outcome::Failed(Failure::Unreachable),
            format!("no connection within {} ms", within.as_millis()),
        ),
        Err(_) => (
            Outcome::Failed(Failure::TimedOut),
            format!("no answer within {} ms", within.as_millis()),
        ),
    };
    Checked { outcome, took, text }
}

async fn one(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    instance: usize,
    kind: &CheckKind,
) -> Result<(Outcome, String), Trouble> {
    let well = |text: String| Ok((Outcome::Passed, text));
    match kind {
        CheckKind::Connect => connect(server, instance).await.and_then(|()| well(String::new())),
        CheckKind::Ping => {
            ask(gateway, server, instance, Asked::Ping).await.and_then(|_| well(String::new()))
        }
        CheckKind::Initialize => {
            let opened = match kept(server, instance)?.rests() {
                None => Session::open(gateway, server, instance).await,
                Some(rest) => Err(Trouble::busy(Some(rest))),
            };
            let session = opened.inspect_err(|trouble| rest(server, instance, trouble))?;
            session.close(gateway, server, instance).await;
            well(String::new())
        }
        CheckKind::Tools { expected } => {
            let mut missing: Vec<&str> = expected.iter().map(String::as_str).collect();
            let mut cursor = None;
            // A list that never ends is none.
            for _ in 0..PAGES {
                let answer = ask(gateway, server, instance, Asked::Tools(cursor.take())).await?;
                let result = &answer["result"];
                let tools = result["tools"].as_array().ok_or_else(|| wrong("no list of tools"))?;
                missing.retain(|name| !tools.iter().any(|tool| tool["name"] == **name));
                cursor = result["nextCursor"].as_str().map(str::to_owned);
                if missing.is_empty() || cursor.is_none() {
                    break;
                }
            }
            match missing.is_empty() {
                true => well(String::new()),
                false => Err(wrong(&format!("tools are missing: {}", missing.join(", ")))),
            }
        }
        CheckKind::Tool { tool, arguments, contains } => {
            let (result, text) = call(gateway, server, instance, tool, arguments).await?;
            match contains {
                Some(wanted) if !text.contains(wanted.as_str()) => {
                    Err(wrong("the result does not contain what it should"))
                }
                _ => well(said(&result, text)),
            }
        }
        CheckKind::Http { target, status, contains } => {
            let url = address(server, instance, target)?;
            let (found, body) = get(gateway, &url).await?;
            let good = status.map_or((200..300).contains(&found), |wanted| found == wanted);
            let body = String::from_utf8_lossy(&body);
            match contains {
                _ if !good => Err(wrong(&format!("it answered with status {found}"))),
                Some(wanted) if !body.contains(wanted.as_str()) => {
                    Err(wrong("the body does not contain what it should"))
                }
                _ => well(String::new()),
            }
        }
        CheckKind::Metric { source, good, bad } => {
            let value = metric(gateway, server, instance, source).await?;
            let score = between(*good, *bad, value);
            Ok((Outcome::Partly(score), format!("{value}")))
        }
        CheckKind::Resource { resource, source, full, counter } => {
            let number = metric(gateway, server, instance, source).await?;
            let scale = Scale { full: *full, counter: *counter };
            let share = server.fleet.reads(instance, *resource, number, scale);
            well(share.map_or_else(String::new, |share| format!("{:.0} % used", share * 100.0)))
        }
        // Said by the times of the others.
        CheckKind::Latency { .. } => Ok((Outcome::Skipped, String::new())),
    }
}

/// Pages of a list that are looked through.
const PAGES: usize = 32;

fn wrong(text: &str) -> Trouble {
    Trouble::new(Failure::Wrong, text)
}

async fn connect(server: &Server, instance: usize) -> Result<(), Trouble> {
    let Some(door) = server.fleet.door(instance) else {
        // A process is there while one of its sessions is, and is started for the next.
        return match server.restarts.pause(Instant::now()) {
            None => Ok(()),
            Some(_) => Err(Trouble::new(Failure::Unreachable, &server.restarts.describe())),
        };
    };
    let opened = TcpStream::connect((&*door.host, door.port)).await;
    match opened {
        Ok(_closed_at_once) => Ok(()),
        Err(error) => Err(Trouble::new(Failure::Unreachable, &error.kind().to_string())),
    }
}

fn kept(server: &Server, instance: usize) -> Result<&Arc<Kept>, Trouble> {
    server.checks.get(instance).ok_or_else(|| wrong("there is no such instance"))
}

/// Leaves it alone for as long as it asks for.
fn rest(server: &Server, instance: usize, trouble: &Trouble) {
    if let (Some(rest), Ok(kept)) = (trouble.rest, kept(server, instance)) {
        kept.rest(rest);
    }
}

/// Asks on the session that is kept; on a new one where there is none, or it is not known any more.
async fn ask(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    instance: usize,
    asked: Asked,
) -> Result<Value, Trouble> {
    if let Some(left) = kept(server, instance)?.rests() {
        return Err(Trouble::busy(Some(left)));
    }
    let answer = ask_now(gateway, server, instance, asked).await;
    answer.inspect_err(|trouble| rest(server, instance, trouble))
}

async fn ask_now(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    instance: usize,
    asked: Asked,
) -> Result<Value, Trouble> {
    let kept = &kept(server, instance)?.session;
    let (session, fresh) = {
        let mut kept = kept.lock().await;
        match &*kept {
            Some(session) if session.is_usable() => (session.clone(), false),
            _ => {
                let session = Session::open(gateway, server, instance).await?;
                *kept = Some(session.clone());
                (session, true)
            }
        }
    };
    match session.ask(gateway, server, instance, &asked).await {
        Err(trouble) if trouble.lost && !fresh => {
            let mut kept = kept.lock().await;
            let session = Session::open(gateway, server, instance).await?;
            *kept = Some(session.clone());
            drop(kept);
            session.ask(gateway, server, instance, &asked).await
        }
        Err(trouble) if trouble.lost => {
            *kept.lock().await = None;
            Err(trouble)
        }
        done => done,
    }
}

/// A tool's result and its text.
async fn call(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    instance: usize,
    tool: &str,
    arguments: &str,
) -> Result<(Value, String), Trouble> {
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
    let asked = Asked::Tool { name: tool.to_owned(), arguments };
    let answer = ask(gateway, server, instance, asked).await?;
    let result = answer["result"].clone();
    let parts = result["content"].as_array().cloned().unwrap_or_default();
    let text: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    let text = text.join("\n");
    if result["isError"] == true {
        let text: String = text.chars().take(200).collect();
        return Err(wrong(&format!("the tool failed: {text}")));
    }
    Ok((result, text))
}

/// All that a result says, so that two of them can be compared: its text, then what else it holds.
fn said(result: &Value, mut text: String) -> String {
    let parts = result["content"].as_array().into_iter().flatten();
    let others = parts.filter(|part| !part["text"].is_string());
    for other in others.chain(result.get("structuredContent")) {
        text.push('\n');
        text.push_str(&other.to_string());
    }
    text
}

/// Where a check of this instance asks over HTTP.
fn address(server: &Server, instance: usize, target: &CheckTarget) -> Result<HttpUrl, Trouble> {
    let own = match &server.settings.transport {
        Transport::Http { instances } => instances.get(instance).map(|it| &it.url),
        Transport::Sse { url } | Transport::WebSocket { url } => Some(url),
        Transport::Stdio(_) => None,
    };
    match (target, own) {
        (CheckTarget::Url(url), _) => {
            let names =
                [("{server}", server.name.as_ref()), ("{instance}", server.fleet.id(instance))];
            let named = |path: String, (word, name): (&str, &str)| path.replace(word, name);
            let path = names.into_iter().fold(url.path.clone(), named);
            Ok(HttpUrl { path, ..url.clone() })
        }
        (target, Some(own)) => Ok(target.of(own)),
        (CheckTarget::Path(_), None) => Err(wrong("it has no address of its own")),
    }
}

async fn metric(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    instance: usize,
    source: &MetricSource,
) -> Result<f64, Trouble> {
    match source {
        MetricSource::Http { target, name } => {
            let url = address(server, instance, target)?;
            let (status, body) = get(gateway, &url).await?;
            if status != 200 {
                return Err(wrong(&format!("it answered with status {status}")));
            }
            series(&body, name).ok_or_else(|| wrong("there is no such series"))
        }
        MetricSource::Tool { tool, arguments, pointer } => {
            let (result, text) = call(gateway, server, instance, tool, arguments).await?;
            let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
            let structured = result["structuredContent"].pointer(pointer).and_then(number);
            let written = || {
                let value: Value = serde_json::from_str(&text).ok()?;
                value.pointer(pointer).and_then(number)
            };
            structured.or_else(written).ok_or_else(|| wrong("there is no such number"))
        }
    }
}

/// The value of a series in the Prometheus text format.
fn series(body: &Bytes, name: &str) -> Option<f64> {
    let text = std::str::from_utf8(body).ok()?;
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest.strip_prefix([' ', '\t'])?;
        value.split_whitespace().next()?.parse().ok()
    })
}
