//! Holds each outage against what its server is allowed: takes down the first good answer, and
//! announces an objective that was missed, in the log, as a metric and in the group's record, from
//! where it reaches the webhooks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::ProposeError;
use holdfast_engine::objectives::{self, Compliance, Ending, Objective, Outage, as_one};
use holdfast_engine::replicated::{ClusterState, ServerCommand, ServerHappened};

use crate::driver::{Reconciler, Status};
use crate::plan::{Plan, Planned, millis};
use crate::shared::{Shared, concluded};

/// While no server is out.
const EVERY: Duration = Duration::from_secs(5);
/// While one is.
const SOON: Duration = Duration::from_millis(100);

/// What was over longer ago is no news to whoever begins to tell what happened, in milliseconds.
pub(crate) const LATELY: u64 = 600_000;

/// How the record of a missed objective begins.
const MISSED: &str = "recovery time objective missed";
/// And that of an outage with Writes in doubt for longer than is allowed.
const IN_DOUBT: &str = "recovery point objective missed";
/// What follows is the log index of the verdict.
const OF: &str = " (outage ";
/// And that of a failover that took longer than its tier allows.
const SLOW: &str = "failover slower than its tier";

pub(crate) struct Objectives {
    shared: Arc<Shared>,
    /// The outages, by index, of which this node had the record say that they are measured: a full record may have
    /// forgotten that, and is not to be told again and again.
    measured: BTreeSet<u64>,
}

/// What a proposal is about.
struct About<'a> {
    outage: &'a Outage,
    /// Under which index the group has it; none: the record has it no more.
    of: Option<u64>,
    /// The term in which this node coordinates.
    term: u64,
}

// === impl Objectives ===

impl Objectives {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, measured: BTreeSet::new() }
    }

    /// Whether a server is out.
    async fn judge(&mut self, state: &ClusterState, term: u64) -> Result<bool, ProposeError> {
        let (mut any, shared) = (false, Arc::clone(&self.shared));
        let now = state.time.max(self.shared.group.time());
        let outages = outages(&shared.plan, state);
        self.measured.retain(|known| outages.iter().any(|(it, _)| it.index == *known));
        for (outage, of) in outages {
            let about = About { outage: &outage, of, term };
            let Some((_, planned)) = shared.plan.find(&outage.server) else { continue };
            if outage.ending == Ending::Open {
                any = true;
                self.measure(&about).await?;
                if let Some(answered) = self.answered(state, &outage) {
                    let what = ServerHappened::Answered { lost: None };
                    self.note(&about, what, answered).await?;
                }
            }
            // What the configuration makes of last night is no news.
            if outage.ended.is_some_and(|ended| now.saturating_sub(ended) > LATELY) {
                continue;
            }
            if let Some((took, Compliance::Breached)) = outage.failover(tier(planned), now)
                && !is_announced(state, &outage, SLOW)
            {
                let of = named(&outage);
                let text = format!("{SLOW}: {took} ms, and {} ms are allowed{of}", tier(planned));
                tracing::warn!(server = outage.server, took_ms = took, "{SLOW}");
                self.note(&about, ServerHappened::Noted, text).await?;
            }
            let judged = outage.judge(objective(planned), now);
            if judged.rto == Compliance::Breached && !is_announced(state, &outage, MISSED) {
                let text = format!(
                    "{MISSED}: out for {} ms, and {} ms are allowed{}",
                    judged.took,
                    millis(planned.objectives.rto),
                    named(&outage)
                );
                tracing::error!(server = outage.server, took_ms = judged.took, "{MISSED}");
                self.note(&about, ServerHappened::Noted, text).await?;
            }
            if judged.rpo == Some(Compliance::Breached) && !is_announced(state, &outage, IN_DOUBT) {
                let end = match outage.ending {
                    Ending::Open => "ago",
                    Ending::FailedOver | Ending::Recovered | Ending::Retired => "before the end",
                };
                let text = format!(
                    "{IN_DOUBT}: {} Writes may have run or not, the first received {} ms {end}, and {} ms \
                     are allowed{}",
                    outage.unknown,
                    judged.in_doubt,
                    objective(planned).rpo,
                    named(&outage)
                );
                tracing::error!(
                    server = outage.server,
                    writes = outage.unknown,
                    in_doubt_ms = judged.in_doubt,
                    "{IN_DOUBT}"
                );
                self.note(&about, ServerHappened::Noted, text).await?;
            }
        }
        Ok(any)
    }

    /// Has the record say that the nodes count what it costs, once they all do: without a line nobody would know
    /// whether nothing was lost or nobody counted, as before a node knew how to.
    async fn measure(&mut self, about: &About<'_>) -> Result<(), ProposeError> {
        let Some(of) = about.of else { return Ok(()) };
        let server = about.outage.server.clone();
        let command = ServerCommand::Lose { server, outage: of, unknown: 0, oldest: 0, moved: 0 };
        let may = self.shared.coordinates() == Some(about.term) && self.shared.all_read(&command);
        if may && !about.outage.is_measured && !self.measured.contains(&of) {
            self.shared.propose(command).await?;
            self.measured.insert(of);
        }
        Ok(())
    }

    /// The first good answer of what is active now, as evidence; none yet.
    fn answered(&self, state: &ClusterState, outage: &Outage) -> Option<String> {
        // Where calls go to any instance, also to one that is ill if all are, an answer ends nothing: a verdict does.
        let (_, planned) = self.shared.plan.find(&outage.server)?;
        planned.failover.as_ref()?;
        let known = state.servers.by_name.get(&outage.server)?;
        let active = &known.failover.active;
        // What the failed instance answered before it was found out is no recovery.
        let since =
            outage.switched.or_else(|| (*active != outage.instance).then_some(outage.detected));
        let at = self.shared.desk.answered(&outage.server, active, since?)?;
        Some(format!("{active}, {} ms after the first sign", at.saturating_sub(outage.began)))
    }

    async fn note(
        &self,
        about: &About<'_>,
        what: ServerHappened,
        evidence: String,
    ) -> Result<(), ProposeError> {
        // Where a node of an earlier version is in the cluster the line names no term, so that nobody refuses
        // one of a deposed coordinator: it has to see that itself, each time.
        if self.shared.coordinates() != Some(about.term) {
            return Ok(());
        }
        let (server, instance) = (&about.outage.server, &about.outage.instance);
        let line = self.shared.remark(server, instance, what, evidence, about.of, about.term);
        self.shared.propose(line).await.map(|_| ())
    }
}

