//! The store over real servers: the rules of every store, and what only this one can get wrong.

mod contract;
mod faults;
mod groups;
mod servers;
mod settings;
mod workers;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::{HostPort, Redis, Topology};
use holdfast_engine::replicated::Expect;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::servers::{Server, Watched};
use super::clock::Clock;
use super::{Connected, Primary, RedisKv};
use crate::kv::Kv;
use crate::{RedisStore, Store};

/// Where the tasks of all stores run: they outlive the runtime of a single test.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

fn standalone(address: HostPort) -> Redis {
    Redis::new(Topology::Standalone(address))
}

fn sentinel(watched: &Watched) -> Redis {
    Redis::new(Topology::Sentinel { sentinels: watched.addresses(), master: "mymaster".into() })
}

fn any() -> watch::Receiver<Option<Arc<str>>> {
    watch::channel(None).1
}

/// A store that has reached its Redis.
async fn open(settings: Redis) -> RedisStore {
    open_adopted(settings, any()).await
}

async fn open_adopted(settings: Redis, adopted: watch::Receiver<Option<Arc<str>>>) -> RedisStore {
    let mut opened = Store::redis(settings, adopted).await.unwrap();
    reached(&mut opened.primary).await;
    opened
}

async fn reached(primary: &mut watch::Receiver<Option<Primary>>) -> Primary {
    let seen = tokio::time::timeout(Duration::from_secs(30), primary.wait_for(Option::is_some));
    seen.await.unwrap().unwrap().clone().unwrap()
}

/// A store whose clock the test moves, under a prefix of its own.
pub(crate) fn manual(settings: &Redis, prefix: &str, now: u64) -> Store {
    let settings = Redis { key_prefix: prefix.to_owned(), ..settings.clone() };
    let clock = Clock::Manual(now.into());
    let opened = std::thread::spawn(move || {
        RUNTIME.block_on(async {
            let operations = Arc::default();
            let connected =
                RedisKv::connect_at(settings, any(), Arc::clone(&operations), clock).await;
            let Connected { kv, mut primary, .. } = connected.unwrap();
            reached(&mut primary).await;
            Store::over(Kv::Redis(Box::new(kv)), operations)
        })
    });
    opened.join().unwrap()
}

impl RedisKv {
    pub(crate) fn advance(&self, by: Duration) {
        let Clock::Manual(now) = &self.shared.clock else {
            unreachable!("the clock is the test's")
        };
        now.fetch_add(u64::try_from(by.as_millis()).unwrap(), std::sync::atomic::Ordering::Relaxed);
    }

    /// Does what Redis does by its own clock: removes what is past its deadline, but for sessions.
    pub(crate) fn forget_past(&self, keys: &[Bytes]) {
        let forget = async {
            for key in keys {
                let found = self.get_even_past(key).await.unwrap();
                let Some(entry) = found.filter(|entry| entry.is_past(self.now())) else { continue };
                let expect = Expect::Revision(entry.revision);
                self.delete(key.clone(), expect).await.unwrap();
            }
        };
        // The test's own runtime may be running on this thread.
        std::thread::scope(|scope| {
            scope.spawn(|| RUNTIME.block_on(forget)).join().unwrap();
        });
    }
}

/// Starts one server and a store on it.
async fn one() -> (Server, RedisStore) {
    let server = Server::start(&[]);
    let opened = open(standalone(server.address())).await;
    (server, opened)
}
