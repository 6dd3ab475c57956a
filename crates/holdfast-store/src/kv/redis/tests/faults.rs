//! Servers that are killed, cut off, emptied, slow, or no primary any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_config::{Redis, Topology};
use holdfast_engine::journal::CallKey;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::super::keys::{Bucket, Names};
use super::servers::{Server, Watched, cluster, newcomer, replica_of};
use super::{any, one, open, open_adopted, reached, sentinel, standalone};
use crate::contract::{entry, record};
use crate::kv::Kv;
use crate::{RedisStore, SessionKey, SessionRecord, Store, StoreChange, StoreError};

const SHORT: &str = "too few of Redis' replicas acknowledge what is written";

/// Writers that note what was acknowledged.
struct Writers {
    store: Arc<Store>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeMap<u128, u64>>>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Writers {
    fn start(store: &Arc<Store>) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::default());
        let tasks = (0..8_u128)
            .map(|writer| {
                let (store, stop) = (Arc::clone(store), Arc::clone(&stop));
                let acknowledged = Arc::<Mutex<BTreeMap<u128, u64>>>::clone(&acknowledged);
                tokio::spawn(async move {
                    let mut refused = 0;
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let key = writer << 64 | number;
                        let begun = Instant::now();
                        match store.create(record(key)).await {
                            Ok(created) => {
                                acknowledged.lock().unwrap().insert(key, created.revision);
                            }
                            Err(error) if error.is_of_store() => refused += 1,
                            Err(error) => panic!("{error}"),
                        }
                        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
                    }
                    refused
                })
            })
            .collect();
        Self { store: Arc::clone(store), stop, acknowledged, tasks }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    async fn more(&self, by: usize) {
        let goal = self.count() + by;
        let written = async {
            while self.count() < goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), written).await.is_err() {
            let (count, health) = (self.count(), self.store.health().await);
            panic!("{count} are written and not {goal}; the store's health is {health:?}");
        }
    }

    /// Stops them; how many acknowledged writes are not there.
    async fn lost(self, store: &Store) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let mut lost = 0;
        for (key, revision) in &acknowledged {
            match patiently(store, *key).await {
                Ok(found) => assert_eq!(found.revision, *revision),
                Err(StoreError::Missing) => lost += 1,
                Err(error) => panic!("{error}"),
            }
        }
        (acknowledged.len(), lost)
    }
}

async fn patiently(store: &Store, key: u128) -> Result<SessionRecord, StoreError> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match store.get_fresh(SessionKey(key)).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            found => return found,
        }
    }
}

pub(super) async fn within(seconds: u64, mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(seconds), wait).await.expect("it becomes so");
}

