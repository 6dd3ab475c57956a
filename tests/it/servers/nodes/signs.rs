//! What a check and a monitor outside of the cluster say at one node, at two, and at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::modern;
use crate::harness::cluster::Cluster;
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen};
use crate::harness::sample::Sample;
use crate::harness::{message, within};
use crate::servers::{refused, url};

/// Between two looks.
const SOON: Duration = Duration::from_millis(20);

const MEASURE: &str = r#"holdfast_server_measure{server_id="poorly"}"#;

/// What each node is told that asks for the load, or for the monitor's word, which is bad where there is any.
#[derive(Clone, Default)]
struct Says([Arc<AtomicU32>; 3]);

impl Says {
    fn load(&self, by_node: [u32; 3]) {
        for (at, load) in ALL.into_iter().zip(by_node) {
            self.0[at].store(load, Ordering::SeqCst);
        }
    }

    fn load_to(&self, seen: &Seen) -> u32 {
        let node = seen.target.split("node=").nth(1).and_then(|it| it.split('&').next());
        let node: usize = node.and_then(|it| it.parse().ok()).expect("a node's number");
        self.0[node - 1].load(Ordering::SeqCst)
    }
}

/// The instance that tells its load, and the monitor.
async fn speaks(says: &Says, gate: &Gate) -> Recorder {
    let (says, gate) = (says.clone(), gate.clone());
    Recorder::scripted(move |seen| {
        if seen.target.starts_with("/load") {
            let text = format!("load {}\n", says.load_to(seen));
            return Some(Reply::Json(200, Vec::new(), text));
        }
        if seen.target.starts_with("/probe") {
            let ill = says.load_to(seen) > 0 && seen.target.ends_with("of=watched.a");
            return Some(Reply::Status(if ill { 503 } else { 200 }));
        }
        let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
        (seen.tool() == "report").then(|| Reply::after(&gate, Reply::json(answer)))
    })
    .await
}

/// Waits until each of these nodes has asked so often again for what begins like this.
async fn asked_again(recorder: &Recorder, nodes: &[usize], path: &str) {
    const TIMES: usize = 5;
    let mark = recorder.seen().len();
    for at in nodes {
        let from = format!("{path}?node={}", at + 1);
        within(&from, async {
            let came = || recorder.seen().split_off(mark);
            while came().iter().filter(|it| it.target.starts_with(&from)).count() < TIMES {
                tokio::time::sleep(SOON).await;
            }
        })
        .await;
    }
}

/// Whether these nodes hold back what can wait: of two reports at a node one is refused at once.
async fn hold_back(cluster: &Cluster, nodes: &[usize], recorder: &Recorder, gate: &Gate) {
    for at in nodes {
        let client = modern(cluster, *at, "poorly");
        let before = recorder.calls("report").len();
        let one = {
            let client = client.clone();
            tokio::spawn(async move { client.call(1, "report").await })
        };
        recorder.wait_for("a report", before + 1, |it| it.tool() == "report").await;
        let answer = client.call(2, "report").await;
        refused(&answer, -31003);
        assert!(answer.to_string().contains("health.measures.degrade"), "{answer}");
        one.abort();
    }
    gate.open();
}

/// Waits until these nodes go by this measure.
async fn measure_is(cluster: &Cluster, nodes: &[usize], measure: f64) {
    for at in nodes {
        within(&format!("measure {measure} at {at}"), async {
            while cluster[*at].metric(MEASURE).await != measure {
                tokio::time::sleep(SOON).await;
            }
        })
        .await;
    }
}

fn is(verdict: &str) -> impl Fn(&Value) -> bool {
    move |it| it["instances"][0]["verdict"] == verdict
}

