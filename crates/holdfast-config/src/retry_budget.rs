//! `retry_budget`: how much a node repeats, so that it never makes a server's trouble worse.

use crate::section::Section;

/// Bounds of repetition, per server and node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Repeats at once, as a share of the calls that are under way. 0 to 1.
    pub share: f64,
    /// Repeats at once that are always allowed. 0 to 10,000.
    pub at_least: u32,
    /// How often one call may be sent in all. 1 (never again) to 3.
    pub attempts: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { share: 0.2, at_least: 3, attempts: 3 }
    }
}

// === impl RetryBudget ===

impl RetryBudget {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut budget = Self::default();
        section.share("share", 0.0..=1.0, &mut budget.share);
        section.number("at_least", 0..=10_000, &mut budget.at_least);
        section.number("attempts", 1..=3, &mut budget.attempts);
        section.finish();
        budget
    }
}
