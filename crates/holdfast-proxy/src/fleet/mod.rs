//! The servers and their instances as they are at this moment, and who may call them.
//!
//! A call asks once at its admission ([`ServerFleet::admit_calls`], with the class that it belongs to)
//! and once per attempt ([`ServerFleet::choose`]); the end of each attempt is told to the instance that it
//! went to ([`Attempt::settle`]). On the way of a call that finds all well there is no look-up by
//! name, no allocation, and no lock that is held for longer than some additions take.
//!
//! | file | holds |
//! |---|---|
//! | `server` | one server: its instances, and who is admitted there |
//! | `choice` | which instance is next |
//! | `instance` | one instance: breaker, what its calls say, what is under way, what the group finds |
//! | `attempt` | one sending of a call, from its admission at an instance to its outcome |
//! | `admission` | a call's place in its class, its turn while a failover pauses, what it depends on |
//! | `queue` | calls that wait for a connection |
//! | `outcome` | how an attempt ended |
//! | `check` | checks of an instance that no breaker refuses and none counts |
//! | `counts` | what is counted for metrics |
//! | `losses` | what clients lost that the control plane has not been told of |
//! | `control` | what the control plane says, and what it is told |
//! | `mark` | what an instance is known by beyond one configuration |
//! | `knock` | whether an instance that could not be reached can be again |
//! | `refusal` | why no instance takes a call |
//! | `turn` | what an instance takes a minute, and a call's turn |
//! | `snapshot` | all of it, for people and for metrics |
//!
//! The rules are [`holdfast_engine::breaker`], [`holdfast_engine::balance`],
//! [`holdfast_engine::limits`] and [`holdfast_engine::cascade`]; here is what happens when.
//!
//! # A breaker for a server of several instances
//! Each instance has a breaker. A server is open when every instance that may take its calls is: there
//! is no count of its own to disagree with theirs. Operators and the group speak of a server by
//! speaking of all its instances.

mod admission;
mod attempt;
mod check;
mod choice;
mod control;
mod counts;
mod instance;
mod knock;
mod losses;
mod mark;
mod outcome;
mod queue;
mod refusal;
mod server;
mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod turn;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use holdfast_config::Config;
use holdfast_engine::cascade::DependencyGraph;
use tokio::sync::{Notify, broadcast};

pub(crate) use self::admission::{Admitted, NotAdmitted, left};
pub(crate) use self::attempt::Attempt;
pub use self::check::Checked;
pub(crate) use self::check::{Kept, check};
pub use self::control::{At, Change, CheckResult, News, Sight, Verdict, Word};
pub(crate) use self::counts::{Counts, InVain, Served, Why};
pub(crate) use self::knock::TICK;
pub(crate) use self::losses::Losses;
pub use self::losses::Lost;
pub use self::outcome::Outcome;
pub(crate) use self::outcome::SHORT_REST;
pub(crate) use self::queue::InLine;
pub(crate) use self::refusal::{Reason, Refused};
pub(crate) use self::server::Ask;
pub use self::server::ServerFleet;
use self::server::Surroundings;
pub use self::snapshot::{InstanceSnapshot, ServerSnapshot};

/// Changes that are kept for a listener that is behind.
const NEWS: usize = 1024;

/// All servers of a node.
#[derive(Debug)]
pub struct Fleet {
    servers: Vec<Arc<ServerFleet>>,
    by_name: BTreeMap<String, usize>,
    news: broadcast::Sender<News>,
    heard: Arc<Notify>,
}

// === impl Fleet ===

impl Fleet {
    /// Every server of the configuration. Without one before, all are taken to be well: a cold start has
    /// no ramp. With one, what is known of an instance is known of it here too; nothing of it changes
    /// before [`Self::begin`]. `counts`: where the calls of the server at this place are counted.
    pub(crate) fn new(
        config: &Config,
        before: Option<&Self>,
        counts: impl Fn(usize) -> Arc<Counts>,
        now: Instant,
    ) -> Arc<Self> {
        let (news, _) = broadcast::channel(NEWS);
        let heard = before.map_or_else(Arc::default, |it| Arc::clone(&it.heard));
        let servers: Vec<Arc<ServerFleet>> = config
            .servers
            .iter()
            .enumerate()
            .map(|(index, (name, settings))| {
                let before = before.and_then(|it| it.server(name)).map(|it| &**it);
                let (news, heard, counts) = (news.clone(), Arc::clone(&heard), counts(index));
                let around = Surroundings { index, config, news, heard, counts, before, now };
                Arc::new(ServerFleet::new(name, settings, around))
            })
            .collect();
        let by_name: BTreeMap<String, usize> =
            config.servers.keys().cloned().enumerate().map(|(index, name)| (name, index)).collect();
        let edges = config.servers.iter().flat_map(|(name, settings)| {
            settings.depends_on.iter().map(move |needed| (name.as_str(), needed.as_str()))
        });
        // The configuration has no circles; one that had would refuse nothing.
        let graph = DependencyGraph::try_new(edges).unwrap_or_default();
        for server in &servers {
            let needed = graph.needs(&server.name()).iter().filter_map(|name| by_name.get(*name));
            server.depend_on(needed.map(|index| Arc::downgrade(&servers[*index])).collect());
        }
        Arc::new(Self { servers, by_name, news, heard })
    }

    /// From here on this one takes the calls, in place of the one `before`.
    pub(crate) fn begin(&self, before: &Self, now: Instant) {
        for server in &self.servers {
            if let Some(before) = before.server(&server.name) {
                server.begin(before, now);
            }
        }
    }

    /// The servers, in the order of the configuration.
    #[must_use]
    pub fn servers(&self) -> &[Arc<ServerFleet>] {
        &self.servers
    }

    /// The server of this name.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<&Arc<ServerFleet>> {
        self.by_name.get(name).map(|index| &self.servers[*index])
    }
}

/// 64 bits that are good enough to spread calls by, and cost nothing: no system call.
pub(crate) fn chance() -> u64 {
    thread_local! { static STATE: Cell<u64> = const { Cell::new(0) } }
    STATE.with(|state| {
        let mut x = state.get();
        if x == 0 {
            x = crate::random::u64() | 1;
        }
        // Marsaglia's xorshift64, scrambled by a multiplication.
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}
