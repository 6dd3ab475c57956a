//! The group's state and this node's findings in an operator's words. Pure.

use holdfast_engine::failover::{Hindrance, Phase, Stage};
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::objectives::Compliance;
use holdfast_engine::replicated::{
    ClusterState, ServerEvent, ServerHappened, ServerState, tool_of,
};

use crate::desk::members;
use crate::operate::{EventView, IncidentView, InstanceView, ServerView};
use crate::plan::{Plan, Planned};
use crate::plane::At;
use crate::shared::Shared;
use crate::tasks::failover::seen;
use crate::tasks::objectives::{objective, outages, tier};

/// What became of an RPO where nobody counted.
pub(crate) const UNMEASURED: &str = "unmeasured";

/// One server.
pub(crate) fn server(shared: &Shared, state: &ClusterState, place: usize) -> ServerView {
    let planned = &shared.plan.servers[place];
    let known = state.servers.by_name.get(&planned.name);
    let failover = known.filter(|_| planned.failover.is_some()).map(|it| &it.failover);
    let waits = known.and_then(|known| waits(shared, state, planned, known)).unwrap_or_default();
    ServerView {
        name: planned.name.clone(),
        verdict: overall(shared, planned, known),
        active: failover.map(|it| it.active.clone()),
        phase: failover.map(|it| it.phase.label()),
        stage: failover.and_then(|it| it.moving()).map(|it| it.stage.label()),
        target: failover.and_then(|it| it.moving()).map(|it| it.to.clone()),
        since: failover.map(|it| it.since).filter(|since| *since > 0),
        generation: failover.map_or(0, |it| it.generation),
        reason: failover.map(|it| reason(&it.phase)).filter(|it| !it.is_empty()).unwrap_or(waits),
        breaker: forced(shared, known, state, ""),
        tools: tools(shared, known, state),
        instances: (0..planned.instances.len())
            .map(|instance| self::instance(shared, state, known, At { server: place, instance }))
            .collect(),
    }
}

fn instance(
    shared: &Shared,
    state: &ClusterState,
    known: Option<&ServerState>,
    at: At,
) -> InstanceView {
    let planned = &shared.plan.servers[at.server];
    let it = &planned.instances[at.instance];
    let (look, sight) = (shared.looks.get(at), shared.plane.sight(at));
    let share = known.and_then(|known| {
        let moving = known.failover.moving()?;
        match moving.stage {
            Stage::Ramp { percent } if moving.to == it.id => Some(f64::from(percent) / 100.0),
            Stage::Ramp { percent } if moving.from == it.id => {
                Some(f64::from(100 - percent.min(100)) / 100.0)
            }
            _ => None,
        }
    });
    let verdict_of = known.and_then(|known| shared.verdict(planned, known, &it.id));
    let mut why = look.why;
    let judged = sight.indicators.judge(&shared.plan.thresholds);
    if let Some(judged) = judged.filter(|it| it.poor) {
        why.push(format!("calls: {judged}"));
    }
    if why.is_empty()
        && let Some(found) = verdict_of.filter(|it| it.opinion > Some(Opinion::Healthy))
    {
        // The checks say nothing of it: the calls do, or the other nodes.
        why.push(found.cause.label().to_owned());
    }
    InstanceView {
        id: it.id.clone(),
        role: role(it.role),
        region: it.region.clone(),
        verdict: verdict(shared, planned, known, &it.id),
        votes: verdict_of.map(|verdict| verdict.why.clone()).unwrap_or_default(),
        score: look.own,
        why,
        breaker: sight.breaker.label(),
        kept: forced(shared, known, state, &it.id),
        in_flight: sight.in_flight,
        share,
    }
}

/// The tools whose breakers are kept, and at what.
fn tools(
    shared: &Shared,
    known: Option<&ServerState>,
    state: &ClusterState,
) -> Vec<(String, String)> {
    let keys = known.into_iter().flat_map(|it| it.breakers.keys());
    let kept =
        keys.filter_map(|key| Some((tool_of(key)?.to_owned(), forced(shared, known, state, key)?)));
    kept.collect()
}

