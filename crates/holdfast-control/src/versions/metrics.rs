//! What is counted of configurations, in the Prometheus text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::standing::{FileStanding, Standing};
use crate::metrics::head;

/// What became of a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It was taken over, and something changed.
    Applied,
    /// It was what the node runs.
    Unchanged,
    /// Nobody took it over: it is wrong, needs a restart, or another came first.
    Refused,
    /// The cluster agreed on it, and this node could not take it over.
    Failed,
}

const OUTCOMES: [(&str, Outcome); 4] = [
    ("applied", Outcome::Applied),
    ("unchanged", Outcome::Unchanged),
    ("refused", Outcome::Refused),
    ("failed", Outcome::Failed),
];

#[derive(Default)]
pub(super) struct Counts([AtomicU64; 4]);

impl Counts {
    pub(super) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn render(counts: &Counts, standing: &Standing, holds: u64, out: &mut String) {
    let name = "holdfast_config_reloads_total";
    head(
        out,
        name,
        "counter",
        "Configurations that this node was to take over, by what came of it.",
    );
    for (label, outcome) in OUTCOMES {
        let count = counts.0[outcome as usize].load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}{{outcome=\"{label}\"}} {count}");
    }
    let mut gauge = |name: &str, value: u64, help: &str| {
        head(out, name, "gauge", help);
        let _ = writeln!(out, "{name} {value}");
    };
    gauge(
        "holdfast_config_version",
        standing.version,
        "The version that this node runs; 0: its file.",
    );
    gauge(
        "holdfast_config_version_agreed",
        holds,
        "The version that holds; 0: none was agreed on.",
    );
    gauge(
        "holdfast_config_applied_timestamp_seconds",
        standing.since / 1_000,
        "Since when this node runs its present configuration.",
    );
    gauge(
        "holdfast_config_failed",
        u64::from(standing.failed.is_some()),
        "Whether this node could not take over the version that holds.",
    );
    gauge(
        "holdfast_config_file_refused",
        u64::from(standing.trouble.is_some()),
        "Whether something is wrong with this node's file.",
    );
    gauge(
        "holdfast_config_file_differs",
        u64::from(standing.file == FileStanding::Differs),
        "Whether this node's file is another configuration than the version that holds.",
    );
}
