//! The data plane as the control plane uses it: what it can ask of the servers, what the calls say, and
//! what it is told. All of it by place ([`At`]); nothing here waits for a quorum.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_config::CheckKind;
use holdfast_engine::breaker::{self, Evidence};
use holdfast_engine::failover::Failover;
use holdfast_engine::health::passive::Indicators;
use holdfast_engine::health::score::{Failure, Outcome};
use holdfast_engine::health::votes::Opinion;

use crate::plan::At;

/// The data plane of this node.
pub trait Plane: Send + Sync + 'static {
    /// Makes one check at an instance. It bypasses the breakers and never counts as a call.
    ///
    /// # Cancel safety
    /// Dropped, the request is given up; the session that is kept for checks stays.
    fn check<'a>(
        &'a self,
        at: At,
        check: &'a CheckKind,
        within: Duration,
    ) -> BoxFuture<'a, Checked>;

    /// What this node's calls say of an instance now.
    fn sight(&self, at: At) -> Sight;

    /// What this node's breaker of the whole server has to tell the others.
    fn server_evidence(&self, server: usize) -> Evidence;

    /// Waits until a breaker has changed, or an instance has failed a call, since the last time that
    /// this returned; which instances have, so that they are checked at once.
    ///
    /// # Cancel safety
    /// A change is not lost.
    fn changed(&self) -> BoxFuture<'_, Vec<At>>;

    /// From here on calls go by this state. When it returns, no call is admitted by an earlier one.
    fn route(&self, server: usize, failover: Arc<Failover>);

    /// What the group has found about an instance, and its score of 0 to 100.
    fn judge(&self, at: At, opinion: Option<Opinion>, score: u8);

    /// What the group or an operator says of a breaker: an instance's, or with none the server's own.
    fn say(&self, server: usize, instance: Option<usize>, word: Word);
}

/// How a check ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Checked {
    /// The verdict.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// What was wrong, or the result's text where a tool was called.
    pub text: String,
}

/// An instance as this node's calls see it.
#[derive(Clone, PartialEq, Debug)]
pub struct Sight {
    /// Calls that are at it now.
    pub in_flight: u64,
    /// What the calls of the last minutes say.
    pub indicators: Indicators,
    /// Where its breaker is.
    pub breaker: breaker::Phase,
    /// What its breaker has to tell the others.
    pub evidence: Evidence,
    /// When a call was last answered, in milliseconds since the Unix epoch; 0: never.
    pub answered_at: u64,
}

/// What the group or an operator says of a breaker. Generations rise with each word about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// The group opens it for so long.
    Opened {
        /// From now on.
        length: Duration,
        /// Of the word.
        generation: u64,
    },
    /// The group takes that back.
    Released {
        /// Of the word.
        generation: u64,
    },
    /// An operator holds it open or closed, or lets it decide.
    Forced {
        /// What it is to be.
        what: breaker::Override,
        /// Of the word.
        generation: u64,
    },
}

// === impl Checked ===

impl Checked {
    /// A check that failed.
    #[must_use]
    pub fn failed(failure: Failure, took: Duration, text: String) -> Self {
        Self { outcome: Outcome::Failed(failure), took, text }
    }
}

impl Default for Sight {
    fn default() -> Self {
        Self {
            in_flight: 0,
            indicators: Indicators::default(),
            breaker: breaker::Phase::Closed,
            evidence: Evidence::default(),
            answered_at: 0,
        }
    }
}
