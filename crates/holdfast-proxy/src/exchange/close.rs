//! Ending a session at its server, when its client has, or when it is bound elsewhere.

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::repeat::Progress;
use http::{HeaderMap, Method as HttpMethod};

use super::attempt::{AttemptError, request_http};
use super::open::LARGEST_ANSWER;
use crate::gateway::Gateway;
use crate::server::Server;
use crate::session::Bound;
use crate::upstream::http::{Fields, Outgoing};

/// Ends a session at its server, within ten seconds.
///
/// # Cancel safety
/// Cancelled, the server's session is left to expire there.
pub(crate) async fn close_at_server(gateway: &Gateway, server: &Server, bound: &Bound) {
    if let Some(mux) = &bound.mux {
        mux.close().await;
    }
    let Some(session) = bound.server_session.clone() else { return };
    // Where it is not known any more, it is left to expire.
    let Some(instance) = server.fleet.place(bound.mark) else { return };
    let own: HeaderMap = server.headers.iter().cloned().collect();
    let outgoing = Outgoing {
        method: HttpMethod::DELETE,
        fields: Fields::Map(&own),
        session: Some(session),
        body: Bytes::new(),
    };
    let sent = request_http(gateway, server, true, instance, outgoing);
    match tokio::time::timeout(Duration::from_secs(10), sent).await {
        Ok(Ok((response, _))) => {
            let _ = response.body.collect(LARGEST_ANSWER).await;
        }
        Ok(Err(AttemptError { progress: Progress::NotSent, .. })) => {
            tracing::debug!(server = %server.name, "a session's server was gone before it");
        }
        Ok(Err(error)) => {
            tracing::debug!(server = %server.name, reason = %error.reason, "session not deleted");
        }
        Err(_) => tracing::debug!(server = %server.name, "session not deleted within 10 s"),
    }
}
