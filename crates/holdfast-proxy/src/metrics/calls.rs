//! What is counted for every call: how it ended and how long it took.
//!
//! A call costs three relaxed adds on lines that belong to the thread: its outcome, its bucket, its
//! time. The lines of a method of a server are allocated when the first such call ends, so
//! unused ones cost a pointer, are never rendered, and a scrape stays small.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use holdfast_mcp::method::Method;

use super::cell::{shard, shard_count};

/// Upper bounds of the duration buckets in microseconds; the last bucket, without a bound, follows.
pub const BOUNDS_MICROS: [u64; 17] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// The same bounds as Prometheus writes them, in seconds.
pub(super) const BOUND_LABELS: [&str; 17] = [
    "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5",
    "1", "2.5", "5", "10", "30", "60",
];
/// Buckets of a duration histogram, the unbounded one included.
pub const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// How a call ended, seen from the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallOutcome {
    /// The server's result.
    Ok,
    /// The server's own JSON-RPC error: the transport worked.
    RpcError,
    /// No instance could be reached, so the call did not run (-31001).
    ServerUnavailable,
    /// The connection was lost after the call was sent, so it may have run (-31002).
    OutcomeUnknown,
    /// Refused for load or rate (-31003).
    Overloaded,
    /// The session store, or something else that the gateway needs, is away (-31004).
    Dependency,
    /// The server stayed silent beyond the deadline (-31005).
    TimedOut,
    /// Refused by the gateway with a 4xx, before a server saw it.
    Rejected,
    /// Ended by the client.
    Cancelled,
}

/// The coarse result that the duration histogram is split by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Ok,
    Error,
    Cancelled,
}

/// Calls of one server since the process started, over all methods.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Calls that ended, however they ended.
    pub calls: u64,
    /// Those that ended in an error, the server's own JSON-RPC errors included.
    pub errors: u64,
    /// Those that failed for the gateway's or the network's reasons: `errors` without the server's
    /// own JSON-RPC errors and without requests refused as invalid.
    pub failures: u64,
    /// Of `failures`, those that the server was not asked for: the store, or a server that it depends on, was away.
    pub unasked: u64,
    /// Those that the client ended.
    pub cancelled: u64,
    /// Finished calls by duration; the bounds are [`BOUNDS_MICROS`]. Cancelled ones are left out.
    pub buckets: [u64; BUCKETS],
}

/// Counts of one server's (method, outcome) pairs.
#[derive(Debug)]
pub(super) struct Calls {
    shards: Box<[ShardCalls]>,
    shard_count: usize,
}

/// What one method of one server has counted, summed over the threads.
#[derive(Clone, Debug, Default)]
pub(super) struct MethodTotals {
    pub(super) outcomes: [u64; CallOutcome::ALL.len()],
    pub(super) durations: [HistogramTotals; Status::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HistogramTotals {
    pub(super) buckets: [u64; BUCKETS],
    pub(super) sum_micros: u64,
}

/// By method.
type ShardCalls = [OnceLock<Box<MethodCell>>; Method::ALL.len()];

#[derive(Debug, Default)]
#[repr(align(128))]
struct MethodCell {
    outcomes: [AtomicU64; CallOutcome::ALL.len()],
    durations: [Histogram; Status::ALL.len()],
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

// === impl CallOutcome ===

impl CallOutcome {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::RpcError,
        Self::ServerUnavailable,
        Self::OutcomeUnknown,
        Self::Overloaded,
        Self::Dependency,
        Self::TimedOut,
        Self::Rejected,
        Self::Cancelled,
    ];

    /// The value of the label `error_type` (for [`Self::Ok`], which is no error: `ok`).
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::RpcError => "rpc_error",
            Self::ServerUnavailable => "server_unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Overloaded => "overloaded",
            Self::Dependency => "dependency_unavailable",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it counts in `mcp_errors_total`.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.status() == Status::Error
    }

    /// Whether the gateway or the network failed the call, rather than the server's own logic or
    /// the client.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self.is_error() && !matches!(self, Self::RpcError | Self::Rejected)
    }

    pub(super) fn status(self) -> Status {
        match self {
            Self::Ok => Status::Ok,
            Self::Cancelled => Status::Cancelled,
            Self::RpcError
            | Self::ServerUnavailable
            | Self::OutcomeUnknown
            | Self::Overloaded
            | Self::Dependency
            | Self::TimedOut
            | Self::Rejected => Status::Error,
        }
    }
}

// === impl Status ===

impl Status {
    pub(super) const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Cancelled];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

// === impl Traffic ===

impl Traffic {
    /// The duration below which the fraction `q` (0..=1) of the finished calls stayed, interpolated
    /// within its bucket; `None` without calls. Beyond the last bound it is that bound (60 s).
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        quantile(&self.buckets, q)
    }

    /// Adds what was counted for another server.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.failures += other.failures;
        self.unasked += other.unasked;
        self.cancelled += other.cancelled;
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, n)| *sum += n);
    }

    /// What was counted after `earlier`, an older reading of the same server.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets;
        for (now, before) in buckets.iter_mut().zip(earlier.buckets) {
            *now = now.saturating_sub(before);
        }
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            errors: self.errors.saturating_sub(earlier.errors),
            failures: self.failures.saturating_sub(earlier.failures),
            unasked: self.unasked.saturating_sub(earlier.unasked),
            cancelled: self.cancelled.saturating_sub(earlier.cancelled),
            buckets,
        }
    }
}

// === impl Calls ===

impl Calls {
    pub(super) fn new() -> Self {
        let shard_count = shard_count();
        let shards = (0..shard_count).map(|_| std::array::from_fn(|_| OnceLock::new())).collect();
        Self { shards, shard_count }
    }

