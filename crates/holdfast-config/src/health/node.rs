//! `node.health`: when a node itself is not well.

use std::time::Duration;

/// Three lines that a value may cross. Most are crossed upwards; `success` and
/// `certificate_expiry` downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels<T> {
    /// Worth a look.
    pub warning: T,
    /// Something is wrong.
    pub critical: T,
    /// The node is about to fail.
    pub emergency: T,
}

/// When a node itself is not well. Shares are 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// Share of the processor.
    pub cpu: Levels<f64>,
    /// Share of the memory that the node may use.
    pub memory: Levels<f64>,
    /// Share of the disk that holds `node.data_dir`.
    pub disk: Levels<f64>,
    /// Share of calls that the gateway answered without an error of its own; falling.
    pub success: Levels<f64>,
    /// 95th percentile of what the gateway itself adds and servers take. 1ms to 1h.
    pub p95: Levels<Duration>,
    /// Client connections at once. 1 to 10,000,000.
    pub connections: Levels<u64>,
    /// Time until a certificate ends; falling. 0s to 365d.
    pub certificate_expiry: Levels<Duration>,
}

impl Default for NodeHealth {
    fn default() -> Self {
        let (ms, day) = (Duration::from_millis, Duration::from_secs(86_400));
        Self {
            cpu: Levels::new(0.7, 0.85, 0.95),
            memory: Levels::new(0.75, 0.9, 0.95),
            disk: Levels::new(0.8, 0.9, 0.95),
            success: Levels::new(0.98, 0.95, 0.9),
            p95: Levels::new(ms(500), ms(1000), ms(2000)),
            connections: Levels::new(5000, 8000, 10_000),
            certificate_expiry: Levels::new(day * 30, day * 7, day),
        }
    }
}

// === impl Levels ===

impl<T> Levels<T> {
    /// The three lines in the order in which they are crossed.
    pub const fn new(warning: T, critical: T, emergency: T) -> Self {
        Self { warning, critical, emergency }
    }
}
