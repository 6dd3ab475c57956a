//! What follows when the server's stream ends before the answer: it is taken up where it ended, the call is sent
//! again, or it fails (the table in [`relay`](super)).

use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::backoff::Backoff;
use holdfast_engine::repeat::{Progress, Repeat, decide};

use super::{Relay, Sink};
use crate::exchange::attempt::Route;
use crate::exchange::take_up::{TakenUp, take_up};
use crate::exchange::{Answer, answer, tries};
use crate::failure::Failure;
use crate::random;
use crate::session::FOLLOWS_WITHIN;
use crate::upstream::events::{End, EventSource};

/// How often a server is asked to take its stream up again.
const RESUME_TRIES: u32 = 5;

impl Relay<'_> {
    /// Takes the server's own stream up where it ended.
    pub(super) async fn resume(
        &mut self,
        route: &Route,
        last: &str,
        retry: Option<Duration>,
        end: &End,
        backoff: &mut Backoff,
    ) -> Option<EventSource> {
        if let End::Clean = end {
            match self.sink {
                // The client sees the end too, and comes back when the server said.
                Sink::Log(log) if log.resumable() => {
                    self.open = None;
                    log.pause().await;
                    self.open = Some(self.call.gateway.open.token());
                }
                _ => tokio::time::sleep(retry.unwrap_or(Duration::from_secs(1))).await,
            }
        }
        for _ in 0..RESUME_TRIES {
            match take_up(self.call, route.bound.as_deref(), route.instance, last).await {
                TakenUp::Stream(source) => return Some(source),
                TakenUp::Refused => return None,
                TakenUp::Unreachable => tokio::time::sleep(backoff.next(random::u64())).await,
            }
        }
        None
    }

    /// The stream is gone for good: the call is repeated where that is safe, else it fails.
    pub(super) async fn again(&mut self, route: &mut Route, reason: String) -> Option<Answer> {
        let call = self.call;
        if self.listens() {
            return Some(self.listens_again().await);
        }
        let waits = !matches!(self.sink, Sink::Nobody) && call.is_latest();
        // It was sent once at least: by the node that is gone, if another goes on with its stream.
        let mut sent = call.out.times().max(1);
        self.take_back(route).await;
        // It may be lent again to this very call: nobody is to wait for one while it holds another.
        route.lent = None;
        if Box::pin(tries::goes_elsewhere(call, route, sent)).await {
            sent -= 1;
            call.out.set_times(sent);
        }
        let decided = decide(call.class, Progress::Sent, sent, waits);
        let reason = match decided {
            Repeat::Again | Repeat::ReestablishThenAgain if call.ids.count() == 1 => {
                if call.wanted.is_cancelled() {
                    return Some(answer::cancelled(call));
                }
                match tries::room(call, sent).await {
                    Ok(()) => {
                        call.server.metrics.attempts_repeated.inc();
                        tracing::debug!(server = %call.server.name, %reason, "stream broke, call sent again");
                        self.floor = self.progress;
                        return Some(self.first_answer().await);
                    }
                    Err(why) => format!("{reason} ({})", tries::not_repeated(why)),
                }
            }
            _ => reason,
        };
        self.fail(Failure::unknown(&call.server.name, reason)).await;
        None
    }

    /// Resolves when a failover has taken the call from its instance.
    pub(super) async fn moves_on(&self, route: &Route) {
        let key = self.call.steering_key();
        self.call.server.fleet.drops(route.instance, key).await;
    }

    /// Listens where the server is now, behind the client's open stream; not all do so at once.
    pub(super) async fn goes_along(&mut self) -> Answer {
        let part = (random::u64() % 1_000) as u32;
        tokio::time::sleep(FOLLOWS_WITHIN * part / 1_000).await;
        match self.first_answer().await {
            Answer::Failed(_) => self.listens_again().await,
            again => again,
        }
    }

    /// A listen is made again for as long as its client is there, with growing pauses.
    async fn listens_again(&mut self) -> Answer {
        loop {
            tokio::time::sleep(self.backoff.next(random::u64())).await;
            match self.first_answer().await {
                Answer::Failed(_) => {}
                again => return again,
            }
        }
    }

    /// The first answer of one more attempt, within the server's time.
    pub(super) async fn first_answer(&self) -> Answer {
        let limit = self.call.server.settings.timeout;
        let again = Box::pin(answer::first_answer(Arc::clone(self.call)));
        match tokio::time::timeout(limit, again).await {
            Ok(answer) => answer,
            Err(_) => {
                let failure = self.call.timed_out(limit);
                self.call.fail(&failure);
                Answer::Failed(failure)
            }
        }
    }

    /// What the lost attempt had asked of the client, and has no answer yet, is void.
    pub(super) async fn take_back(&mut self, route: &Route) {
        let Some(session) = &route.session else { return };
        for id in std::mem::take(&mut self.asked) {
            if !session.answered(&id) {
                continue;
            }
            let message = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"the call was lost"}}}}"#
            );
            self.send(&message.into(), None).await;
        }
    }
}
