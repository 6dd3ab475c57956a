//! The load generator: connections that call, in a closed or an open loop.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Semaphore;

use super::client::Client;
use super::histogram::Histogram;
use super::plan::{LoadPlan, Pace};

/// How long a connection waits after a failure before it connects again.
const RECONNECT_AFTER: Duration = Duration::from_millis(5);

/// What a run measured.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// Calls of the counted part that ended in a result.
    pub calls: u64,
    /// Calls of the counted part that did not.
    pub errors: u64,
    /// The same by kind; the sum is `errors`.
    pub errors_by_kind: Errors,
    /// What the first failed call met.
    pub first_error: Option<String>,
    /// Bytes of the answers' bodies, without framing.
    pub body_bytes: u64,
    /// The counted part, in seconds: as planned, or longer when open-loop calls ended late.
    pub seconds: f64,
    /// Calls per second of the counted part.
    pub throughput: f64,
    /// Latencies of the calls that ended in a result, in microseconds.
    pub mean_us: f64,
    /// Half of the calls took no longer.
    pub p50_us: f64,
    /// Nine of ten took no longer.
    pub p90_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1,000 took no longer.
    pub p999_us: f64,
    /// The slowest call.
    pub max_us: f64,
    /// Results that came in the counted part, whenever their calls were due: what an overloaded server
    /// still gets done, without what it works off afterwards.
    pub results_in_time: u64,
    /// Of the calls that were answered without a result, 99 of 100 took no longer.
    pub refused_p99_us: f64,
    /// How many of those said when to come back (`retryAfterMs`).
    pub refused_with_wait: u64,
}

/// Failed calls by kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Errors {
    /// The connection or its session could not be opened.
    pub connect: u64,
    /// The connection ended or broke before the answer was complete, or its bytes made no sense.
    pub broken: u64,
    /// A status other than 200.
    pub status: u64,
    /// 200, but no JSON-RPC result.
    pub no_result: u64,
    /// Not answered within the client's patience.
    pub given_up: u64,
    /// Still unanswered when the grace after the run was over.
    pub unanswered: u64,
    /// Open loop only: due, but no connection was free for it before the grace was over.
    pub not_started: u64,
}

/// Why a run could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan makes no sense.
    #[error("the load plan is invalid: {0}")]
    Plan(&'static str),
    /// The server cannot be reached, or opens no session.
    #[error("no connection to {address} could be opened: {source}")]
    Connect {
        /// Where to.
        address: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A thread or a runtime could not be started.
    #[error("the load generator could not start: {0}")]
    Start(#[from] io::Error),
}

/// What one connection has counted.
#[derive(Default)]
struct Tally {
    latencies: Histogram,
    results_in_time: u64,
    refusals: Histogram,
    refused_with_wait: u64,
    errors: Errors,
    first_error: Option<(Instant, String)>,
    body_bytes: u64,
    last_end: Option<Instant>,
}

/// The moments of a run, the same for every connection.
#[derive(Clone)]
struct Schedule {
    start: Instant,
    counted_from: Instant,
    end: Instant,
    pacer: Option<Arc<Pacer>>,
}

/// Releases one permit when a call is due; whichever connection is free takes it.
struct Pacer {
    due: Semaphore,
    taken: AtomicU64,
    /// How many permits were released.
    released: AtomicU64,
    /// Seconds between two calls.
    interval: f64,
}

/// Runs `plan` and blocks until it is over: opening all connections, warm-up, counted part, and at most
/// the grace. The time of the plan begins when they are open: the first calls wait for no session.
///
/// # Errors
/// When the plan is invalid, no first connection can be opened, or a thread cannot start. Failures
/// after that are counted in the report.
pub fn load(plan: &LoadPlan) -> Result<LoadReport, LoadError> {
    check(plan)?;
    probe(plan)?;
    std::thread::scope(|scope| {
        let threads = plan.threads.min(plan.connections);
        let (opened, all_opened) = mpsc::channel();
        let (mut workers, mut begin) = (Vec::new(), Vec::new());
        for index in 0..threads {
            let share = (index..plan.connections).step_by(threads).count();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (go, schedule) = mpsc::channel();
            begin.push(go);
            let opened = opened.clone();
            workers.push(
                std::thread::Builder::new()
                    .name(format!("load-{index}"))
                    .spawn_scoped(scope, move || {
                        runtime.block_on(run_connections(plan, share, opened, &schedule))
                    })?,
            );
        }
        // Ends when each thread has dropped its end.
        drop(opened);
        while all_opened.recv().is_ok() {}
        let schedule = Schedule::starting(Instant::now(), plan);
        for go in begin {
            let _ = go.send(schedule.clone());
        }
        if let Some(pacer) = &schedule.pacer {
            pacer.run(&schedule, plan.grace);
        }
        let tallies = workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default());
        Ok(report(plan, &schedule, &tallies.collect::<Vec<_>>()))
    })
}

pub(super) fn check(plan: &LoadPlan) -> Result<(), LoadError> {
    let wrong = |message| Err(LoadError::Plan(message));
    if plan.connections == 0 || plan.threads == 0 {
        return wrong("at least one connection and one thread are needed");
    }
    if plan.duration.is_zero() {
        return wrong("the duration is zero");
    }
    if !plan.path.starts_with('/') {
        return wrong("the path does not begin with /");
    }
    match plan.pace {
        Pace::Open { per_second } if !(per_second > 0.0 && per_second.is_finite()) => {
            wrong("the rate is not above zero")
        }
        _ => Ok(()),
    }
}

/// One connection and, where the dialect has one, one session: a run against nothing ends at once
/// instead of counting a million refused connections.
pub(super) fn probe(plan: &LoadPlan) -> Result<(), LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opened = runtime.block_on(async {
        tokio::time::timeout(plan.grace, open(plan))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    });
    match opened {
        Ok(_) => Ok(()),
        Err(source) => Err(LoadError::Connect { address: plan.address, source }),
    }
}

