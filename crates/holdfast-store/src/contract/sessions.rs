//! Sessions, over every store.

use std::sync::Arc;
use std::time::Duration;

use super::{MINUTE, benches, later, record, wait};
use crate::{SessionKey, SessionRecord, StoreError};

#[tokio::test]
pub(super) async fn what_is_created_is_read_back() {
    for bench in benches() {
        let store = &bench.store;
        let created = store.create(record(1)).await.unwrap();
        assert_eq!(created, SessionRecord { revision: created.revision, ..record(1) });
        assert_eq!(store.get(SessionKey(1)).await.unwrap(), created, "{}", bench.name);
        assert_eq!(store.get_local(SessionKey(1)).unwrap(), created);
        assert_eq!(store.get_fresh(SessionKey(1)).await.unwrap(), created);
        assert_eq!(store.create(record(1)).await.unwrap_err(), StoreError::Exists);
        assert_eq!(store.get(SessionKey(2)).await.unwrap_err(), StoreError::Missing);
        assert_eq!(store.get_local(SessionKey(2)).unwrap_err(), StoreError::Missing);
        let missing = SessionRecord { revision: created.revision, ..record(2) };
        assert_eq!(store.replace(missing).await.unwrap_err(), StoreError::Missing);
        assert_eq!(store.delete(SessionKey(2), MINUTE).await.unwrap_err(), StoreError::Missing);
        assert_eq!(store.touch(SessionKey(2), later(MINUTE)).await, Err(StoreError::Missing));
    }
}

#[tokio::test]
pub(super) async fn of_two_writers_with_one_revision_one_wins() {
    for bench in benches() {
        let store = &bench.store;
        let first = store.create(record(1)).await.unwrap();
        let mut mine = first.clone();
        mine.binding.generation = 2;
        let mut theirs = first.clone();
        theirs.initialized = true;
        let second = store.replace(mine).await.unwrap();
        assert!(second.revision > first.revision, "{}", bench.name);
        assert_eq!(
            store.replace(theirs).await.unwrap_err(),
            StoreError::Conflict { expected: first.revision, found: second.revision }
        );
        let stored = store.get(SessionKey(1)).await.unwrap();
        assert_eq!((stored.binding.generation, stored.initialized), (2, false));
        assert_eq!(stored, second);
    }
}

