//! Records as bytes: whatever they hold they are read back, whatever is read does no harm, and what
//! a session costs.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_engine::journal::{CallKey, Entry, Phase};
use holdfast_engine::replicated::{KvEntry, MAX_TOTAL, Origin};
use holdfast_mcp::version::Version;
use proptest::prelude::*;

use super::{benches, record};
use crate::record::Stored;
use crate::{
    Announces, Binding, Malformed, Notice, SessionKey, SessionRecord, Store, StreamRecord,
};

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn origin() -> impl Strategy<Value = Origin> {
    any::<(u64, u64)>().prop_map(|(node, generation)| Origin { node, generation })
}

fn binding() -> impl Strategy<Value = Binding> {
    let session = prop::option::of(".*");
    let node = prop::option::of(origin());
    (any::<u32>(), session, any::<u32>(), node).prop_map(
        |(instance, server_session, generation, node)| Binding {
            instance,
            server_session: server_session.map(Arc::from),
            generation,
            node,
        },
    )
}

fn notice() -> impl Strategy<Value = Notice> {
    any::<(u32, u32, bool, bool)>().prop_map(|(from, generation, by_log, by_answer)| Notice {
        from,
        generation,
        by_log,
        by_answer,
    })
}

fn session() -> impl Strategy<Value = SessionRecord> {
    let who = (any::<u128>(), any::<u64>(), ".*", prop::sample::select(Version::ALL));
    let asked = (
        bytes(),
        any::<bool>(),
        prop::option::of(bytes()),
        prop::collection::btree_map(".*".prop_map(Box::from), bytes(), 0..4),
        any::<(bool, bool, bool)>(),
    );
    let times = (any::<u64>(), prop::option::of(any::<u64>()), any::<u64>());
    let bound = (binding(), prop::option::of(notice()));
    (who, asked, bound, prop::option::of(origin()), times).prop_map(
        |(who, asked, (binding, notice), holder, times)| SessionRecord {
            key: SessionKey(who.0),
            principal: who.1,
            server: Arc::from(who.2),
            version: who.3,
            initialize: asked.0,
            initialized: asked.1,
            log_level: asked.2,
            subscriptions: asked.3,
            announces: Announces { tools: asked.4.0, prompts: asked.4.1, resources: asked.4.2 },
            binding,
            notice,
            holder,
            created: times.0,
            deadline: times.1,
            revision: times.2,
        },
    )
}

fn stream() -> impl Strategy<Value = StreamRecord> {
    let who = (any::<u128>(), origin(), any::<u64>(), ".*", prop::option::of(any::<u128>()));
    let call = (any::<u8>(), prop::option::of(bytes()), prop::option::of(any::<[u8; 32]>()));
    (who, call, any::<u64>()).prop_map(|(who, call, revision)| StreamRecord {
        stream: who.0,
        owner: who.1,
        principal: who.2,
        server: who.3,
        session: who.4,
        class: call.0,
        body: call.1,
        journal: call.2.map(CallKey),
        revision,
    })
}

fn entry_of(value: Bytes, deadline: Option<u64>, revision: u64) -> KvEntry {
    KvEntry { value, revision, deadline }
}

proptest! {
    #[test]
    fn a_session_is_read_back(record in session(), serial: u64) {
        let value = record.encode(serial, true).unwrap();
        let entry = entry_of(value.clone(), record.deadline, record.revision);
        match Stored::decode(record.key, &entry).unwrap() {
            Stored::Live(read) => prop_assert_eq!(&*read, &record),
            Stored::Tombstone => prop_assert!(false, "it lives"),
        }
        // Cut anywhere, or with anything behind it, it is no record.
        for length in [0, 1, 8, 9, value.len() - 1] {
            let cut = entry_of(value.slice(..length), None, 1);
            prop_assert!(Stored::decode(record.key, &cut).is_err(), "{} bytes", length);
        }
        let longer = entry_of([&value[..], b"x"].concat().into(), None, 1);
        prop_assert!(Stored::decode(record.key, &longer).is_err());
    }

    #[test]
    fn a_stream_is_read_back(record in stream(), serial: u64) {
        let entry = entry_of(record.encode(serial).unwrap(), None, record.revision);
        prop_assert_eq!(StreamRecord::decode(record.stream, &entry).unwrap(), record);
    }

    #[test]
    fn two_writes_of_one_record_differ(record in session(), one: u64, other: u64) {
        prop_assume!(one != other);
        prop_assert_ne!(record.encode(one, true).unwrap(), record.encode(other, true).unwrap());
    }

    #[test]
    fn whatever_is_read_does_no_harm(format in 0_u8..3, body in bytes()) {
        let value = Bytes::from([&[format], &body[..]].concat());
        let entry = entry_of(value.clone(), None, 1);
        let session = Stored::decode(SessionKey(1), &entry);
        let stream = StreamRecord::decode(1, &entry);
        let call = crate::encode::decode::<Entry>(1, &value);
        if format != 1 {
            let refused = Malformed::Format { found: Some(format), reads: 1 };
            // A session with a notice has a format of its own.
            let session = (format != 2).then(|| session.unwrap_err());
            for error in [stream.unwrap_err(), call.unwrap_err()].into_iter().chain(session) {
                prop_assert_eq!(&error, &refused);
            }
        }
    }
}

