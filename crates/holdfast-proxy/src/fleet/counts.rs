//! What is counted of one server, beside its calls.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::breaker::Phase;

use super::Losses;
use crate::metrics::Counter;

/// Counters of one server; they only rise.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    refused: [Counter; Why::ALL.len()],
    turned: [Counter; Phase::ALL.len()],
    served: [Counter; Served::ALL.len()],
    in_vain: [Counter; InVain::ALL.len()],
    /// The log's lines on servers that stood in and could not help either.
    pub(crate) in_vain_lines: Lines,
    /// Repeats that the budget did not allow.
    pub(crate) repeats_denied: Counter,
    /// Sessions that went from one instance to another.
    pub(crate) moved: Counter,
    pub(crate) losses: Losses,
}

/// Why a call was refused at its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its class is full.
    Full,
    /// Its tool hangs and fills its class, and is limited.
    Quarantined,
    /// It waited for its turn for too long.
    Waited,
    /// All connections are busy, and too many calls wait for one, or it waited in vain.
    Connections,
    /// Something that the server depends on is not there.
    Needs,
    /// A failover took too long.
    Paused,
    /// A breaker is open, or half-open.
    Breaker,
    /// No instance can be reached.
    Away,
    /// The server asked for fewer calls.
    BackPressure,
    /// What its instances take a minute is used up.
    Rate,
    /// Its class has less room while the server is poorly.
    Degraded,
    /// No instance takes it for another reason.
    NoInstance,
}

/// What stood in for a server that could not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// An earlier answer.
    Cached,
    /// Another server.
    Server,
    /// An answer of the configuration.
    Static,
}

/// Why the server that stands in was of no help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InVain {
    /// Its own limits refused the call: it was not asked.
    Limited,
    /// It could not be asked, or gave no answer.
    Failed,
    /// It answered with an error.
    Error,
}

/// Lines on what may come with each call: one in [`LINES_APART`], which says how many were left out.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    missing: u64,
}

/// How far such lines are apart at least.
const LINES_APART: Duration = Duration::from_secs(10);

// === impl Counts ===

impl Counts {
    pub(crate) fn refused(&self, why: Why) {
        self.refused[why as usize].inc();
    }

    pub(crate) fn turned(&self, to: Phase) {
        let at = Phase::ALL.iter().position(|it| *it == to).unwrap_or(0);
        self.turned[at].inc();
    }

    pub(crate) fn served(&self, what: Served) {
        self.served[what as usize].inc();
    }

    pub(crate) fn in_vain(&self, why: InVain) {
        self.in_vain[why as usize].inc();
    }

    pub(crate) fn each_refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Why::ALL.iter().zip(&self.refused).map(|(why, count)| (why.label(), count.get()))
    }

    pub(crate) fn each_turned(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Phase::ALL.iter().zip(&self.turned).map(|(to, count)| (to.label(), count.get()))
    }

    pub(crate) fn each_served(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Served::ALL.iter().zip(&self.served).map(|(what, count)| (what.label(), count.get()))
    }

    pub(crate) fn each_in_vain(&self) -> impl Iterator<Item = (&'static str, u64)> {
        InVain::ALL.iter().zip(&self.in_vain).map(|(why, count)| (why.label(), count.get()))
    }
}

// === impl Why ===

impl Why {
    /// All of them, in the order of their discriminants.
    pub(crate) const ALL: [Self; 12] = [
        Self::Full,
        Self::Quarantined,
        Self::Waited,
        Self::Connections,
        Self::Needs,
        Self::Paused,
        Self::Breaker,
        Self::Away,
        Self::BackPressure,
        Self::Rate,
        Self::Degraded,
        Self::NoInstance,
    ];

    /// The value of the label `reason`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Quarantined => "quarantined",
            Self::Waited => "waited",
            Self::Connections => "connections",
            Self::Needs => "dependency",
            Self::Paused => "paused",
            Self::Breaker => "breaker",
            Self::Away => "unreachable",
            Self::BackPressure => "back_pressure",
            Self::Rate => "rate",
            Self::Degraded => "degraded",
            Self::NoInstance => "no_instance",
        }
    }
}

// === impl Served ===

impl Served {
    /// All of them, in the order of their discriminants.
    pub(crate) const ALL: [Self; 3] = [Self::Cached, Self::Server, Self::Static];

    /// The value of the label `kind`, and of `kind` in the answer's `_meta`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Server => "server",
            Self::Static => "static",
        }
    }
}

// === impl InVain ===

impl InVain {
    /// All of them, in the order of their discriminants.
    pub(crate) const ALL: [Self; 3] = [Self::Limited, Self::Failed, Self::Error];

    /// The value of the label `reason`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Error => "error",
        }
    }
}

// === impl Lines ===

impl Lines {
    /// Whether there is to be a line now; then how many there were none for since the last one.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| now.saturating_duration_since(last) < LINES_APART) {
            told.missing += 1;
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_come_too_soon_are_counted_and_told_with_the_next_one() {
        let (lines, start) = (Lines::default(), Instant::now());
        let told: Vec<_> = [0, 1, 9_999, 10_000, 10_001, 30_000]
            .map(|ms| lines.take(start + Duration::from_millis(ms)))
            .into();
        assert_eq!(told, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