async fn next(changes: &mut UnboundedReceiver<StoreChange>) -> StoreChange {
    let change = tokio::time::timeout(Duration::from_secs(30), changes.recv()).await;
    change.expect("it is told").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back_has_what_was_acknowledged() {
    let (mut server, opened) = one().await;
    let RedisStore { store, mut primary, .. } = opened;
    let store = Arc::new(store);
    let first = primary.borrow_and_update().clone().unwrap();
    let writers = Writers::start(&store);
    for _ in 0..2 {
        writers.more(200).await;
        server.kill();
        primary.wait_for(Option::is_none).await.unwrap();
        assert!(store.health().await.unwrap_err().starts_with("Redis is away: "));
        server.restart();
        reached(&mut primary).await;
    }
    writers.more(50).await;
    let second = primary.borrow().clone().unwrap();
    assert_ne!(first.run_id, second.run_id, "it is another process");
    assert_eq!(store.health().await, Ok(()));
    let (acknowledged, lost) = writers.lost(&store).await;
    assert_eq!(lost, 0, "of {acknowledged}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_loses_nothing_that_was_acknowledged() {
    let mut watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    // The cluster adopts whatever primary there is, some time later.
    let (adopt, adopted) = watch::channel(Some("nobody".into()));
    let opened = open_adopted(sentinel(&watched), adopted).await;
    let RedisStore { store, mut primary, .. } = opened;
    let store = Arc::new(store);
    let first = primary.borrow().clone().unwrap();
    let error = store.create(record(u128::MAX)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(
        store.health().await.unwrap_err(),
        "this node sees another Redis primary than the one that the cluster has adopted"
    );
    adopt.send_replace(Some(Arc::clone(&first.run_id)));

    let writers = Writers::start(&store);
    writers.more(300).await;
    watched.data[0].kill();
    let second = primary.wait_for(|it| it.as_ref().is_some_and(|it| it.run_id != first.run_id));
    let second = tokio::time::timeout(Duration::from_secs(30), second).await;
    let second = second.unwrap().unwrap().clone().unwrap();
    assert_ne!(second.address, first.address);
    // On a machine that has no time for them the Sentinels may name a third.
    adopt.send_replace(Some(second.run_id));
    tokio::spawn(async move {
        while primary.changed().await.is_ok() {
            let seen = primary.borrow_and_update().as_ref().map(|it| Arc::clone(&it.run_id));
            if seen.is_some() {
                adopt.send_replace(seen);
            }
        }
    });
    writers.more(300).await;
    let (acknowledged, lost) = writers.lost(&store).await;
    assert_eq!(lost, 0, "of {acknowledged}");
    let error = store.get(SessionKey(u128::MAX)).await.unwrap_err();
    assert_eq!(error, StoreError::Missing, "what was refused did not happen");
}

/// With plain asynchronous replication the same writers lose what they were told is kept: they can
/// see a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_acknowledgement_a_failover_is_seen_to_lose() {
    let mut watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    let settings = Redis { replicas_to_acknowledge: 0, allow_unsafe: true, ..sentinel(&watched) };
    let RedisStore { store, primary, .. } = open(settings).await;
    let store = Arc::new(store);
    let first = primary.borrow().clone().unwrap();
    // The replicas are cut off while the primary goes on, and take over from where they were.
    let writers = Writers::start(&store);
    writers.more(100).await;
    watched.data[1].freeze();
    watched.data[2].freeze();
    watched.data[0].ask(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
    writers.more(200).await;
    watched.data[0].kill();
    watched.data[1].thaw();
    watched.data[2].thaw();
    within(60, || primary.borrow().as_ref().is_some_and(|it| it.run_id != first.run_id)).await;
    writers.more(50).await;
    let (acknowledged, lost) = writers.lost(&store).await;
    assert!(lost > 0, "of {acknowledged}");
}

#[tokio::test]
async fn an_emptied_server_is_noticed_and_its_sessions_are_missing() {
    let (server, opened) = one().await;
    let RedisStore { store, mut changes, .. } = opened;
    assert_eq!(next(&mut changes).await, StoreChange::Everything, "it listens from now on");
    let live = store.create(record(1)).await.unwrap();
    server.ask(&["FLUSHALL"]).unwrap();
    while next(&mut changes).await != StoreChange::Everything {}
    assert_eq!(store.get(SessionKey(1)).await.unwrap_err(), StoreError::Missing);
    assert_eq!(store.get_local(SessionKey(1)).unwrap_err(), StoreError::Missing);
    assert_eq!(store.replace(live).await.unwrap_err(), StoreError::Missing);
    store.create(record(1)).await.unwrap();
    assert_eq!(store.health().await, Ok(()));
}

#[tokio::test]
async fn a_slow_or_frozen_server_ends_every_wait_and_heals() {
    let (server, opened) = one().await;
    let RedisStore { store, .. } = opened;
    let live = store.create(record(1)).await.unwrap();
    // Half a second late: everything goes through.
    server.ask(&["CLIENT", "PAUSE", "500", "ALL"]).unwrap();
    let begun = Instant::now();
    let replaced = store.replace(live).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());

    server.freeze();
    let begun = Instant::now();
    assert!(store.health().await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let pending = entry();
    let (read, begin) =
        tokio::join!(store.get_fresh(SessionKey(1)), store.begin(&CallKey([1; 32]), &pending));
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(matches!(begin, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))), "{begin:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // What this node has serves meanwhile.
    assert_eq!(store.get(SessionKey(1)).await.unwrap(), replaced);
    server.thaw();
    assert_eq!(patiently(&store, 1).await.unwrap(), replaced);
}

#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let (server, opened) = one().await;
    let store = opened.store;
    let live = store.create(record(1)).await.unwrap();
    server.ask(&["SCRIPT", "FLUSH"]).unwrap();
    let replaced = store.replace(live).await.unwrap();
    server.ask(&["SCRIPT", "FLUSH"]).unwrap();
    store.touch(replaced.key, store.now() + 60_000).await.unwrap();
    server.ask(&["SCRIPT", "FLUSH"]).unwrap();
    assert_eq!(store.delete(replaced.key, Duration::from_secs(60)).await.unwrap(), replaced);
}

#[tokio::test]
async fn a_primary_that_is_none_any_more_is_left_for_the_one_that_is() {
    let watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    let RedisStore { store, primary, .. } = open(sentinel(&watched)).await;
    let live = store.create(record(1)).await.unwrap();
    let first = primary.borrow().clone().unwrap();
    watched.sentinels[0].ask(&["SENTINEL", "FAILOVER", "mymaster"]).unwrap();
    within(30, || primary.borrow().as_ref().is_some_and(|it| it.run_id != first.run_id)).await;
    let replaced = store.replace(live).await.unwrap();
    assert_eq!(patiently(&store, 1).await.unwrap(), replaced);
}

#[tokio::test]
async fn redis_may_come_after_the_node_and_go_and_come() {
    let mut server = Server::start(&[]);
    server.kill();
    let opened = Store::redis(standalone(server.address()), any()).await.unwrap();
    let RedisStore { store, mut primary, .. } = opened;
    assert!(primary.borrow().is_none());
    assert!(store.health().await.unwrap_err().starts_with("Redis is away: "));
    let begun = Instant::now();
    let error = store.create(record(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    server.restart();
    reached(&mut primary).await;
    store.create(record(1)).await.unwrap();
}

#[tokio::test]
async fn other_nodes_are_told_of_sessions_and_hints_and_not_of_their_own() {
    let (server, opened) = one().await;
    let RedisStore { store, mut changes, .. } = opened;
    let mut other = open(standalone(server.address())).await;
    for changes in [&mut changes, &mut other.changes] {
        assert_eq!(next(changes).await, StoreChange::Everything);
    }
    let live = store.create(record(1)).await.unwrap();
    let key = crate::keys::session(live.key);
    assert_eq!(next(&mut other.changes).await, StoreChange::Key(key.clone()));
    assert_eq!(other.store.get(live.key).await.unwrap(), live);
    let theirs = other.store.replace(live).await.unwrap();
    loop {
        // Its own create may have been told before it was known to be its own.
        assert_eq!(next(&mut changes).await, StoreChange::Key(key.clone()));
        if store.get(theirs.key).await.unwrap() == theirs {
            break;
        }
    }
    store.put_hints("files", "what it learnt".into()).await.unwrap();
    let hints = crate::keys::hints("files");
    while next(&mut other.changes).await != StoreChange::Key(hints.clone()) {}
    assert_eq!(other.store.hints("files").unwrap(), "what it learnt");
    // A node that comes later asks for them when it misses them.
    let mut third = open(standalone(server.address())).await;
    assert_eq!(third.store.hints("files"), None);
    while next(&mut third.changes).await != StoreChange::Key(hints.clone()) {}
    assert_eq!(third.store.hints("files").unwrap(), "what it learnt");
}

#[tokio::test]
async fn a_master_of_a_cluster_that_comes_back_is_used_again() {
    let mut nodes = tokio::task::spawn_blocking(|| cluster(&[])).await.unwrap();
    let topology = Topology::Cluster { nodes: nodes.iter().map(Server::address).collect() };
    let settings = Redis { replicas_to_acknowledge: 0, allow_unsafe: true, ..Redis::new(topology) };
    let RedisStore { store, mut primary, .. } = open(settings).await;
    for key in 0..30 {
        store.create(record(key)).await.unwrap();
    }
    let first = primary.borrow_and_update().clone().unwrap();
    nodes[1].kill();
    primary.wait_for(Option::is_none).await.unwrap();
    nodes[1].restart();
    let second = reached(&mut primary).await;
    assert_ne!(first.run_id, second.run_id);
    for key in 0..30 {
        patiently(&store, key).await.unwrap();
        store.create(record(100 + key)).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_any_more_is_left_until_it_does_again() {
    let (server, opened) = one().await;
    let RedisStore { store, mut primary, .. } = opened;
    let other = Server::start(&[]);
    let live = store.create(record(1)).await.unwrap();
    // It keeps its data: the other one does not let it in.
    other.ask(&["CONFIG", "SET", "requirepass", "secret"]).unwrap();
    server.ask(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]).unwrap();
    let error = store.replace(live.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("is a replica of"), "{error}");
    assert!(store.health().await.unwrap_err().starts_with("Redis is away: "));
    server.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    reached(&mut primary).await;
    store.replace(live).await.unwrap();
}

#[tokio::test]
async fn a_server_whose_memory_is_full_says_so_until_it_has_room() {
    let (server, opened) = one().await;
    let RedisStore { store, .. } = opened;
    let live = store.create(record(1)).await.unwrap();
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let error = store.create(record(2)).await.unwrap_err();
    let StoreError::Declined { why, said } = &error else { panic!("{error:?}") };
    assert_eq!(*why, "its memory is full");
    assert!(said.contains("OOM command not allowed") && !said.contains("script"), "{said}");
    let health = store.health().await.unwrap_err();
    assert!(health.starts_with("Redis takes no writes: OOM"), "{health}");
    // Nobody has to write for it to be noticed that there is room again.
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    while store.health().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.replace(live).await.unwrap();
}

#[tokio::test]
async fn a_server_that_lacks_replicas_is_waited_for_as_after_a_failover_and_no_longer() {
    let (server, opened) = one().await;
    let store = Arc::new(opened.store);
    let lacks = |replicas| server.ask(&["CONFIG", "SET", "min-replicas-to-write", replicas]);
    // As a primary that has just taken over: its replicas come.
    lacks("1").unwrap();
    let create = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.create(record(1)).await })
    };
    while store.health().await != Err(SHORT.to_owned()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lacks("0").unwrap();
    let live = create.await.unwrap().unwrap();
    assert_eq!(store.health().await, Ok(()));

    lacks("1").unwrap();
    let declined = |error| match error {
        StoreError::Declined { why, .. } => why == "too few of its replicas acknowledge",
        _ => false,
    };
    // Whoever waits gives up before that is certain, and the next one is told.
    let error = loop {
        match store.create(record(2)).await.unwrap_err() {
            StoreError::Unavailable(_) => {}
            error => break error,
        }
    };
    assert!(declined(error.clone()), "{error:?}");
    // From here on everybody is told at once: nothing more is sent.
    let scripts = store.operations().counts().scripts;
    for key in 3..6 {
        let error = store.create(record(key)).await.unwrap_err();
        assert!(declined(error.clone()), "{error:?}");
    }
    assert_eq!(store.operations().counts().scripts, scripts);
    lacks("0").unwrap();
    while store.health().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.replace(live).await.unwrap();
    assert_eq!(store.get(SessionKey(2)).await.unwrap_err(), StoreError::Missing);
}

#[tokio::test]
async fn a_node_that_starts_again_finds_what_it_had() {
    let (server, opened) = one().await;
    let live = opened.store.create(record(1)).await.unwrap();
    drop(opened);
    within(10, || server.info("connected_clients").as_deref() == Some("1")).await;
    let store = open(standalone(server.address())).await.store;
    assert_eq!(store.get(live.key).await.unwrap(), live);
    assert_eq!(store.operations().counts().reads, 1);
    // As far as a clock of its own goes, deadlines are Redis'.
    let time = server.ask(&["TIME"]).unwrap();
    let (seconds, _): (u64, u64) = redis::from_redis_value(time).unwrap();
    assert!(store.now().abs_diff(seconds * 1000) < 5_000);
}

#[tokio::test]
async fn a_slot_that_moves_to_another_master_is_followed() {
    let nodes = tokio::task::spawn_blocking(|| cluster(&[])).await.unwrap();
    let topology = Topology::Cluster { nodes: vec![nodes[0].address()] };
    let settings = Redis { replicas_to_acknowledge: 0, allow_unsafe: true, ..Redis::new(topology) };
    let RedisStore { store, .. } = open(settings).await;
    let key = crate::keys::session(SessionKey(1));
    let slot = Names::new("holdfast").slot(Bucket::of(&key)).to_string();
    let holds = |node: &Server| {
        let count = node.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).unwrap();
        count != redis::Value::Int(0)
    };
    // From whichever node has it to the next one. Only the mark may be there.
    let from = (usize::from(slot.parse::<u16>().unwrap()) / 5461).min(2);
    let to = (from + 1) % 3;
    if holds(&nodes[from]) {
        let mark = Names::new("holdfast").mark(Bucket::of(&key));
        nodes[from].ask(&["DEL", &mark]).unwrap();
    }
    let id: String = redis::from_redis_value(nodes[to].ask(&["CLUSTER", "MYID"]).unwrap()).unwrap();
    for node in [to, from, 3 - from - to] {
        nodes[node].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]).unwrap();
    }
    let live = store.create(record(1)).await.unwrap();
    assert!(holds(&nodes[to]));
    assert_eq!(patiently(&store, 1).await.unwrap(), live);
}

