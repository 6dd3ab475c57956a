//! Redis as the store: what a call costs there, what a session takes, and what a node does without it.
//! Counted at Redis itself, command by command.

use std::collections::BTreeMap;
use std::time::Duration;

use super::balanced;
use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::process::{is_alive, signal};
use crate::harness::recorder::Recorder;
use crate::harness::redis::resp::Value;
use crate::harness::redis::{Monitor, Redis};
use crate::harness::sample::{ExecutionLog, stdio};
use crate::harness::wire::Conn;
use crate::harness::{eventually, within};

/// The record of a response that is begun before its call.
const BEGUN: (&str, f64) = ("put stream", 1.0);

/// How often each kind of call is made.
const CALLS: usize = 20;

async fn start(settings: &str) -> (Recorder, Redis, Cluster) {
    let recorder = Recorder::scripted(|_| None).await;
    let redis = Redis::start().await;
    let server = format!(r#"{{ url: "{}"{settings} }}"#, recorder.url());
    let setup = Setup::new().server("main", &server).section(&redis.section());
    let cluster = setup.cluster().await;
    (recorder, redis, cluster)
}

/// A client whose node knows its session and which tools there are.
async fn warm(cluster: &Cluster) -> Client {
    let client = cluster.client(0).initialized().await;
    client.ask(1, "tools/list", "{}").await;
    for number in 0..3 {
        client.call(10 + number, "read").await;
    }
    client
}

/// What `CALLS` calls of a tool cost, per call.
async fn cost(
    monitor: &mut Monitor,
    client: &Client,
    tool: &str,
    numbered: bool,
) -> BTreeMap<String, f64> {
    monitor.counted().await;
    for number in 0..CALLS {
        let body = message::call(1_000 + number, tool);
        let response = match numbered {
            true => balanced(client, &format!("{tool}-{number}"), &body).await,
            false => client.post(&body).await.response().await,
        };
        assert!(response.get("result").is_some(), "{response}");
    }
    let counted = monitor.counted().await;
    let mut each = BTreeMap::new();
    for (operation, times) in counted {
        // A session's deadline is moved once in a while, not with each call.
        if operation == "touch session" {
            assert!(times <= 1, "{times} touches in {CALLS} calls");
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        each.insert(operation, times as f64 / CALLS as f64);
    }
    each
}

fn costs(of: &[(&str, f64)]) -> BTreeMap<String, f64> {
    of.iter().map(|(operation, times)| ((*operation).to_owned(), *times)).collect()
}

#[tokio::test]
async fn what_a_call_costs_in_redis_is_known_exactly() {
    // At tier 1 an entry of the journal before the Write and another after it. At the others the
    // response is begun before, as a stream: its record.
    for (tier, of_a_write) in [(1, ("put journal", 2.0)), (2, BEGUN), (3, BEGUN)] {
        let (_recorder, redis, cluster) = start(&format!(", tier: {tier}")).await;
        let client = warm(&cluster).await;
        let mut monitor = redis.monitor().await;
        let nothing = costs(&[]);
        let write = costs(&[of_a_write]);
        for (tool, numbered, expected) in [
            ("read", true, &nothing),
            ("idempotent", true, &nothing),
            ("write", true, &write),
            // Without a balancer's number, the session's id and the call's name it.
            ("write", false, &write),
        ] {
            let cost = cost(&mut monitor, &client, tool, numbered).await;
            println!("tier {tier}, {tool}, numbered {numbered}: {cost:?} a call");
            assert_eq!(&cost, expected, "tier {tier}, {tool}, numbered {numbered}");
        }
    }
}

/// Adds up what the keys that fit a pattern take, in Redis: their names are binary. Gives how many
/// there are, and bytes.
const MEASURE: &str = "local cursor, many, bytes = '0', 0, 0
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    many = many + 1
    bytes = bytes + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  end
until cursor == '0'
return {many, bytes}";

async fn measure(redis: &Redis, pattern: &str) -> (usize, usize) {
    let measured = redis.ask(&["EVAL", MEASURE, "0", pattern]).await;
    let number = |at: usize| {
        let number = measured.many().get(at).and_then(Value::number);
        usize::try_from(number.expect("a number")).expect("a small one")
    };
    (number(0), number(1))
}

#[tokio::test]
async fn a_session_takes_less_than_a_kilobyte_in_redis() {
    const SESSIONS: usize = 1_000;
    let (_recorder, redis, cluster) = start("").await;
    let mut monitor = redis.monitor().await;
    for number in 0..SESSIONS {
        cluster.client(number % 3).initialized().await;
    }
    let opened = monitor.counted().await;
    println!("{SESSIONS} sessions opened: {opened:?}");
    // One when it is opened, one when its client is there; nodes look after sessions now and then.
    let puts = opened.get("put session").copied().unwrap_or_default();
    assert!((SESSIONS..=SESSIONS * 2 + SESSIONS / 100).contains(&puts), "{puts} writes");
    let (many, records) = measure(&redis, "{holdfast:*}s/*").await;
    assert_eq!(many, SESSIONS, "a session is one record");
    let (_, index) = measure(&redis, "{holdfast:*}due").await;
    let each = (records + index) / SESSIONS;
    println!(
        "{each} bytes a session: its record {}, its deadline {}",
        records / SESSIONS,
        index / SESSIONS
    );
    assert!(each < 1_024, "{each} bytes a session");
}

/// Whether the node's readiness says that it has its store.
async fn has_store(cluster: &Cluster, at: usize) -> bool {
    let address = cluster[at].address;
    let request =
        format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let health = Conn::open(address).await.exchange(request).await.json();
    let checks = health["checks"].as_array().expect("checks");
    checks.iter().any(|check| check["name"] == "session_store" && check["ok"] == true)
}

#[tokio::test]
async fn without_redis_reads_go_on_writes_are_refused_and_it_comes_back_by_itself() {
    let (recorder, mut redis, cluster) = start("").await;
    let client = warm(&cluster).await;
    balanced(&client, "before", &message::call(1, "write")).await;
    let writes = recorder.calls("write").len();
    redis.kill();
    within("all nodes say that their store is away", async {
        while has_store(&cluster, 0).await || has_store(&cluster, 1).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(cluster[0].has_metric("holdfast_store_takes_writes 0").await);
    // A session that its node knows, and a call that changes nothing.
    let response = client.call(2, "read").await;
    assert!(response.get("result").is_some(), "{response}");
    // Nothing stands before this node that could have sent it to another one.
    let response = client.post(&message::call(3, "write")).await.response().await;
    assert_eq!(response["error"]["code"], -31004, "{response}");
    assert_eq!(response["error"]["data"]["mayHaveRun"], false, "{response}");
    assert_eq!(recorder.calls("write").len(), writes, "it ran");
    // One that does not know the session cannot look it up; which store that is, is no client's business.
    let response = client.on(cluster[1].address).call(4, "read").await;
    assert_eq!(response["error"]["data"]["reason"], "the session store is away", "{response}");
    redis.restart().await;
    // Nothing is started again but Redis, and the session is the one that it was, at every node.
    for number in 0..3 {
        let client = client.on(cluster[number].address);
        let response =
            balanced(&client, &format!("after-{number}"), &message::call(4, "write")).await;
        assert!(response.get("result").is_some(), "{response}");
    }
    assert_eq!(recorder.calls("write").len(), writes + 3);
    assert!(cluster[0].has_metric("holdfast_store_takes_writes 1").await);
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_believed_and_why_is_told() {
    let (recorder, redis, cluster) = start("").await;
    let client = warm(&cluster).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    // Not only when the time is over that a primary is waited for, which would say that it is away.
    let full = "the session store takes no writes: its memory is full";
    let response = client.post(&message::call(1, "write")).await.response().await;
    assert_eq!(response["error"]["code"], -31004, "{response}");
    assert_eq!(response["error"]["data"]["reason"], full, "{response}");
    assert_eq!(response["error"]["data"]["mayHaveRun"], false, "{response}");
    assert!(recorder.calls("write").is_empty(), "it ran");
    let response = client.call(2, "read").await;
    assert!(response.get("result").is_some(), "{response}");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let response = client.post(&message::call(3, "write")).await.response().await;
    assert!(response.get("result").is_some(), "{response}");
}

/// The write that binds it anew is carried out and not acknowledged, and no change hint tells the node of it: its
/// user may not listen.
#[tokio::test]
async fn a_session_whose_new_binding_is_unknown_is_opened_again_by_the_node_that_holds_it() {
    let (redis, replica) = (Redis::start().await, Redis::start().await);
    let deaf = ["on", ">secret", "~*", "&*", "+@all", "-subscribe"];
    redis.ask(&[&["ACL", "SETUSER", "deaf"][..], &deaf].concat()).await;
    let (host, port) = (redis.address.ip().to_string(), redis.address.port().to_string());
    let follows = async || {
        replica.ask(&["REPLICAOF", &host, &port]).await;
        while !matches!(redis.ask(&["WAIT", "1", "100"]).await, Value::Number(1)) {}
    };
    follows().await;
    let section = format!(
        r#"sessions: {{ store: redis, url: "redis://deaf:secret@{}/0", redis: {{ replicas_to_acknowledge: 1 }} }}"#,
        redis.address
    );
    let log = ExecutionLog::new();
    let setup = Setup::new().server("main", &stdio(&log, "unknown-binding")).section(&section);
    let cluster = setup.cluster().await;
    let client = cluster.client(0).initialized().await;
    assert!(client.ask(1, "tools/list", "{}").await["result"]["tools"].is_array());
    let slow = |id: u32| {
        let (client, params) =
            (&client, format!(r#"{{"name":"slow","arguments":{{"key":"{id}","ms":1}}}}"#));
        async move { client.ask(id, "tools/call", &params).await }
    };
    assert!(slow(2).await.get("result").is_some());
    let first = log.pid("2").expect("an execution");

    replica.ask(&["REPLICAOF", "NO", "ONE"]).await;
    signal(first, "KILL");
    eventually("the end of its process", || (!is_alive(first)).then_some(())).await;
    let failed = slow(3).await;
    let unknown = "whether the session store has kept it is not known";
    assert_eq!(failed["error"]["data"]["reason"], unknown, "{failed}");
    follows().await;
    within("the node has its store again", async {
        while !has_store(&cluster, 0).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let read = slow(4).await;
    assert!(read.get("result").is_some(), "{read}");
}
