//! What every store must do: one suite, run over memory and over a group, and by `kv::redis::tests`
//! over Redis; and what a store over a group must do besides, when replies are lost, nodes are behind,
//! and there is no quorum.

mod fill;
mod group;
mod journal;
mod lost;
mod placements;
mod rules;
mod sessions;
mod streams;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::replicated::Origin;
use holdfast_mcp::version::Version;

use self::group::TestGroup;
pub(crate) use self::rules::compare_with_memory;
use crate::kv::{Kv, MemoryKv};
use crate::{Announces, Binding, SessionKey, SessionRecord, Store};

/// When every test begins, in milliseconds since the Unix epoch.
pub(crate) const START: u64 = 1_800_000_000_000;

const ME: Origin = Origin { node: 1, generation: 1 };
const OTHER: Origin = Origin { node: 2, generation: 1 };

const MINUTE: Duration = Duration::from_secs(60);

/// A store whose time the test moves.
pub(crate) struct Bench {
    name: &'static str,
    store: Store,
    group: Option<Arc<TestGroup>>,
}

type Make = Box<dyn Fn() -> Store>;

thread_local! {
    /// The store that the suite runs over on this thread, in place of those that need no servers.
    static OTHER_STORE: RefCell<Option<(&'static str, Make)>> = const { RefCell::new(None) };
}

/// Every store there is that needs no servers, or the one that the suite is run over.
fn benches() -> Vec<Bench> {
    let other = OTHER_STORE.with_borrow(|other| {
        let (name, make) = other.as_ref()?;
        Some(Bench { name, store: make(), group: None })
    });
    if let Some(other) = other {
        return vec![other];
    }
    let group = TestGroup::new();
    let replicated = Store::replicated(group.clone());
    vec![
        Bench { name: "memory", store: memory(), group: None },
        Bench { name: "replicated", store: replicated, group: Some(group) },
    ]
}

fn memory() -> Store {
    Store::over(Kv::Memory(Box::new(MemoryKv::at(START))), Arc::default())
}

/// Runs the suite over the stores that `make` makes: a new and empty one each time.
pub(crate) fn run_over(name: &'static str, make: impl Fn() -> Store + 'static) {
    OTHER_STORE.set(Some((name, Box::new(make))));
    for rule in EVERY_RULE {
        rule();
    }
    OTHER_STORE.set(None);
}

/// What every store is tested with.
const EVERY_RULE: &[fn()] = &[
    sessions::what_is_created_is_read_back,
    sessions::of_two_writers_with_one_revision_one_wins,
    sessions::no_change_is_lost_among_many_writers,
    sessions::a_deleted_session_cannot_be_written_back,
    sessions::tombstones_go_when_they_are_due_and_not_before,
    sessions::a_session_lasts_as_long_as_it_is_touched,
    sessions::an_expired_session_is_there_for_one_that_ends_it,
    sessions::what_cannot_be_read_says_so_and_goes_when_it_is_due,
    journal::a_call_has_one_entry,
    journal::of_many_that_begin_at_once_one_has_the_entry,
    journal::what_is_settled_without_waiting_is_settled_once,
    journal::who_was_overtaken_does_not_settle,
    journal::what_waits_goes_or_is_taken_over_and_never_both,
    journal::an_answer_is_kept_and_one_that_is_too_large_is_known_to_have_been,
    journal::entries_live_as_long_as_they_are_kept,
    journal::every_phase_is_read_back,
    streams::a_stream_is_recorded_and_taken_by_one,
    streams::a_body_is_stored_up_to_its_limit,
    streams::a_stream_ends_when_its_time_is_over,
    placements::a_place_is_its_holders_until_that_is_gone_or_gives_it_up,
];

impl Bench {
    fn advance(&self, by: Duration) {
        match (&self.store.kv, &self.group) {
            (Kv::Memory(memory), _) => memory.advance(by),
            (Kv::Redis(redis), _) => redis.advance(by),
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
        if let Kv::Redis(redis) = &self.store.kv {
            let mut keys = vec![crate::keys::journal(&journal::KEY), crate::keys::stream(5)];
            keys.extend(rules::KEYS.map(Bytes::from_static));
            keys.retain(|key| !key.starts_with(holdfast_engine::replicated::SESSIONS));
            redis.forget_past(&keys);
        }
    }
}

pub(crate) fn record(key: u128) -> SessionRecord {
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
        notice: None,
        holder: None,
        created: START,
        deadline: None,
        revision: 0,
    }
}

/// The entry of a call that has just begun.
pub(crate) fn entry() -> holdfast_engine::journal::Entry {
    journal::entry(holdfast_engine::journal::Phase::Pending)
}

fn later(by: Duration) -> u64 {
    START + u64::try_from(by.as_millis()).unwrap()
}

/// Runs a future to its end on this thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
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
