//! What an outage of a server took, against what its tier allows.
//!
//! Outages are read from the replicated history (`replicated::ServerEvent`), so whoever leads the group
//! knows of them, and a coordinator that died in the middle of one takes nothing with it.
//!
//! ```text
//! first evidence ── detected ── decided ── switched ── first good answer
//!        └ detection ┘└ decision ┘└─ switch ──┘└── answer ──┘
//!        └──────────────────── compared with the RTO ───────┘
//! ```
//!
//! An outage begins when the *active* instance is found unhealthy, or its breakers open on most nodes
//! whatever its checks say, and reaches back to the first evidence for that. Where too many of its calls
//! fail, but most do not, it is one if the server leaves the instance for that: detected when they were too
//! many. It ends with the first good answer that a node reports, when the active instance is found usable
//! again, or when the failover is over and the new instance is not known to be ill. Where all nodes used the
//! new instance by then, or the move no longer waited for those that are silent (a second), the outage ended at
//! that moment: that people are told of it, or that somebody calls, takes longer and is no part of it. A
//! failover by hand, or one for a fallen score, is none. A server that does not move is out while no instance of
//! it is usable ([`as_one`]).
//!
//! The RPO is compared with what the gateway knows may be lost: Writes of which nobody knows whether they ran,
//! from when the first of them was received to the end of the outage. Nodes tell of them and of the sessions
//! that were moved ([`crate::loss`]); no word of any node is none, where the record says that nodes count. What a
//! server had acknowledged and lost by itself the gateway cannot know (`docs/decisions/0028-what-an-outage-cost-as-far-as-nodes-can-know.md`).

mod equals;

use std::collections::{BTreeMap, BTreeSet};

pub use equals::{Equals, as_one};

use crate::health::votes::{Cause, Opinion};
use crate::replicated::{ServerEvent, ServerHappened};

/// What is allowed, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Objective {
    /// From the first evidence to the first good answer.
    pub rto: u64,
    /// For how long Writes may be in doubt.
    pub rpo: u64,
}

/// One outage of a server. Times are milliseconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outage {
    /// The server.
    pub server: String,
    /// The instance that failed.
    pub instance: String,
    /// The log index of the verdict: names the outage.
    pub index: u64,
    /// The first evidence; if that was not said, when it was detected.
    pub began: u64,
    /// The verdict.
    pub detected: u64,
    /// A failover began.
    pub decided: Option<u64>,
    /// Another instance was active.
    pub switched: Option<u64>,
    /// The first good answer, or what stands for it.
    pub ended: Option<u64>,
    /// How it ended.
    pub ending: Ending,
    /// The log index of the line with which it was one: of too many errors that is the move, which comes after.
    pub began_by: u64,
    /// The log index of the line that ended it.
    pub over: Option<u64>,
    /// Nodes tell what it costs: the record has a line for that.
    pub is_measured: bool,
    /// Writes of which nobody knows whether they ran, as far as nodes have told.
    pub unknown: u32,
    /// When the first of them was received; none: there is none.
    pub oldest: Option<u64>,
    /// Sessions that went to another instance, without what the first one kept for them.
    pub moved: u32,
    /// The failover came to nothing at least once.
    pub has_failed: bool,
    /// It served on, with too many errors: it is left bit by bit, and not in a hurry.
    pub has_served: bool,
    /// Another instance was active, but not all nodes have said yet that they use it.
    is_switching: bool,
    /// What is active since the switch is found unhealthy as well, or its breakers open.
    is_ill: bool,
    /// Since when another instance of which nothing bad is known was used: by all nodes, or the move no longer
    /// waited for those that are silent.
    pub(crate) in_use: Option<u64>,
}

/// How an outage ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ending {
    /// It goes on.
    Open,
    /// Another instance answers.
    FailedOver,
    /// The instance itself is back.
    Recovered,
    /// The server is not configured any more.
    Retired,
}

/// A measured time against what is allowed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Compliance {
    /// It was kept.
    Met,
    /// It was not, or cannot be any more.
    Breached,
    /// The outage goes on, and there is time left.
    Running,
}

