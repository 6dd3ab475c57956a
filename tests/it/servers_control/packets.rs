//! Three nodes and two servers on machines of their own: packets between one node and others are thrown away, and
//! nobody is told. What refuses or breaks a connection tells at least that; this says nothing to either side.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::{Lived, PATIENT, all_well, are_well, live, pair, write};
use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, PATIENCE};
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::message::{self, MODERN};
use crate::harness::sample::Sample;
use crate::harness::spaces::{Cut, Machine, inside};
use crate::harness::within;

/// Where the clients are, and what lies between the machines.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// Checked often, tried again soon.
const SETTINGS: &str = "tools: { echo: read }, connect_timeout: 1s, balance: { strategy: round_robin, slow_start: 0s }, \
    breaker: { open_for: 500ms, max_open_for: 1s, probe_interval: 100ms, ramp_over: 0s }, \
    health: { interval: 1s, timeout: 1s, retries: 0, checks: [ { type: ping } ] }";

const FAILOVER: &str = ", failover: { threshold: 2, failback_delay: 1h, drain: 20s }";

/// Two servers of one and the same two processes: `docs` has one of them as its primary and the other one as its
/// secondary, to `twins` they are alike.
struct Scene {
    cluster: Cluster,
    nodes: Arc<[Machine; 3]>,
    a: Sample,
    b: Sample,
    /// The machine of the first.
    a_is_on: Machine,
    _b_is_on: Machine,
    /// The coordinator, which is the worst to lose, and the others.
    cut: usize,
    others: [usize; 2],
}

// === impl Scene ===

impl Scene {
    /// With further settings of both servers.
    async fn start(settings: &str) -> Self {
        let settings = format!("{SETTINGS}{settings}");
        let machine = |number: u8| Machine::start(Ipv4Addr::new(10, 78, 0, number)).routed(HERE);
        let nodes = Arc::new([11, 12, 13].map(machine));
        let (a_is_on, b_is_on) = (machine(21), machine(22));
        let a = Sample::start_on(&a_is_on, &["--name", "a"]).await;
        let b = Sample::start_on(&b_is_on, &["--name", "b"]).await;
        let urls = [&a, &b].map(|it| format!("http://{}/mcp", it.address));
        let twins = format!(
            r#"{{ instances: [ {{ id: a, url: "{}" }}, {{ id: b, url: "{}" }} ], {settings} }}"#,
            urls[0], urls[1]
        );
        let cluster = Setup::new()
            .server("docs", &pair(&urls[0], &urls[1], &format!("{settings}{FAILOVER}")))
            .server("twins", &twins)
            .on_machines(&nodes)
            .failover_timeout(PATIENT)
            .cluster()
            .await;
        all_well(&cluster).await;
        let cut = cluster.coordinator().await;
        let others = [(cut + 1) % 3, (cut + 2) % 3];
        Self { cluster, nodes, a, b, a_is_on, _b_is_on: b_is_on, cut, others }
    }

    fn client(&self, at: usize, server: &str) -> Client {
        self.cluster.client(at).at(&format!("/mcp/{server}"))
    }

    /// How often a Write ran, wherever.
    fn ran(&self, key: &str) -> usize {
        [&self.a, &self.b].map(|it| it.executions("write", key)).into_iter().sum()
    }

    /// Nothing has failed over, and nobody but the node that is cut off holds anything against the primary.
    async fn stays(&self, nodes: &[usize]) {
        for at in nodes {
            let seen = self.cluster.control(*at, "docs").await;
            assert_eq!((&seen["active"], &seen["generation"]), (&"a".into(), &0.into()), "{seen}");
            let first = &seen["instances"][0];
            assert_ne!(first["verdict"], "unhealthy", "{seen}");
            assert!(first["kept"].is_null(), "the group has opened its breaker: {seen}");
            assert!(*at == self.cut || first["breaker"] == "closed", "{seen}");
        }
    }

