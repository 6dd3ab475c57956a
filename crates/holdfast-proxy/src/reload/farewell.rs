//! Leave is taken of what a new configuration does not have any more: in order, and behind the requests
//! that are served already.
//!
//! What runs has until the drain deadline. After that it is answered with an error, connections and
//! processes are closed, and sessions end at their servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fate::Fate;
use crate::gateway::Gateway;
use crate::server::Server;
use crate::session::{Session, idle};
use crate::upstream::mux::Mux;

/// How often what still runs is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How long the last answers may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Shows the sessions of this node where their servers are now. A standing stream of an instance that
/// is gone looks for another one; those of a server that is gone end, and their clients are told when to
/// come back.
pub(super) fn rebind(before: &Gateway, after: &Gateway, fates: &BTreeMap<String, Fate>) {
    let retry = u64::try_from(after.config.streams.retry.as_millis()).unwrap_or(u64::MAX);
    before.sessions.each(|session| {
        let old = session.server();
        match (fates.get(&*old.name), after.server(&old.name)) {
            // One that begins may have been here before, and its end not yet come.
            (Some(Fate::GoesOn | Fate::BeginsAnew | Fate::Begins), Some(server)) => {
                session.serve_by(server);
            }
            _ => {
                if let Some(standing) = session.standing().as_ref() {
                    standing.log.hint(retry);
                    standing.log.finish();
                }
            }
        }
    });
}

/// Closes what was open to the server as it was, and is of no use to the server as it is.
pub(super) async fn leave_behind(gateway: Arc<Gateway>, old: Arc<Server>, new: Arc<Server>) {
    close_checks(&gateway, &old, Some(&new)).await;
    if old.life.number == new.life.number {
        return;
    }
    old.replaced.cancel();
    for (audience, session) in old.take_all_implicit() {
        new.keep_implicit(audience, session);
    }
    if !old.is_duplex() {
        return;
    }
    let mut open: Vec<Arc<Mux>> = Vec::new();
    gateway.sessions.each(|session| {
        let bound = session.bound();
        if bound.life == old.life.number
            && let Some(mux) = &bound.mux
        {
            open.push(Arc::clone(mux));
        }
    });
    open.extend(old.shared.lock().await.take());
    let patience = gateway.config.listen.drain_deadline;
    let closed = open.iter().map(|mux| async move {
        // What runs over it has its answer still to come.
        let _ = tokio::time::timeout(patience, idle(mux)).await;
        mux.close().await;
    });
    futures_util::future::join_all(closed).await;
}

/// Ends a server that the configuration has no more.
pub(super) async fn end(gateway: Arc<Gateway>, server: Arc<Server>) {
    server.leaving.cancel();
    close_checks(&gateway, &server, None).await;
    let deadline = Instant::now() + gateway.config.listen.drain_deadline;
    while Instant::now() < deadline && server.metrics.in_flight.get() > 0 {
        tokio::time::sleep(POLL).await;
    }
    if server.metrics.in_flight.get() > 0 {
        server.give_up();
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until && server.metrics.in_flight.get() > 0 {
            tokio::time::sleep(POLL).await;
        }
    }
    if gateway.cluster.is_some() {
        // Other nodes serve the same sessions, and have as long for what they run.
        tokio::time::sleep_until(deadline).await;
    }
    server.give_up();
    let sessions = of_life(&gateway, &server);
    let ended = sessions.iter().map(|session| gateway.end_session(session, None));
    futures_util::future::join_all(ended).await;
    if let Some(mux) = server.shared.lock().await.take() {
        mux.close().await;
    }
}

/// The sessions of this node at the server as it was.
fn of_life(gateway: &Gateway, server: &Server) -> Vec<Arc<Session>> {
    let mut sessions = Vec::new();
    gateway.sessions.each(|session| {
        if session.server().life.number == server.life.number {
            sessions.push(Arc::clone(session));
        }
    });
    sessions
}

/// Ends the sessions of checks at instances that `new` does not check any more.
async fn close_checks(gateway: &Gateway, old: &Server, new: Option<&Server>) {
    for (instance, kept) in old.checks.iter().enumerate() {
        let goes_on = new.is_some_and(|new| new.checks.iter().any(|it| Arc::ptr_eq(it, kept)));
        if goes_on {
            continue;
        }
        if let Some(session) = kept.take().await {
            session.close(gateway, old, instance).await;
        }
    }
}
