//! A failback to an instance that turns out to be no better is taken back, under the load of those that it took along.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{FAILS_CALLS, Lived, PATIENCE, SETTINGS, are_well, live, start};
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::within;

/// The primary answers every check and fails every call. Its failback takes some of the sessions along, is
/// called off by what they meet, and brings them back: whoever was on the way goes on, and nothing runs twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_failback_is_taken_back_by_what_the_calls_meet_that_it_moved() {
    let settings = SETTINGS.replace("failback_delay: 1h", "failback_delay: 2s, ramp_over: 10s");
    let settings = format!("{settings}, breaker: {{ open_for: 1s, max_open_for: 1s }}");
    let (a, b, cluster) = start(&settings, Setup::new()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions: JoinSet<Lived> = JoinSet::new();
    for number in 0..60 {
        let client = cluster.client(number % 3).initialized().await;
        sessions.spawn(live(client, number, Arc::clone(&stop)));
    }
    a.behave(FAILS_CALLS).await;
    let at = cluster.coordinator().await;
    let deadline = Instant::now() + PATIENCE;
    while cluster.recorded(at, "rolled_back").await == 0 {
        assert!(Instant::now() < deadline, "it goes on: {:#?}", cluster.record(at).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rests = |it: &serde_json::Value| it["phase"] == "secondary_active" && it["active"] == "b";
    cluster.all_show(&ALL, "docs", "at rest on b", rests).await;
    stop.store(true, Ordering::Relaxed);
    let lives = within("every session's last Write", sessions.join_all()).await;
    are_well(&lives, [&a, &b]);
    let unknown: usize = lives.iter().map(|it| it.unknown.len()).sum();
    println!("{unknown} Writes met the primary that fails");
    let record = cluster.record(at).await;
    let of = |kind: &str| record.iter().filter(|it| it["kind"] == kind).count();
    assert!(of("failback_began") > 0, "{record:#?}");
    assert_eq!(of("switched"), 1, "only the failover has switched: {record:#?}");
}
