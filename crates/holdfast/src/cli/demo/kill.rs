//! `holdfast demo --kill`: a client calls, the leading node is killed under it, and what the client
//! saw is counted, by its own account and by the server's.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::HTTP;
use super::client::{Called, Client, Outcome};
use super::cluster::Cluster;
use crate::cli::output::{say, table};

/// How long the client calls before the kill.
const BEFORE: Duration = Duration::from_secs(3);
/// And from there on; the node is back by then.
const AFTER: Duration = Duration::from_secs(7);
/// How long the last calls may take to end.
const LAST: Duration = Duration::from_secs(40);

/// How often the client tries to open its session.
const OPENINGS: u32 = 5;
/// Callers of each kind.
const READERS: usize = 3;
const WRITERS: usize = 3;
const SLOW: usize = 2;
/// How long a slow call takes at the server: long enough to be under way when its node dies.
const SLOW_MS: u64 = 1500;
/// A write takes a moment too, so that some are under way.
const WRITE_MS: u64 = 30;
/// The pause between two calls of one caller.
const PAUSE: Duration = Duration::from_millis(10);

/// The code that says: this call may have run.
const OUTCOME_UNKNOWN: i64 = -31002;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Read,
    Write,
    Slow,
}

struct Record {
    kind: Kind,
    /// Of a write.
    key: String,
    called: Called,
}

#[derive(Clone)]
struct Ledger {
    records: Arc<Mutex<Vec<Record>>>,
    next: Arc<AtomicU64>,
}