/// An outage against its objective.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judged {
    /// How long it took, or has taken so far, in milliseconds.
    pub took: u64,
    /// Against the RTO.
    pub rto: Compliance,
    /// From when the first Write in doubt was received to the end, or until now, in milliseconds; 0: no Write
    /// is in doubt.
    pub in_doubt: u64,
    /// Against the RPO; none: nobody counted, or not all nodes could.
    pub rpo: Option<Compliance>,
}

/// Sums over outages. Times in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// All outages.
    pub outages: u32,
    /// Those that go on.
    pub open: u32,
    /// Those that ended within the RTO.
    pub met: u32,
    /// Those that did not, and those that go on beyond it.
    pub breached: u32,
    /// Those that breached the RPO.
    pub lost: u32,
    /// Those that ended on another instance.
    pub failed_over: u32,
    /// Those during which a failover came to nothing.
    pub failed: u32,
    /// The longest.
    pub worst: u64,
    /// All together: of those that go on, so far.
    pub down: u64,
    /// The mean of those that ended (MTTR); 0 without one.
    pub mean_to_recover: u64,
}

impl Outage {
    /// A failover against how long one may take, in milliseconds: from the verdict, when the evidence
    /// sufficed, to the first good answer of another instance. None of an outage that none ended, and of one
    /// in which the sessions went over bit by bit.
    #[must_use]
    pub fn failover(&self, target: u64, now: u64) -> Option<(u64, Compliance)> {
        if self.has_served {
            return None;
        }
        let took = match (self.ending, self.ended) {
            (Ending::FailedOver, Some(ended)) => ended.saturating_sub(self.detected),
            (Ending::Open, _) if self.decided.is_some() => {
                self.in_use.unwrap_or(now).saturating_sub(self.detected)
            }
            (Ending::Open | Ending::FailedOver | Ending::Recovered | Ending::Retired, _) => {
                return None;
            }
        };
        let compliance = match self.ending {
            _ if took > target => Compliance::Breached,
            Ending::Open => Compliance::Running,
            Ending::FailedOver | Ending::Recovered | Ending::Retired => Compliance::Met,
        };
        Some((took, compliance))
    }
}

/// The outages that the history tells of, in the order in which they were detected. Of one whose
/// beginning the history has forgotten nothing is told.
#[must_use]
pub fn outages<'a>(events: impl IntoIterator<Item = &'a ServerEvent>) -> Vec<Outage> {
    let mut ended = Vec::new();
    let mut open: BTreeMap<&str, Outage> = BTreeMap::new();
    // What is none yet: too many errors.
    let mut bad: BTreeMap<&str, Outage> = BTreeMap::new();
    // By the outage that it names, which may be over by then.
    let mut losses = Vec::new();
    // What is known to be of no use, by server and instance: one may be moved there all the same, by force.
    let mut ill: BTreeSet<(&str, &str)> = BTreeSet::new();
    for event in events {
        let server = event.server.as_str();
        let instance = (server, event.instance.as_str());
        match event.what {
            ServerHappened::Verdict { to: Opinion::Unhealthy, .. }
            | ServerHappened::CallsFail { cause: Cause::BreakerOpen, .. } => ill.insert(instance),
            ServerHappened::Verdict { .. } | ServerHappened::CallsFail { .. } => {
                ill.remove(&instance)
            }
            _ => false,
        };
        match event.what {
            ServerHappened::Lost { .. } => {
                losses.push(event.what);
                continue;
            }
            ServerHappened::Verdict {
                to: Opinion::Unhealthy,
                active: true,
                evidence_since,
                ..
            }
            | ServerHappened::CallsFail { cause: Cause::BreakerOpen, evidence_since, .. } => {
                bad.remove(server);
                // Another instance that fails after a switch nobody saw a good answer of: one outage.
                let outage = open.entry(server).or_insert_with(|| begun(event, evidence_since));
                outage.is_ill = outage.switched.is_some();
                (outage.is_switching, outage.in_use) = (false, None);
                continue;
            }
            ServerHappened::CallsFail { from, evidence_since, .. }
                if from == Some(Opinion::Unhealthy) || !open.contains_key(server) =>
            {
                let has_served = true;
                bad.insert(server, Outage { has_served, ..begun(event, evidence_since) });
            }
            ServerHappened::FailoverBegan => {
                if let Some(outage) = bad.remove(server) {
                    let outage = Outage { began_by: event.index, ..outage };
                    open.entry(server).or_insert(outage);
                }
            }
            // It serves as it should again, or is another one.
            ServerHappened::Verdict { active: true, .. }
            | ServerHappened::Switched
            | ServerHappened::Retired => {
                bad.remove(server);
            }
            _ => {}
        }
        let Some(outage) = open.get_mut(server) else { continue };
        if outage.hear(event, ill.contains(&instance)) {
            outage.over = Some(event.index);
            ended.extend(open.remove(server));
        }
    }
    ended.extend(open.into_values());
    ended.sort_by_key(|it| it.index);
    for what in losses {
        let ServerHappened::Lost { outage, unknown, oldest, moved } = what else { continue };
        if let Ok(at) = ended.binary_search_by_key(&outage, |it| it.index) {
            ended[at].cost(unknown, oldest, moved);
        }
    }
    ended
}