    #[inline]
    pub(super) fn record(&self, method: Method, outcome: CallOutcome, elapsed: Duration) {
        let slot = &self.shards[shard(self.shard_count)][method.index()];
        let cell = slot.get_or_init(Box::default);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let histogram = &cell.durations[outcome.status() as usize];
        cell.outcomes[outcome as usize].fetch_add(1, Relaxed);
        histogram.buckets[bucket(micros)].fetch_add(1, Relaxed);
        histogram.sum_micros.fetch_add(micros, Relaxed);
    }

    /// The totals of one method, or `None` when no such call has ended.
    pub(super) fn method(&self, method: Method) -> Option<MethodTotals> {
        let mut totals: Option<MethodTotals> = None;
        for shard in &self.shards {
            let Some(cell) = shard[method.index()].get() else { continue };
            cell.add_to(totals.get_or_insert_default());
        }
        totals
    }

    pub(super) fn traffic(&self) -> Traffic {
        let mut totals = MethodTotals::default();
        let cells = self.shards.iter().flatten().filter_map(OnceLock::get);
        cells.for_each(|cell| cell.add_to(&mut totals));
        let mut traffic = Traffic::default();
        for (outcome, n) in CallOutcome::ALL.into_iter().zip(totals.outcomes) {
            traffic.calls += n;
            traffic.errors += if outcome.is_error() { n } else { 0 };
            traffic.failures += if outcome.is_failure() { n } else { 0 };
            traffic.unasked += if outcome == CallOutcome::Dependency { n } else { 0 };
            traffic.cancelled += if outcome == CallOutcome::Cancelled { n } else { 0 };
        }
        for status in [Status::Ok, Status::Error] {
            let buckets = totals.durations[status as usize].buckets;
            traffic.buckets.iter_mut().zip(buckets).for_each(|(sum, n)| *sum += n);
        }
        traffic
    }
}

impl MethodCell {
    fn add_to(&self, totals: &mut MethodTotals) {
        for (sum, n) in totals.outcomes.iter_mut().zip(&self.outcomes) {
            *sum += n.load(Relaxed);
        }
        for (sum, histogram) in totals.durations.iter_mut().zip(&self.durations) {
            sum.sum_micros = sum.sum_micros.saturating_add(histogram.sum_micros.load(Relaxed));
            for (sum, n) in sum.buckets.iter_mut().zip(&histogram.buckets) {
                *sum += n.load(Relaxed);
            }
        }
    }
}

/// The first bucket whose bound is not below `micros`. A scan: most calls end in the first few.
#[inline]
fn bucket(micros: u64) -> usize {
    BOUNDS_MICROS.iter().position(|&bound| micros <= bound).unwrap_or(BOUNDS_MICROS.len())
}

/// An estimate within a bucket; counts stay far below 2^53, so `f64` holds them.
fn quantile(buckets: &[u64; BUCKETS], q: f64) -> Option<Duration> {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = q.clamp(0.0, 1.0) * total as f64;
    let mut below = 0_u64;
    for (index, &n) in buckets.iter().enumerate() {
        if n > 0 && (below + n) as f64 >= rank {
            let Some(&upper) = BOUNDS_MICROS.get(index) else { break };
            let lower = if index == 0 { 0 } else { BOUNDS_MICROS[index - 1] };
            let within = ((rank - below as f64) / n as f64).clamp(0.0, 1.0);
            let micros = lower as f64 + (upper - lower) as f64 * within;
            return Some(Duration::from_micros(micros as u64));
        }
        below += n;
    }
    Some(Duration::from_micros(BOUNDS_MICROS[BOUNDS_MICROS.len() - 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_statuses_index_their_tables() {
        for (index, outcome) in CallOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, index);
        }
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(250), 0);
        assert_eq!(bucket(251), 1);
        assert_eq!(bucket(60_000_000), 16);
        assert_eq!(bucket(u64::MAX), 17);
    }

    #[test]
    fn the_labels_say_the_bounds() {
        for (label, micros) in BOUND_LABELS.into_iter().zip(BOUNDS_MICROS) {
            let seconds: f64 = label.parse().unwrap();
            assert!((seconds * 1e6 - micros as f64).abs() < 1e-6, "{label} is not {micros} µs");
        }
    }

    #[test]
    fn traffic_tells_errors_of_the_server_from_failures() {
        let calls = Calls::new();
        let ms = Duration::from_millis;
        calls.record(Method::ToolsCall, CallOutcome::Ok, ms(2));
        calls.record(Method::ToolsCall, CallOutcome::RpcError, ms(2));
        calls.record(Method::ToolsList, CallOutcome::TimedOut, ms(70_000));
        calls.record(Method::ToolsList, CallOutcome::Cancelled, ms(1));
        calls.record(Method::ToolsCall, CallOutcome::Dependency, ms(2));
        let traffic = calls.traffic();
        assert_eq!((traffic.calls, traffic.errors, traffic.failures), (5, 3, 2));
        assert_eq!(traffic.unasked, 1);
        assert_eq!(traffic.cancelled, 1);
        assert_eq!(traffic.buckets.iter().sum::<u64>(), 4, "cancelled calls have no duration here");
        assert_eq!(traffic.since(&traffic), Traffic::default());
        let mut sum = Traffic::default();
        sum.add(&traffic);
        assert_eq!(sum, traffic, "what is added is added whole");
    }

    #[test]
    fn quantiles_interpolate_and_end_at_the_last_bound() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.quantile(0.5), None);
        traffic.buckets[2] = 100; // 0.5 ms to 1 ms
        assert_eq!(traffic.quantile(0.5), Some(Duration::from_micros(750)));
        traffic.buckets[BUCKETS - 1] = 100;
        assert_eq!(traffic.quantile(0.99), Some(Duration::from_secs(60)));
    }
}
