//! `servers.NAME.objectives`: how soon a server must be back, and what may be lost.

use std::time::Duration;

use super::Tier;

/// What every incident of a server is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objectives {
    /// From the first bad sign to the first good answer. 1s to 1d.
    pub rto: Duration,
    /// How far back what was acknowledged may be lost. 0s to 1d.
    pub rpo: Duration,
}

impl Objectives {
    /// Those of a tier: 30 s and nothing; 120 s and 300 s; 300 s and 900 s.
    pub fn of(tier: Tier) -> Self {
        let (rto, rpo) = match tier {
            Tier::One => (30, 0),
            Tier::Two => (120, 300),
            Tier::Three => (300, 900),
        };
        Self { rto: Duration::from_secs(rto), rpo: Duration::from_secs(rpo) }
    }
}