/// One node alone that finds a server poorly, or hears a monitor say so, changes nothing, be it the coordinator.
/// Once two do, all three go by it, also the one that sees nothing; it holds while a new coordinator is found,
/// and is over for all when the sign is.
#[tokio::test]
async fn that_two_nodes_see_are_acted_on_by_all_three() {
    let (says, gate) = (Says::default(), Gate::new());
    let recorder = speaks(&says, &gate).await;
    let (a, b) = (Sample::start(&["--name", "a"]).await, Sample::start(&["--name", "b"]).await);
    let often = "interval: 500ms, timeout: 500ms, retries: 2";
    let poorly = format!(
        r#"{{ url: "{}", tools: {{ report: {{ class: background }} }}, health: {{ {often}, checks: [
              {{ type: ping }}, {{ type: metric, path: "/load?node=${{NODE}}", metric: load, weight: 3,
                                   good: 0, bad: 100 }} ] }} }}"#,
        recorder.url()
    );
    let watched = format!(
        r#"{{ instances: [ {{ id: a, role: primary, url: "{}" }}, {{ id: b, role: secondary, url: "{}" }} ],
              health: {{ {often}, checks: [ {{ type: ping }}, {{ type: http, name: monitor, external: true,
                url: "http://{}/probe?node=${{NODE}}&of={{server}}.{{instance}}" }} ] }} }}"#,
        url(&a),
        url(&b),
        recorder.address
    );
    let mut cluster = Setup::new()
        .server("poorly", &poorly)
        .server("watched", &watched)
        .section("bulkheads: { background: { concurrency: 4 } }")
        .cluster()
        .await;
    for name in ["poorly", "watched"] {
        cluster.all_show(&ALL, name, "well", is("healthy")).await;
    }
    let leader = cluster.coordinator().await;
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);

    // To see it alone a node has to see it clearly.
    let only = |nodes: &[usize]| ALL.map(|at| if nodes.contains(&at) { 100 } else { 0 });
    says.load(only(&[leader]));
    let ill_here = |it: &Value| it["instances"][0]["score"].as_f64().is_some_and(|it| it < 0.6);
    cluster.shows(leader, "poorly", "ill by its own checks", ill_here).await;
    for path in ["/load", "/probe"] {
        asked_again(&recorder, &ALL, path).await;
    }
    for name in ["poorly", "watched"] {
        cluster.all_show(&ALL, name, "well all the same", is("healthy")).await;
        let record = cluster.record(leader).await;
        let verdicts = record.iter().filter(|it| it["kind"] == "verdict" && it["server"] == name);
        let instances = if name == "watched" { 2 } else { 1 };
        assert_eq!(verdicts.count(), instances, "one node was enough: {record:#?}");
    }
    for at in ALL {
        assert_eq!(cluster[at].metric(MEASURE).await, 0.0);
    }

    says.load(only(&[leader, other]));
    for name in ["poorly", "watched"] {
        cluster.all_show(&ALL, name, "degraded", is("degraded")).await;
    }
    let seen = cluster.control(third, "poorly").await;
    assert_eq!(seen["instances"][0]["score"], 1.0, "by its own checks it is well: {seen}");
    measure_is(&cluster, &ALL, 2.0).await;
    hold_back(&cluster, &ALL, &recorder, &gate).await;

    // All of them see it, and none so clearly that the server would be left: first those two less.
    says.load(ALL.map(|at| if at == third { 0 } else { 60 }));
    let less = |it: &Value| it["instances"][0]["score"].as_f64().is_some_and(|it| it > 0.5);
    for at in [leader, other] {
        cluster.shows(at, "poorly", "better by its own checks", less).await;
    }
    says.load([60; 3]);
    cluster.shows(third, "poorly", "ill by its own checks", ill_here).await;
    measure_is(&cluster, &ALL, 2.0).await;
    cluster[leader].kill();
    let left = [other, third];
    let found = cluster.coordinator_of(&left);
    tokio::pin!(found);
    loop {
        tokio::select! {
            _ = &mut found => break,
            () = tokio::time::sleep(SOON) => {
                for at in left {
                    assert_eq!(cluster[at].metric(MEASURE).await, 2.0, "without a coordinator");
                }
            }
        }
    }
    for path in ["/load", "/probe"] {
        asked_again(&recorder, &left, path).await;
    }
    for name in ["poorly", "watched"] {
        cluster.all_show(&left, name, "degraded as before", is("degraded")).await;
    }

    says.load([0; 3]);
    for name in ["poorly", "watched"] {
        cluster.all_show(&left, name, "well again", is("healthy")).await;
    }
    measure_is(&cluster, &left, 0.0).await;
    for at in left {
        let seen = cluster.control(at, "watched").await;
        assert_eq!((&seen["active"], &seen["generation"]), (&"a".into(), &0.into()), "{seen}");
    }
}
