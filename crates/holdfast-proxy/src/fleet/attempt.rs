//! One sending of a call: from its admission at an instance to its outcome.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use holdfast_engine::breaker::Permit;
use holdfast_engine::class::CallClass;

use super::outcome::Outcome;
use super::server::ServerFleet;
use crate::clock::recent;

/// An admitted attempt. Dropped without a word it was abandoned: its client left, or nothing was sent.
/// One that has been silent for too long by then is a failure all the same: a client's own patience ends
/// before the server's time does, and who waited for a hanging server has seen it hang.
#[derive(Debug)]
pub(crate) struct Attempt {
    server: Arc<ServerFleet>,
    instance: usize,
    /// What its instance's breaker gave, where the server has breakers.
    permit: Option<Permit>,
    /// The same of its tool's breaker, where it has one.
    tool: Option<(usize, Permit)>,
    begun: Instant,
    /// It has begun to answer, and that has been told.
    heard: bool,
    /// It is one of the few that try a half-open instance.
    tries: bool,
    /// It lasts for as long as its client likes.
    lasts: bool,
    /// What its end says of its instance has been told.
    told: bool,
    settled: bool,
}

// === impl Attempt ===

impl Attempt {
    pub(super) fn new(
        server: Arc<ServerFleet>,
        instance: usize,
        permit: Option<Permit>,
        tool: Option<(usize, Permit)>,
        begun: Instant,
    ) -> Self {
        let tries = server.instances[instance].begins(begun);
        let [heard, lasts, told, settled] = [false; 4];
        Self { server, instance, permit, tool, begun, heard, tries, lasts, told, settled }
    }

    /// Where it goes.
    pub(crate) fn instance(&self) -> usize {
        self.instance
    }

    /// When its instance was chosen: nothing was looked at before that.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// It has said something, and there is more to come: from the first time on it is not overdue any more,
    /// however long it takes, and tries nothing any more. How it ends is told then. What lasts for as long as its
    /// client likes is a success as soon as it begins; should it break, that is told by itself.
    pub(crate) fn heard(&mut self) {
        if std::mem::replace(&mut self.heard, true) {
            return;
        }
        let now = recent();
        if std::mem::take(&mut self.tries) {
            self.server.instances[self.instance].has_tried();
        }
        if self.told {
            return;
        }
        if self.lasts {
            self.tell(Outcome::Answered, now);
        } else {
            let (permit, tool) = (self.permit.as_mut(), self.tool.as_mut());
            self.server.begun(self.instance, permit, tool, self.begun, now);
        }
    }

    /// Of a Read that has heard nothing yet: what resolves when its instance is given up, so that it had better go
    /// to another one.
    pub(crate) fn may_leave(
        &self,
        class: CallClass,
    ) -> Option<Pin<Box<impl Future<Output = ()> + use<>>>> {
        let others = self.server.instances.len() > 1;
        (class == CallClass::Read && others && !self.heard).then(|| {
            let (server, instance, since) = (Arc::clone(&self.server), self.instance, self.begun);
            Box::pin(async move { server.gone(instance, since).await })
        })
    }

    /// It goes on for as long as its client likes: no failover waits for its end.
    pub(crate) fn lasts(&mut self) {
        if !std::mem::replace(&mut self.lasts, true) {
            self.server.instances[self.instance].lasts();
            // For a moment it was counted twice, and a call may have been turned away for that.
            self.server.is_free(self.instance);
        }
    }

    /// Its client has no use for its answer any more, and may never get one: a server that was asked to stop
    /// owes none. What it says of its instance is told now, as if the client had left; its place is its own until
    /// it ends.
    pub(crate) fn unwanted(&mut self) {
        let now = Instant::now();
        self.judge(self.of_one_that_left(now), now);
    }

    /// It has ended.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.end(outcome, recent());
    }

    /// What it says of its instance when its client leaves it now. Who leaves a stream that has begun may have had
    /// enough of it: its silence is its server's time to judge.
    fn of_one_that_left(&self, now: Instant) -> Outcome {
        let silent =
            !self.heard && now.saturating_duration_since(self.begun) >= self.server.silence();
        if silent { Outcome::TimedOut } else { Outcome::Void }
    }

    fn end(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.server.instances[self.instance].ends(self.tries, self.lasts);
        self.server.is_free(self.instance);
        self.judge(outcome, now);
    }

    fn judge(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        match self.heard {
            false => self.tell(outcome, now),
            true if !self.lasts => {
                let (permit, tool) = (self.permit.take(), self.tool.take());
                self.server.stream_ended(self.instance, permit, tool, outcome, now);
            }
            true if outcome.is_failure() => self.server.broke(self.instance, outcome, now),
            true => {}
        }
    }

    fn tell(&mut self, outcome: Outcome, now: Instant) {
        let (permit, tool) = (self.permit.take(), self.tool.take());
        self.server.ended(self.instance, permit, tool, outcome, self.begun, now);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let now = Instant::now();
        self.end(self.of_one_that_left(now), now);
    }
}
