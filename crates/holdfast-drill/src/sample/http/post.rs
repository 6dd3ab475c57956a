//! POST to the MCP endpoint: a message or a batch, in either era.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;

use super::super::answer::{CancelOnDrop, header, id_text, spawn};
use super::super::behaviour::{Fault, Strike};
use super::super::call::{Call, Era, Outlet};
use super::super::hub::Filter;
use super::super::message::{Failure, Incoming, Kind, Message};
use super::super::options::Answers;
use super::super::session::Session;
use super::super::stream::Stream;
use super::super::{Sample, legacy, modern};
use super::Context;
use super::reply::{Plan, Reply, empty, failure, replace};

/// From this version on, streams are primed and can be polled.
const PRIMED_FROM: &str = "2025-11-25";

/// The only version with batches.
const BATCHES: &str = "2025-03-26";

pub(super) async fn handle(context: &Context, parts: &Parts, body: &Bytes) -> Reply {
    if let Some(refused) = check_headers(parts) {
        let (status, message) = refused;
        return Ok(failure(status, &Failure::new(-32000, message), "null"));
    }
    let incoming = match Incoming::parse(body) {
        Ok(incoming) => incoming,
        Err(refused) => return Ok(failure(refused.status, &refused, "null")),
    };
    let batch = matches!(incoming, Incoming::Batch(_));
    let messages = match incoming {
        Incoming::One(message) => vec![message],
        Incoming::Batch(messages) => messages,
    };
    let strike = messages.iter().find_map(|message| context.sample.behaviour.strike(message));
    let id = id_text(messages.iter().find_map(|message| message.id.as_ref()));
    let session_id = header(&parts.headers, "mcp-session-id");
    match &strike {
        Some(Strike { fault: Fault::Delay { ms }, .. }) => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
        }
        Some(Strike { fault, execute: false }) if fault.replaces_answer() => {
            return replace(fault, id, session_id, context).await;
        }
        _ => {}
    }
    let options = &context.sample.options;
    let modern = match messages.as_slice() {
        // A batch is modern only to be refused.
        messages if batch => messages.iter().any(|message| message.claimed_version().is_some()),
        messages => messages.iter().any(|message| modern::is_modern(Some(&parts.headers), message)),
    };
    if (modern && options.serves_modern()) || !options.serves_legacy() {
        handle_modern(context, parts, messages, batch, strike).await
    } else {
        handle_legacy(context, parts, messages, batch, strike).await
    }
}

fn check_headers(parts: &Parts) -> Option<(u16, &'static str)> {
    let content_type = header(&parts.headers, "content-type").unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    if !content_type.eq_ignore_ascii_case("application/json") {
        return Some((415, "Content-Type must be application/json"));
    }
    // The header may come more than once.
    let mut accepts =
        parts.headers.get_all("accept").iter().filter_map(|value| value.to_str().ok());
    let (mut json, mut events) = (false, false);
    for accept in accepts.by_ref() {
        let any = accept.contains("*/*");
        json |= any || accept.contains("application/json") || accept.contains("application/*");
        events |= any || accept.contains("text/event-stream") || accept.contains("text/*");
    }
    let message = "Not Acceptable: Client must accept both application/json and text/event-stream";
    (!json || !events).then_some((406, message))
}

// === modern ===

async fn handle_modern(
    context: &Context,
    parts: &Parts,
    messages: Vec<Message>,
    batch: bool,
    strike: Option<Strike>,
) -> Reply {
    let sample = &context.sample;
    let [message] = <[Message; 1]>::try_from(messages).unwrap_or_default();
    let id = id_text(message.id.as_ref()).to_owned();
    if batch || message.kind() == Kind::Response {
        let refused = Failure::invalid_request("a body is one request or notification");
        return Ok(failure(400, &refused, "null"));
    }
    if message.kind() == Kind::Notification {
        return Ok(empty(202));
    }
    if let Err(refused) = modern::check(Some(&parts.headers), &message) {
        return Ok(failure(refused.status, &refused, &id));
    }
    // Modern streams cannot be resumed, so nothing is kept.
    let stream = Stream::new(false);
    if message.method() == "subscriptions/listen" {
        let filter = Filter::parse(&message.params["notifications"]);
        let registration = sample.hub.listen(&id, filter, stream.clone());
        let mut plan = Plan::new(stream, Answers::Sse);
        plan.guard = Some(Box::new(registration));
        plan.strike = strike;
        plan.id = id;
        return plan.reply(context).await;
    }
    let mut plan = Plan::new(stream.clone(), sample.options.answers);
    let call = Call {
        sample: sample.clone(),
        era: Era::Modern,
        id: id.clone(),
        params: message.params,
        outlet: outlet(sample, &stream),
    };
    let method = message.method.unwrap_or_default();
    let fault = strike.as_ref().map(|strike| strike.fault.clone());
    let task = spawn(call, method, &stream, fault, settle(&plan.status));
    // The end of the response stream is how a modern client cancels.
    plan.guard = Some(Box::new(CancelOnDrop { sample: sample.clone(), id: id.clone(), task }));
    plan.strike = strike;
    plan.id = id;
    plan.reply(context).await
}

