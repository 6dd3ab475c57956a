//! `servers.NAME.failover`: from a primary to a secondary and back.

use std::time::Duration;

/// How a server moves from its primary to a secondary, and back. There for every server with one
/// primary and at least one secondary, unless it says `enabled: false`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    /// Rounds of checks in a row whose verdict must be "unhealthy". 1 to 10.
    pub threshold: u32,
    /// How long the primary must be well before it is the active one again. 0s to 1d.
    pub failback_delay: Duration,
    /// Whether that happens by itself; otherwise `holdfast failback` does it.
    pub automatic_failback: bool,
    /// Good checks in a row that a failback needs besides. 1 to 100.
    pub good_checks: u32,
    /// A call whose results must agree on both sides before the switch. `None`: nothing is compared.
    pub consistency: Option<Consistency>,
    /// How long running calls may take to end on the side that is left. 0s to 1h.
    pub drain: Duration,
    /// What the share of calls to the primary rises by, step by step, on a failback. 0.01 to 1.
    pub ramp_step: f64,
    /// How long that rise takes, watched; it is taken back if the primary does worse. 0s (at once)
    /// to 1h.
    pub ramp_over: Duration,
    /// A fall of the health score by this share shifts traffic bit by bit. 0.01 to 1.
    pub degradation: f64,
    /// A share of errors above this does so too. 0.01 to 1.
    pub error_rate: f64,
    /// How far the other side is, and with it how long a failover may take. By default by the
    /// regions: `Local` where primary and secondaries are in one or name none, else `Regional`.
    pub tier: FailoverTier,
}

/// A call that both sides must answer alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// The tool; it should read.
    pub tool: String,
    /// Its arguments: a JSON object as text.
    pub arguments: String,
}

/// How far the other side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverTier {
    /// The same place: 1 s.
    Local,
    /// Another zone or region: 10 s.
    Regional,
    /// Another continent: 60 s.
    Geographic,
    /// A site that must be started first: 30 min.
    Disaster,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            threshold: 2,
            failback_delay: Duration::from_secs(300),
            automatic_failback: true,
            good_checks: 3,
            consistency: None,
            drain: Duration::from_secs(30),
            ramp_step: 0.1,
            ramp_over: Duration::from_secs(300),
            degradation: 0.5,
            error_rate: 0.1,
            tier: FailoverTier::Local,
        }
    }
}

// === impl FailoverTier ===

impl FailoverTier {
    /// How long a failover may take, from the evidence to the first good answer.
    pub fn target(self) -> Duration {
        Duration::from_secs(match self {
            Self::Local => 1,
            Self::Regional => 10,
            Self::Geographic => 60,
            Self::Disaster => 1800,
        })
    }

    /// The word for it in the configuration and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Regional => "regional",
            Self::Geographic => "geographic",
            Self::Disaster => "disaster",
        }
    }
}
