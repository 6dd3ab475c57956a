//! When a change is believed: after so many looks in a row that say the same.
//!
//! Getting worse takes fewer looks than getting better, so that a server that flaps stays where it does
//! least harm. A status that lies beyond the one that is being confirmed counts for it too: degraded,
//! critical, degraded are three looks in a row that say "at least degraded".
//!
//! | believed \ seen | as well | worse | better |
//! |---|---|---|---|
//! | any | counts start over | worse by the mildest of the last `fall` looks | better by the worst of the last `rise` looks |

use super::Status;

/// How many looks in a row it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// To believe that it is worse. At least 1.
    pub fall: u32,
    /// To believe that it is better. At least 1.
    pub rise: u32,
}

/// A status that does not follow every look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Steady {
    believed: Option<Status>,
    /// Looks in a row that were worse, and the mildest of them.
    worse: u32,
    mildest: Status,
    /// Looks in a row that were better, and the worst of them.
    better: u32,
    worst: Status,
    /// Looks in a row that were `Healthy`, whatever is believed.
    good: u32,
}

/// A change of what is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// What was believed; none before the first look.
    pub from: Option<Status>,
    /// What is believed now.
    pub to: Status,
    /// Looks in a row that say so.
    pub looks: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { fall: 2, rise: 3 }
    }
}

// === impl Steady ===

impl Steady {
    /// Nothing is known yet: the first look is believed if it is good, and otherwise counts as the
    /// first of those that it takes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more look. Returns the change that it brought about, if any.
    #[must_use]
    pub fn look(&mut self, seen: Status, patience: Patience) -> Option<Change> {
        self.good = if seen == Status::Healthy { self.good.saturating_add(1) } else { 0 };
        // Before the first change nothing bad is known, and nothing good either.
        let Some(believed) = self.believed else {
            if seen == Status::Healthy {
                return self.believe(seen, 1);
            }
            return self.fall(seen, patience.fall);
        };
        match seen.cmp(&believed) {
            std::cmp::Ordering::Equal => {
                (self.worse, self.better) = (0, 0);
                None
            }
            std::cmp::Ordering::Greater => self.fall(seen, patience.fall),
            std::cmp::Ordering::Less => self.rise(seen, patience.rise),
        }
    }

    /// What is believed; none before it was confirmed.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.believed
    }

    /// Looks in a row that were healthy, up to the last one.
    #[must_use]
    pub fn good(&self) -> u32 {
        self.good
    }

    fn fall(&mut self, seen: Status, fall: u32) -> Option<Change> {
        self.mildest = if self.worse == 0 { seen } else { self.mildest.min(seen) };
        self.worse = self.worse.saturating_add(1);
        self.better = 0;
        (self.worse >= fall.max(1)).then(|| self.believe(self.mildest, self.worse)).flatten()
    }

    fn rise(&mut self, seen: Status, rise: u32) -> Option<Change> {
        self.worst = if self.better == 0 { seen } else { self.worst.max(seen) };
        self.better = self.better.saturating_add(1);
        self.worse = 0;
        (self.better >= rise.max(1)).then(|| self.believe(self.worst, self.better)).flatten()
    }

    fn believe(&mut self, to: Status, looks: u32) -> Option<Change> {
        let from = self.believed.replace(to);
        (self.worse, self.better) = (0, 0);
        Some(Change { from, to, looks })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Status::*;

    fn believed(looks: &[Status], patience: Patience) -> Option<Status> {
        let mut steady = Steady::new();
        for seen in looks {
            let _ = steady.look(*seen, patience);
        }
        steady.status()
    }

    #[test]
    fn one_bad_look_changes_nothing_and_enough_in_a_row_do() {
        let patience = Patience { fall: 2, rise: 3 };
        assert_eq!(believed(&[Healthy], patience), Some(Healthy));
        assert_eq!(believed(&[Critical], patience), None);
        assert_eq!(believed(&[Critical, Critical], patience), Some(Critical));
        assert_eq!(believed(&[Healthy, Critical, Healthy, Critical], patience), Some(Healthy));
        assert_eq!(believed(&[Healthy, Critical, Critical], patience), Some(Critical));
    }

    #[test]
    fn getting_better_takes_longer_and_starts_over() {
        let patience = Patience { fall: 2, rise: 3 };
        let down = [Critical, Critical];
        let story = |rest: &[Status]| believed(&[&down[..], rest].concat(), patience);
        assert_eq!(story(&[Healthy, Healthy]), Some(Critical));
        assert_eq!(story(&[Healthy, Healthy, Critical, Healthy, Healthy]), Some(Critical));
        assert_eq!(story(&[Healthy, Healthy, Healthy]), Some(Healthy));
    }

    #[test]
    fn looks_that_differ_confirm_what_they_have_in_common() {
        let patience = Patience { fall: 3, rise: 2 };
        assert_eq!(
            believed(&[Healthy, Degraded, Critical, Degraded], patience),
            Some(Degraded),
            "at least degraded, three times"
        );
        assert_eq!(
            believed(&[Critical, Critical, Critical, Healthy, Warning], patience),
            Some(Warning)
        );
    }

    #[test]
    fn good_looks_are_counted_whatever_is_believed() {
        let mut steady = Steady::new();
        for (seen, good) in [(Critical, 0), (Healthy, 1), (Healthy, 2), (Degraded, 0), (Healthy, 1)]
        {
            let _ = steady.look(seen, Patience::default());
            assert_eq!(steady.good(), good);
        }
    }

    #[test]
    fn every_pair_of_statuses_moves_after_exactly_its_patience() {
        let all = [Healthy, Degraded, Warning, Critical];
        for from in all {
            for to in all {
                for count in 1..=4_u32 {
                    let patience = Patience { fall: 2, rise: 3 };
                    let mut steady = Steady { believed: Some(from), ..Steady::new() };
                    for _ in 0..count {
                        let _ = steady.look(to, patience);
                    }
                    let needs = if to > from { patience.fall } else { patience.rise };
                    let expected = if count >= needs { to } else { from };
                    assert_eq!(steady.status(), Some(expected), "{from} {to} {count}");
                }
            }
        }
    }

    proptest! {
        /// A change to worse is preceded by `fall` looks none of which is better than it; a change to
        /// better by `rise` looks none of which is worse.
        #[test]
        fn every_change_is_backed_by_the_looks_before_it(
            looks in prop::collection::vec(0u8..4, 1..60),
            fall in 1u32..5,
            rise in 1u32..5,
        ) {
            let looks: Vec<Status> =
                looks.into_iter().map(|it| [Healthy, Degraded, Warning, Critical][usize::from(it)]).collect();
            let patience = Patience { fall, rise };
            let mut steady = Steady::new();
            for (at, seen) in looks.iter().enumerate() {
                let Some(change) = steady.look(*seen, patience) else { continue };
                let last = |count: u32| looks[..=at].iter().rev().take(count as usize);
                match change.from {
                    None if change.to == Healthy => {}
                    Some(from) if change.to < from => {
                        prop_assert!(last(rise).count() == rise as usize);
                        prop_assert!(last(rise).all(|it| *it <= change.to));
                    }
                    _ => {
                        prop_assert!(last(fall).count() == fall as usize);
                        prop_assert!(last(fall).all(|it| *it >= change.to));
                    }
                }
            }
        }
    }
}
