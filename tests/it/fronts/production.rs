//! The production stack as docker-compose.ha.yml puts it together, as processes: Redis and Sentinels from
//! `redis/start.sh` with passwords, the gateways' user with its few rights, three nodes, a balancer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::balancer::{Kind, shipped};
use super::{BOTH, Load, Stack, is_write};
use crate::harness::cluster::PATIENCE;
use crate::harness::process::{Process, free_address};
use crate::harness::{TempDir, message};

const SERVERS: &str = "of-the-servers";
const GATEWAYS: &str = "of-the-gateways";

/// A primary, two replicas and three Sentinels.
struct Redis {
    servers: Vec<(SocketAddr, Process)>,
    sentinels: Vec<(SocketAddr, Process)>,
    folder: TempDir,
    /// The script that starts each of them.
    start: PathBuf,
}

impl Redis {
    async fn start() -> Self {
        Self::start_from(shipped("redis/start.sh")).await
    }

    async fn start_from(start: PathBuf) -> Self {
        let folder = TempDir::new();
        let addresses: Vec<SocketAddr> = (0..6).map(|_| free_address()).collect();
        let primary = addresses[0];
        let started = |kind: &str, own: &[SocketAddr]| -> Vec<(SocketAddr, Process)> {
            own.iter().map(|at| (*at, run(&start, &folder, kind, *at, primary))).collect()
        };
        let servers = started("server", &addresses[..3]);
        let sentinels = started("sentinel", &addresses[3..]);
        let redis = Self { servers, sentinels, folder, start };
        for at in 0..3 {
            redis.sees_all(at).await;
        }
        redis
    }

