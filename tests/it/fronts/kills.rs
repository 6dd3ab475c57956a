//! Nodes that die or freeze behind a balancer: Reads end in their result, Writes run once.

use super::balancer::Kind;
use super::{BOTH, Load, Stack, all_went_well, is_write, keyed};
use crate::harness::message;

/// The session is one, the calls are in flight on all three nodes, and one of these is killed.
#[tokio::test]
async fn a_node_killed_with_calls_in_flight() {
    for kind in BOTH {
        let mut stack = Stack::holding(kind).await;
        let client = stack.client().await;
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for id in 0..9 {
            let (tool, kept) = if id < 6 { ("write", &mut writes) } else { ("slow", &mut reads) };
            let client = client.clone();
            kept.push(tokio::spawn(async move {
                client.post(&keyed(id, tool, &format!("k{id}"), 2000)).await.response().await
            }));
        }
        crate::harness::eventually("all at the server", || {
            let mut writes = (0..6).map(|id| stack.sample.executions("write", &format!("k{id}")));
            writes.all(|many| many == 1).then_some(())
        })
        .await;
        let busy = busiest(&stack).await;
        stack.cluster[busy].kill();
        let mut unknown = 0;
        for (id, write) in writes.into_iter().enumerate() {
            let answer = write.await.expect("an answer");
            assert_eq!(answer["id"], id, "{kind:?}: {answer}");
            if answer.get("result").is_none() {
                assert_eq!(answer["error"]["code"], -31002, "{kind:?}: {answer}");
                unknown += 1;
            }
            assert_eq!(stack.sample.executions("write", &format!("k{id}")), 1, "{kind:?}");
        }
        assert!(unknown > 0, "{kind:?}: the node that was killed had no Write in hand");
        for read in reads {
            let answer = read.await.expect("an answer");
            assert!(answer["result"].is_object(), "{kind:?}: {answer}");
        }
        let answer = client.post(&message::call(99, "whoami")).await.response().await;
        assert!(answer["result"].is_object(), "{kind:?}: the session goes on: {answer}");
    }
}

async fn busiest(stack: &Stack) -> usize {
    let mut most = (0, 0);
    for at in 0..3 {
        let seen = stack.cluster[at].nodes().await.expect("a living node");
        let nodes = seen["nodes"].as_array().expect("nodes").clone();
        let own = nodes.iter().find(|node| node["name"] == stack.cluster[at].name.as_str());
        let calls = own.and_then(|node| node["in_flight"].as_u64()).unwrap_or_default();
        if calls >= most.1 {
            most = (at, calls);
        }
    }
    most.0
}

/// Reads alone never fail, and Writes that were not in hand on the node that died do not either.
#[tokio::test]
async fn nodes_killed_one_after_another_under_load() {
    for kind in BOTH {
        let mut stack = Stack::holding(kind).await;
        let load = Load::start(&stack.client().await, 4);
        for at in [0, 1] {
            load.goes_on_for(40).await;
            stack.cluster[at].kill();
            load.goes_on_for(40).await;
            stack.cluster.restart(at).await;
        }
        load.goes_on_for(30).await;
        let answers = load.stop().await;
        for (key, answer) in &answers {
            let write = is_write(key);
            // While the group elects a leader a Write is refused, and says that it did not run.
            let refused = answer["error"]["code"] == -31004;
            let unknown = answer["error"]["code"] == -31002;
            let fine = answer.get("result").is_some() || (write && (refused || unknown));
            assert!(fine, "{kind:?}: {key}: {answer}");
            if write {
                let ran = stack.sample.executions("write", key);
                let most = usize::from(!refused);
                assert!(
                    ran <= most && (ran == 1 || answer.get("result").is_none()),
                    "{key}: {ran}"
                );
            }
        }
    }
}

/// A node that was frozen cuts its clients when it goes on; a balancer sends their calls to another one.
#[tokio::test]
async fn a_call_that_a_frozen_node_holds_ends_in_its_result() {
    let stack = Stack::holding(Kind::HaProxy).await;
    let client = stack.client().await;
    stack.cluster[0].freeze();
    let calls: Vec<_> = (0..6)
        .map(|id| {
            let client = client.clone();
            tokio::spawn(async move { client.call(id, "whoami").await })
        })
        .collect();
    for other in [1, 2] {
        stack.cluster.sees_state(other, 0, "dead").await;
    }
    stack.cluster[0].thaw();
    for call in calls {
        let answer = call.await.expect("an answer");
        assert!(answer["result"].is_object(), "{answer}\n{}", stack.balancer.log());
    }
}

/// Neither balancer is told beforehand; readiness and the nodes' own way of draining do it.
#[tokio::test]
async fn a_rolling_restart_costs_no_call() {
    for kind in BOTH {
        let mut stack = Stack::holding(kind).await;
        let load = Load::start(&stack.client().await, 4);
        for at in [0, 1, 2] {
            load.goes_on_for(30).await;
            stack.cluster[at].terminate();
            assert!(stack.cluster[at].ended().await.success());
            stack.cluster.restart(at).await;
            for other in [0, 1, 2] {
                stack.cluster.sees_state(other, at, "ready").await;
            }
        }
        load.goes_on_for(30).await;
        all_went_well(&load.stop().await, &stack.sample);
    }
}

/// A node that drains takes no more calls, and the streams that it has begun end with their answer.
#[tokio::test]
async fn a_drain_lets_streams_end() {
    for kind in BOTH {
        let mut stack = Stack::streaming(kind).await;
        let client = stack.client().await;
        let mut streams = Vec::new();
        for id in 0..6 {
            let slow = keyed(id, "slow", &format!("d{id}"), 8000);
            let mut stream = client.post(&slow).await.stream();
            stream.next().await.expect("a stream that has begun");
            streams.push(stream);
        }
        let busy = busiest(&stack).await;
        stack.cluster[busy].terminate();
        for (id, mut stream) in streams.into_iter().enumerate() {
            let answer = stream.find("the answer on the same stream", |it| it["id"] == id).await;
            assert!(answer["result"].is_object(), "{kind:?}: {answer}");
        }
        assert!(stack.cluster[busy].ended().await.success());
    }
}
