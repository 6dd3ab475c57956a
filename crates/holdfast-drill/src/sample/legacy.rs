//! What only versions with sessions have: `initialize`, ping, log levels, subscriptions, notifications.

use std::sync::Arc;

use serde_json::json;

use super::call::{Call, Era, LEVELS};
use super::message::{Failure, Kind, Message, Outcome};
use super::session::Session;
use super::{Sample, features, resources};

/// Answers a request of a legacy session.
pub(super) async fn dispatch(call: &Call, method: &str) -> Outcome {
    let Era::Legacy(session) = &call.era else {
        return Err(Failure::new(-32603, "a modern call has no session"));
    };
    match method {
        "initialize" => return initialize(call, session),
        "ping" => return Ok(json!({}).into()),
        _ if session.version().is_none() => {
            return Err(Failure::invalid_request("Server not initialized"));
        }
        _ => {}
    }
    if let Some(outcome) = features::dispatch(call, method).await {
        return outcome;
    }
    match method {
        "logging/setLevel" => set_level(call, session),
        "resources/subscribe" => resources::subscribe(call, true),
        "resources/unsubscribe" => resources::subscribe(call, false),
        _ => Err(Failure::method_not_found(method)),
    }
}

/// Takes a notification or a response; they have no answer.
pub(super) fn take(sample: &Sample, session: &Arc<Session>, message: Message) {
    match (message.kind(), message.method()) {
        (Kind::Response, _) => {
            sample.observed.answer(&session.id, &message);
            session.resolve(message);
        }
        (_, "notifications/initialized") => session.state().initialized = true,
        (_, "notifications/cancelled") => {
            let id = message.params["requestId"].to_string();
            let running = session.cancel_call(&id);
            sample.observed.cancelled("notification", Some(&session.id), &id, running);
        }
        _ => {}
    }
}

fn initialize(call: &Call, session: &Session) -> Outcome {
    if !call.sample.options.serves_legacy() {
        return Err(Failure::method_not_found("initialize"));
    }
    let version = call.sample.options.negotiate(call.params["protocolVersion"].as_str());
    let mut state = session.state();
    state.version = Some(version);
    state.client_info = call.params["clientInfo"].clone();
    state.capabilities = call.params["capabilities"].clone();
    drop(state);
    Ok(json!({
        "protocolVersion": version,
        "capabilities": features::capabilities(),
        "serverInfo": features::server_info(call),
        "instructions": "A server for drills: every tool shows one thing.",
    })
    .into())
}

fn set_level(call: &Call, session: &Session) -> Outcome {
    match call.params["level"].as_str() {
        Some(level) if LEVELS.contains(&level) => {
            session.state().level = Some(level.to_owned());
            Ok(json!({}).into())
        }
        _ => Err(Failure::invalid_params("params.level is not a log level")),
    }
}
