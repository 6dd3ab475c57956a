//! A server with a primary and a secondary behind three nodes: the primary is killed under load or fails
//! its calls, one node is cut off from it, the coordinator dies in the middle of a move.

mod back;
mod packets;
mod shut;
mod steps;
mod told;
mod waits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, PATIENCE, get};
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::process::free_address;
use crate::harness::sample::Sample;
use crate::harness::{message, within};

/// Sessions that are bound to the primary when it is killed.
const SESSIONS: usize = 200;

const SETTINGS: &str = "health: { interval: 1s, timeout: 1s, retries: 0, checks: [ { type: ping } ] }, \
                        failover: { threshold: 2, failback_delay: 1h, drain: 20s }";

fn instance(id: &str, role: &str, url: &str) -> String {
    format!(r#"{{ id: {id}, role: {role}, url: "{url}" }}"#)
}

/// Nodes wait so long for one that is frozen that a test thaws it before, and a machine that is busy with other tests
/// freezes none by itself.
const PATIENT: &str = "3s";

/// A primary, a secondary and three nodes that know both to be well.
async fn start(settings: &str, setup: Setup) -> (Sample, Sample, Cluster) {
    start_within(PATIENT, settings, setup).await
}

/// The same where nodes wait so long for one that is frozen.
async fn start_within(
    patience: &'static str,
    settings: &str,
    setup: Setup,
) -> (Sample, Sample, Cluster) {
    let (a, b) = (Sample::start(&["--name", "a"]).await, Sample::start(&["--name", "b"]).await);
    let urls = [&a, &b].map(|sample| format!("http://{}/mcp", sample.address));
    let setup = setup.server("docs", &pair(&urls[0], &urls[1], settings));
    let cluster = setup.failover_timeout(patience).cluster().await;
    all_well(&cluster).await;
    (a, b, cluster)
}

fn pair(primary: &str, secondary: &str, settings: &str) -> String {
    let [a, b] = [instance("a", "primary", primary), instance("b", "secondary", secondary)];
    format!("{{ instances: [ {a}, {b} ], {settings} }}")
}

/// Until every node knows that both instances are healthy.
async fn all_well(cluster: &Cluster) {
    let well = |it: &serde_json::Value| it["verdict"] == "healthy" && it["score"] == 1.0;
    let both = |it: &serde_json::Value| well(&it["instances"][0]) && well(&it["instances"][1]);
    cluster.all_show(&ALL, "docs", "well", |it| it["active"] == "a" && both(it)).await;
    // Until then a session's move is not told of in its record.
    for at in ALL {
        cluster[at].comes_to_metric("holdfast_control_all_read 1").await;
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
    /// Codes of the refusals.
    refused: Vec<i64>,
    unknown: Vec<String>,
    /// The longest time from one result to the next.
    gap: Duration,
    /// Whether a Write succeeded after the end of the load was asked for.
    last: bool,
}

/// Every session's last Write succeeded, and none ran twice.
#[track_caller]
fn are_well(lives: &[Lived], servers: [&Sample; 2]) {
    let logs = servers.map(|it| it.executed("write"));
    let ran = |key: &str| logs.iter().filter_map(|log| log.get(key)).sum::<usize>();
    for lived in lives {
        assert!(lived.last, "its last Write succeeded");
        for key in &lived.done {
            assert_eq!(ran(key), 1, "{key}");
        }
        for key in &lived.unknown {
            assert!(ran(key) <= 1, "{key} ran {} times", ran(key));
        }
    }
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
            Some(code @ (-31001 | -31003 | -31004)) => {
                assert_eq!(response["error"]["data"]["mayHaveRun"], false, "{response}");
                lived.refused.push(code);
            }
            Some(_) => panic!("no code for this: {response}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    lived
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_killed_primary_go_on_on_the_secondary() {
    let (mut a, b, cluster) = start(SETTINGS, Setup::new()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions: JoinSet<Lived> = JoinSet::new();
    for number in 0..SESSIONS {
        let client = cluster.client(number % 3).initialized().await;
        sessions.spawn(live(client, number, Arc::clone(&stop)));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let killed = Instant::now();
    a.kill();
    cluster.all_show(&ALL, "docs", "on b", |seen| seen["phase"] == "secondary_active").await;
    let moved = killed.elapsed();
    println!("all nodes at rest on b {} ms after the kill", moved.as_millis());
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);

    let (mut done, mut refused, mut unknown, mut gaps) = (0, Vec::new(), 0, Vec::new());
    let ends = within("every session's last Write", sessions.join_all()).await;
    are_well(&ends, [&a, &b]);
    for lived in ends {
        done += lived.done.len();
        refused.extend(lived.refused);
        unknown += lived.unknown.len();
        gaps.push(lived.gap.as_millis());
    }
    gaps.sort_unstable();
    println!(
        "{SESSIONS} sessions: {done} Writes done, {} refused unrun, {unknown} of unknown outcome; \
         longest time without a result: median {} ms, worst {} ms",
        refused.len(),
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
    // Calls wait up to five seconds for the failover. (A node that a slow machine kept from its lease, or from
    // the group, refuses Writes with -31004, whatever becomes of the server.)
    if moved < Duration::from_secs(4) {
        refused.retain(|code| *code != -31004);
        assert!(refused.is_empty(), "the failover is a pause and no error: {refused:?}");
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
        // A reply between nodes that is lost has something told twice.
        let has = |name: &str, least| incident[name].as_u64().is_some_and(|it| it >= least);
        if has("unknown_writes", writes) && has("sessions_moved", left) {
            println!("{writes} Writes in doubt for {} ms", incident["in_doubt_ms"]);
            let none = incident["unknown_writes"] == 0;
            assert_eq!(incident["rpo"], if none { "kept" } else { "missed" }, "{incident}");
            return;
        }
        assert!(Instant::now() < deadline, "{writes} and {left} are expected: {incident}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Of what is given up without an answer, only what may have an effect leaves its client in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_given_up_is_no_write_in_doubt() {
    let sample = Sample::start(&["--name", "a"]).await;
    let settings = "tier: 1, timeout: 3s, tools: { echo: read }, \
                    health: { interval: 500ms, timeout: 500ms, retries: 0, checks: [ { type: ping } ] }";
    let url = format!("http://{}/mcp", sample.address);
    let server = format!(r#"{{ url: "{url}", {settings} }}"#);
    let gateway = Setup::new().server("docs", &server).start().await;
    let [reader, writer] =
        [Client::legacy(&gateway).at("/mcp/docs"), Client::legacy(&gateway).at("/mcp/docs")];
    let (reader, writer) = (reader.initialized().await, writer.initialized().await);
    sample.behave(r#"{"always":true,"fault":{"kind":"hang"}}"#).await;
    let read = tokio::spawn(async move { reader.call(1, "echo").await });
    let write = writer.post(&write("w", 0)).await.response().await;
    let read = read.await.expect("an answer");
    for answer in [&read, &write] {
        assert_eq!(answer["error"]["data"]["mayHaveRun"], true, "{answer}");
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = get(gateway.admin, "/api/incidents").await.expect("it answers").1;
        let seen: serde_json::Value = serde_json::from_slice(&seen).expect("JSON");
        let incident = &seen["incidents"][0];
        if incident["unknown_writes"].as_u64().is_some_and(|it| it > 0) {
            assert_eq!(
                (&incident["unknown_writes"], &incident["rpo"]),
                (&1.into(), &"missed".into())
            );
            return;
        }
        assert!(Instant::now() < deadline, "no Write is in doubt: {seen}");
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
    let primary = format!("http://127.0.0.${{NODE}}:{port}/mcp");
    let server = pair(&primary, &format!("http://{}/mcp", b.address), SETTINGS);
    let cluster = Setup::new().server("docs", &server).failover_timeout(PATIENT).cluster().await;
    all_well(&cluster).await;
    // The worst of the three: the coordinator itself.
    let cut = cluster.coordinator().await;
    let other = (cut + 1) % 3;
    let client = cluster.client(other).initialized().await;
    let own = cluster.client(cut).initialized().await;
    drop(links.remove(cut));
    let fails = |it: &serde_json::Value| it["score"].as_f64().is_some_and(|score| score < 0.5);
    cluster.shows(cut, "docs", "cut off", |seen| fails(&seen["instances"][0])).await;
    // Its operator is told where to look.
    assert_eq!(own.call(1, "echo").await["error"]["code"], -31001);
    let reach = cluster[cut].check("server:docs/a/reach").await.expect("it is shown");
    let told = "and the others find it healthy: if that lasts, look at this node's network";
    assert!(reach["error"].as_str().is_some_and(|it| it.contains(told)), "{reach}");
    // The others' votes are renewed once a second; ten rounds of them change nothing.
    for round in 0..50 {
        let response = client.post(&write(&format!("k{round}"), 0)).await.response().await;
        assert!(response.get("result").is_some(), "{response}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Its own clients hear that nothing ran: it neither sends their calls elsewhere nor leaves them waiting.
    let response = own.post(&write("own", 0)).await.response().await;
    let error = &response["error"];
    assert_eq!((&error["code"], &error["data"]["mayHaveRun"]), (&(-31001).into(), &false.into()));
    assert_eq!([&a, &b].map(|it| it.executions("write", "own")), [0, 0]);
    for at in ALL {
        let seen = cluster.control(at, "docs").await;
        assert_eq!(seen["active"], "a", "{seen}");
        assert_eq!(seen["generation"], 0, "{seen}");
        let first = &seen["instances"][0];
        assert_ne!(first["verdict"], "unhealthy", "{seen}");
        assert!(first["kept"].is_null(), "the group has opened its breaker: {seen}");
        assert!(at == cut || first["breaker"] == "closed", "{seen}");
    }
}

/// Answers whatever a check asks, and fails every call.
const FAILS_CALLS: &str =
    r#"{"method":"tools/call","always":true,"fault":{"kind":"status","status":500}}"#;

/// A primary that every check finds well is left for the secondary by what these nodes' calls meet, at all
/// nodes, and stays left when the coordinator is gone.
async fn is_left_for_the_calls_of(callers: &[usize]) {
    let a = Sample::start(&["--behaviour", FAILS_CALLS]).await;
    let b = Sample::start(&[]).await;
    let urls = [&a, &b].map(|sample| format!("http://{}/mcp", sample.address));
    let server = pair(&urls[0], &urls[1], "health: { enabled: true }");
    let mut cluster =
        Setup::new().server("docs", &server).failover_timeout(PATIENT).cluster().await;
    all_well(&cluster).await;
    let mut clients = Vec::new();
    for at in callers {
        clients.push(cluster.client(*at).initialized().await);
    }
    let deadline = Instant::now() + PATIENCE;
    for call in 0.. {
        let mut done = 0;
        for (at, client) in clients.iter().enumerate() {
            let key = format!("n{at}-{call}");
            let response = client.post(&write(&key, 0)).await.response().await;
            assert_eq!(response["id"], key, "{response}");
            done += usize::from(response.get("result").is_some());
        }
        let seen = cluster.control(callers[0], "docs").await;
        let first = &seen["instances"][0];
        assert!(
            first["verdict"] == "healthy" || first["score"] == 1.0,
            "its checks are good: {seen}"
        );
        if done == callers.len() {
            break;
        }
        assert!(Instant::now() < deadline, "its calls go on failing: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let on_b = |it: &serde_json::Value| it["phase"] == "secondary_active";
    let seen = cluster.all_show(&ALL, "docs", "on b", on_b).await;
    assert_eq!(seen["generation"], 1, "it moved once: {seen}");
    let record = cluster.record(0).await;
    for (kind, text) in
        [("verdict", "breaker open"), ("failover_began", "the breakers of a are open")]
    {
        let says = |it: &serde_json::Value| {
            it["kind"] == kind && it["text"].as_str().is_some_and(|it| it.contains(text))
        };
        assert!(record.iter().any(says), "{text}: {record:#?}");
    }

    let gone = cluster.coordinator().await;
    let others: Vec<usize> = ALL.into_iter().filter(|at| *at != gone).collect();
    cluster[gone].kill();
    cluster.coordinator_of(&others).await;
    let reached = a.struck().await;
    for at in &others {
        let client = cluster.client(*at).initialized().await;
        let response = client.post(&write(&format!("after-{at}"), 0)).await.response().await;
        assert!(response.get("result").is_some(), "{response}");
    }
    cluster.all_show(&others, "docs", "still on b", |it| on_b(it) && it["generation"] == 1).await;
    assert_eq!(a.struck().await, reached, "none of them went to a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_answers_its_checks_and_fails_its_calls_is_left() {
    is_left_for_the_calls_of(&ALL).await;
}

/// Where all clients come through one node, the others have no call of their own that could fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_fails_the_calls_of_the_only_node_with_clients_is_left_by_all() {
    is_left_for_the_calls_of(&[1]).await;
}