/// A modern error has a status of its own where nothing was streamed before it.
fn settle(
    status: &Arc<AtomicU16>,
) -> impl FnOnce(&super::super::message::Outcome) + Send + 'static {
    let status = status.clone();
    move |outcome| {
        if let Err(failure) = outcome {
            status.store(failure.status, Ordering::Release);
        }
    }
}

// === legacy ===

async fn handle_legacy(
    context: &Context,
    parts: &Parts,
    messages: Vec<Message>,
    batch: bool,
    strike: Option<Strike>,
) -> Reply {
    let sample = &context.sample;
    let initializes = messages.iter().any(|message| message.method() == "initialize");
    if initializes && batch {
        let refused = Failure::invalid_request("initialize must not be in a batch");
        return Ok(failure(400, &refused, "null"));
    }
    let id = id_text(messages.iter().find_map(|message| message.id.as_ref())).to_owned();
    let session = match find_session(sample, parts, initializes) {
        Ok(session) => session,
        Err((status, refused)) => return Ok(failure(status, &refused, &id)),
    };
    if batch && session.version() != Some(BATCHES) {
        let refused = Failure::invalid_request("batches belong to 2025-03-26");
        return Ok(failure(400, &refused, "null"));
    }
    let (requests, others): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| message.kind() == Kind::Request);
    for message in others {
        legacy::take(sample, &session, message);
    }
    if requests.is_empty() {
        return Ok(empty(202));
    }
    let resumable = sample.options.resumable && !sample.options.stateless && !initializes;
    let stream = Stream::new(resumable);
    let mut plan = Plan::new(stream.clone(), sample.options.answers);
    plan.resumable = resumable;
    plan.prime = resumable && session.version() >= Some(PRIMED_FROM);
    plan.batch = batch;
    if initializes && !sample.options.stateless {
        sample.sessions.insert(session.clone());
    }
    // Named in the answer to initialize, and again in every other, as some servers do.
    plan.session = (!sample.options.stateless).then(|| session.id.clone());
    if resumable {
        session.add_stream(stream.clone());
    }
    // Held until all requests have begun, so that a quick one does not end a batch's stream.
    let writer = stream.writer();
    for message in requests {
        let id = id_text(message.id.as_ref()).to_owned();
        let call = Call {
            sample: sample.clone(),
            era: Era::Legacy(session.clone()),
            id: id.clone(),
            params: message.params,
            outlet: outlet(sample, &stream),
        };
        let fault = strike.as_ref().map(|strike| strike.fault.clone());
        let task = spawn(call, message.method.unwrap_or_default(), &stream, fault, |_| {});
        session.add_call(&id, task);
    }
    drop(writer);
    plan.strike = strike;
    plan.id = id;
    plan.reply(context).await
}

fn outlet(sample: &Sample, stream: &Arc<Stream>) -> Outlet {
    match sample.options.answers {
        Answers::Json => Outlet::Standing,
        Answers::Auto | Answers::Sse => Outlet::Stream(stream.clone()),
    }
}

/// The session that the request belongs to; a new one for `initialize` and without sessions.
pub(super) fn find_session(
    sample: &Sample,
    parts: &Parts,
    initializes: bool,
) -> Result<Arc<Session>, (u16, Failure)> {
    if initializes {
        return Ok(Session::over_http(sample.options.resumable));
    }
    let version = header(&parts.headers, "mcp-protocol-version");
    let offered = sample.options.legacy_versions().find(|offered| Some(*offered) == version);
    if let (Some(version), None) = (version, offered) {
        let supported: Vec<_> = sample.options.legacy_versions().collect();
        let message = format!(
            "Bad Request: Unsupported protocol version: {version} (supported: {})",
            supported.join(", ")
        );
        return Err((400, Failure::new(-32000, message)));
    }
    if sample.options.stateless {
        let session = Session::over_http(false);
        let mut state = session.state();
        state.version = Some(offered.unwrap_or(BATCHES));
        state.initialized = true;
        drop(state);
        return Ok(session);
    }
    let Some(id) = header(&parts.headers, "mcp-session-id") else {
        let message = "Bad Request: Mcp-Session-Id header is required";
        return Err((400, Failure::new(-32000, message)));
    };
    let Some(session) = sample.sessions.get(id) else {
        return Err((404, Failure::new(-32001, "Session not found")));
    };
    match (version, session.version()) {
        (Some(version), Some(negotiated)) if version != negotiated => {
            let message = format!(
                "Bad Request: MCP-Protocol-Version is {version}, but {negotiated} was negotiated"
            );
            Err((400, Failure::new(-32000, message)))
        }
        _ => Ok(session),
    }
}
