//! A circuit breaker: whether a call may go to a server, by how the calls before it went.
//!
//! There is one per instance and one per configured tool, both asked for each attempt. A server has none: it
//! is open where all of its instances are. It decides and does nothing else: the
//! caller brings the time and 64 random bits, and takes the transitions away.
//!
//! ```text
//!            failures                time passed              successes
//!  Closed ───────────────▶ Open ───────────────────▶ HalfOpen ──────────▶ Recovering
//!    ▲                      ▲ ▲                          │                 │ │  ▲ │
//!    │                      │ └──────── one failure ─────┘                 │ │  └─┘ degraded:
//!    │                      └────────── failures, or degraded at 10 % ─────┘ │   one step back
//!    └────────────────────────────────── ten steps ──────────────────────────┘
//! ```
//! The whole table is in `docs/state-machines.md`. Operators hold a breaker open or closed; the cluster
//! opens it for all nodes ([`cluster_verdict`]).
//!
//! - *Evidence* is booked at admission and falls due after [`Params::slow`]. It is weighed by
//!   failures in a row and by their rate over the window; what is under way and not overdue has the
//!   benefit of the doubt. Failures of this node's own network are counted apart from the server's.
//! - *Streams*: what has begun to answer is not overdue any more, and counts when it ends.
//! - *Half-open* lets a share pass, and at least one call per interval however few there are.
//! - *Recovery* lets a tenth more pass with each step. What is one error in a hundred to a closed
//!   breaker is none to a recovering one either: a step is degraded if its failures are more than the
//!   rate and chance explain.
//! - *Stragglers*: how a call ends that was admitted before the breaker last opened says nothing any
//!   more; it neither closes a half-open breaker nor opens it again.
//! - A new breaker is Closed: a cold start has no recovery. One that is not [enabled](Params::enabled) stays
//!   Closed, except for an operator's word.

mod cluster;
mod gate;
mod params;
mod row;
mod rules;
mod share;
mod types;
mod window;

use std::time::Instant;

pub use cluster::{ClusterCause, Evidence, cluster_verdict};
pub use params::Params;
pub use types::{Cause, Outcome, Override, Permit, Phase, Refused, Status, Transition, Why};

pub(crate) use window::clearly_above;

use share::Share;
use window::Window;

/// The breaker of one instance, server or tool, on one node.
#[derive(Clone, Debug)]
pub struct Breaker {
    params: Params,
    state: State,
    /// Rises when what is under way stops being evidence: a permit of an earlier one says nothing.
    epoch: u32,
    /// When time alone next changes something. A call before that only compares.
    wake: Instant,
    window: Window,
    /// Failures of the server since the last success.
    in_a_row: u32,
    /// Calls since the last that reached the server.
    not_reached_in_a_row: u32,
    share: Share,
    /// The last call that passed while not every one did.
    last_probe: Option<Instant>,
    /// Openings since it was last closed.
    strikes: u32,
    held_until: Option<Instant>,
    /// It was opened by what this node saw of the server.
    own_doubt: bool,
    /// It was not closed when an operator began to hold it open, or the cluster has opened it since.
    was_doubted: bool,
    /// It was last opened for a reason that is the server's: by this node's calls, or by the cluster.
    is_servers: bool,
    cluster_generation: u64,
    operator_generation: u64,
    transitions: Vec<Transition>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        succeeded: u32,
    },
    /// Step 1 lets a tenth pass, and so on; the counts are those of the step.
    Recovering {
        step: u32,
        next: Instant,
        calls: u32,
        failed: u32,
    },
    ForcedOpen,
    ForcedClosed,
}

