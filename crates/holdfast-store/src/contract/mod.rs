//! What every store must do: one suite, run over memory and over a group; and what a store over a
//! group must do besides, when replies are lost, nodes are behind, and there is no quorum.

mod fill;
mod group;
mod journal;
mod lost;
mod placements;
mod rules;
mod sessions;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::version::Version;

use self::group::TestGroup;
use crate::kv::{Kv, MemoryKv};
use crate::{Announces, Binding, SessionKey, SessionRecord, Store};

/// When every test begins, in milliseconds since the Unix epoch.
const START: u64 = 1_800_000_000_000;

const ME: Origin = Origin { node: 1, generation: 1 };
const OTHER: Origin = Origin { node: 2, generation: 1 };

const MINUTE: Duration = Duration::from_secs(60);

/// A store whose time the test moves.
struct Bench {
    name: &'static str,
    store: Store,
    group: Option<Arc<TestGroup>>,
}

/// Every store there is. A new one is tested by naming it here.
fn benches() -> Vec<Bench> {
    let memory = Store::over(Kv::Memory(Box::new(MemoryKv::at(START))));
    let group = TestGroup::new();
    let replicated = Store::replicated(group.clone());
    vec![
        Bench { name: "memory", store: memory, group: None },
        Bench { name: "replicated", store: replicated, group: Some(group) },
    ]
}

impl Bench {
    fn advance(&self, by: Duration) {
        match (&self.store.kv, &self.group) {
            (Kv::Memory(memory), _) => memory.advance(by),
            (_, Some(group)) => group.advance(by),
            (_, None) => unreachable!("a replicated store has a group"),
        }
    }

    /// Has done what the store's owner does with what is past its deadline.
    fn expire(&self) {
        self.store.expire();
        if let Some(group) = &self.group {
            group.expire();
        }
    }
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
        announces: Announces::default(),
        binding: Binding {
            instance: 0,
            server_session: Some(Arc::from("s-1")),
            generation: 1,
            node: Some(ME),
        },
        holder: None,
        created: START,
        deadline: None,
        revision: 0,
    }
}

fn later(by: Duration) -> u64 {
    START + u64::try_from(by.as_millis()).unwrap()
}

/// Runs a future to its end on this thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn a_key_is_not_printed_whole() {
    assert_eq!(format!("{:?}", SessionKey(u128::MAX)), "ffffffffff…");
}

#[test]
fn only_a_groups_store_is_shared_and_both_have_a_clock() {
    let [memory, replicated] = benches().try_into().unwrap_or_else(|_| unreachable!());
    assert!(!memory.store.is_shared() && replicated.store.is_shared());
    for bench in [memory, replicated] {
        assert_eq!(bench.store.now(), START, "{}", bench.name);
        bench.advance(MINUTE);
        assert_eq!(bench.store.now(), later(MINUTE), "{}", bench.name);
    }
}

#[test]
fn keys_say_what_they_are_of() {
    use holdfast_engine::journal::CallKey;
    let store = Store::memory();
    let (session, call, stream) = (SessionKey(0x0102), CallKey([9; 32]), 77_u128);
    let keys = [
        crate::keys::session(session),
        crate::keys::journal(&call),
        crate::keys::stream(stream),
        crate::keys::placement("files"),
    ];
    let read = keys.map(|key| (store.session_of(&key), store.call_of(&key), store.stream_of(&key)));
    assert_eq!(
        read,
        [
            (Some(session), None, None),
            (None, Some(call), None),
            (None, None, Some(stream)),
            (None, None, None)
        ]
    );
    assert_eq!(store.session_of(b"s/short"), None);
    assert_eq!(store.session_of(b""), None);
}
