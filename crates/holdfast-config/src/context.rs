//! What one reading of a file collects: problems, notices, and where every value came from.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::Env;
use crate::problem::{Place, Problem};

/// Shared by every reader of one file. Nothing here ends the reading.
pub(crate) struct Context<'a> {
    pub(crate) env: Env<'a>,
    problems: RefCell<Vec<Problem>>,
    notices: RefCell<Vec<String>>,
    places: RefCell<BTreeMap<String, Place>>,
    guarded: RefCell<BTreeMap<String, Guard>>,
}

/// Which part of a value stays with its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// All of it.
    Whole,
    /// Of an address: what stands after `?`.
    Query,
    /// Of an address: what stands after the host.
    Path,
    /// All of it, and its key: it has no effect, and nobody looked at what is in it.
    Unused,
}

/// What a reading without problems leaves behind.
pub(crate) struct Readings {
    /// The keys that were read, by their paths.
    pub(crate) read: BTreeSet<String>,
    /// Those of them whose value is a secret, or holds one, or is not used.
    pub(crate) guarded: BTreeMap<String, Guard>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(env: Env<'a>) -> Self {
        Self {
            env,
            problems: RefCell::default(),
            notices: RefCell::default(),
            places: RefCell::default(),
            guarded: RefCell::default(),
        }
    }

    pub(crate) fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Reports what is wrong with the value of `key`, wherever that stands.
    pub(crate) fn report(&self, key: &str, found: String, allowed: &str, cure: &str) {
        self.problem(Problem {
            place: self.place_of(key),
            key: key.to_owned(),
            found,
            allowed: allowed.to_owned(),
            cure: cure.to_owned(),
        });
    }

    /// Whether the value of `key` has a problem already, so that none needs to follow from it.
    pub(crate) fn is_doubtful(&self, key: &str) -> bool {
        let places = self.places.borrow();
        let Some(place) = places.get(key) else { return false };
        self.problems.borrow().iter().any(|problem| problem.place == *place)
    }

    pub(crate) fn problem_count(&self) -> usize {
        self.problems.borrow().len()
    }

    pub(crate) fn notice(&self, notice: String) {
        self.notices.borrow_mut().push(notice);
    }

    /// Remembers that the value of `key` is a secret, or holds one, or is not used.
    pub(crate) fn guard(&self, key: &str, guard: Guard) {
        self.guarded.borrow_mut().insert(key.to_owned(), guard);
    }

    /// Remembers where the value of `key` stands, for checks that compare several values.
    pub(crate) fn located(&self, key: &str, place: Place) {
        self.places.borrow_mut().insert(key.to_owned(), place);
    }

    /// Where the value of `key` stands, or the nearest section around it.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        let places = self.places.borrow();
        let mut key = key;
        loop {
            if let Some(place) = places.get(key) {
                return place.clone();
            }
            match key.rfind(['.', '[']) {
                Some(at) => key = &key[..at],
                None => return Place::File,
            }
        }
    }

    /// Whether the file or the environment gives `key` a value of its own.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.places.borrow().contains_key(key)
    }

    /// Whether the value of `key` comes from the file.
    pub(crate) fn is_in_file(&self, key: &str) -> bool {
        matches!(self.places.borrow().get(key), Some(Place::At { .. }))
    }

    pub(crate) fn finish(self) -> (Vec<Problem>, Vec<String>, Readings) {
        let readings = Readings {
            read: self.places.into_inner().into_keys().collect(),
            guarded: self.guarded.into_inner(),
        };
        (self.problems.into_inner(), self.notices.into_inner(), readings)
    }
}