/// What the group or an operator keeps this breaker at, and by whom.
fn forced(
    shared: &Shared,
    known: Option<&ServerState>,
    state: &ClusterState,
    instance: &str,
) -> Option<String> {
    let now = state.time.max(shared.group.time());
    let it = known?.forced(instance, now)?;
    use holdfast_engine::replicated::OverrideKind::{ForcedClosed, ForcedOpen, Opened};
    Some(match it.kind {
        Opened => format!("open for all: {}", it.why),
        ForcedOpen => format!("forced open by {}", it.by),
        ForcedClosed => format!("forced closed by {}", it.by),
    })
}

/// What a server is found to be: what its active instance is, or the best of those that are equal.
fn overall(shared: &Shared, planned: &Planned, known: Option<&ServerState>) -> &'static str {
    let Some(known) = known else { return "unknown" };
    if planned.failover.is_some() {
        return verdict(shared, planned, Some(known), &known.failover.active);
    }
    let opinion = |id: &str| shared.verdict(planned, known, id)?.opinion;
    let found = planned.instances.iter().filter_map(|it| opinion(&it.id));
    found.min().map_or("unknown", Opinion::label)
}

fn verdict(
    shared: &Shared,
    planned: &Planned,
    known: Option<&ServerState>,
    instance: &str,
) -> &'static str {
    let verdict = known.and_then(|known| shared.verdict(planned, known, instance));
    verdict.and_then(|verdict| verdict.opinion).map_or("unknown", Opinion::label)
}

fn role(role: holdfast_config::Role) -> Option<&'static str> {
    use holdfast_config::Role::{Equal, Primary, Replica, Secondary};
    match role {
        Equal => None,
        Primary => Some("primary"),
        Secondary => Some("secondary"),
        Replica => Some("replica"),
    }
}

/// What the failback of a server waits for that rests on another instance than its primary.
fn waits(
    shared: &Shared,
    state: &ClusterState,
    planned: &Planned,
    known: &ServerState,
) -> Option<String> {
    let moves = planned.failover.as_ref()?;
    let primary = planned.primary();
    let now = state.time.max(shared.group.time());
    let seen = seen(shared, planned, known, &members(state));
    Some(match known.failover.hindrance(&seen, &moves.params, now)? {
        Hindrance::Operator => "an operator's failback is waited for".to_owned(),
        Hindrance::Ill => format!("{primary} has to be healthy"),
        Hindrance::Until(until) => {
            let seconds = until.saturating_sub(now).div_ceil(1_000);
            format!("back to {primary} in {seconds} s at the earliest")
        }
        Hindrance::Checks(rounds) => {
            format!("{primary} has to pass {rounds} rounds of checks in a row on most nodes")
        }
    })
}

fn reason(phase: &Phase) -> String {
    match phase {
        Phase::PrimaryActive | Phase::SecondaryActive => String::new(),
        Phase::FailingOver(it) | Phase::FailingBack(it) => it.cause.clone(),
        Phase::Failed(failed) => failed.why.clone(),
    }
}

/// One line of the record.
pub(crate) fn event(event: &ServerEvent) -> EventView {
    EventView {
        index: event.index,
        at: event.at,
        server: event.server.clone(),
        instance: event.instance.clone(),
        kind: kind(event.what),
        text: text(event),
    }
}

/// What happened, in one word.
pub(crate) fn kind(what: ServerHappened) -> &'static str {
    match what {
        ServerHappened::Verdict { .. } | ServerHappened::CallsFail { .. } => "verdict",
        ServerHappened::FailoverBegan => "failover_began",
        ServerHappened::FailbackBegan => "failback_began",
        ServerHappened::Progressed => "progressed",
        ServerHappened::Switched => "switched",
        ServerHappened::RolledBack => "rolled_back",
        ServerHappened::Failed => "failed",
        ServerHappened::Settled => "settled",
        ServerHappened::Answered { .. } => "answered",
        ServerHappened::BreakerOpened => "breaker_opened",
        ServerHappened::BreakerForcedOpen => "breaker_forced_open",
        ServerHappened::BreakerForcedClosed => "breaker_forced_closed",
        ServerHappened::BreakerReleased => "breaker_released",
        ServerHappened::Defined => "defined",
        ServerHappened::Retired => "retired",
        ServerHappened::Configured => "configured",
        ServerHappened::Noted => "noted",
        ServerHappened::Lost { .. } => "lost",
    }
}

