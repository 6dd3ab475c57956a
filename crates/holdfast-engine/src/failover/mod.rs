//! How a server moves from one instance to another and back, so that a coordinator which dies in the
//! middle of any step is followed by one that finishes it.
//!
//! [`Failover`] is the whole state, and it is replicated: whoever leads the group reads it, calls
//! [`Failover::step`], proposes what comes out, and carries the orders out once that is committed. Each
//! order follows from the state alone and may be carried out any number of times, so a new coordinator
//! starts with [`Failover::orders`] and is where the old one was. [`Fence`] goes with each order and
//! each report: what belongs to another step is ignored.
//!
//! ```text
//!                  immediate, gradual, by hand               told
//! primary active ──────────────────────────> failing over ────────> secondary active
//!   ^  ^     ^                                │     │                  │
//!   │  │     └────────────── rolled back ─────┘     └─ no way ─> failover failed
//!   │  └──────────────────── recovered ─────────────────────────────────┘
//!   └── told ── failing back <── by hand, or well for the delay and 3 good checks ── secondary active
//!                    └── rolled back: it does worse ──> secondary active, and a longer delay
//! ```
//!
//! | manner | stages |
//! |---|---|
//! | immediate | pause (briefly), check the target, switch, notify |
//! | by hand | pause, drain, check, switch, notify |
//! | gradual, and every failback | check, ramp, pause, drain, switch, notify |
//!
//! # One instance at a time
//! [`Failover::route`] says which instance a session uses. Up to the switch that is the old one, from
//! the switch on the new one; while a ramp runs, a session is on one side or the other by its key, and
//! goes over at most once, since the share only rises. Before the switch all nodes hold new calls and
//! say so, and what runs at the old instance is waited for, each with a limit. After a ramp nobody is
//! held for that: all have gone over one by one, each with what it had running at the old instance. A node that does not
//! answer within the limit is cut off or dead: then it has no lease, and sends no Writes.
//!
//! What an operator moved stays there until an operator has the primary serve again, or the instance
//! fails: whoever takes a primary out for maintenance does not want it back five minutes later.
//!
//! Times are milliseconds since the Unix epoch, the group's clock (`ClusterState::time`) at least.

mod step;
pub mod trigger;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use step::{Hindrance, Input, Refusal, Report, Stepped};
pub use trigger::{Role, Seen, Trigger};

/// What is replicated of a server's failover.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// Rises when a move begins; 0 before the first. At most one switch belongs to each.
    pub generation: u64,
    /// Rises with every change within a generation.
    pub step: u32,
    /// The instance that serves, by its configured name.
    pub active: String,
    /// Where in the machine the server is.
    pub phase: Phase,
    /// When this step began.
    pub since: u64,
    /// When the active instance last changed; 0 if it never did.
    pub switched_at: u64,
    /// An operator moved the server to its active instance: the primary does not take over by itself.
    pub by_hand: bool,
    /// Automatic moves other than an immediate first one do not begin before this, and an immediate one that does is
    /// not taken back. At `u64::MAX` for as long as the group finds of the active instance what it found at `since`,
    /// when an operator took one back.
    pub not_before: u64,
    /// Failovers in a row that came to nothing.
    pub attempts: u32,
    /// Moves that were rolled back since the last switch. Each doubles the next delay, up to eight times.
    pub rollbacks: u32,
    /// Targets that were tried in vain since a failover last worked.
    pub tried: Vec<String>,
}

/// Where in the machine a server is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// The primary serves.
    PrimaryActive,
    /// On its way from the active instance to another that is not a failback.
    FailingOver(Move),
    /// Another than the primary serves.
    SecondaryActive,
    /// On its way back to the primary.
    FailingBack(Move),
    /// The active instance is of no use and there is no other. It stays active.
    Failed(Failed),
}

/// A server on its way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Move {
    /// The instance that is left.
    pub from: String,
    /// The instance that is to serve.
    pub to: String,
    /// In which order, and how patiently.
    pub manner: Manner,
    /// How far it is.
    pub stage: Stage,
    /// When it began.
    pub began: u64,
    /// The target was checked, or both sides were compared, with a good result.
    pub checked: bool,
    /// Why, for people; at most 256 bytes.
    pub cause: String,
}

