//! Messages that expect no answer: notifications, and the client's answers to the server.

use bytes::Bytes;
use holdfast_engine::repeat::is_lost_session;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use http::{HeaderMap, Method as HttpMethod, StatusCode};

use super::attempt::{self, Route};
use super::{Answer, Call, Whole, answer, headers};
use crate::session;
use crate::spliced;
use crate::upstream::Endpoint;
use crate::upstream::http::{Collected, Outgoing};

/// Hands a message without an id to the server. `202` once it is routed; the server's own 4xx where
/// it refuses the message.
///
/// # Cancel safety
/// The message may or may not have reached the server.
pub(crate) async fn tell(call: &Call, kind: Kind) -> Answer {
    let Some(body) = addressed(call, kind) else { return accepted() };
    if call.method == Method::Initialized
        && let Some(session) = &call.session
    {
        let _ = session.update(&call.gateway.store, |record| record.initialized = true).await;
    }
    let route = match answer::route(call, call.session.as_ref()).await {
        Ok(route) => route,
        Err(failure) => {
            call.gateway.metrics.server(call.server.index).failed(&failure.reason);
            return accepted();
        }
    };
    match send(call, &route, body.clone()).await {
        Some(whole) if lost(call, &route, &whole) => {
            let (Some(session), Some(bound)) = (&call.session, &route.bound) else {
                return Answer::Whole(whole);
            };
            // Re-establishing says `initialized` by itself, and an answer to a request of the
            // server's lost session has no addressee any more.
            let fresh =
                session::reestablish(&call.gateway, session, bound, &call.headers, false).await;
            if let (Ok(_), true) =
                (fresh, kind == Kind::Notification && call.method != Method::Initialized)
                && let Ok(route) = answer::route(call, call.session.as_ref()).await
            {
                send(call, &route, body).await;
            }
            accepted()
        }
        Some(whole) if whole.status.is_client_error() => Answer::Whole(whole),
        _ => accepted(),
    }
}

/// The message as the binding that it is for knows it; `None` if that binding is gone.
fn addressed(call: &Call, kind: Kind) -> Option<Bytes> {
    let (Some(session), Kind::Response) = (&call.session, kind) else {
        return Some(call.body.clone());
    };
    let id = peek(&call.body).ok()?.id?.to_owned_text();
    session.answered(&id);
    spliced::restore(&call.body, session.bound().generation)
}

async fn send(call: &Call, route: &Route, body: Bytes) -> Option<Whole> {
    match (&call.server.endpoint, &route.mux) {
        (Endpoint::Http(_), _) => {
            let outgoing = Outgoing {
                method: HttpMethod::POST,
                headers: &call.headers,
                session: route.server_session(),
                body,
            };
            let bound = route.bound.is_some();
            let sent =
                attempt::request_http(&call.gateway, &call.server, bound, route.instance, outgoing);
            let response = match sent.await {
                Ok((response, _)) => response,
                Err(error) => {
                    call.gateway.metrics.server(call.server.index).failed(&error.reason);
                    return None;
                }
            };
            let status = response.status;
            let mut headers = response.headers.clone();
            headers::strip_answer(&mut headers);
            match response.collect(LARGEST_REFUSAL).await {
                Ok(Collected::Whole(body)) => Some(Whole { status, headers, body }),
                _ => Some(Whole { status, headers, body: Bytes::new() }),
            }
        }
        (Endpoint::Duplex(_), Some(mux)) => {
            if let Err(error) = mux.tell(body).await {
                call.gateway.metrics.server(call.server.index).failed(&error.to_string());
            }
            None
        }
        (Endpoint::Duplex(_), None) => None,
    }
}

/// Bytes of a refusal's body that are passed on.
const LARGEST_REFUSAL: usize = 64 * 1024;

fn lost(call: &Call, route: &Route, whole: &Whole) -> bool {
    let sent_session = route.bound.as_ref().is_some_and(|bound| bound.server_session.is_some());
    let message = peek(&whole.body).ok();
    let code = message.as_ref().and_then(|message| message.error_code);
    let text = message.as_ref().and_then(|message| message.error_message.as_deref());
    is_lost_session(whole.status.as_u16(), sent_session, code, text, call.modern())
}

fn accepted() -> Answer {
    Answer::Whole(Whole {
        status: StatusCode::ACCEPTED,
        headers: HeaderMap::new(),
        body: Bytes::new(),
    })
}