/// All of it, for people.
pub(crate) fn text(event: &ServerEvent) -> String {
    let what = match event.what {
        ServerHappened::Verdict { from, to, .. } => {
            let from = from.map_or("unknown", Opinion::label);
            format!("{} is {}, was {from}", event.instance, to.label())
        }
        ServerHappened::CallsFail { from, .. } => {
            let from = from.map_or("unknown", Opinion::label);
            format!("{} is degraded by its calls, was {from}", event.instance)
        }
        ServerHappened::FailoverBegan => format!("failover to {} begins", event.instance),
        ServerHappened::FailbackBegan => format!("failback to {} begins", event.instance),
        // The line says itself what goes on.
        ServerHappened::Progressed => return event.evidence.clone(),
        ServerHappened::Switched => format!("{} is active", event.instance),
        ServerHappened::RolledBack => format!("not moved to {}", event.instance),
        ServerHappened::Failed => "cannot fail over".to_owned(),
        ServerHappened::Settled => "at rest".to_owned(),
        ServerHappened::Answered { .. } => "first good answer".to_owned(),
        ServerHappened::BreakerOpened => format!("breaker{} open for all", of(event)),
        ServerHappened::BreakerForcedOpen => format!("breaker{} forced open", of(event)),
        ServerHappened::BreakerForcedClosed => format!("breaker{} forced closed", of(event)),
        ServerHappened::BreakerReleased => format!("breaker{} decides by itself", of(event)),
        ServerHappened::Defined => "configured".to_owned(),
        ServerHappened::Retired => "not configured any more".to_owned(),
        ServerHappened::Configured => "configuration".to_owned(),
        ServerHappened::Noted => return event.evidence.clone(),
        ServerHappened::Lost { unknown: 0, moved: 0, .. } => {
            "what it costs clients is counted: nothing so far".to_owned()
        }
        ServerHappened::Lost { unknown, moved, .. } => {
            format!("{unknown} Writes in doubt, {moved} sessions without their state")
        }
    };
    if event.evidence.is_empty() { what } else { format!("{what}: {}", event.evidence) }
}

fn of(event: &ServerEvent) -> String {
    match tool_of(&event.instance) {
        Some(tool) => format!(" of its tool {tool}"),
        None if event.instance.is_empty() => String::new(),
        None => format!(" of {}", event.instance),
    }
}

/// The outages that the record holds, against what their servers are allowed.
pub(crate) fn incidents(plan: &Plan, state: &ClusterState, now: u64) -> Vec<IncidentView> {
    let word = |compliance| match compliance {
        Compliance::Met => "kept",
        Compliance::Breached => "missed",
        Compliance::Running => "open",
    };
    let planned = |name: &str| plan.find(name).map(|(_, planned)| planned);
    let of = |planned: &Planned, it: &holdfast_engine::objectives::Outage| {
        let judged = it.judge(objective(planned), now);
        let target = tier(planned);
        let failover = it.failover(target, now);
        let since = |at: Option<u64>| at.map(|at| at.saturating_sub(it.began));
        IncidentView {
            server: it.server.clone(),
            instance: it.instance.clone(),
            began: it.began,
            detected_ms: it.detection(),
            decided_ms: since(it.decided),
            switched_ms: since(it.switched),
            recovered_ms: since(it.ended),
            rto_ms: objective(planned).rto,
            objective: word(judged.rto),
            tier_ms: failover.map(|_| target),
            tier: failover.map_or("", |(_, compliance)| word(compliance)),
            unknown_writes: it.unknown,
            in_doubt_ms: judged.in_doubt,
            rpo_ms: objective(planned).rpo,
            rpo: judged.rpo.map_or(UNMEASURED, word),
            sessions_moved: it.moved,
        }
    };
    outages(plan, state).iter().filter_map(|(it, _)| Some(of(planned(&it.server)?, it))).collect()
}
