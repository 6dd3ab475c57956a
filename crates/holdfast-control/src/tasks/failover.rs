//! Drives a server's move: looks at where it stands, at what the nodes have confirmed and at the
//! verdicts, and proposes the next step.
//!
//! The state of a move is in the group, and the orders follow from it alone; so this task remembers nothing
//! but which check it has made itself. A coordinator that dies anywhere in here is followed by one that finds the last
//! committed step and goes on. A step that was proposed twice is made once, since it names the step that
//! it follows; one of a deposed coordinator is refused by its term.
//!
//! Only the beginning of a move takes a mandate ([`Shared::mandate`]): one that has begun holds calls, so
//! whoever leads ends it, whatever configuration it runs. What it cannot end it calls off.
//!
//! There is a task for each server, so that one whose check hangs holds up no other's.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_cluster::ProposeError;
use holdfast_engine::failover::{
    Command, Failover, Input, Phase, Refusal, Report, Seen, Stage, Stepped,
};
use holdfast_engine::replicated::{ClusterState, Origin, Reply, ServerCommand, ServerState};

use crate::compare::{Compared, Wanted, compare};
use crate::desk::members;
use crate::driver::{Reconciler, Status};
use crate::group::COMPARE;
use crate::plan::{Moves, Planned, role};
use crate::report::{decode, encode};
use crate::shared::{Shared, concluded};
use crate::tasks::verdict::is_defined;

/// While nothing moves.
const EVERY: Duration = Duration::from_secs(1);
/// While something does: the limits of its stages are noticed this soon.
const SOON: Duration = Duration::from_millis(20);
/// A turn makes at most so many steps of a server.
const STEPS: usize = 16;

pub(crate) struct Mover {
    shared: Arc<Shared>,
    /// The server's place in the plan.
    server: usize,
    /// The last check of consistency that this node made: in which term, and of which step of a move.
    checked: Option<(u64, u64, u32)>,
}

/// A server on its way, as one turn sees it.
struct Sight<'a> {
    planned: &'a Planned,
    moves: &'a Moves,
    members: &'a [Origin],
    term: u64,
}

// === impl Mover ===

impl Mover {
    pub(crate) fn new(shared: Arc<Shared>, server: usize) -> Self {
        Self { shared, server, checked: None }
    }

    /// Whether it moves. `may`: whether a move may begin.
    async fn drive(&mut self, term: u64, may: bool) -> Result<bool, ProposeError> {
        let shared = Arc::clone(&self.shared);
        let planned = &shared.plan.servers[self.server];
        let Some(moves) = &planned.failover else { return Ok(false) };
        for _ in 0..STEPS {
            let state = self.shared.state();
            let members = members(&state);
            let Some(known) = state.servers.by_name.get(&planned.name) else { return Ok(false) };
            // By another list of instances it would leave what it does not know.
            let begins = may && is_defined(&state, planned);
            if !begins && !is_to_end(planned, &known.failover) {
                return Ok(false);
            }
            let sight = Sight { planned, moves, members: &members, term };
            let Some(next) = self.step(&state, &sight, known).await else {
                return Ok(!is_at_rest(&known.failover));
            };
            let evidence = evidence(known, &next.next);
            if !self.commit(&sight, &known.failover, next.next, evidence).await? {
                break;
            }
        }
        Ok(true)
    }

    /// The next state of a server, if it is another than the present one.
    async fn step(
        &mut self,
        state: &ClusterState,
        sight: &Sight<'_>,
        known: &ServerState,
    ) -> Option<Stepped> {
        let failover = &known.failover;
        let seen = seen(&self.shared, sight.planned, known, sight.members);
        let Sight { moves, term, .. } = sight;
        let now = state.time.max(self.shared.group.time());
        let step = |input: &Input| {
            // A tick and a report are never refused.
            failover.step(input, &seen, &moves.params, *term, now).ok().filter(|it| it.changed)
        };
        // The time of a check may have passed while its coordinator died and another was found: who takes over
        // makes it first.
        let at = (*term, failover.generation, failover.step);
        let checks = failover.moving().is_some_and(|it| it.stage == Stage::Check);
        let is_first = checks && self.checked.replace(at) != Some(at);
        if !is_first && let Some(next) = step(&Input::Tick) {
            return Some(next);
        }
        for order in failover.orders(&moves.params, *term) {
            let Some(report) = self.carry_out(sight, failover, &order.command).await else {
                continue;
            };
            let (generation, number) = (order.fence.generation, order.fence.step);
            let input = Input::Report { generation, step: number, report };
            if let Some(next) = step(&input) {
                return Some(next);
            }
        }
        None
    }

