//! How often a call was tried, where, and how long it may wait for an instance that is away.

use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::balance::Set;
use holdfast_engine::class::CallClass;
use holdfast_engine::repeat::Progress;
use holdfast_engine::retry_budget::NoRetry;
use tokio::time::Instant;

use super::Call;
use super::answer::NoRoute;
use super::attempt::{Patience, Route};
use super::lent::Borrowed;
use crate::failure::{Failure, FailureKind};
use crate::fleet::{Ask, InLine, Refused, Why, left};
use crate::hold::Hold;

/// What one call has been through.
pub(super) struct Tries {
    /// How often it was sent, or may have been, since it is looked for an answer.
    pub(super) sent: u32,
    /// How often it was before that: with each answer that broke off it is looked for another one.
    before: u32,
    /// Whether its session was opened again for it.
    pub(super) reestablished: bool,
    /// The instances that refused a connection in this round.
    refused: Set,
    /// Those that failed it.
    failed: Set,
    /// The instance at which its turn has come.
    turn: Option<usize>,
    /// Set once it has waited for a connection since it was last sent.
    line: Option<InLine>,
    /// The session that it was lent, while it waits: who is next for a connection does not stand behind
    /// those that wait to be lent one.
    pub(super) lent: Option<Arc<Borrowed>>,
    /// When the call's time is over.
    deadline: std::time::Instant,
    /// Set from the first refusal on.
    patience: Option<Patience>,
    rounds: u32,
    /// How often its session went to where its server had moved.
    followed: u32,
    /// It may be sent once more: it was taken back from a silent instance for that.
    may_repeat: bool,
}

/// So often a call's session goes to where its server is now. A call that began with an earlier configuration may
/// never find it where that has it.
const FOLLOWS: u32 = 4;

/// How often a call that hangs looks whether it can go elsewhere.
const LOOKS_AGAIN: Duration = Duration::from_millis(500);

// === impl Tries ===

impl Tries {
    /// Those of a call whose time is over then, and which was sent so often `before`.
    pub(super) fn new(deadline: std::time::Instant, before: u32) -> Self {
        Self {
            sent: 0,
            before,
            reestablished: false,
            refused: Set::default(),
            failed: Set::default(),
            turn: None,
            line: None,
            lent: None,
            deadline,
            patience: None,
            rounds: 0,
            followed: 0,
            may_repeat: false,
        }
    }

