//! Streams, over every store.

use bytes::Bytes;
use holdfast_engine::journal::CallKey;

use super::{ME, MINUTE, OTHER, benches};
use crate::{StoreError, StreamRecord};

pub(super) fn stream(body: usize) -> StreamRecord {
    StreamRecord {
        stream: 5,
        owner: ME,
        principal: 7,
        server: "files".into(),
        session: Some(9),
        class: 3,
        body: Some(Bytes::from(vec![b'b'; body])),
        journal: Some(CallKey([1; 32])),
        revision: 0,
    }
}

#[tokio::test]
pub(super) async fn a_stream_is_recorded_and_taken_by_one() {
    for bench in benches() {
        let store = &bench.store;
        assert_eq!(store.stream(5).await.unwrap_err(), StoreError::Missing);
        store.put_stream(&stream(3), MINUTE).await.unwrap();
        assert_eq!(store.put_stream(&stream(3), MINUTE).await.unwrap_err(), StoreError::Exists);
        let found = store.stream(5).await.unwrap();
        assert_eq!(found, StreamRecord { revision: found.revision, ..stream(3) });

        let taken = StreamRecord { owner: OTHER, ..found.clone() };
        let revision = store.take_stream(&taken, MINUTE).await.unwrap();
        assert_eq!(
            store.take_stream(&found, MINUTE).await.unwrap_err(),
            StoreError::Conflict { expected: found.revision, found: revision },
            "{}",
            bench.name
        );
        assert_eq!(store.stream(5).await.unwrap(), StreamRecord { revision, ..taken.clone() });
    }
}

#[tokio::test]
pub(super) async fn a_body_is_stored_up_to_its_limit() {
    for bench in benches() {
        let store = &bench.store;
        store.put_stream(&stream(StreamRecord::LONGEST), MINUTE).await.unwrap();
        let body = store.stream(5).await.unwrap().body;
        assert_eq!(body.map(|body| body.len()), Some(StreamRecord::LONGEST), "{}", bench.name);
        let other = StreamRecord { stream: 6, ..stream(StreamRecord::LONGEST + 1) };
        store.put_stream(&other, MINUTE).await.unwrap();
        assert_eq!(store.stream(6).await.unwrap().body, None, "{}", bench.name);
    }
}

#[tokio::test]
pub(super) async fn a_stream_ends_when_its_time_is_over() {
    for bench in benches() {
        let store = &bench.store;
        store.put_stream(&stream(3), MINUTE).await.unwrap();
        bench.advance(MINUTE / 2);
        let found = store.stream(5).await.unwrap();
        store.take_stream(&found, MINUTE).await.unwrap();
        bench.advance(MINUTE / 2);
        bench.expire();
        assert!(store.stream(5).await.is_ok(), "{}", bench.name);
        bench.advance(MINUTE / 2);
        assert_eq!(store.stream(5).await.unwrap_err(), StoreError::Missing);
        bench.expire();
        assert!(
            store.kv.get_even_past(&crate::keys::stream(5)).await.unwrap().is_none(),
            "{}",
            bench.name
        );
    }
}
