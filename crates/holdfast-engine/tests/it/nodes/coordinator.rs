//! The coordinator: hears the nodes' evidence and opens the server for all.

use std::time::{Duration, Instant};

use holdfast_engine::breaker::{Evidence, Params, cluster_verdict};

use super::Bug;

/// A report counts for so long.
const FRESH: Duration = Duration::from_secs(1);
const OPEN_FOR: Duration = Duration::from_secs(2);

/// "Open until then."
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) generation: u64,
    pub(crate) until: Instant,
}

/// What a node says, and the newest word that it had heard by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) at: Instant,
    pub(crate) heard: u64,
    pub(crate) evidence: Evidence,
}

pub(crate) struct Coordinator {
    params: Params,
    reports: [Option<Report>; 3],
    pub(crate) word: Option<Word>,
    bug: Option<Bug>,
}

impl Coordinator {
    pub(crate) fn new(params: Params, bug: Option<Bug>) -> Self {
        Self { params, reports: [None; 3], word: None, bug }
    }

    pub(crate) fn hear(&mut self, node: usize, report: Report) {
        // They may come out of order.
        if self.reports[node].is_none_or(|known| known.at <= report.at) {
            self.reports[node] = Some(report);
        }
    }

    /// Looks at what it has heard. A new word, if there is a reason and the last one is over.
    pub(crate) fn decide(&mut self, now: Instant) -> Option<Word> {
        if self.word.is_some_and(|word| word.until > now) {
            return None;
        }
        let last = self.word.map_or(0, |word| word.generation);
        let counts = |it: &&Report| now - it.at < FRESH && it.heard >= last;
        let fresh: Vec<Evidence> =
            self.reports.iter().flatten().filter(counts).map(|it| it.evidence).collect();
        let one = self.bug == Some(Bug::OneNodeIsEnough) && fresh.iter().any(|it| it.opened);
        if cluster_verdict(&fresh, &self.params).is_none() && !one {
            return None;
        }
        let generation = last + 1;
        self.word = Some(Word { generation, until: now + OPEN_FOR });
        self.word
    }
}
