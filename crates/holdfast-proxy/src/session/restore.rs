//! A session whose server forgot it, bound anew under the same client id.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_store::{Binding, Notice};
use http::HeaderMap;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::{Bound, Session, find, notice, standing};
use crate::exchange;
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::server::Server;
use crate::upstream::ServerSession;

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
    let failed_rebinds = &session.made_rare().failed_rebinds;
    let failed = failed_rebinds.load(Ordering::Acquire);
    let mut alone = Arc::clone(session.rebinding()).lock_owned().await;
    if session.is_stopped() {
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
        && failed_rebinds.load(Ordering::Acquire) != failed
    {
        return Err(failure.clone());
    }
    let record = session.record();
    let replayed = tokio::select! {
        biased;
        () = session.ended().cancelled() => return Err(ended(session)),
        replayed = exchange::replay(gateway, &server, &record, live, whereto) => replayed,
    };
    match replayed {
        Ok(replayed) => {
            *alone = None;
            let (mux, unclaimed) = replayed.duplex.unzip();
            let next = Bound {
                mark: server.fleet.mark(replayed.instance),
                life: server.life.number,
                generation: present.generation + 1,
                server_session: replayed.server_session,
                mux,
            };
            let bind = Bind { server, present, next, unclaimed, alone };
            let bind = bind.run(Arc::clone(gateway), Arc::clone(session));
            // A task of its own: a caller that goes away must not leave half a binding.
            tokio::spawn(bind).await.unwrap_or_else(|_| Err(ended(session)))
        }
        Err(failure) => {
            *alone = Some(failure.clone());
            failed_rebinds.fetch_add(1, Ordering::Release);
            Err(failure)
        }
    }
}

/// What the server opened, on its way to become the session's binding.
struct Bind {
    /// As it was when it opened this.
    server: Arc<Server>,
    present: Arc<Bound>,
    next: Bound,
    unclaimed: Option<mpsc::Receiver<Bytes>>,
    alone: OwnedMutexGuard<Option<Failure>>,
}

impl Bind {
    async fn run(
        self,
        gateway: Arc<Gateway>,
        session: Arc<Session>,
    ) -> Result<Arc<Bound>, Failure> {
        let Self { server, present, mut next, unclaimed, alone } = self;
        let server = &server;
        let moves = next.mark != present.mark;
        loop {
            let binding = Binding {
                instance: next.mark,
                server_session: next.server_session.as_ref().map(ServerSession::shared),
                generation: next.generation,
                node: gateway.holder_of(server),
            };
            let notice = moves.then_some(Notice {
                from: present.mark,
                generation: next.generation,
                by_log: true,
                by_answer: true,
            });
            match session.rebind(&gateway, next.generation - 1, &binding, notice).await {
                Ok(true) => break,
                // Another node was faster: the session is bound where that node has bound it.
                Ok(false) => {
                    // Or this node holds it by what it wrote before without hearing that it was written, and
                    // nothing is open by that: this is what is. Only by a later generation, so that it ends: a
                    // store may also have fallen back to an earlier one, with what it had not acknowledged.
                    let held = session.held_in_name_by(binding.node);
                    if let Some(held) = held.filter(|held| *held >= next.generation) {
                        next.generation = held + 1;
                        continue;
                    }
                    notice::tell_listener(&gateway, &session);
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
        }
        let next = Arc::new(next);
        session.bound.store(Arc::clone(&next));
        gateway.metrics.sessions_restored.inc();
        tracing::info!(
            session = ?session.key,
            server = %server.name,
            generation = next.generation,
            "session established again at its server"
        );
        standing::rebound(&gateway, &session, &next, unclaimed);
        if moves {
            server.fleet.counts.moved.inc();
            server.fleet.counts.losses.moved(present.mark);
        }
        notice::tell_listener(&gateway, &session);
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
        if session.is_stopped() {
            return Err(ended(&session));
        }
        Ok(next)
    }
}

fn ended(session: &Session) -> Failure {
    Failure::unavailable(&session.server().name, "the session has ended".to_owned())
}
