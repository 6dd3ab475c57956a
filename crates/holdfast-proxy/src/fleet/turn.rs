//! What each instance takes a minute (`balance.rate`), for this node's part of it, and a call's turn.
//!
//! An allowance is taken when the call goes, after breakers have let it, so that none is spent on a call
//! that was refused. A call that finds it used up waits for its turn where that comes soon; who comes
//! later is behind it.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use holdfast_config::BulkheadClass;

use super::admission::left;
use super::refusal::Shut;
use super::server::{Ask, ServerFleet};

/// The longest that a call waits for its turn, and no longer than calls of its class wait for their
/// place.
const TURN: Duration = Duration::from_secs(5);

// === impl ServerFleet ===

impl ServerFleet {
    /// What is left of an instance's allowance, 0 to 1.
    pub(super) fn allowance(&self, instance: usize, now: Instant) -> f32 {
        let Some(allowance) = self.allowances.get(instance) else { return 1.0 };
        allowance.lock().unwrap_or_else(PoisonError::into_inner).left(now)
    }

    /// The call goes to the instance, if its allowance has one left for it.
    #[inline]
    pub(super) fn take_allowance(
        &self,
        instance: usize,
        ask: &Ask<'_>,
        now: Instant,
    ) -> Result<(), Shut> {
        match self.allowances.get(instance) {
            Some(allowance) if ask.turn != Some(instance) => {
                let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
                allowance.take(now).map_err(Shut::Allowance)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// After how long an instance's allowance has one more.
    pub(super) fn turn_in(&self, instance: usize, now: Instant) -> Duration {
        let Some(allowance) = self.allowances.get(instance) else { return Duration::ZERO };
        let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner).clone();
        allowance.take(now).err().unwrap_or_default()
    }

    /// Waits for a call's turn at an instance whose allowance is used up. The attempt that names it as
    /// its turn has it.
    ///
    /// # Errors
    /// Its turn does not come soon: after how long it would.
    ///
    /// # Cancel safety
    /// A turn that was waited for in vain is nobody's.
    pub(crate) async fn turn(&self, instance: usize, class: BulkheadClass) -> Result<(), Duration> {
        self.turn_within(instance, self.gate.patience_of(class)).await
    }

    /// The same, within the time that a call has left.
    ///
    /// # Errors
    /// As above.
    ///
    /// # Cancel safety
    /// As above.
    pub(crate) async fn turn_by(
        &self,
        instance: usize,
        class: BulkheadClass,
        deadline: Instant,
    ) -> Result<(), Duration> {
        self.turn_within(instance, self.gate.patience_of(class).min(left(deadline))).await
    }

    async fn turn_within(&self, instance: usize, patience: Duration) -> Result<(), Duration> {
        let wait = self.reserve(instance, patience, Instant::now())?;
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn reserve(
        &self,
        instance: usize,
        patience: Duration,
        now: Instant,
    ) -> Result<Duration, Duration> {
        let Some(allowance) = self.allowances.get(instance) else { return Ok(Duration::ZERO) };
        let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.take_ahead(patience.min(TURN), now)
    }

    /// This node's part of what each instance may take: it is the one at this place of so many.
    pub(super) fn share_rate(&self, place: usize, nodes: usize) {
        let Some(rate) = self.rate else { return };
        for allowance in &self.allowances {
            let mut allowance = allowance.lock().unwrap_or_else(PoisonError::into_inner);
            allowance.change(rate.part(place, nodes), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_engine::balance::Set;
    use holdfast_engine::breaker::{Override, Phase};

    use super::*;
    use crate::fleet::testing::fleet;
    use crate::fleet::{Fleet, Outcome, Refused, Why, Word};

    /// Four calls each, and a minute for one more.
    fn rated(instances: u32, more: &str) -> Arc<Fleet> {
        let one = |at| format!(r#"{{ id: i{at}, url: "http://127.0.0.1:{at}/mcp" }}"#);
        let instances: Vec<String> = (1..=instances).map(one).collect();
        fleet(&format!(
            "servers: {{ main: {{ balance: {{ strategy: rate_aware, rate: {{ per_minute: 1, burst: 4 }} }}, \
             instances: [ {} ] }} }}\n{more}",
            instances.join(", ")
        ))
    }

    fn ask(named: Option<usize>) -> Ask<'static> {
        Ask::opening(named, Set::default())
    }

    /// How many of so many calls of a session that is bound to an instance go, and the last refusal.
    fn bound(server: &Arc<ServerFleet>, instance: usize, calls: usize) -> (usize, Option<Refused>) {
        let mut went = 0;
        let mut refused = None;
        for _ in 0..calls {
            match server.enter(instance, &ask(Some(instance))) {
                Ok(attempt) => {
                    attempt.settle(Outcome::Answered);
                    went += 1;
                }
                Err(why) => refused = Some(why),
            }
        }
        (went, refused)
    }

    #[test]
    fn an_allowance_holds_for_a_session_that_is_bound_and_where_there_is_no_other() {
        for instances in [1, 2] {
            let fleet = rated(instances, "");
            let server = fleet.server("main").unwrap();
            let (went, refused) = bound(server, 0, 100);
            let refused = refused.unwrap();
            assert_eq!((went, refused.why, refused.turn_at), (4, Why::Rate, Some(0)));
            assert!(refused.retry_after > Duration::from_secs(30), "{:?}", refused.retry_after);
            // It is not to blame for that.
            let seen = &server.snapshot().instances[0];
            assert_eq!((seen.breaker.phase, seen.in_flight), (Phase::Closed, 0));
            assert_eq!(seen.indicators.error_rate.unwrap_or(0.0), 0.0);
        }
    }

    #[test]
    fn a_call_that_prefers_one_goes_to_another_and_is_refused_when_both_have_none_left() {
        let fleet = rated(2, "");
        let server = fleet.server("main").unwrap();
        let went: Vec<_> =
            (0..8).map(|_| server.choose(&ask(Some(0))).unwrap().instance()).collect();
        assert_eq!(went, [0, 0, 0, 0, 1, 1, 1, 1]);
        let refused = server.choose(&ask(Some(0))).unwrap_err();
        assert_eq!(refused.why, Why::Rate);
        let reasons = ["i1", "i2"].map(|it| (it.into(), "allowance used up"));
        assert_eq!(refused.reasons, reasons);
    }

    #[test]
    fn a_call_that_a_breaker_refuses_spends_nothing() {
        let fleet = rated(1, "");
        let server = fleet.server("main").unwrap();
        fleet.say(0, None, Word::Forced { what: Override::Open, generation: 1 });
        assert_eq!(bound(server, 0, 100).0, 0);
        fleet.say(0, None, Word::Forced { what: Override::Closed, generation: 2 });
        assert_eq!(bound(server, 0, 100).0, 4);
    }

    #[test]
    fn a_turn_that_comes_soon_is_the_calls_own_and_a_later_one_is_not_waited_for() {
        for (queue_timeout, waits) in [("30s", true), ("1s", false)] {
            let fleet =
                rated(1, &format!("bulkheads: {{ user: {{ queue_timeout: {queue_timeout} }} }}"));
            let server = fleet.server("main").unwrap();
            assert_eq!(bound(server, 0, 4).0, 4);
            let late = Instant::now() + Duration::from_secs(57);
            let patience = server.gate.patience_of(BulkheadClass::User);
            let turn = server.reserve(0, patience, late);
            assert_eq!(turn.is_ok(), waits, "{turn:?}");
            if waits {
                assert_eq!(bound(server, 0, 1).0, 0, "it is not there yet");
                let ask = Ask { turn: Some(0), ..ask(Some(0)) };
                assert!(server.enter(0, &ask).is_ok());
                // The next one comes a minute after it.
                let wait = server.reserve(0, patience, late).unwrap_err();
                assert!(wait > Duration::from_secs(60), "{wait:?}");
            }
        }
    }
}
