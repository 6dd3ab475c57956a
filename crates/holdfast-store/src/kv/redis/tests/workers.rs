//! What is each worker's own, and what the workers of a node share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::faults::within;
use super::servers::{Server, Watched};
use super::{one, open, reached, sentinel};
use crate::contract::record;
use crate::{RedisStore, SessionRecord, Store, StoreError};

/// A runtime whose writes go over a connection of its own.
struct Worker {
    runtime: Option<tokio::runtime::Runtime>,
    store: Arc<Store>,
}

impl Worker {
    fn new(store: &Arc<Store>) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        Self { runtime: Some(runtime), store: Arc::clone(store) }
    }

    async fn create(&self, key: u128) -> Result<SessionRecord, StoreError> {
        let store = Arc::clone(&self.store);
        let runtime = self.runtime.as_ref().unwrap();
        runtime.spawn(async move { store.create(record(key)).await }).await.unwrap()
    }
}

impl Drop for Worker {
    /// A test may not wait for it.
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// The connections of a server whose last command was one of these.
fn clients(server: &Server, which: impl Fn(&str) -> bool) -> BTreeSet<u64> {
    let list = server.ask(&["CLIENT", "LIST"]).unwrap();
    let list: String = redis::from_redis_value(list).unwrap();
    let found = list.lines().filter_map(|line| {
        let field = |name| line.split(' ').find_map(|it| it.strip_prefix(name));
        which(field("cmd=")?).then(|| field("id=")?.parse().ok())?
    });
    found.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_writes_has_a_writer_of_its_own_for_as_long_as_it_lives() {
    let (server, opened) = one().await;
    let store = Arc::new(opened.store);
    let connections = || server.info("connected_clients").unwrap().parse::<u32>().unwrap();
    // For commands, to write, to hear of changes, and the one that asks.
    let before = 4;
    within(10, || connections() == before).await;
    store.create(record(0)).await.unwrap();
    assert_eq!(connections(), before, "that was the store's own");
    std::thread::scope(|scope| {
        let worker = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let begun = tokio::time::Instant::now();
                for key in 1.. {
                    store.create(record(key)).await.unwrap();
                    if connections() > before {
                        break;
                    }
                    assert!(begun.elapsed() < Duration::from_secs(30), "it is dialled");
                }
                let writes = (1_000..1_020).map(|key| store.create(record(key)));
                let written = futures_util::future::join_all(writes).await;
                assert!(written.iter().all(Result::is_ok), "{written:?}");
                assert_eq!(connections(), before + 1, "one for all of them");
            });
        };
        scope.spawn(worker).join().unwrap();
    });
    // Its runtime has ended, and nobody misses it.
    within(10, || connections() == before).await;
    store.create(record(2_000)).await.unwrap();
    assert_eq!(store.health().await, Ok(()));
}

/// A worker's first write goes over a connection by which nobody has written or asked anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_counted_for_one_worker_holds_for_the_first_write_of_another() {
    let watched = tokio::task::spawn_blocking(|| Watched::start(&[])).await.unwrap();
    let store = Arc::new(open(sentinel(&watched)).await.store);
    // What a writer asks last is who the replicas are, and before its first write, who has what.
    let writers = || clients(&watched.data[0], |it| matches!(it, "role" | "wait")).len();
    store.create(record(0)).await.unwrap();
    store.create(record(1)).await.unwrap();
    assert_eq!(writers(), 1, "the store's own");
    let away = &watched.sentinels[1..];
    away.iter().for_each(Server::freeze);
    let worker = Worker::new(&store);
    let begun = Instant::now();
    let mut keys = 2..;
    while writers() == 1 {
        worker.create(keys.next().unwrap()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "it is dialled");
    }
    for key in keys.by_ref().take(5) {
        worker.create(key).await.unwrap();
    }
    assert_eq!(store.health().await, Ok(()));
    // What one of the replicas lacks may be lost with the primary, for all that is known.
    watched.data[2].freeze();
    let error = worker.create(keys.next().unwrap()).await.unwrap_err();
    assert!(error.is_of_store(), "{error}");
    watched.data[2].thaw();
    away.iter().for_each(Server::thaw);
    while store.health().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.create(keys.next().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workers_connection_that_breaks_is_made_anew_and_the_others_are_left_alone() {
    let (server, opened) = one().await;
    let RedisStore { store, mut primary, .. } = opened;
    let store = Arc::new(store);
    let connections = || clients(&server, |it| it != "client|list");
    // For commands, to write, and to hear of changes.
    within(10, || connections().len() == 3).await;
    let links = connections();
    let (breaks, stays) = (Worker::new(&store), Worker::new(&store));
    let mut keys = 0..;
    let mut own = async |worker: &Worker, others: &BTreeSet<u64>| {
        let begun = Instant::now();
        loop {
            worker.create(keys.next().unwrap()).await.unwrap();
            if let Some(own) = connections().difference(others).next() {
                break *own;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it is dialled");
        }
    };
    let broken = own(&breaks, &links).await;
    let other = own(&stays, &(&links | &BTreeSet::from([broken]))).await;
    primary.mark_unchanged();
    let kept = &links | &BTreeSet::from([other]);

    // Their writes are under way, and Redis waits with them.
    server.ask(&["CLIENT", "PAUSE", "500", "WRITE"]).unwrap();
    let both = async { tokio::join!(breaks.create(1 << 64), stays.create(2 << 64)) };
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.ask(&["CLIENT", "KILL", "ID", &broken.to_string()]).unwrap();
    };
    let ((one, another), ()) = tokio::join!(both, kill);
    for written in [one.unwrap(), another.unwrap()] {
        assert_eq!(store.get_fresh(written.key).await.unwrap(), written);
    }
    let anew = own(&breaks, &kept).await;
    assert_ne!(anew, broken);
    for key in 3..8_u128 {
        breaks.create(key << 64).await.unwrap();
        stays.create(key << 64 | 1).await.unwrap();
    }
    assert_eq!(connections(), &kept | &BTreeSet::from([anew]));
    assert!(!primary.has_changed().unwrap(), "the link was given up");

    // What breaks because its server is no primary any more is no worker's affair. It keeps its data: the other
    // one does not let it in.
    let of = Server::start(&[]);
    of.ask(&["CONFIG", "SET", "requirepass", "secret"]).unwrap();
    server.ask(&["REPLICAOF", "127.0.0.1", &of.port.to_string()]).unwrap();
    server.ask(&["CLIENT", "KILL", "ID", &anew.to_string()]).unwrap();
    within(30, || primary.borrow().is_none()).await;
    server.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    reached(&mut primary).await;
    breaks.create(9 << 64).await.unwrap();
}
