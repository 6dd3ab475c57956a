//! Which outage has cost something: Writes of which nobody knows whether they ran, and sessions whose state
//! stayed behind.
//!
//! A node knows when that happened to its own clients, often before the group finds out that an instance
//! fails, and sometimes long after the outage is over: a Write that hangs is given up at its deadline, and a
//! session moves with its next call. So a loss is held until there is an outage that it belongs to, by these
//! rules, and is no incident's if there comes none.
//!
//! | what | belongs to the last outage of its server |
//! |---|---|
//! | Writes of unknown outcome | that had not ended when the first of them was received, and whose first sign came no later than a little after the last was given up |
//! | sessions that left an instance | of that instance, from its first sign on until a move back to it begins |
//!
//! From that moment on the instance has sessions again: what leaves it then leaves it for another cause, as where a
//! failback is taken back.

use crate::objectives::{Ending, Outage};
use crate::replicated::{ServerEvent, ServerHappened};

/// What happened to clients of a server at one node, in a second or so. Times are milliseconds since the Unix
/// epoch, by the group's clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// The server.
    pub server: String,
    /// When it was known.
    pub at: u64,
    /// What.
    pub what: Lost,
}

/// What was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lost {
    /// Writes were given up that may have run.
    Writes {
        /// So many.
        count: u32,
        /// When the first of them was received.
        oldest: u64,
    },
    /// Sessions went to another instance, without what this one kept for them.
    Sessions {
        /// So many.
        count: u32,
        /// The instance that they left.
        from: String,
    },
}

impl Loss {
    /// Which of these outages it belongs to, by its index; none of them. `events` is the record that they are
    /// read from. `lead`: so much later than the Writes that it fails may the first sign of an outage come,
    /// in milliseconds: checks are made now and then.
    #[must_use]
    pub fn outage<'a>(
        &self,
        outages: &[Outage],
        events: impl IntoIterator<Item = &'a ServerEvent> + Clone,
        lead: u64,
    ) -> Option<u64> {
        let own = |it: &&Outage| it.server == self.server;
        let fits = |it: &&Outage| match &self.what {
            Lost::Writes { oldest, .. } => {
                it.began <= self.at.saturating_add(lead) && it.ended.is_none_or(|at| *oldest <= at)
            }
            Lost::Sessions { from, .. } => {
                let is_over = it.ending == Ending::Recovered || it.ending == Ending::Retired;
                it.instance == *from
                    && it.began <= self.at
                    && !(is_over && it.ended.is_some_and(|at| at < self.at))
                    && !is_back(events.clone(), it, self.at)
            }
        };
        outages.iter().rev().filter(own).find(fits).map(|it| it.index)
    }
}

/// Whether the instance of an outage was active again at this time, or on the way to that.
fn is_back<'a>(
    events: impl IntoIterator<Item = &'a ServerEvent>,
    outage: &Outage,
    at: u64,
) -> bool {
    events.into_iter().any(|it| {
        it.index > outage.index
            && it.at <= at
            && it.server == outage.server
            && it.instance == outage.instance
            && matches!(
                it.what,
                ServerHappened::Switched
                    | ServerHappened::FailoverBegan
                    | ServerHappened::FailbackBegan
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::votes::Opinion;
    use crate::objectives::outages;
    use ServerHappened::{FailbackBegan, FailoverBegan, RolledBack, Settled, Switched, Verdict};

    fn event(at: u64, instance: &str, what: ServerHappened) -> ServerEvent {
        let (server, instance) = ("db".to_owned(), instance.to_owned());
        let evidence = String::new();
        ServerEvent { index: at, at, server, instance, generation: 1, what, evidence }
    }

    fn down(at: u64, evidence_since: u64) -> ServerEvent {
        let to = Opinion::Unhealthy;
        event(at, "a", Verdict { from: None, to, active: true, evidence_since })
    }

    fn moved(at: u64, to: &str) -> [ServerEvent; 3] {
        [event(at, to, FailoverBegan), event(at + 10, to, Switched), event(at + 20, to, Settled)]
    }

    fn found(loss: Loss, events: &[ServerEvent]) -> Option<u64> {
        loss.outage(&outages(events), events, 100)
    }

    fn writes(oldest: u64, at: u64) -> Loss {
        Loss { server: "db".to_owned(), at, what: Lost::Writes { count: 1, oldest } }
    }

    fn sessions(from: &str, at: u64) -> Loss {
        let from = from.to_owned();
        Loss { server: "db".to_owned(), at, what: Lost::Sessions { count: 1, from } }
    }

    /// The outage of `a` has the index 1,000, began at 800 and ended at 1,120.
    fn record() -> Vec<ServerEvent> {
        [vec![down(1_000, 800)], moved(1_100, "b").to_vec()].concat()
    }

    #[test]
    fn writes_belong_to_the_outage_that_they_met() {
        let of = |loss: Loss| found(loss, &record());
        assert_eq!(of(writes(500, 900)), Some(1_000), "under way at the first sign");
        assert_eq!(of(writes(950, 5_000)), Some(1_000), "given up long after its end");
        assert_eq!(of(writes(600, 700)), Some(1_000), "calls see it first");
        assert_eq!(of(writes(600, 699)), None, "but not so long before");
        assert_eq!(of(writes(1_120, 1_200)), Some(1_000));
        assert_eq!(of(writes(1_121, 1_200)), None, "received when it was over");
        let other = Loss { server: "files".to_owned(), ..writes(500, 900) };
        assert_eq!(of(other), None);
        let open = vec![down(1_000, 800)];
        assert_eq!(found(writes(9_000, 9_100), &open), Some(1_000), "it goes on");
        let again = [record(), moved(2_000, "a").to_vec(), vec![down(3_000, 2_900)]].concat();
        assert_eq!(found(writes(900, 3_100), &again), Some(3_000), "of two the later");
    }

    #[test]
    fn sessions_belong_to_the_outage_of_what_they_left_until_that_is_active_again() {
        assert_eq!(found(sessions("a", 799), &record()), None, "before it");
        assert_eq!(found(sessions("a", 1_110), &record()), Some(1_000));
        assert_eq!(found(sessions("a", 900_000), &record()), Some(1_000), "with a call much later");
        assert_eq!(found(sessions("b", 1_200), &record()), None, "by another cause");
        let back = [record(), moved(2_000, "a").to_vec()].concat();
        assert_eq!(found(sessions("a", 1_900), &back), Some(1_000));
        assert_eq!(found(sessions("a", 2_100), &back), None, "it was active again: moved by hand");
        let taken_back =
            [record(), vec![event(2_000, "a", FailbackBegan), event(2_500, "a", RolledBack)]];
        let taken_back = taken_back.concat();
        assert_eq!(found(sessions("a", 1_999), &taken_back), Some(1_000));
        assert_eq!(found(sessions("a", 2_500), &taken_back), None, "they had come back to it");
        let well = Verdict { from: None, to: Opinion::Healthy, active: true, evidence_since: 0 };
        let recovered = [down(1_000, 800), event(1_500, "a", well)];
        assert_eq!(found(sessions("a", 1_400), &recovered), Some(1_000), "to another replica");
        assert_eq!(found(sessions("a", 1_501), &recovered), None);
    }
}