    /// Waits until a Sentinel knows both replicas and both other Sentinels.
    async fn sees_all(&self, at: usize) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let said = ask(self.sentinels[at].0, &["info", "sentinel"]);
            if said.contains("status=ok") && said.contains("slaves=2,sentinels=3") {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not whole: {said}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Which server is the primary, as a Sentinel says.
    fn primary(&self) -> usize {
        let said = ask(self.sentinels[0].0, &["sentinel", "get-master-addr-by-name", "holdfast"]);
        let port = said.lines().nth(1).unwrap_or_default();
        let at = self.servers.iter().position(|(own, _)| own.port().to_string() == port);
        at.unwrap_or_else(|| panic!("no server of ours is the primary: {said}"))
    }

    fn kill(&mut self, at: usize) {
        self.servers[at].1.kill();
    }

    /// With its data, as after a crash.
    fn restart(&mut self, at: usize) {
        let own = self.servers[at].0;
        self.servers[at].1 = run(&self.start, &self.folder, "server", own, self.servers[0].0);
    }

    /// What the nodes are configured with.
    fn section(&self) -> String {
        let sentinels: Vec<String> =
            self.sentinels.iter().map(|(address, _)| address.to_string()).collect();
        format!(
            "sessions: {{ store: redis, url: \"redis+sentinel://holdfast:{GATEWAYS}@{}/holdfast\", \
             redis: {{ sentinel_username: holdfast, sentinel_password: {GATEWAYS} }} }}",
            sentinels.join(",")
        )
    }
}

fn run(
    start: &Path,
    folder: &TempDir,
    kind: &str,
    own: SocketAddr,
    primary: SocketAddr,
) -> Process {
    let mut command = Command::new(start);
    command.arg(kind);
    command.env("REDIS_DATA", folder.join(&own.port().to_string()));
    command.env("REDIS_ANNOUNCE", own.to_string()).env("REDIS_PRIMARY", primary.to_string());
    command.env("REDIS_PASSWORD", SERVERS).env("HOLDFAST_REDIS_PASSWORD", GATEWAYS);
    Process::start(&mut command)
}

/// What redis-cli prints; an error too.
fn ask(address: SocketAddr, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    let output = command.args(words).env("REDISCLI_AUTH", SERVERS).output();
    let output = output.expect("start redis-cli");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

async fn one_thing_dies_after_another(kind: Kind) {
    let mut redis = Redis::start().await;
    let mut stack = Stack::start(kind, &["--answers", "json"], &[&redis.section()]).await;
    let client = stack.client().await;
    let load = Load::start(&client, 3);
    load.goes_on_for(30).await;

    let first = redis.primary();
    redis.kill(first);
    load.goes_on_for(30).await;
    assert_ne!(redis.primary(), first, "a replica has taken over");
    redis.restart(first);
    redis.sees_all(0).await;

    stack.cluster[0].kill();
    load.goes_on_for(30).await;
    stack.cluster.restart(0).await;
    load.goes_on_for(30).await;

    let answers = load.stop().await;
    for (key, answer) in &answers {
        let code = answer["error"]["code"].as_i64().unwrap_or_default();
        // -31004: the store was away; whether it ran is said. -31002: its node has died.
        let fine =
            answer.get("result").is_some() || (is_write(key) && [-31004, -31002].contains(&code));
        assert!(fine, "{kind:?}: {key}: {answer}\n{}", stack.balancer.log());
        let refused = answer["error"]["data"]["mayHaveRun"] == false;
        let ran = stack.sample.executions("write", key);
        let least = usize::from(is_write(key) && answer.get("result").is_some());
        assert!(ran >= least && ran <= usize::from(!refused), "{kind:?}: {key} ran {ran} times");
    }
    // Most of all is well: what dies is noticed by few.
    let failed = answers.iter().filter(|(_, answer)| answer.get("result").is_none()).count();
    assert!(failed * 4 < answers.len(), "{kind:?}: {failed} of {}", answers.len());
    let answer = client.post(&message::call(1, "whoami")).await.response().await;
    assert!(answer["result"].is_object(), "{kind:?}: the session goes on: {answer}");
}

#[tokio::test]
async fn a_primary_and_a_node_die_behind_nginx() {
    one_thing_dies_after_another(BOTH[0]).await;
}

#[tokio::test]
async fn a_primary_and_a_node_die_behind_haproxy() {
    one_thing_dies_after_another(BOTH[1]).await;
}

/// A Sentinel writes what it learns into a file of its own, which outlives it.
#[tokio::test]
async fn a_sentinel_takes_over_what_its_file_says_at_its_next_start() {
    let files = TempDir::new();
    for name in ["start.sh", "redis.conf", "sentinel.conf"] {
        std::fs::copy(shipped("redis").join(name), files.join(name)).expect("a copy");
    }
    let mut redis = Redis::start_from(files.join("start.sh")).await;
    let text = std::fs::read_to_string(files.join("sentinel.conf")).expect("the file");
    let mut changed = text.clone();
    for (from, to) in [
        ("down-after-milliseconds holdfast 2000", "down-after-milliseconds holdfast 2500"),
        ("failover-timeout holdfast 10000", "failover-timeout holdfast 11000"),
        ("parallel-syncs holdfast 1", "parallel-syncs holdfast 2"),
        ("6379 2\n", "6379 3\n"),
    ] {
        assert!(changed.contains(from), "no {from} in\n{text}");
        changed = changed.replace(from, to);
    }
    std::fs::write(files.join("sentinel.conf"), changed).expect("write the file");
    let (own, process) = &mut redis.sentinels[0];
    process.kill();
    *process = run(&redis.start, &redis.folder, "sentinel", *own, redis.servers[0].0);
    redis.sees_all(0).await;
    let said = ask(redis.sentinels[0].0, &["sentinel", "master", "holdfast"]);
    let said: Vec<&str> = said.lines().collect();
    let value = |name: &str| said.iter().skip_while(|it| **it != name).nth(1).copied();
    let port = redis.servers[0].0.port().to_string();
    assert_eq!(value("port"), Some(port.as_str()), "it knows the primary: {said:?}");
    for (name, expected) in [
        ("down-after-milliseconds", "2500"),
        ("failover-timeout", "11000"),
        ("parallel-syncs", "2"),
        ("quorum", "3"),
    ] {
        assert_eq!(value(name), Some(expected), "{name}: {said:?}");
    }
}

/// What the gateways' passwords are good for, should they be seen.
#[tokio::test]
async fn the_gateways_user_can_empty_and_stop_nothing() {
    let redis = Redis::start().await;
    let as_gateway = |address: SocketAddr, words: &[&str]| {
        let login = ["--no-auth-warning", "--user", "holdfast", "--pass", GATEWAYS];
        ask(address, &[&login[..], words].concat())
    };
    let primary = redis.servers[redis.primary()].0;
    assert!(as_gateway(primary, &["set", "{holdfast:00}x", "1"]).contains("OK"));
    for words in [
        &["flushall"][..],
        &["shutdown"],
        &["config", "set", "maxmemory", "1"],
        &["replicaof", "no", "one"],
        &["set", "another", "1"],
        &["acl", "list"],
    ] {
        let said = as_gateway(primary, words);
        assert!(said.contains("NOPERM"), "{words:?}: {said}");
    }
    let sentinel = redis.sentinels[0].0;
    let asked = as_gateway(sentinel, &["sentinel", "get-master-addr-by-name", "holdfast"]);
    assert!(asked.contains(&primary.port().to_string()), "{asked}");
    let said = as_gateway(sentinel, &["sentinel", "failover", "holdfast"]);
    assert!(said.contains("NOPERM"), "{said}");
}
