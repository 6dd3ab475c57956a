//! Which calls under way were admitted after the last one that succeeded.
//!
//! A server that begins to hang leaves unanswered whatever its clients had sent by then, all within a moment of its
//! last answers. What has succeeded says nothing of a call that was admitted after it, however shortly. So calls are
//! numbered as they are admitted, and the newest of them are remembered one by one; of older ones that are under way
//! only how many there are in each slot of the [`Window`](super::window::Window).

use super::window::{SLOTS, index};

/// Calls that are remembered one by one.
const NEWEST: u64 = 128;

#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// The number of the next call.
    next: u64,
    /// One more than the highest number of a call that has succeeded.
    since: u64,
    /// Which of the newest calls are under way, the last one in the lowest bit.
    newest: u128,
    /// Calls under way that are older than these and not before `since`, by slots.
    older: [u32; SLOTS],
    /// The number of each slot's first call, or of a later slot's if it has none.
    first: [u64; SLOTS],
}

// === impl Row ===

impl Row {
    /// Calls are admitted in this slot from here on.
    pub(super) fn begins(&mut self, slot: u64) {
        self.first[index(slot)] = self.next;
    }

    /// Numbers a call. `slots` are those that are not ripe, down from the one that is being filled.
    pub(super) fn admitted(&mut self, slots: impl Iterator<Item = u64>) -> u64 {
        let number = self.next;
        if self.newest >> (NEWEST - 1) == 1 {
            self.forgets(number - NEWEST, slots);
        }
        self.newest = self.newest << 1 | 1;
        self.next = number + 1;
        number
    }

    /// From here on the oldest of the newest is one of many.
    #[cold]
    fn forgets(&mut self, number: u64, mut slots: impl Iterator<Item = u64>) {
        let its = slots.find(|slot| self.first[index(*slot)] <= number);
        if let Some(slot) = its.filter(|_| number >= self.since) {
            self.older[index(slot)] += 1;
        }
    }

    /// The call is not under way any more.
    pub(super) fn ended(&mut self, slot: u64, number: u64) {
        match self.bit(number) {
            Some(bit) => self.newest &= !bit,
            None if number >= self.since => {
                let older = &mut self.older[index(slot)];
                *older = older.saturating_sub(1);
            }
            None => {}
        }
    }

    /// The call has succeeded: nothing is told by what was admitted before it.
    pub(super) fn succeeded(&mut self, number: u64) {
        if number >= self.since {
            self.since = number + 1;
            self.older = [0; SLOTS];
        }
    }

    /// How many calls of a slot that has become ripe are under way and were admitted after all that have succeeded.
    /// Takes them off the row. To be asked for the oldest slot first.
    pub(super) fn take(&mut self, slot: u64) -> u32 {
        let ends = self.first[index(slot + 1)];
        let older = std::mem::take(&mut self.older[index(slot)]);
        let from = self.first[index(slot)].max(self.since);
        let calls = self.newest & self.from(from) & !self.from(ends);
        self.newest &= self.from(ends);
        older + calls.count_ones()
    }

    /// Where a call is remembered, if it is.
    fn bit(&self, number: u64) -> Option<u128> {
        let back = self.next.checked_sub(number + 1)?;
        (back < NEWEST).then(|| 1 << back)
    }

    /// Those of the newest calls that have this number or a higher one.
    fn from(&self, number: u64) -> u128 {
        match self.next.saturating_sub(number) {
            0 => 0,
            many if many >= NEWEST => u128::MAX,
            many => (1 << many) - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call under way, as one would write it down.
    #[derive(Clone, Copy)]
    struct Call {
        slot: u64,
        number: u64,
    }

    /// Chance from a seed (a linear congruential generator).
    fn below(seed: &mut u64, end: usize) -> usize {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(*seed >> 33).unwrap() % end
    }

    /// Random calls, of which a slot has `each` at most: the row counts as a list of all calls does.
    fn counts_as_a_list_does(mut seed: u64, each: usize, succeed: usize) {
        let (mut row, mut ripe) = (Row::default(), 0);
        let mut list: Vec<Call> = Vec::new();
        let mut since = 0;
        for slot in 0..400 {
            row.begins(slot);
            if slot > 8 {
                let [oldest, before] = [ripe, since];
                let here = list.iter().filter(|it| it.slot == oldest && it.number >= before);
                let expected = here.count();
                list.retain(|it| it.slot != oldest);
                assert_eq!(row.take(oldest), u32::try_from(expected).unwrap(), "slot {oldest}");
                ripe += 1;
            }
            for _ in 0..below(&mut seed, each + 1) {
                let number = row.admitted((ripe..=slot).rev());
                list.push(Call { slot, number });
                if below(&mut seed, 100) < succeed {
                    let call = list.remove(below(&mut seed, list.len()));
                    row.ended(call.slot, call.number);
                    // Of calls that are older than those remembered one by one only the newest can say more.
                    if number - call.number < NEWEST {
                        row.succeeded(call.number);
                        since = since.max(call.number + 1);
                    }
                }
                if below(&mut seed, 4) == 0 && !list.is_empty() {
                    let call = list.remove(below(&mut seed, list.len()));
                    row.ended(call.slot, call.number);
                }
            }
        }
    }

    #[test]
    fn a_row_counts_as_a_list_of_all_calls_does() {
        for seed in 0..20 {
            for (each, succeed) in [(3, 20), (12, 5), (40, 1), (400, 1), (400, 0), (3, 0)] {
                counts_as_a_list_does(seed, each, succeed);
            }
        }
    }
}
