//! A balancer that reads its configuration again under load.

use super::{BOTH, Load, Stack, all_went_well, keyed};
use crate::harness::process::is_alive;

#[tokio::test]
async fn a_reload_costs_no_call_and_no_stream() {
    for kind in BOTH {
        let stack = Stack::streaming(kind).await;
        let client = stack.client().await;
        let mut standing = client.get(None).await.stream();
        let mut slow = client.post(&keyed(900_001, "slow", "slow", 2000)).await.stream();
        slow.next().await.expect("a stream that has begun");
        let load = Load::start(&client, 4);
        for _ in 0..3 {
            load.goes_on_for(30).await;
            stack.balancer.reload().await;
        }
        load.goes_on_for(30).await;
        all_went_well(&load.stop().await, &stack.sample);
        let answer = slow.find("the slow answer", |it| it["id"] == 900_001).await;
        assert!(answer["result"].is_object(), "{kind:?}: {answer}");
        // The worker that carries the standing stream is one of the first, and still there.
        client.call(900_002, "touch").await;
        client.call(900_003, "toggle").await;
        let told = standing.find("a change", |it| it["method"].is_string()).await;
        assert!(told["method"].as_str().is_some_and(|it| it.contains("list_changed")), "{told}");
    }
}

#[tokio::test]
async fn workers_that_have_nothing_more_to_do_end() {
    for kind in BOTH {
        let stack = Stack::holding(kind).await;
        stack.client().await.call(1, "whoami").await;
        let old = stack.balancer.reload().await;
        crate::harness::eventually("the old workers are gone", || {
            old.iter().all(|worker| !is_alive(*worker)).then_some(())
        })
        .await;
    }
}
