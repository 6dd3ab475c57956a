//! Memory keeps the rules of the replicated machine: what one does, the other does.

use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::{Expect, SESSIONS};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Bench, benches, memory, wait};
use crate::Store;
use crate::kv::NotWritten;

#[derive(Clone, Debug)]
enum Step {
    Put { key: usize, expect: Seen, lasts: Option<u64> },
    Delete { key: usize, expect: Seen },
    Touch { key: usize, lasts: u64 },
    Advance(u64),
    Expire,
}

/// What a step expects, so that it means the same in both.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Any,
    Absent,
    /// The revision that is there now, past its deadline or not.
    Present,
    /// One that was there before.
    Stale,
}

/// Two of sessions, as long as such keys are.
pub(super) const KEYS: [&[u8]; 4] =
    [b"s/0000000000000one", b"s/0000000000000two", b"j/one", b"x/two"];

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let expect =
        prop_oneof![Just(Seen::Any), Just(Seen::Absent), Just(Seen::Present), Just(Seen::Stale)];
    prop_oneof![
        4 => (key.clone(), expect.clone(), prop::option::of(0_u64..20))
            .prop_map(|(key, expect, lasts)| Step::Put { key, expect, lasts }),
        2 => (key.clone(), expect).prop_map(|(key, expect)| Step::Delete { key, expect }),
        2 => (key, 0_u64..40).prop_map(|(key, lasts)| Step::Touch { key, lasts }),
        3 => (1_u64..10).prop_map(Step::Advance),
        1 => Just(Step::Expire),
    ]
}

/// What can be seen of a store, with revisions as they compare to those seen before.
type Sight = (Option<(Bytes, Option<u64>)>, Option<(Bytes, Option<u64>)>);

fn sight(bench: &Bench) -> (Vec<Sight>, Vec<Bytes>) {
    let kv = &bench.store.kv;
    let seen = |entry: holdfast_engine::replicated::KvEntry| (entry.value, entry.deadline);
    let entries = KEYS.iter().map(|key| {
        let (present, past) =
            wait(async { (kv.get_fresh(key).await, kv.get_even_past(key).await) });
        (present.unwrap().map(seen), past.unwrap().map(seen))
    });
    let mut due = wait(kv.due(SESSIONS, 10));
    due.sort_unstable();
    (entries.collect(), due)
}

fn outcome<T>(result: Result<T, NotWritten>) -> Result<(), Option<Bytes>> {
    match result {
        Ok(_) => Ok(()),
        Err(NotWritten::Mismatch(found)) => Err(found.map(|entry| entry.value)),
        Err(NotWritten::Failed(error)) => panic!("{error}"),
    }
}

fn take(bench: &Bench, number: usize, step: &Step) -> Result<(), Option<Bytes>> {
    let kv = &bench.store.kv;
    let key = |index: usize| Bytes::from_static(KEYS[index]);
    let expected = |index: usize, expect: Seen| match expect {
        Seen::Any => Expect::Any,
        Seen::Absent => Expect::Absent,
        Seen::Stale => Expect::Revision(0),
        Seen::Present => {
            let found = wait(kv.get_even_past(KEYS[index])).unwrap();
            Expect::Revision(found.map_or(0, |entry| entry.revision))
        }
    };
    match step {
        Step::Put { key: at, expect, lasts } => {
            let value = Bytes::from(format!("value {number}"));
            let deadline = lasts.map(|lasts| kv.now() + lasts);
            outcome(wait(kv.put(key(*at), value, expected(*at, *expect), deadline)))
        }
        Step::Delete { key: at, expect } => {
            outcome(wait(kv.delete(key(*at), expected(*at, *expect))))
        }
        Step::Touch { key: at, lasts } => outcome(wait(kv.touch(key(*at), kv.now() + lasts))),
        Step::Advance(by) => {
            bench.advance(Duration::from_millis(*by));
            Ok(())
        }
        Step::Expire => {
            bench.expire();
            Ok(())
        }
    }
}

fn do_the_same(steps: &[Step], benches: &[Bench]) -> Result<(), TestCaseError> {
    for (number, step) in steps.iter().enumerate() {
        let outcomes: Vec<_> = benches.iter().map(|it| take(it, number, step)).collect();
        prop_assert_eq!(&outcomes[0], &outcomes[1], "step {} {:?}", number, step);
        let sights: Vec<_> = benches.iter().map(sight).collect();
        prop_assert_eq!(&sights[0], &sights[1], "after step {} {:?}", number, step);
    }
    Ok(())
}

fn revisions_rise(steps: &[Step], bench: &Bench) -> Result<(), TestCaseError> {
    let mut highest = 0;
    for (number, step) in steps.iter().enumerate() {
        let done = take(bench, number, step).is_ok();
        let Step::Put { key, .. } = step else { continue };
        let found = wait(bench.store.kv.get_even_past(KEYS[*key])).unwrap();
        let Some(entry) = found else { continue };
        if done {
            prop_assert!(entry.revision > highest, "{}", bench.name);
            highest = entry.revision;
        } else {
            prop_assert!(entry.revision <= highest, "{}", bench.name);
        }
    }
    Ok(())
}

/// Compares the stores that `make` makes with memory.
pub(crate) fn compare_with_memory(cases: u32, make: impl Fn() -> Store) {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let bench = |name, store| Bench { name, store, group: None };
    runner
        .run(&prop::collection::vec(step(), 1..40), |steps| {
            do_the_same(&steps, &[bench("memory", memory()), bench("redis", make())])?;
            revisions_rise(&steps, &bench("redis", make()))
        })
        .unwrap();
}

proptest! {
    #[test]
    fn memory_and_the_machine_do_the_same(steps in prop::collection::vec(step(), 1..40)) {
        do_the_same(&steps, &benches())?;
    }

    #[test]
    fn revisions_rise_and_are_never_used_twice(steps in prop::collection::vec(step(), 1..40)) {
        for bench in benches() {
            revisions_rise(&steps, &bench)?;
        }
    }
}
