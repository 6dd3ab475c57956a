//! Lets a share of the calls pass: at random, so that no caller's rhythm falls in with it, and yet
//! exact over any run of calls.

/// A running account: each call brings the share, each one that passes costs a whole. The fuller it
/// is, the likelier a call passes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// In thousandths of a call; from [`EMPTY`] to [`FULL`].
    credit: i32,
}

/// From here on the next call passes for certain.
const FULL: i32 = 16_000;
/// So much in advance is remembered.
const EMPTY: i32 = -1_000;

impl Share {
    /// Whether this call passes, at so many thousandths. Over any run of calls, as many have passed
    /// as the share says, give or take seventeen.
    pub(super) fn passes(&mut self, thousandths: u16, chance: u64) -> bool {
        self.credit += i32::from(thousandths.min(1000));
        // The high half of the product is `chance` scaled to 0..FULL.
        let drawn = i32::try_from((u128::from(chance) * u128::from(FULL.unsigned_abs())) >> 64);
        let passes = thousandths >= 1000 || drawn.is_ok_and(|drawn| drawn < self.credit);
        if passes {
            self.charge();
        }
        passes
    }

    /// A call passed, whatever its share.
    pub(super) fn charge(&mut self) {
        self.credit = (self.credit - 1000).clamp(EMPTY, FULL);
    }
}
