//! The journal, over every store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::journal::{Arrival, CallKey, Entry, KEEP, Phase, arrival};

use super::{ME, OTHER, START, benches, wait};
use crate::{Begin, MAX_ANSWER, StoreError};

pub(super) const KEY: CallKey = CallKey([3; 32]);

pub(super) fn entry(phase: Phase) -> Entry {
    Entry {
        owner: ME,
        principal: 7,
        server: "files".into(),
        class: 3,
        instance: 1,
        started: START,
        by_balancer: true,
        phase,
    }
}

fn complete(answer: usize) -> Entry {
    let answer = Some(Bytes::from(vec![b'a'; answer]));
    entry(Phase::Complete { answer, status: 200, is_stream: true })
}

#[tokio::test]
pub(super) async fn a_call_has_one_entry() {
    for bench in benches() {
        let store = &bench.store;
        assert_eq!(store.entry(&KEY).await.unwrap_err(), StoreError::Missing);
        let Begin::Mine(revision) = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap() else {
            panic!("{}: there was none", bench.name)
        };
        let theirs = Entry { owner: OTHER, ..entry(Phase::Pending) };
        let found = Begin::Other(entry(Phase::Pending), revision);
        assert_eq!(store.begin(&KEY, &theirs).await.unwrap(), found, "{}", bench.name);
        assert_eq!(store.entry(&KEY).await.unwrap(), (entry(Phase::Pending), revision));
    }
}

#[test]
pub(super) fn of_many_that_begin_at_once_one_has_the_entry() {
    for bench in benches() {
        let store = Arc::new(bench.store);
        for round in 0..50 {
            let key = CallKey([round; 32]);
            let mine = std::thread::scope(|scope| {
                let begun: Vec<_> = (0..4)
                    .map(|_| {
                        let store = &store;
                        // All of one node, in one millisecond: their entries are equal.
                        scope.spawn(move || wait(store.begin(&key, &entry(Phase::Pending))))
                    })
                    .collect();
                let begun = begun.into_iter().map(|begun| begun.join().unwrap().unwrap());
                begun.filter(|begun| matches!(begun, Begin::Mine(_))).count()
            });
            assert_eq!(mine, 1, "{} round {round}", bench.name);
        }
    }
}

