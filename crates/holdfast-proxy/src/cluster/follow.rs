//! What the cluster tells this node, and what the node does about it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use holdfast_store::SessionKey;
use tokio::task::JoinHandle;

use super::{Changed, Feeds};
use crate::clock::unix_millis;
use crate::exchange;
use crate::gateway::{Gateway, TOMBSTONE};
use crate::server::Server;
use crate::session::{self, Bound};

/// Follows the cluster for the life of the node.
pub(crate) async fn follow(gateway: Arc<Gateway>, feeds: Feeds) {
    let Feeds { mut changes, mut frozen } = feeds;
    let node = Arc::clone(&gateway.node);
    let Some(cluster) = &node.cluster else { return };
    tokio::spawn(learn(Arc::clone(&gateway)));
    let mut gateway = gateway;
    let mut state = cluster.watch();
    let mut me = cluster.me();
    // The group's state may say that this node has joined anew before the node itself knows.
    let mut look = tokio::time::interval(cluster.failover_timeout);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looking: Option<JoinHandle<()>> = None;
    loop {
        // A node that was declared dead, wrongly or because it was frozen, joins under a new
        // generation: what it still holds is its own again, unless somebody was faster.
        if cluster.me() != me {
            me = cluster.me();
            tokio::spawn(session::reclaim(Arc::clone(&gateway), me));
        }
        tokio::select! {
            Ok(()) = state.changed() => {}
            _ = look.tick() => {}
            change = changes.recv() => match change {
                Some(Changed::Key(key)) => {
                    // For the servers of the time.
                    gateway = gateway.latest();
                    if let Some(key) = gateway.store.session_of(&key) {
                        session::changed(&gateway, key).await;
                    } else if let Some(server) = gateway.store.hints_of(&key)
                        && let Some(server) = gateway.server(server)
                        && let Some(hints) = gateway.store.hints(&server.name)
                    {
                        server.take_hints(&hints);
                    }
                }
                Some(Changed::Everything) => {
                    gateway = gateway.latest();
                    tokio::spawn(learn(Arc::clone(&gateway)));
                    if let Some(looking) = looking.replace(tokio::spawn(look_at_all(Arc::clone(&gateway)))) {
                        looking.abort();
                    }
                }
                // The cluster is gone, and so is this process soon.
                None => return,
            },
            // The process stood still for longer than the others wait for it: they have taken its
            // calls over, so whoever is still connected is sent to them.
            Ok(()) = frozen.changed() => {
                tracing::warn!("this process was frozen: client connections are closed");
                gateway.cut_all();
            }
        }
    }
}

/// Takes in what the other nodes have learnt of the servers' tools. Without it a node that has just
/// started would take Reads for Writes.
async fn learn(gateway: Arc<Gateway>) {
    let Some(cluster) = &gateway.cluster else { return };
    let servers = futures_util::stream::iter(&gateway.servers);
    let read = |server: &Arc<Server>| {
        let (gateway, server) = (Arc::clone(&gateway), Arc::clone(server));
        async move {
            match gateway.patiently(|| gateway.store.read_hints(&server.name)).await {
                Ok(Some(hints)) => server.take_hints(&hints),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(server = %server.name, %error, "what other nodes know of its tools is not known");
                }
            }
        }
    };
    servers.for_each_concurrent(LOOKS, read).await;
    cluster.has_learnt();
}

/// Compares every session that this node has with its record: for a store over the network that is a
/// question each, and nothing else waits for it.
async fn look_at_all(gateway: Arc<Gateway>) {
    let mut keys = Vec::new();
    gateway.sessions.each(|session| keys.push(session.key));
    let looks = futures_util::stream::iter(keys);
    looks.for_each_concurrent(LOOKS, |key| session::changed(&gateway, key)).await;
}

/// How many sessions are compared at once.
const LOOKS: usize = 32;

/// Keeps the records of the sessions that are in use here from expiring, and, at the coordinator,
/// ends those that have. Runs for the life of the node.
pub(crate) async fn keep(mut gateway: Arc<Gateway>) {
    let mut renewed: HashMap<SessionKey, Duration> = HashMap::new();
    loop {
        gateway = gateway.latest();
        let ttl = gateway.config.sessions.ttl;
        let period = (ttl / 20).clamp(Duration::from_millis(500), Duration::from_secs(60));
        tokio::time::sleep(period).await;
        // First, and never late: what keeps a long Write from running twice.
        gateway.keep_entries().await;
        renew(&gateway, ttl, &mut renewed).await;
        let coordinates = gateway
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.is_coordinator() && cluster.has_lease());
        if coordinates {
            end_expired(&gateway).await;
        }
    }
}

/// A session that was used since it was last renewed is good for another whole time to live.
async fn renew(gateway: &Gateway, ttl: Duration, renewed: &mut HashMap<SessionKey, Duration>) {
    let (now, unix) = (gateway.clock.now(), unix_millis());
    let mut used = Vec::new();
    gateway.sessions.each(|session| {
        if session.used_after(renewed.get(&session.key).copied(), now, unix, ttl) {
            used.push(session.key);
        }
    });
    for key in used {
        let Some(deadline) = gateway.expires() else { return };
        match gateway.store.touch(key, deadline).await {
            Ok(()) => {
                renewed.insert(key, now);
            }
            // Each of the others would wait as long, and the next round comes soon.
            Err(error) if error.is_of_store() => break,
            Err(_) => {}
        }
    }
    renewed.retain(|key, _| gateway.sessions.look(*key).is_some());
}

/// Ends the sessions whose time is over, at their servers too.
async fn end_expired(gateway: &Arc<Gateway>) {
    for record in gateway.store.due(AT_ONCE).await {
        // Whoever renews it in this moment is first, or finds a tombstone.
        if gateway.store.delete(record.key, TOMBSTONE).await.is_err() {
            continue;
        }
        gateway.metrics.sessions_expired.inc();
        tracing::debug!(session = ?record.key, "session expired");
        let Some(server) = gateway.server(&record.server).filter(|server| !server.is_duplex())
        else {
            continue;
        };
        let (gateway, server) = (Arc::clone(gateway), Arc::clone(server));
        // A server that is slow to say goodbye does not hold up the others.
        tokio::spawn(async move {
            let bound = Bound::of(&record.binding);
            exchange::close_at_server(&gateway, &server, &bound).await;
        });
    }
}

/// How many expired sessions are ended in one go.
const AT_ONCE: usize = 256;
