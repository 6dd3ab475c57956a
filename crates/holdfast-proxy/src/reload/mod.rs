//! A running node takes over another configuration, whole or not at all.
//!
//! [`Proxy::prepare`] does everything that can fail and changes nothing; [`Proxy::commit`] cannot fail.
//! In between nothing of the new configuration is seen by anybody. From the commit on each new request
//! is served by the new configuration, all of it, and what is under way ends with the one that it began
//! with. What becomes of each server is [`fate`]'s decision; a server that ends, or that is reached in
//! another way, is taken leave of in [`farewell`].

mod farewell;
mod fate;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Change, CheckKind, Config, When};

use self::fate::{Fate, fates};
use crate::fleet::{self, Fleet};
use crate::gateway::Gateway;
use crate::{Proxy, ServerError};

/// A configuration that the data plane can take over at once.
#[must_use = "nothing is taken over before it is committed"]
pub struct Prepared {
    before: Arc<Gateway>,
    after: Arc<Gateway>,
    fates: BTreeMap<String, Fate>,
}

/// Why a configuration is not taken over. What ran before runs on.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Settings that a running node cannot change.
    #[error("{}", restart(.0))]
    Restart(Vec<Change>),
    /// A server that cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The servers of one configuration, as the control plane looks at them: by the places that they have in
/// that configuration.
#[derive(Clone)]
pub struct Servers {
    pub(crate) gateway: Arc<Gateway>,
}

// === impl Proxy ===

impl Proxy {
    /// Does everything of a change of configuration that can fail: checks what a running node can
    /// change, and builds the servers. Nothing is changed that anybody could see. One change at a time:
    /// of two that are prepared from the same configuration the second would undo the first.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn prepare(&self, config: Arc<Config>) -> Result<Prepared, Refused> {
        let before = self.current.load_full();
        let mut stuck = before.config.difference(&config);
        stuck.retain(|change| change.when == When::Restart);
        if !stuck.is_empty() {
            return Err(Refused::Restart(stuck));
        }
        let fates = fates(&before.config, &config);
        let goes_on = |name: &str| fates.get(name) == Some(&Fate::GoesOn);
        let after = Gateway::build(Arc::clone(&before.node), config, Some(&before), goes_on)?;
        Ok(Prepared { before, after, fates })
    }

    /// Takes the configuration over. Returns once every new request is served by it; what has to end
    /// ends behind it. To be called on a runtime.
    pub fn commit(&self, prepared: Prepared) {
        let Prepared { before, after, fates } = prepared;
        self.current.store(Arc::clone(&after));
        after.begin(&before);
        farewell::rebind(&before, &after, &fates);
        let worker = before.workers.next().unwrap_or_else(tokio::runtime::Handle::current);
        for (name, fate) in fates {
            let Some(old) = before.server(&name).map(Arc::clone) else { continue };
            let before = Arc::clone(&before);
            match fate {
                Fate::Begins => {}
                Fate::GoesOn | Fate::BeginsAnew => {
                    let Some(new) = after.server(&name).map(Arc::clone) else { continue };
                    worker.spawn(farewell::leave_behind(before, old, new));
                }
                Fate::Ends => {
                    tracing::info!(server = name, "a server has left the configuration");
                    worker.spawn(farewell::end(before, old));
                }
            }
        }
    }

    /// The configuration that this node runs.
    pub fn running(&self) -> Arc<Config> {
        Arc::clone(&self.current.load().config)
    }

    /// The servers of the configuration that this node runs.
    pub fn servers(&self) -> Servers {
        Servers { gateway: self.current.load_full() }
    }
}

// === impl Prepared ===

impl Prepared {
    /// The servers that there will be, for a control plane that is told of them before they are.
    #[must_use]
    pub fn servers(&self) -> Servers {
        Servers { gateway: Arc::clone(&self.after) }
    }
}

// === impl Servers ===

impl Servers {
    /// The servers and their instances as this node has them: where the control plane says what it
    /// finds, and hears what happens.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.gateway.fleet
    }

    /// Makes a check of an instance, past its breaker and counted nowhere. It runs on a worker, over
    /// the worker's connections.
    ///
    /// # Cancel safety
    /// The check goes on to its end; nobody hears of it.
    pub async fn check(&self, at: fleet::At, kind: &CheckKind, within: Duration) -> fleet::Checked {
        let (gateway, kind) = (Arc::clone(&self.gateway), kind.clone());
        let made = async move { fleet::check(&gateway, at, &kind, within).await };
        let worker = self.gateway.workers.next();
        let runtime = worker.unwrap_or_else(tokio::runtime::Handle::current);
        runtime.spawn(made).await.unwrap_or_else(|_| fleet::Checked::not_made())
    }
}

/// Names every setting that stands in the way, and what to do.
fn restart(changes: &[Change]) -> String {
    let mut text = String::from("a running node cannot change ");
    for (at, Change { key, old, new, .. }) in changes.iter().enumerate() {
        let between = if at == 0 { "" } else { "; " };
        let (old, new) = (old.as_deref(), new.as_deref());
        text += between;
        text += key;
        match (old, new) {
            (Some(old), Some(new)) if old == new => text += " (its value is not shown)",
            (old, new) => {
                let (old, new) = (old.unwrap_or("nothing"), new.unwrap_or("nothing"));
                text += &format!(" from {old} to {new}");
            }
        }
    }
    text + ": undo that, or restart the nodes with the new file one after another"
}
