//! Fan-out: one announcement to many GET streams, and the next when all of them have it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::load::{Errors, LoadError, LoadReport, check, open, probe};
use super::{Histogram, LoadPlan};

/// How long a stream may take to bring an announcement.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a session with a GET stream for each of the plan's connections and lets the fast server
/// announce as fast as all of them can follow. A call of the report is one event at one client, and
/// its latency runs from the call that announced it. The plan's dialect is taken for
/// [`Dialect::Legacy`](super::Dialect::Legacy); threads, pace and warm-up do not count.
///
/// # Errors
/// As [`load`](super::load()); also when a stream cannot be opened.
pub fn fan_out(plan: &LoadPlan) -> Result<LoadReport, LoadError> {
    let plan =
        LoadPlan { dialect: super::Dialect::Legacy, tool: "announce".to_owned(), ..plan.clone() };
    check(&plan)?;
    probe(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(tokio::task::LocalSet::new().run_until(announce(&plan)))
        .map_err(|source| LoadError::Connect { address: plan.address, source })
}

async fn announce(plan: &LoadPlan) -> std::io::Result<LoadReport> {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    for _ in 0..plan.connections {
        let (mut stream, session) = open(plan).await?;
        let session = session.ok_or_else(|| std::io::Error::other("the server has no sessions"))?;
        stream.open_stream(&plan.listen(&session)).await?;
        let arrived = arrived.clone();
        tokio::task::spawn_local(async move {
            loop {
                let message = stream.next_message().await;
                let over = message.is_err();
                if arrived.send(message.map(|()| Instant::now())).is_err() || over {
                    return;
                }
            }
        });
    }
    let (mut caller, session) = open(plan).await?;
    let mut call = plan.call(session.as_deref());
    let mut report = Counted::default();
    let start = Instant::now();
    while start.elapsed() < plan.duration {
        call.next_id();
        let begun = Instant::now();
        let answer = caller.exchange(call.bytes(), false).await?;
        if !answer.has_result {
            report.failed(format!("the announcement got {:?}", answer.excerpt));
            break;
        }
        if !report.wait(plan.connections, begun, &mut arrivals).await {
            break;
        }
    }
    Ok(report.finish(start.elapsed()))
}

#[derive(Default)]
struct Counted {
    latencies: Histogram,
    errors: Errors,
    first_error: Option<String>,
}

impl Counted {
    /// Waits for the announcement of `begun` at all streams; whether it came to all.
    async fn wait(
        &mut self,
        streams: usize,
        begun: Instant,
        arrivals: &mut mpsc::UnboundedReceiver<std::io::Result<Instant>>,
    ) -> bool {
        for _ in 0..streams {
            match tokio::time::timeout(PATIENCE, arrivals.recv()).await {
                Ok(Some(Ok(at))) => self.latencies.record(at - begun),
                Ok(Some(Err(error))) => {
                    self.errors.broken += 1;
                    self.failed(format!("a stream ended: {error}"));
                    return false;
                }
                Ok(None) | Err(_) => {
                    self.errors.unanswered += 1;
                    self.failed("an announcement did not come to every stream".to_owned());
                    return false;
                }
            }
        }
        true
    }

    fn failed(&mut self, error: String) {
        if self.errors.total() == 0 {
            self.errors.no_result += 1;
        }
        self.first_error.get_or_insert(error);
    }

    fn finish(self, took: Duration) -> LoadReport {
        LoadReport::of(&self.latencies, self.errors, self.first_error, 0, took)
    }
}
