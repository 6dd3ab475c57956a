//! One node: its breaker, the calls it has under way, and how it tells the one of the other.

use std::time::{Duration, Instant};

use holdfast_engine::breaker::{
    Breaker, Outcome, Override, Params, Permit, Phase, Refused, Transition,
};

use super::Bug;
use super::coordinator::Report;
use crate::breaker::rig::Rng;

/// How a call really ends, for better or worse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Answer,
    /// A JSON-RPC error: an answer.
    ErrorAnswer,
    ServerError,
    Busy,
    Refused,
    /// The client leaves before there is anything.
    ClientLeft,
    /// It hung until its client had enough of it.
    Hung,
}

struct Call {
    permit: Option<Permit>,
    ends: Instant,
    end: End,
}

pub(crate) struct Node {
    pub(crate) breaker: Breaker,
    calls: Vec<Call>,
    /// How many of the cluster's words have come, and the newest.
    words: u64,
    heard: u64,
    /// It has opened by what it saw, and not closed since.
    doubts: bool,
    bug: Option<Bug>,
}

impl Node {
    pub(crate) fn new(params: Params, bug: Option<Bug>, now: Instant) -> Self {
        let mut breaker = Breaker::new(params, now);
        if bug == Some(Bug::ColdStartRecovers) {
            // As if it had failed before it began.
            for _ in 0..params.consecutive_failures {
                breaker.observe(Outcome::Failure, now, 0);
            }
            breaker.force(Override::Open, 1, now);
            breaker.force(Override::Automatic, 2, now);
            while breaker.take_transition().is_some() {}
        }
        Self { breaker, calls: Vec::new(), words: 0, heard: 0, doubts: false, bug }
    }

    /// A client's call: whether it went to the server. `ends` says how it will, if it does.
    pub(crate) fn call(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        ends: impl FnOnce(&mut Rng) -> (End, Duration),
    ) -> Result<End, Refused> {
        let permit = match self.breaker.admit(now, rng.next()) {
            Ok(permit) => Some(permit),
            Err(_) if self.bug == Some(Bug::SendsAnyway) && rng.below(20) == 0 => None,
            Err(refused) => return Err(refused),
        };
        let permit = match (permit, self.bug) {
            (Some(permit), Some(Bug::CountsWhatHasEnded)) => {
                self.breaker.abandon(permit, now, rng.next());
                None
            }
            (Some(permit), Some(Bug::SentIsSuccess)) => {
                self.breaker.settle(permit, Outcome::Success, now, rng.next());
                None
            }
            (permit, _) => permit,
        };
        let (end, takes) = ends(rng);
        self.calls.push(Call { permit, ends: now + takes, end });
        Ok(end)
    }

    /// Ends what is to end by now.
    pub(crate) fn tick(&mut self, now: Instant, rng: &mut Rng) {
        for call in std::mem::take(&mut self.calls) {
            if call.ends > now {
                self.calls.push(call);
            } else {
                self.ended(call, now, rng.next());
            }
        }
        self.breaker.tick(now, rng.next());
    }

    fn ended(&mut self, call: Call, now: Instant, chance: u64) {
        let has = |bug| self.bug == Some(bug);
        let outcome = match call.end {
            End::ErrorAnswer if has(Bug::AnswersAreFailures) => Some(Outcome::Failure),
            End::Answer | End::ErrorAnswer => Some(Outcome::Success),
            End::Busy if has(Bug::BackPressureIsFailure) => Some(Outcome::Failure),
            End::Busy => Some(Outcome::BackPressure { retry_after: Duration::from_millis(50) }),
            End::Refused if has(Bug::OwnNetworkIsTold) => Some(Outcome::Failure),
            End::Refused => Some(Outcome::NotReached),
            End::ServerError => Some(Outcome::Failure),
            End::Hung if has(Bug::CountsWhatHasEnded) => Some(Outcome::Failure),
            End::Hung | End::ClientLeft => None,
        };
        match (call.permit, outcome) {
            (Some(permit), Some(outcome)) => self.breaker.settle(permit, outcome, now, chance),
            (Some(_), None) if has(Bug::PermitsAreLost) => {}
            (Some(permit), None) => self.breaker.abandon(permit, now, chance),
            (None, Some(outcome)) if has(Bug::CountsWhatHasEnded) => {
                self.breaker.observe(outcome, now, chance);
            }
            (None, _) => {}
        }
    }

    /// The coordinator's word. Returns whether it was news.
    pub(crate) fn word(&mut self, until: Instant, generation: u64, now: Instant) -> bool {
        self.words += 1;
        self.heard = self.heard.max(generation);
        let any = self.bug == Some(Bug::OldWordsCount);
        self.breaker.opened_by_cluster(until, if any { self.words } else { generation }, now, 0)
    }

    pub(crate) fn report(&self, now: Instant) -> Report {
        let mut evidence = self.breaker.evidence();
        if self.bug == Some(Bug::EvidenceCountsTwice) {
            let away = matches!(self.breaker.phase(), Phase::Open | Phase::HalfOpen);
            evidence.opened = self.doubts && away;
        }
        Report { at: now, heard: self.heard, evidence }
    }

    pub(crate) fn transitions(&mut self) -> Vec<Transition> {
        let new: Vec<Transition> = std::iter::from_fn(|| self.breaker.take_transition()).collect();
        for it in &new {
            self.doubts = it.cause.is_the_servers() || (self.doubts && it.to != Phase::Closed);
        }
        new
    }
}