    /// A Write that runs at its server, and its answer.
    async fn running(&self, client: &Client, key: &str) -> tokio::task::JoinHandle<Value> {
        let (client, body) = (client.clone(), write(key, 1_500));
        let answer = tokio::spawn(async move { client.post(&body).await.response().await });
        within("a Write that runs", async {
            while self.ran(key) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        answer
    }

    /// What a Write is answered, which is true: it says that it did not run of none that ran, and its result comes
    /// from one execution.
    async fn writes(&self, client: &Client, key: &str) -> Value {
        let body = match client.version == MODERN {
            true => modern_write(key),
            false => write(key, 0),
        };
        let answer = client.post(&body).await.response().await;
        assert_eq!(answer["id"], key, "{answer}");
        self.is_true(&answer, key);
        answer
    }

    fn is_true(&self, answer: &Value, key: &str) {
        let data = &answer["error"]["data"];
        match data["mayHaveRun"].as_bool() {
            None => assert!(answer.get("result").is_some() && self.ran(key) == 1, "{answer}"),
            Some(true) => assert!(self.ran(key) <= 1, "{answer}"),
            Some(false) => {
                assert_eq!(self.ran(key), 0, "{answer}");
                let later = data["retryAfterMs"].as_u64();
                assert!(later.is_some_and(|it| it > 0), "no advice: {answer}");
            }
        }
    }
}

fn modern_write(key: &str) -> String {
    let meta = message::META;
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}"}},{meta}}}"#);
    message::request(format!("\"{key}\""), "tools/call", &params)
}

fn read(client: &Client) -> impl Future<Output = Value> {
    let client = client.clone();
    async move { client.call("\"read\"", "echo").await }
}

/// Sessions that write at these nodes, until told to stop.
fn load(scene: &Scene, nodes: [usize; 2], stop: &Arc<AtomicBool>) -> JoinSet<Lived> {
    let mut sessions = JoinSet::new();
    for number in 0..8 {
        let client = scene.client(nodes[number % 2], ["docs", "twins"][number / 4]);
        let stop = Arc::clone(stop);
        sessions.spawn(async move { live(client.initialized().await, number, stop).await });
    }
    sessions
}

/// A node whose packets a healthy server does not get is alone with that: the others' calls all succeed and nothing
/// fails over. Its own clients have results of the other instance where there is one, and otherwise are told the
/// truth; and it goes back to the server when packets pass again.
#[tokio::test(flavor = "multi_thread")]
async fn between_one_node_and_a_server_that_is_well() {
    if !inside("servers_control::packets::between_one_node_and_a_server_that_is_well", HERE) {
        return;
    }
    // What is lost on its way is given up soon.
    let scene = Scene::start(", timeout: 5s").await;
    let (cut, stop) = (scene.cut, Arc::new(AtomicBool::new(false)));
    let beside = load(&scene, scene.others, &stop);
    let docs = scene.client(cut, "docs").initialized().await;
    let twins = scene.client(cut, "twins").speaking(MODERN);
    assert!(scene.writes(&docs, "before").await.get("result").is_some());
    let lost = scene.running(&docs, "lost").await;

    let packets = Cut::between(&scene.nodes[cut], &[&scene.a_is_on]);
    // It has run, and nobody will ever bring its answer.
    let answer = lost.await.expect("an answer");
    assert_eq!(answer["error"]["data"]["mayHaveRun"], true, "{answer}");
    assert_eq!(scene.ran("lost"), 1);
    let fails = |it: &Value| it["score"].as_f64().is_some_and(|score| score < 0.5);
    scene.cluster.shows(cut, "docs", "cut off", |seen| fails(&seen["instances"][0])).await;
    // From then on its clients hear at once that nothing ran, or have their results from the other instance.
    let (mut refused, mut reads) = (0, 0);
    for number in 0..20 {
        let answer = scene.writes(&docs, &format!("cut-{number}")).await;
        refused += usize::from(answer["error"]["code"] == -31001);
        assert!(answer.get("result").is_none(), "{answer}");
        let answer = read(&twins).await;
        match answer.get("result") {
            Some(_) => reads += 1,
            None => assert!(answer["error"]["data"]["mayHaveRun"].is_boolean(), "{answer}"),
        }
        let answer = scene.writes(&twins, &format!("twin-{number}")).await;
        reads += usize::from(answer.get("result").is_some());
    }
    println!(
        "{refused} of 20 Writes were refused unrun, {reads} of 40 calls had results elsewhere"
    );
    assert!(refused >= 15 && reads >= 36, "{refused} refused, {reads} results");
    scene.stays(&ALL).await;

    drop(packets);
    let healed = tokio::time::Instant::now();
    for number in 0.. {
        let key = format!("healed-{number}");
        if scene.writes(&docs, &key).await.get("result").is_some() {
            assert_eq!(scene.a.executions("write", &key), 1);
            break;
        }
        assert!(healed.elapsed() < PATIENCE, "it does not go back to its server");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And to the one of two that are alike.
    within("a call at the first of two", async {
        for number in 0.. {
            let key = format!("both-{number}");
            scene.writes(&twins, &key).await;
            if scene.a.executions("write", &key) == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let well = |it: &Value| it["instances"][0]["score"] == 1.0 && it["verdict"] == "healthy";
    scene.cluster.all_show(&ALL, "docs", "well", well).await;
    scene.stays(&ALL).await;
    stop.store(true, Ordering::Relaxed);
    let lives = within("every session's last Write", beside.join_all()).await;
    are_well(&lives, [&scene.a, &scene.b]);
    for lived in &lives {
        assert!(lived.refused.is_empty() && lived.unknown.is_empty(), "the others met it");
    }
    assert_eq!(scene.ran("lost"), 1);
}

/// A node that hears no other one, and that none hears, reaches its servers and its clients all the same. What needs
/// the group it refuses, and says so; what does not goes on; a Write that a balancer brings to another node while it
/// runs there runs once; and it joins again when packets pass.
#[tokio::test(flavor = "multi_thread")]
async fn between_one_node_and_the_two_others() {
    if !inside("servers_control::packets::between_one_node_and_the_two_others", HERE) {
        return;
    }
    let scene = Scene::start("").await;
    let (cluster, cut, others) = (&scene.cluster, scene.cut, scene.others);
    let stop = Arc::new(AtomicBool::new(false));
    let beside = load(&scene, others, &stop);
    let own = scene.client(cut, "docs").initialized().await;
    assert!(scene.writes(&own, "before").await.get("result").is_some());
    let joined = cluster.sees_state(others[0], cut, "ready").await["generation"].clone();
    let named = own.clone().with("X-Request-ID", "named");
    let running = scene.running(&named, "named").await;

    let [one, other] = others.map(|at| &scene.nodes[at]);
    let packets = Cut::between(&scene.nodes[cut], &[one, other]);
    // A balancer that has given up on the node brings the same call to the next one.
    let brought = named.on(cluster[others[0]].address).post(&write("named", 1_500)).await;
    let brought = brought.response().await;
    for answer in [running.await.expect("an answer"), brought] {
        assert!(answer.get("result").is_some() || answer["error"]["data"]["mayHaveRun"] == true);
        scene.is_true(&answer, "named");
    }
    assert_eq!(scene.ran("named"), 1);
    cluster.sees_state(others[0], cut, "dead").await;
    cluster.coordinator_of(&others).await;
    cluster[cut].readiness_becomes(503).await;
    let opening = scene.client(cut, "docs");
    let (written, opened, answer) =
        tokio::join!(scene.writes(&own, "cut"), opening.initialize(), read(&own));
    assert_eq!(scene.ran("cut"), 0, "{written}");
    for refused in [written, opened.json()] {
        assert_eq!(refused["error"]["code"], -31004, "{refused}");
        assert!(refused["error"]["data"]["retryAfterMs"].is_u64(), "no advice: {refused}");
    }
    assert!(answer.get("result").is_some(), "what needs no group goes on: {answer}");
    // Its session is the others' too.
    let elsewhere = own.on(cluster[others[1]].address);
    assert!(scene.writes(&elsewhere, "elsewhere").await.get("result").is_some());
    scene.stays(&others).await;

    drop(packets);
    cluster[cut].becomes_ready().await;
    let after = cluster.sees_state(others[0], cut, "ready").await["generation"].clone();
    assert!(after.as_u64() > joined.as_u64(), "{joined}, then {after}");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for number in 0.. {
        if scene.writes(&own, &format!("healed-{number}")).await.get("result").is_some() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "it takes no Writes again");
    }
    let answer = message::call("\"again\"", "echo");
    assert!(own.post(&answer).await.response().await.get("result").is_some());
    cluster.all_show(&ALL, "docs", "at rest", |it| it["active"] == "a").await;
    scene.stays(&ALL).await;
    stop.store(true, Ordering::Relaxed);
    are_well(&within("the last Writes", beside.join_all()).await, [&scene.a, &scene.b]);
    assert_eq!(scene.ran("named"), 1);
}
