//! The coordinator is killed at each step of a move, in turn, and in a hurry with the primary: the next one ends the
//! same move, no session is lost, no Write runs twice, and all nodes end in one state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Lived, SETTINGS, are_well, live, start, start_within, write};
use crate::harness::cluster::Cluster;
use crate::harness::control::{ALL, Order};
use crate::harness::gateway::Setup;
use crate::harness::sample::Sample;
use crate::harness::within;

const OVER: [&str; 4] = ["failover", "docs", "--to", "b"];

/// What both sides are asked takes its time.
const CHECK: &str = "consistency: { tool: slow, arguments: { ms: 800 } }";

/// Less than a node may stand still where nodes wait for 8 s.
const STILL: Duration = Duration::from_secs(6);

/// [`SETTINGS`] with these keys of `failover` besides.
fn failover(more: &str) -> String {
    SETTINGS.replace("drain: 20s", &format!("drain: 20s, {more}"))
}

/// Three nodes and a server that is about to move, with sessions that write at the two nodes that outlive it.
struct Scene {
    a: Sample,
    b: Sample,
    cluster: Cluster,
    /// The coordinator, the node that is asked, and the other one.
    leader: usize,
    at: usize,
    third: usize,
    /// The moves and switches that there were before.
    generation: u64,
    switched: usize,
    stop: Arc<AtomicBool>,
    sessions: JoinSet<Lived>,
}

// === impl Scene ===

impl Scene {
    /// With more keys of `failover`.
    async fn with(more: &str, setup: Setup) -> Self {
        Self::of(start(&failover(more), setup).await).await
    }

    async fn of(servers: (Sample, Sample, Cluster)) -> Self {
        Self::under(12, servers).await
    }

    /// With so many sessions.
    async fn under(many: usize, (a, b, cluster): (Sample, Sample, Cluster)) -> Self {
        let leader = cluster.coordinator().await;
        let (at, third) = ((leader + 1) % 3, (leader + 2) % 3);
        let before = cluster.control(at, "docs").await;
        let generation = before["generation"].as_u64().expect("a generation");
        let switched = cluster.recorded(at, "switched").await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut sessions = JoinSet::new();
        for number in 0..many {
            let client = cluster.client([at, third][number % 2]).initialized().await;
            sessions.spawn(live(client, number, Arc::clone(&stop)));
        }
        Self { a, b, cluster, leader, at, third, generation, switched, stop, sessions }
    }

    fn order(&self, order: &[&str]) -> Order {
        Order::give(self.cluster[self.at].admin, order)
    }

    /// Waits until the move has come to this stage.
    async fn comes_to(&self, stage: &str) {
        self.cluster.shows(self.at, "docs", stage, |it| it["stage"] == stage).await;
    }

    /// `kill -9` of the coordinator.
    fn kill(&mut self) {
        self.cluster[self.leader].kill();
    }

    /// The same while the third node is frozen, with which the move stays at this stage: it has not confirmed.
    /// Neither can the node that is left go on alone.
    async fn kill_at(&mut self, stage: &str) {
        self.comes_to(stage).await;
        self.kill();
        let seen = self.cluster.control(self.at, "docs").await;
        assert_eq!(seen["stage"], stage, "killed too late: {seen}");
        self.cluster[self.third].thaw();
    }

    /// The same where the stage may be over before anybody sees it, or the third node, frozen since then, may stand
    /// still for too long; whether it was not and did not.
    async fn is_killed_at(&mut self, stage: &str, since: Instant) -> bool {
        let fits = |it: &Value| it["stage"] == stage || it["active"] == "b";
        let seen = self.cluster.shows(self.at, "docs", stage, fits).await;
        if seen["stage"] != stage || since.elapsed() > STILL {
            return false;
        }
        self.kill();
        let seen = self.cluster.control(self.at, "docs").await;
        self.cluster[self.third].thaw();
        seen["stage"] == stage
    }

