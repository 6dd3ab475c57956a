//! Texts that no version names: their version was never agreed on, or has fallen out of the history.
//!
//! A text is put before its version is proposed, so one that is new may be named in a moment. The
//! coordinator removes those that it has seen unnamed for a while. Another coordinator begins to count
//! anew, which costs room and nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For how long a text lies there unnamed before it is removed: more than any proposal takes.
pub const STRAY: Duration = Duration::from_secs(600);

/// The texts without a version, by their ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Strays(BTreeMap<String, Stray>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stray {
    /// Of its last write: one that is written again may be named again.
    revision: u64,
    since: Instant,
}

impl Strays {
    /// Looks at all that are unnamed now, by id and revision. Returns those that are to be removed, if
    /// they still have that revision.
    pub fn look(
        &mut self,
        unnamed: impl IntoIterator<Item = (String, u64)>,
        now: Instant,
    ) -> Vec<(String, u64)> {
        let known = std::mem::take(&mut self.0);
        let since = |id: &str, revision| {
            let same = known.get(id).filter(|it| it.revision == revision);
            same.map_or(now, |it| it.since)
        };
        self.0 = unnamed
            .into_iter()
            .map(|(id, revision)| {
                let since = since(&id, revision);
                (id, Stray { revision, since })
            })
            .collect();
        let past = |it: &Stray| now.saturating_duration_since(it.since) >= STRAY;
        let due = self.0.iter().filter(|(_, it)| past(it));
        due.map(|(id, it)| (id.clone(), it.revision)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unnamed(texts: &[(&str, u64)]) -> Vec<(String, u64)> {
        texts.iter().map(|(id, revision)| ((*id).to_owned(), *revision)).collect()
    }

    #[test]
    fn a_text_goes_when_no_version_has_named_it_for_long_enough() {
        let (began, mut strays) = (Instant::now(), Strays::default());
        let mut look = |texts: &[(&str, u64)], after: u64| {
            strays.look(unnamed(texts), began + Duration::from_secs(after))
        };
        assert_eq!(look(&[("a", 1), ("b", 2)], 0), []);
        assert_eq!(look(&[("a", 1), ("b", 2), ("c", 3)], 599), []);
        // One was written anew, one is named, and one is not old enough yet.
        assert_eq!(look(&[("a", 9), ("c", 3)], 600), []);
        assert_eq!(look(&[("a", 9), ("b", 2), ("c", 3)], 1199), unnamed(&[("c", 3)]));
        assert_eq!(look(&[("a", 9), ("b", 2)], 1200), unnamed(&[("a", 9)]));
    }
}
