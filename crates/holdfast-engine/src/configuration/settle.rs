//! When a file that changes has settled: editors write in several steps, rename, or leave it away for a
//! moment; a mounted folder is swapped by a link.
//!
//! What counts is the content. It is news when it differs from what was last taken and has been the same
//! for a whole interval. What was taken and was no good is no news again before it changes again.

use std::time::{Duration, Instant};

/// Names a content: its digest. None: there is no file, or it cannot be read.
pub type Print = Option<[u8; 32]>;

/// What is known of a file that is looked at again and again.
#[derive(Clone, Debug)]
pub struct Settling {
    interval: Duration,
    taken: Print,
    /// What was found last, and since when it has been so.
    found: Option<(Print, Instant)>,
}

impl Settling {
    /// Of a file of which `taken` was read. `interval` is how long a content must have stayed.
    #[must_use]
    pub fn new(taken: Print, interval: Duration) -> Self {
        Self { interval, taken, found: None }
    }

    /// Takes what a look found. True: it is news and has settled, and counts as taken from now on.
    pub fn look(&mut self, print: Print, now: Instant) -> bool {
        let since = match self.found {
            Some((found, since)) if found == print => since,
            Some(_) | None => now,
        };
        self.found = Some((print, since));
        let settled = now.saturating_duration_since(since) >= self.interval;
        let news = print != self.taken && settled;
        if news {
            self.taken = print;
        }
        news
    }

    /// Somebody has read the file for another reason, and found this.
    pub fn took(&mut self, print: Print) {
        self.taken = print;
    }

    /// What was last taken.
    #[must_use]
    pub fn taken(&self) -> Print {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Print = Some([1; 32]);
    const B: Print = Some([2; 32]);
    const C: Print = Some([3; 32]);

    /// The looks, one every second, at which something was taken.
    fn taken(prints: &[Print]) -> Vec<(usize, Print)> {
        let start = Instant::now();
        let mut settling = Settling::new(A, Duration::from_secs(1));
        let look = |(n, print): (usize, &Print)| {
            let now = start + Duration::from_secs(n as u64);
            settling.look(*print, now).then_some((n, *print))
        };
        prints.iter().enumerate().filter_map(look).collect()
    }

    #[test]
    fn stories() {
        // Nothing changes; a change stays; a change is taken once.
        assert_eq!(taken(&[A, A, A]), []);
        assert_eq!(taken(&[A, B, B, B]), [(2, B)]);
        // Written in steps: only the last one stays.
        assert_eq!(taken(&[A, B, C, C, C]), [(3, C)]);
        // Away for a moment while it is replaced, and the same again.
        assert_eq!(taken(&[A, None, B, B]), [(3, B)]);
        assert_eq!(taken(&[A, None, A, A]), []);
        // Gone for good is news, once; and so is its return.
        assert_eq!(taken(&[A, None, None, None, A, A]), [(2, None), (5, A)]);
        // A change and back.
        assert_eq!(taken(&[A, B, A, B, B]), [(4, B)]);
    }

    proptest! {
        /// Whatever happened before, a content that stays is taken, and nothing is taken twice in a row.
        #[test]
        fn what_stays_is_taken(prints in prop::collection::vec(0_u8..4, 1..30)) {
            let print = |n: &u8| (*n > 0).then_some([*n; 32]);
            let mut prints: Vec<Print> = prints.iter().map(print).collect();
            let last = prints[prints.len() - 1];
            prints.extend([last, last]);
            let taken = taken(&prints);
            let end = taken.last().map_or(A, |(_, print)| *print);
            prop_assert_eq!(end, last);
            let mut before = A;
            for (n, print) in taken {
                prop_assert_ne!(print, before);
                prop_assert!(n > 0 && prints[n - 1] == print);
                before = print;
            }
        }
    }
}
