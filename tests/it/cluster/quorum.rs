//! Most of the nodes are gone: what needs no quorum goes on, what does is refused as what it is.

use super::start;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::Recorder;
use crate::harness::within;

#[tokio::test]
async fn a_survivor_reads_and_does_not_write() {
    let (recorder, mut cluster) = start(&[], |_| None).await;
    let client = cluster.client(0).initialized().await;
    let read = || client.ask(1, "resources/read", r#"{"uri":"test://a"}"#);
    assert!(read().await.get("result").is_some());
    for at in [1, 2] {
        cluster[at].kill();
    }
    cluster[0].readiness_becomes(503).await;
    let answer = read().await;
    assert!(answer.get("result").is_some(), "{answer}");
    let answer = client.call(2, "refused").await;
    assert_eq!(answer["error"]["code"], -31004, "{answer}");
    assert_eq!(answer["error"]["data"]["mayHaveRun"], false, "{answer}");
    assert_eq!(answer["id"], 2, "{answer}");
    // What it does not know it cannot find out, and says so under the request's id.
    let never = client.clone().in_session("00000000000000000000000000000000");
    let answer = never.post(&message::call(3, "refused")).await.answer();
    assert!([200, 404].contains(&answer.status), "{}", answer.text());
    assert_eq!(answer.json()["id"], 3, "{}", answer.text());
    assert!(recorder.calls("refused").is_empty());

    // One more is a majority.
    cluster.restart(1).await;
    cluster[0].becomes_ready().await;
    for (at, id) in [(0, 4), (1, 5)] {
        let client = client.on(cluster[at].address);
        let written = within("a Write", async {
            loop {
                let response = client.call(id, "write").await;
                if response["error"]["code"] != -31004 {
                    return response;
                }
            }
        });
        let response = written.await;
        assert_eq!(response["result"]["content"][0]["text"], "write done", "{response}");
    }
    let fresh = cluster.client(1).initialized().await;
    assert!(fresh.on(cluster[0].address).call(1, "write").await.get("result").is_some());
    // And the third.
    cluster.restart(2).await;
    assert!(client.on(cluster[2].address).call(6, "write").await.get("result").is_some());
}

/// Also where a server gives its calls less time than the group is waited for: its client does not hear of the server.
#[tokio::test]
async fn what_takes_the_group_is_refused_for_that_before_the_servers_time_is_over() {
    let recorder = Recorder::start().await;
    let settings = format!("{{ url: \"{}\", timeout: 3s }}", recorder.url());
    let mut cluster = Setup::new().server("only", &settings).cluster().await;
    let client = cluster.client(0).initialized().await;
    for at in [1, 2] {
        cluster[at].kill();
    }
    cluster[0].readiness_becomes(503).await;
    let opening = cluster.client(0);
    let (opened, written) = tokio::join!(opening.initialize(), client.call(1, "refused"));
    for answer in [opened.json(), written] {
        assert_eq!(answer["error"]["code"], -31004, "{answer}");
        assert_eq!(answer["error"]["data"]["mayHaveRun"], false, "{answer}");
    }
    assert!(recorder.calls("refused").is_empty());
}

/// What a balancer names it may have brought to one of the others, which are asked; that they take their time does not
/// make it the server's.
#[tokio::test]
async fn what_a_balancer_names_is_refused_for_the_group_too_where_the_others_say_nothing() {
    let recorder = Recorder::start().await;
    let settings = format!("{{ url: \"{}\", timeout: 4s }}", recorder.url());
    let cluster = Setup::new().server("only", &settings).cluster().await;
    let client = cluster.client(0).with("X-Request-ID", "w").initialized().await;
    for at in [1, 2] {
        cluster[at].freeze();
    }
    cluster[0].readiness_becomes(503).await;
    let answer = client.call(1, "refused").await;
    assert_eq!(answer["error"]["code"], -31004, "{answer}");
    assert_eq!(answer["error"]["data"]["mayHaveRun"], true, "{answer}");
    assert!(recorder.calls("refused").is_empty());
}
