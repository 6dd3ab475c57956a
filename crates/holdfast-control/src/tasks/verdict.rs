//! Counts the votes and proposes what the group concludes from them; keeps the group's list of servers
//! in step with the configuration.
//!
//! Which servers there are is the business of a coordinator whose configuration is the one that the group
//! agreed on ([`Shared::mandate`]): another one does not know what it would take away. Who is not
//! configured any more is retired after [`GRACE`] of that.
//!
//! A conclusion is proposed when it differs from the one that holds. Every proposal carries the term in
//! which it was decided: what a deposed coordinator still proposes is refused.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use holdfast_cluster::ProposeError;
use holdfast_engine::health::votes::{Opinion, Rules, Vote, first_sign, tally};
use holdfast_engine::health::{Grade, Measure, percent};
use holdfast_engine::replicated::{
    ALARM, ClusterState, Origin, ServerCommand, ServerEvent, ServerHappened, ServerState, Verdict,
};
use tokio::time::Instant;

use crate::desk::members;
use crate::driver::{Reconciler, Status};
use crate::plan::Planned;
use crate::shared::{GRACE, Mandate, Shared, concluded};
use crate::tasks::failover::call_off;

/// A vote grows old without a word: then there is no conclusion any more.
const EVERY: Duration = Duration::from_secs(2);
/// A score that has changed by less than this, for the same conclusion, is no news, unless it has fallen below
/// a bar. Above one again it takes this much: a score that goes to and fro there calls for the same all the time.
const SAME: u8 = 5;
/// What the last line of an instance tells is what its score calls for now, if it is no older than this, in
/// milliseconds: who was to give the verdict after an alarm may have died over it.
const TOLD: u64 = 60_000;

pub(crate) struct Verdicts {
    shared: Arc<Shared>,
    /// The term in which this node has decided by this plan what there is, and since when.
    rules: Option<(u64, Instant)>,
}

// === impl Verdicts ===

impl Verdicts {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, rules: None }
    }

    async fn decide(&self, may: Mandate, since: Instant) -> Result<(), ProposeError> {
        let state = self.shared.state();
        self.shared.desk.keep(&state);
        let members = members(&state);
        // Side by side: where a region is lost, one server's verdict does not wait for another's.
        let servers = self.shared.plan.servers.iter();
        let decided = servers.map(|planned| self.decide_one(&state, planned, &members, may));
        try_join_all(decided).await?;
        if !may.whole || since.elapsed() < GRACE {
            return Ok(());
        }
        let known = state.servers.by_name.iter().filter(|(_, it)| !it.is_retired());
        let gone = known.map(|(name, _)| name).filter(|it| self.shared.plan.find(it).is_none());
        for server in gone {
            let command = ServerCommand::Retire { server: server.clone(), term: may.term };
            self.shared.propose(command).await?;
        }
        Ok(())
    }

    async fn decide_one(
        &self,
        state: &ClusterState,
        planned: &Planned,
        members: &[Origin],
        may: Mandate,
    ) -> Result<(), ProposeError> {
        let term = may.term;
        if !is_defined(state, planned) {
            if !may.whole {
                return Ok(());
            }
            self.define(planned, term).await?;
        }
        for instance in planned.ids() {
            let voters = self.shared.desk.voters(&planned.name, &instance, members);
            if let Some(command) = self.conclude(state, planned, &instance, &voters, term) {
                // Before the verdict, from which it is known to be due: who dies in between is followed by
                // one that gives it, or finds it given. A line for the record names no term, so one that
                // was deposed has to see that itself.
                let now = state.time.max(self.shared.group.time());
                if let Some(alarm) = alarm(&self.shared, state, planned, &command, now)
                    && self.shared.coordinates() == Some(term)
                {
                    tracing::error!(server = planned.name, ?alarm, "an instance is of no use");
                    self.shared.propose(alarm).await?;
                }
                self.shared.propose(command).await?;
            }
        }
        Ok(())
    }

    /// Since when this node decides in this term what there is.
    fn since(&mut self, may: Mandate) -> Instant {
        let known = self.rules.filter(|(term, _)| may.whole && *term == may.term);
        let (_, since) = *self.rules.insert(known.unwrap_or_else(|| (may.term, Instant::now())));
        since
    }

    async fn define(&self, planned: &Planned, term: u64) -> Result<(), ProposeError> {
        let command = ServerCommand::Define {
            server: planned.name.clone(),
            primary: planned.primary().to_owned(),
            instances: planned.ids(),
            term,
        };
        self.shared.propose(command).await.map(|_| ())
    }

    /// What has to be proposed about an instance, if anything.
    fn conclude(
        &self,
        state: &ClusterState,
        planned: &Planned,
        instance: &str,
        members: &[Origin],
        term: u64,
    ) -> Option<ServerCommand> {
        let signed = self.shared.desk.votes(&planned.name, instance);
        let votes: Vec<Vote> = signed.iter().map(|(vote, _)| *vote).collect();
        let rules = Rules { round: self.shared.plan.round_of(planned), ..self.shared.plan.rules };
        let now = Instant::now().into_std();
        let counted = tally(&votes, members, &rules, now);
        let opinion = counted.opinion?;
        let server = state.servers.by_name.get(&planned.name);
        let known = server.and_then(|it| it.verdicts.get(instance));
        let was_out = known.is_some_and(|it| it.opinion == Some(Opinion::Unhealthy));
        if was_out && opinion < Opinion::Unhealthy && !counted.lifts() {
            return None;
        }
        let score = percent(counted.score);
        let is_news = known.is_none_or(|known| {
            known.opinion != Some(opinion)
                || (score < known.score
                    && planned.bars.measure(score) != planned.bars.measure(known.score))
                || known.score.abs_diff(score) >= SAME
                || (opinion != Opinion::Healthy && known.cause != counted.cause)
        });
        let sign = first_sign(&signed, &counted, members, &rules, now);
        let sign = dated(sign, opinion, known, active_since(server, instance));
        is_news.then(|| ServerCommand::Verdict {
            server: planned.name.clone(),
            instance: instance.to_owned(),
            opinion,
            cause: counted.cause,
            score,
            evidence_since: sign,
            why: counted.to_string(),
            term,
        })
    }
}

