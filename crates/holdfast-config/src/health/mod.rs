//! `health`: how servers are checked unless they say otherwise, and how a cluster agrees on it.

mod node;
mod read;

use std::time::Duration;

use holdfast_engine::health::Bars;
use holdfast_engine::health::passive::{Threshold, Thresholds};
use holdfast_engine::health::votes::Weights;

pub use self::node::{Levels, NodeHealth};
pub(crate) use self::read::{LEAST_INTERVAL, MOST_INTERVAL, check_timeout};

/// Defaults for every server's checks, and what is done with their results.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// From one round to the next. 500ms to 1h. `HA_HEALTH_CHECK_INTERVAL` takes its place.
    pub interval: Duration,
    /// The same for servers that are `critical`. 500ms to 1h.
    pub critical_interval: Duration,
    /// How long one check may take. 100ms to 1m.
    pub timeout: Duration,
    /// How often a failed check is tried again before it counts as failed. 0 to 10.
    pub retries: u32,
    /// How the nodes agree on a server's health.
    pub votes: Votes,
    /// What is read off the calls themselves, and what instances say of their own resources.
    pub passive: Passive,
    /// Below which score of 0 to 100 what is done. Each 0 to 100, `fail_over` up to 50; falling.
    pub measures: Bars,
}

/// What makes a node's vote on an instance, and how many votes make a verdict. More than half say
/// that it is degraded; for unhealthy it takes `fail`.
#[derive(Clone, Debug, PartialEq)]
pub struct Votes {
    /// Weight of the node's own checks in its vote. 0 to 1; the four weights together are above 0,
    /// and only their proportion matters.
    pub local: f64,
    /// Weight of the other nodes' checks.
    pub peers: f64,
    /// Weight of checks made from outside the cluster.
    pub external: f64,
    /// Weight of what clients' calls met.
    pub users: f64,
    /// Votes that a verdict takes at least, where the cluster has as many nodes. 1 to 100.
    pub least_nodes: u32,
    /// Share of the votes that must say so before an instance counts as unhealthy, and with it for
    /// a failover. 0.5 to 1.
    pub fail: f64,
    /// How old the evidence behind a vote may be. 1s to 10m.
    pub round: Duration,
    /// How long a vote counts. 100ms to `round`.
    pub timeout: Duration,
}

/// What is read off the calls themselves, over windows of 30, 60 and 120 s, and beside that of the
/// instance's own resources, over 300 s. Each scores 1 up to `good`, 0 from `bad` on, and in proportion
/// between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Passive {
    /// Mean time to an answer.
    pub response_time: Indicator<Duration>,
    /// Share of calls that failed.
    pub error_rate: Indicator<f64>,
    /// Share of connections that came about; the only one that is good above.
    pub connect_success: Indicator<f64>,
    /// Share of the instance's CPU in use, over 300 s, where a check of type `cpu` reads it.
    pub cpu: Indicator<f64>,
    /// The same of its memory.
    pub memory: Indicator<f64>,
    /// The same of its waiting for I/O.
    pub io_wait: Indicator<f64>,
}

/// One thing that is read off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Indicator<T> {
    /// Where good ends. Times: 1ms to 1h; shares: 0 to 1.
    pub good: T,
    /// Where it is hopeless, beyond `good`.
    pub bad: T,
    /// What it counts among the others. 0 (nothing) to 1.
    pub weight: f64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            critical_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            retries: 2,
            votes: Votes::default(),
            passive: Passive::default(),
            measures: Bars::default(),
        }
    }
}

impl Default for Votes {
    fn default() -> Self {
        Self {
            local: 0.4,
            peers: 0.3,
            external: 0.2,
            users: 0.1,
            least_nodes: 3,
            fail: 0.66,
            round: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Passive {
    fn default() -> Self {
        let (good, bad) = (Duration::from_millis(500), Duration::from_secs(5));
        Self {
            response_time: Indicator { good, bad, weight: 0.3 },
            error_rate: Indicator { good: 0.05, bad: 0.5, weight: 0.4 },
            connect_success: Indicator { good: 0.95, bad: 0.5, weight: 0.3 },
            cpu: Indicator { good: 0.9, bad: 1.0, weight: 0.2 },
            memory: Indicator { good: 0.85, bad: 1.0, weight: 0.15 },
            io_wait: Indicator { good: 0.5, bad: 1.0, weight: 0.1 },
        }
    }
}

// === impl Votes ===

impl Votes {
    /// The weights, for the engine.
    #[must_use]
    pub fn weights(&self) -> Weights {
        let Self { local, peers, external, users, .. } = *self;
        Weights { local, peers, external, users }
    }
}

// === impl Passive ===

impl Passive {
    /// The same in the engine's units.
    #[must_use]
    pub fn thresholds(&self) -> Thresholds {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let share =
            |it: Indicator<f64>| Threshold { weight: it.weight, fine: it.good, hopeless: it.bad };
        let time = self.response_time;
        Thresholds {
            response_ms: Threshold {
                weight: time.weight,
                fine: ms(time.good),
                hopeless: ms(time.bad),
            },
            error_rate: share(self.error_rate),
            connected: share(self.connect_success),
            cpu: share(self.cpu),
            memory: share(self.memory),
            io_wait: share(self.io_wait),
        }
    }
}
