//! What an instance takes a minute, from three nodes together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::modern;
use crate::harness::cluster::Cluster;
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::recorder::Recorder;
use crate::harness::within;

const PER_MINUTE: u32 = 600;
const BURST: u32 = 9;

fn is_refused(answer: &Value) -> bool {
    answer["error"]["code"] == -31003 && answer["error"]["data"]["mayHaveRun"] == false
}

/// Calls at these nodes, from several clients at each, until so many have come to the server.
async fn press(cluster: &Cluster, nodes: &[usize], recorder: &Recorder, many: usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for at in nodes {
        for _ in 0..4 {
            let (client, stop) = (modern(cluster, *at, "main"), Arc::clone(&stop));
            load.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.call(1, "tool").await;
                    assert!(answer.get("result").is_some() || is_refused(&answer), "{answer}");
                }
            });
        }
    }
    let before = recorder.calls("tool").len();
    within("the calls", async {
        while recorder.calls("tool").len() < before + many {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    load.join_all().await;
}

/// The calls of all nodes together keep to it, however many nodes there are, also while one is lost: what each
/// may have is a part of the whole, and a part that changes hands is spent once.
#[tokio::test]
async fn is_kept_to_by_all_nodes_together() {
    let recorder = Recorder::start().await;
    let rate = format!("{{ per_minute: {PER_MINUTE}, burst: {BURST} }}");
    let settings = format!(
        r#"{{ url: "{}", tools: {{ tool: read }}, balance: {{ strategy: rate_aware, rate: {rate} }} }}"#,
        recorder.url()
    );
    let mut cluster = Setup::new().server("main", &settings).cluster().await;
    let since = Instant::now();
    let keeps = |recorder: &Recorder| {
        let came = recorder.calls("tool").len() as f64;
        // What was there when it began, what has come since, and one under way at each of three.
        let most =
            since.elapsed().as_secs_f64() * f64::from(PER_MINUTE) / 60.0 + f64::from(BURST) + 3.0;
        assert!(came <= most, "{came} calls came, and no more than {most} may");
    };
    // Without shares the three would have had three times as many in that time.
    press(&cluster, &ALL, &recorder, 30).await;
    keeps(&recorder);
    let gone = cluster.coordinator().await;
    let left: Vec<usize> = ALL.into_iter().filter(|at| *at != gone).collect();
    cluster[gone].kill();
    press(&cluster, &left, &recorder, 12).await;
    keeps(&recorder);
    cluster.coordinator_of(&left).await;
    press(&cluster, &left, &recorder, 12).await;
    keeps(&recorder);
}
