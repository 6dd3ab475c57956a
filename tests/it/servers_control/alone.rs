//! A node alone does not reach a server that is well: the others serve it for that node's clients.

use super::{ALL, start_with_ways, write};
use crate::harness::client::Client;
use crate::harness::message;

const HANDED_ON: &str = r#"holdfast_handed_on_total{server_id="docs"}"#;

/// Its sessions go on, new ones begin, and a Write that a balancer sends once more runs once, wherever it comes.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_does_not_reach_the_others_serve_for_it() {
    let (a, b, cluster, mut links) = start_with_ways().await;
    let cut = cluster.coordinator().await;
    let other = (cut + 1) % 3;
    let session = cluster.client(cut).initialized().await;
    drop(links.remove(cut));
    // Whoever finds it out waits, as for a server that restarts, and is told that nothing ran.
    let found = session.post(&write("found", 0)).await.response().await;
    assert_eq!(found["error"]["data"]["mayHaveRun"], false, "{found}");

    let before = cluster[cut].metric(HANDED_ON).await;
    let begun = cluster.client(cut).initialized().await;
    let elsewhere = begun.on(cluster[other].address);
    for round in 0..20 {
        let keys = ["old", "new", "else"].map(|it| format!("{it}{round}"));
        for (client, key) in [&session, &begun, &elsewhere].into_iter().zip(&keys) {
            let response = client.post(&write(key, 0)).await.response().await;
            assert!(response.get("result").is_some(), "{key}: {response}");
            assert_eq!(a.executions("write", key), 1, "{key}");
        }
    }
    // The call itself, and once more by a balancer, here and at another node.
    let id = [("X-Request-ID", "the-same")];
    let body = write("twice", 300);
    let once = async |client: &Client| client.post_with(&id, &body).await.response().await;
    let answers = tokio::join!(once(&begun), once(&elsewhere), once(&begun));
    for answer in [answers.0, answers.1, answers.2] {
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(a.executions("write", "twice"), 1);
    let modern = cluster.client(cut).speaking(message::MODERN).at("/mcp/docs");
    assert!(modern.call(7, "echo").await.get("result").is_some());
    let ended = begun.delete().await;
    assert!((200..300).contains(&ended.status), "{}", ended.status);
    assert_eq!(elsewhere.post(&write("gone", 0)).await.answer().status, 404);
    assert!(cluster[cut].metric(HANDED_ON).await >= before + 45.0);
    for at in ALL {
        let seen = cluster.control(at, "docs").await;
        assert_eq!((&seen["active"], &seen["generation"]), (&"a".into(), &0.into()), "{seen}");
        if at != cut {
            assert_eq!(cluster[at].metric(HANDED_ON).await, 0.0);
        }
    }
    assert!(b.executed("write").is_empty());
}
