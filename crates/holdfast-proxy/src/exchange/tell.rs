//! Messages that expect no answer: notifications, and the client's answers to the server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::batch::{is_batch, split_batch};
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use http::{Method as HttpMethod, StatusCode};

use super::attempt::{self, Route};
use super::{Answer, Call, Whole, answer, own};
use crate::cluster;
use crate::response::Headers;
use crate::session::{self, Session, Whereto};
use crate::spliced;
use crate::upstream::Endpoint;
use crate::upstream::http::{Collected, Outgoing};

/// Hands a message without an id to the server. `202` unless the server itself refuses it: who sends
/// such a message expects no answer, and has no use for an error either.
///
/// # Cancel safety
/// The message may or may not have reached the server.
pub(crate) async fn tell(call: &Call, kind: Kind) -> Answer {
    match tokio::time::timeout(DEADLINE, tell_unbounded(call, kind)).await {
        Ok(answer) => answer,
        Err(_) => {
            let reason = format!("it did not take a message within {} s", DEADLINE.as_secs());
            call.server.metrics.failed(&reason);
            accepted()
        }
    }
}

/// How long a server may take over a message that has no answer.
const DEADLINE: Duration = Duration::from_secs(60);

async fn tell_unbounded(call: &Call, kind: Kind) -> Answer {
    if call.session.is_none() && !call.modern() && needs_session(call) {
        // Without a session it is nobody's: its ids could only hit somebody else's call.
        return accepted();
    }
    if call.method == Method::Initialized
        && let Some(session) = &call.session
    {
        let _ = session.update(&call.gateway, |record| record.initialized = true).await;
    }
    if kind == Kind::Response
        && let Some(session) = &call.session
    {
        return answer_server(call, session).await;
    }
    if call.method == Method::Cancelled
        && let Some(session) = &call.session
        && let Ok(message) = peek(&call.body)
        && let Some(id) = &message.params.request_id
    {
        // Any node may serve the call, and the notification goes to any other.
        if !session.cancelled(id.as_str()) {
            cluster::tell_cancelled(&call.gateway, session.key, id.as_str()).await;
        }
    }
    let route = match answer::find(call, call.session.as_ref()).await {
        Ok(route) => route,
        Err(failure) => {
            call.server.metrics.failed(&failure.reason);
            return accepted();
        }
    };
    match send(call, &route, call.body.clone()).await {
        Some(whole) if lost(call, &route, &whole) => {
            let (Some(session), Some(bound)) = (&call.session, &route.bound) else {
                return Answer::whole(whole);
            };
            let again =
                session::reestablish(&call.gateway, session, bound, &call.headers, Whereto::Same);
            // Re-establishing says `initialized` by itself.
            if Box::pin(again).await.is_ok()
                && call.method != Method::Initialized
                && let Ok(route) = answer::find(call, call.session.as_ref()).await
            {
                send(call, &route, call.body.clone()).await;
            }
            accepted()
        }
        Some(whole) if whole.status.is_client_error() => Answer::whole(whole),
        _ => accepted(),
    }
}

fn needs_session(call: &Call) -> bool {
    call.server.is_duplex() || call.server.wants_session.load(Ordering::Relaxed)
}

/// The client's answer (or a batch of them) to requests of the server: only to the binding that asked.
/// If that is gone, so is the question, and nothing is opened again for it.
async fn answer_server(call: &Call, session: &Arc<Session>) -> Answer {
    let bound = session.bound();
    if bound.mux.as_ref().is_some_and(|mux| mux.ending().is_some()) {
        return accepted();
    }
    let Some(instance) = call.server.fleet.place(bound.mark) else { return accepted() };
    let route = Route {
        session: Some(Arc::clone(session)),
        lent: None,
        instance,
        mux: bound.mux.clone(),
        bound: Some(Arc::clone(&bound)),
    };
    for body in members(&call.body) {
        let Some(id) = peek(&body).ok().and_then(|message| message.id) else { continue };
        session.answered(id.as_str());
        let Some(body) = spliced::restore(&body, bound.generation) else { continue };
        match send(call, &route, body).await {
            Some(whole) if whole.status.is_client_error() && !lost(call, &route, &whole) => {
                return Answer::whole(whole);
            }
            _ => {}
        }
    }
    accepted()
}

/// Sends an answer of the gateway's own to a request of the server. Nobody waits for it: neither the call, whose place
/// is the next one's when it ends, nor whoever the session is lent to then.
pub(super) fn reply(call: &Call, route: &Route, body: Bytes) {
    match (&route.mux, &route.session, &route.bound) {
        (Some(mux), _, _) => mux.reply(body),
        (None, Some(session), Some(bound)) => {
            own::say(&call.gateway, session, bound, call.headers.map(), body);
        }
        (None, _, _) => {}
    }
}

/// The messages of a body: the members of a batch, or the one that it is.
fn members(body: &Bytes) -> Vec<Bytes> {
    if !is_batch(body) {
        return vec![body.clone()];
    }
    split_batch(body).unwrap_or_default().into_iter().map(|range| body.slice(range)).collect()
}

async fn send(call: &Call, route: &Route, body: Bytes) -> Option<Whole> {
    match (&call.server.endpoint, &route.mux) {
        (Endpoint::Http(_), _) => {
            let outgoing = Outgoing {
                method: HttpMethod::POST,
                fields: call.headers.fields(),
                session: route.server_session(),
                body,
            };
            let bound = route.bound.is_some();
            let sent =
                attempt::request_http(&call.gateway, &call.server, bound, route.instance, outgoing);
            let response = match sent.await {
                Ok((response, _)) => response,
                Err(error) => {
                    call.server.metrics.failed(&error.reason);
                    return None;
                }
            };
            let (status, headers, body) = response.into_parts();
            match body.collect(LARGEST_REFUSAL).await {
                Ok(Collected::Whole { body, lease }) => {
                    lease.done();
                    Some(Whole { status, headers, body })
                }
                _ => Some(Whole { status, headers, body: Bytes::new() }),
            }
        }
        (Endpoint::Duplex(_), Some(mux)) => {
            for member in members(&body) {
                if let Err(error) = mux.tell(member).await {
                    call.server.metrics.failed(&error.to_string());
                }
            }
            None
        }
        (Endpoint::Duplex(_), None) => None,
    }
}

/// Bytes of a refusal's body that are passed on.
const LARGEST_REFUSAL: usize = 64 * 1024;

fn lost(call: &Call, route: &Route, whole: &Whole) -> bool {
    whole.says_lost(route.server_session().is_some(), call.modern()).is_some()
}

fn accepted() -> Answer {
    Answer::whole(Whole {
        status: StatusCode::ACCEPTED,
        headers: Headers::default(),
        body: Bytes::new(),
    })
}