/// In which order the stages come, and how patiently.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Manner {
    /// The old instance is of no use: nothing runs there that could be waited for.
    Immediate,
    /// Both may serve: the share of the new one rises bit by bit.
    Gradual,
    /// An operator said so: in order, all at once.
    Manual,
    /// The same, whatever is known of the new instance.
    Forced,
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// The nodes hold new calls, and confirm it.
    Pause,
    /// The calls that run at the old instance end.
    Drain,
    /// The new instance is checked, and compared with the old one where that can answer.
    Check,
    /// So many percent of the sessions use the new instance, 0 to 100.
    Ramp {
        /// The share, 0 to 100.
        percent: u8,
    },
    /// The new instance is the active one; the nodes confirm that they know.
    Switch,
    /// People are told how it ended.
    Notify {
        /// How it ended.
        end: End,
    },
}

/// How a move ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum End {
    /// The new instance is active.
    Switched,
    /// The old one stays active.
    RolledBack,
}

/// Why nothing works.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// Why, for people; at most 256 bytes.
    pub why: String,
    /// People were told.
    pub told: bool,
}

/// The number of a step, which goes with every order and report. The order is that of time.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Fence {
    /// The term of the coordinator that orders.
    pub term: u64,
    /// The move's generation.
    pub generation: u64,
    /// The step within it.
    pub step: u32,
}

/// What the coordinator has others do. Each may be done any number of times.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Every node holds new calls of the server, and confirms: `Report::Paused` when all have.
    Pause,
    /// Every node says whether calls still run at this instance: `Report::Drained` when none do.
    Drain {
        /// The instance that is left.
        instance: String,
        /// Until then, in milliseconds since the Unix epoch.
        until: u64,
    },
    /// The configured call is made at `to`, and at `from` if that can answer, and the answers are
    /// compared: `Report::Checked`.
    Check {
        /// The old instance; none if it is of no use.
        from: Option<String>,
        /// The new one.
        to: String,
    },
    /// Every node gives the new instance this share of the sessions. Follows from the state; nothing
    /// is reported.
    Shift {
        /// The new instance.
        to: String,
        /// Its share, 0 to 100.
        percent: u8,
    },
    /// Every node uses the new instance and no other, and confirms: `Report::Switched` when all have.
    Switch {
        /// The instance that is left.
        from: String,
        /// The active one.
        to: String,
    },
    /// People are told, at least once: `Report::Notified`. Who is told tells repetitions by the fence.
    Notify {
        /// What happened, for people.
        text: String,
    },
}

/// A command and the step that it belongs to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The step.
    pub fence: Fence,
    /// What is to be done.
    pub command: Command,
}

/// The receiver's side of the fence: refuses what comes from an earlier step or term than it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gate {
    seen: Fence,
}

/// Which instance a session's next call goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route<'a> {
    /// To this one.
    To(&'a str),
    /// It waits: the server moves.
    Hold,
}

/// A server's failover as configured.
#[derive(Clone, PartialEq, Debug)]
pub struct Params {
    /// The instance that serves while all is well.
    pub primary: String,
    /// Whether a primary that is well again becomes active by itself.
    pub automatic_failback: bool,
    /// How long it must have been well for that, in milliseconds.
    pub failback_delay: u64,
    /// Good checks in a row that it takes besides.
    pub good_checks: u32,
    /// A score below 100 times (1 - this) makes a degraded instance be left bit by bit. 0 to 1.
    pub degradation: f64,
    /// A score below this makes an unhealthy instance be left at once, whatever makes it so. 0 to 100.
    pub fail_over: u8,
    /// How long the nodes have to confirm a pause, in milliseconds. Longer than a lease.
    pub pause_within: u64,
    /// The same in an immediate failover. It ends as soon as all have confirmed, so this is what a
    /// node costs that is silent just then; longer than a lease too, or that node might still call the
    /// old instance while the others call the new one.
    pub pause_within_immediate: u64,
    /// How long running calls have, in milliseconds.
    pub drain: u64,
    /// Whether the target is checked by a configured call.
    pub check: bool,
    /// How long that check has, in milliseconds.
    pub check_within: u64,
    /// What the share rises by, in percent; 1 to 100.
    pub ramp_step: u8,
    /// How long the whole rise of a failback takes, in milliseconds; 0: there is none.
    pub ramp_over: u64,
    /// The same of a gradual failover.
    pub shift_over: u64,
    /// How long the nodes have to confirm a switch, in milliseconds.
    pub switch_within: u64,
    /// How long telling people has, in milliseconds.
    pub notify_within: u64,
    /// Failovers in a row that may come to nothing before people have to do something.
    pub max_attempts: u32,
    /// The first wait after one that came to nothing, in milliseconds; each doubles it.
    pub retry_after: u64,
}