    /// Does what an order says, as far as it is not the nodes' own to do, and says what came of it once
    /// that is known.
    async fn carry_out(
        &self,
        sight: &Sight<'_>,
        failover: &Failover,
        command: &Command,
    ) -> Option<Report> {
        let desk = &self.shared.desk;
        let (name, members) = (sight.planned.name.as_str(), sight.members);
        let step = (failover.generation, failover.step);
        match command {
            Command::Pause => desk.all_follow(name, members, step).then_some(Report::Paused),
            Command::Drain { instance, .. } => {
                desk.all_drained(name, instance, members, step).then_some(Report::Drained)
            }
            Command::Switch { .. } => {
                desk.all_follow(name, members, step).then_some(Report::Switched)
            }
            Command::Check { from, to } => {
                Some(Report::Checked(self.check(sight, from.as_deref(), to).await))
            }
            Command::Notify { .. } => self.shared.is_told(name).then_some(Report::Notified),
            // Follows from the state, and ends with its time.
            Command::Shift { .. } => None,
        }
    }

    /// Has the configured call made at both sides and the answers compared. One node asks both, since
    /// the answers have to be of one moment: this one, or where it does not reach the new side, whichever
    /// other node does. The coordinator's own network is no reason to stay.
    async fn check(&self, sight: &Sight<'_>, from: Option<&str>, to: &str) -> Result<(), String> {
        let wanted = Wanted {
            server: sight.planned.name.clone(),
            from: from.map(str::to_owned),
            to: to.to_owned(),
        };
        let own = compare(&self.shared, &wanted).await;
        let Compared::NotReached(why) = own else { return own.result() };
        let me = self.shared.group.me();
        let body = encode(&wanted)?;
        let ask = async |node| {
            let answer = self.shared.group.call(node, COMPARE, body.clone().into()).await?;
            decode::<Compared>(&answer)
        };
        let others = sight.members.iter().map(|it| it.node).filter(|node| *node != me);
        let answers = join_all(others.map(ask)).await;
        let reached =
            answers.into_iter().flatten().find(|it| !matches!(it, Compared::NotReached(_)));
        reached.unwrap_or(Compared::NotReached(why)).result()
    }

    /// Whether the step was taken in; if not, the state has moved on without us.
    async fn commit(
        &self,
        sight: &Sight<'_>,
        now: &Failover,
        next: Failover,
        evidence: String,
    ) -> Result<bool, ProposeError> {
        let command = ServerCommand::Failover {
            server: sight.planned.name.clone(),
            follows: (now.generation, now.step),
            next: Box::new(next),
            evidence,
            term: sight.term,
        };
        let reply = self.shared.propose(command).await?;
        Ok(matches!(reply, Reply::Done { .. }))
    }
}

impl Reconciler for Mover {
    const NAME: &'static str = "failover";

    async fn activate(&mut self) -> Status {
        self.shared.beat();
        let Some(term) = self.shared.coordinates() else { return Status::Settled(EVERY) };
        let may = self.shared.mandate().is_some();
        match self.drive(term, may).await {
            Ok(moves) => Status::Settled(if moves { SOON } else { EVERY }),
            Err(error) => concluded(Err(error), EVERY),
        }
    }
}

