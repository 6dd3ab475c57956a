//! The data plane as the control plane uses it: what it can ask of the servers, what the calls say, and
//! what it is told. All of it by place ([`At`]); nothing here waits for a quorum.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_config::CheckKind;
use holdfast_engine::breaker::Evidence;
use holdfast_engine::failover::Failover;
use holdfast_proxy::Servers;
pub(crate) use holdfast_proxy::fleet::{At, CheckResult, Checked, Lost, Sight, Verdict, Word};
pub(crate) use holdfast_proxy::health::Check;
pub(crate) use holdfast_proxy::metrics::Traffic;
pub(crate) use holdfast_proxy::own::{Activity, Own};

/// The data plane of this node.
pub trait Plane: Send + Sync + 'static {
    /// Makes one check at an instance. It bypasses the breakers and never counts as a call.
    ///
    /// # Cancel safety
    /// Dropped, nobody hears how it ended; the session that is kept for checks stays.
    fn check<'a>(
        &'a self,
        at: At,
        check: &'a CheckKind,
        within: Duration,
    ) -> BoxFuture<'a, Checked>;

    /// What this node's calls say of an instance now.
    fn sight(&self, at: At) -> Sight;

    /// What this node's breakers of a whole server have to tell the others.
    fn server_evidence(&self, server: usize) -> Evidence;

    /// What this node's breaker of one of a server's tools has to tell the others, that has one of its own.
    fn tool_evidence(&self, server: usize, tool: &str) -> Evidence;

    /// Waits until a breaker has changed, or an instance has failed a call, since the last time that
    /// this returned; which instances have, so that they are checked at once.
    ///
    /// # Cancel safety
    /// A change is not lost.
    fn changed(&self) -> BoxFuture<'_, Vec<At>>;

    /// From here on calls go by this state. When it returns, no call is admitted by an earlier one.
    fn route(&self, server: usize, failover: Arc<Failover>);

    /// What the group has found about an instance.
    fn judge(&self, at: At, verdict: Verdict);

    /// How this node's last round of checks of an instance went, for `/health`.
    fn checked(&self, at: At, round: Vec<CheckResult>);

    /// This node is the one at this place of so many that share what an instance may take a minute.
    fn share_rates(&self, place: usize, nodes: usize);

    /// What the group or an operator says of a breaker: an instance's, or with none all of the server's.
    fn say(&self, server: usize, instance: Option<usize>, word: Word);

    /// The same of the breaker of one of a server's tools, that has one of its own.
    fn say_of_tool(&self, server: usize, tool: &str, word: Word);

    /// Every node reads what nodes of this number do (`replicated::READS`), as far as is known; until it is told, 0.
    fn all_read(&self, reads: u32);

    /// What clients of a server lost since this was last asked.
    fn take_lost(&self, server: usize) -> Option<Lost>;

    /// What this node is busy with, and was since its start.
    fn activity(&self) -> Activity;

    /// When the certificates end that `https` servers have shown, in seconds since the Unix epoch.
    fn certificates(&self) -> Vec<(String, u64)>;

    /// What was found of the node itself, for `/health` and the operator.
    fn is_found(&self, own: Own);
}

impl Plane for Servers {
    fn check<'a>(
        &'a self,
        at: At,
        check: &'a CheckKind,
        within: Duration,
    ) -> BoxFuture<'a, Checked> {
        Box::pin(Self::check(self, at, check, within))
    }

    fn sight(&self, at: At) -> Sight {
        self.fleet().sight(at)
    }

    fn server_evidence(&self, server: usize) -> Evidence {
        self.fleet().server_evidence(server)
    }

    fn tool_evidence(&self, server: usize, tool: &str) -> Evidence {
        self.fleet().tool_evidence(server, tool)
    }

    fn changed(&self) -> BoxFuture<'_, Vec<At>> {
        Box::pin(self.fleet().changed())
    }

    fn route(&self, server: usize, failover: Arc<Failover>) {
        self.fleet().route(server, failover);
    }

    fn judge(&self, at: At, verdict: Verdict) {
        self.fleet().judge(at, verdict);
    }

    fn checked(&self, at: At, round: Vec<CheckResult>) {
        self.fleet().checked(at, round);
    }

    fn share_rates(&self, place: usize, nodes: usize) {
        self.fleet().share_rates(place, nodes);
    }

    fn say(&self, server: usize, instance: Option<usize>, word: Word) {
        self.fleet().say(server, instance, word);
    }

    fn say_of_tool(&self, server: usize, tool: &str, word: Word) {
        self.fleet().say_of_tool(server, tool, word);
    }

    fn all_read(&self, reads: u32) {
        Self::all_read(self, reads);
    }

    fn take_lost(&self, server: usize) -> Option<Lost> {
        self.fleet().take_lost(server)
    }

    fn activity(&self) -> Activity {
        Self::activity(self)
    }

    fn certificates(&self) -> Vec<(String, u64)> {
        self.expiries()
    }

    fn is_found(&self, own: Own) {
        Self::is_found(self, own);
    }
}