/// Sums over outages, as they stand at `now`.
#[must_use]
pub fn totals<'a>(
    outages: impl IntoIterator<Item = &'a Outage>,
    objective: Objective,
    now: u64,
) -> Totals {
    let mut totals = Totals::default();
    let mut recovered = 0_u64;
    for outage in outages {
        let judged = outage.judge(objective, now);
        totals.outages += 1;
        totals.open += u32::from(outage.ending == Ending::Open);
        totals.met += u32::from(judged.rto == Compliance::Met);
        totals.breached += u32::from(judged.rto == Compliance::Breached);
        totals.lost += u32::from(judged.rpo == Some(Compliance::Breached));
        totals.failed_over += u32::from(outage.ending == Ending::FailedOver);
        totals.failed += u32::from(outage.has_failed);
        totals.worst = totals.worst.max(judged.took);
        totals.down = totals.down.saturating_add(judged.took);
        if outage.ending != Ending::Open {
            recovered = recovered.saturating_add(judged.took);
        }
    }
    let over = totals.outages - totals.open;
    totals.mean_to_recover = recovered.checked_div(u64::from(over)).unwrap_or(0);
    totals
}

// === impl Objective ===

impl Objective {
    /// What a tier allows: 1: 30 s and nothing lost; 2: 120 s and 300 s; 3 and others: 300 s and 900 s.
    #[must_use]
    pub fn of_tier(tier: u8) -> Self {
        let (rto, rpo) = match tier {
            1 => (30, 0),
            2 => (120, 300),
            _ => (300, 900),
        };
        Self { rto: rto * 1000, rpo: rpo * 1000 }
    }
}

// === impl Outage ===

impl Outage {
    /// How it stands against an objective at `now`.
    #[must_use]
    pub fn judge(&self, objective: Objective, now: u64) -> Judged {
        let took = self.ended.or(self.in_use).unwrap_or(now).saturating_sub(self.began);
        let rto = match self.ended {
            _ if took > objective.rto => Compliance::Breached,
            None => Compliance::Running,
            Some(_) => Compliance::Met,
        };
        let end = self.ended.or(self.in_use).unwrap_or(now);
        // A millisecond at least: some time that is none would be no doubt.
        let in_doubt = self.oldest.map_or(0, |oldest| end.saturating_sub(oldest).max(1));
        let rpo = match self.ended {
            _ if in_doubt > objective.rpo => Compliance::Breached,
            None => Compliance::Running,
            Some(_) => Compliance::Met,
        };
        let rpo = self.is_measured.then_some(rpo);
        Judged { took, rto, in_doubt, rpo }
    }

