//! Whether a history of one register can be put into an order that a single copy would have given.
//!
//! The search of Wing and Gong with memory of where it has been (Lowe): an operation may come next if
//! it began before every operation that is still to come has ended. An operation whose outcome is
//! unknown may come at any time after it began, or never.

use std::collections::HashSet;

pub(crate) type Value = u64;

/// What a client did to the register, and what it learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Read {
        found: Option<Value>,
    },
    /// Writes whatever is there.
    Write {
        value: Value,
    },
    /// Writes if `expect` is there. `found` is what was there instead.
    Swap {
        expect: Option<Value>,
        value: Value,
        found: Result<(), Option<Value>>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    pub(crate) began: u64,
    /// None if the outcome is unknown.
    pub(crate) ended: Option<u64>,
}

/// The register after the operation, if it can come now.
fn step(state: Option<Value>, operation: &Operation) -> Option<Option<Value>> {
    match operation.action {
        Action::Read { found } => (found == state).then_some(state),
        Action::Write { value } => Some(Some(value)),
        Action::Swap { expect, value, .. } if operation.ended.is_none() => {
            Some(if state == expect { Some(value) } else { state })
        }
        Action::Swap { expect, value, found: Ok(()) } => (state == expect).then_some(Some(value)),
        Action::Swap { expect, found: Err(found), .. } => {
            (state == found && found != expect).then_some(state)
        }
    }
}

/// Without the operations of unknown outcome whose value nobody has seen: they may never have been made,
/// and whatever can be explained with them can be explained without.
fn seen_or_known(history: &[Operation]) -> Vec<Operation> {
    let observed = |it: &Operation| match it.action {
        Action::Read { found } => found,
        Action::Write { .. } => None,
        Action::Swap { expect, found: Ok(()), .. } => expect,
        Action::Swap { found: Err(found), .. } => found,
    };
    let written = |it: &Operation| match it.action {
        Action::Read { .. } => None,
        Action::Write { value } | Action::Swap { value, .. } => Some(value),
    };
    let (mut kept, mut rest): (Vec<Operation>, Vec<Operation>) =
        history.iter().copied().partition(|it| it.ended.is_some());
    loop {
        let values: HashSet<Value> = kept.iter().filter_map(observed).collect();
        let (more, others): (Vec<Operation>, Vec<Operation>) =
            rest.into_iter().partition(|it| written(it).is_some_and(|it| values.contains(&it)));
        rest = others;
        if more.is_empty() {
            return kept;
        }
        kept.extend(more);
    }
}