impl Reconciler for Verdicts {
    const NAME: &'static str = "verdict";

    async fn activate(&mut self) -> Status {
        self.shared.beat();
        if let Err(error) = call_off(&self.shared).await {
            return concluded(Err(error), EVERY);
        }
        let Some(may) = self.shared.mandate() else {
            self.rules = None;
            return Status::Settled(EVERY);
        };
        let since = self.since(may);
        concluded(self.decide(may, since).await, EVERY)
    }
}

/// What a conclusion names as its first sign; 0: none, it is dated by itself. What holds has signs of its own, so
/// it is none from before that, nor from before the instance was active. On the way down, while too few nodes
/// find an instance unhealthy, it is degraded for a moment, which has the same signs. All in milliseconds since
/// the Unix epoch.
fn dated(sign: u64, opinion: Opinion, known: Option<&Verdict>, active_since: u64) -> u64 {
    let before = known.and_then(|it| it.opinion);
    // That it is better has no sign but the verdict.
    if sign == 0 || before > Some(opinion) {
        return 0;
    }
    let floor = known.map_or(0, |known| match before {
        Some(Opinion::Degraded) if known.evidence_since > 0 => known.evidence_since,
        _ => known.since,
    });
    sign.max(floor).max(active_since)
}

/// Since when a server has used an instance, if it does: before that nobody missed it.
fn active_since(server: Option<&ServerState>, instance: &str) -> u64 {
    let failover = server.map(|it| &it.failover).filter(|it| it.active == instance);
    failover.map_or(0, |it| it.switched_at)
}

/// The alarm that a verdict gives, if its score calls for one and the one before did not.
fn alarm(
    shared: &Shared,
    state: &ClusterState,
    planned: &Planned,
    verdict: &ServerCommand,
    now: u64,
) -> Option<ServerCommand> {
    let ServerCommand::Verdict { server, instance, score, term, .. } = verdict else {
        return None;
    };
    let emergency = |score| planned.bars.measure(score) == Measure::Emergency;
    let known = state.servers.by_name.get(server).and_then(|it| it.verdicts.get(instance));
    let before = known.filter(|it| it.opinion.is_some()).is_some_and(|it| emergency(it.score));
    if before || !emergency(*score) || is_alarmed(state, server, instance, now) {
        return None;
    }
    let text = format!("{ALARM}{instance} has {score} of 100, {}", Grade::of(*score).label());
    Some(shared.remark(server, instance, ServerHappened::Noted, text, None, *term))
}

/// Whether an alarm is the last that the record says of how an instance is, and not long ago. A score gives no line
/// of its own, so what comes later is another alarm.
fn is_alarmed(state: &ClusterState, server: &str, instance: &str, now: u64) -> bool {
    let says =
        |it: &ServerEvent| it.is_alarm() || matches!(it.what, ServerHappened::Verdict { .. });
    let of = |it: &&ServerEvent| it.server == server && it.instance == instance && says(it);
    let last = state.servers.events.iter().rev().find(of);
    last.is_some_and(|it| it.is_alarm() && now.saturating_sub(it.at) < TOLD)
}

/// Whether the group knows the server as this plan does.
pub(crate) fn is_defined(state: &ClusterState, planned: &Planned) -> bool {
    state.servers.by_name.get(&planned.name).is_some_and(|known| {
        let instances = &planned.instances;
        known.verdicts.len() == instances.len()
            && instances.iter().all(|it| known.verdicts.contains_key(&it.id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_of_what_is_concluded_and_of_nothing_before() {
        use Opinion::*;
        let known = |opinion, evidence_since| Verdict {
            opinion: Some(opinion),
            since: 1_000,
            evidence_since,
            ..Verdict::default()
        };
        let of = |sign, to, known: Verdict| dated(sign, to, Some(&known), 0);
        assert_eq!(of(700, Unhealthy, known(Healthy, 0)), 1_000);
        assert_eq!(of(1_700, Unhealthy, known(Healthy, 0)), 1_700);
        assert_eq!(of(700, Unhealthy, known(Degraded, 600)), 700, "on the way down");
        assert_eq!(of(700, Unhealthy, known(Degraded, 0)), 1_000, "it had got better");
        assert_eq!(of(1_700, Degraded, known(Unhealthy, 600)), 0, "it gets better");
        assert_eq!(of(0, Unhealthy, known(Healthy, 0)), 0);
        assert_eq!(dated(700, Unhealthy, None, 0), 700);
        assert_eq!(dated(700, Unhealthy, Some(&known(Degraded, 600)), 900), 900);
    }
}