pub(super) async fn run(
    cluster: &mut Cluster,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let client = Arc::new(open(cluster).await.context("the client cannot open a session")?);
    say(&format!(
        "One client, one session at {}: {READERS} callers read, {WRITERS} write, {SLOW} make calls \
         of {SLOW_MS} ms.",
        cluster.url()
    ))?;
    let ledger = Ledger { records: Arc::default(), next: Arc::new(AtomicU64::new(1)) };
    let enough = stop.child_token();
    let callers = tokio_util::task::TaskTracker::new();
    for kind in std::iter::repeat_n(Kind::Read, READERS)
        .chain(std::iter::repeat_n(Kind::Write, WRITERS))
        .chain(std::iter::repeat_n(Kind::Slow, SLOW))
    {
        callers.spawn(caller(kind, Arc::clone(&client), ledger.clone(), enough.clone()));
    }
    callers.close();

    let _ = tokio::time::timeout(BEFORE, cluster.tend(stop, true)).await;
    if stop.is_cancelled() {
        return Ok(ExitCode::SUCCESS);
    }
    let (name, pid) = cluster.leader().await.context("no node knows a leader")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    let before = ledger.lock().len();
    say(&format!("kill -9 {pid}: that was {name}, the leader, after {before} calls."))?;
    let _ = tokio::time::timeout(AFTER, cluster.tend(stop, true)).await;
    enough.cancel();
    let all_ended = tokio::time::timeout(LAST, callers.wait()).await.is_ok();

    let log = std::fs::read_to_string(cluster.executions()).unwrap_or_default();
    let executed = executed(&log);
    let report = Report::new(&ledger.lock(), &executed, all_ended);
    say(&report.text())?;
    Ok(if report.kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Opens the session. Nothing is counted yet, so a cluster that has only just come together may be
/// asked again.
async fn open(cluster: &Cluster) -> anyhow::Result<Client> {
    let path = format!("/mcp/{HTTP}");
    for _ in 1..OPENINGS {
        if let Ok(client) = Client::open(cluster.client, &path).await {
            return Ok(client);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Client::open(cluster.client, &path).await
}

async fn caller(kind: Kind, client: Arc<Client>, ledger: Ledger, enough: CancellationToken) {
    while !enough.is_cancelled() {
        let id = ledger.next.fetch_add(1, Ordering::Relaxed);
        let key = format!("demo-{id}");
        let (tool, arguments): (&str, Value) = match kind {
            Kind::Read => ("echo", json!({ "text": "x" })),
            Kind::Write => ("write", json!({ "key": key, "ms": WRITE_MS })),
            Kind::Slow => ("slow", json!({ "ms": SLOW_MS, "steps": 3 })),
        };
        let called = client.call(id, tool, arguments).await;
        ledger.lock().push(Record { kind, key, called });
        tokio::time::sleep(PAUSE).await;
    }
}

impl Ledger {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Executions of `write` by key.
fn executed(log: &str) -> BTreeMap<&str, usize> {
    let mut executed = BTreeMap::new();
    for line in log.lines() {
        let mut words = line.split(' ');
        if let (Some("write"), Some(key)) = (words.next(), words.next()) {
            *executed.entry(key).or_insert(0) += 1;
        }
    }
    executed
}

/// What the client saw of calls of one kind.
#[derive(Default)]
struct Tally {
    calls: usize,
    results: usize,
    unknown: usize,
    errors: usize,
    failed: usize,
    resumed: usize,
    longest: Duration,
}

struct Report {
    kinds: BTreeMap<Kind, Tally>,
    /// What was said that was no result, once each.
    said: BTreeMap<String, usize>,
    twice: usize,
    /// Writes with a result that the server never executed.
    invented: usize,
    /// Writes whose outcome the client does not know, and that did run.
    unknown_ran: usize,
    all_ended: bool,
}

impl Report {
    fn new(records: &[Record], executed: &BTreeMap<&str, usize>, all_ended: bool) -> Self {
        let mut report = Self {
            kinds: BTreeMap::new(),
            said: BTreeMap::new(),
            twice: executed.values().filter(|times| **times > 1).count(),
            invented: 0,
            unknown_ran: 0,
            all_ended,
        };
        for record in records {
            let tally = report.kinds.entry(record.kind).or_default();
            tally.calls += 1;
            tally.resumed += usize::from(record.called.resumed > 0);
            tally.longest = tally.longest.max(record.called.took);
            let ran = executed.contains_key(record.key.as_str());
            let text = match &record.called.outcome {
                Outcome::Result => {
                    tally.results += 1;
                    report.invented += usize::from(record.kind == Kind::Write && !ran);
                    continue;
                }
                Outcome::Error { code, message } => {
                    if *code == OUTCOME_UNKNOWN && record.kind == Kind::Write {
                        tally.unknown += 1;
                        report.unknown_ran += usize::from(ran);
                    } else {
                        tally.errors += 1;
                    }
                    format!("{code} {message}")
                }
                Outcome::Failed(text) => {
                    tally.failed += 1;
                    text.clone()
                }
            };
            *report.said.entry(text).or_default() += 1;
        }
        report
    }

    /// Whether the promise was kept: a Write may end in "outcome unknown", nothing else may fail.
    fn kept(&self) -> bool {
        let broken = |tally: &Tally| tally.errors + tally.failed > 0;
        let called = self.kinds.len() == 3;
        let written_right = self.twice == 0 && self.invented == 0;
        called && self.all_ended && written_right && !self.kinds.values().any(broken)
    }

    fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .kinds
            .iter()
            .map(|(kind, tally)| {
                let name = match kind {
                    Kind::Read => "read",
                    Kind::Write => "write",
                    Kind::Slow => "slow",
                };
                let numbers =
                    [tally.calls, tally.results, tally.unknown, tally.errors, tally.failed];
                let mut row = vec![name.to_owned()];
                row.extend(numbers.iter().map(usize::to_string));
                row.push(tally.resumed.to_string());
                row.push(format!("{} ms", tally.longest.as_millis()));
                row
            })
            .collect();
        let heading = [
            "CALLS",
            "MADE",
            "RESULT",
            "OUTCOME UNKNOWN",
            "OTHER ERROR",
            "NO ANSWER",
            "STREAM RESUMED",
            "LONGEST",
        ];
        let mut text = format!("\nWhat the client saw:\n\n{}\n", table(&heading, &rows));
        for (said, times) in &self.said {
            text.push_str(&format!("\n{times} × {said}"));
        }
        let pause = self.kinds.iter().filter(|(kind, _)| **kind != Kind::Slow);
        let pause = pause.map(|(_, tally)| tally.longest).max().unwrap_or_default();
        text.push_str(&format!("\nLongest pause: {} ms.", pause.as_millis()));
        text.push_str(&format!("\nWrites that ran twice, by the server's count: {}.", self.twice));
        if self.unknown_ran > 0 {
            text.push_str(&format!(
                "\nOf the writes whose outcome the client was told is unknown, {} ran.",
                self.unknown_ran
            ));
        }
        if self.invented > 0 {
            text.push_str(&format!("\nWrites with a result that never ran: {}.", self.invented));
        }
        if !self.all_ended {
            text.push_str("\nSome calls had not ended when the demo did.");
        }
        text.push_str(match self.kept() {
            true => "\nThe promise was kept.",
            false => "\nThe promise was NOT kept.",
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, key: &str, outcome: Outcome) -> Record {
        let called = Called { outcome, took: Duration::from_millis(7), resumed: 0 };
        Record { kind, key: key.into(), called }
    }

    fn all_kinds() -> Vec<Record> {
        vec![
            record(Kind::Read, "demo-1", Outcome::Result),
            record(Kind::Write, "demo-2", Outcome::Result),
            record(Kind::Slow, "demo-3", Outcome::Result),
        ]
    }

    const LOG: &str = "echo - 7\nwrite demo-2 7\n";

    #[test]
    fn a_run_without_a_loss() {
        let mut records = all_kinds();
        let unknown = Outcome::Error { code: OUTCOME_UNKNOWN, message: "lost".into() };
        records.push(record(Kind::Write, "demo-4", unknown));
        let log = format!("{LOG}write demo-4 8\n");
        let report = Report::new(&records, &executed(&log), true);
        assert!(report.kept(), "{}", report.text());
        assert_eq!(report.unknown_ran, 1);
        assert!(report.text().contains("Writes that ran twice, by the server's count: 0."));
        assert!(report.text().contains("1 × -31002 lost"));
    }

    #[test]
    fn every_loss_is_seen() {
        let failed = || Outcome::Failed("reset".into());
        let error = |code| Outcome::Error { code, message: String::new() };
        let kept = |extra: Vec<Record>, log: &str, all_ended| {
            let records: Vec<Record> = all_kinds().into_iter().chain(extra).collect();
            Report::new(&records, &executed(log), all_ended).kept()
        };
        assert!(kept(vec![], LOG, true));
        assert!(!kept(vec![], LOG, false), "a call that hangs");
        assert!(!kept(vec![], &format!("{LOG}write demo-2 8\n"), true), "a write that ran twice");
        assert!(!kept(vec![], "", true), "a result of a write that never ran");
        for kind in [Kind::Read, Kind::Write, Kind::Slow] {
            assert!(!kept(vec![record(kind, "demo-9", failed())], LOG, true));
            assert!(!kept(vec![record(kind, "demo-9", error(-31001))], LOG, true));
        }
        let unknown_read = vec![record(Kind::Read, "demo-9", error(OUTCOME_UNKNOWN))];
        assert!(!kept(unknown_read, LOG, true), "a read can be repeated");
        assert!(!Report::new(&[], &executed(LOG), true).kept(), "nothing was called");
    }
}
