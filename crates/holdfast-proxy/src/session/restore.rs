//! A session whose server forgot it, bound anew under the same client id.

use std::sync::Arc;

use holdfast_store::Binding;
use http::HeaderMap;

use super::{Bound, Session, standing};
use crate::exchange;
use crate::failure::Failure;
use crate::gateway::Gateway;

/// Opens the session at its server again and binds it there. Of several callers that saw the same
/// binding fail, one does it and the others get its result. `elsewhere`: its instance is gone, so
/// another one comes first.
///
/// # Errors
/// [`Failure`] if the server does not open a session within its patience, or the session ended
/// meanwhile. The call that needed it did not run.
///
/// # Cancel safety
/// Cancelled, the binding is as it was; a half-opened session at the server is left to expire.
pub(crate) async fn reestablish(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    seen: &Bound,
    live: &HeaderMap,
    elsewhere: bool,
) -> Result<Arc<Bound>, Failure> {
    let _one_at_a_time = session.rebind.lock().await;
    let present = session.bound();
    let fresh = present.generation != seen.generation;
    if fresh && present.mux.as_ref().is_none_or(|mux| mux.ending().is_none()) {
        return Ok(present);
    }
    let server = &session.server;
    let record = session.record();
    let replayed = exchange::replay(gateway, server, &record, live, elsewhere).await?;
    let (mux, unclaimed) = replayed.duplex.unzip();
    let next = Arc::new(Bound {
        instance: replayed.instance,
        generation: present.generation + 1,
        server_session: replayed.server_session,
        mux,
    });
    let binding = Binding {
        instance: u16::try_from(next.instance).unwrap_or(u16::MAX),
        server_session: next.server_session_text().map(Arc::from),
        generation: next.generation,
    };
    let kept = session.update(&gateway.store, |record| record.binding = binding.clone()).await;
    if let Err(ended) = kept {
        // DELETE came between: the new session has no owner.
        exchange::close_at_server(gateway, server, &next).await;
        return Err(Failure::unavailable(&server.name, format!("{ended}")));
    }
    session.bound.store(Arc::clone(&next));
    gateway.metrics.sessions_restored.inc();
    tracing::info!(
        session = ?session.key,
        server = %server.name,
        generation = next.generation,
        "session established again at its server"
    );
    if let Some(mux) = &present.mux {
        mux.close().await;
    }
    standing::rebound(gateway, session, &next, unclaimed).await;
    Ok(next)
}