impl Reconciler for Objectives {
    const NAME: &'static str = "objectives";

    async fn activate(&mut self) -> Status {
        self.shared.beat();
        let Some(term) = self.shared.coordinates() else { return Status::Settled(EVERY) };
        let state = self.shared.state();
        match self.judge(&state, term).await {
            Ok(any) => Status::Settled(if any { SOON } else { EVERY }),
            Err(error) => concluded(Err(error), EVERY),
        }
    }
}

/// The outages that the record tells of, where this plan says which servers move, each with the index under
/// which the group has it.
pub(crate) fn outages(plan: &Plan, state: &ClusterState) -> Vec<(Outage, Option<u64>)> {
    let stay = plan.servers.iter().filter(|it| it.failover.is_none());
    let equals = stay.map(|planned| {
        let known = state.servers.by_name.get(&planned.name);
        let opinion = |id: &str| known.and_then(|known| planned.verdict(known, id)?.opinion);
        let instances = planned.instances.iter();
        (planned.name.as_str(), instances.map(|it| (it.id.as_str(), opinion(&it.id))).collect())
    });
    let events = as_one(&state.servers.events, &equals.collect());
    let known = objectives::outages(&state.servers.events);
    // Of what is not checked any more nobody says when it is over.
    let is_seen = |it: &Outage| plan.find(&it.server).is_none_or(|(_, it)| it.health.enabled);
    let all = objectives::outages(events.iter().map(AsRef::as_ref)).into_iter();
    let all = all.filter(|it| it.ending != Ending::Open || is_seen(it)).map(|mut outage| {
        let known = as_the_group_has_it(&known, &outage);
        if let Some(known) = known.filter(|known| known.index != outage.index) {
            outage.is_measured = known.is_measured;
            (outage.unknown, outage.oldest) = (known.unknown, known.oldest);
            outage.moved = known.moved;
        }
        (outage, known.map(|it| it.index))
    });
    all.collect()
}

/// The outage of the record that this one is: of a server that does not move the record has that of one instance,
/// which was out by then and still is. `None`: it has none.
fn as_the_group_has_it<'a>(known: &'a [Outage], outage: &Outage) -> Option<&'a Outage> {
    let mut own = known.iter().filter(|it| it.server == outage.server);
    own.clone().find(|it| it.index == outage.index).or_else(|| {
        let at = outage.detected;
        own.find(|it| it.detected <= at && it.ended.is_none_or(|ended| ended > at))
    })
}

/// What a server is allowed.
pub(crate) fn objective(planned: &Planned) -> Objective {
    let it = &planned.objectives;
    Objective { rto: millis(it.rto), rpo: millis(it.rpo) }
}

/// How long a failover of the server may take, in milliseconds; for ever, where it has none.
pub(crate) fn tier(planned: &Planned) -> u64 {
    planned.failover.as_ref().map_or(u64::MAX, |it| it.target)
}

/// How a line names the outage that it is about: another of the same instance may have begun by then.
fn named(outage: &Outage) -> String {
    format!("{OF}{})", outage.index)
}

/// Whether the record says already that the outage took too long, in these words. A line of an earlier version
/// names no outage, and is about the last.
fn is_announced(state: &ClusterState, outage: &Outage, words: &str) -> bool {
    let named = named(outage);
    state.servers.events.iter().any(|event| {
        event.index > outage.index
            && event.server == outage.server
            && event.what == ServerHappened::Noted
            && event.evidence.starts_with(words)
            && (event.evidence.ends_with(&named) || !event.evidence.contains(OF))
            && event.instance == outage.instance
    })
}

/// Whether a line of the record is about an objective.
pub(crate) fn is_about_objective(evidence: &str) -> bool {
    [MISSED, IN_DOUBT, SLOW].iter().any(|words| evidence.starts_with(words))
}
