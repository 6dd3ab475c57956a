//! A server's own stream, taken up where it ended.

use bytes::Bytes;
use holdfast_mcp::headers::name;
use http::header::ACCEPT;
use http::{HeaderValue, Method};

use super::{Call, attempt, headers};
use crate::session::Bound;
use crate::upstream::events::{EventSource, HttpEvents};
use crate::upstream::http::{Fields, Outgoing};

/// What a server says to that.
pub(super) enum TakenUp {
    Stream(EventSource),
    Refused,
    Unreachable,
}

/// Asks the server for the rest of its own stream.
pub(super) async fn take_up(
    call: &Call,
    bound: Option<&Bound>,
    instance: usize,
    last: &str,
) -> TakenUp {
    let Ok(last) = HeaderValue::from_str(last) else { return TakenUp::Refused };
    let mut request = headers::for_own_message(&call.headers);
    request.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    request.insert(name::LAST_EVENT_ID, last);
    let outgoing = Outgoing {
        method: Method::GET,
        fields: Fields::Map(&request),
        session: bound.and_then(|bound| bound.server_session.clone()),
        body: Bytes::new(),
    };
    match attempt::request_http(&call.gateway, &call.server, true, instance, outgoing).await {
        Ok((response, _)) if response.status.is_success() && response.is_event_stream() => {
            let events = HttpEvents::new(response.body);
            TakenUp::Stream(EventSource::Http(Box::new(events)))
        }
        Ok((response, _)) if response.status.is_client_error() => TakenUp::Refused,
        Ok(_) | Err(_) => TakenUp::Unreachable,
    }
}

/// The rest of a server's stream, for a client that came back to a stream whose log is gone.
pub(crate) async fn resume_at_server(
    call: &Call,
    bound: &Bound,
    last: &str,
) -> Option<EventSource> {
    let instance = call.server.fleet.place(bound.mark)?;
    match take_up(call, Some(bound), instance, last).await {
        TakenUp::Stream(source) => Some(source),
        TakenUp::Refused | TakenUp::Unreachable => None,
    }
}
