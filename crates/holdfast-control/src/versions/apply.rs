//! What a running node can do with a configuration: say whether it could take it over, and do so.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use holdfast_config::{Change, Config};

/// A running node's parts together. One call at a time.
pub trait Apply: Send + Sync + 'static {
    /// What the node runs.
    fn running(&self) -> Arc<Config>;

    /// What would change. Nothing does.
    ///
    /// # Errors
    /// [`Refusal`].
    fn check<'a>(&'a self, new: &'a Config) -> BoxFuture<'a, Result<Vec<Change>, Refusal>>;

    /// Takes `new` over, whole or not at all, without dropping a call. Returns what has changed.
    ///
    /// # Errors
    /// [`Refusal`]: then nothing has changed.
    fn apply(&self, new: Config) -> BoxFuture<'_, Result<Vec<Change>, Refusal>>;

    /// What the node runs is this version of the group's from here on.
    fn runs(&self, version: u64);
}

/// Why a node does not take a configuration over: a sentence for the operator that names what is meant
/// and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
