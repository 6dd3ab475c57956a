//! The leader: counts the votes, takes the failover's steps, and carries the orders out.

use std::time::{Duration, Instant};

use holdfast_engine::failover::{
    Command, Failover, Input, Order, Phase, Report, Role, Seen, Stage,
};
use holdfast_engine::health::votes::{Opinion, Rules, Vote, tally};
use holdfast_engine::replicated::{Origin, ServerCommand};

use super::node::Message;
use super::world::{Bug, Kill, Ms, NAMES, NODES, When, World};

/// What an operator wishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Move,
    MoveTo(&'static str),
    Back,
    BackAtOnce,
}

/// How long to wait for a proposal before it is made again.
const PATIENCE: Ms = 250;

impl World {
    pub(super) fn coordinate(&mut self, at: usize) {
        self.judge(at);
        let Some(state) = self.nodes[at].failover().cloned() else { return };
        for wish in std::mem::take(&mut self.nodes[at].wishes) {
            let by = || "ops".to_owned();
            let input = match wish {
                Wish::Move => Input::Move { to: None, by: by(), force: false },
                Wish::MoveTo(to) => Input::Move { to: Some(to.into()), by: by(), force: false },
                Wish::Back => Input::Back { by: by(), at_once: false },
                Wish::BackAtOnce => Input::Back { by: by(), at_once: true },
            };
            if self.take(at, &state, &input) {
                return;
            }
        }
        if self.take(at, &state, &Input::Tick) {
            return;
        }
        if self.kills(at, &state, When::BeforeOrders) {
            return;
        }
        let own = |world: &Self| {
            let leading = world.nodes[at].leads.as_ref();
            leading.is_some_and(|it| it.own.contains(&(state.generation, state.step)))
        };
        if self.bug == Some(Bug::OrdersForgotten) && !own(self) {
            return;
        }
        let term = self.nodes[at].leads.as_ref().map_or(0, |it| it.term);
        for order in state.orders(&self.params, term) {
            if let Some(report) = self.carry_out(at, &order) {
                if self.kills(at, &state, When::AfterOrders) {
                    return;
                }
                let (generation, step) = (state.generation, state.step);
                self.take(at, &state, &Input::Report { generation, step, report });
            }
        }
    }

    /// One step, proposed if it changes anything. Returns whether it does.
    fn take(&mut self, at: usize, state: &Failover, input: &Input) -> bool {
        let Some(leading) = &self.nodes[at].leads else { return false };
        let (term, now) = (leading.term, self.now);
        let proposed = leading.proposed;
        let verdicts = &self.nodes[at].machine.control.servers.by_name["db"].verdicts;
        let seen: Vec<Seen<'_>> = NAMES
            .iter()
            .enumerate()
            .filter(|(instance, _)| self.configured[*instance])
            .filter_map(|(instance, name)| {
                let it = verdicts.get(*name)?;
                Some(Seen {
                    name,
                    role: if **name == *self.params.primary {
                        Role::Primary
                    } else {
                        Role::Secondary
                    },
                    opinion: it.opinion,
                    cause: it.cause,
                    score: it.score,
                    since: it.since,
                    good_checks: self.nodes[at].steady[instance].good(),
                })
            })
            .collect();
        let mut params = self.params.clone();
        match self.bug {
            Some(Bug::FailbackBeforeItsDelay) => params.failback_delay = 0,
            Some(Bug::FailbackBeforeItsChecks) => params.good_checks = 0,
            _ => {}
        }
        let Ok(mut stepped) = state.step(input, &seen, &params, term, now) else {
            return false;
        };
        if !stepped.changed {
            return false;
        }
        if proposed.0 == state.generation && proposed.1 == state.step && now < proposed.2 + PATIENCE
        {
            return true;
        }
        if self.bug == Some(Bug::RampStartsOver)
            && let Phase::FailingOver(it) | Phase::FailingBack(it) = &mut stepped.next.phase
            && let Stage::Ramp { percent } = &mut it.stage
            && !leading.own.contains(&(state.generation, state.step))
        {
            *percent = 10;
        }
        let command = ServerCommand::Failover {
            server: "db".into(),
            follows: (state.generation, state.step),
            next: Box::new(stepped.next.clone()),
            evidence: String::new(),
            term,
        };
        if let Some(leading) = &mut self.nodes[at].leads {
            leading.proposed = (state.generation, state.step, now);
            leading.own.push((stepped.next.generation, stepped.next.step));
        }
        if let Input::Tick = input
            && stepped.next.generation == state.generation
            && state.moving().is_some_and(|it| !matches!(it.stage, Stage::Ramp { .. }))
        {
            self.note("stage ended by its limit");
            self.checks.limited = Some(state.generation);
        }
        let begins = stepped.next.generation > state.generation;
        if let (Input::Tick, Phase::FailingBack(_), true) = (input, &stepped.next.phase, begins) {
            self.check_failback(at, state);
        }
        self.propose(at, command);
        true
    }

