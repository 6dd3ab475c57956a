//! Tells the coordinator what this node knows: when something has changed, and otherwise once a second,
//! since a vote that is not renewed does not count for long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::Role;
use holdfast_engine::breaker::{Evidence, Phase};
use holdfast_engine::failover::Stage;
use holdfast_engine::failover::trigger::cause;
use holdfast_engine::health::schedule::Silence;
use holdfast_engine::health::votes::{self, Calls, Cause, Opinion, ballot, heard};
use holdfast_engine::replicated::{ClusterState, Verdict};
use tokio::time::Instant;

use crate::driver::{Reconciler, Status};
use crate::group::REPORT;
use crate::looks::Look;
use crate::plan::{Planned, millis};
use crate::plane::{At, Sight};
use crate::report::{
    BreakerPart, InstancePart, Others, Report, ServerPart, VotePart, decode_long, encode_long,
};
use crate::shared::{RETRY, Shared, lock};

/// Between two reports while nothing changes.
const EVERY: Duration = Duration::from_secs(1);
/// While a server moves, or its first good answer is waited for.
const SOON: Duration = Duration::from_millis(50);
/// An outage that has lasted longer than this is not told of any faster, in milliseconds.
const LATELY: u64 = 60_000;
/// Two reports are no nearer to each other than this, however much changes.
const LEAST: Duration = Duration::from_millis(5);

pub(crate) struct Reporter {
    shared: Arc<Shared>,
    last: Option<Instant>,
    /// Whether calls wait in vain, by place.
    silences: BTreeMap<At, Silence>,
}

// === impl Reporter ===