    /// The move has ended there, as one move with one switch, for all nodes and also for the one that comes back;
    /// the sessions have gone on all the time.
    async fn rests_on(mut self, instance: &str) {
        let (at, third, leader) = (self.at, self.third, self.leader);
        let rests = |it: &Value| it["active"] == instance && it["stage"].is_null();
        self.cluster.all_show(&[at, third], "docs", "at rest", rests).await;
        self.stop.store(true, Ordering::Relaxed);
        let lives = within("every session's last Write", self.sessions.join_all()).await;
        are_well(&lives, [&self.a, &self.b]);
        self.cluster.restart(leader).await;
        let end = self.cluster.all_show(&ALL, "docs", "at rest", rests).await;
        assert_eq!(end["generation"], self.generation + 1, "the move was begun anew: {end}");
        for node in ALL {
            assert_eq!(self.cluster.recorded(node, "switched").await, self.switched + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_at_the_pause_is_followed_by_one_that_lets_calls_go_on() {
    let mut scene = Scene::with("", Setup::new()).await;
    scene.cluster[scene.third].freeze();
    let order = scene.order(&OVER);
    scene.kill_at("pause").await;
    order.arrives_at("b").await;
    scene.rests_on("b").await;
}

/// The primary is dead, all calls wait for the move that this began, and then its coordinator dies. The node that is
/// frozen has voted that the primary is well and is outvoted; without its word the pause goes on for as long as it may
/// be frozen before it is taken for dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_with_the_primary_is_followed_by_one_that_ends_the_hurry() {
    let start = async || Scene::under(60, start_within("8s", SETTINGS, Setup::new()).await).await;
    for _ in 0..2 {
        let mut scene = start().await;
        let since = Instant::now();
        scene.cluster[scene.third].freeze();
        scene.a.kill();
        if scene.is_killed_at("pause", since).await {
            return scene.rests_on("b").await;
        }
        // On a machine that is slow enough the verdict takes longer than the pause may last, or than the third node
        // may be frozen before it closes its clients' connections.
        scene.sessions.shutdown().await;
    }
    // There it is killed at whichever step the hurry has come to.
    let mut scene = start().await;
    scene.a.kill();
    let has_begun = |it: &Value| it["stage"].is_string() || it["active"] == "b";
    scene.cluster.shows(scene.at, "docs", "on its way", has_begun).await;
    scene.kill();
    scene.rests_on("b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_in_the_middle_of_a_drain_is_followed_by_one_that_waits_on() {
    let mut scene = Scene::with("", Setup::new()).await;
    let client = scene.cluster.client(scene.at).initialized().await;
    // A call that runs at the primary holds the move at its drain.
    let running = {
        let client = client.clone();
        tokio::spawn(async move { client.post(&write("long", 4_000)).await.response().await })
    };
    within("the call's execution", async {
        while scene.a.executions("write", "long") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let order = scene.order(&OVER);
    scene.comes_to("drain").await;
    scene.kill();
    order.arrives_at("b").await;
    // The call that ran has its answer, and the session goes on.
    let response = running.await.expect("no panic");
    assert!(response.get("result").is_some(), "{response}");
    let response = client.post(&write("after", 0)).await.response().await;
    assert!(response.get("result").is_some(), "{response}");
    let ran = [&scene.a, &scene.b].map(|it| it.executions("write", "after"));
    assert_eq!(ran, [0, 1]);
    scene.rests_on("b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_over_the_check_is_followed_by_one_that_checks() {
    let (a, b, cluster) = start(&failover(CHECK), Setup::new()).await;
    // Once the other side answers otherwise: then all nodes stay.
    b.behave(r#"{"tool":"slow","fault":{"kind":"rpc_error","code":-32000,"message":"no"}}"#).await;
    Order::give(cluster[0].admin, &OVER).comes_back_to("a").await;
    let stays = |it: &Value| it["active"] == "a" && it["phase"] == "primary_active";
    cluster.all_show(&ALL, "docs", "at rest", stays).await;
    let mut scene = Scene::of((a, b, cluster)).await;
    let order = scene.order(&OVER);
    scene.comes_to("check").await;
    scene.kill();
    order.arrives_at("b").await;
    scene.rests_on("b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_at_the_switch_is_followed_by_one_that_has_all_confirm() {
    let mut scene = Scene::with(CHECK, Setup::new()).await;
    let order = scene.order(&OVER);
    // It has confirmed the pause and that nothing runs; the switch it cannot.
    scene.comes_to("check").await;
    scene.cluster[scene.third].freeze();
    scene.kill_at("switch").await;
    order.arrives_at("b").await;
    scene.rests_on("b").await;
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
    let mut scene = Scene::with("", Setup::new().section(&section)).await;
    let order = scene.order(&OVER);
    scene.comes_to("notify").await;
    scene.kill();
    answers.store(true, Ordering::Relaxed);
    order.arrives_at("b").await;
    assert!(told.load(Ordering::Relaxed), "nobody was told");
    scene.rests_on("b").await;
    hooked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_on_the_way_back_is_followed_by_one_that_goes_on_from_there() {
    let servers = start(&failover("ramp_over: 4s"), Setup::new()).await;
    Order::give(servers.2[0].admin, &OVER).arrives_at("b").await;
    let mut scene = Scene::of(servers).await;
    let order = scene.order(&["failback", "docs"]);
    scene.comes_to("ramp").await;
    scene.kill();
    order.arrives_at("a").await;
    scene.rests_on("a").await;
}

/// Half of what the checks ask fails from now on.
const HALF: &str = r#"{"method":"tools/call","tool":"echo","always":true,"fault":{"kind":"rpc_error","code":-32000,"message":"no"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_on_the_way_over_is_followed_by_one_that_takes_nothing_back() {
    let checks = "checks: [ { type: ping }, { type: tool, tool: echo, arguments: {} } ]";
    let settings = failover("degradation: 0.3, shift_over: 4s");
    let settings = settings.replace("checks: [ { type: ping } ]", checks);
    let mut scene = Scene::of(start(&settings, Setup::new()).await).await;
    scene.a.behave(HALF).await;
    let share = |it: &Value| it["instances"][1]["share"].as_f64().unwrap_or_default();
    let half_way = |it: &Value| it["stage"] == "ramp" && share(it) >= 0.3;
    let seen = scene.cluster.shows(scene.at, "docs", "on its way", half_way).await;
    scene.kill();
    let mut reached = share(&seen);
    while reached < 1.0 {
        let more = |it: &Value| it["stage"] != "ramp" || share(it) > reached;
        let back = |it: &Value| it["stage"] == "ramp" && share(it) < reached;
        let next = scene.cluster.shows(scene.at, "docs", "on", |it| more(it) || back(it)).await;
        assert!(!back(&next), "from {reached} back: {next}");
        reached = if next["stage"] == "ramp" { share(&next) } else { 1.0 };
    }
    scene.rests_on("b").await;
}
