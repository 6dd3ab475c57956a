//! Why no instance takes a call: in words for its client, with the reason of each, and for metrics.

use std::time::{Duration, Instant};

use holdfast_config::Role;
use holdfast_engine::balance::{NoInstance, Why as Unfit};
use holdfast_engine::breaker;

use super::counts::Why;
use super::instance::HELD_FOR;
use super::server::ServerFleet;

/// No instance takes the call now. It was not sent.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// When it is worth another try.
    pub(crate) retry_after: Duration,
    /// Why, for its client.
    pub(crate) reason: String,
    /// The same, for metrics.
    pub(crate) why: Why,
    /// Its instances have only just become unreachable, and may be restarting; or one has just failed, and
    /// another one is there to fail over to.
    pub(crate) may_be_over_soon: bool,
    /// An instance that is tried again, or recovers, does not take it among its share of the calls.
    pub(crate) by_share: bool,
    /// Of a server of several instances, why each does not take it: the first eight.
    pub(crate) reasons: Vec<Reason>,
    /// Where it may wait for its turn, if an allowance is all that is missing there.
    pub(crate) turn_at: Option<usize>,
    /// The marks of the instances that could take it if one of their connections were free.
    pub(crate) busy_at: Vec<u32>,
}

/// An instance, and why it does not take a call.
pub(crate) type Reason = (Box<str>, &'static str);

/// Why an instance that was chosen does not take a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shut {
    /// Its breaker.
    Breaker(breaker::Refused),
    /// The breaker of the call's tool, by number: wherever it goes.
    Tool(usize, breaker::Refused),
    /// It cannot be reached.
    Away,
    /// All of its connections are busy, or kept for calls that have waited.
    Busy,
    /// Its allowance is used up: in so long it has one more.
    Allowance(Duration),
}

/// When an instance that cannot be reached is worth another try.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// For how long a server that cannot be reached is taken for one that restarts.
const RESTART: Duration = Duration::from_secs(5);

const TAKEN_OUT: &str = "an operator has taken it out";
const FAILED: &str = "its circuit breaker is open after it failed";

/// How many instances have their reasons said.
const REASONS: usize = 8;

// === impl ServerFleet ===

impl ServerFleet {
    /// Why no instance takes the call: what those that were chosen said, and what is known of the rest.
    #[cold]
    pub(super) fn nobody(
        &self,
        shut: &[(usize, Shut)],
        none: Option<&NoInstance>,
        now: Instant,
    ) -> Refused {
        let away = self.instances.iter().filter_map(|it| it.away_for(now)).min();
        let turn = self.next_turn(shut, none, now);
        let busy_at = self.busy(shut, none);
        let open = || self.instances.iter().filter(|it| it.is_open());
        let (retry_after, why, what) = match (turn, shut.last().map(|(_, shut)| *shut)) {
            _ if !busy_at.is_empty() => {
                let what = "all connections that it may have are busy (pool.max_connections)";
                (SOON, Why::Connections, what)
            }
            (Some((wait, _)), _) | (None, Some(Shut::Allowance(wait))) => {
                (wait, Why::Rate, "the calls that it takes a minute are used up (balance.rate)")
            }
            (None, Some(Shut::Breaker(refused) | Shut::Tool(_, refused))) => {
                let asked = refused.retry_after;
                match refused.why {
                    breaker::Why::Open => (asked, Why::Breaker, FAILED),
                    breaker::Why::HalfOpen => {
                        (asked, Why::Breaker, "it is being tried again after it failed")
                    }
                    breaker::Why::Recovering => {
                        (asked, Why::Breaker, "it recovers and does not take every call yet")
                    }
                    breaker::Why::ForcedOpen => (HELD_FOR, Why::Breaker, TAKEN_OUT),
                    breaker::Why::BackPressure => {
                        (asked, Why::BackPressure, "it asked for fewer calls")
                    }
                }
            }
            (None, Some(Shut::Away | Shut::Busy)) => (SOON, Why::Away, "it cannot be reached"),
            (None, None) if open().any(|it| !it.is_held_open()) => {
                (self.opens_in().unwrap_or(SOON), Why::Breaker, FAILED)
            }
            // One that is only away may be back before the operator lets go.
            (None, None) if open().next().is_some() => {
                (if away.is_some() { SOON } else { HELD_FOR }, Why::Breaker, TAKEN_OUT)
            }
            (None, None) if away.is_some() => (SOON, Why::Away, "it cannot be reached"),
            (None, None) => (SOON, Why::NoInstance, "no instance takes this call now"),
        };
        let down = self.instances.iter().filter(|it| it.is_shut()).count();
        let reason = match (shut.last(), self.instances.len()) {
            (Some((_, Shut::Tool(number, _))), _) if busy_at.is_empty() && turn.is_none() => {
                format!("its tool {:?}: {what} (breaker.per_tool)", self.tools[*number].0)
            }
            (_, all) if all > 1 && down > 0 => format!("{what} ({down} of {all} instances)"),
            _ => what.to_owned(),
        };
        // While one of them may only be restarting, its clients see a pause.
        let may_be_over_soon = away.is_some_and(|away| away < RESTART) || self.may_move(now);
        let by_share = shut.last().is_some_and(|(_, shut)| shut.is_by_share());
        let reasons = self.reasons(shut, none);
        let turn_at = turn.map(|(_, at)| at);
        Refused { retry_after, reason, why, may_be_over_soon, by_share, reasons, turn_at, busy_at }
    }

