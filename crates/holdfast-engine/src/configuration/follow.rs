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
}
