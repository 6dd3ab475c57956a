//! An answer too large to be held back, on its way to its client.
//!
//! What its server has answered is known when its last byte is here: one that cuts its answers, or stops in the
//! middle, fails its calls, and its breaker hears of it. What its client does is no word about the server: one that
//! leaves, or takes its time, says nothing, and a server that has then had enough of waiting is not blamed for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::Call;
use super::attempt::LARGEST_MESSAGE;
use crate::asked::Alarm;
use crate::body::Broken;
use crate::failure::Failure;
use crate::fleet::{Attempt, Outcome};
use crate::metrics::CallOutcome;
use crate::upstream::http::ResponseBody;

/// A body that is passed on as it comes. Dropped before its end, its client has left.
pub(crate) struct Transfer {
    call: Arc<Call>,
    /// The attempt that brings it, until it has ended.
    attempt: Option<Attempt>,
    head: Bytes,
    rest: Option<ResponseBody>,
    /// When the server has been silent for too long. Set while it is waited for, and not while the client is.
    alarm: Option<Alarm>,
    /// When all of it has to be here.
    until: Instant,
    /// When the client got the last part.
    given: Option<Instant>,
    /// The server has had to wait for the client.
    held_up: bool,
}

/// A client that takes so long for one part keeps its server waiting.
const SLOW: Duration = Duration::from_secs(2);

impl Transfer {
    /// Of a call whose answer has begun: from here on its place is the next one's.
    pub(super) fn new(
        call: &Arc<Call>,
        mut attempt: Attempt,
        head: Bytes,
        rest: ResponseBody,
    ) -> Self {
        attempt.heard();
        if let Some(admitted) = call.admitted.get() {
            admitted.answered(true);
            admitted.leave();
        }
        Self {
            call: Arc::clone(call),
            attempt: Some(attempt),
            head,
            rest: Some(rest),
            alarm: None,
            until: Instant::now() + call.server.settings.max_duration,
            given: None,
            held_up: false,
        }
    }

    /// How long it is, where the server has said so, in bytes.
    pub(crate) fn declared(&self) -> Option<u64> {
        let rest = self.rest.as_ref()?.declared()?;
        Some(rest + self.head.len() as u64)
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// [`Broken`] if the server cuts it, or is silent for too long; that is counted here.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Broken>>> {
        if !self.head.is_empty() {
            self.given = Some(Instant::now());
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.head))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        self.held_up |= self.given.take().is_some_and(|given| given.elapsed() >= SLOW);
        let broken = match rest.poll_next(cx) {
            Poll::Ready(Some(Ok(data))) => {
                let now = Instant::now();
                if rest.declared() == Some(0) {
                    // A writer that counts bytes does not ask for the end.
                    self.ends();
                } else if now >= self.until {
                    // It would have been here long ago, but for the client.
                    self.held_up = true;
                    self.fails(&self.failure(&Broken::Silent), Outcome::Void);
                    return Poll::Ready(Some(Err(Broken::Silent)));
                }
                self.alarm = None;
                self.given = Some(now);
                return Poll::Ready(Some(Ok(data)));
            }
            Poll::Ready(None) => {
                self.ends();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => Broken::Server(error),
            Poll::Pending => {
                let (limit, until) = (self.call.server.settings.timeout, self.until);
                let set = || Alarm::at(until.min(Instant::now() + limit));
                ready!(self.alarm.get_or_insert_with(set).poll(cx));
                Broken::Silent
            }
        };
        self.fails(&self.failure(&broken), broken.outcome());
        Poll::Ready(Some(Err(broken)))
    }

    /// All of it: it has to become one event.
    ///
    /// # Errors
    /// [`Failure`], which is counted.
    pub(super) async fn all(mut self) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        while let Some(data) = poll_fn(|cx| self.poll_next(cx)).await {
            body.extend_from_slice(&data.map_err(|broken| self.failure(&broken))?);
            if body.len() > LARGEST_MESSAGE {
                let reason = "its answer is over 64 MiB".to_owned();
                let failure = Failure::unknown(&self.call.server.name, reason);
                self.fails(&failure, Outcome::Void);
                return Err(failure);
            }
        }
        Ok(body.freeze())
    }

    /// What the call ends with where its client can still be told.
    fn failure(&self, broken: &Broken) -> Failure {
        let server = &self.call.server;
        match broken {
            Broken::Silent => Failure::timed_out(&server.name, server.settings.timeout),
            Broken::Server(_) | Broken::Node(_) => {
                Failure::unknown(&server.name, broken.to_string())
            }
        }
    }

    fn fails(&mut self, failure: &Failure, outcome: Outcome) {
        self.rest = None;
        let outcome = if self.held_up { Outcome::Void } else { self.call.judged(outcome) };
        self.settle(outcome);
        self.call.fail(failure);
    }

    /// All of it is here.
    fn ends(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.lease().done();
        }
        self.settle(Outcome::Answered);
        self.call.settle(CallOutcome::Ok);
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(attempt) = self.attempt.take() {
            attempt.settle(outcome);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.attempt.is_some() {
            self.call.settle(CallOutcome::Cancelled);
        }
    }
}
