//! What the control plane counts, in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counters of one node's control plane.
#[derive(Default, Debug)]
pub struct Metrics {
    turns: Mutex<BTreeMap<&'static str, Turns>>,
}

/// How often one task has run.
#[derive(Clone, Default, Debug)]
pub(crate) struct Turns(Arc<[AtomicU64; 2]>);

// === impl Turns ===

impl Turns {
    pub(crate) fn settled(&self) {
        self.0[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }

    /// Settled and failed turns.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed))
    }
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn turns(&self, task: &'static str) -> Turns {
        self.book().entry(task).or_default().clone()
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<&'static str, Turns>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends everything.
    pub fn render(&self, out: &mut String) {
        let name = "holdfast_control_turns_total";
        head(out, name, "counter", "Turns of the control plane's tasks, by how they ended.");
        for (task, turns) in self.book().iter() {
            let (settled, failed) = turns.read();
            for (outcome, count) in [("settled", settled), ("failed", failed)] {
                let _ = writeln!(out, "{name}{{task=\"{task}\",outcome=\"{outcome}\"}} {count}");
            }
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
