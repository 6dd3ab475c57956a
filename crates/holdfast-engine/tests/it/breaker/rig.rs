//! A breaker with a clock and chance from a seed.

use std::time::{Duration, Instant};

use holdfast_engine::breaker::{Breaker, Outcome, Params, Permit, Phase, Refused, Transition};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Chance from a seed (splitmix64).
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub(crate) struct Rig {
    pub(crate) breaker: Breaker,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
}

impl Rig {
    pub(crate) fn new(params: Params) -> Self {
        let now = Instant::now();
        Self { breaker: Breaker::new(params, now), now, rng: Rng(1) }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.breaker.tick(self.now, self.rng.next());
    }

    pub(crate) fn admit(&mut self) -> Result<Permit, Refused> {
        self.breaker.admit(self.now, self.rng.next())
    }

    pub(crate) fn settle(&mut self, permit: Permit, outcome: Outcome) {
        self.breaker.settle(permit, outcome, self.now, self.rng.next());
    }

    /// Calls that are admitted and end at once, until so many have passed.
    pub(crate) fn calls(&mut self, outcome: Outcome, calls: u32) {
        for _ in 0..calls {
            let permit = loop {
                match self.admit() {
                    Ok(permit) => break permit,
                    Err(refused) => {
                        assert!(refused.retry_after <= 61 * SECOND, "{refused:?}");
                        self.now += refused.retry_after;
                    }
                }
            };
            self.settle(permit, outcome);
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.breaker.phase()
    }

    pub(crate) fn transitions(&mut self) -> Vec<Transition> {
        std::iter::from_fn(|| self.breaker.take_transition()).collect()
    }

    /// Open, by five failures in a row.
    pub(crate) fn open(params: Params) -> Self {
        let mut rig = Self::new(params);
        rig.calls(Outcome::Failure, params.consecutive_failures);
        assert_eq!(rig.phase(), Phase::Open);
        rig
    }

    /// Half-open, as soon as it may be.
    pub(crate) fn half_open(params: Params) -> Self {
        let mut rig = Self::open(params);
        let until = rig.breaker.status().open_until.expect("open");
        rig.wait(until - rig.now);
        assert_eq!(rig.phase(), Phase::HalfOpen);
        rig
    }

    /// At the beginning of the recovery.
    pub(crate) fn recovering(params: Params) -> Self {
        let mut rig = Self::half_open(params);
        rig.calls(Outcome::Success, params.successes_to_close);
        assert_eq!(rig.phase(), Phase::Recovering);
        rig
    }
}
