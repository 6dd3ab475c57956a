//! Which configuration a node goes by: its file, or the version that the cluster agreed on; and which
//! of them it proposes.
//!
//! Every node has a file, and the cluster has a history of versions whose last one holds. Files come to
//! nodes one after another, and late; so a file that differs is not yet a wish:
//!
//! | the file's content is | asked by a person | it changed here | what happens |
//! |---|---|---|---|
//! | what holds | – | – | nothing: [`Wish::Agreed`] |
//! | any, while nothing holds | – | – | proposed as the first version |
//! | something else | yes | – | proposed |
//! | something else | no | no, or not known | nothing: the cluster's version holds here, [`Wish::Behind`] |
//! | an earlier version | no | yes, and the file was in step | proposed: somebody takes a change back |
//! | an earlier version | no | yes, and it was not | nothing: it comes late, [`Wish::Late`] |
//! | new | no | yes | proposed |
//!
//! A file is in step when what it had was the last version that came from a file, or one that an operator
//! went back to since. So a change that reaches a node after an operator has gone back from it does not
//! bring it back.
//!
//! A proposal names the version that it follows, so of two at once one wins, and the other is told.
//! How a version that was agreed on is taken over is in [`follow`]; when a file has settled in
//! [`settle`]; what becomes of texts that no version names in [`strays`].

pub mod follow;
pub mod settle;
pub mod strays;

use crate::replicated::Configuration;

/// What a node remembers of its file, across restarts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// What the file had when it was last looked at to an end; none: it never was.
    pub seen: Option<String>,
    /// The last version that the file was, at the time; 0: none.
    pub agreed: u64,
    /// What was proposed after that, of which it is not known what became.
    pub offered: Option<String>,
}

/// What follows from that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// The file is the version that holds.
    Agreed {
        /// That version.
        version: u64,
    },
    /// It is proposed, as what follows this version; 0: the first.
    Propose {
        /// The version that holds.
        follows: u64,
    },
    /// The file is what it was, and another version holds.
    Behind {
        /// That version.
        version: u64,
    },
    /// The file is an earlier version, which came here after a later one was agreed on.
    Late {
        /// The version that the file is.
        is: u64,
        /// The version that holds.
        version: u64,
    },
}

impl Memory {
    /// What follows from what the file has now, where `history` are the versions, oldest first. `asked`:
    /// a person wants this content to hold.
    #[must_use]
    pub fn wish(&self, file: &str, asked: bool, history: &[Configuration]) -> Wish {
        let Some(holds) = history.last() else { return Wish::Propose { follows: 0 } };
        let version = holds.version;
        if holds.id == file {
            return Wish::Agreed { version };
        }
        let changed = self.seen.as_ref().is_some_and(|seen| seen != file);
        let in_step = by_file(history).is_some_and(|it| self.agreed >= it.version);
        match history.iter().rev().find(|it| it.id == file) {
            _ if asked => Wish::Propose { follows: version },
            _ if !changed => Wish::Behind { version },
            Some(is) if !in_step => Wish::Late { is: is.version, version },
            Some(_) | None => Wish::Propose { follows: version },
        }
    }

    /// Learns what became of a proposal over which its node died, and that what the file has was proposed
    /// again elsewhere. To be called before [`Self::wish`].
    pub fn learn(&mut self, history: &[Configuration]) {
        let Some(last) = by_file(history) else { return };
        if self.offered.as_ref() == Some(&last.id) {
            self.seen = self.offered.take();
        }
        if self.seen.as_ref() == Some(&last.id) {
            self.agreed = last.version;
        }
    }

    /// It is about to propose this. To be kept before it does.
    pub fn offers(&mut self, id: &str) {
        self.offered = Some(id.to_owned());
    }

    /// It has looked at this, and it is this version; none: it is not what holds.
    pub fn looked(&mut self, id: &str, agreed: Option<u64>) {
        let is_news = self.seen.as_deref() != Some(id);
        let agreed = agreed.filter(|_| is_news).unwrap_or(self.agreed);
        *self = Self { seen: Some(id.to_owned()), agreed, offered: None };
    }
}