impl Reporter {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, last: None, silences: BTreeMap::new() }
    }

    fn report(&mut self, state: &ClusterState) -> Report {
        let me = self.shared.group.me();
        let generation = state.members.get(&me).map_or(0, |member| member.generation);
        let shared = Arc::clone(&self.shared);
        let (mut calls, mut tools) = (Vec::new(), Vec::new());
        let servers = shared.plan.servers.iter().enumerate().map(|(server, planned)| {
            let own = planned.instances.len();
            for (place, tool) in planned.tools.iter().enumerate() {
                let evidence = shared.plane.tool_evidence(server, tool);
                let part = self.breaker(server, own + 1 + place, evidence);
                if evidence != Evidence::default() {
                    tools.push((planned.name.clone(), tool.clone(), part));
                }
            }
            ServerPart {
                name: planned.name.clone(),
                follows: shared.follows(server),
                breaker: self.breaker(server, own, shared.plane.server_evidence(server)),
                instances: (0..own)
                    .map(|instance| {
                        let (part, said) = self.instance(state, At { server, instance });
                        let said = said.map(|said| (planned.name.clone(), part.id.clone(), said));
                        calls.extend(said);
                        part
                    })
                    .collect(),
            }
        });
        let servers = servers.collect();
        let balanced = shared.plan.servers.iter().filter(|it| it.failover.is_none());
        let balanced = balanced.map(|it| it.name.clone()).collect();
        Report { generation, servers, calls, tools, balanced }
    }

    /// What this node says of an instance, and what its calls say of one that its checks find healthy.
    fn instance(&mut self, state: &ClusterState, at: At) -> (InstancePart, Option<Calls>) {
        let sight = self.shared.plane.sight(at);
        let look = self.shared.looks.get(at);
        self.heed_silence(at, &sight, &look);
        let speaks = self.breaker_speaks(at, &sight, &look);
        let judged = sight.indicators.judge(&self.shared.plan.thresholds);
        let others = self.shared.others(at);
        let evidence = votes::Evidence {
            local: look.own,
            peers: &others.scores,
            external: look.external,
            users: judged.map(|it| it.score),
        };
        let shared = Arc::clone(&self.shared);
        let planned = &shared.plan.servers[at.server];
        let error_rate = planned.failover.as_ref().map_or(1.0, |it| it.error_rate);
        let is_called = is_called(state, planned, at.instance);
        let is_open = speaks && (sight.breaker == Phase::Open || is_called);
        let (calls, exhausted) = (&sight.indicators, look.exhausted);
        let seen = cause(look.fatal, is_open, calls, error_rate, exhausted);
        let said = match seen {
            Cause::BreakerOpen | Cause::Errors => Some(Calls::Fail(seen)),
            _ if is_called && calls.succeed(error_rate) => Some(Calls::Succeed),
            _ => None,
        };
        let cause = match heard(said, look.own, &others.calls).filter(|_| is_called) {
            Some(heard) if seen == Cause::Score => heard,
            Some(_) | None => seen,
        };
        let failing = self.calls_fail_since(at, &sight, cause);
        // Without a check of its own a node has nothing to say: its peers have said theirs.
        let score = look.own.and_then(|_| ballot(&evidence, &self.shared.plan.weights));
        let vote = score.and_then(|score| {
            let opinion = Opinion::by(score, cause, judged.as_ref());
            // What others' calls met it would only deny because it has not heard of them yet.
            if opinion == Opinion::Healthy && said.is_none() && self.may_not_know(state, at) {
                return None;
            }
            let by_checks = look.bad_since(opinion);
            Some(VotePart {
                opinion,
                score,
                cause,
                own: look.own,
                age: look.at.map_or(0, |at| millis(at.elapsed())),
                good: look.good,
                bad_since: match failing {
                    // It may have been slow for hours before its calls began to fail.
                    Some(failing) if opinion < Opinion::Unhealthy || by_checks == 0 => failing,
                    Some(_) | None => by_checks,
                },
            })
        });
        let reaches = look.own.map(Opinion::of) == Some(Opinion::Healthy) && !look.in_doubt;
        // What calls met long ago is no news to a node whose own are as old, and went well.
        let is_news =
            sight.breaker == Phase::Open || sight.in_flight > 0 || sight.indicators.called_lately;
        let said = said.filter(|it| reaches && (*it == Calls::Succeed || is_news));
        let part = InstancePart {
            id: planned.instances[at.instance].id.clone(),
            vote,
            breaker: self.breaker(at.server, at.instance, sight.evidence),
            running: sight.in_flight,
            answered_at: self.answered_at(&sight),
        };
        (part, said)
    }

    /// Whether calls of an instance failed by what the group found, and a coordinator may not have told this
    /// node yet by whose.
    fn may_not_know(&self, state: &ClusterState, at: At) -> bool {
        let planned = &self.shared.plan.servers[at.server];
        let known = state.servers.by_name.get(&planned.name);
        let verdict = known.and_then(|it| it.verdicts.get(&planned.instances[at.instance].id));
        state.members.len() > 1
            && verdict.is_some_and(|it| it.calls_fail().is_some())
            && !self.shared.knows_the_others()
    }

    /// Since when its calls have failed, in milliseconds since the Unix epoch, if that is what this node
    /// names as the cause.
    fn calls_fail_since(&self, at: At, sight: &Sight, cause: Cause) -> Option<u64> {
        let mut troubles = lock(&self.shared.troubles);
        let trouble = troubles.entry(at).or_default();
        if !cause.is_of_calls() && !sight.is_open {
            trouble.failing = None;
            return None;
        }
        // It is open before it may say so.
        let failing = *trouble.failing.get_or_insert_with(|| self.shared.group.time());
        cause.is_of_calls().then_some(failing)
    }

    /// Whether an open breaker says something that the checks do not: a round after it opened has found
    /// the instance as it was before. One that is gone fails its calls first, and then its checks, which
    /// say more.
    fn breaker_speaks(&self, at: At, sight: &Sight, look: &Look) -> bool {
        let mut troubles = lock(&self.shared.troubles);
        let trouble = troubles.entry(at).or_default();
        if !sight.is_open {
            trouble.open = None;
            return false;
        }
        let since = *trouble.open.get_or_insert_with(Instant::now);
        !look.in_doubt && look.at.is_some_and(|at| at > since)
    }

    /// When a call was last answered, by the clock by which the group says when it moved a server.
    fn answered_at(&self, sight: &Sight) -> u64 {
        let now = self.shared.group.time();
        sight.answered_ago.map_or(0, |ago| now.saturating_sub(millis(ago)))
    }

    /// Calls that hang have no outcome to speak for them yet: they bring a check forward.
    fn heed_silence(&mut self, at: At, sight: &Sight, look: &Look) {
        let planned = &self.shared.plan.servers[at.server];
        let (Some(last), false) = (look.at, look.in_doubt) else { return };
        let (in_flight, answered_at) = (sight.in_flight, self.answered_at(sight));
        let silence = self.silences.entry(at).or_default();
        let (rhythm, timeout) = (planned.rhythm(), planned.health.timeout);
        let now = Instant::now().into_std();
        if silence.look(in_flight, answered_at, last.elapsed(), rhythm, timeout, now)
            && let Some(nudge) = self.shared.nudges.probes.get(&at)
        {
            nudge.nudge();
        }
    }

    fn breaker(&mut self, server: usize, place: usize, evidence: Evidence) -> BreakerPart {
        let openings = &mut *lock(&self.shared.openings);
        let opening = &mut openings[server][place];
        let Evidence { opened, calls, failed } = evidence;
        if opened && !opening.is_open {
            opening.at = self.shared.group.time();
        }
        opening.is_open = opened;
        BreakerPart { opened, opened_at: opening.at, calls, failed }
    }

    /// Whether somebody waits for what this node has to say next.
    fn is_waited_for(&self, state: &ClusterState) -> bool {
        let now = self.shared.group.time();
        let lately = |since: u64| now.saturating_sub(since) < LATELY;
        self.shared.plan.servers.iter().any(|planned| {
            let Some(known) = state.servers.by_name.get(&planned.name) else { return false };
            let active = known.verdicts.get(&known.failover.active);
            let is_out = |it: &Verdict| it.opinion == Some(Opinion::Unhealthy) && lately(it.since);
            // Of a move that is over people are told, and where nobody may end it that lasts.
            let moves = known.failover.moving().is_some_and(|it| {
                !matches!(it.stage, Stage::Notify { .. }) || lately(known.failover.since)
            });
            moves || active.is_some_and(is_out)
        })
    }
}

