//! `servers.NAME.health`: what is asked of a server to know whether it is well.

use std::time::Duration;

use holdfast_engine::health::resources::Resource;

use super::HttpUrl;

/// Active checks of one server. Each instance is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerHealth {
    /// Whether the server is checked at all.
    pub enabled: bool,
    /// From one round to the next. 500ms to 1h. By default that of `health`, or its
    /// `critical_interval` where `critical`.
    pub interval: Duration,
    /// How long one check may take. 100ms to 1m, at most `interval`.
    pub timeout: Duration,
    /// How often a failed check is tried again before it counts as failed. 0 to 10.
    pub retries: u32,
    /// A server without which the gateway is of little use: checked more often, and its failure
    /// fails it over without waiting for a trend.
    pub critical: bool,
    /// What is asked. Never empty; by default [`Check::standard`].
    pub checks: Vec<Check>,
}

/// One thing that is asked of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name in `/health`, status and metrics; unique in its server. 1 to 64 of
    /// `[A-Za-z0-9._-]`. By default the word of its kind, numbered where that repeats.
    pub name: String,
    /// What is asked.
    pub kind: CheckKind,
    /// What it counts among the others. 0.01 to 100; only the proportion matters.
    pub weight: f64,
    /// Whether its failure alone makes the instance unhealthy, whatever the others say.
    pub critical: bool,
    /// Whether it asks a monitor outside of the cluster what that finds, and not the instance: a voice
    /// of its own in the node's vote. Of `http` and `metric` with an address.
    pub external: bool,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// A connection is made. For a process: it runs.
    Connect,
    /// `ping`, or `server/discover` where that is what the server speaks, on a session that is kept.
    Ping,
    /// `initialize` of a new session, which is deleted again.
    Initialize,
    /// `tools/list`, on a session that is kept.
    Tools {
        /// Tools that must be there. Empty: any list will do.
        expected: Vec<String>,
    },
    /// A tool is called; a result that is no error is good.
    Tool {
        /// Its name.
        tool: String,
        /// Its arguments: a JSON object as text.
        arguments: String,
        /// What the result's text must contain. `None`: anything.
        contains: Option<String>,
    },
    /// `GET` of an address.
    Http {
        /// The address.
        target: CheckTarget,
        /// The status that is good; `None`: any from 200 to 299.
        status: Option<u16>,
        /// What the body must contain. `None`: anything.
        contains: Option<String>,
    },
    /// How long the checks of this round took together: 1 up to `good`, 0 from `bad` on.
    Latency {
        /// Up to here all is well. 1ms to 10m.
        good: Duration,
        /// From here on nothing is. Above `good`.
        bad: Duration,
    },
    /// A number that the server tells of itself: queue depth, quota, pool, memory.
    Metric {
        /// Where it stands.
        source: MetricSource,
        /// The value that scores 1.
        good: f64,
        /// The value that scores 0; may lie above or below `good`.
        bad: f64,
    },
    /// A share of the instance's own resources, for [`crate::Passive`].
    Resource {
        /// Of which.
        resource: Resource,
        /// Where the number stands.
        source: MetricSource,
        /// What stands for all of it: 100 where it is told in percent. Above 0.
        full: f64,
        /// The number is a sum that only rises, and what counts is what it rises by in a second.
        counter: bool,
    },
}

/// Where a check's number stands.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricSource {
    /// In the Prometheus text at an address.
    Http {
        /// The address.
        target: CheckTarget,
        /// The series as it stands there, with its labels if it has any: `queue_depth{pool="a"}`.
        name: String,
    },
    /// In a tool's result.
    Tool {
        /// The tool.
        tool: String,
        /// Its arguments: a JSON object as text.
        arguments: String,
        /// Where the number is: a JSON pointer into the structured result, or into its text where
        /// that is JSON. `/queue/depth`.
        pointer: String,
    },
}

/// Where a check asks over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckTarget {
    /// At this address, whichever instance is checked: what it says, it says of all of them, unless
    /// `{instance}` or `{server}` stands in it, for their names.
    Url(HttpUrl),
    /// At the instance's own scheme, host and port, with this path and query; starts with `/`.
    Path(String),
}

impl Default for ServerHealth {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(3),
            retries: 2,
            critical: false,
            checks: Check::standard(),
        }
    }
}

// === impl Check ===

impl Check {
    /// A check with its kind's own name, weight 1, not critical.
    pub fn new(kind: CheckKind) -> Self {
        Self { name: kind.label().to_owned(), kind, weight: 1.0, critical: false, external: false }
    }

    /// Whether it counts in the score of a round: what says how well the instance answers.
    pub fn scores(&self) -> bool {
        !self.external && !matches!(self.kind, CheckKind::Resource { .. })
    }

    /// Whether it asks the instance whether it answers: `latency` only says how long the others took.
    pub(crate) fn asks(&self) -> bool {
        self.scores() && !matches!(self.kind, CheckKind::Latency { .. })
    }

    /// What is asked of every server unless its configuration says otherwise: a connection (0.3)
    /// and an answer (0.7).
    pub fn standard() -> Vec<Self> {
        vec![
            Self { weight: 0.3, ..Self::new(CheckKind::Connect) },
            Self { weight: 0.7, ..Self::new(CheckKind::Ping) },
        ]
    }
}

// === impl CheckTarget ===

impl CheckTarget {
    /// The address for an instance that is reached at this one.
    pub fn of(&self, instance: &HttpUrl) -> HttpUrl {
        match self {
            Self::Url(url) => url.clone(),
            Self::Path(path) => HttpUrl { path: path.clone(), ..instance.clone() },
        }
    }
}

// === impl CheckKind ===

impl CheckKind {
    /// Where it asks over HTTP, if it does.
    pub fn target(&self) -> Option<&CheckTarget> {
        match self {
            Self::Http { target, .. }
            | Self::Metric { source: MetricSource::Http { target, .. }, .. }
            | Self::Resource { source: MetricSource::Http { target, .. }, .. } => Some(target),
            Self::Connect
            | Self::Ping
            | Self::Initialize
            | Self::Tools { .. }
            | Self::Tool { .. }
            | Self::Latency { .. }
            | Self::Metric { source: MetricSource::Tool { .. }, .. }
            | Self::Resource { source: MetricSource::Tool { .. }, .. } => None,
        }
    }

    /// The word for it in the configuration, status and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Ping => "ping",
            Self::Initialize => "initialize",
            Self::Tools { .. } => "tools",
            Self::Tool { .. } => "tool",
            Self::Http { .. } => "http",
            Self::Latency { .. } => "latency",
            Self::Metric { .. } => "metric",
            Self::Resource { resource, .. } => resource.label(),
        }
    }
}
