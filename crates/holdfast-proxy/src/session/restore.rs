//! A session whose server forgot it, bound anew under the same client id.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_store::Binding;
use http::HeaderMap;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::{Bound, Session, find, standing};
use crate::exchange;
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::server::Server;

/// Which instance comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whereto {
    /// The one that the session is bound to, if it takes calls.
    Same,
    /// Another one: that one is gone.
    Elsewhere,
}

/// Opens the session at its server again and binds it there. Of several callers that saw the same
/// binding fail, one does it and the others get its result, its failure included.
///
/// # Errors
/// [`Failure`] if the server does not open a session within its patience, or the session ended
/// meanwhile. The call that needed it did not run.
///
/// # Cancel safety
/// Cancelled before the server has opened a session, the binding is as it was and a half-opened
/// one is left to expire there; afterwards the session is bound all the same.
pub(crate) async fn reestablish(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    seen: &Bound,
    live: &HeaderMap,
    whereto: Whereto,
) -> Result<Arc<Bound>, Failure> {
    let failed = session.failed_rebinds.load(Ordering::Acquire);
    let mut alone = Arc::clone(&session.rebind).lock_owned().await;
    if session.ended.is_cancelled() {
        return Err(ended(session));
    }
    let present = session.bound();
    let server = gateway.server_of(session);
    // What the store tells of a new binding may come before its connection is here.
    let opened = seen.mux.is_none() && present.mux.is_some();
    let fresh = opened || present.generation != seen.generation;
    if fresh && present.is_usable(&server) {
        return Ok(present);
    }
    // Each that waited would otherwise spend the server's whole patience after the one before it.
    if let Some(failure) = &*alone
        && session.failed_rebinds.load(Ordering::Acquire) != failed
    {
        return Err(failure.clone());
    }
    let record = session.record();
    let replayed = tokio::select! {
        biased;
        () = session.ended.cancelled() => return Err(ended(session)),
        replayed = exchange::replay(gateway, &server, &record, live, whereto) => replayed,
    };
    match replayed {
        Ok(replayed) => {
            *alone = None;
            let (mux, unclaimed) = replayed.duplex.unzip();
            let next = Arc::new(Bound {
                mark: server.fleet.mark(replayed.instance),
                life: server.life.number,
                generation: present.generation + 1,
                server_session: replayed.server_session,
                mux,
            });
            let bind = Bind { server, present, next, unclaimed, alone };
            let bind = bind.run(Arc::clone(gateway), Arc::clone(session));
            // A task of its own: a caller that goes away must not leave half a binding.
            tokio::spawn(bind).await.unwrap_or_else(|_| Err(ended(session)))
        }
        Err(failure) => {
            *alone = Some(failure.clone());
            session.failed_rebinds.fetch_add(1, Ordering::Release);
            Err(failure)
        }
    }
}

/// What the server opened, on its way to become the session's binding.
struct Bind {
    /// As it was when it opened this.
    server: Arc<Server>,
    present: Arc<Bound>,
    next: Arc<Bound>,
    unclaimed: Option<mpsc::Receiver<Bytes>>,
    alone: OwnedMutexGuard<Option<Failure>>,
}

impl Bind {
    async fn run(
        self,
        gateway: Arc<Gateway>,
        session: Arc<Session>,
    ) -> Result<Arc<Bound>, Failure> {
        let Self { server, present, next, unclaimed, alone } = self;
        let server = &server;
        let binding = Binding {
            instance: next.mark,
            server_session: next.server_session_text().map(Arc::from),
            generation: next.generation,
            node: gateway.holder_of(server),
        };
        match session.rebind(&gateway, present.generation, &binding).await {
            Ok(true) => {}
            // Another node was faster: the session is bound where that node has bound it.
            Ok(false) => {
                exchange::close_at_server(&gateway, server, &next).await;
                let theirs = session.bound();
                if theirs.is_usable(server) {
                    return Ok(theirs);
                }
                let reason = "another node has opened the session".to_owned();
                return Err(Failure::unavailable(&server.name, reason));
            }
            // DELETE came between: the new session has no owner.
            Err(error) => {
                exchange::close_at_server(&gateway, server, &next).await;
                let reason = crate::failure::told(&error);
                return Err(Failure::unavailable(&server.name, reason));
            }
        }
        session.bound.store(Arc::clone(&next));
        gateway.metrics.sessions_restored.inc();
        tracing::info!(
            session = ?session.key,
            server = %server.name,
            generation = next.generation,
            "session established again at its server"
        );
        standing::rebound(&gateway, &session, &next, unclaimed);
        if next.mark != present.mark {
            tell_moved(server, &session, &present, &next);
        }
        // Whoever ends the session waits for this, and then closes what it is bound to.
        drop(alone);
        match &present.mux {
            // It is of a server that is reached in another way now, and may still be at work.
            Some(mux) if mux.ending().is_none() && present.life != next.life => {
                find::close_when_idle(&gateway, Arc::clone(mux));
            }
            Some(mux) => mux.close().await,
            None => {}
        }
        if session.ended.is_cancelled() {
            return Err(ended(&session));
        }
        Ok(next)
    }
}

/// Tells the client that its session is at another instance, where nothing is known of what the first
/// one kept in memory: on its standing stream, and with the next answer.
fn tell_moved(server: &Server, session: &Session, from: &Bound, to: &Bound) {
    server.fleet.counts.moved.inc();
    let ids = server.settings.instances();
    // One that the configuration has no more has no name in it either.
    let id = |mark: u32| match server.fleet.place(mark) {
        Some(at) => ids.get(at).map_or("default", |it| it.id.as_str()),
        None => "removed",
    };
    let note = serde_json::json!({
        "movedFrom": id(from.mark),
        "movedTo": id(to.mark),
        "stateLost": true,
    });
    session.note(note.to_string().into());
    let Some(standing) = session.standing().clone() else { return };
    let message = serde_json::json!({
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": {
            "level": "warning",
            "logger": "holdfast",
            "data": {
                "message": "the session was moved to another instance of the server; what the server \
                            kept in memory for it is lost",
                "session": note,
            },
        },
    });
    standing.log.try_append(&message.to_string().into());
}

fn ended(session: &Session) -> Failure {
    Failure::unavailable(&session.server().name, "the session has ended".to_owned())
}
