//! Lets a share of the calls pass: exact over any run of calls, and not in a rhythm that could fall
//! in with that of the callers.

/// A running account: each call brings the share, each one that passes costs a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// In thousandths of a call; between -1000 and 1500.
    credit: i32,
}

impl Share {
    /// Whether this call passes, at so many thousandths. Over any run of calls, as many have passed
    /// as the share says, give or take two.
    pub(super) fn passes(&mut self, thousandths: u16, chance: u64) -> bool {
        self.credit += i32::from(thousandths.min(1000));
        // A threshold that wanders around a whole call breaks the rhythm and keeps the sum.
        let wander = i32::try_from((u128::from(chance) * 1000) >> 64).unwrap_or(0);
        if thousandths >= 1000 || self.credit >= 500 + wander {
            self.charge();
            return true;
        }
        false
    }

    /// A call passed whatever its share.
    pub(super) fn charge(&mut self) {
        self.credit = (self.credit - 1000).max(-1000);
    }
}
