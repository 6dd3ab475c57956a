//! A node alone does not reach a server that is well: the others serve it for that node's clients.

use std::time::Duration;

use serde_json::Value;

use super::{ALL, start_with_ways, write};
use crate::harness::client::Client;
use crate::harness::{message, within};

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
        for (client, whose) in [(&session, "old"), (&begun, "new"), (&elsewhere, "else")] {
            let key = |number| format!("{whose}{round}-{number}");
            let ask = async |number| client.post(&write(&key(number), 0)).await.response().await;
            let ran = until_served(ask).await;
            assert_eq!(a.executions("write", &key(ran)), 1, "{}", key(ran));
        }
    }
    // A call itself, and once more by a balancer, here and at another node.
    let twice = async |number: usize| {
        let (key, id) = (format!("twice{number}"), format!("id-{number}"));
        let (body, id) = (write(&key, 300), [("X-Request-ID", &*id)]);
        let once = async |client: &Client| client.post_with(&id, &body).await.response().await;
        let answers = tokio::join!(once(&begun), once(&elsewhere), once(&begun));
        assert!(a.executions("write", &key) <= 1, "{answers:?}");
        let unserved = [answers.1, answers.2].into_iter().find(|it| !is_served(it));
        unserved.unwrap_or(answers.0)
    };
    until_served(twice).await;
    let modern = cluster.client(cut).speaking(message::MODERN).at("/mcp/docs");
    until_served(async |number| modern.call(number, "echo").await).await;
    let ended = begun.delete().await;
    assert!((200..300).contains(&ended.status), "{}", ended.status);
    assert_eq!(elsewhere.post(&write("gone", 0)).await.answer().status, 404);
    assert!(cluster[cut].metric(HANDED_ON).await >= before + 40.0);
    for at in ALL {
        let seen = cluster.control(at, "docs").await;
        assert_eq!((&seen["active"], &seen["generation"]), (&"a".into(), &0.into()), "{seen}");
        if at != cut {
            assert_eq!(cluster[at].metric(HANDED_ON).await, 0.0);
        }
    }
    assert!(b.executed("write").is_empty());
}

/// Asks until there is a result: a machine that is busy may keep a node from the group's store for a moment.
async fn until_served(ask: impl AsyncFn(usize) -> Value) -> usize {
    within("a result", async {
        for number in 0.. {
            if is_served(&ask(number).await) {
                return number;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        unreachable!("numbers do not end")
    })
    .await
}

/// Whether there is a result. That the server cannot be reached is said to nobody.
fn is_served(answer: &Value) -> bool {
    let reason = answer["error"]["data"]["reason"].as_str().unwrap_or_default();
    assert!(!reason.contains("reached") && !reason.contains("refused"), "{answer}");
    answer.get("result").is_some()
}