/// The last version that came from a file, and not by going back.
fn by_file(history: &[Configuration]) -> Option<&Configuration> {
    history.iter().rev().find(|it| it.rolls_back_to.is_none()).or_else(|| history.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions with these contents; one that ends in `<` goes back.
    fn history(ids: &[&str]) -> Vec<Configuration> {
        let version = |(n, id): (usize, &&str)| Configuration {
            version: n as u64 + 1,
            id: id.trim_end_matches('<').to_owned(),
            by: String::new(),
            at: 0,
            rolls_back_to: id.ends_with('<').then_some(1),
        };
        ids.iter().enumerate().map(version).collect()
    }

    #[test]
    fn the_table() {
        use Wish::{Agreed, Behind, Late, Propose};
        let abc = &["a", "b", "c"][..];
        let back = &["a", "b", "c", "b<"][..];
        // Versions, the file, what was seen before, when it last agreed, asked.
        type Row<'a> = (&'a [&'a str], &'a str, Option<&'a str>, u64, bool, Wish);
        let table: &[Row<'_>] = &[
            // Nothing holds yet.
            (&[], "a", None, 0, false, Propose { follows: 0 }),
            (&[], "a", Some("a"), 0, false, Propose { follows: 0 }),
            // What holds.
            (abc, "c", None, 0, false, Agreed { version: 3 }),
            (abc, "c", Some("b"), 2, true, Agreed { version: 3 }),
            // A person asks, whatever it is.
            (abc, "d", None, 0, true, Propose { follows: 3 }),
            (abc, "d", Some("d"), 0, true, Propose { follows: 3 }),
            (abc, "a", Some("a"), 1, true, Propose { follows: 3 }),
            // The file is what it was, or nobody knows what it was.
            (abc, "d", Some("d"), 3, false, Behind { version: 3 }),
            (abc, "a", Some("a"), 1, false, Behind { version: 3 }),
            (abc, "d", None, 0, false, Behind { version: 3 }),
            (abc, "a", None, 0, false, Behind { version: 3 }),
            // It changed: to something new; back from what holds; late.
            (abc, "d", Some("c"), 3, false, Propose { follows: 3 }),
            (abc, "d", Some("a"), 1, false, Propose { follows: 3 }),
            (abc, "b", Some("c"), 3, false, Propose { follows: 3 }),
            (abc, "b", Some("a"), 1, false, Late { is: 2, version: 3 }),
            // Another came first when it changed to x; now it goes to what was.
            (abc, "a", Some("x"), 3, false, Propose { follows: 3 }),
            // An operator has gone back from c: a node that gets it late does not bring it back.
            (back, "c", Some("b"), 2, false, Late { is: 3, version: 4 }),
            // Files that follow the operator, and those that were at c, may take changes back.
            (back, "a", Some("b"), 4, false, Propose { follows: 4 }),
            (back, "a", Some("c"), 3, false, Propose { follows: 4 }),
            (back, "b", Some("c"), 3, false, Agreed { version: 4 }),
        ];
        for (ids, file, seen, agreed, asked, expected) in table {
            let seen = seen.map(str::to_owned);
            let memory = Memory { seen, agreed: *agreed, offered: None };
            let found = memory.wish(file, *asked, &history(ids));
            assert_eq!(found, *expected, "{file} after {memory:?} in {ids:?}");
        }
    }

    #[test]
    fn a_proposal_of_a_node_that_died_counts_if_it_was_agreed_on() {
        let mut memory = Memory::default();
        memory.looked("a", Some(1));
        memory.offers("b");
        memory.learn(&history(&["a"]));
        assert_eq!((memory.seen.as_deref(), memory.agreed), (Some("a"), 1));
        memory.learn(&history(&["a", "b", "a<"]));
        assert_eq!((memory.seen.as_deref(), memory.agreed), (Some("b"), 2));
        assert_eq!(memory.offered, None);
    }

    #[test]
    fn what_is_proposed_again_elsewhere_is_what_the_file_was() {
        let mut memory = Memory::default();
        memory.looked("a", Some(1));
        memory.learn(&history(&["a", "b", "a"]));
        assert_eq!(memory.agreed, 3);
        memory.learn(&history(&["a", "b", "a", "c", "a<"]));
        assert_eq!(memory.agreed, 3, "going back agrees with nobody's file");
    }

    #[test]
    fn a_file_that_did_not_change_agrees_with_nothing_new() {
        let mut memory = Memory::default();
        memory.looked("a", Some(1));
        memory.looked("a", Some(3));
        assert_eq!(memory.agreed, 1);
        memory.looked("b", None);
        assert_eq!((memory.seen.as_deref(), memory.agreed), (Some("b"), 1));
        memory.looked("c", Some(5));
        assert_eq!(memory.agreed, 5);
    }
}