#[tokio::test]
pub(super) async fn what_is_settled_without_waiting_is_settled_once() {
    for bench in benches() {
        let (store, name) = (&bench.store, bench.name);
        let post = async |revision, phase| {
            let (told, hears) = tokio::sync::oneshot::channel();
            store.post_settled(&KEY, revision, &entry(phase), move |settled| {
                let _ = told.send(settled);
            });
            hears.await.unwrap()
        };
        let Begin::Mine(revision) = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap() else {
            panic!("{name}: there was none")
        };
        match post(revision, Phase::Unknown).await {
            Ok(settled) => {
                assert_eq!(store.entry(&KEY).await.unwrap(), (entry(Phase::Unknown), settled));
                let again = post(revision, Phase::Failed).await;
                assert!(matches!(again, Err(StoreError::Conflict { .. })), "{name}: {again:?}");
                assert_eq!(store.entry(&KEY).await.unwrap(), (entry(Phase::Unknown), settled));
            }
            // It has to be waited for: nothing was done.
            Err(StoreError::Unavailable(_)) => {
                assert_eq!(store.entry(&KEY).await.unwrap(), (entry(Phase::Pending), revision));
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[tokio::test]
pub(super) async fn who_was_overtaken_does_not_settle() {
    for bench in benches() {
        let store = &bench.store;
        let Begin::Mine(mine) = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap() else {
            panic!("there was none")
        };
        let taken = Entry { owner: OTHER, ..entry(Phase::Pending) };
        let theirs = store.settle(&KEY, mine, &taken).await.unwrap();
        assert!(theirs > mine, "{}", bench.name);
        assert_eq!(
            store.settle(&KEY, mine, &complete(3)).await.unwrap_err(),
            StoreError::Conflict { expected: mine, found: theirs }
        );
        assert_eq!(store.entry(&KEY).await.unwrap(), (taken, theirs));
        assert_eq!(
            store.settle(&CallKey([4; 32]), mine, &complete(3)).await.unwrap_err(),
            StoreError::Missing
        );
    }
}

#[tokio::test]
pub(super) async fn what_waits_goes_or_is_taken_over_and_never_both() {
    for bench in benches() {
        let (store, name) = (&bench.store, bench.name);
        let theirs = Entry { owner: OTHER, ..entry(Phase::Pending) };
        for (round, taken_first) in [false, true].into_iter().enumerate() {
            let key = CallKey([20 + round as u8; 32]);
            let begun = store.begin(&key, &entry(Phase::Waiting)).await.unwrap();
            let Begin::Mine(waiting) = begun else { panic!("{name}: there was none") };
            let (first, second) = match taken_first {
                true => (theirs.clone(), entry(Phase::Pending)),
                false => (entry(Phase::Pending), theirs.clone()),
            };
            let found = store.settle(&key, waiting, &first).await.unwrap();
            assert_eq!(
                store.settle(&key, waiting, &second).await.unwrap_err(),
                StoreError::Conflict { expected: waiting, found },
                "{name}"
            );
            assert_eq!(store.entry(&key).await.unwrap(), (first, found), "{name}");
        }
    }
}

#[tokio::test]
pub(super) async fn an_answer_is_kept_and_one_that_is_too_large_is_known_to_have_been() {
    for bench in benches() {
        let store = &bench.store;
        let Begin::Mine(revision) = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap() else {
            panic!("there was none")
        };
        let largest = complete(MAX_ANSWER);
        let revision = store.settle(&KEY, revision, &largest).await.unwrap();
        let (found, _) = store.entry(&KEY).await.unwrap();
        assert_eq!(found, largest, "{}", bench.name);
        assert!(matches!(arrival(Some(&found), 7, true, true), Arrival::Deliver { .. }));
        assert_eq!(arrival(Some(&found), 8, true, true), Arrival::Forbidden);

        store.settle(&KEY, revision, &complete(MAX_ANSWER + 1)).await.unwrap();
        let (found, _) = store.entry(&KEY).await.unwrap();
        let without = Phase::Complete { answer: None, status: 200, is_stream: true };
        assert_eq!(found, entry(without), "{}", bench.name);
        assert_eq!(arrival(Some(&found), 7, true, true), Arrival::NotKept);
    }
}

#[tokio::test]
pub(super) async fn entries_live_as_long_as_they_are_kept() {
    let moment = Duration::from_millis(1);
    for bench in benches() {
        let store = &bench.store;
        let begun = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap();
        let Begin::Mine(revision) = begun else { panic!("there was none") };
        bench.advance(KEEP - moment);
        bench.expire();
        store.keep_entry(&KEY).await.unwrap();
        bench.advance(KEEP - moment);
        bench.expire();
        let revision = store.settle(&KEY, revision, &complete(3)).await.unwrap();
        bench.advance(KEEP - moment);
        bench.expire();
        assert_eq!(store.entry(&KEY).await.unwrap(), (complete(3), revision), "{}", bench.name);
        bench.advance(moment);
        assert_eq!(store.entry(&KEY).await.unwrap_err(), StoreError::Missing);
        assert_eq!(store.keep_entry(&KEY).await.unwrap_err(), StoreError::Missing);
        let at = crate::keys::journal(&KEY);
        assert!(store.kv.get_even_past(&at).await.unwrap().is_some());
        bench.expire();
        assert!(store.kv.get_even_past(&at).await.unwrap().is_none(), "{}", bench.name);
    }
}

#[tokio::test]
pub(super) async fn every_phase_is_read_back() {
    let streaming = Phase::Streaming {
        stream: u128::MAX,
        server_event: Some("e-1".into()),
        server_session: None,
        instance: u16::MAX,
    };
    for bench in benches() {
        let store = &bench.store;
        let begun = store.begin(&KEY, &entry(Phase::Pending)).await.unwrap();
        let Begin::Mine(mut revision) = begun else { panic!("there was none") };
        let others = [Phase::Waiting, Phase::Failed, Phase::Unknown, complete(9).phase];
        for phase in std::iter::once(streaming.clone()).chain(others) {
            revision = store.settle(&KEY, revision, &entry(phase.clone())).await.unwrap();
            assert_eq!(store.entry(&KEY).await.unwrap(), (entry(phase), revision));
        }
    }
}