    /// Counts the votes and proposes what has changed.
    fn judge(&mut self, at: usize) {
        let Some(leading) = &self.nodes[at].leads else { return };
        let (term, now) = (leading.term, self.now);
        // Any instant will do: votes are counted by how long ago they came.
        let zero = Instant::now();
        let instant = |ms: Ms| zero + Duration::from_millis(ms);
        let rules = match self.bug {
            Some(Bug::OneVoteSuffices) => Rules { unhealthy: 0.0, least: 1, ..Rules::default() },
            _ => Rules { timeout: Duration::from_millis(1_200), alone: false, ..Rules::default() },
        };
        let origin = |node: usize| Origin { node: node as u64, generation: 1 };
        let members: Vec<Origin> =
            (0..NODES).filter(|it| leading.lives(*it, now)).map(origin).collect();
        let mut changes = Vec::new();
        for (instance, name) in NAMES.iter().enumerate() {
            if now < leading.judged_at[instance] + PATIENCE {
                continue;
            }
            let votes: Vec<Vote> = leading
                .votes
                .iter()
                .filter(|it| it.0.0 == instance)
                .map(|((_, node), (opinion, cause, score, received))| Vote {
                    from: origin(*node),
                    opinion: *opinion,
                    score: *score,
                    cause: *cause,
                    received: instant(*received),
                    age: Duration::ZERO,
                })
                .collect();
            let mut tally = tally(&votes, &members, &rules, instant(now));
            if self.bug == Some(Bug::OneVoteSuffices) && tally.unhealthy > 0 {
                tally.opinion = Some(Opinion::Unhealthy);
            }
            let known = &self.nodes[at].machine.control.servers.by_name["db"].verdicts[*name];
            let Some(opinion) = tally.opinion.filter(|it| known.opinion != Some(*it)) else {
                continue;
            };
            changes.push((instance, opinion, tally));
        }
        for (instance, opinion, tally) in changes {
            if let Some(leading) = &mut self.nodes[at].leads {
                leading.judged_at[instance] = now;
            }
            let verdict = ServerCommand::Verdict {
                server: "db".into(),
                instance: NAMES[instance].into(),
                opinion,
                cause: tally.cause,
                score: (tally.score * 100.0) as u8,
                evidence_since: 0,
                why: tally.to_string(),
                term,
            };
            if opinion == Opinion::Unhealthy {
                self.check_verdict(NAMES[instance]);
            }
            self.propose(at, verdict);
        }
    }

    /// Carries an order out, again or for the first time; what comes of it, if it is known.
    fn carry_out(&mut self, at: usize, order: &Order) -> Option<Report> {
        match &order.command {
            Command::Pause if self.bug == Some(Bug::ConfirmationsAssumed) => Some(Report::Paused),
            Command::Drain { .. } if self.bug == Some(Bug::ConfirmationsAssumed) => {
                Some(Report::Drained)
            }
            Command::Pause => self.confirmed(at, order).then_some(Report::Paused),
            Command::Drain { .. } => self.confirmed(at, order).then_some(Report::Drained),
            Command::Switch { .. } => self.confirmed(at, order).then_some(Report::Switched),
            Command::Check { to, .. } if self.rng.percent(20) => {
                let to = NAMES.iter().position(|it| it == to)?;
                let well = self.sees(at, to);
                Some(Report::Checked(if well { Ok(()) } else { Err("no answer".into()) }))
            }
            Command::Notify { .. } if self.rng.percent(20) => {
                self.note("people told");
                Some(Report::Notified)
            }
            Command::Check { .. } | Command::Notify { .. } | Command::Shift { .. } => None,
        }
    }

    /// Asks all nodes that may act; whether all have confirmed.
    fn confirmed(&mut self, at: usize, order: &Order) -> bool {
        let now = self.now;
        let fence = order.fence;
        let Some(leading) = &mut self.nodes[at].leads else { return false };
        if (leading.confirms.0, leading.confirms.1) != (fence.generation, fence.step) {
            leading.confirms = (fence.generation, fence.step, [false; NODES]);
            leading.asked_at = 0;
        }
        let all = (0..NODES).all(|it| leading.confirms.2[it] || !leading.lives(it, now));
        if all {
            return true;
        }
        if now >= leading.asked_at + 50 {
            leading.asked_at = now;
            for node in 0..NODES {
                self.send(at, node, Message::Ask(order.clone()));
            }
        }
        false
    }

    /// Whether the coordinator is to die here and now; then it does.
    fn kills(&mut self, at: usize, state: &Failover, when: When) -> bool {
        let Some(Kill { way, stage, when: wanted }) = self.kill else { return false };
        let is_way = matches!(
            (&state.phase, way),
            (Phase::FailingBack(_), "back")
                | (Phase::FailingOver(_), "by hand" | "hurry" | "taken out")
        );
        let is_stage = state.moving().is_some_and(|it| it.stage.label() == stage);
        // A ramp has no report: it dies in its middle.
        let is_when = when == wanted || stage == "ramp";
        let is_new = !self.notes.contains_key("coordinator killed on purpose");
        if is_way && is_stage && is_when && is_new {
            self.note("coordinator killed on purpose");
            self.line(format!("killed: {way}, {stage}, {when:?}"));
            self.crash(at);
            return true;
        }
        false
    }
}