    /// From the first evidence to the verdict, in milliseconds.
    #[must_use]
    pub fn detection(&self) -> u64 {
        self.detected.saturating_sub(self.began)
    }

    /// What else happens to the server. `is_ill`: the instance that it happens to was found to be of no use.
    /// Returns whether the outage is over.
    fn hear(&mut self, event: &ServerEvent, is_ill: bool) -> bool {
        let ending = if self.switched.is_some() { Ending::FailedOver } else { Ending::Recovered };
        if let ServerHappened::Verdict {
            active: true,
            to: Opinion::Healthy | Opinion::Degraded,
            ..
        } = event.what
        {
            self.is_ill = false;
        }
        match event.what {
            ServerHappened::FailoverBegan => {
                self.decided.get_or_insert(event.at);
                (self.is_switching, self.in_use) = (false, None);
            }
            ServerHappened::Switched => {
                self.switched.get_or_insert(event.at);
                (self.is_switching, self.is_ill, self.in_use) = (!is_ill, is_ill, None);
            }
            // The first step after the switch. What follows is telling people, and nobody is served any
            // later for that.
            ServerHappened::Progressed if self.is_switching => {
                (self.is_switching, self.in_use) = (false, Some(event.at));
            }
            // What is active then is of no use.
            ServerHappened::Failed => {
                self.has_failed = true;
                (self.is_switching, self.in_use) = (false, None);
            }
            ServerHappened::Answered { .. } => return self.end(event.at, ending),
            // The active instance is usable, if with errors: unless it is the first news of the new one.
            ServerHappened::Verdict {
                active: true,
                to: Opinion::Healthy | Opinion::Degraded,
                ..
            }
            | ServerHappened::CallsFail {
                cause: Cause::Errors,
                from: Some(Opinion::Unhealthy),
                ..
            } if self.switched.is_none() || event.instance != self.instance => {
                return self.end(event.at, ending);
            }
            // Of an ill one the move says nothing: its next verdict does.
            ServerHappened::Settled if self.switched.is_some() && !self.is_ill => {
                return self.end(event.at, Ending::FailedOver);
            }
            ServerHappened::Retired => return self.end(event.at, Ending::Retired),
            ServerHappened::Verdict { .. }
            | ServerHappened::CallsFail { .. }
            | ServerHappened::FailbackBegan
            | ServerHappened::Progressed
            | ServerHappened::RolledBack
            | ServerHappened::Settled
            | ServerHappened::BreakerOpened
            | ServerHappened::BreakerForcedOpen
            | ServerHappened::BreakerForcedClosed
            | ServerHappened::BreakerReleased
            | ServerHappened::Defined
            | ServerHappened::Configured
            | ServerHappened::Noted
            | ServerHappened::Lost { .. } => {}
        }
        false
    }

    fn cost(&mut self, unknown: u32, oldest: u64, moved: u32) {
        self.is_measured = true;
        self.unknown = self.unknown.saturating_add(unknown);
        self.moved = self.moved.saturating_add(moved);
        if unknown > 0 {
            self.oldest = Some(self.oldest.map_or(oldest, |known| known.min(oldest)));
        }
    }

    /// What shows only now that it is over may come much later, where nobody calls: it was over when the
    /// instance came in use.
    fn end(&mut self, at: u64, ending: Ending) -> bool {
        self.ended = Some(self.in_use.unwrap_or(at));
        self.ending = ending;
        true
    }
}

fn begun(event: &ServerEvent, evidence_since: u64) -> Outage {
    let began = if evidence_since == 0 { event.at } else { evidence_since.min(event.at) };
    Outage {
        server: event.server.clone(),
        instance: event.instance.clone(),
        index: event.index,
        began,
        detected: event.at,
        decided: None,
        switched: None,
        ended: None,
        ending: Ending::Open,
        began_by: event.index,
        over: None,
        is_measured: false,
        unknown: 0,
        oldest: None,
        moved: 0,
        has_failed: false,
        has_served: false,
        is_switching: false,
        is_ill: false,
        in_use: None,
    }
}

#[cfg(test)]
mod tests;
