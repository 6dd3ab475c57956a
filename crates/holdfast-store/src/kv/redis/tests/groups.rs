//! Durable writes share a `WAIT`, and are answered when it suffices.

use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Redis, Topology};
use holdfast_engine::journal::CallKey;

use super::faults::within;
use super::open;
use super::servers::Watched;
use crate::contract::{entry, record};
use crate::{Begin, SessionKey, SessionRecord, StoreError};

#[tokio::test]
async fn many_writers_share_few_waits_and_too_few_replicas_acknowledge_nothing() {
    let watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    let topology = Topology::Sentinel { sentinels: watched.addresses(), master: "mymaster".into() };
    let settings = Redis {
        replicas_to_acknowledge: 2,
        acknowledge_within: Duration::from_millis(200),
        ..Redis::new(topology)
    };
    let store = Arc::new(open(settings).await.store);
    let primary = &watched.data[0];

    // The first two ask whether the user may, and whether there are replicas.
    within(10, || primary.calls("wait") == 2).await;
    let waits = 2;
    let writers: Vec<_> = (0..200_u128)
        .map(|key| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.create(record(key)).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let waits = primary.calls("wait") - waits;
    assert!((4..=40).contains(&waits), "200 writes took {waits} waits");
    assert_eq!(store.operations().counts().durable, 200);
    assert_eq!(store.operations().counts().groups, waits);

    // One replica stands still: its acknowledgement is missing.
    watched.data[2].freeze();
    let live = store.get(SessionKey(1)).await.unwrap();
    let error = store.replace(live.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert!(error.to_string().contains("fewer than 2"), "{error}");
    assert_eq!(
        store.health().await.unwrap_err(),
        "too few of Redis' replicas acknowledge what is written"
    );
    // It is known by now, and has been for long: the next one is not even written, nor waited for.
    let begun = std::time::Instant::now();
    let error = store.create(record(1000)).await.unwrap_err();
    assert!(matches!(error, StoreError::Declined { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(store.get(SessionKey(1000)).await.unwrap_err(), StoreError::Missing);
    // What need not last goes on.
    store.put_hints("files", "hints".into()).await.unwrap();

    watched.data[2].thaw();
    let healthy = async {
        while store.health().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), healthy).await.unwrap();
    store.create(record(1000)).await.unwrap();
    let now = store.get(SessionKey(1)).await.unwrap();
    assert!(now.revision > live.revision, "what was unknown had been written");
    store.replace(SessionRecord { initialized: true, ..now }).await.unwrap();
}

#[tokio::test]
async fn a_call_whose_reply_from_redis_was_lost_finds_its_own_entry() {
    let watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    let topology = Topology::Sentinel { sentinels: watched.addresses(), master: "mymaster".into() };
    let settings = Redis {
        replicas_to_acknowledge: 2,
        acknowledge_within: Duration::from_millis(1500),
        ..Redis::new(topology)
    };
    let store = open(settings).await.store;
    let primary = &watched.data[0];
    store.create(record(1)).await.unwrap();
    let (key, pending) = (CallKey([7; 32]), entry());
    let before = primary.calls("evalsha");
    // The entry is written, and its acknowledgement is still to come, when the connection breaks.
    watched.data[2].freeze();
    let begin = store.begin(&key, &pending);
    let cut = async {
        let written = || {
            let keys = primary.ask(&["KEYS", "*j/*"]).unwrap();
            matches!(keys, redis::Value::Array(keys) if keys.len() == 1)
        };
        within(10, written).await;
        primary.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
        watched.data[2].thaw();
    };
    let (begun, ()) = tokio::join!(begin, cut);
    let Ok(Begin::Mine(revision)) = begun else { panic!("it is found again: {begun:?}") };
    assert_eq!(store.entry(&key).await.unwrap(), (pending.clone(), revision));
    assert!(primary.calls("evalsha") >= before + 2, "it was sent twice");
    let other = store.begin(&key, &pending).await.unwrap();
    assert_eq!(other, Begin::Other(pending, revision));
}
