//! Sessions of the gateway's own, lent to legacy clients that send none, where a server wants one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::version::Version;
use holdfast_store::SessionKey;
use tokio::sync::OwnedSemaphorePermit;

use super::open::{Reserved, begin, blank, end_idle, key_at, replay, reserve};
use super::{Call, fallback};
use crate::failure::Failure;
use crate::random;
use crate::session::{InUse, Session, Whereto};

/// A session that serves one call of a client without one, and then the next.
pub(crate) struct Borrowed {
    session: Arc<Session>,
    /// Whom it serves.
    audience: u128,
    _in_use: InUse,
    _permit: OwnedSemaphorePermit,
}

impl Borrowed {
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.session.server().keep_implicit(self.audience, Arc::clone(&self.session));
    }
}

/// A session for a call of a client that has none: one that is idle, or a new one. A session may be logged
/// in by its calls, so it only ever serves clients that the server could not tell apart without it.
///
/// # Errors
/// [`Failure`] if the server does not open one.
pub(super) async fn implicit(call: &Call) -> Result<Borrowed, Failure> {
    let gateway = &call.gateway;
    let permit = Arc::clone(&call.server.implicit_calls).acquire_owned().await;
    let Ok(permit) = permit else {
        return Err(Failure::unavailable(&call.server.name, "the gateway is ending".into()));
    };
    let audience = fallback::audience(call);
    let borrowed = |session: Arc<Session>, permit| {
        let gives_none = !call.server.is_duplex() && session.bound().server_session.is_none();
        if gives_none {
            // Whatever it refused calls for: the next ones go without, as before.
            call.server.wants_session.store(false, Ordering::Relaxed);
        }
        Borrowed { _in_use: session.enter(gateway.clock), session, audience, _permit: permit }
    };
    while let Some(session) = call.server.take_implicit(audience) {
        // An expired one is forgotten here.
        if gateway.sessions.get(session.key).is_some() {
            return Ok(borrowed(session, permit));
        }
    }
    call.server.take_excess_implicit().into_iter().for_each(|idle| end_idle(gateway, idle));
    reserve(call).map_err(|full| {
        let wait = Duration::from_secs(5);
        Failure::overloaded(&call.server.name, full.to_string(), wait)
    })?;
    let mut reserved = Reserved { gateway, principal: Some(call.principal.digest) };
    let initialize = Bytes::from(
        serde_json::json!({
            "jsonrpc": "2.0",
            "id": "holdfast-initialize",
            "method": "initialize",
            "params": {
                "protocolVersion": Version::V2025_11_25.as_str(),
                "capabilities": {},
                "clientInfo": { "name": "holdfast", "version": env!("CARGO_PKG_VERSION") },
            },
        })
        .to_string(),
    );
    let key = SessionKey(random::u128());
    let record = blank(call, key, &initialize, true);
    let replayed = replay(gateway, &call.server, &record, &call.headers, Whereto::Same).await?;
    let key = key_at(&call.server, replayed.instance, key);
    let session = begin(call, key, &initialize, replayed, true, call.deadline()).await?;
    reserved.principal = None;
    Ok(borrowed(session, permit))
}
