//! One sending of a call: from its admission at an instance to its outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_engine::breaker::Permit;

use super::outcome::Outcome;
use super::server::ServerFleet;

/// An admitted attempt. Dropped without a word it was abandoned: its client left, or nothing was sent.
/// One that has been silent for the server's whole time is a failure all the same.
#[derive(Debug)]
pub(crate) struct Attempt {
    server: Arc<ServerFleet>,
    instance: usize,
    /// What its instance's breaker gave, where the server has breakers.
    permit: Option<Permit>,
    /// The same of its tool's breaker, where it has one.
    tool: Option<(usize, Permit)>,
    begun: Instant,
    /// How long its first sign of an answer took.
    heard: Option<Duration>,
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
        server.instances[instance].in_flight.fetch_add(1, Ordering::Relaxed);
        Self { server, instance, permit, tool, begun, heard: None, settled: false }
    }

    /// Where it goes.
    pub(crate) fn instance(&self) -> usize {
        self.instance
    }

    /// It has begun to answer: a stream counts as fast as its beginning.
    pub(crate) fn heard(&mut self) {
        self.heard = Some(self.begun.elapsed());
    }

    /// It has ended.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.end(outcome, Instant::now());
    }

    fn end(&mut self, outcome: Outcome, now: Instant) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.server.instances[self.instance].in_flight.fetch_sub(1, Ordering::Relaxed);
        // The time of a stream is that of its first event.
        let ended = self.heard.map_or(now, |heard| self.begun + heard);
        self.server.ended(
            self.instance,
            self.permit.take(),
            self.tool.take(),
            outcome,
            self.begun,
            ended,
            now,
        );
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let now = Instant::now();
        let silent = self.heard.is_none()
            && now.saturating_duration_since(self.begun) >= self.server.silence();
        self.end(if silent { Outcome::TimedOut } else { Outcome::Void }, now);
    }
}
