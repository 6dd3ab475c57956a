//! `servers.NAME.balance`: which of several instances gets a call.

use std::time::Duration;

/// How calls that are bound to no instance yet are spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// How one is chosen. By default `ReadWrite` where an instance is a replica, else
    /// `LeastConnections`.
    pub strategy: Strategy,
    /// For [`Strategy::Hash`]: where in the arguments the key stands, one name per step;
    /// `arguments.user.id` is `["user", "id"]`. Never empty there, empty otherwise.
    pub hash_on: Vec<String>,
    /// How long a client without a session stays with its instance. 0s (not at all) to 1d.
    pub sticky_for: Duration,
    /// If a smaller share of instances is healthy, all are used: what is left would break under the
    /// load of the rest. 0 (never) to 1.
    pub panic_threshold: f64,
    /// How long an instance that is new or came back takes to its full share. 0s (at once) to 1h.
    pub slow_start: Duration,
    /// For [`Strategy::RateAware`]: what one instance takes, counted over all nodes. Given only
    /// there.
    pub rate: Option<InstanceRate>,
}

/// How one instance of several is chosen. All of them leave out what is unhealthy or open, and
/// prefer the node's own region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other.
    RoundRobin,
    /// At random, by weight and health; only those with a score above 0.5.
    Weighted,
    /// The one with the fewest calls, for its weight.
    LeastConnections,
    /// Writes to the primary, Reads to the replicas, the nearest first.
    ReadWrite,
    /// The same key to the same instance.
    Hash,
    /// The one with the most left of its calls a minute.
    RateAware,
}

/// What one instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceRate {
    /// Calls a minute. 1 to 1,000,000.
    pub per_minute: u32,
    /// Calls at once after a pause. 1 to 1,000,000.
    pub burst: u32,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            strategy: Strategy::LeastConnections,
            hash_on: Vec::new(),
            sticky_for: Duration::from_secs(3600),
            panic_threshold: 0.5,
            slow_start: Duration::from_secs(30),
            rate: None,
        }
    }
}

impl Default for InstanceRate {
    fn default() -> Self {
        Self { per_minute: 100, burst: 20 }
    }
}

// === impl Strategy ===

impl Strategy {
    /// The word for it in the configuration and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::LeastConnections => "least_connections",
            Self::ReadWrite => "read_write",
            Self::Hash => "hash",
            Self::RateAware => "rate_aware",
        }
    }
}
