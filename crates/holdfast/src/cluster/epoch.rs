//! Which Redis server is the store: seen by the coordinator, agreed on by the group, heeded by every
//! node's store.
//!
//! Redis fails over by itself, and two servers may take themselves for the primary meanwhile. What a
//! node writes counts only at the one that the group has adopted (`ClusterState::store`), so a
//! node that still speaks to the old one keeps nothing there that others would miss, and says so
//! instead. A server that was started again is another one: its run id is new.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::{Cluster, Leadership};
use holdfast_engine::replicated::{
    Body, ClusterState, ControlCommand, Reply, STORE, ServerCommand, ServerHappened, StoreEpoch,
};
use holdfast_store::Primary;
use tokio::sync::watch;

/// How long the group may take over an adoption before it is looked at again.
const WITHIN: Duration = Duration::from_secs(2);

/// Before the next attempt at an adoption that the group did not take.
const PAUSE: Duration = Duration::from_millis(100);

/// While this node coordinates, has the group adopt the server that this node sees as the primary.
/// Runs for the life of the node.
pub(super) async fn adopt(cluster: Arc<Cluster>, mut primary: watch::Receiver<Option<Primary>>) {
    let mut leadership = cluster.leadership();
    let mut state = cluster.state();
    loop {
        let wanted = decide(
            *leadership.borrow_and_update(),
            primary.borrow_and_update().as_ref(),
            state.borrow_and_update().store.as_ref(),
        );
        if let Some(command) = wanted {
            match cluster.propose(Body::Control(command.clone()), WITHIN).await {
                Ok(Reply::Done { .. }) => tell(&cluster, &command).await,
                Ok(reply) => tracing::debug!(?reply, "the store's primary was not adopted"),
                Err(error) => tracing::debug!(%error, "the store's primary was not adopted"),
            }
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            changed = primary.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// What the store is told to begin with: no server has this run id, so it takes no write that must
/// last.
pub(super) fn none_adopted() -> Option<Arc<str>> {
    Some(Arc::from(""))
}

/// Tells this node's store what the group has adopted. Runs for the life of the node.
pub(super) async fn heed(
    mut state: watch::Receiver<Arc<ClusterState>>,
    adopted: watch::Sender<Option<Arc<str>>>,
) {
    loop {
        let now = match &state.borrow_and_update().store {
            Some(epoch) => Some(Arc::from(epoch.run_id.as_str())),
            None => none_adopted(),
        };
        adopted.send_if_modified(|it| std::mem::replace(it, now.clone()) != now);
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// What this node proposes, if it is for it to do so and there is a reason.
fn decide(
    leadership: Leadership,
    seen: Option<&Primary>,
    adopted: Option<&StoreEpoch>,
) -> Option<ControlCommand> {
    let seen = seen.filter(|_| leadership.me)?;
    if adopted.is_some_and(|it| it.run_id == *seen.run_id && it.address == seen.address) {
        return None;
    }
    Some(ControlCommand::AdoptStore {
        run_id: seen.run_id.to_string(),
        address: seen.address.clone(),
        term: leadership.term,
    })
}

/// In the log, and in the group's record, from where it reaches the webhooks. A coordinator that dies in between
/// tells only what the other nodes see of it: `ClusterState::store`.
async fn tell(cluster: &Cluster, command: &ControlCommand) {
    let ControlCommand::AdoptStore { run_id, address, .. } = command else { return };
    tracing::info!(%address, %run_id, "the cluster has adopted this Redis server as its store");
    let note = Body::Control(ControlCommand::Server(note(address)));
    if let Err(error) = cluster.propose(note, WITHIN).await {
        tracing::debug!(%error, "the record does not say which server is the store");
    }
}

fn note(address: &str) -> ServerCommand {
    ServerCommand::Note {
        server: String::new(),
        instance: String::new(),
        what: ServerHappened::Noted,
        evidence: format!("{STORE}{address} is the primary"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(run_id: &str) -> Primary {
        Primary { run_id: run_id.into(), address: "redis:6379".into() }
    }

    fn epoch(run_id: &str) -> StoreEpoch {
        StoreEpoch { epoch: 1, run_id: run_id.into(), address: "redis:6379".into(), since: 0 }
    }

    #[test]
    fn the_coordinator_alone_proposes_and_only_what_is_new() {
        let follower = Leadership { leader: Some(2), term: 7, me: false };
        let coordinator = Leadership { leader: Some(1), term: 7, me: true };
        let (a, b) = (primary("a"), primary("b"));
        assert_eq!(decide(follower, Some(&a), None), None);
        // Nothing is adopted while nothing is seen: the old one may come back.
        assert_eq!(decide(coordinator, None, Some(&epoch("a"))), None);
        assert_eq!(decide(coordinator, Some(&a), Some(&epoch("a"))), None);
        let adopt = |run_id: &str| {
            Some(ControlCommand::AdoptStore {
                run_id: run_id.into(),
                address: "redis:6379".into(),
                term: 7,
            })
        };
        assert_eq!(decide(coordinator, Some(&a), None), adopt("a"));
        assert_eq!(decide(coordinator, Some(&b), Some(&epoch("a"))), adopt("b"));
    }

    #[test]
    fn the_record_says_which_server_it_is_as_webhooks_know_it() {
        let ServerCommand::Note { server, what, evidence, .. } = note("redis:6379") else {
            panic!("a line of the record");
        };
        assert_eq!((server.as_str(), what), ("", ServerHappened::Noted));
        assert_eq!(evidence, "session store: redis:6379 is the primary");
    }
}
