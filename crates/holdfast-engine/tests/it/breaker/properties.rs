//! What holds whatever happens, in whatever order.

use std::time::Duration;

use holdfast_engine::breaker::{Cause, Outcome, Override, Params, Permit, Phase, Transition, Why};
use proptest::prelude::*;

use super::rig::Rig;

#[derive(Clone, Debug)]
enum Step {
    Admit(u8),
    Settle(usize, Outcome),
    Abandon(usize),
    Observe(Outcome),
    Wait(Duration),
    ClusterOpens(u64, Duration),
    ClusterReleases(u64),
    Force(u64, Override),
    Reconfigure(bool),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Success),
        4 => Just(Outcome::Failure),
        2 => Just(Outcome::NotReached),
        1 => Just(Outcome::SessionLost),
        1 => (0u64..3000).prop_map(|ms| Outcome::BackPressure {
            retry_after: Duration::from_millis(ms)
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let ms = |most: u64| (0..most).prop_map(Duration::from_millis);
    let word = prop_oneof![
        1 => Just(Override::Open),
        1 => Just(Override::Closed),
        2 => Just(Override::Automatic)
    ];
    prop_oneof![
        12 => (1u8..30).prop_map(Step::Admit),
        12 => (any::<usize>(), outcome()).prop_map(|(at, outcome)| Step::Settle(at, outcome)),
        2 => any::<usize>().prop_map(Step::Abandon),
        4 => outcome().prop_map(Step::Observe),
        6 => ms(500).prop_map(Step::Wait),
        2 => ms(40_000).prop_map(Step::Wait),
        1 => (0u64..8, ms(20_000)).prop_map(|(at, time)| Step::ClusterOpens(at, time)),
        1 => (0u64..8).prop_map(Step::ClusterReleases),
        1 => (0u64..8, word).prop_map(|(at, word)| Step::Force(at, word)),
        1 => any::<bool>().prop_map(Step::Reconfigure),
    ]
}

fn params() -> impl Strategy<Value = Params> {
    (1u32..6, 0.0f64..0.5, 1u32..40, 500u64..5_000, 1u32..4, 0.0f64..0.5, 0u64..30_000).prop_map(
        |(
            consecutive_failures,
            failure_rate,
            minimum_calls,
            slow,
            successes_to_close,
            share,
            ramp,
        )| {
            Params {
                enabled: true,
                consecutive_failures,
                failure_rate,
                minimum_calls,
                window: Duration::from_secs(20),
                slow: Duration::from_millis(slow),
                open_for: Duration::from_secs(1),
                open_at_most: Duration::from_secs(8),
                half_open_share: share,
                probe_interval: Duration::from_millis(700),
                successes_to_close,
                recover_for: Duration::from_millis(ramp),
                back_pressure_at_most: Duration::from_secs(2),
            }
        },
    )
}

/// The edges of the diagram in the module's head, and who may take them.
fn legal(it: &Transition) -> bool {
    use Phase::{Closed, ForcedClosed, ForcedOpen, HalfOpen, Open, Recovering};
    let operators = it.cause == Cause::Operator;
    match (it.from, it.to) {
        (Closed, Open) => matches!(
            it.cause,
            Cause::InARow(_)
                | Cause::NotReachedInARow(_)
                | Cause::Rate { .. }
                | Cause::NotReachedRate { .. }
                | Cause::Cluster
        ),
        (Open, HalfOpen) => matches!(it.cause, Cause::TimePassed | Cause::Cluster),
        (HalfOpen, Open) => {
            matches!(it.cause, Cause::ProbeFailed | Cause::ProbeNotReached | Cause::Cluster)
        }
        (HalfOpen, Recovering | Closed) => it.cause == Cause::ProbesSucceeded,
        (Recovering, Closed) => it.cause == Cause::Recovered,
        (Recovering, Open) => matches!(
            it.cause,
            Cause::InARow(_)
                | Cause::NotReachedInARow(_)
                | Cause::Degraded { .. }
                | Cause::NotReachedRate { .. }
                | Cause::Cluster
        ),
        (Recovering, Recovering) => {
            matches!(it.cause, Cause::Degraded { .. } | Cause::NotReachedRate { .. })
        }
        (ForcedOpen, HalfOpen | Closed | ForcedClosed) => operators,
        (ForcedClosed, Closed | ForcedOpen) => operators,
        (Closed | Open | HalfOpen | Recovering, ForcedOpen | ForcedClosed) => operators,
        _ => false,
    }
}

/// What is followed beside the breaker.
struct Story {
    rig: Rig,
    params: Params,
    held: Vec<Permit>,
    phase: Phase,
    admitted: u32,
}

impl Story {
    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let before = self.rig.breaker.status();
        let may_admit = matches!(step, Step::Admit(_));
        let waited = matches!(step, Step::Wait(_));
        match step {
            Step::Admit(calls) => {
                for _ in 0..calls {
                    self.admit()?;
                }
            }
            Step::Settle(at, outcome) => {
                if !self.held.is_empty() {
                    let permit = self.held.swap_remove(at % self.held.len());
                    self.rig.settle(permit, outcome);
                }
            }
            Step::Abandon(at) => {
                if !self.held.is_empty() {
                    let permit = self.held.swap_remove(at % self.held.len());
                    let (now, chance) = (self.rig.now, self.rig.rng.next());
                    self.rig.breaker.abandon(permit, now, chance);
                }
            }
            Step::Observe(outcome) => {
                self.admitted += 1;
                let (now, chance) = (self.rig.now, self.rig.rng.next());
                self.rig.breaker.observe(outcome, now, chance);
            }
            Step::Wait(time) => self.rig.wait(time),
            Step::ClusterOpens(generation, time) => {
                let now = self.rig.now;
                let news = self.rig.breaker.opened_by_cluster(now + time, generation, now, 0);
                let again = self.rig.breaker.opened_by_cluster(now + time, generation, now, 0);
                prop_assert!(!again, "the same word twice is one");
                let phase = self.rig.phase();
                let forced = matches!(phase, Phase::ForcedOpen | Phase::ForcedClosed);
                if news && !time.is_zero() && !forced {
                    let until = self.rig.breaker.status().open_until;
                    prop_assert!(until >= Some(now + time), "{phase:?} {until:?}");
                }
            }
            Step::ClusterReleases(generation) => {
                let now = self.rig.now;
                self.rig.breaker.released_by_cluster(generation, now);
            }
            Step::Force(generation, word) => {
                let now = self.rig.now;
                self.rig.breaker.force(word, generation, now);
            }
            Step::Reconfigure(other) => {
                let consecutive_failures = self.params.consecutive_failures + u32::from(other);
                let now = self.rig.now;
                let params = Params { consecutive_failures, ..self.params };
                self.rig.breaker.reconfigure(params, now);
            }
        }
        self.transitions()?;
        let after = self.rig.breaker.status();
        let recovering = before.phase == Phase::Recovering && after.phase == Phase::Recovering;
        if recovering && after.share > before.share {
            prop_assert!(waited || may_admit, "only time lets more pass");
        }
        prop_assert!(after.calls + after.not_reached <= self.admitted, "none is counted twice");
        prop_assert!(after.failed <= after.calls);
        Ok(())
    }

    fn admit(&mut self) -> Result<(), TestCaseError> {
        let result = self.rig.admit();
        self.transitions()?;
        let status = self.rig.breaker.status();
        match result {
            Ok(permit) => {
                prop_assert!(!matches!(status.phase, Phase::Open | Phase::ForcedOpen));
                let held = status.held_until.is_some_and(|until| until > self.rig.now);
                prop_assert!(!held || status.phase == Phase::ForcedClosed);
                self.held.push(permit);
                self.admitted += 1;
            }
            Err(refused) => {
                prop_assert!(!refused.retry_after.is_zero());
                let phase = match refused.why {
                    Why::Open => Phase::Open,
                    Why::HalfOpen => Phase::HalfOpen,
                    Why::Recovering => Phase::Recovering,
                    Why::ForcedOpen => Phase::ForcedOpen,
                    Why::BackPressure => {
                        prop_assert!(status.held_until > Some(self.rig.now));
                        return Ok(());
                    }
                };
                prop_assert_eq!(phase, status.phase);
                // A share is refused only while somebody has tried it lately; what it says is true.
                if matches!(refused.why, Why::Open | Why::HalfOpen | Why::Recovering) {
                    let mut later = self.rig.breaker.clone();
                    let then = self.rig.now + refused.retry_after;
                    let admitted = later.admit(then, 0);
                    let phase = later.phase();
                    let held = later.status().held_until.is_some();
                    let opened = phase == Phase::Open && refused.why != Why::Open;
                    prop_assert!(admitted.is_ok() || held || opened, "{admitted:?} {phase:?}");
                }
            }
        }
        Ok(())
    }

    fn transitions(&mut self) -> Result<(), TestCaseError> {
        for it in self.rig.transitions() {
            prop_assert!(legal(&it), "{it:?}");
            prop_assert_eq!(it.from, self.phase, "one follows the other");
            self.phase = it.to;
            prop_assert_eq!(it.open_for.is_some(), it.to == Phase::Open);
            if let Some(time) = it.open_for.filter(|_| it.cause != Cause::Cluster) {
                let longest = self.params.open_at_most;
                prop_assert!(self.params.open_for <= time && time <= longest, "{time:?}");
            }
        }
        prop_assert_eq!(self.phase, self.rig.phase());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold(
        params in params(),
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut rig = Rig::new(params);
        rig.rng.0 = seed;
        let mut story = Story { rig, params, held: Vec::new(), phase: Phase::Closed, admitted: 0 };
        for step in steps {
            story.take(step)?;
        }
        // Whatever it went through, a server that is well is closed again after a while.
        let now = story.rig.now;
        story.rig.breaker.force(Override::Automatic, 99, now);
        for permit in std::mem::take(&mut story.held) {
            story.rig.settle(permit, Outcome::SessionLost);
        }
        for _ in 0..400 {
            story.rig.wait(Duration::from_millis(250));
            if let Ok(permit) = story.rig.admit() {
                story.rig.settle(permit, Outcome::Success);
            }
        }
        prop_assert_eq!(story.rig.phase(), Phase::Closed);
    }

    /// A recovery's share rises by time alone and one step at a time, and falls only by failures.
    #[test]
    fn a_recovery_is_monotone(
        seed in any::<u64>(),
        waits in prop::collection::vec((1u64..40_000, any::<bool>()), 1..60),
    ) {
        let mut rig = Rig::recovering(Params::default());
        rig.rng.0 = seed;
        let mut since = rig.now;
        for (wait, fails) in waits {
            let share = rig.breaker.status().share;
            rig.wait(Duration::from_millis(wait));
            if rig.phase() != Phase::Recovering {
                break;
            }
            let risen = rig.breaker.status().share;
            prop_assert!(risen >= share, "time never takes away");
            let steps = Duration::from_secs(30) * u32::from((risen - share) / 100);
            prop_assert!(since + steps <= rig.now, "{share} to {risen}");
            since += steps;
            if fails && let Ok(permit) = rig.admit() {
                rig.settle(permit, Outcome::Failure);
                let fallen = rig.breaker.status().share;
                match rig.phase() {
                    Phase::Recovering if fallen < risen => {
                        prop_assert_eq!(fallen, risen - 100);
                        since = rig.now;
                    }
                    Phase::Recovering => prop_assert_eq!(fallen, risen),
                    _ => break,
                }
            }
        }
    }
}
