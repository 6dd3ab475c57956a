//! GET and DELETE on the MCP endpoint: listen, resume, end. Only legacy versions have them.

use std::time::Duration;

use http::request::Parts;

use super::super::answer::header;
use super::super::behaviour::{Fault, Strike};
use super::super::message::Failure;
use super::super::options::Answers;
use super::post::find_session;
use super::reply::{Plan, Reply, empty, failure, replace};
use super::{Context, not_allowed};

pub(super) async fn listen(context: &Context, parts: &Parts) -> Reply {
    let sample = &context.sample;
    let strike = sample.behaviour.strike_bare("GET");
    if let Some(reply) = suffer(context, parts, strike.as_ref()).await {
        return reply;
    }
    let options = &sample.options;
    if options.stateless || options.no_get || !options.serves_legacy() {
        return Ok(not_allowed("POST"));
    }
    if !header(&parts.headers, "accept").is_some_and(|accept| accept.contains("text/event-stream"))
    {
        let refused = Failure::new(-32000, "Not Acceptable: Client must accept text/event-stream");
        return Ok(failure(406, &refused, "null"));
    }
    let session = match find_session(sample, parts, false) {
        Ok(session) => session,
        Err((status, refused)) => return Ok(failure(status, &refused, "null")),
    };
    let resumed = match header(&parts.headers, "last-event-id").filter(|_| options.resumable) {
        None => None,
        Some(event) => {
            let found = event.rsplit_once('_').and_then(|(stream, position)| {
                Some((session.stream(stream)?, position.parse().ok()?))
            });
            if found.is_none() {
                let refused = Failure::new(-32000, "Bad Request: Unknown Last-Event-ID");
                return Ok(failure(400, &refused, "null"));
            }
            found
        }
    };
    let (stream, after) = resumed.unwrap_or_else(|| (session.standing.clone(), 0));
    let standing = stream.id == session.standing.id;
    let mut plan = Plan::new(stream, Answers::Sse);
    plan.after = after;
    plan.resumable = options.resumable;
    plan.strike = strike;
    plan.session = Some(session.id.clone());
    if standing {
        let Some(guard) = session.read_standing() else {
            let refused =
                Failure::new(-32000, "Conflict: Only one SSE stream is allowed per session");
            return Ok(failure(409, &refused, "null"));
        };
        plan.guard = Some(Box::new(guard));
        plan.kicks = Some(session.kicks());
        plan.prime = options.resumable && session.version() >= Some("2025-11-25");
    }
    plan.reply(context).await
}

pub(super) async fn delete(context: &Context, parts: &Parts) -> Reply {
    let sample = &context.sample;
    let strike = sample.behaviour.strike_bare("DELETE");
    if let Some(reply) = suffer(context, parts, strike.as_ref()).await {
        return reply;
    }
    if sample.options.stateless || !sample.options.serves_legacy() {
        return Ok(not_allowed("POST"));
    }
    Ok(match find_session(sample, parts, false) {
        Ok(session) => {
            sample.sessions.remove(&session.id);
            empty(200)
        }
        Err((status, refused)) => failure(status, &refused, "null"),
    })
}

/// What the fault puts in the place of the answer, if it does.
async fn suffer(context: &Context, parts: &Parts, strike: Option<&Strike>) -> Option<Reply> {
    match &strike?.fault {
        Fault::Delay { ms } => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            None
        }
        fault if fault.replaces_answer() => {
            let session = header(&parts.headers, "mcp-session-id");
            Some(replace(fault, "null", session, context).await)
        }
        _ => None,
    }
}