/// Whether the history is linearizable, from an absent value on.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    let mut operations = seen_or_known(history);
    operations.sort_by_key(|it| it.began);
    let mut seen: HashSet<(Vec<u64>, Option<Value>)> = HashSet::new();
    let done = vec![0_u64; operations.len().div_ceil(64)];
    let mut open = vec![(done, None, 0_usize)];
    while let Some((done, state, first)) = open.pop() {
        let is_done = |index: usize| done[index / 64] >> (index % 64) & 1 == 1;
        let first = (first..operations.len()).find(|it| !is_done(*it)).unwrap_or(operations.len());
        let mut end = u64::MAX;
        let mut next = Vec::new();
        for (index, operation) in operations.iter().enumerate().skip(first) {
            if is_done(index) {
                continue;
            }
            if operation.began > end {
                break;
            }
            end = end.min(operation.ended.unwrap_or(u64::MAX));
            next.push(index);
        }
        if end == u64::MAX {
            // Nothing is left whose outcome is known.
            return true;
        }
        next.retain(|it| operations[*it].began <= end);
        // The last is tried first: of those that are known the one that ended first.
        next.sort_by_key(|it| std::cmp::Reverse(operations[*it].ended.unwrap_or(u64::MAX)));
        for index in next {
            let Some(state) = step(state, &operations[index]) else { continue };
            let mut done = done.clone();
            done[index / 64] |= 1 << (index % 64);
            if seen.insert((done.clone(), state)) {
                open.push((done, state, first));
            }
            assert!(seen.len() < 1_000_000, "the history is too entangled to be judged");
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(began: u64, ended: u64, action: Action) -> Operation {
        Operation { action, began, ended: Some(ended) }
    }

    fn unknown(began: u64, action: Action) -> Operation {
        Operation { action, began, ended: None }
    }

    fn read(found: impl Into<Option<Value>>) -> Action {
        Action::Read { found: found.into() }
    }

    fn write(value: Value) -> Action {
        Action::Write { value }
    }

    fn swap(expect: impl Into<Option<Value>>, value: Value) -> Action {
        Action::Swap { expect: expect.into(), value, found: Ok(()) }
    }

    fn refused(expect: impl Into<Option<Value>>, value: Value, found: Option<Value>) -> Action {
        Action::Swap { expect: expect.into(), value, found: Err(found) }
    }

    #[track_caller]
    fn check(linearizable: bool, history: &[Operation]) {
        assert_eq!(is_linearizable(history), linearizable);
    }

    #[test]
    fn what_a_single_copy_would_have_done() {
        check(true, &[]);
        check(true, &[at(0, 1, read(None)), at(2, 3, write(1)), at(4, 5, read(1))]);
        // At the same time: either order.
        check(true, &[at(0, 10, write(1)), at(1, 9, read(None)), at(11, 12, read(1))]);
        check(true, &[at(0, 10, write(1)), at(1, 9, write(2)), at(11, 12, read(1))]);
        check(true, &[at(0, 10, write(1)), at(1, 9, write(2)), at(11, 12, read(2))]);
        check(true, &[at(0, 1, swap(None, 1)), at(2, 3, refused(None, 2, Some(1)))]);
        // Two at the same time from the same value: one of them finds the other's.
        check(true, &[at(0, 9, swap(None, 1)), at(0, 9, refused(None, 2, Some(1)))]);
    }

    #[test]
    fn an_unknown_outcome_comes_late_or_never() {
        check(true, &[unknown(0, write(1)), at(5, 6, read(None)), at(7, 8, read(1))]);
        check(true, &[unknown(0, write(1)), at(5, 6, read(None))]);
        check(true, &[unknown(0, swap(None, 1)), at(5, 6, swap(1, 2)), at(7, 8, read(2))]);
        check(true, &[unknown(0, swap(7, 1)), at(5, 6, read(None))]);
        // It comes once.
        check(
            false,
            &[
                unknown(0, write(1)),
                at(1, 2, read(1)),
                at(3, 4, write(2)),
                at(5, 6, read(2)),
                at(7, 8, read(1)),
            ],
        );
        // Not before it began.
        check(false, &[at(0, 1, read(1)), unknown(2, write(1))]);
    }

    #[test]
    fn what_no_single_copy_would_have_done() {
        // A read of what was overwritten and acknowledged.
        check(false, &[at(0, 1, write(1)), at(2, 3, write(2)), at(4, 5, read(1))]);
        // A write that was acknowledged and is lost.
        check(false, &[at(0, 1, write(1)), at(2, 3, read(None))]);
        // A value from nowhere.
        check(false, &[at(0, 1, read(7))]);
        // Two who both replaced the same value.
        check(false, &[at(0, 9, swap(None, 1)), at(1, 8, swap(None, 2)), at(10, 11, read(2))]);
        // Refused though what it expected was there all the time.
        check(false, &[at(0, 1, write(1)), at(2, 3, refused(1, 2, Some(5)))]);
        check(false, &[at(0, 1, write(1)), at(2, 3, refused(1, 2, Some(1)))]);
        // Back in time: read the new, then the old.
        check(
            false,
            &[at(0, 1, write(1)), at(2, 20, write(2)), at(3, 4, read(2)), at(5, 6, read(1))],
        );
    }

    /// A long history of three clients in turn is judged quickly, right or wrong.
    #[test]
    fn long_histories() {
        let mut history = Vec::new();
        for round in 0..1000 {
            let (time, value) = (round * 10, round + 1);
            let before = (round > 0).then_some(round);
            history.push(at(time, time + 5, swap(before, value)));
            history.push(at(time + 1, time + 6, refused(before, value + 10_000, Some(value))));
            if round % 50 == 0 {
                history.push(unknown(time + 2, write(value + 100_000)));
            }
        }
        check(true, &history);
        history.push(at(20_000, 20_001, read(999)));
        check(false, &history[..]);
    }
}
