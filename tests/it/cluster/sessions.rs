//! A session is every node's, and nobody else's.

use std::time::Duration;

use super::{KEYS, start};
use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::message;
use crate::harness::recorder::{Gate, Reply, Seen, Step};
use crate::harness::sse::End;
use crate::harness::within;

#[tokio::test]
async fn a_session_is_every_nodes_until_it_is_deleted_at_one() {
    let (recorder, cluster) = start(&[KEYS], |_| None).await;
    let alice = cluster.client(0).with("X-API-Key", "alice-key-one").initialized().await;
    let at = |number: usize| alice.on(cluster[number].address);

    // Opened at one node, used at the others.
    for number in 0..3 {
        let response = at(number).call(number, "write").await;
        assert_eq!(response["result"]["content"][0]["text"], "write done", "{response}");
    }
    for seen in recorder.calls("write") {
        assert_eq!(seen.header("mcp-session-id"), Some("server-session-1"));
    }

    // The server loses it while another node asks than the ones that were told what belongs to it.
    at(0).ask(11, "logging/setLevel", r#"{"level":"warning"}"#).await;
    at(1).ask(12, "resources/subscribe", r#"{"uri":"test://a"}"#).await;
    recorder.forget_sessions();
    let before = recorder.seen().len();
    let response = at(2).call(13, "write").await;
    assert_eq!(response["result"]["content"][0]["text"], "write done", "{response}");
    let after = recorder.seen().split_off(before);
    let told: Vec<&Seen> = after
        .iter()
        .filter(|seen| seen.header("mcp-session-id") == Some("server-session-2"))
        .collect();
    let level = told.iter().any(|it| it.text().contains(r#""level":"warning""#));
    let subscription = told.iter().any(|it| it.text().contains(r#""uri":"test://a""#));
    assert!(level && subscription, "{:?}", after.iter().map(Seen::rpc).collect::<Vec<_>>());

    // One new session serves all nodes.
    for number in 0..3 {
        assert_eq!(at(number).call(20 + number, "probe").await["id"], 20 + number);
    }
    let used = recorder.calls("probe");
    let last = used.last().and_then(|seen| seen.header("mcp-session-id"));
    assert_eq!(last, Some("server-session-2"));
    // A node that has not heard of it opens one of its own first, and ends that when it hears.
    eventually("one session at the server", || {
        (recorder.live_sessions() == ["server-session-2"]).then_some(())
    })
    .await;

    // It is nobody else's on any node.
    for number in 0..3 {
        let bob = Client::to(cluster[number].address)
            .with("X-API-Key", "bob-key-one")
            .in_session(alice.session());
        assert_eq!(bob.post(&message::call(1, "theft")).await.answer().status, 404);
        assert_eq!(bob.get(None).await.answer().status, 404);
        assert_eq!(bob.delete().await.status, 404);
    }
    assert!(recorder.calls("theft").is_empty());

    // Deleted at one, it is gone on all of them when that is answered.
    let deleted = at(1).delete().await;
    assert!([200, 204].contains(&deleted.status), "{}", deleted.text());
    for number in [0, 2, 1] {
        let late = at(number).post(&message::call(1, "late")).await.answer();
        assert_eq!(late.status, 404, "{number}: {}", late.text());
        assert_eq!(at(number).get(None).await.answer().status, 404, "{number}");
        assert_eq!(at(number).delete().await.status, 404, "{number}");
    }
    assert!(recorder.calls("late").is_empty());
    recorder.wait_for("DELETE at the server", 1, |seen| seen.method == "DELETE").await;
    assert!(recorder.live_sessions().is_empty());
}

#[tokio::test]
async fn a_stolen_event_id_opens_nothing_on_any_node() {
    let gate = Gate::new();
    let held = gate.clone();
    let (_recorder, mut cluster) = start(&[KEYS, "streams: { commit_after: 10ms }"], move |seen| {
        let answer = message::result(seen.id(), r#"{"content":[]}"#);
        (seen.tool() == "slow").then(|| {
            let step = Step::Send(message::event(&answer));
            Reply::Stream(vec![Step::Wait(held.clone()), step])
        })
    })
    .await;
    let alice = cluster.client(0).with("X-API-Key", "alice-key-one").initialized().await;
    let bob = cluster.client(0).with("X-API-Key", "bob-key-one").initialized().await;
    let mut stream = alice.post(&message::call(1, "slow")).await.stream();
    let id = stream.next().await.and_then(|event| event.id).expect("a primed stream");
    for round in 0..2 {
        for number in 0..3 {
            let bob = bob.on(cluster[number].address);
            let sessionless = Client::to(bob.address).with("X-API-Key", "bob-key-one");
            let thief = bob.clone().in_session(alice.session());
            for other in [&bob, &sessionless, &thief] {
                let answer = other.get(Some(&id)).await.answer();
                assert_eq!(answer.status, 404, "{round}, {number}: {}", answer.text());
            }
        }
    }
    // The stream is none the worse for it.
    gate.open();
    let message = stream.message().await.expect("the answer");
    assert!(message.get("result").is_some(), "{message}");
    assert_eq!(stream.end().await, End::Clean);
    cluster[0].kill();
    for number in [1, 2] {
        let bob = bob.on(cluster[number].address);
        assert_eq!(bob.get(Some(&id)).await.answer().status, 404, "{number}");
    }
}

/// Ten seconds are the shortest life there is. A session that is used at any node lives; one that is
/// used at none ends at all of them, and once at its server.
#[tokio::test]
async fn a_session_lives_as_long_as_it_is_used_anywhere() {
    let (recorder, cluster) = start(&["sessions: { ttl: 10s }"], |_| None).await;
    let used = cluster.client(0).initialized().await;
    let unused = cluster.client(0).initialized().await;
    assert!(unused.on(cluster[1].address).call(1, "probe").await.get("result").is_some());
    let elsewhere = used.on(cluster[1].address);
    let ended = || {
        let deleted = |seen: &Seen| seen.method == "DELETE";
        recorder.seen().into_iter().filter(deleted).collect::<Vec<_>>()
    };
    within("the end of the unused session", async {
        let mut id = 0;
        while ended().is_empty() {
            id += 1;
            assert_eq!(elsewhere.call(id, "tool").await["id"], id);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    for at in 0..3 {
        let gone = unused.on(cluster[at].address).post(&message::call(1, "late")).await.answer();
        assert_eq!(gone.status, 404, "{at}: {}", gone.text());
        let there = used.on(cluster[at].address).call(2, "tool").await;
        assert!(there.get("result").is_some(), "{at}: {there}");
    }
    assert!(recorder.calls("late").is_empty());
    let ended = ended();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].header("mcp-session-id"), Some("server-session-2"));
    assert_eq!(recorder.live_sessions(), ["server-session-1"]);
}
