//! The faults of Redis themselves: a cut that does not cut would make every drill pass.

use std::time::Duration;

use crate::redis::resp::{self, Value};
use crate::redis::{Kind, Redis, faults, topology};
use crate::{Error, PATIENCE};

/// A Redis in a folder of its own.
struct Alone {
    redis: Redis,
    folder: std::path::PathBuf,
}

impl Drop for Alone {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

async fn start(kind: Kind, plain: bool, name: &str) -> Alone {
    let folder = format!("holdfast-redis-{}-{name}", std::process::id());
    let folder = std::env::temp_dir().join(folder);
    let redis = Redis::start(kind, plain, &folder).await;
    Alone { redis: redis.expect("Redis starts").expect("not replicated"), folder }
}

/// Asks a server where the nodes do. This process is one to Redis, as whatever has no address there.
async fn as_node(redis: &Redis, server: usize, words: &[&str]) -> Result<Value, Error> {
    let server = &redis.servers[server];
    resp::ask(server.known, server.login.as_ref(), words).await
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_comes_back_with_what_it_had_and_is_away_until_then() {
    let mut alone = start(Kind::Redis, false, "kill").await;
    let redis = &mut alone.redis;
    as_node(redis, 0, &["SET", "kept", "1"]).await.expect("a write");
    redis.kill_server(0).expect("a running server");
    as_node(redis, 0, &["GET", "kept"]).await.expect_err("its port refuses");
    redis.start_server(0).await.expect("it starts again");
    let kept = as_node(redis, 0, &["GET", "kept"]).await.expect("an answer");
    assert_eq!(kept, Value::Text("1".into()));
    assert_eq!(redis.flush().await.expect("one key"), 1);
    redis.flush().await.expect_err("nothing is left: such a fault is void");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_cut_off_is_replaced_and_becomes_a_replica() {
    let mut alone = start(Kind::Sentinel, false, "cut").await;
    let redis = &mut alone.redis;
    let primary = redis.primary().await.expect("a primary");
    redis.links.look().await;
    let mark = redis.links.held();
    redis.cut_off(primary);
    as_node(redis, primary, &["PING"]).await.expect_err("nobody reaches it");
    let next = redis.replaced(primary).await.expect("a failover");
    assert_ne!(next, primary);
    assert!(redis.links.held() > mark, "the cut held something up");
    let writes = async || as_node(redis, next, &["SET", "a", "b"]).await.is_ok();
    until("the new one takes writes, once the other replica follows it", writes).await;
    redis.links.heal();
    redis.settled().await.expect("the old one follows the new one");
    let role = topology::role(&redis.servers[primary]).await;
    assert_eq!(role.as_deref(), Some("slave"));
}

/// What the drills with plain settings have to see, seen here without any gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_split_loses_writes_with_plain_settings_and_none_that_wait_has_counted() {
    for plain in [true, false] {
        let mut alone = start(Kind::Sentinel, plain, &format!("split-{plain}")).await;
        let redis = &mut alone.redis;
        let primary = redis.primary().await.expect("a primary");
        redis.links.look().await;
        redis.split_off(primary);
        let address = redis.servers[primary].known;
        let mut conn = resp::Conn::open(address, redis.servers[primary].login.as_ref())
            .await
            .expect("the nodes reach it");
        let mut acknowledged = Vec::new();
        let mut next = None;
        for number in 0..10_000 {
            let key = format!("key-{number}");
            let written = conn.ask(&["SET", &key, "1"]).await.is_ok();
            let counted = conn.ask(&["WAIT", "1", "50"]).await.expect("an answer").number();
            if written && (plain || counted >= Some(1)) {
                acknowledged.push(key);
            }
            next = redis.successor(primary).await;
            if next.is_some() {
                break;
            }
        }
        let next = next.expect("a failover");
        redis.links.heal();
        redis.settled().await.expect("whole again");
        let mut lost = 0;
        for key in &acknowledged {
            let held = redis.servers[next].ask(&["GET", key]).await.expect("an answer");
            lost += usize::from(held == Value::Nil);
        }
        assert_eq!(lost > 0, plain, "{lost} of {} acknowledged writes lost", acknowledged.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_from_the_nodes_it_stays_primary_and_slow_it_answers_late() {
    let mut alone = start(Kind::Sentinel, false, "nodes").await;
    let redis = &mut alone.redis;
    let primary = redis.primary().await.expect("a primary");
    redis.cut_from_nodes(primary);
    as_node(redis, primary, &["PING"]).await.expect_err("the nodes do not reach it");
    redis.settled().await.expect("its replicas and the Sentinels do");
    assert_eq!(redis.primary().await, Some(primary));
    redis.links.heal();
    as_node(redis, primary, &["PING"]).await.expect("they reach it again");
    redis.slow_down();
    let asked = std::time::Instant::now();
    as_node(redis, primary, &["PING"]).await.expect("an answer");
    assert!(asked.elapsed() >= faults::SLOW, "it came after {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_command_makes_another_server_primary() {
    for kind in [Kind::Sentinel, Kind::Cluster] {
        let alone = start(kind, false, &format!("failover-{}", kind.name())).await;
        let redis = &alone.redis;
        let primary = redis.primary().await.expect("a primary");
        redis.fail_over(primary).await.expect("it is asked for");
        let next = redis.replaced(primary).await.expect("it comes");
        redis.settled().await.expect("whole again");
        until("the new one is primary", async || redis.successor(primary).await == Some(next))
            .await;
    }
}
