//! The edge in front of real nodes. They are single ones and share nothing, so calls here are reads
//! without a session, which any node can serve and repeat.

use super::process::Edge;
use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::process::signal;
use crate::harness::sample::Sample;

async fn two(sample: &Sample) -> (Gateway, Gateway, Edge) {
    let url = format!("http://{}/mcp", sample.address);
    let (a, b) = tokio::join!(Setup::http(&url).start(), Setup::http(&url).start());
    let nodes = [a.address.to_string(), b.address.to_string()];
    let edge = Edge::start(&nodes, &["--probe-deadline", "1s"]).await;
    for node in &nodes {
        edge.sees(node, |standing| standing == "ready").await;
    }
    (a, b, edge)
}

fn through(edge: &Edge, node: &Gateway) -> Client {
    let mut client = Client::legacy(node);
    client.address = edge.address;
    client
}

#[tokio::test]
async fn reads_go_on_when_a_node_is_killed() {
    let sample = Sample::start(&[]).await;
    let (mut a, _b, edge) = two(&sample).await;
    let client = through(&edge, &a);
    for id in 0..40 {
        if id == 10 {
            a.kill();
        }
        let answer = client.ask(id, "tools/list", "{}").await;
        assert!(answer["result"]["tools"].is_array(), "{id}: {answer}\n{}", edge.log());
        assert_eq!(answer["id"], id);
    }
    edge.sees(&a.address.to_string(), |standing| standing == "dead").await;
    a.restart().await;
    edge.sees(&a.address.to_string(), |standing| standing == "ready").await;
}

#[tokio::test]
async fn reads_go_on_when_a_node_is_frozen() {
    let sample = Sample::start(&[]).await;
    let (a, _b, edge) = two(&sample).await;
    let client = through(&edge, &a);
    signal(a.pid(), "STOP");
    let mut answers = Vec::new();
    for id in 0..6 {
        answers.push(client.ask(id, "tools/list", "{}").await);
    }
    signal(a.pid(), "CONT");
    for answer in answers {
        assert!(answer["result"]["tools"].is_array(), "{answer}\n{}", edge.log());
    }
    edge.sees(&a.address.to_string(), |standing| standing == "ready").await;
}

#[tokio::test]
async fn a_node_that_drains_finishes_what_it_has() {
    let sample = Sample::start(&[]).await;
    let (mut a, mut b, edge) = two(&sample).await;
    let client = through(&edge, &a);
    let slow = |id: u32| {
        let client = client.clone();
        tokio::spawn(async move {
            let params = r#"{"name":"slow","arguments":{"ms":1500}}"#;
            client.ask(id, "tools/call", params).await
        })
    };
    let calls: Vec<_> = (0..4).map(slow).collect();
    let both = |health: &serde_json::Value| {
        let nodes = health["nodes"].as_array().expect("nodes");
        nodes.iter().all(|node| node["inFlight"].as_u64() > Some(0))
    };
    while !both(&edge.health().await) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        assert!(calls.iter().any(|call| !call.is_finished()), "the calls did not spread");
    }
    assert!(a.stop().success());
    for call in calls {
        let answer = call.await.expect("no panic");
        assert!(answer["result"].is_object(), "{answer}\n{}", edge.log());
    }
    assert!(b.stop().success());
}
