//! `servers.NAME.objectives`: how soon a server must be back, and for how long Writes may be in doubt.

use std::time::Duration;

use super::{Server, Tier};
use crate::context::Context;
use crate::section::Section;

/// What every incident of a server is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objectives {
    /// From the first bad sign to the first good answer. 1s to 1d.
    pub rto: Duration,
    /// For how long Writes may be in doubt, from when the first was received to the end of an outage; 0: none may
    /// be. 0s to 1d.
    pub rpo: Duration,
}

impl Objectives {
    /// The section, over those of `tier`.
    pub(crate) fn read(mut section: Section<'_>, tier: Tier) -> Self {
        let (s, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let mut objectives = Self::of(tier);
        section.duration("rto", s..=day, &mut objectives.rto);
        section.duration("rpo", Duration::ZERO..=day, &mut objectives.rpo);
        section.finish();
        objectives
    }

    /// Puts those of the server's tier where the file says nothing, once its tier is known.
    pub(crate) fn settle(name: &str, server: &mut Server, context: &Context<'_>) {
        let of_tier = Self::of(server.tier);
        let given = |key| context.is_given(&format!("servers.{name}.objectives.{key}"));
        if !given("rto") {
            server.objectives.rto = of_tier.rto;
        }
        if !given("rpo") {
            server.objectives.rpo = of_tier.rpo;
        }
    }

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
