//! Finding the session that a request names: here, in the store, or at the node that holds it.
//!
//! A session at an HTTP server belongs to no node: whoever is asked loads its record and goes on. A
//! session over a connection (stdio, WebSocket, HTTP+SSE servers) lives where the connection is
//! open, and its record names that node. When that node is gone, whoever is asked first claims the
//! session by compare-and-set and opens it again.

use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::replicated::Origin;
use holdfast_store::{Binding, SessionKey, SessionRecord, StoreError};

use super::{Bound, Mux, Session, notice};
use crate::cluster::Cluster;
use crate::gateway::Gateway;
use crate::principal::Principal;
use crate::server::Server;

/// Where a session is.
pub(crate) enum Found {
    Here(Arc<Session>),
    /// The node that holds its connection to the server.
    At(Origin),
    /// It has ended or never was, or it is somebody else's.
    Unknown,
    /// The store is away, and without it nobody knows.
    Untold(StoreError),
}

/// How often a session is looked at again because another node has just changed it.
const TRIES: usize = 8;

/// Finds a session of this principal at this server. What is another principal's is as unknown as
/// what never was.
///
/// # Cancel safety
/// A claim may have been written; the next request finds it.
async fn find(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    principal: &Principal,
    key: SessionKey,
) -> Found {
    if let Some(session) = gateway.sessions.get(key) {
        if session.principal() != principal.digest || !session.is_of(server) {
            return Found::Unknown;
        }
        let here = !server.is_duplex() || session.bound().mux.is_some();
        if here || gateway.cluster.is_none() {
            return Found::Here(session);
        }
    } else if gateway.cluster.is_none() {
        return Found::Unknown;
    }
    Box::pin(find_shared(gateway, server, principal, key)).await
}

/// As [`find`], and again while the store is away: [`Found::Untold`] is the last word then.
///
/// # Cancel safety
/// As [`find`].
pub(crate) async fn find_patiently(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    principal: &Principal,
    key: SessionKey,
) -> Found {
    let found = gateway.patiently(|| async {
        match find(gateway, server, principal, key).await {
            // Nobody knows whether its claim was written: it is looked for, and is here if it was.
            Found::Untold(StoreError::Unknown(reason)) => Err(StoreError::Unavailable(reason)),
            Found::Untold(error) => Err(error),
            found => Ok(found),
        }
    });
    found.await.unwrap_or_else(Found::Untold)
}

async fn find_shared(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    principal: &Principal,
    key: SessionKey,
) -> Found {
    let Some(cluster) = &gateway.cluster else { return Found::Unknown };
    for _ in 0..TRIES {
        // What this node has may be behind: a session that has just ended must not live on here. Where
        // the group cannot be asked, what there is serves.
        let read = match gateway.store.get_fresh(key).await {
            Err(StoreError::Unavailable(_)) => gateway.store.get(key).await,
            read => read,
        };
        let record = match read {
            Ok(record) => record,
            Err(error) => return not_found(error),
        };
        if record.principal != principal.digest || *record.server != *server.name {
            return Found::Unknown;
        }
        if !server.is_duplex() {
            return Found::Here(adopt(gateway, server, principal, record));
        }
        let me = cluster.me();
        match record.binding.node {
            Some(node) if node == me => {
                return Found::Here(adopt(gateway, server, principal, record));
            }
            Some(node) if cluster.may_hold(node) => return Found::At(node),
            _ => {}
        }
        let generation = record.binding.generation.saturating_add(1);
        let binding =
            Binding { server_session: None, generation, node: Some(me), ..record.binding };
        match gateway.store.replace(SessionRecord { binding, ..record }).await {
            Ok(record) => return Found::Here(adopt(gateway, server, principal, record)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return not_found(error),
        }
    }
    Found::Untold(StoreError::Unavailable("other nodes keep changing the session".into()))
}

fn not_found(error: StoreError) -> Found {
    match error {
        StoreError::Missing | StoreError::Gone => Found::Unknown,
        error => Found::Untold(error),
    }
}

/// Makes the session of a record a living one of this node.
fn adopt(
    gateway: &Arc<Gateway>,
    server: &Arc<Server>,
    principal: &Principal,
    record: SessionRecord,
) -> Arc<Session> {
    if let Some(session) = gateway.sessions.get(record.key) {
        session.refresh(record);
        notice::tell_listener(gateway, &session);
        return session;
    }
    let bound = Bound::of(&record.binding);
    let gauge = server.metrics.sessions.enter();
    let now = gateway.clock.now();
    let session = Session::new(record, Arc::clone(server), bound, principal.clone(), gauge, now);
    let session = gateway.sessions.adopt(session);
    gateway.show_latest(&session);
    gateway.metrics.sessions.set(gateway.sessions.len());
    session
}

/// The record of a session was written by some node: what this node has of it follows.
pub(crate) async fn changed(gateway: &Arc<Gateway>, key: SessionKey) {
    let Some(session) = gateway.sessions.look(key) else { return };
    match gateway.store.get(key).await {
        Ok(record) => {
            let me = gateway.cluster.as_ref().map(Cluster::me);
            let elsewhere = record.binding.node.is_some() && record.binding.node != me;
            if elsewhere && record.binding.generation > session.bound().generation {
                session.give_away();
                return forget(gateway, key).await;
            }
            session.refresh(record);
            notice::tell_listener(gateway, &session);
        }
        Err(StoreError::Missing | StoreError::Gone) => forget(gateway, key).await,
        Err(_) => {}
    }
}

/// Names this node, in its present generation, as the holder of every connection that is open here.
pub(crate) async fn reclaim(gateway: Arc<Gateway>, me: Origin) {
    let mut held = Vec::new();
    gateway.sessions.each(|session| {
        if session.server().is_duplex() && session.bound().mux.is_some() {
            held.push(Arc::clone(session));
        }
    });
    for session in held {
        let bound = session.bound();
        let binding = Binding { node: Some(me), ..session.record().binding };
        match session.rebind(&gateway, bound.generation, &binding, None).await {
            Ok(true) => {}
            // Another node has it, or it has ended: the change is told to this node too.
            Ok(false) | Err(_) => changed(&gateway, session.key).await,
        }
    }
}

/// Drops what this node has of a session that has ended, or that another node holds now.
pub(crate) async fn forget(gateway: &Arc<Gateway>, key: SessionKey) {
    let Some(session) = gateway.sessions.remove(key) else { return };
    gateway.metrics.sessions.set(gateway.sessions.len());
    session.stop();
    if let Some(standing) = session.take_standing(|_| true) {
        standing.end(gateway);
    }
    if let Some(mux) = session.bound().mux.clone() {
        close_when_idle(gateway, mux);
    }
}

/// Closes a connection that nobody uses any more, once what runs over it has its answer. Whoever says so
/// does not wait: a server's process may take its time to end.
pub(crate) fn close_when_idle(gateway: &Gateway, mux: Arc<Mux>) {
    let patience = gateway.config.listen.drain_deadline;
    tokio::spawn(async move {
        let _ = tokio::time::timeout(patience, idle(&mux)).await;
        mux.close().await;
    });
}

/// Resolves when no call is under way.
pub(crate) async fn idle(mux: &Mux) {
    while mux.in_flight() > 0 {
        tokio::time::sleep(IDLE_POLL).await;
    }
}

/// How often a connection that is given up is looked at.
const IDLE_POLL: Duration = Duration::from_millis(50);