#[tokio::test]
async fn a_slot_on_its_way_holds_up_nothing_of_the_others() {
    let (nodes, replica) = tokio::task::spawn_blocking(|| {
        let nodes = cluster(&[]);
        let replica = replica_of(&nodes[0]);
        (nodes, replica)
    })
    .await
    .unwrap();
    let topology = Topology::Cluster { nodes: vec![nodes[0].address()] };
    // The other two masters have no replicas; nothing of theirs is written here.
    let RedisStore { store, mut primary, .. } =
        open(Redis { allow_unsafe: true, ..Redis::new(topology) }).await;
    primary.mark_unchanged();
    let names = Names::new("holdfast");
    let first = Bucket::all().find(|bucket| names.slot(*bucket) <= 5460).unwrap();
    let slot = names.slot(first).to_string();
    let id = |node: &Server| -> String {
        redis::from_redis_value(node.ask(&["CLUSTER", "MYID"]).unwrap()).unwrap()
    };
    nodes[1].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(&nodes[0])]).unwrap();
    nodes[0].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(&nodes[1])]).unwrap();
    // Its keys are there already.
    nodes[0].ask(&["DEL", &names.mark(first), &names.probe(first)]).unwrap();
    let bucket = |key: u128| Bucket::of(&crate::keys::session(SessionKey(key)));
    let near = |key: &u128| bucket(*key) != first && names.slot(bucket(*key)) <= 5460;
    let keys: Vec<u128> = (0..).filter(near).take(30).collect();
    for key in keys {
        store.create(record(key)).await.unwrap();
        // Over several of the heart's beats.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!primary.has_changed().unwrap(), "the master was given up");
    drop(replica);
}

