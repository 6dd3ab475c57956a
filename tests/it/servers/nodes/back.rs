//! The way back of a server that was open for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{breaker_is, modern};
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::{Recorder, Reply};
use crate::harness::within;
use crate::servers::refused;

/// It is tried again and left again as long as it fails, and open to the calls of all nodes once it is well: what
/// it did before is held against it by none.
#[tokio::test]
async fn is_found_by_every_node_once_the_server_is_well() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let recorder = Recorder::scripted(move |seen| {
        (seen.tool() == "tool" && !is_well.load(Ordering::SeqCst))
            .then(|| Reply::refused(500, message::error(seen.id(), -32603, "broken")))
    })
    .await;
    let breaker = "open_for: 300ms, max_open_for: 1s, probe_interval: 100ms, ramp_over: 0s";
    let settings = format!(r#"{{ url: "{}", breaker: {{ {breaker} }} }}"#, recorder.url());
    let cluster = Setup::new().server("main", &settings).cluster().await;
    let leader = cluster.coordinator().await;
    let callers = [leader, (leader + 1) % 3];
    let opened = async || cluster.recorded(leader, "breaker_opened").await;
    within("the opening for all", async {
        while opened().await == 0 {
            for at in callers {
                modern(&cluster, at, "main").call(1, "tool").await;
            }
        }
    })
    .await;
    let before = recorder.calls("tool").len();
    // All three try it when its time is over: the third node too, by the word of the others.
    within("another try of every node", async {
        loop {
            let mut tried = 0;
            for at in ALL {
                modern(&cluster, at, "main").call(2, "tool").await;
                let reopened =
                    r#"holdfast_breaker_transitions_total{server_id="main",to="half_open"}"#;
                tried += usize::from(cluster[at].metric(reopened).await >= 1.0);
            }
            if tried == 3 && recorder.calls("tool").len() > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    well.store(true, Ordering::SeqCst);
    // A word about what was seen before may still be on its way.
    let (mut in_a_row, mut openings) = (0, opened().await);
    within("the way back at every node", async {
        for number in 0.. {
            let answer = modern(&cluster, number % 3, "main").call(number, "tool").await;
            if answer.get("result").is_some() {
                in_a_row += 1;
            } else {
                refused(&answer, -31001);
                (in_a_row, openings) = (0, opened().await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if in_a_row == 60 {
                return;
            }
        }
    })
    .await;
    cluster.all_show(&ALL, "main", "closed", |it| breaker_is(it, "closed")).await;
    assert_eq!(opened().await, openings);
}
