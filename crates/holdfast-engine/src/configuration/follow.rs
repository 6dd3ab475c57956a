//! How a node takes over the version that the cluster agreed on: whole or not at all, the last one only,
//! and again and again while it cannot.
//!
//! | it runs | the version that holds | its last try | it is to |
//! |---|---|---|---|
//! | any | none | – | rest |
//! | that version | – | – | rest |
//! | another | any | none of this version | take it over now |
//! | another | any | failed | take it over when the pause is past, or something here has changed |
//!
//! Between two looks several versions may have been agreed on; only the last is taken over.

use std::time::{Duration, Instant};

use crate::replicated::Configuration;

/// How long a node waits before it tries a version again that it could not take over.
pub const PAUSE: Duration = Duration::from_secs(15);

/// What one node has done about versions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Follow {
    /// The version that it runs; 0: none, it runs its file.
    runs: u64,
    failed: Option<Failed>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Failed {
    version: u64,
    why: String,
    again: Instant,
}

/// What it is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing, until a version is agreed on.
    Rest,
    /// Take this version over.
    Take(u64),
    /// Look again then: it could not take the version over.
    Wait(Instant),
}

impl Follow {
    /// The version that it runs; 0: none, it runs its file.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// The version that it could not take over, and why.
    #[must_use]
    pub fn failed(&self) -> Option<(u64, &str)> {
        self.failed.as_ref().map(|it| (it.version, it.why.as_str()))
    }

    /// What is to be done about the version that holds.
    #[must_use]
    pub fn next(&self, holds: Option<&Configuration>, now: Instant) -> Next {
        let Some(version) = holds.map(|it| it.version) else { return Next::Rest };
        if version == self.runs {
            return Next::Rest;
        }
        match &self.failed {
            Some(failed) if failed.version == version && now < failed.again => {
                Next::Wait(failed.again)
            }
            Some(_) | None => Next::Take(version),
        }
    }

    /// It took the version over.
    pub fn took(&mut self, version: u64) {
        *self = Self { runs: version, failed: None };
    }

    /// It could not, and goes on with what it runs. True: that is news, which people are told.
    pub fn failed_to(&mut self, version: u64, why: &str, now: Instant) -> bool {
        let news = self.failed() != Some((version, why));
        self.failed = Some(Failed { version, why: why.to_owned(), again: now + PAUSE });
        news
    }

    /// Something here has changed: what could not be taken over is tried at once.
    pub fn changed(&mut self, now: Instant) {
        if let Some(failed) = &mut self.failed {
            failed.again = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(version: u64) -> Configuration {
        let (id, by) = (format!("{version:064}"), "n1".to_owned());
        Configuration { version, id, by, at: 0, rolls_back_to: None }
    }

    #[test]
    fn a_version_is_taken_over_once() {
        let (now, mut follow) = (Instant::now(), Follow::default());
        assert_eq!(follow.next(None, now), Next::Rest);
        assert_eq!(follow.next(Some(&holds(3)), now), Next::Take(3));
        follow.took(3);
        assert_eq!((follow.next(Some(&holds(3)), now), follow.runs()), (Next::Rest, 3));
        assert_eq!(follow.next(Some(&holds(5)), now), Next::Take(5));
    }

    #[test]
    fn what_fails_is_tried_again_later_and_told_once() {
        let (now, mut follow) = (Instant::now(), Follow::default());
        follow.took(1);
        assert!(follow.failed_to(2, "no TOKEN", now));
        assert_eq!((follow.runs(), follow.failed()), (1, Some((2, "no TOKEN"))));
        assert_eq!(follow.next(Some(&holds(2)), now), Next::Wait(now + PAUSE));
        let later = now + PAUSE;
        assert_eq!(follow.next(Some(&holds(2)), later), Next::Take(2));
        assert!(!follow.failed_to(2, "no TOKEN", later));
        assert!(follow.failed_to(2, "no KEY", later));
        // Something changed here, or another version was agreed on: at once.
        follow.changed(later);
        assert_eq!(follow.next(Some(&holds(2)), later), Next::Take(2));
        assert!(!follow.failed_to(2, "no KEY", later));
        assert_eq!(follow.next(Some(&holds(3)), later), Next::Take(3));
        follow.took(3);
        assert_eq!(follow.failed(), None);
    }

    #[test]
    fn back_at_what_it_runs_a_failure_is_past() {
        let (now, mut follow) = (Instant::now(), Follow::default());
        follow.took(1);
        follow.failed_to(2, "no TOKEN", now);
        // Version 3 is the content of 1 again, and is taken over like any other.
        assert_eq!(follow.next(Some(&holds(3)), now), Next::Take(3));
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Passes(u64),
        Agrees(u64),
        Looks { works: bool, why: usize },
        Changes,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let looks = (any::<bool>(), 0usize..2).prop_map(|(works, why)| Event::Looks { works, why });
        let event = prop_oneof![
            2 => (0u64..20).prop_map(Event::Passes),
            2 => (1u64..3).prop_map(Event::Agrees),
            5 => looks,
            1 => Just(Event::Changes),
        ];
        proptest::collection::vec(event, 1..100)
    }

    proptest! {
        /// Whatever is agreed on and fails: a node takes over nothing but the version that holds, and that once;
        /// what it could not take over it tries after a pause, and at once if something here has changed; it runs
        /// what it took over last, and tells each failure once.
        #[test]
        fn a_node_runs_what_it_took_over_and_tries_what_holds(events in events()) {
            let (mut now, mut follow) = (Instant::now(), Follow::default());
            let (mut held, mut runs) = (None::<Configuration>, 0);
            // The last try that failed: of which version, why, and until when nothing is tried.
            let mut failed: Option<(u64, &str, Instant)> = None;
            for event in events {
                match event {
                    Event::Passes(seconds) => now += Duration::from_secs(seconds),
                    Event::Agrees(more) => {
                        held = Some(holds(held.map_or(0, |it| it.version) + more));
                    }
                    Event::Changes => {
                        follow.changed(now);
                        failed = failed.map(|(version, why, _)| (version, why, now));
                    }
                    Event::Looks { works, why } => {
                        let version = held.as_ref().map_or(0, |it| it.version);
                        let waits = failed.filter(|it| it.0 == version && now < it.2);
                        match follow.next(held.as_ref(), now) {
                            Next::Rest => prop_assert_eq!(version, runs),
                            Next::Wait(until) => {
                                prop_assert_eq!(waits.map(|it| it.2), Some(until));
                            }
                            Next::Take(it) => {
                                prop_assert_eq!(it, version);
                                prop_assert_ne!(it, runs, "it runs that already");
                                prop_assert!(waits.is_none(), "in its pause: {:?}", waits);
                                if works {
                                    follow.took(it);
                                    (runs, failed) = (it, None);
                                } else {
                                    let why = ["no TOKEN", "no KEY"][why];
                                    let news = follow.failed_to(it, why, now);
                                    let told = failed.map(|it| (it.0, it.1));
                                    prop_assert_eq!(news, told != Some((it, why)));
                                    failed = Some((it, why, now + PAUSE));
                                }
                            }
                        }
                    }
                }
                prop_assert_eq!(follow.runs(), runs, "what fails changes nothing");
                prop_assert_eq!(follow.failed(), failed.map(|it| (it.0, it.1)));
            }
        }
    }
}
