//! `servers.NAME.balance`: which of several instances gets a call.

use std::time::Duration;

use crate::field::Field;
use crate::section::Section;

/// How calls that are bound to no instance yet are spread. A session stays with its instance for as
/// long as both live.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// How one is chosen. By default `ReadWrite` where an instance is a replica, else
    /// `LeastConnections`.
    pub strategy: Strategy,
    /// For [`Strategy::Hash`]: where in the arguments the key stands, one name per step;
    /// `arguments.user.id` is `["user", "id"]`. Never empty there, empty otherwise.
    pub hash_on: Vec<String>,
    /// If a smaller share of instances is healthy, all are used: what is left would break under the
    /// load of the rest. 0 (never) to 1.
    pub panic_threshold: f64,
    /// How long an instance that is new or came back takes to its full share. 0s (at once) to 1h.
    pub slow_start: Duration,
    /// For [`Strategy::RateAware`]: what one instance takes, counted over all nodes. Given only
    /// there.
    pub rate: Option<InstanceRate>,
}

/// How one instance of several is chosen. All of them leave out what is unhealthy or open, and
/// prefer the node's own region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other.
    RoundRobin,
    /// At random, by weight and health; only those with a score above 0.5.
    Weighted,
    /// The one with the fewest calls, for its weight.
    LeastConnections,
    /// Writes to the primary, Reads to the replicas, the nearest first.
    ReadWrite,
    /// The same key to the same instance.
    Hash,
    /// The one with the most left of its calls a minute.
    RateAware,
}

/// What one instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceRate {
    /// Calls a minute. 1 to 1,000,000.
    pub per_minute: u32,
    /// Calls at once after a pause. 1 to 1,000,000.
    pub burst: u32,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            strategy: Strategy::LeastConnections,
            hash_on: Vec::new(),
            panic_threshold: 0.5,
            slow_start: Duration::from_secs(30),
            rate: None,
        }
    }
}

impl Default for InstanceRate {
    fn default() -> Self {
        Self { per_minute: 100, burst: 20 }
    }
}

// === impl Strategy ===

impl Strategy {
    pub(crate) const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::Weighted,
        Self::LeastConnections,
        Self::ReadWrite,
        Self::Hash,
        Self::RateAware,
    ];

    /// The word for it in the configuration and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::LeastConnections => "least_connections",
            Self::ReadWrite => "read_write",
            Self::Hash => "hash",
            Self::RateAware => "rate_aware",
        }
    }
}

// === impl Balance ===

impl Balance {
    /// The section, for a server of which `replicas` says whether an instance is one.
    pub(crate) fn read(mut section: Section<'_>, replicas: bool) -> Self {
        let s = Duration::from_secs(1);
        let mut balance = Self::default();
        if replicas {
            balance.strategy = Strategy::ReadWrite;
        }
        let words = Strategy::ALL.map(|strategy| (strategy.label(), strategy));
        if let Some(strategy) = section.field("strategy").and_then(|field| field.choice(&words)) {
            balance.strategy = strategy;
        }
        if let Some(field) = section.field("hash_on")
            && let Some(path) = read_path(&field)
        {
            balance.hash_on = path;
        }
        section.share("panic_threshold", 0.0..=1.0, &mut balance.panic_threshold);
        section.duration("slow_start", Duration::ZERO..=s * 3600, &mut balance.slow_start);
        if let Some(rate) = section.field("rate").and_then(|field| field.section()) {
            balance.rate = Some(InstanceRate::read(rate));
        }
        balance.settle(&section);
        section.finish();
        balance
    }

    /// Keys that belong to one strategy alone.
    fn settle(&mut self, section: &Section<'_>) {
        let given = section.given(&["hash_on", "rate"]);
        let hash = self.strategy == Strategy::Hash;
        if hash && !given.contains(&"hash_on") {
            section.report(
                "strategy",
                "hash, and nothing says what of".into(),
                "hash with hash_on",
                "add hash_on: arguments.NAME, the argument that calls have in common",
            );
        }
        if !hash && given.contains(&"hash_on") && !self.hash_on.is_empty() {
            section.report(
                "hash_on",
                format!("hash_on beside the strategy {}", self.strategy.label()),
                "hash_on with strategy: hash",
                "write strategy: hash, or remove it",
            );
        }
        let aware = self.strategy == Strategy::RateAware;
        if !aware && given.contains(&"rate") {
            section.report(
                "rate",
                format!("rate beside the strategy {}", self.strategy.label()),
                "rate with strategy: rate_aware",
                "write strategy: rate_aware, or remove it",
            );
        }
        if aware {
            self.rate.get_or_insert_default();
        }
    }
}

impl InstanceRate {
    fn read(mut section: Section<'_>) -> Self {
        let mut rate = Self::default();
        section.number("per_minute", 1..=1_000_000, &mut rate.per_minute);
        section.number("burst", 1..=1_000_000, &mut rate.burst);
        section.finish();
        rate
    }
}

/// `arguments.user.id`.
fn read_path(field: &Field<'_>) -> Option<Vec<String>> {
    let text = field.text()?;
    let steps: Vec<&str> = text.split('.').collect();
    let known = |step: &&str| !step.is_empty() && !step.chars().any(|c| c.is_control() || c == ' ');
    match steps.as_slice() {
        ["arguments", rest @ ..] if (1..=16).contains(&rest.len()) && rest.iter().all(known) => {
            Some(rest.iter().map(|step| (*step).to_owned()).collect())
        }
        _ => {
            let cure = match steps.first() {
                Some(&"arguments") | None => "write something like arguments.user".to_owned(),
                Some(_) => format!("write arguments.{}", text.trim_matches('.')),
            };
            field.wrong("a place in the arguments", "arguments.NAME or arguments.NAME.NAME", &cure);
            None
        }
    }
}
