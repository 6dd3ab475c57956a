//! What other nodes write, as Redis tells it: a hint, by pub/sub.
//!
//! A message may get lost, and what was published while nobody listened is lost for certain. So a
//! message only says what to look at again, a new connection says to look at everything, and nothing
//! is decided by either: whoever writes does so by compare-and-set.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value, cmd};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::dial::{Connection, Server};
use super::failure::{self, Refusal};
use super::keeper::{Reach, Routes};
use super::{Shared, StoreChange};
use crate::keys;

/// Listens for as long as anybody holds the store.
pub(super) async fn listen(shared: Arc<Shared>, mut ended: watch::Receiver<()>) {
    tokio::select! {
        () = follow(&shared) => {}
        // Its sender is dropped with the store.
        _ = ended.changed() => {}
    }
}

async fn follow(shared: &Arc<Shared>) {
    let mut reach = shared.reach.subscribe();
    loop {
        let now = reach.borrow_and_update().clone();
        let Reach::Here(routes) = now else {
            if reach.changed().await.is_err() {
                return;
            }
            continue;
        };
        let pause = match hear(shared, &routes, &mut reach).await {
            Ok(()) => AGAIN,
            Err(Unheard::Broken(reason)) => {
                tracing::debug!(reason, "redis: change hints are interrupted");
                AGAIN
            }
            Err(Unheard::Forbidden(reason)) => {
                tracing::warn!(reason, "redis: nodes hear of one another's changes late");
                FORBIDDEN
            }
        };
        sleep(pause).await;
    }
}

/// Why it is not listened.
enum Unheard {
    Broken(String),
    /// It will not pass by itself.
    Forbidden(String),
}

/// Listens at one primary: a cluster passes messages on to all of its nodes.
async fn hear(
    shared: &Arc<Shared>,
    routes: &Arc<Routes>,
    reach: &mut watch::Receiver<Reach>,
) -> Result<(), Unheard> {
    let Some(link) = routes.links.first() else { return Ok(()) };
    let (pushed, mut messages) = mpsc::unbounded_channel();
    let address = &link.target.address;
    let connection = shared.dialler.dial(address, Server::Data, Some(pushed)).await;
    let connection = connection.map_err(|error| Unheard::Broken(error.to_string()))?;
    let mut subscribe = cmd("SUBSCRIBE");
    subscribe.arg(shared.names.channel());
    let within = shared.settings.command_timeout;
    match connection.ask(&subscribe, within).await {
        Ok(Value::ServerError(error)) => {
            let reason = failure::text(&error);
            return Err(match failure::refusal(&error) {
                Refusal::Never => Unheard::Forbidden(failure::forbidden(address, &reason)),
                _ => Unheard::Broken(reason),
            });
        }
        Ok(_) => {}
        Err(error) => return Err(Unheard::Broken(error.reason())),
    }
    shared.tell(StoreChange::Everything);
    loop {
        tokio::select! {
            message = timeout(QUIET, messages.recv()) => match message {
                Ok(Some(message)) => take(shared, message),
                Ok(None) => return Err(Unheard::Broken("the connection was closed".to_owned())),
                Err(_) => ask_for_life(&connection, within).await.map_err(Unheard::Broken)?,
            },
            () = connection.lost() => {
                return Err(Unheard::Broken("the connection was lost".to_owned()));
            }
            changed = reach.changed() => {
                let same = match &*reach.borrow_and_update() {
                    Reach::Here(now) => now.run_id == routes.run_id,
                    Reach::Away { .. } => false,
                };
                if changed.is_err() || !same {
                    return Ok(());
                }
            }
        }
    }
}

async fn ask_for_life(connection: &Connection, within: Duration) -> Result<(), String> {
    connection.ask(&cmd("PING"), within).await.map(drop).map_err(|error| error.reason())
}

fn take(shared: &Arc<Shared>, message: PushInfo) {
    if message.kind != PushKind::Message {
        return;
    }
    let Some(Value::BulkString(payload)) = message.data.into_iter().nth(1) else { return };
    let Some((revision, _)) = payload.split_first_chunk::<8>() else { return };
    let revision = u64::from_be_bytes(*revision);
    let key = Bytes::from(payload).slice(8..);
    if !shared.copy.hint(&key, revision) {
        return;
    }
    if keys::hints_of(&key).is_some() {
        // Whoever is told of hints reads what is here.
        Shared::fetch(shared, key);
    } else {
        shared.tell(StoreChange::Key(key));
    }
}

/// How long nothing is heard before the connection is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(2);

/// The pause before it is listened anew.
const AGAIN: Duration = Duration::from_millis(100);

/// The same where the user may not.
const FORBIDDEN: Duration = Duration::from_secs(30);
