//! `servers.NAME.failover`: from a primary to a secondary and back.

use std::time::Duration;

use super::health_read::read_call;
use super::{Instance, Role};
use crate::field::Field;
use crate::section::Section;

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
    /// How long the calls take to move, bit by bit, away from a primary that is degraded and not
    /// gone. 0s (at once) to 1h.
    pub shift_over: Duration,
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

/// How long the stages of a move last at most in which new calls wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Until every node holds. A node that has not confirmed by then has no lease any more.
    pub pause: Duration,
    /// The same where the old instance is of no use.
    pub pause_immediate: Duration,
    /// Until no call runs at the old instance.
    pub drain: Duration,
    /// For the call that both sides must answer alike; zero where there is none.
    pub check: Duration,
    /// Until every node uses the new instance.
    pub switch: Duration,
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
            shift_over: Duration::from_secs(60),
            degradation: 0.5,
            error_rate: 0.1,
            tier: FailoverTier::Local,
        }
    }
}

// === impl FailoverTier ===

impl FailoverTier {
    pub(crate) const ALL: [Self; 4] =
        [Self::Local, Self::Regional, Self::Geographic, Self::Disaster];

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

// === impl Held ===

impl Held {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.pause + self.drain + self.check + self.switch
    }
}

// === impl Failover ===

impl Failover {
    /// What a server has, given its instances and its `failover` key. `None`: it does not fail over.
    pub(crate) fn read(field: Option<&Field<'_>>, instances: &[Instance]) -> Option<Self> {
        let roles = Roles::of(instances);
        let Some(field) = field else {
            return roles.fit().is_ok().then(|| Self::between(instances));
        };
        let mut section = field.section()?;
        let mut enabled = true;
        section.flag("enabled", &mut enabled);
        let mut failover = Self::between(instances);
        failover.read_keys(&mut section);
        section.finish();
        if !enabled {
            return None;
        }
        if let Err(found) = roles.fit() {
            field.problem(
                found.into(),
                "instances of which one has role: primary and at least one role: secondary",
                "add the roles: { id: a, url: …, role: primary }, { id: b, url: …, role: secondary }",
            );
            return None;
        }
        Some(failover)
    }

    /// How long calls are held. `lease`: a node's; `timeout`: that of the server's checks.
    pub fn held(&self, lease: Duration, timeout: Duration) -> Held {
        // Both sides are asked.
        let check = timeout.saturating_mul(2) + Duration::from_secs(1);
        Held {
            pause: lease.saturating_mul(2),
            pause_immediate: lease + Duration::from_millis(200),
            drain: self.drain,
            check: if self.consistency.is_some() { check } else { Duration::ZERO },
            switch: lease,
        }
    }

    fn read_keys(&mut self, section: &mut Section<'_>) {
        let (zero, s) = (Duration::ZERO, Duration::from_secs(1));
        section.number("threshold", 1..=10, &mut self.threshold);
        section.duration("failback_delay", zero..=s * 86_400, &mut self.failback_delay);
        section.flag("automatic_failback", &mut self.automatic_failback);
        section.number("good_checks", 1..=100, &mut self.good_checks);
        self.consistency = section.field("consistency").and_then(|field| Consistency::read(&field));
        section.duration("drain", zero..=s * 3600, &mut self.drain);
        section.share("ramp_step", 0.01..=1.0, &mut self.ramp_step);
        section.duration("ramp_over", zero..=s * 3600, &mut self.ramp_over);
        section.duration("shift_over", zero..=s * 3600, &mut self.shift_over);
        section.share("degradation", 0.01..=1.0, &mut self.degradation);
        section.share("error_rate", 0.01..=1.0, &mut self.error_rate);
        let words = FailoverTier::ALL.map(|tier| (tier.label(), tier));
        if let Some(tier) = section.field("tier").and_then(|field| field.choice(&words)) {
            self.tier = tier;
        }
    }

    /// The defaults between these instances: nearer ones are expected to be quicker.
    fn between(instances: &[Instance]) -> Self {
        let mut regions = instances
            .iter()
            .filter(|instance| matches!(instance.role, Role::Primary | Role::Secondary))
            .filter_map(|instance| instance.region.as_deref());
        let first = regions.next();
        let apart = regions.any(|region| Some(region) != first);
        let tier = if apart { FailoverTier::Regional } else { FailoverTier::Local };
        Self { tier, ..Self::default() }
    }
}

/// How many instances are what.
struct Roles {
    primaries: usize,
    secondaries: usize,
}

// === impl Roles ===

impl Roles {
    fn of(instances: &[Instance]) -> Self {
        let count = |role| instances.iter().filter(|instance| instance.role == role).count();
        Self { primaries: count(Role::Primary), secondaries: count(Role::Secondary) }
    }

    /// Whether a failover is possible, or what is missing.
    fn fit(&self) -> Result<(), &'static str> {
        match (self.primaries, self.secondaries) {
            (0, 0) => Err("a failover, and no instance is primary or secondary"),
            (0, _) => Err("a failover, and no instance is primary"),
            (_, 0) => Err("a failover, and no instance is secondary"),
            _ => Ok(()),
        }
    }
}

// === impl Consistency ===

impl Consistency {
    fn read(field: &Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let call = read_call(&mut section);
        if !section.has("tool") {
            let cure = "write { tool: NAME, arguments: { … } }";
            field.problem("a comparison without a tool".into(), "tool and arguments", cure);
        }
        section.finish();
        let (tool, arguments) = call?;
        Some(Self { tool, arguments })
    }
}