/// A connection, and the session on it where the dialect has one.
type Opened = io::Result<(Client, Option<String>)>;

/// `opened` is dropped when all connections have been opened, or could not be; the run begins when its
/// schedule comes.
async fn run_connections(
    plan: &LoadPlan,
    connections: usize,
    opened: mpsc::Sender<()>,
    schedule: &mpsc::Receiver<Schedule>,
) -> Vec<Tally> {
    let opening = (0..connections).map(|_| async {
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        tokio::time::timeout(plan.grace, open(plan)).await.unwrap_or_else(late)
    });
    let connections: Vec<Opened> = futures_util::future::join_all(opening).await;
    drop(opened);
    // Nothing else runs on this thread. Without a schedule there is no run.
    let Ok(schedule) = schedule.recv() else { return Vec::new() };
    let tasks = tokio::task::LocalSet::new();
    let shared = Arc::new(plan.clone());
    let running: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            let (plan, schedule) = (shared.clone(), schedule.clone());
            tasks.spawn_local(async move {
                let mut tally = Tally::default();
                let deadline = tokio::time::Instant::from_std(schedule.end + plan.grace);
                let run = run_connection(&plan, &schedule, &mut tally, connection);
                if tokio::time::timeout_at(deadline, run).await.is_err() {
                    tally.errors.unanswered += 1;
                    tally.note(|| "a call was still unanswered at the end of the grace".to_owned());
                }
                tally
            })
        })
        .collect();
    tasks
        .run_until(async move {
            let mut tallies = Vec::new();
            for task in running {
                tallies.push(task.await.unwrap_or_default());
            }
            tallies
        })
        .await
}