/// What an operator's wish comes to: the state that has to be proposed.
///
/// # Errors
/// Why it is not fulfilled.
pub(crate) fn wish(
    shared: &Shared,
    planned: &Planned,
    known: &ServerState,
    input: &Input,
    term: u64,
) -> Result<Failover, Refusal> {
    let Some(moves) = &planned.failover else { return Err(Refusal::NoTarget) };
    let members = members(&shared.state());
    let seen = seen(shared, planned, known, &members);
    let stepped = known.failover.step(input, &seen, &moves.params, term, shared.group.time())?;
    Ok(stepped.next)
}

pub(crate) fn seen<'a>(
    shared: &Shared,
    planned: &'a Planned,
    known: &ServerState,
    members: &[Origin],
) -> Vec<Seen<'a>> {
    let of = |it: &'a crate::plan::PlannedInstance| {
        let verdict = shared.verdict(planned, known, &it.id).cloned().unwrap_or_default();
        Seen {
            name: &it.id,
            role: role(it.role),
            opinion: verdict.opinion,
            cause: verdict.cause,
            score: verdict.score,
            since: verdict.since,
            good_checks: {
                let voters = shared.desk.voters(&planned.name, &it.id, members);
                shared.desk.good(&planned.name, &it.id, &voters)
            },
        }
    };
    let region = |name: &str| {
        let place = planned.place(name)?;
        planned.instances[place].region.as_deref()
    };
    let left = region(&known.failover.active);
    let mut seen: Vec<Seen<'_>> = planned.instances.iter().map(of).collect();
    // Those of the region that is left come first; beyond that the configuration's order stays.
    seen.sort_by_key(|it| region(it.name) != left);
    seen
}

/// What speaks for this step: how the votes stood when the move began, about the instance that is left, or
/// on the way back about the one that is returned to.
fn evidence(known: &ServerState, next: &Failover) -> String {
    if next.generation == known.failover.generation {
        return String::new();
    }
    let about = next.moving().map(|it| match &next.phase {
        Phase::FailingBack(_) => &it.to,
        _ => &it.from,
    });
    let verdict = about.and_then(|it| known.verdicts.get(it));
    verdict.map(|verdict| verdict.why.clone()).unwrap_or_default()
}

/// Whether a move is under way that this node can end by what it knows. Once people are merely told, nothing
/// hangs on it.
fn is_to_end(planned: &Planned, failover: &Failover) -> bool {
    let knows = |instance: &str| planned.place(instance).is_some();
    failover.moving().is_some_and(|it| {
        !matches!(it.stage, Stage::Notify { .. }) && knows(&it.from) && knows(&it.to)
    })
}

/// Calls off the moves that this coordinator's configuration knows nothing of, as long as they have not
/// switched: calls wait for them, and nobody here ends them.
///
/// # Errors
/// What stood in the way of a proposal.
pub(crate) async fn call_off(shared: &Shared) -> Result<(), ProposeError> {
    let Some(term) = shared.coordinates() else { return Ok(()) };
    let may = shared.mandate();
    let state = shared.state();
    let now = state.time.max(shared.group.time());
    for (server, known) in &state.servers.by_name {
        let planned = shared.plan.find(server).map(|(_, planned)| planned);
        let ends = |it: &Planned| {
            let begins = may.is_some_and(|may| may.whole || is_defined(&state, it));
            begins || is_to_end(it, &known.failover)
        };
        if planned.is_some_and(|it| it.failover.is_some() && ends(it)) {
            continue;
        }
        let why = "the coordinator does not know both instances";
        let Some(next) = known.failover.called_off(why, now) else { continue };
        let command = ServerCommand::Failover {
            server: server.clone(),
            follows: (known.failover.generation, known.failover.step),
            next: Box::new(next),
            evidence: String::new(),
            term,
        };
        shared.propose(command).await?;
    }
    Ok(())
}

fn is_at_rest(failover: &Failover) -> bool {
    use holdfast_engine::failover::Phase;
    match &failover.phase {
        Phase::PrimaryActive | Phase::SecondaryActive => true,
        Phase::Failed(failed) => failed.told,
        Phase::FailingOver(_) | Phase::FailingBack(_) => false,
    }
}