impl Reconciler for Reporter {
    const NAME: &'static str = "report";

    async fn activate(&mut self) -> Status {
        self.shared.beat();
        if let Some(wait) = self.last.and_then(|last| LEAST.checked_sub(last.elapsed())) {
            tokio::time::sleep(wait).await;
        }
        self.last = Some(Instant::now());
        let state = self.shared.state();
        let pause = if self.is_waited_for(&state) { SOON } else { EVERY };
        let report = self.report(&state);
        let me = self.shared.group.me();
        let leadership = *self.shared.group.leadership().borrow();
        if leadership.me {
            self.shared.take(me, report);
            self.shared.heed(self.shared.desk.others(me));
            return Status::Settled(pause);
        }
        let failed = |why: String| Status::Failed { why, retry: RETRY };
        let Some(coordinator) = leadership.leader else {
            return failed("no coordinator is known".to_owned());
        };
        let told = match encode_long(report) {
            Ok(bytes) => self.shared.group.call(coordinator, REPORT, bytes.into()).await,
            Err(error) => Err(error),
        };
        match told.and_then(|answer: Bytes| decode_long::<Others>(&answer)) {
            Ok(others) => {
                self.shared.heed(others);
                Status::Settled(pause)
            }
            Err(error) => failed(format!("the coordinator does not hear: {error}")),
        }
    }
}

/// Whether calls go to an instance. A half-open breaker waits for them to show how it is: where none
/// come, on an instance that stands by, it would wait for ever, and says nothing.
fn is_called(state: &ClusterState, planned: &Planned, instance: usize) -> bool {
    let it = &planned.instances[instance];
    planned.failover.is_none()
        || it.role == Role::Replica
        || state
            .servers
            .by_name
            .get(&planned.name)
            .is_none_or(|known| known.failover.serves(&it.id))
}
