//! An instance's allowance of calls, kept by every node for its part.
//!
//! An instance takes so many calls a minute (100, of them 20 at once) from the whole cluster. Nodes do
//! not ask each other before a call: each has its part of the allowance, and the parts never add up to
//! more than the whole. Whoever joins or leaves changes the parts. A node that gets more than its part
//! of the traffic reaches its end early and, by the balancing, goes to other instances; nobody exceeds
//! what the instance takes.
//!
//! Where the allowance has fewer calls than there are nodes, some nodes have none of it: those with the
//! smallest places get one each.

use std::time::{Duration, Instant};

use crate::bucket::Bucket;

/// What an instance takes from the whole cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Calls a minute.
    pub per_minute: u32,
    /// Calls at once.
    pub burst: u32,
}

/// One node's part of an instance's allowance.
#[derive(Clone, Debug)]
pub struct Allowance {
    part: Rate,
    /// None: this node has no part.
    bucket: Option<Bucket>,
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_minute: 100, burst: 20 }
    }
}

// === impl Rate ===

impl Rate {
    /// The part of the node at `place` (0 and up) among `nodes` that may act. Outside of them: none.
    #[must_use]
    pub fn part(self, place: usize, nodes: usize) -> Self {
        let part = |whole: u32| {
            let (nodes, place) = (nodes.min(u32::MAX as usize) as u32, place as u64);
            if nodes == 0 || place >= u64::from(nodes) {
                return 0;
            }
            whole / nodes + u32::from(place < u64::from(whole % nodes))
        };
        Self { per_minute: part(self.per_minute), burst: part(self.burst) }
    }
}

// === impl Allowance ===

impl Allowance {
    /// A whole part. Without calls a minute there are none; with some, at least one at once.
    #[must_use]
    pub fn new(part: Rate) -> Self {
        let bucket = (part.per_minute > 0).then(|| Bucket::new(part.per_minute, part.burst));
        Self { part, bucket }
    }

    /// The part is another from now on: it begins empty, so that a part that changes hands is not
    /// spent twice. Returns whether it is another.
    pub fn change(&mut self, part: Rate, now: Instant) -> bool {
        if part == self.part {
            return false;
        }
        *self = Self::new(part);
        while self.take(now).is_ok() {}
        true
    }

    /// Takes one call.
    ///
    /// # Errors
    /// When there is none: after how long there is one. A node without a part is told a minute.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.take_ahead(Duration::ZERO, now).map(|_| ())
    }

    /// Takes one call that may go within `patience`; after how long it may.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_ahead(&mut self, patience: Duration, now: Instant) -> Result<Duration, Duration> {
        let bucket = self.bucket.as_mut().ok_or(Duration::from_secs(60))?;
        bucket.take_ahead(patience, now)
    }

    /// What is left, 0 to 1: what the balancing goes by. 0 if the next call would be refused.
    #[must_use]
    pub fn left(&self, now: Instant) -> f32 {
        self.bucket.as_ref().map_or(0.0, |it| it.left(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_spent_and_come_back() {
        let now = Instant::now();
        let mut allowance = Allowance::new(Rate { per_minute: 60, burst: 4 });
        assert_eq!(allowance.left(now), 1.0);
        for left in [0.75, 0.5, 0.25, 0.0] {
            assert_eq!(allowance.take(now), Ok(()));
            assert!((allowance.left(now) - left).abs() < 1e-6);
        }
        assert_eq!(allowance.take(now), Err(Duration::from_secs(1)));
        assert!(allowance.left(now + Duration::from_millis(999)) <= 0.0, "not a whole call");
        assert!(allowance.left(now + Duration::from_secs(1)) > 0.0);
    }

    #[test]
    fn a_part_that_changes_begins_empty() {
        let now = Instant::now();
        let mut allowance = Allowance::new(Rate { per_minute: 60, burst: 4 });
        assert!(!allowance.change(Rate { per_minute: 60, burst: 4 }, now));
        assert!(allowance.change(Rate { per_minute: 120, burst: 4 }, now));
        assert!(allowance.take(now).is_err());
        assert_eq!(allowance.take(now + Duration::from_millis(500)), Ok(()));
        assert!(allowance.change(Rate { per_minute: 0, burst: 0 }, now));
        assert_eq!(allowance.take(now), Err(Duration::from_secs(60)));
        assert_eq!(allowance.left(now), 0.0);
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole(per_minute: u32, burst: u32, nodes in 1usize..20) {
            let rate = Rate { per_minute, burst };
            let parts = || (0..nodes).map(|place| rate.part(place, nodes));
            prop_assert_eq!(parts().map(|it| u64::from(it.per_minute)).sum::<u64>(), u64::from(per_minute));
            prop_assert_eq!(parts().map(|it| u64::from(it.burst)).sum::<u64>(), u64::from(burst));
            prop_assert_eq!(rate.part(nodes, nodes), Rate { per_minute: 0, burst: 0 });
        }
    }
}