#[tokio::test]
async fn what_one_node_of_a_cluster_says_wrongly_is_made_good_by_the_next() {
    let (_server, RedisStore { store, mut primary, .. }) = one().await;
    let Kv::Redis(kv) = &store.kv else { panic!("it is in Redis") };
    // One that was cut off names itself, and is a replica by now.
    kv.shared.away("it is a replica still");
    primary.wait_for(Option::is_none).await.unwrap();
    reached(&mut primary).await;
    store.create(record(1)).await.unwrap();
}

#[tokio::test]
async fn a_master_that_has_other_slots_alone_is_left_out() {
    let names = Names::new("holdfast");
    let is_ours = |slot: &u16| Bucket::all().any(|bucket| names.slot(bucket) == *slot);
    let other = (1..16384).find(|slot| !is_ours(slot)).unwrap();
    let start = move || {
        let nodes = cluster(&[]);
        let new = newcomer(&nodes, other);
        (nodes, new)
    };
    let (nodes, new) = tokio::task::spawn_blocking(start).await.unwrap();
    let topology = Topology::Cluster { nodes: vec![new.address()] };
    let settings = Redis { replicas_to_acknowledge: 0, allow_unsafe: true, ..Redis::new(topology) };
    let RedisStore { store, mut primary, .. } = open(settings).await;
    assert!(!primary.borrow_and_update().as_ref().unwrap().address.contains(&new.port.to_string()));
    for key in 0..20 {
        store.create(record(key)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!primary.has_changed().unwrap(), "the masters were given up");
    drop(nodes);
}

#[tokio::test]
async fn a_primary_that_only_this_node_still_sees_is_left() {
    let watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    for server in &watched.data {
        server.ask(&["ACL", "SETUSER", "gateway", "on", ">secret", "~*", "&*", "+@all"]).unwrap();
    }
    let settings = Redis {
        username: Some("gateway".to_owned()),
        password: Some("secret".to_owned().into()),
        ..sentinel(&watched)
    };
    let RedisStore { store, primary, .. } = open(settings).await;
    let live = store.create(record(1)).await.unwrap();
    let first = primary.borrow().clone().unwrap();
    // Sentinels and replicas come as the default user.
    let client = redis::Client::open(("127.0.0.1", watched.data[0].port)).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut off = redis::cmd("ACL");
    off.arg(&["SETUSER", "default", "off"]).exec(&mut connection).unwrap();
    let mut cut = redis::cmd("CLIENT");
    // It ends this connection too.
    let _ = cut.arg(&["KILL", "USER", "default", "SKIPME", "no"]).exec(&mut connection);
    within(30, || primary.borrow().as_ref().is_some_and(|it| it.run_id != first.run_id)).await;
    let replaced = store.replace(live).await.unwrap();
    assert_eq!(patiently(&store, 1).await.unwrap(), replaced);
}

/// A replica that came back between two writes is promoted while the old primary still has the other one, whose
/// acknowledgement is worth nothing then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_that_came_back_lacks_when_it_is_promoted_is_not_kept() {
    let watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    let [primary, stays, back] = &watched.data[..] else { panic!("three servers") };
    let replicas = |count| move || primary.info("connected_slaves").as_deref() == Some(count);
    let sentinel = &watched.sentinels[0];
    stays.ask(&["CONFIG", "SET", "replica-priority", "0"]).unwrap();
    within(30, || {
        let known = format!("{:?}", sentinel.ask(&["SENTINEL", "REPLICAS", "mymaster"]).unwrap());
        known.contains("bulk-string('\"0\"')") && known.matches("slave-priority").count() == 2
    })
    .await;
    sentinel.ask(&["SENTINEL", "SET", "mymaster", "failover-timeout", "30000"]).unwrap();
    let store = Arc::new(open(super::sentinel(&watched)).await.store);
    store.create(record(1)).await.unwrap();

    back.ask(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    within(30, replicas("1")).await;
    store.create(record(2)).await.unwrap();
    let port = primary.met_at().port.to_string();
    back.ask(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    within(30, || replicas("2")() && back.info("master_link_status").as_deref() == Some("up"))
        .await;

    // It is told to be the primary, and does not hear yet.
    back.freeze();
    sentinel.ask(&["SENTINEL", "FAILOVER", "mymaster"]).unwrap();
    primary.ask(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
    within(30, replicas("1")).await;
    let creating = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.create(record(3)).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    back.thaw();
    let created = tokio::time::timeout(Duration::from_secs(60), creating).await.unwrap().unwrap();
    within(30, || back.info("role").as_deref() == Some("master")).await;
    within(30, || primary.info("role").as_deref() == Some("slave")).await;
    assert_eq!(patiently(&store, 3).await.unwrap(), created.unwrap());
}

/// As with a machine that vanishes with both of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_sentinel_and_a_silent_replica_are_waited_for_once() {
    let watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    let RedisStore { store, .. } = open(sentinel(&watched)).await;
    store.create(record(0)).await.unwrap();
    watched.data[2].freeze();
    watched.sentinels[2].freeze();
    let begun = Instant::now();
    // Each waits for half a second for the replica; three seconds for the Sentinel each time would be 42 s.
    for key in 1..=12 {
        store.create(record(key)).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    watched.data[2].thaw();
    watched.sentinels[2].thaw();
}

#[tokio::test]
async fn what_a_primary_that_has_been_replaced_lacks_is_not_missing() {
    let server = Server::start(&[]);
    let (adopt, adopted) = watch::channel(None);
    let RedisStore { store, primary, .. } =
        open_adopted(standalone(server.address()), adopted).await;
    let seen = primary.borrow().clone().unwrap();
    assert_eq!(store.get_fresh(SessionKey(1)).await.unwrap_err(), StoreError::Missing);
    adopt.send_replace(Some("another".into()));
    let error = store.get_fresh(SessionKey(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    adopt.send_replace(Some(seen.run_id));
    assert_eq!(store.get_fresh(SessionKey(1)).await.unwrap_err(), StoreError::Missing);
}
