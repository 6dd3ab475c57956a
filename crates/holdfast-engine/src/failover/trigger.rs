//! What makes a server leave an instance, and which one it goes to.
//!
//! | the active instance is | because of | then |
//! |---|---|---|
//! | unhealthy | no connection, no credential, a critical check, open breakers | immediate |
//! | unhealthy, score below `fail_over` (40) | anything | immediate |
//! | unhealthy | errors, exhaustion, the score | gradual |
//! | degraded | open breakers | immediate, to a healthy one |
//! | degraded | errors over the limit, exhaustion | gradual |
//! | degraded, score fallen by `degradation` | the score | gradual |
//! | not configured any more, or a replica now | | immediate: nothing can be served there |
//! | anything else, or nothing is known | | stays |
//!
//! "Unhealthy" and "degraded" are the group's verdicts, never one node's. A gradual move too goes to a
//! healthy instance only.

use super::{Manner, Params};
use crate::health::passive::Indicators;
use crate::health::score::Failure;
use crate::health::votes::{Cause, Opinion};

/// What an instance is to its server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Serves while all is well.
    Primary,
    /// Serves when the primary cannot.
    Secondary,
    /// Answers Reads; never becomes active.
    Replica,
}

/// An instance as the coordinator sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// Its configured name.
    pub name: &'a str,
    /// What it is to the server.
    pub role: Role,
    /// The group's verdict; none: not known yet.
    pub opinion: Option<Opinion>,
    /// What makes it so.
    pub cause: Cause,
    /// The score behind it, 0 to 100.
    pub score: u8,
    /// When that verdict began, in milliseconds since the Unix epoch.
    pub since: u64,
    /// Good checks in a row up to now.
    pub good_checks: u32,
}

/// Why, and how, an instance is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// How.
    pub manner: Manner,
    /// Why.
    pub cause: Cause,
    /// The worst that the group may find of the instance that it goes to.
    pub to: Opinion,
}

/// What the active instance's condition calls for. `seen` is none if it is not configured any more; a replica is
/// as good as that.
#[must_use]
pub fn trigger(seen: Option<&Seen<'_>>, params: &Params) -> Option<Trigger> {
    let Some(seen) = seen.filter(|it| it.role != Role::Replica) else {
        return Some(Trigger::new(Manner::Immediate, Cause::Score));
    };
    let cause = seen.cause;
    let fallen = f64::from(seen.score) < 100.0 * (1.0 - params.degradation);
    let manner = match (seen.opinion?, cause) {
        (Opinion::Healthy, _) => return None,
        // Nothing that is sent there is served, so a ramp would only refuse for longer.
        (Opinion::Degraded, Cause::BreakerOpen) => {
            return Some(Trigger { manner: Manner::Immediate, cause, to: Opinion::Healthy });
        }
        (Opinion::Unhealthy, it) if it.is_immediate() || seen.score < params.fail_over => {
            Manner::Immediate
        }
        (Opinion::Unhealthy, _) | (Opinion::Degraded, Cause::Errors | Cause::Exhausted) => {
            Manner::Gradual
        }
        (Opinion::Degraded, Cause::Score) if fallen => Manner::Gradual,
        (Opinion::Degraded, _) => return None,
    };
    Some(Trigger::new(manner, cause))
}

/// The best instance to go to: healthy before degraded, then in the order of `seen`. Never the active
/// one, a replica, one of `tried`, or one that is unhealthy or of which nothing is known.
#[must_use]
pub fn target<'a>(seen: &'a [Seen<'a>], active: &str, tried: &[String]) -> Option<&'a Seen<'a>> {
    seen.iter()
        .filter(|it| it.is_usable() && it.role != Role::Replica && it.name != active)
        .filter(|it| !tried.iter().any(|tried| tried == it.name))
        .min_by_key(|it| it.opinion)
}

/// The cause that a node names in its vote: the gravest that it sees. `is_open`: its breaker lets no
/// calls through, for a reason that is the instance's; `error_rate`: the share of calls above which they
/// are too many that fail, 0 to 1.
#[must_use]
pub fn cause(
    fatal: Option<Failure>,
    is_open: bool,
    calls: &Indicators,
    error_rate: f64,
    is_exhausted: bool,
) -> Cause {
    match fatal {
        Some(failure) => failure.into(),
        None if is_open => Cause::BreakerOpen,
        None if is_exhausted => Cause::Exhausted,
        None if calls.fail_above(error_rate) => Cause::Errors,
        None => Cause::Score,
    }
}

// === impl Trigger ===

impl Trigger {
    /// From an instance that is of no use one goes to whatever is usable; from one that is of some use
    /// only to one that is healthy.
    fn new(manner: Manner, cause: Cause) -> Self {
        let to = match manner {
            Manner::Immediate => Opinion::Degraded,
            Manner::Gradual | Manner::Manual | Manner::Forced => Opinion::Healthy,
        };
        Self { manner, cause, to }
    }
}

// === impl Seen ===

impl Seen<'_> {
    /// Whether it can serve, as far as the group knows.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.opinion, Some(Opinion::Healthy | Opinion::Degraded))
    }

    /// Whether it is found at least so well.
    #[must_use]
    pub fn is_at_least(&self, worst: Opinion) -> bool {
        self.opinion.is_some_and(|it| it <= worst)
    }

    /// Whether it can serve, and nothing speaks against it.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.opinion == Some(Opinion::Healthy)
    }
}
