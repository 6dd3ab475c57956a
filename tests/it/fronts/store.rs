//! One node alone loses its way to Redis, behind HAProxy: it says so, and nobody else notices.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::balancer::{Balancer, Kind, Nodes};
use super::keyed;
use crate::harness::client::Client;
use crate::harness::door::Door;
use crate::harness::gateway::Setup;
use crate::harness::redis::Redis;
use crate::harness::sample::Sample;
use crate::harness::within;

/// So many Writes in a row, each on a connection of its own, come by every node that is in use.
const ROUND: usize = 12;

/// Under an id of its own: without a balancer's it is the call's name.
async fn write(client: &Client, key: &str) -> Value {
    static NEXT: AtomicUsize = AtomicUsize::new(100);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    client.post(&keyed(id, "write", key, 0)).await.response().await
}

#[tokio::test]
async fn a_node_that_alone_loses_redis_is_left_and_comes_back_by_itself() {
    let (sample, redis) = (Sample::start(&["--answers", "json"]).await, Redis::start().await);
    let door = Door::before(redis.address).await;
    let server = format!(r#"{{ url: "http://{}/mcp" }}"#, sample.address);
    let mut setup = Setup::new()
        .server("main", &server)
        .section(r#"sessions: { store: redis, url: "redis://${REDIS_AT}/0" }"#);
    for (node, address) in [(0, redis.address), (1, redis.address), (2, door.address)] {
        setup = setup.variable(node, "REDIS_AT", &address.to_string());
    }
    let cluster = setup.cluster().await;
    let balancer = Balancer::start(Kind::HaProxy, &Nodes::of(&cluster)).await;
    let behind = Client::to(balancer.address).initialized().await;
    let own = cluster.client(2).initialized().await;
    for client in [&behind, &own] {
        assert!(client.ask(1, "tools/list", "{}").await["result"]["tools"].is_array());
        assert!(write(client, "before").await["result"].is_object());
    }

    door.shut();
    cluster[2].readiness_becomes(503).await;
    // Sessions that it knows go on with what needs no note, and nothing runs without one.
    let read = own.post(&keyed(2, "echo", "read", 0)).await.response().await;
    assert!(read["result"].is_object(), "{read}");
    let refused = write(&own, "refused").await;
    assert_eq!(refused["error"]["code"], -31004, "{refused}");
    assert_eq!(refused["error"]["data"]["mayHaveRun"], false, "{refused}");
    assert_eq!(sample.executions("write", "refused"), 0);
    // The others have all they need.
    for at in [0, 1] {
        assert_eq!(cluster[at].readiness().await, Some(200), "n{}", at + 1);
        let key = format!("at-{at}");
        let response = write(&own.on(cluster[at].address), &key).await;
        assert!(response["result"].is_object(), "{response}");
        assert_eq!(sample.executions("write", &key), 1);
    }
    // Until the balancer has asked it once more some come to the node; none of them runs.
    let mut number = 0;
    let mut in_a_row = 0;
    within("the balancer leaves the node", async {
        while in_a_row < ROUND {
            let key = format!("behind-{number}");
            let response = write(&behind, &key).await;
            number += 1;
            let ran = response["result"].is_object();
            assert_eq!(sample.executions("write", &key), usize::from(ran), "{response}");
            in_a_row = if ran { in_a_row + 1 } else { 0 };
        }
    })
    .await;
    for number in 0..ROUND {
        let response = write(&behind, &format!("left-{number}")).await;
        assert!(response["result"].is_object(), "{response}");
    }
    assert_eq!(cluster[2].readiness().await, Some(503), "it is still without");

    door.open();
    cluster[2].becomes_ready().await;
    within("Writes at the node that has its store again", async {
        // Its lease on Redis's primary comes a moment after its first answer.
        while write(&own, "after").await["result"].is_null() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(sample.executions("write", "after"), 1);
}
