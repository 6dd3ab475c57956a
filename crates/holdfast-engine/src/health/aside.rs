//! Which nodes may step aside: take no new traffic, because they are about to fail.
//!
//! What makes a node want that (memory, disk) may befall all of them at once, and a balancer that finds
//! no node ready answers every call with an error of its own. So a node asks the coordinator, which lets
//! no more go than leave a majority of all nodes with traffic. A permission lasts [`HOLDS`] at the node
//! and counts for [`COUNTS`] here, and a coordinator that has just begun gives none for that long: so
//! the permissions that its predecessor gave are over before it gives the first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::replicated::NodeId;

/// How long a node may stay aside after it asked.
pub const HOLDS: Duration = Duration::from_secs(5);
/// How long the coordinator counts it as gone.
pub const COUNTS: Duration = Duration::from_secs(10);

/// The coordinator's book of who is aside.
#[derive(Clone, Debug)]
pub struct Aside {
    since: Instant,
    granted: BTreeMap<NodeId, Instant>,
}

// === impl Aside ===

impl Aside {
    /// The book of a coordinator that begins now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, granted: BTreeMap::new() }
    }

    /// Whether `node` may step aside, or stay there. `ready`: the nodes that could take traffic; `all`:
    /// how many nodes there are, dead ones included.
    #[must_use]
    pub fn ask(
        &mut self,
        node: NodeId,
        ready: &BTreeSet<NodeId>,
        all: usize,
        now: Instant,
    ) -> bool {
        self.granted.retain(|_, at| now.saturating_duration_since(*at) < COUNTS);
        if now.saturating_duration_since(self.since) < COUNTS {
            return false;
        }
        let gone = self.granted.keys().filter(|it| **it != node && ready.contains(it)).count();
        let others = ready.iter().filter(|it| **it != node).count().saturating_sub(gone);
        let may = others > all / 2;
        if may {
            self.granted.insert(node, now);
        }
        may
    }

    /// The node has no more need of it.
    pub fn back(&mut self, node: NodeId) {
        self.granted.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(n: u64) -> BTreeSet<NodeId> {
        (1..=n).collect()
    }

    #[test]
    fn a_majority_of_all_nodes_keeps_its_traffic() {
        // (all, ready, who asks in turn) -> who may
        let table: [(usize, u64, &[u64], &[bool]); 8] = [
            (1, 1, &[1], &[false]),
            (2, 2, &[1, 2], &[false, false]),
            (3, 3, &[1, 2, 3], &[true, false, false]),
            (3, 2, &[1], &[false]),
            (4, 4, &[1, 2], &[true, false]),
            (5, 5, &[1, 2, 3], &[true, true, false]),
            (5, 4, &[1, 2], &[true, false]),
            // Asking again is staying, not one more.
            (3, 3, &[1, 1, 2, 1], &[true, true, false, true]),
        ];
        for (all, ready, asking, expected) in table {
            let begun = Instant::now();
            let mut aside = Aside::new(begun);
            let now = begun + COUNTS;
            let may: Vec<bool> =
                asking.iter().map(|it| aside.ask(*it, &nodes(ready), all, now)).collect();
            assert_eq!(may, expected, "{ready} of {all} ready, {asking:?} ask");
        }
    }

    #[test]
    fn a_new_coordinator_waits_until_its_predecessors_permissions_are_over() {
        let begun = Instant::now();
        let mut aside = Aside::new(begun);
        let just_before = begun + COUNTS - Duration::from_millis(1);
        assert!(!aside.ask(1, &nodes(3), 3, just_before));
        assert!(aside.ask(1, &nodes(3), 3, begun + COUNTS));
        // One that does not ask again, or is back, makes room.
        assert!(!aside.ask(2, &nodes(3), 3, begun + COUNTS));
        assert!(aside.ask(2, &nodes(3), 3, begun + COUNTS * 2));
        aside.back(2);
        assert!(aside.ask(3, &nodes(3), 3, begun + COUNTS * 2));
    }

    proptest! {
        /// Whoever coordinates, whenever it changes and whoever asks: at no time has a majority of the
        /// nodes a permission.
        #[test]
        fn never_is_a_majority_aside(
            all in 1_u64..8,
            asked in proptest::collection::vec((0_u64..3_000, 1_u64..8, 0_u8..20), 1..200),
        ) {
            let mut now = Instant::now();
            let mut aside = Aside::new(now);
            let mut held: BTreeMap<NodeId, Instant> = BTreeMap::new();
            for (pause, node, dice) in asked {
                now += Duration::from_millis(pause);
                if dice == 0 {
                    aside = Aside::new(now);
                }
                let node = (node - 1) % all + 1;
                if aside.ask(node, &nodes(all), all as usize, now) {
                    held.insert(node, now + HOLDS);
                } else {
                    held.remove(&node);
                }
                let gone = held.values().filter(|until| **until > now).count();
                prop_assert!(gone < (all as usize).div_ceil(2), "{gone} of {all}");
            }
        }
    }
}
