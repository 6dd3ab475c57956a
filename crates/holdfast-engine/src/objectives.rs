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
//! failover by hand, or one for a fallen score, is none.
//!
//! The RPO is compared with what the gateway knows may be lost: Writes of which nobody knows whether they ran,
//! from when the first of them was received to the end of the outage. Nodes tell of them and of the sessions
//! that were moved ([`crate::loss`]); no word of any node is none. What a server had acknowledged and lost
//! by itself the gateway cannot know (`docs/decisions/0028-what-an-outage-cost-as-far-as-nodes-can-know.md`).

use std::collections::BTreeMap;

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
    /// What is active since the switch was found unhealthy as well, or its breakers open.
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
    /// Against the RPO.
    pub rpo: Compliance,
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
    for event in events {
        let server = event.server.as_str();
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
        if outage.hear(event) {
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
        totals.lost += u32::from(judged.rpo == Compliance::Breached);
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
        Judged { took, rto, in_doubt, rpo }
    }

    /// From the first evidence to the verdict, in milliseconds.
    #[must_use]
    pub fn detection(&self) -> u64 {
        self.detected.saturating_sub(self.began)
    }

    /// From the verdict to the beginning of the failover.
    #[must_use]
    pub fn decision(&self) -> Option<u64> {
        Some(self.decided?.saturating_sub(self.detected))
    }

    /// From the beginning of the failover to the switch.
    #[must_use]
    pub fn switch(&self) -> Option<u64> {
        Some(self.switched?.saturating_sub(self.decided?))
    }

    /// From the switch, or the verdict if there was none, to the first good answer.
    #[must_use]
    pub fn answer(&self) -> Option<u64> {
        Some(self.ended?.saturating_sub(self.switched.unwrap_or(self.detected)))
    }

    /// What else happens to the server. Returns whether the outage is over.
    fn hear(&mut self, event: &ServerEvent) -> bool {
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
                (self.is_switching, self.is_ill, self.in_use) = (true, false, None);
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
mod tests {
    use super::*;
    use ServerHappened::*;

    fn event(at: u64, instance: &str, what: ServerHappened) -> ServerEvent {
        let (server, instance) = ("db".to_owned(), instance.to_owned());
        let evidence = String::new();
        ServerEvent { index: at, at, server, instance, generation: 1, what, evidence }
    }

    fn verdict(to: Opinion, evidence_since: u64) -> ServerHappened {
        Verdict { from: None, to, active: true, evidence_since }
    }

    const DOWN: Opinion = Opinion::Unhealthy;
    const WELL: Opinion = Opinion::Healthy;

    #[test]
    fn an_outage_is_measured_from_the_first_evidence_to_the_first_good_answer() {
        let events = [
            event(1_000, "a", verdict(DOWN, 400)),
            event(1_050, "b", FailoverBegan),
            event(1_300, "b", Switched),
            event(1_700, "b", Answered { lost: None }),
            event(2_000, "b", Settled),
        ];
        let outages = outages(&events);
        let [it] = &outages[..] else { panic!("{outages:?}") };
        assert_eq!((it.detection(), it.decision()), (600, Some(50)));
        assert_eq!((it.switch(), it.answer()), (Some(250), Some(400)));
        assert_eq!(it.ending, Ending::FailedOver);
        let (rto, rpo) = (Compliance::Met, Compliance::Met);
        let met = Judged { took: 1_300, rto, in_doubt: 0, rpo };
        assert_eq!(it.judge(Objective::of_tier(1), 9_999), met);
        assert_eq!(it.failover(700, 9_999), Some((700, Compliance::Met)));
        assert_eq!(it.failover(699, 9_999), Some((700, Compliance::Breached)));
        let tight = Objective { rto: 1_299, rpo: 0 };
        assert_eq!(it.judge(tight, 9_999).rto, Compliance::Breached);
    }

    #[test]
    fn one_that_goes_on_is_breached_as_soon_as_its_time_is_over() {
        let outages = outages(&[event(1_000, "a", verdict(DOWN, 0))]);
        let at = |now| outages[0].judge(Objective::of_tier(1), now).rto;
        assert_eq!(at(31_000), Compliance::Running);
        assert_eq!(at(31_001), Compliance::Breached);
        assert_eq!(outages[0].failover(1, 31_000), None, "no failover has begun");
        let began = [event(1_000, "a", verdict(DOWN, 0)), event(1_010, "b", FailoverBegan)];
        let begun = &super::outages(&began)[0];
        assert_eq!(begun.failover(1_000, 2_000), Some((1_000, Compliance::Running)));
        assert_eq!(begun.failover(1_000, 2_001), Some((1_001, Compliance::Breached)));
        let used = [event(1_300, "b", Switched), event(1_400, "b", Progressed)];
        let used = [&began[..], &used].concat();
        let used = &super::outages(&used)[0];
        assert_eq!((used.ending, used.ended), (Ending::Open, None), "people are being told");
        assert_eq!(used.failover(1_000, 9_000), Some((400, Compliance::Running)));
        assert_eq!(used.judge(Objective::of_tier(1), 99_000).rto, Compliance::Running);
        let ill = [event(1_500, "b", verdict(DOWN, 0))];
        let ill = [&began[..], &[event(1_300, "b", Switched), event(1_400, "b", Progressed)], &ill];
        let ill = &super::outages(&ill.concat())[0];
        assert_eq!(ill.judge(Objective::of_tier(1), 99_000).rto, Compliance::Breached);
    }

    #[test]
    fn one_whose_next_instance_is_ill_before_all_use_it_goes_on() {
        let moved = [
            event(1_000, "a", verdict(DOWN, 0)),
            event(1_050, "b", FailoverBegan),
            event(1_300, "b", Switched),
        ];
        let of = |rest: &[ServerEvent]| outages(&[&moved[..], rest].concat()).remove(0);
        let down = event(1_400, "b", verdict(DOWN, 0));
        let used = event(1_500, "b", Progressed);
        let rto = |it: &Outage| it.judge(Objective::of_tier(1), 99_000).rto;
        let waits = of(&[down.clone(), used.clone()]);
        assert_eq!((waits.ending, rto(&waits)), (Ending::Open, Compliance::Breached));
        let failed = event(1_600, "b", Failed);
        let all = of(&[down.clone(), used.clone(), failed.clone()]);
        assert_eq!((rto(&all), all.has_failed), (Compliance::Breached, true));
        assert_eq!(rto(&of(&[used.clone(), failed])), Compliance::Breached);
        // It is left bit by bit, or there is no other: the move settles on it.
        let settled = event(1_900, "b", Settled);
        let open = event(1_700, "b", fail(Cause::BreakerOpen, WELL, 0));
        for ill in [down, open] {
            let it = of(&[used.clone(), ill.clone(), settled.clone()]);
            assert_eq!((it.ending, rto(&it)), (Ending::Open, Compliance::Breached), "{ill:?}");
            let next = [event(2_000, "c", FailoverBegan), event(2_100, "c", Switched)];
            let next = [&[ill][..], &next, &[event(2_200, "c", Settled)]].concat();
            assert_eq!(of(&next).ended, Some(2_200), "c is another one");
        }
        // One that is taken back leaves the server on what was well.
        let back = [used, event(1_600, "a", FailoverBegan), settled];
        assert_eq!((of(&back).ending, of(&back).ended), (Ending::FailedOver, Some(1_900)));
        // Both fall before a move has settled; the first one is well again, and nobody calls.
        let both = [
            event(1_600, "b", verdict(DOWN, 0)),
            event(1_700, "a", FailoverBegan),
            event(1_800, "a", Switched),
            event(1_900, "a", verdict(DOWN, 0)),
            event(2_000, "a", Failed),
            event(5_000, "a", verdict(WELL, 0)),
            event(6_000, "a", Settled),
        ];
        assert_eq!(of(&both).ended, Some(6_000));
    }

    #[test]
    fn an_idle_servers_outage_is_over_with_the_move_whatever_shows_it() {
        let moved = [
            event(1_000, "a", verdict(DOWN, 0)),
            event(1_050, "b", FailoverBegan),
            event(1_300, "b", Switched),
            event(1_400, "b", Progressed),
        ];
        let answered = Answered { lost: None };
        let errs = CallsFail { from: Some(DOWN), cause: Cause::Errors, evidence_since: 0 };
        for what in [answered, verdict(WELL, 0), verdict(Opinion::Degraded, 0), errs, Settled] {
            let all = outages(&[&moved[..], &[event(21_000, "b", what)]].concat());
            assert_eq!(
                (all[0].ending, all[0].ended),
                (Ending::FailedOver, Some(1_400)),
                "{what:?}"
            );
        }
    }

    #[test]
    fn what_comes_back_by_itself_has_recovered_and_what_nobody_calls_ends_with_the_move() {
        let ending = |rest: &[ServerEvent]| {
            let first = [event(1_000, "a", verdict(DOWN, 0))];
            let events: Vec<_> = first.iter().chain(rest).cloned().collect();
            let outages = outages(&events);
            (outages.len(), outages[0].ending, outages[0].ended)
        };
        let back = [event(5_000, "a", verdict(WELL, 0))];
        assert_eq!(ending(&back), (1, Ending::Recovered, Some(5_000)));
        let told = [event(2_000, "b", Switched), event(4_000, "b", Settled)];
        assert_eq!(ending(&told), (1, Ending::FailedOver, Some(4_000)));
        // From here on all nodes use it; the rest is telling people.
        let used = [
            event(2_000, "b", Switched),
            event(2_100, "b", Progressed),
            event(32_000, "b", Settled),
        ];
        assert_eq!(ending(&used), (1, Ending::FailedOver, Some(2_100)));
        // It fails as well, before that is over.
        let fails = [
            event(2_000, "b", Switched),
            event(2_100, "b", Progressed),
            event(9_000, "b", verdict(DOWN, 0)),
            event(9_010, "c", FailoverBegan),
            event(9_020, "c", Progressed),
            event(9_100, "c", Switched),
            event(9_200, "c", Progressed),
            event(32_000, "c", Settled),
        ];
        assert_eq!(ending(&fails), (1, Ending::FailedOver, Some(9_200)));
        let gone = [event(3_000, "", Retired)];
        assert_eq!(ending(&gone), (1, Ending::Retired, Some(3_000)));
        let tried = [event(2_000, "", Failed), event(4_000, "a", verdict(WELL, 0))];
        assert_eq!(ending(&tried), (1, Ending::Recovered, Some(4_000)));
    }

    #[test]
    fn standby_instances_moves_by_hand_and_forgotten_beginnings_are_no_outages() {
        let standby = Verdict { from: None, to: DOWN, active: false, evidence_since: 0 };
        let events = [
            event(1, "b", standby),
            event(2, "b", FailoverBegan),
            event(3, "b", Switched),
            event(4, "b", Answered { lost: None }),
        ];
        assert_eq!(outages(&events), []);
    }

    fn fail(cause: Cause, from: Opinion, evidence_since: u64) -> ServerHappened {
        CallsFail { from: Some(from), cause, evidence_since }
    }

    #[test]
    fn one_whose_breakers_are_open_is_out_whatever_its_checks_say() {
        let open = fail(Cause::BreakerOpen, WELL, 700);
        let first = [event(1_000, "a", open)];
        assert_eq!((outages(&first)[0].began, outages(&first)[0].ending), (700, Ending::Open));
        let moved = [
            event(1_000, "a", open),
            event(1_010, "b", FailoverBegan),
            event(1_300, "b", Switched),
            event(1_400, "b", Answered { lost: None }),
        ];
        let it = &outages(&moved)[0];
        assert_eq!((it.detection(), it.decision(), it.switch()), (300, Some(10), Some(290)));
        assert_eq!((it.answer(), it.ending), (Some(100), Ending::FailedOver));
        assert_eq!(it.failover(1_000, 9_999), Some((400, Compliance::Met)));
        // It falls further and gets better by degrees: one outage, until its calls succeed.
        let degrees = [
            event(1_000, "a", open),
            event(2_000, "a", verdict(DOWN, 0)),
            event(3_000, "a", fail(Cause::BreakerOpen, DOWN, 0)),
            event(3_500, "a", fail(Cause::Errors, Opinion::Degraded, 0)),
            event(4_000, "a", verdict(Opinion::Degraded, 0)),
        ];
        let all = outages(&degrees);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((all[0].began, all[0].ended), (700, Some(4_000)));
        assert_eq!(all[0].ending, Ending::Recovered);
    }

    #[test]
    fn too_many_errors_are_an_outage_if_the_server_leaves_for_them() {
        let bad = event(1_000, "a", fail(Cause::Errors, WELL, 900));
        assert_eq!(outages([&bad]), []);
        let better = [
            bad.clone(),
            event(2_000, "a", verdict(Opinion::Degraded, 0)),
            event(3_000, "b", FailoverBegan),
        ];
        assert_eq!(outages(&better), [], "by then there was another reason");
        let left = [
            bad,
            event(1_100, "b", FailoverBegan),
            event(61_000, "b", Switched),
            event(61_500, "b", Answered { lost: None }),
        ];
        let it = &outages(&left)[0];
        assert_eq!((it.began, it.detected, it.decided), (900, 1_000, Some(1_100)));
        assert_eq!(it.judge(Objective::of_tier(1), 99_999).rto, Compliance::Breached);
        assert_eq!(it.failover(1_000, 99_999), None, "it was in no hurry");
        // One that was down, and is of some use again.
        let after = [
            event(500, "a", verdict(DOWN, 0)),
            event(1_000, "a", fail(Cause::Errors, DOWN, 0)),
            event(1_100, "b", FailoverBegan),
        ];
        let all = outages(&after);
        assert_eq!(
            all.iter().map(|it| it.ending).collect::<Vec<_>>(),
            [Ending::Recovered, Ending::Open]
        );
    }

    fn lost(at: u64, outage: u64, unknown: u32, oldest: u64, moved: u32) -> ServerEvent {
        event(at, "a", Lost { outage, unknown, oldest, moved })
    }

    #[test]
    fn a_write_in_doubt_is_held_against_the_rpo_from_its_receipt_to_the_end_of_the_outage() {
        let began = [event(1_000, "a", verdict(DOWN, 0))];
        let over = [&began[..], &[event(5_000, "a", verdict(WELL, 0))]].concat();
        let judged = |events: &[ServerEvent], rpo: u64, now| {
            let it = &outages(events)[0];
            let judged = it.judge(Objective { rto: 30_000, rpo }, now);
            (it.unknown, it.moved, judged.in_doubt, judged.rpo)
        };
        use Compliance::{Breached, Met, Running};
        assert_eq!(judged(&over, 0, 9_000), (0, 0, 0, Met), "nothing is in doubt");
        // It was known only when the outage was over, and another node tells of more.
        let late = [&over[..], &[lost(70_000, 1_000, 1, 3_000, 0)]].concat();
        assert_eq!(judged(&late, 0, 99_000), (1, 0, 2_000, Breached), "tier 1 allows none");
        assert_eq!(judged(&late, 1_999, 99_000).3, Breached);
        assert_eq!(judged(&late, 2_000, 99_000).3, Met);
        let more = [&late[..], &[lost(71_000, 1_000, 2, 900, 7)]].concat();
        assert_eq!(judged(&more, 0, 99_000), (3, 7, 4_100, Breached), "before the first sign");
        let moved = [&over[..], &[lost(6_000, 1_000, 0, 0, 200)]].concat();
        assert_eq!(judged(&moved, 0, 9_000), (0, 200, 0, Met), "a session is no Write");
        let open = [&began[..], &[lost(2_000, 1_000, 1, 900, 0)]].concat();
        assert_eq!(judged(&open, 0, 3_000).3, Breached, "it cannot be kept any more");
        assert_eq!(judged(&open, 2_100, 3_000), (1, 0, 2_100, Running));
        assert_eq!(judged(&began, 0, 3_000).3, Running);
        // One that was received as the last thing.
        let last = [&over[..], &[lost(6_000, 1_000, 1, 5_000, 0)]].concat();
        assert_eq!(judged(&last, 0, 9_000), (1, 0, 1, Breached));
        let forgotten = [&over[..], &[lost(6_000, 999, 1, 900, 0)]].concat();
        assert_eq!(judged(&forgotten, 0, 9_000).0, 0, "of another outage");
    }

    #[test]
    fn servers_do_not_end_each_others_outages() {
        let mut other = event(2_000, "x", Answered { lost: None });
        other.server = "files".to_owned();
        let events = [event(1_000, "a", verdict(DOWN, 0)), other];
        assert_eq!(outages(&events)[0].ending, Ending::Open);
    }

    #[test]
    fn totals_add_up() {
        let events = [
            event(1_000, "a", verdict(DOWN, 0)),
            event(2_000, "a", verdict(WELL, 0)),
            event(10_000, "a", verdict(DOWN, 0)),
            event(11_000, "", Failed),
            event(11_500, "b", Switched),
            event(13_000, "b", Answered { lost: None }),
            lost(15_000, 10_000, 1, 9_000, 0),
            event(20_000, "b", verdict(DOWN, 0)),
        ];
        let totals = totals(&outages(&events), Objective { rto: 2_000, rpo: 0 }, 25_000);
        let expected = Totals {
            outages: 3,
            open: 1,
            met: 1,
            breached: 2,
            lost: 1,
            failed_over: 1,
            failed: 1,
            worst: 5_000,
            down: 9_000,
            mean_to_recover: 2_000,
        };
        assert_eq!(totals, expected);
        assert_eq!(super::totals(&[], Objective::of_tier(3), 0), Totals::default());
    }

    #[test]
    fn every_tier_allows_what_the_requirements_say() {
        let tiers = [1, 2, 3].map(|it| {
            let it = Objective::of_tier(it);
            (it.rto, it.rpo)
        });
        assert_eq!(tiers, [(30_000, 0), (120_000, 300_000), (300_000, 900_000)]);
    }
}