impl Params {
    /// The defaults for a server with this primary.
    #[must_use]
    pub fn new(primary: &str) -> Self {
        Self {
            primary: primary.to_owned(),
            automatic_failback: true,
            failback_delay: 300_000,
            good_checks: 3,
            degradation: 0.5,
            fail_over: 40,
            pause_within: 2_000,
            pause_within_immediate: 1_200,
            drain: 30_000,
            check: false,
            check_within: 5_000,
            ramp_step: 10,
            ramp_over: 300_000,
            shift_over: 60_000,
            switch_within: 1_000,
            notify_within: 30_000,
            max_attempts: 3,
            retry_after: 10_000,
        }
    }
}

// === impl Failover ===

impl Failover {
    /// A server that was never moved: its primary serves.
    #[must_use]
    pub fn new(primary: &str) -> Self {
        Self {
            generation: 0,
            step: 0,
            active: primary.to_owned(),
            phase: Phase::PrimaryActive,
            since: 0,
            switched_at: 0,
            by_hand: false,
            not_before: 0,
            attempts: 0,
            rollbacks: 0,
            tried: Vec::new(),
        }
    }

    /// The fence of this step under a coordinator's term.
    #[must_use]
    pub fn fence(&self, term: u64) -> Fence {
        Fence { term, generation: self.generation, step: self.step }
    }

    /// The move that is under way.
    #[must_use]
    pub fn moving(&self) -> Option<&Move> {
        match &self.phase {
            Phase::FailingOver(it) | Phase::FailingBack(it) => Some(it),
            Phase::PrimaryActive | Phase::SecondaryActive | Phase::Failed(_) => None,
        }
    }