/// Nodes of both formats can be in a cluster, and the earlier ones read what has no notice.
#[test]
fn only_a_session_with_a_notice_has_the_later_format() {
    let plain = record(1);
    assert_eq!(plain.encode(7, true).unwrap()[0], 1);
    let notice = Notice { from: 3, generation: 2, by_log: true, by_answer: false };
    let noticed = SessionRecord { notice: Some(notice), ..plain };
    assert_eq!(noticed.encode(7, true).unwrap()[0], 2);
    let value = noticed.encode(7, false).unwrap();
    let Stored::Live(read) = Stored::decode(noticed.key, &entry_of(value, None, 1)).unwrap() else {
        panic!("a session");
    };
    assert_eq!((read.binding, read.notice), (noticed.binding, None), "moved, and nothing to tell");
}

/// A node of an earlier version can take over each session at any time.
#[tokio::test]
async fn a_notice_is_its_nodes_own_until_all_nodes_read_it() {
    let store = Store::memory();
    let notice = Some(Notice { from: 3, generation: 2, by_log: true, by_answer: true });
    let created = store.create(SessionRecord { notice, ..record(1) }).await.unwrap();
    let stored = async || store.get(created.key).await.unwrap().notice;
    assert_eq!((created.notice, stored().await), (notice, None));
    let replaced = store.replace(created.clone()).await.unwrap();
    assert_eq!((replaced.notice, stored().await), (notice, None), "it can tell its client itself");
    store.write_notices(true);
    let replaced = store.replace(replaced).await.unwrap();
    assert_eq!(stored().await, notice);
    store.write_notices(false);
    store.replace(replaced).await.unwrap();
    assert_eq!(stored().await, None, "one has come that does not");
}

#[test]
fn a_tombstone_is_read_back_and_a_strange_version_is_named() {
    let tombstone = entry_of(Stored::tombstone(3).unwrap(), None, 1);
    assert!(matches!(Stored::decode(SessionKey(1), &tombstone).unwrap(), Stored::Tombstone));
    let value = record(1).encode(1, true).unwrap();
    let at = value.windows(10).position(|window| window == b"2025-11-25").unwrap();
    let mut later = value.to_vec();
    later[at] = b'9';
    let later = entry_of(later.into(), None, 1);
    assert_eq!(Stored::decode(SessionKey(1), &later).unwrap_err(), Malformed::Version);
}

/// What a session of the TypeScript SDK's client holds, with a subscription and a log level.
fn typical(key: u128) -> SessionRecord {
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"sampling":{},"elicitation":{"form":{},"url":{}}},"clientInfo":{"name":"example-client","title":"Example Client","version":"1.24.3","websiteUrl":"https://client.example"}}}"#;
    let level = r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"info"}}"#;
    let uri = "file:///project/crates/gateway/src/main.rs";
    let subscribe = format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#
    );
    let mut record = SessionRecord {
        principal: u64::MAX / 3,
        initialize: Bytes::from_static(initialize.as_bytes()),
        initialized: true,
        log_level: Some(Bytes::from_static(level.as_bytes())),
        deadline: Some(super::later(super::MINUTE)),
        ..record(key)
    };
    record.binding.server_session = Some(Arc::from("5b2f7c1e-8a43-4e57-9d10-1f0c6f3f4b7a"));
    record.subscriptions.insert(uri.into(), Bytes::from(subscribe));
    record
}

#[tokio::test]
async fn ten_thousand_sessions_cost_about_a_kilobyte_each() {
    const SESSIONS: usize = 10_000;
    for bench in benches() {
        for key in 0..SESSIONS {
            bench.store.create(typical(key as u128)).await.unwrap();
        }
        let bytes: usize = (0..SESSIONS)
            .map(|key| {
                let at = crate::keys::session(SessionKey(key as u128));
                at.len() + bench.store.kv.get_local(&at).unwrap().value.len()
            })
            .sum();
        let each = bytes / SESSIONS;
        println!("{}: {SESSIONS} sessions, {each} bytes of key and value each", bench.name);
        assert!((300..1024).contains(&each), "{}: {each} bytes", bench.name);
        assert!(bytes < MAX_TOTAL / 100);
    }
}

#[test]
fn a_pending_entry_is_small() {
    let entry = super::journal::entry(Phase::Pending);
    let bytes = crate::encode::encode(1, u64::MAX, &entry).unwrap().len();
    println!("a pending journal entry: {bytes} bytes");
    assert!(bytes < 64, "{bytes}");
}
