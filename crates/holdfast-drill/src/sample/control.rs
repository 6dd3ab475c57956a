//! The control endpoints under `/_drill/`: script faults, look at what happened, make things happen.
//!
//! | endpoint | |
//! |---|---|
//! | GET executions | `{tool: {key: count}}` |
//! | GET requests?since=N | recorded requests from number N on; `head` and `body` are base64 |
//! | GET sessions, listens, connections | what is open |
//! | GET answers, cancellations | what clients answered and gave up |
//! | GET, POST, DELETE behaviour | the faults; POST takes one rule or an array |
//! | POST emit | `{"method", "params"?, "session"?, "request"?}`: to one or all sessions and listens |
//! | POST close-streams | `{"abrupt"?}`: ends GET and listen streams, not the sessions |
//! | POST close-connections | `{"reset"?}`: all but this one |
//! | POST forget-sessions | as a restart would |
//! | POST refuse | `{"ms"}`: new connections are refused so long |
//! | POST reset | forgets faults, counts and recordings |
//! | POST exit | `{"code"?}`: ends the process |

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};
use serde_json::{Value, json};

use super::answer::{exit, object};
use super::behaviour::Rule;
use super::http::Context;
use super::http::body::Body;
use super::http::reply::{json_response, plain};
use super::hub::Change;
use super::message::notification;
use super::session::Session;

pub(super) fn handle(
    context: &Context,
    parts: &Parts,
    endpoint: &str,
    body: &Bytes,
) -> Response<Body> {
    let argument = match object(body) {
        Ok(argument) => argument,
        Err(error) => return plain(400, format!("the body is not JSON: {error}\n")),
    };
    match run(context, &parts.method, endpoint, parts.uri.query(), argument) {
        Ok(Some(value)) => json_response(200, Body::whole(value.to_string())),
        Ok(None) => plain(404, format!("no such endpoint: {} {endpoint}\n", parts.method)),
        Err(message) => plain(400, format!("{message}\n")),
    }
}

fn run(
    context: &Context,
    method: &Method,
    endpoint: &str,
    query: Option<&str>,
    argument: Value,
) -> Result<Option<Value>, String> {
    let sample = &context.sample;
    let get = method == Method::GET;
    Ok(Some(match endpoint {
        "executions" if get => sample.executions.report(),
        "requests" if get => {
            let since = query.and_then(|query| query.strip_prefix("since="));
            let since = since.unwrap_or("0").parse().map_err(|_| "since must be a number")?;
            sample.recorder.report(since)
        }
        "sessions" if get => everyone(context).iter().map(|session| session.report()).collect(),
        "listens" if get => sample.hub.report(),
        "connections" if get => {
            let (open, accepted) = sample.connections.count();
            json!({ "open": open, "accepted": accepted })
        }
        "answers" if get => sample.observed.answers(),
        "cancellations" if get => sample.observed.cancellations(),
        "behaviour" if get => sample.behaviour.report(),
        "behaviour" if method == Method::DELETE => {
            sample.behaviour.clear();
            json!({})
        }
        _ if method != Method::POST => return Ok(None),
        "behaviour" => {
            let rules = if argument.is_array() { argument } else { json!([argument]) };
            let rules: Vec<Rule> =
                serde_json::from_value(rules).map_err(|error| error.to_string())?;
            for rule in rules {
                sample.behaviour.add(rule);
            }
            sample.behaviour.report()
        }
        "emit" => emit(context, &argument)?,
        "close-streams" => {
            let abrupt = argument["abrupt"].as_bool().unwrap_or(false);
            let sessions = everyone(context);
            for session in &sessions {
                session.kick(abrupt);
            }
            json!({ "sessions": sessions.len(), "listens": sample.hub.end_listens(!abrupt) })
        }
        "close-connections" => {
            let reset = argument["reset"].as_bool().unwrap_or(false);
            json!({ "closed": sample.connections.close_all_but(context.wire.number, reset) })
        }
        "forget-sessions" => json!({ "forgotten": sample.sessions.clear() }),
        "refuse" => {
            let ms = argument["ms"].as_u64().ok_or("ms must be a number of milliseconds")?;
            sample.refuse(Duration::from_millis(ms));
            json!({ "ms": ms })
        }
        "reset" => {
            sample.behaviour.clear();
            sample.executions.clear();
            sample.recorder.clear();
            sample.observed.clear();
            json!({})
        }
        "exit" => {
            exit(argument["code"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(0))
        }
        _ => return Ok(None),
    }))
}

/// Sessions of the endpoint and of connections.
fn everyone(context: &Context) -> Vec<Arc<Session>> {
    let mut sessions = context.sample.sessions.all();
    sessions.extend(context.sample.hub.connected());
    sessions
}

/// Sends a notification, or with `request` a request whose answer shows under `answers`.
fn emit(context: &Context, argument: &Value) -> Result<Value, String> {
    let method = argument["method"].as_str().ok_or("method is missing")?;
    let params = &argument["params"];
    let mut sessions = everyone(context);
    if let Some(id) = argument["session"].as_str() {
        sessions.retain(|session| session.id == id);
    }
    if argument["request"].as_bool().unwrap_or(false) {
        for session in &sessions {
            let (session, method) = (session.clone(), method.to_owned());
            let params = if params.is_null() { json!({}) } else { params.clone() };
            tokio::spawn(async move {
                // The answer is recorded where it comes in; here it only ends the wait.
                let _ = session.request(&method, &params, |text| session.tell(text)).await;
            });
        }
        return Ok(json!({ "sessions": sessions.len(), "listens": 0 }));
    }
    let change = Change::parse(method, params);
    for session in &sessions {
        match &change {
            Some(change) => change.tell(session),
            None => session.tell(notification(method, params)),
        }
    }
    let listens = match &change {
        Some(change) if argument["session"].is_null() => context.sample.hub.publish(change),
        _ => 0,
    };
    Ok(json!({ "sessions": sessions.len(), "listens": listens }))
}
