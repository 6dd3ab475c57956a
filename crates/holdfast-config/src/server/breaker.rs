//! `servers.NAME.breaker`: when calls to a server or instance are refused at once.

use std::time::Duration;

/// When a circuit breaker opens, how long it stays open, and how it lets calls back.
///
/// # The defaults never open on 1 % of random errors
/// Five failures in a row happen by chance once in 10^10 calls at 1 %. The rate is looked at only
/// from `minimum_calls` = 500 calls in the window on: 5 % of 500 are 25 failures where 5 are
/// expected, which chance reaches once in more than 10^9 looks. With 100 calls it would be 5 where
/// 1 is expected, once in 270 looks, and a healthy server would be refused every few minutes. A
/// server with less traffic than that is judged by failures in a row and by its health checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    /// Whether calls are ever refused by it. `CIRCUIT_BREAKER_ENABLED` sets the default.
    pub enabled: bool,
    /// Failures in a row that open it. 3 to 15. `CIRCUIT_BREAKER_THRESHOLD` sets the default.
    pub consecutive_failures: u32,
    /// Share of failures among the calls of `window` that opens it. 0.01 to 1.
    pub failure_rate: f64,
    /// What `failure_rate` looks back on. 10s to 1h.
    pub window: Duration,
    /// Calls that `window` must hold before `failure_rate` says anything. 10 to 1,000,000.
    pub minimum_calls: u32,
    /// An answer that takes longer counts as a failure. 100ms to 1h. `None`: slowness is none, since
    /// a tool may well take minutes.
    pub slow_call: Option<Duration>,
    /// How long it stays open the first time. 100ms to 1h. `CIRCUIT_BREAKER_TIMEOUT` sets the
    /// default.
    pub open_for: Duration,
    /// What that grows to when it opens again and again. At least `open_for`, at most 1h.
    pub max_open_for: Duration,
    /// Share of calls that a half-open one lets through, at least one per `open_for`. 0.01 to 1.
    pub half_open_share: f64,
    /// Successes in a row that close a half-open one. 1 to 100.
    pub half_open_successes: u32,
    /// What the share of calls rises by, step by step, after it closed. 0.01 to 1.
    pub ramp_step: f64,
    /// How long the rise to all calls takes. 0s (at once) to 1h.
    pub ramp_over: Duration,
    /// Tools that have a breaker of their own besides the server's. At most 100.
    pub per_tool: Vec<String>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: 5,
            failure_rate: 0.05,
            window: Duration::from_secs(600),
            minimum_calls: 500,
            slow_call: None,
            open_for: Duration::from_secs(30),
            max_open_for: Duration::from_secs(300),
            half_open_share: 0.1,
            half_open_successes: 3,
            ramp_step: 0.1,
            ramp_over: Duration::from_secs(300),
            per_tool: Vec::new(),
        }
    }
}