    /// Whether a failover may be about to be decided: the active instance has only just failed, and
    /// another one could serve in its place.
    fn may_move(&self, now: Instant) -> bool {
        let failover = self.failover.load();
        let Some(failover) = &*failover else { return false };
        let serves = |at: &usize| *self.instances[*at].id == *failover.active;
        let lately =
            |at: usize| self.instances[at].open_for(now).is_some_and(|since| since < RESTART);
        let could = |at: usize| {
            let it = &self.instances[at];
            it.role != Role::Replica && !it.is_shut() && !it.is_unwell()
        };
        let all = 0..self.instances.len();
        all.clone().filter(serves).any(lately) && all.filter(|at| !serves(at)).any(could)
    }

    #[cold]
    pub(crate) fn held(&self) -> Refused {
        Refused {
            retry_after: SOON,
            reason: "it fails over to another instance".to_owned(),
            why: Why::Paused,
            may_be_over_soon: true,
            by_share: false,
            reasons: Vec::new(),
            turn_at: None,
            busy_at: Vec::new(),
        }
    }

    /// The marks of the instances where a connection is all that is missing.
    fn busy(&self, shut: &[(usize, Shut)], none: Option<&NoInstance>) -> Vec<u32> {
        let said = shut.iter().filter(|(_, shut)| matches!(shut, Shut::Busy)).map(|(at, _)| *at);
        let full = none.into_iter().flat_map(NoInstance::reasons);
        let full = full.filter(|(_, why)| *why == Unfit::Full).map(|(at, _)| usize::from(at));
        // No reasons are given for those after the first eight.
        let rest = REASONS..none.map_or(0, |_| self.instances.len());
        let rest = rest.filter(|at| {
            let it = &self.instances[*at];
            !it.is_shut() && !it.has_room(self.queue.places())
        });
        said.chain(full).chain(rest).map(|at| self.mark(at)).collect()
    }

    /// Where an allowance is all that is missing, and after how long it is there: the soonest.
    fn next_turn(
        &self,
        shut: &[(usize, Shut)],
        none: Option<&NoInstance>,
        now: Instant,
    ) -> Option<(Duration, usize)> {
        let limited = none.into_iter().flat_map(NoInstance::reasons);
        let limited = limited.filter(|(_, why)| *why == Unfit::RateLimited);
        let asked = shut.iter().filter(|(_, shut)| matches!(shut, Shut::Allowance(_)));
        limited
            .map(|(at, _)| usize::from(at))
            .chain(asked.map(|(at, _)| *at))
            .map(|at| (self.turn_in(at, now), at))
            .min()
    }

    fn reasons(&self, shut: &[(usize, Shut)], none: Option<&NoInstance>) -> Vec<Reason> {
        if self.instances.len() < 2 {
            return Vec::new();
        }
        let said = |at: usize| shut.iter().find(|(it, _)| *it == at).map(|(_, shut)| shut.why());
        // What refused it itself says more than that it was tried.
        let known = none.into_iter().flat_map(NoInstance::reasons);
        let known = known.map(|(at, why)| (usize::from(at), said(usize::from(at)).unwrap_or(why)));
        let mut all: Vec<(usize, Unfit)> = match none {
            Some(_) => known.collect(),
            None => shut.iter().map(|(at, shut)| (*at, shut.why())).collect(),
        };
        all.truncate(REASONS);
        let named =
            |(at, why): (usize, Unfit)| Some((self.instances.get(at)?.id.clone(), why.label()));
        all.into_iter().filter_map(named).collect()
    }
}

// === impl Shut ===

impl Shut {
    fn is_by_share(self) -> bool {
        use breaker::Why::{HalfOpen, Recovering};
        matches!(self, Self::Breaker(refused) if matches!(refused.why, HalfOpen | Recovering))
    }

    fn why(self) -> Unfit {
        match self {
            Self::Away => Unfit::Unreachable,
            Self::Busy => Unfit::Full,
            Self::Allowance(_) => Unfit::RateLimited,
            Self::Breaker(refused) | Self::Tool(_, refused) => match refused.why {
                breaker::Why::Open => Unfit::BreakerOpen,
                breaker::Why::HalfOpen | breaker::Why::Recovering => Unfit::Recovering,
                breaker::Why::ForcedOpen => Unfit::Forced,
                breaker::Why::BackPressure => Unfit::PushedBack,
            },
        }
    }
}