// === impl Breaker ===

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(params: Params, now: Instant) -> Self {
        let params = params.sane();
        let window = Window::new(params.window, params.slow, now);
        Self {
            params,
            state: State::Closed,
            epoch: 0,
            wake: window.wake(),
            window,
            in_a_row: 0,
            not_reached_in_a_row: 0,
            share: Share::default(),
            last_probe: None,
            strikes: 0,
            held_until: None,
            own_doubt: false,
            was_doubted: false,
            is_servers: false,
            cluster_generation: 0,
            operator_generation: 0,
            transitions: Vec::new(),
        }
    }

    /// Whether a call may start at `now`; `chance` is any 64 random bits. The permit goes back by
    /// [`settle`](Self::settle) or [`abandon`](Self::abandon).
    ///
    /// # Errors
    /// Why it may not, and when it is worth another try.
    #[inline]
    pub fn admit(&mut self, now: Instant, chance: u64) -> Result<Permit, Refused> {
        self.admit_with(None, now, chance)
    }

    /// [`admit`](Self::admit) for a call of a session: where not every call passes, sessions come to the share
    /// one by one and stay in it, since one of which every tenth call passes is of no use to anybody. `lot`: 0 to
    /// 999, drawn once for the session. What is below the share passes; beside it, the share passes of the
    /// others' calls.
    ///
    /// # Errors
    /// As `admit`.
    #[inline]
    pub fn admit_with(
        &mut self,
        lot: Option<u16>,
        now: Instant,
        chance: u64,
    ) -> Result<Permit, Refused> {
        self.tick(now, chance);
        let all_pass = match self.state {
            State::Closed => self.held_until.is_none(),
            State::ForcedClosed => true,
            State::Open { .. }
            | State::HalfOpen { .. }
            | State::Recovering { .. }
            | State::ForcedOpen => false,
        };
        if !all_pass {
            self.some_pass(lot, now, chance)?;
        }
        Ok(self.permit(now))
    }

    /// An admitted call has begun to answer, and there is more to come: it is not overdue any more, however long
    /// that takes. Until it ends it is under way, and neither a success nor a failure: a server that begins well
    /// and breaks each time is of no use. While the breaker is half-open it has tried the server well, as nobody can
    /// wait for its end. One that begins too late has failed, whatever follows.
    #[inline]
    pub fn begun(&mut self, permit: &mut Permit, now: Instant, chance: u64) {
        self.tick(now, chance);
        let in_time = now.saturating_duration_since(permit.at) < self.params.slow;
        if !permit.begun && permit.epoch == self.epoch && in_time {
            permit.begun = self.window.begun(permit.booking);
            if permit.begun {
                self.tried_well(now);
            }
        }
    }

    /// Says how an admitted call ended.
    #[inline]
    pub fn settle(&mut self, permit: Permit, outcome: Outcome, now: Instant, chance: u64) {
        self.tick(now, chance);
        if let Outcome::BackPressure { retry_after } = outcome {
            self.hold(retry_after, now);
        }
        // What is overdue has been counted, and what belongs to another state does not count.
        if !self.takes_back(&permit) {
            return;
        }
        let slow = !permit.begun && now.saturating_duration_since(permit.at) >= self.params.slow;
        match outcome {
            Outcome::Success if !slow => self.succeeded(permit.booking, permit.begun, now),
            Outcome::Success | Outcome::Failure => self.failed(now, chance),
            Outcome::NotReached => self.not_reached(now, chance),
            Outcome::BackPressure { .. } | Outcome::SessionLost => {}
        }
    }

    /// Gives back the permit of a call whose outcome nobody will learn: its client left, or something
    /// else refused it before it was sent. Once it is overdue it stays counted.
    pub fn abandon(&mut self, permit: Permit, now: Instant, chance: u64) {
        self.tick(now, chance);
        if self.takes_back(&permit) && matches!(self.state, State::HalfOpen { .. }) {
            // It tried nothing: the next call may.
            self.last_probe = None;
        }
    }

    fn permit(&mut self, now: Instant) -> Permit {
        Permit { epoch: self.epoch, begun: false, booking: self.window.admitted(), at: now }
    }

    /// Takes a call off the book. False if it says nothing any more.
    fn takes_back(&mut self, permit: &Permit) -> bool {
        permit.epoch == self.epoch
            && match permit.begun {
                true => self.window.finished(),
                false => self.window.ended(permit.booking),
            }
    }

    /// Evidence without a permit, as of a stream that broke after its call was settled. Says nothing
    /// while no call passes.
    pub fn observe(&mut self, outcome: Outcome, now: Instant, chance: u64) {
        self.tick(now, chance);
        if !matches!(self.state, State::Open { .. } | State::ForcedOpen) {
            let permit = self.permit(now);
            self.settle(permit, outcome, now, chance);
        }
    }

    /// Lets time pass without a call, for whoever shows the state or waits for [`wake`](Self::wake).
    #[inline]
    pub fn tick(&mut self, now: Instant, chance: u64) {
        if now >= self.wake {
            self.advance(now, chance);
        }
    }

    /// When time alone may next change something.
    #[must_use]
    pub fn wake(&self) -> Instant {
        self.wake
    }

    /// The oldest transition that was not taken yet. Ask after every call of `admit`, `settle` and the
    /// others that change something, until there is none; of more than eight the oldest are lost.
    #[must_use]
    #[inline]
    pub fn take_transition(&mut self) -> Option<Transition> {
        if self.transitions.is_empty() { None } else { Some(self.transitions.remove(0)) }
    }

    /// The cluster opens the breaker until then at least: up to a quarter longer by chance, so that nodes that
    /// opened together do not try together, and twice as long with each opening since it was last closed, up to
    /// [`Params::open_at_most`]. `generation` rises with each of its words about this breaker: an older or equal
    /// one is refused (false). An operator's word stands above it.
    pub fn opened_by_cluster(
        &mut self,
        until: Instant,
        generation: u64,
        now: Instant,
        chance: u64,
    ) -> bool {
        if generation <= self.cluster_generation {
            return false;
        }
        self.cluster_generation = generation;
        self.own_doubt = false;
        match self.state {
            State::ForcedOpen => self.was_doubted |= until > now,
            State::ForcedClosed => {}
            State::Open { until: open } => {
                self.is_servers = true;
                // It is the same opening, by another voice.
                let until = now
                    + self.params.open_longer(
                        until.saturating_duration_since(now),
                        self.strikes.saturating_sub(1),
                        chance,
                    );
                self.state = State::Open { until: open.max(until) };
                self.set_wake(now);
            }
            State::Closed | State::HalfOpen { .. } | State::Recovering { .. } => {
                if until > now && self.params.enabled {
                    self.is_servers = true;
                    let until = now
                        + self.params.open_longer(
                            until.saturating_duration_since(now),
                            self.strikes,
                            chance,
                        );
                    self.open_until(until, Cause::Cluster, now);
                }
            }
        }
        true
    }

    /// The cluster takes its opening back: a breaker that it has opened becomes half-open, and one that this
    /// node has opened since stays open. Generations as above.
    pub fn released_by_cluster(&mut self, generation: u64, now: Instant) -> bool {
        if generation <= self.cluster_generation {
            return false;
        }
        self.cluster_generation = generation;
        let is_clusters = self.is_servers && !self.own_doubt;
        if let State::Open { .. } = self.state
            && is_clusters
        {
            self.half_open(Cause::Cluster, now);
        }
        true
    }

    /// An operator holds the breaker open or closed, or lets it decide again. From forced open it goes on
    /// half-open if it was not closed before that, or if the cluster has opened it meanwhile; else it is closed
    /// as it was, since nothing has failed (always, where it is not enabled). From forced closed it is closed
    /// and nothing is counted. `generation` rises with each of the operators' words about this breaker: an
    /// older or equal one is refused (false).
    pub fn force(&mut self, what: Override, generation: u64, now: Instant) -> bool {
        if generation <= self.operator_generation {
            return false;
        }
        self.operator_generation = generation;
        self.is_servers = false;
        match (what, self.phase()) {
            (Override::Open, Phase::ForcedOpen) | (Override::Closed, Phase::ForcedClosed) => {}
            (Override::Open, before) => {
                self.was_doubted =
                    matches!(before, Phase::Open | Phase::HalfOpen | Phase::Recovering);
                self.enter(State::ForcedOpen, Cause::Operator, now);
            }
            (Override::Closed, _) => self.enter(State::ForcedClosed, Cause::Operator, now),
            (Override::Automatic, Phase::ForcedOpen) if self.params.enabled && self.was_doubted => {
                self.half_open(Cause::Operator, now);
            }
            (Override::Automatic, Phase::ForcedOpen | Phase::ForcedClosed) => {
                self.close(Cause::Operator, now);
            }
            (Override::Automatic, _) => {}
        }
        true
    }

    /// Has all calls pass from here on, unless it is open for what this node cannot reach, or an operator
    /// holds it: a failover brings them back, step by step or because somebody wants them there, and
    /// refusing some of those would refuse them for good. What the server's calls met before it served says
    /// nothing of how it serves now, and where none come nothing would ever contradict it.
    pub fn start_over(&mut self, now: Instant, chance: u64) {
        self.tick(now, chance);
        // What it asked for, it asked for then.
        self.held_until = None;
        match self.state {
            State::Open { .. } if self.is_servers => self.close(Cause::Cluster, now),
            State::HalfOpen { .. } | State::Recovering { .. } => self.close(Cause::Cluster, now),
            State::ForcedOpen => self.was_doubted = false,
            State::Closed | State::Open { .. } | State::ForcedClosed => {}
        }
    }

    /// Goes on with other settings in the same state. What was counted is forgotten, and calls under
    /// way say nothing any more. The same settings change nothing. Where it is enabled no more it is
    /// closed, unless an operator holds it: nobody would ever try it again.
    pub fn reconfigure(&mut self, params: Params, now: Instant) {
        let params = params.sane();
        if params != self.params {
            self.params = params;
            self.forget(now);
            self.set_wake(now);
            if !params.enabled {
                self.held_until = None;
                if let State::Open { .. } | State::HalfOpen { .. } | State::Recovering { .. } =
                    self.state
                {
                    self.close(Cause::SwitchedOff, now);
                }
            }
        }
    }

    /// The state as of the last call.
    #[must_use]
    #[inline]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
            State::Recovering { .. } => Phase::Recovering,
            State::ForcedOpen => Phase::ForcedOpen,
            State::ForcedClosed => Phase::ForcedClosed,
        }
    }

    /// What is known as of the last call.
    #[must_use]
    pub fn status(&self) -> Status {
        let counts = self.window.counts();
        let open_until = if let State::Open { until } = self.state { Some(until) } else { None };
        Status {
            phase: self.phase(),
            share: self.thousandths(),
            open_until,
            held_until: self.held_until,
            in_a_row: self.in_a_row,
            not_reached_in_a_row: self.not_reached_in_a_row,
            calls: counts.calls(),
            failed: counts.failed,
            not_reached: counts.not_reached,
            strikes: self.strikes,
        }
    }

    /// Whether it is open for a reason that is the server's, this node's own network aside; and while it
    /// is half-open after that, since no call has shown yet that the server is well.
    #[must_use]
    pub fn is_open_by_server(&self) -> bool {
        self.is_servers && matches!(self.state, State::Open { .. } | State::HalfOpen { .. })
    }

    /// What this node has to say to the cluster about the server, and nothing of its own network. The
    /// cluster's word uses the evidence up: what comes after it has been seen after it.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let opened = match self.phase() {
            Phase::Open if self.own_doubt => true,
            Phase::Closed | Phase::HalfOpen | Phase::Recovering => false,
            Phase::Open | Phase::ForcedOpen | Phase::ForcedClosed => {
                return Evidence::default();
            }
        };
        let counts = self.window.counts();
        Evidence { opened, calls: counts.calls(), failed: counts.failed }
    }
}