    /// What the next attempt asks of the fleet. `named`: the instance that it belongs to.
    pub(super) fn ask<'a>(&self, call: &'a Call, named: Option<usize>) -> Ask<'a> {
        Ask {
            class: call.class,
            named: self.turn.or(named),
            key: call.steering_key(),
            bound: false,
            avoid: both(self.refused, self.failed),
            body: &call.body,
            tool: call.shelf.tool,
            turn: self.turn,
            opens: false,
            kept: self.line.as_ref().is_some_and(InLine::is_next),
        }
    }

    /// The call goes: its turn is taken, and its place among those that wait is the next one's. Should it be
    /// sent again, it waits for a connection as long as any call does: what it took until then was no wait.
    pub(super) fn goes(&mut self) {
        self.sent += 1;
        (self.turn, self.line) = (None, None);
        self.may_repeat = false;
    }

    /// How often it was sent in all.
    pub(super) fn in_all(&self) -> u32 {
        self.before + self.sent
    }

    /// How often it was sent, for what may follow an attempt that got so far. What the server does not know the
    /// session of has not run, and neither has what was not sent: answers that broke off before do not count.
    pub(super) fn for_what_got(&self, progress: Progress) -> u32 {
        match progress {
            Progress::Sent => self.in_all(),
            Progress::NotSent | Progress::DidNotRun => self.sent,
        }
    }

    /// Whether the instances' refusals are news: later rounds only ask again.
    pub(super) fn first_round(&self) -> bool {
        self.rounds == 0
    }

    /// Whether the call's session may go to where its server has moved: it does.
    pub(super) fn follows(&mut self) -> bool {
        self.followed += 1;
        self.followed <= FOLLOWS
    }

    /// The instance failed the call, which is sent once more.
    pub(super) fn failed_at(&mut self, instance: usize) {
        self.failed.insert(instance);
    }

    /// The route's instance refused the connection: whether the call is tried again, at another
    /// instance at once or at one of them after a pause.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn waits(&mut self, call: &Call, route: &Route) -> bool {
        self.refused.insert(route.instance);
        // A session's state lives at its instance; everything else may go anywhere.
        let bound = route.bound.is_some();
        if !bound
            && call.server.fleet.has_more(both(self.refused, self.failed), call.steering_key())
        {
            return true;
        }
        // While no other one takes its session, there may be one in a moment: a failover is decided
        // within a second or two.
        let short = bound && call.server.fleet.other_than(route.instance, call.steering_key());
        self.pause(short).await
    }

    async fn pause(&mut self, short: bool) -> bool {
        self.refused = Set::default();
        self.rounds += 1;
        let deadline = self.deadline;
        let patience = self.patience.get_or_insert_with(|| Patience::new(short).by(deadline));
        Box::pin(patience.wait()).await
    }

    /// The fleet lets the call to no instance: what becomes of it.
    pub(super) async fn refused(&mut self, call: &Call, mut refused: Refused) -> NoRoute {
        if refused.why == Why::Connections {
            refused = match Box::pin(self.queue(call, refused)).await {
                Ok(()) => return NoRoute::Later,
                Err(refused) => refused,
            };
        }
        // What is kept for it elsewhere is of no use now.
        self.line.iter_mut().for_each(InLine::steps_out);
        let (fleet, deadline) = (&call.server.fleet, self.deadline);
        if refused.why == Why::Paused && fleet.pause_over_by(deadline).await.is_ok() {
            return NoRoute::Later;
        }
        // What could not be reached may only be restarting: its clients see a pause.
        if refused.may_be_over_soon && self.pause(false).await {
            return NoRoute::Later;
        }
        // Once: a turn that was of no use is not waited for again.
        if let Some(at) = refused.turn_at.filter(|_| self.turn.is_none()) {
            match Box::pin(fleet.turn_by(at, call.shelf.class, deadline)).await {
                Ok(()) => {
                    self.turn = Some(at);
                    return NoRoute::Later;
                }
                Err(wait) => refused.retry_after = wait,
            }
        }
        fleet.counts.refused(refused.why);
        NoRoute::Failed(Failure::refused(&call.server.name, refused))
    }

    /// Waits for a connection, and not for longer than its client waits for the answer.
    async fn queue(&mut self, call: &Call, busy: Refused) -> Result<(), Refused> {
        let fleet = &call.server.fleet;
        let deadline = self.deadline;
        let line = self.line.get_or_insert_with(|| {
            InLine::until(Instant::now() + fleet.patience().min(left(deadline)))
        });
        line.wait(fleet, false, busy).await
    }

    /// Whether a call that one instance has put off goes to another one instead.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn asks_another(
        &mut self,
        call: &Call,
        instance: usize,
        failure: &Failure,
    ) -> bool {
        let put_off = failure.kind == FailureKind::Overloaded && call.class == CallClass::Read;
        self.failed.insert(instance);
        put_off
            && call.session.is_none()
            && call.server.fleet.has_more(self.failed, call.steering_key())
            && self.repeat(call).await.is_ok()
    }

    /// Counts a sending less where the call [`goes_elsewhere`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn looks_elsewhere(&mut self, call: &Call, route: &Route) {
        if goes_elsewhere(call, route, self.in_all()).await {
            self.sent -= 1;
        }
    }

    /// Resolves when the call has had no answer from its instance, where it was sent at `since`, for too long,
    /// and is to go to another one: there is one, and the budget has room for the repeat. Few calls that hang
    /// do not open a breaker, and their clients wait no longer than those of many. Until then it stays where it
    /// is, and so does what belongs there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn leaves(&mut self, call: &Call, route: &Route, since: std::time::Instant) {
        let fleet = &call.server.fleet;
        let mut due = Instant::from_std(since) + fleet.silence();
        loop {
            Hold::only_until(due).await;
            due = Instant::now() + LOOKS_AGAIN;
            let mut beside = self.failed;
            beside.insert(route.instance);
            let stays = route.bound.is_some() || !fleet.has_more(beside, call.steering_key());
            if !stays && call.may_repeat(self.in_all()).is_ok() {
                self.may_repeat = true;
                return;
            }
        }
    }

    /// Waits until the server's budget of repeats has room for this one.
    ///
    /// # Errors
    /// It has none within the patience, or the call was sent often enough.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn repeat(&mut self, call: &Call) -> Result<(), NoRetry> {
        if self.may_repeat {
            return Ok(());
        }
        room(call, self.in_all()).await
    }
}

/// Whether a Read that was sent so often, as often as it may be, to an instance that is being left is sent once more,
/// since its server has moved: what its attempts are counted for is the instance that dies, and not the one that is
/// well. Beside other calls it is one more repetition, for which the server's budget needs room. Once in a call's life.
///
/// # Cancel safety
/// Cancel safe.
pub(super) async fn goes_elsewhere(call: &Call, route: &Route, sent: u32) -> bool {
    call.class == CallClass::Read
        && sent > 1
        && call.is_spent(sent)
        && !call.out.went_elsewhere()
        && call.server.fleet.is_left(route.instance, call.steering_key()).await
        && call.out.goes_elsewhere()
}

/// Waits until the server's budget of repeats has room for one more of a call that was sent so often, the last
/// time to no avail.
///
/// # Errors
/// It has none within the patience, or the call was sent often enough.
///
/// # Cancel safety
/// Cancel safe.
pub(super) async fn room(call: &Call, sent: u32) -> Result<(), NoRetry> {
    call.repeat_is_over();
    match call.may_repeat(sent) {
        Err(NoRetry::Budget) => {}
        done => return done,
    }
    // Many calls that lost one instance at once are no storm: they take turns at the others. Those
    // that have hung for long are not given up for some seconds more.
    let mut turns = Box::new(Patience::after(call.started.elapsed()));
    loop {
        if !Box::pin(turns.wait()).await {
            call.server.fleet.counts.repeats_denied.inc();
            return Err(NoRetry::Budget);
        }
        match call.may_repeat(sent) {
            Err(NoRetry::Budget) => {}
            done => return done,
        }
    }
}

/// Why a call is not sent again, for whoever made it.
pub(super) fn not_repeated(why: NoRetry) -> &'static str {
    match why {
        NoRetry::Attempts => "the call was sent as often as it may be",
        NoRetry::Budget => "enough other calls are being repeated",
    }
}

/// The instances of both.
pub(super) fn both(one: Set, other: Set) -> Set {
    let mut all = one;
    other.iter().for_each(|at| all.insert(at));
    all
}

#[cfg(test)]
mod tests;
