//! What every store must do. The suite is written against [`Store`](crate::Store), so a new store
//! is tested by naming it in `stores()`.

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::version::Version;

use crate::{Binding, SessionKey, SessionRecord, Store, StoreError};

fn stores() -> Vec<Store> {
    vec![Store::memory()]
}

fn record(key: u128) -> SessionRecord {
    SessionRecord {
        key: SessionKey(key),
        principal: 7,
        server: Arc::from("files"),
        version: Version::V2025_11_25,
        initialize: Bytes::from_static(b"{}"),
        initialized: false,
        log_level: None,
        subscriptions: std::collections::BTreeMap::new(),
        announces: crate::Announces::default(),
        binding: Binding {
            instance: 0,
            server_session: Some(Arc::from("s-1")),
            generation: 1,
            node: None,
        },
        created: 5,
        deadline: None,
        revision: 0,
    }
}

const KEEP: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_is_created_is_read_back() {
    for store in stores() {
        let created = store.create(record(1)).await.unwrap();
        assert_eq!(created.revision, 1);
        assert_eq!(store.get(SessionKey(1)).await.unwrap(), created);
        assert_eq!(store.create(record(1)).await.unwrap_err(), StoreError::Exists);
        assert_eq!(store.get(SessionKey(2)).await.unwrap_err(), StoreError::Missing);
    }
}

#[tokio::test]
async fn of_two_writers_with_one_revision_one_wins() {
    for store in stores() {
        let first = store.create(record(1)).await.unwrap();
        let mut mine = first.clone();
        mine.binding.generation = 2;
        let mut theirs = first;
        theirs.initialized = true;
        assert_eq!(store.replace(mine).await.unwrap().revision, 2);
        assert_eq!(
            store.replace(theirs).await.unwrap_err(),
            StoreError::Conflict { expected: 1, found: 2 }
        );
        let stored = store.get(SessionKey(1)).await.unwrap();
        assert_eq!((stored.binding.generation, stored.initialized), (2, false));
    }
}

#[tokio::test]
async fn a_deleted_session_cannot_be_written_back() {
    for store in stores() {
        let live = store.create(record(1)).await.unwrap();
        store.delete(live.key, Duration::ZERO, KEEP).await.unwrap();
        assert_eq!(store.get(live.key).await.unwrap_err(), StoreError::Gone);
        assert_eq!(store.replace(live.clone()).await.unwrap_err(), StoreError::Gone);
        assert_eq!(store.create(live.clone()).await.unwrap_err(), StoreError::Gone);
        assert_eq!(
            store.delete(live.key, Duration::ZERO, KEEP).await.unwrap_err(),
            StoreError::Gone
        );
    }
}

#[tokio::test]
async fn tombstones_go_when_they_are_due_and_not_before() {
    for store in stores() {
        store.create(record(1)).await.unwrap();
        store.delete(SessionKey(1), Duration::from_secs(10), KEEP).await.unwrap();
        assert_eq!(store.sweep(Duration::from_secs(69)).await, 0);
        assert_eq!(store.sweep(Duration::from_secs(70)).await, 1);
        assert_eq!(store.get(SessionKey(1)).await.unwrap_err(), StoreError::Missing);
    }
}

#[tokio::test]
async fn a_key_is_not_printed_whole() {
    assert_eq!(format!("{:?}", SessionKey(u128::MAX)), "ffffffffff…");
}