async fn run_connection(
    plan: &LoadPlan,
    schedule: &Schedule,
    tally: &mut Tally,
    mut opened: Opened,
) {
    loop {
        match opened {
            Ok((client, session)) => {
                if call_until_broken(plan, schedule, tally, client, session.as_deref()).await {
                    return;
                }
            }
            Err(error) => {
                if Instant::now() >= schedule.end {
                    return;
                }
                if Instant::now() >= schedule.counted_from {
                    tally.errors.connect += 1;
                    tally.note(|| format!("connect: {error}"));
                }
            }
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
        opened = open(plan).await;
    }
}

/// True when the run is over, false when the connection has to be opened again.
async fn call_until_broken(
    plan: &LoadPlan,
    schedule: &Schedule,
    tally: &mut Tally,
    mut client: Client,
    session: Option<&str>,
) -> bool {
    let mut call = plan.call(session);
    while let Some(begun) = schedule.next_start().await {
        call.next_id();
        let exchanged = client.exchange(call.bytes(), false);
        let outcome = match plan.patience {
            Some(patience) => tokio::time::timeout_at((begun + patience).into(), exchanged).await,
            None => Ok(exchanged.await),
        };
        let now = Instant::now();
        // A closed loop counts what ended in the counted part, an open one what was due in it.
        let counts = match plan.pace {
            Pace::Closed => now >= schedule.counted_from && now < schedule.end,
            Pace::Open { .. } => begun >= schedule.counted_from,
        };
        let usable = match outcome {
            Ok(Ok(answer)) => {
                let in_time = now >= schedule.counted_from && now < schedule.end;
                let is_result = answer.status == 200 && answer.has_result;
                tally.results_in_time += u64::from(in_time && is_result);
                if counts {
                    tally.settle(&answer, now - begun, now);
                }
                !answer.closing
            }
            Ok(Err(error)) => {
                if counts {
                    tally.errors.broken += 1;
                    tally.note(|| format!("broken: {error}"));
                }
                false
            }
            Err(_) => {
                if counts {
                    tally.errors.given_up += 1;
                    tally
                        .note(|| "a call was not answered within its client's patience".to_owned());
                }
                false
            }
        };
        if !usable {
            return false;
        }
    }
    true
}

pub(super) async fn open(plan: &LoadPlan) -> io::Result<(Client, Option<String>)> {
    let mut client = Client::connect(plan.address).await?;
    let Some(initialize) = plan.initialize() else { return Ok((client, None)) };
    let answer = client.exchange(initialize.bytes(), true).await?;
    if answer.status != 200 || !answer.has_result {
        let text = answer.excerpt.unwrap_or_default();
        return Err(io::Error::other(format!("initialize: status {} {text}", answer.status)));
    }
    if let Some(session) = &answer.session {
        client.exchange(plan.initialized(session).bytes(), false).await?;
    }
    Ok((client, answer.session))
}

// === impl Schedule ===

impl Schedule {
    fn starting(start: Instant, plan: &LoadPlan) -> Self {
        Self {
            start,
            counted_from: start + plan.warm_up,
            end: start + plan.warm_up + plan.duration,
            pacer: match plan.pace {
                Pace::Closed => None,
                Pace::Open { per_second } => Some(Arc::new(Pacer {
                    due: Semaphore::new(0),
                    taken: AtomicU64::new(0),
                    released: AtomicU64::new(0),
                    interval: 1.0 / per_second,
                })),
            },
        }
    }

    /// Waits until a call is due and returns the moment at which it was; `None` when the run is
    /// over.
    async fn next_start(&self) -> Option<Instant> {
        let Some(pacer) = &self.pacer else {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        };
        // A closed semaphore says that nothing more is due.
        pacer.due.acquire().await.ok()?.forget();
        Some(pacer.due_at(self.start, pacer.taken.fetch_add(1, Ordering::Relaxed)))
    }
}

// === impl Pacer ===

impl Pacer {
    fn due_at(&self, start: Instant, number: u64) -> Instant {
        start + Duration::from_secs_f64(number as f64 * self.interval)
    }

    /// Releases permits until the end. A thread of its own, because the runtime's timer rounds up to
    /// milliseconds, which would be the greatest part of what is measured.
    fn run(&self, schedule: &Schedule, grace: Duration) {
        let mut number = 0;
        loop {
            let due = self.due_at(schedule.start, number);
            if due >= schedule.end {
                break;
            }
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            self.due.add_permits(1);
            number += 1;
        }
        self.released.store(number, Ordering::Relaxed);
        // What is still waiting was due, so it is made; then the semaphore is closed. A permit that
        // was handed to a waiting connection counts only once it is taken: closing loses it.
        let patience = schedule.end + grace;
        while self.taken.load(Ordering::Relaxed) < number && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.due.close();
    }
}

// === impl Errors ===

impl Errors {
    pub(super) fn total(&self) -> u64 {
        self.connect
            + self.broken
            + self.status
            + self.no_result
            + self.given_up
            + self.unanswered
            + self.not_started
    }
}

// === impl Tally ===

impl Tally {
    fn settle(&mut self, answer: &super::client::Answer, latency: Duration, now: Instant) {
        if answer.status != 200 {
            self.errors.status += 1;
        } else if !answer.has_result {
            self.errors.no_result += 1;
            self.refusals.record(latency);
            let says = answer.excerpt.as_deref().is_some_and(|it| it.contains("retryAfterMs"));
            self.refused_with_wait += u64::from(says);
        } else {
            self.latencies.record(latency);
            self.body_bytes += answer.body_bytes as u64;
            self.last_end = Some(now);
            return;
        }
        self.note(|| {
            format!("status {}: {}", answer.status, answer.excerpt.as_deref().unwrap_or_default())
        });
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.first_error.is_none() {
            self.first_error = Some((Instant::now(), text()));
        }
    }
}

fn report(plan: &LoadPlan, schedule: &Schedule, tallies: &[Tally]) -> LoadReport {
    let mut latencies = Histogram::default();
    let mut refusals = Histogram::default();
    let mut kinds = Errors::default();
    for tally in tallies {
        latencies.merge(&tally.latencies);
        refusals.merge(&tally.refusals);
        kinds.connect += tally.errors.connect;
        kinds.broken += tally.errors.broken;
        kinds.status += tally.errors.status;
        kinds.no_result += tally.errors.no_result;
        kinds.given_up += tally.errors.given_up;
        kinds.unanswered += tally.errors.unanswered;
    }
    if let Some(pacer) = &schedule.pacer {
        let released = pacer.released.load(Ordering::Relaxed);
        kinds.not_started = released.saturating_sub(pacer.taken.load(Ordering::Relaxed));
    }
    let last_end = tallies.iter().filter_map(|tally| tally.last_end).max();
    let overrun =
        last_end.map_or(Duration::ZERO, |end| end.saturating_duration_since(schedule.end));
    let seconds = (plan.duration + overrun).as_secs_f64();
    let first_error =
        tallies.iter().filter_map(|tally| tally.first_error.clone()).min().map(|(_, text)| text);
    let body_bytes = tallies.iter().map(|tally| tally.body_bytes).sum();
    let took = Duration::from_secs_f64(seconds);
    LoadReport {
        results_in_time: tallies.iter().map(|tally| tally.results_in_time).sum(),
        refused_p99_us: refusals.quantile(0.99).as_nanos() as f64 / 1000.0,
        refused_with_wait: tallies.iter().map(|tally| tally.refused_with_wait).sum(),
        ..LoadReport::of(&latencies, kinds, first_error, body_bytes, took)
    }
}

// === impl LoadReport ===

impl LoadReport {
    pub(super) fn of(
        latencies: &Histogram,
        errors: Errors,
        first_error: Option<String>,
        body_bytes: u64,
        took: Duration,
    ) -> Self {
        let micros = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
        let seconds = took.as_secs_f64();
        Self {
            calls: latencies.count(),
            errors: errors.total(),
            errors_by_kind: errors,
            first_error,
            body_bytes,
            seconds,
            throughput: latencies.count() as f64 / seconds,
            mean_us: micros(latencies.mean()),
            p50_us: micros(latencies.quantile(0.5)),
            p90_us: micros(latencies.quantile(0.9)),
            p99_us: micros(latencies.quantile(0.99)),
            p999_us: micros(latencies.quantile(0.999)),
            max_us: micros(latencies.max()),
            results_in_time: 0,
            refused_p99_us: 0.0,
            refused_with_wait: 0,
        }
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} calls in {:.2} s: {:.0}/s, p50 {:.0} µs, p90 {:.0} µs, p99 {:.0} µs, max {:.0} µs, {} errors",
            self.calls,
            self.seconds,
            self.throughput,
            self.p50_us,
            self.p90_us,
            self.p99_us,
            self.max_us,
            self.errors
        )?;
        match &self.first_error {
            Some(error) => write!(f, " (first: {error})"),
            None => Ok(()),
        }
    }
}