#[test]
pub(super) fn no_change_is_lost_among_many_writers() {
    const WRITERS: usize = 4;
    const CHANGES: usize = 50;
    for bench in benches() {
        let store = Arc::new(bench.store);
        wait(store.create(record(1))).unwrap();
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || {
                    let mut left = CHANGES;
                    while left > 0 {
                        let mut read = wait(store.get(SessionKey(1))).unwrap();
                        read.binding.generation += 1;
                        match wait(store.replace(read)) {
                            Ok(_) => left -= 1,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let changes = store.get_local(SessionKey(1)).unwrap().binding.generation - 1;
        assert_eq!(changes as usize, WRITERS * CHANGES, "{}", bench.name);
    }
}

#[tokio::test]
pub(super) async fn a_deleted_session_cannot_be_written_back() {
    for bench in benches() {
        let store = &bench.store;
        let live = store.create(record(1)).await.unwrap();
        assert_eq!(store.delete(live.key, MINUTE).await.unwrap(), live, "{}", bench.name);
        assert_eq!(store.get(live.key).await.unwrap_err(), StoreError::Gone);
        assert_eq!(store.get_local(live.key).unwrap_err(), StoreError::Gone);
        assert_eq!(store.replace(live.clone()).await.unwrap_err(), StoreError::Gone);
        assert_eq!(store.create(live.clone()).await.unwrap_err(), StoreError::Gone);
        assert_eq!(store.touch(live.key, later(MINUTE)).await.unwrap_err(), StoreError::Gone);
        assert_eq!(store.delete(live.key, MINUTE).await.unwrap_err(), StoreError::Gone);
    }
}

#[tokio::test]
pub(super) async fn tombstones_go_when_they_are_due_and_not_before() {
    for bench in benches() {
        let store = &bench.store;
        let live = store.create(record(1)).await.unwrap();
        store.delete(live.key, MINUTE).await.unwrap();
        bench.advance(MINUTE - Duration::from_millis(1));
        assert!(store.due(10).await.is_empty());
        assert_eq!(store.get(live.key).await.unwrap_err(), StoreError::Gone, "{}", bench.name);
        bench.advance(Duration::from_millis(1));
        let at = crate::keys::session(live.key);
        assert!(store.kv.get_even_past(&at).await.unwrap().is_some());
        assert!(store.due(10).await.is_empty(), "a tombstone is nobody's session");
        assert!(store.kv.get_even_past(&at).await.unwrap().is_none(), "{}", bench.name);
        assert_eq!(store.get(live.key).await.unwrap_err(), StoreError::Missing);
    }
}

#[tokio::test]
pub(super) async fn a_session_lasts_as_long_as_it_is_touched() {
    for bench in benches() {
        let store = &bench.store;
        let deadline = Some(later(MINUTE));
        let live = store.create(SessionRecord { deadline, ..record(1) }).await.unwrap();
        bench.advance(MINUTE / 2);
        store.touch(live.key, later(2 * MINUTE)).await.unwrap();
        // An earlier deadline changes nothing.
        store.touch(live.key, later(MINUTE)).await.unwrap();
        bench.advance(MINUTE);
        let touched = store.get(live.key).await.unwrap();
        assert_eq!(touched.deadline, Some(later(2 * MINUTE)), "{}", bench.name);
        assert_eq!(touched.revision, live.revision, "whoever read it before may still write");
        // And so does a write by who has not seen the touch.
        let written = store.replace(live).await.unwrap();
        assert_eq!(written.deadline, Some(later(2 * MINUTE)));
        bench.advance(MINUTE / 2);
        assert_eq!(store.get(written.key).await.unwrap_err(), StoreError::Missing);
        assert_eq!(
            store.touch(written.key, later(9 * MINUTE)).await.unwrap_err(),
            StoreError::Missing
        );
        assert_eq!(store.replace(written).await.unwrap_err(), StoreError::Missing);
    }
}

#[tokio::test]
pub(super) async fn an_expired_session_is_there_for_one_that_ends_it() {
    for bench in benches() {
        let store = &bench.store;
        for key in 1..=3 {
            let deadline = Some(later(MINUTE * u32::try_from(key).unwrap()));
            store.create(SessionRecord { deadline, ..record(key) }).await.unwrap();
        }
        assert!(store.due(10).await.is_empty());
        bench.advance(2 * MINUTE);
        // Whatever else is forgotten, sessions are not.
        bench.expire();
        let keys = |due: &[SessionRecord]| due.iter().map(|it| it.key.0).collect::<Vec<_>>();
        assert_eq!(keys(&store.due(1).await), [1], "{}", bench.name);
        let due = store.due(10).await;
        assert_eq!(keys(&due), [1, 2]);
        assert_eq!(due[0].binding, record(1).binding, "what it is cleaned up with");
        assert_eq!(store.delete(SessionKey(1), MINUTE).await.unwrap(), due[0]);
        assert_eq!(store.delete(SessionKey(1), MINUTE).await.unwrap_err(), StoreError::Gone);
        assert_eq!(keys(&store.due(10).await), [2]);
        assert!(store.get(SessionKey(3)).await.is_ok());
    }
}

#[tokio::test]
pub(super) async fn what_cannot_be_read_says_so_and_goes_when_it_is_due() {
    use holdfast_engine::replicated::Expect;
    for bench in benches() {
        let store = &bench.store;
        let at = crate::keys::session(SessionKey(1));
        let strange = bytes::Bytes::from_static(b"\xffwritten by a later version");
        store.kv.put(at.clone(), strange, Expect::Any, Some(later(MINUTE))).await.unwrap();
        let error = store.get(SessionKey(1)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the record cannot be read: it has format Some(255), and this version reads 1"
        );
        assert_eq!(store.create(record(1)).await.unwrap_err(), error);
        assert_eq!(store.replace(record(1)).await.unwrap_err(), error);
        assert_eq!(store.delete(SessionKey(1), MINUTE).await.unwrap_err(), error);
        bench.advance(MINUTE);
        assert!(store.due(10).await.is_empty());
        assert!(store.kv.get_even_past(&at).await.unwrap().is_none(), "{}", bench.name);
    }
}
