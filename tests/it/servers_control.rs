//! A server with a primary and a secondary behind three nodes: the primary is killed under load, one
//! node is cut off from it, the coordinator dies in the middle of a move.

mod told;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, PATIENCE};
use crate::harness::gateway::Setup;
use crate::harness::process::{binary, free_address};
use crate::harness::sample::Sample;
use crate::harness::{message, within};

/// Sessions that are bound to the primary when it is killed.
const SESSIONS: usize = 200;

const SETTINGS: &str = "health: { interval: 1s, timeout: 1s, retries: 0, checks: [ { type: ping } ] }, \
                        failover: { threshold: 2, failback_delay: 1h, drain: 20s }";

fn instance(id: &str, role: &str, url: &str) -> String {
    format!(r#"{{ id: {id}, role: {role}, url: "{url}" }}"#)
}

async fn start() -> (Sample, Sample, Cluster) {
    start_with("", "").await
}

/// The same, with more keys of `failover`, and another section.
async fn start_with(more: &str, section: &str) -> (Sample, Sample, Cluster) {
    let settings = SETTINGS.replace("drain: 20s", &format!("drain: 20s{more}"));
    let (a, b) = (Sample::start(&["--name", "a"]).await, Sample::start(&["--name", "b"]).await);
    let urls = [&a, &b].map(|sample| format!("http://{}/mcp", sample.address));
    let setup = Setup::new().server(
        "docs",
        &format!(
            "{{ instances: [ {}, {} ], {settings} }}",
            instance("a", "primary", &urls[0]),
            instance("b", "secondary", &urls[1])
        ),
    );
    let cluster = setup.section(section).cluster().await;
    all_well(&cluster).await;
    (a, b, cluster)
}

/// What a node says of the server.
async fn control(cluster: &Cluster, at: usize) -> Value {
    let servers = cluster[at].says("/api/servers").await.unwrap_or_default();
    servers["servers"][0]["control"].clone()
}

async fn until(cluster: &Cluster, at: usize, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = control(cluster, at).await;
        if fits(&seen) {
            return seen;
        }
        if Instant::now() > deadline {
            let events = cluster[at].says("/api/audit").await.unwrap_or_default();
            panic!("{}: never {what}; last: {seen}\n{events:#}", cluster[at].name);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until every node knows that both instances are healthy.
async fn all_well(cluster: &Cluster) {
    for at in 0..3 {
        until(cluster, at, "well", |seen| {
            seen["active"] == "a"
                && (0..2).all(|it| {
                    let instance = &seen["instances"][it];
                    instance["verdict"] == "healthy" && instance["score"] == 1.0
                })
        })
        .await;
    }
}

fn write(key: &str, ms: u32) -> String {
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}","ms":{ms}}}}}"#);
    message::request(format!("\"{key}\""), "tools/call", &params)
}

/// What one session lived through.
#[derive(Default)]
struct Lived {
    done: Vec<String>,
    refused: usize,
    unknown: Vec<String>,
    /// The longest time from one result to the next.
    gap: Duration,
    /// Whether a Write succeeded after the end of the load was asked for.
    last: bool,
}

/// Writes on one session, one after the other, until told to stop; then until one more has succeeded.
async fn live(client: Client, number: usize, stop: Arc<AtomicBool>) -> Lived {
    let mut lived = Lived::default();
    let mut since = Instant::now();
    for call in 0.. {
        let last = stop.load(Ordering::Relaxed);
        let key = format!("s{number}-{call}");
        let response = client.post(&write(&key, 0)).await.response().await;
        assert_eq!(response["id"], key, "{response}");
        match response["error"]["code"].as_i64() {
            None => {
                assert!(response.get("result").is_some(), "{response}");
                lived.gap = lived.gap.max(since.elapsed());
                since = Instant::now();
                lived.done.push(key);
                if last {
                    lived.last = true;
                    return lived;
                }
            }
            Some(-31002) => lived.unknown.push(key),
            // It did not run, and says so.
            Some(-31001 | -31003 | -31004) => {
                assert_eq!(response["error"]["data"]["mayHaveRun"], false, "{response}");
                lived.refused += 1;
            }
            Some(_) => panic!("no code for this: {response}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    lived
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_killed_primary_go_on_on_the_secondary() {
    let (mut a, b, cluster) = start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions: JoinSet<Lived> = JoinSet::new();
    for number in 0..SESSIONS {
        let client = cluster.client(number % 3).initialized().await;
        sessions.spawn(live(client, number, Arc::clone(&stop)));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let killed = Instant::now();
    a.kill();
    for at in 0..3 {
        until(&cluster, at, "on b", |seen| seen["phase"] == "secondary_active").await;
    }
    let moved = killed.elapsed();
    println!("all nodes at rest on b {} ms after the kill", moved.as_millis());
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);

    let (mut done, mut refused, mut unknown, mut gaps) = (0, 0, 0, Vec::new());
    let ends = within("every session's last Write", sessions.join_all()).await;
    let logs = [a.executed("write"), b.executed("write")];
    let ran = |key: &str| logs.iter().filter_map(|log| log.get(key)).sum::<usize>();
    for lived in ends {
        assert!(lived.last, "its last Write succeeded");
        for key in &lived.done {
            assert_eq!(ran(key), 1, "{key}");
        }
        for key in &lived.unknown {
            assert!(ran(key) <= 1, "{key} ran {} times", ran(key));
        }
        done += lived.done.len();
        refused += lived.refused;
        unknown += lived.unknown.len();
        gaps.push(lived.gap.as_millis());
    }
    gaps.sort_unstable();
    println!(
        "{SESSIONS} sessions: {done} Writes done, {refused} refused unrun, {unknown} of unknown \
         outcome; longest time without a result: median {} ms, worst {} ms",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
    // Calls wait up to five seconds for the failover.
    if moved < Duration::from_secs(4) {
        assert_eq!(refused, 0, "the failover is a pause and no error");
    }
    let incidents = cluster[0].says("/api/incidents").await.unwrap_or_default();
    let incident = &incidents["incidents"][0];
    let ms = |name: &str| incident[name].as_u64().unwrap_or_else(|| panic!("{name}: {incident}"));
    println!(
        "first sign to verdict {} ms, verdict to decision {} ms, decision to switch {} ms, first \
         sign to first good answer {} ms, objective {}",
        ms("detected_ms"),
        ms("decided_ms") - ms("detected_ms"),
        ms("switched_ms") - ms("decided_ms"),
        ms("recovered_ms"),
        incident["objective"]
    );
    assert_eq!(incident["objective"], "kept");
    // What it cost is what its clients saw.
    let (writes, left) = (unknown as u64, SESSIONS as u64);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let incidents = cluster[0].says("/api/incidents").await.unwrap_or_default();
        let incident = &incidents["incidents"][0];
        if incident["unknown_writes"] == writes && incident["sessions_moved"] == left {
            println!("{writes} Writes in doubt for {} ms", incident["in_doubt_ms"]);
            assert_eq!(incident["rpo"], if writes == 0 { "kept" } else { "missed" }, "{incident}");
            return;
        }
        assert!(Instant::now() < deadline, "{writes} and {left} are expected: {incident}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Passes connections on until it is cut.
struct Link(JoinHandle<()>);

impl Link {
    async fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(at).await.expect("a port on this address");
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.expect("a connection");
                connections.spawn(async move {
                    if let Ok(mut to) = tokio::net::TcpStream::connect(to).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        }))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_a_healthy_server_fails_nothing_over() {
    let (a, b) = (Sample::start(&[]).await, Sample::start(&[]).await);
    let port = free_address().port();
    let on = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
    // Each node has an address of its own for the primary.
    let mut links = Vec::new();
    for node in 1..=3 {
        links.push(Link::start(on(node), a.address).await);
    }
    let setup = Setup::new().server(
        "docs",
        &format!(
            "{{ instances: [ {}, {} ], {SETTINGS} }}",
            instance("a", "primary", &format!("http://127.0.0.${{NODE}}:{port}/mcp")),
            instance("b", "secondary", &format!("http://{}/mcp", b.address))
        ),
    );
    let cluster = setup.cluster().await;
    all_well(&cluster).await;
    let nodes = cluster[0].nodes().await.expect("nodes");
    let leader = nodes["leader"].as_str().expect("a coordinator").to_owned();
    // The worst of the three: the coordinator itself.
    let cut = (0..3).find(|at| cluster[*at].name == leader).expect("one of them");
    let other = (cut + 1) % 3;
    let client = cluster.client(other).initialized().await;
    drop(links.remove(cut));
    until(&cluster, cut, "cut off", |seen| {
        let it = &seen["instances"][0];
        it["score"].as_f64().is_some_and(|score| score < 0.5)
    })
    .await;
    // The others' votes are renewed once a second; ten rounds of them change nothing.
    for round in 0..50 {
        let response = client.post(&write(&format!("k{round}"), 0)).await.response().await;
        assert!(response.get("result").is_some(), "{response}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for at in 0..3 {
        let seen = control(&cluster, at).await;
        assert_eq!(seen["active"], "a", "{seen}");
        assert_eq!(seen["generation"], 0, "{seen}");
        assert_ne!(seen["instances"][0]["verdict"], "unhealthy", "{seen}");
    }
}

/// Which of the three coordinates.
async fn coordinator(cluster: &Cluster) -> usize {
    let nodes = cluster[0].nodes().await.expect("nodes");
    let leader = nodes["leader"].as_str().expect("a coordinator").to_owned();
    (0..3).find(|at| cluster[*at].name == leader).expect("one of them")
}

/// An order of the command line, which follows the move to its end.
fn give(at: SocketAddr, order: &[&str]) -> JoinHandle<String> {
    let mut command = Command::new(binary());
    command.args(order).args(["--yes", "--admin"]).arg(at.to_string()).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || {
        let said = command.output().expect("the command runs");
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(said.status.success(), "{text}");
        text
    })
}

async fn switches(cluster: &Cluster, at: usize) -> usize {
    let events = cluster[at].says("/api/audit").await.unwrap_or_default();
    let events = events["events"].as_array().expect("events").clone();
    events.iter().filter(|it| it["kind"] == "switched").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_in_the_middle_of_a_move_is_followed_by_one_that_ends_it() {
    let (a, b, mut cluster) = start().await;
    let leader = coordinator(&cluster).await;
    let other = (leader + 1) % 3;
    let client = cluster.client(other).initialized().await;
    // A call that runs at the primary holds the move at its drain.
    let running = {
        let client = client.clone();
        tokio::spawn(async move { client.post(&write("long", 4_000)).await.response().await })
    };
    within("the call's execution", async {
        while a.executions("write", "long") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let order = give(cluster[other].admin, &["failover", "docs", "--to", "b"]);
    until(&cluster, other, "at its drain", |seen| seen["stage"] == "drain").await;
    cluster[leader].kill();
    let text = order.await.expect("the order is carried out");
    assert!(text.ends_with("docs: on b\n"), "{text}");
    // The call that ran has its answer, and the session goes on.
    let response = running.await.expect("no panic");
    assert!(response.get("result").is_some(), "{response}");
    let response = client.post(&write("after", 0)).await.response().await;
    assert!(response.get("result").is_some(), "{response}");
    assert_eq!((a.executions("write", "after"), b.executions("write", "after")), (0, 1));
    assert_eq!(switches(&cluster, other).await, 1);
}

/// Kills the coordinator when an order has come to this stage. The next one ends the same move, and sessions
/// at the other nodes write on, each Write once.
async fn killed_at(
    (a, b, mut cluster): (Sample, Sample, Cluster),
    order: &[&str],
    stage: &str,
    ends_on: &str,
    then: impl FnOnce(),
) {
    let leader = coordinator(&cluster).await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let at = others[0];
    let before = control(&cluster, at).await["generation"].as_u64().expect("a generation");
    let switched = switches(&cluster, at).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions: JoinSet<Lived> = JoinSet::new();
    for number in 0..12 {
        let client = cluster.client(others[number % 2]).initialized().await;
        sessions.spawn(live(client, number, Arc::clone(&stop)));
    }
    let order = give(cluster[at].admin, order);
    until(&cluster, at, stage, |seen| seen["stage"] == stage).await;
    cluster[leader].kill();
    then();
    let text = order.await.expect("the order is carried out");
    assert!(text.ends_with(&format!("docs: on {ends_on}\n")), "{text}");
    stop.store(true, Ordering::Relaxed);
    let ends = within("every session's last Write", sessions.join_all()).await;
    let logs = [a.executed("write"), b.executed("write")];
    let ran = |key: &str| logs.iter().filter_map(|log| log.get(key)).sum::<usize>();
    for lived in ends {
        assert!(lived.last, "its last Write succeeded");
        for key in &lived.done {
            assert_eq!(ran(key), 1, "{key}");
        }
        assert!(lived.unknown.iter().all(|key| ran(key) <= 1));
    }
    let end = control(&cluster, at).await;
    assert_eq!((end["active"].as_str(), end["stage"].as_str()), (Some(ends_on), None), "{end}");
    assert_eq!(end["generation"], before + 1, "the move was begun anew: {end}");
    assert_eq!(switches(&cluster, at).await, switched + 1);
}

const OVER: [&str; 4] = ["failover", "docs", "--to", "b"];

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_over_the_check_is_followed_by_one_that_checks() {
    let check = ", consistency: { tool: slow, arguments: { ms: 800 } }";
    killed_at(start_with(check, "").await, &OVER, "check", "b", || ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_before_people_were_told_is_followed_by_one_that_tells() {
    let hook = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", hook.local_addr().expect("its address"));
    let answers = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicBool::new(false));
    let (does, was) = (Arc::clone(&answers), Arc::clone(&told));
    // Says nothing until the coordinator is dead.
    let hooked = tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut connection, _) = hook.accept().await.expect("a connection");
            if does.load(Ordering::Relaxed) {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = tokio::io::AsyncWriteExt::write_all(&mut connection, answer).await;
                was.store(true, Ordering::Relaxed);
            }
            silent.push(connection);
        }
    });
    let section = format!("notify: [ {{ url: \"{url}\", events: [failover] }} ]");
    let servers = start_with("", &section).await;
    killed_at(servers, &OVER, "notify", "b", || answers.store(true, Ordering::Relaxed)).await;
    assert!(told.load(Ordering::Relaxed), "nobody was told");
    hooked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_on_the_ramp_is_followed_by_one_that_goes_on_from_there() {
    let servers = start_with(", ramp_over: 8s", "").await;
    let to_b = give(servers.2[0].admin, &OVER);
    let text = to_b.await.expect("the order is carried out");
    assert!(text.ends_with("docs: on b\n"), "{text}");
    killed_at(servers, &["failback", "docs"], "ramp", "a", || ()).await;
}

/// Answers whatever a check asks, and fails every call.
const FAILS_CALLS: &str =
    r#"{"method":"tools/call","always":true,"fault":{"kind":"status","status":500}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_answers_its_checks_and_fails_its_calls_is_left() {
    let a = Sample::start(&["--behaviour", FAILS_CALLS]).await;
    let b = Sample::start(&[]).await;
    let urls = [&a, &b].map(|sample| format!("http://{}/mcp", sample.address));
    let primary = instance("a", "primary", &urls[0]);
    let secondary = instance("b", "secondary", &urls[1]);
    let server =
        format!("{{ instances: [ {primary}, {secondary} ], health: {{ enabled: true }} }}");
    let cluster = Setup::new().server("docs", &server).cluster().await;
    all_well(&cluster).await;
    let mut clients = Vec::new();
    for at in 0..3 {
        clients.push(cluster.client(at).initialized().await);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut seen_why = String::new();
    for call in 0.. {
        // Every node sees its own calls fail.
        let mut done = 0;
        for (at, client) in clients.iter().enumerate() {
            let key = format!("n{at}-{call}");
            let response = client.post(&write(&key, 0)).await.response().await;
            assert_eq!(response["id"], key, "{response}");
            done += usize::from(response.get("result").is_some());
        }
        let seen = control(&cluster, 0).await;
        let (first, score) = (&seen["instances"][0], &seen["instances"][0]["score"]);
        if first["verdict"] == "degraded" {
            assert_eq!(*score, 1.0, "its checks are good: {seen}");
            seen_why = first["why"].to_string();
        }
        if done == 3 {
            break;
        }
        assert!(Instant::now() < deadline, "its calls go on failing: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until(&cluster, 0, "on b", |seen| seen["phase"] == "secondary_active").await;
    assert!(seen_why.contains("breaker open"), "why: {seen_why}");
    let events = cluster[0].says("/api/audit").await.unwrap_or_default();
    assert!(events.to_string().contains("a breaker open"), "{events:#}");
}
