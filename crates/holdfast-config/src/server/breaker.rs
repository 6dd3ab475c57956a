//! `servers.NAME.breaker`: when calls to a server or instance are refused at once.

use std::time::Duration;

use crate::section::Section;
use crate::units::show_duration;

/// When a circuit breaker opens, how long it stays open, and how it lets calls back.
///
/// # The defaults never open on 1 % of random errors
/// Five failures in a row happen by chance once in 10^10 calls at 1 %. The rate counts only where
/// it is above 5 % by more than three standard deviations (`holdfast_engine::breaker`): that is 8
/// failures of the 50 calls that `minimum_calls` asks for, where half a one is expected; chance
/// makes that of a window of 50 calls once in 3 * 10^7, and of a window of 500, where 40 are needed
/// and 5 expected, never. A plain 5 % of 50 would be 3 failures, once in 70 windows, and a healthy
/// server would be refused every few minutes.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    /// Whether calls are ever refused by it. `CIRCUIT_BREAKER_ENABLED` sets the default.
    pub enabled: bool,
    /// Failures in a row that open it. 3 to 15. `CIRCUIT_BREAKER_THRESHOLD` sets the default.
    pub consecutive_failures: u32,
    /// Share of failures among the calls of `window` that opens it, when it is exceeded by more
    /// than chance explains. 0.01 to 1; 1 leaves it to failures in a row.
    pub failure_rate: f64,
    /// What `failure_rate` looks back on. 10s to 1h.
    pub window: Duration,
    /// Calls that `window` must hold before `failure_rate` says anything. 10 to 1,000,000.
    pub minimum_calls: u32,
    /// A call that has no answer for so long counts as a failure from then on, however it ends.
    /// 100ms to 1h, at most `window`. `None`: 45s, and no longer than the server's `timeout`.
    pub slow_call: Option<Duration>,
    /// How long it stays open the first time. 100ms to 1h. `CIRCUIT_BREAKER_TIMEOUT` sets the
    /// default.
    pub open_for: Duration,
    /// What that grows to when it opens again and again. At least `open_for`, at most 1h.
    pub max_open_for: Duration,
    /// Share of calls that a half-open one lets through. 0.01 to 1.
    pub half_open_share: f64,
    /// While it is not closed, one call passes at least this often once `open_for` is over, however
    /// few there are. 100ms to 1m.
    pub probe_interval: Duration,
    /// Successes in a row that close a half-open one. 1 to 100.
    pub half_open_successes: u32,
    /// How long the rise to all calls takes afterwards, a tenth of them at a time. 0s (at once) to
    /// 1h.
    pub ramp_over: Duration,
    /// Tools that have a breaker of their own beside their instances'. At most 100.
    pub per_tool: Vec<String>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: 5,
            failure_rate: 0.05,
            window: Duration::from_secs(600),
            minimum_calls: 50,
            slow_call: None,
            open_for: Duration::from_secs(30),
            max_open_for: Duration::from_secs(60),
            half_open_share: 0.1,
            probe_interval: Duration::from_secs(1),
            half_open_successes: 3,
            ramp_over: Duration::from_secs(300),
            per_tool: Vec::new(),
        }
    }
}

// === impl Breaker ===

impl Breaker {
    /// The section over the defaults, which the environment may have set.
    pub(crate) fn read(mut section: Section<'_>, defaults: &Self) -> Self {
        let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
        let share = 0.01..=1.0;
        let mut breaker = defaults.clone();
        section.flag("enabled", &mut breaker.enabled);
        section.number("consecutive_failures", 3..=15, &mut breaker.consecutive_failures);
        section.share("failure_rate", share.clone(), &mut breaker.failure_rate);
        section.duration("window", s * 10..=s * 3600, &mut breaker.window);
        section.number("minimum_calls", 10..=1_000_000, &mut breaker.minimum_calls);
        let slow = section.field("slow_call");
        breaker.slow_call = slow.and_then(|field| field.duration(&(ms * 100..=s * 3600)));
        section.duration("open_for", ms * 100..=s * 3600, &mut breaker.open_for);
        // Whoever raises the one raises the other with it.
        breaker.max_open_for = breaker.max_open_for.max(breaker.open_for).min(s * 3600);
        section.duration("max_open_for", ms * 100..=s * 3600, &mut breaker.max_open_for);
        section.share("half_open_share", share, &mut breaker.half_open_share);
        section.duration("probe_interval", ms * 100..=s * 60, &mut breaker.probe_interval);
        section.number("half_open_successes", 1..=100, &mut breaker.half_open_successes);
        section.duration("ramp_over", Duration::ZERO..=s * 3600, &mut breaker.ramp_over);
        section.names("per_tool", 100, &mut breaker.per_tool);
        breaker.fits(&section);
        section.finish();
        breaker
    }

    fn fits(&self, section: &Section<'_>) {
        let (open, most) = (show_duration(self.open_for), show_duration(self.max_open_for));
        if self.max_open_for < self.open_for {
            section.report(
                "max_open_for",
                format!("{most} is shorter than open_for, {open}"),
                "max_open_for from open_for on",
                &format!("write {open} or more"),
            );
        }
        if let Some(slow) = self.slow_call.filter(|slow| *slow > self.window) {
            let (slow, window) = (show_duration(slow), show_duration(self.window));
            section.report(
                "slow_call",
                format!("{slow} is longer than window, {window}: it would be seen too late"),
                "slow_call up to window",
                &format!("write {window}, or a longer window"),
            );
        }
    }
}