    /// Which instance the next call of a session goes to. `key`: any 64 bits that are the session's
    /// own; of calls without a session, their own.
    #[must_use]
    pub fn route(&self, key: u64) -> Route<'_> {
        let Some(it) = self.moving() else { return Route::To(&self.active) };
        match it.stage {
            // All have gone over, and every node has confirmed that none goes to the old one any more.
            Stage::Drain if it.manner == Manner::Gradual => Route::To(&it.to),
            Stage::Pause | Stage::Drain => Route::Hold,
            // In a gradual move nothing is held yet; in the others the pause goes on.
            Stage::Check if it.manner == Manner::Gradual => Route::To(&it.from),
            Stage::Check => Route::Hold,
            Stage::Ramp { percent } if self.place(key) < percent => Route::To(&it.to),
            Stage::Ramp { .. } => Route::To(&it.from),
            Stage::Switch | Stage::Notify { .. } => Route::To(&self.active),
        }
    }

    /// The same where the instance may be configured no more, or not to take all calls: until the server has
    /// moved, they go to the primary.
    #[must_use]
    pub fn route_within<'a>(
        &'a self,
        key: u64,
        is_configured: impl Fn(&str) -> bool,
        primary: &'a str,
    ) -> Route<'a> {
        match self.route(key) {
            Route::To(instance) if !is_configured(instance) => Route::To(primary),
            route => route,
        }
    }

    /// Whether this instance serves somebody now: the active one, and the target of a gradual move from the ramp on.
    #[must_use]
    pub fn serves(&self, instance: &str) -> bool {
        let takes = |it: &Move| match it.stage {
            Stage::Ramp { .. } => true,
            Stage::Pause | Stage::Drain => it.manner == Manner::Gradual,
            Stage::Check | Stage::Switch | Stage::Notify { .. } => false,
        };
        self.active == instance || self.moving().is_some_and(|it| it.to == instance && takes(it))
    }

    /// What is to be done in this step, again or for the first time. The same state gives the same
    /// orders.
    #[must_use]
    pub fn orders(&self, params: &Params, term: u64) -> Vec<Order> {
        let order = |command| vec![Order { fence: self.fence(term), command }];
        let it = match &self.phase {
            Phase::PrimaryActive | Phase::SecondaryActive => return Vec::new(),
            Phase::Failed(failed) if failed.told => return Vec::new(),
            Phase::Failed(failed) => {
                let text = format!("failover failed, {} stays active: {}", self.active, failed.why);
                return order(Command::Notify { text });
            }
            Phase::FailingOver(it) | Phase::FailingBack(it) => it,
        };
        let (from, to) = (it.from.clone(), it.to.clone());
        order(match it.stage {
            Stage::Pause => Command::Pause,
            Stage::Drain => {
                Command::Drain { instance: from, until: self.since.saturating_add(params.drain) }
            }
            Stage::Check if it.manner == Manner::Immediate => Command::Check { from: None, to },
            Stage::Check => Command::Check { from: Some(from), to },
            Stage::Ramp { percent } => Command::Shift { to, percent },
            Stage::Switch => Command::Switch { from, to },
            Stage::Notify { end } => Command::Notify { text: self.tells(it, end) },
        })
    }

    fn tells(&self, it: &Move, end: End) -> String {
        let what = match (&self.phase, end) {
            (Phase::FailingBack(_), End::Switched) => "failed back",
            (Phase::FailingBack(_), End::RolledBack) => "failback rolled back",
            (_, End::Switched) => "failed over",
            (_, End::RolledBack) => "failover rolled back",
        };
        format!("{what}: {} to {}, {} active: {}", it.from, it.to, self.active, it.cause)
    }

    /// Where in 0 to 99 a key's turn comes, another one in each generation.
    fn place(&self, key: u64) -> u8 {
        let mixed = crate::balance::mix(key ^ crate::balance::mix(self.generation));
        u8::try_from((u128::from(mixed) * 100) >> 64).unwrap_or(99)
    }
}

// === impl Phase ===

impl Phase {
    /// The word for it in status, logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::PrimaryActive => "primary_active",
            Self::FailingOver(_) => "failing_over",
            Self::SecondaryActive => "secondary_active",
            Self::FailingBack(_) => "failing_back",
            Self::Failed(_) => "failover_failed",
        }
    }
}

// === impl Stage ===

impl Stage {
    /// The word for it in status, logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::Check => "check",
            Self::Ramp { .. } => "ramp",
            Self::Switch => "switch",
            Self::Notify { .. } => "notify",
        }
    }

    /// Whether the move can still be taken back: the old instance is active.
    #[must_use]
    pub fn is_before_switch(self) -> bool {
        match self {
            Self::Pause | Self::Drain | Self::Check | Self::Ramp { .. } => true,
            Self::Switch | Self::Notify { .. } => false,
        }
    }
}

// === impl Manner ===

impl Manner {
    /// The word for it in status, logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Gradual => "gradual",
            Self::Manual => "manual",
            Self::Forced => "forced",
        }
    }
}

// === impl Gate ===

impl Gate {
    /// Whether an order is obeyed: it is of the last step seen or a later one, and of no older term.
    /// Orders of the same step may come from a newer coordinator.
    #[must_use]
    pub fn admits(&mut self, fence: Fence) -> bool {
        let step = |it: Fence| (it.generation, it.step);
        let admits = fence.term >= self.seen.term && step(fence) >= step(self.seen);
        if admits {
            self.seen = fence;
        }
        admits
    }
}
