//! A Write runs once, however many nodes are asked and whichever of them is lost.

use super::{KEYS, balanced, is_unknown, start};
use crate::harness::gateway::Setup;
use crate::harness::message::{self, MODERN};
use crate::harness::recorder::{Gate, Recorder, Reply};
use crate::harness::wire::Conn;
use crate::harness::within;

const MODERN_ANSWER: &str = r#"{"content":[],"resultType":"complete"}"#;
const ANSWER: &str = r#"{"content":[{"type":"text","text":"held"}]}"#;

/// A balancer puts many requests on one connection, in heads that differ in their ids alone.
#[tokio::test]
async fn on_one_connection_each_request_has_the_id_that_it_came_with() {
    let (recorder, cluster) = start(&[], |_| None).await;
    let client = cluster.client(0).initialized().await;
    balanced(&client, "leads", &message::call(1, "first")).await;
    let mut conn = Conn::open(cluster[0].address).await;
    for (id, runs) in
        [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("e", 5), ("c", 5), ("f", 6)]
    {
        let own = [("X-Request-ID", id)];
        conn.send(client.request("POST", &own, Some(&message::call(7, "write")))).await;
        let answer = conn.answer().await.expect("an answer");
        assert!(answer.text().contains("\"result\""), "{id}: {}", answer.text());
        assert_eq!(recorder.calls("write").len(), runs, "{id}");
    }
}

#[tokio::test]
async fn copies_of_a_write_run_once() {
    let (first, second) = (Gate::new(), Gate::new());
    let held = [first.clone(), second.clone()];
    let (recorder, cluster) = start(&[], move |seen| {
        let gate = match seen.tool().as_str() {
            "balanced" => &held[0],
            "plain" => &held[1],
            _ => return None,
        };
        Some(Reply::after(gate, Reply::json(message::result(seen.id(), ANSWER))))
    })
    .await;
    let client = cluster.client(0).initialized().await;

    // A balancer's id, the same to all nodes at once.
    let copy = |number: usize, tool: &'static str, balancer_id: Option<&'static str>| {
        let client = client.on(cluster[number].address);
        tokio::spawn(async move {
            let body = message::call(7, tool);
            match balancer_id {
                Some(id) => balanced(&client, id, &body).await,
                None => client.post(&body).await.response().await,
            }
        })
    };
    let copies: Vec<_> = (0..3).map(|number| copy(number, "balanced", Some("req-1"))).collect();
    for number in 0..3 {
        cluster[number].has_in_flight(1).await;
    }
    first.open();
    for copy in copies {
        let response = copy.await.expect("no panic");
        assert_eq!(response["result"]["content"][0]["text"], "held", "{response}");
        assert_eq!(response["id"], 7, "{response}");
    }
    assert_eq!(recorder.calls("balanced").len(), 1);
    // And once more to each of them when it is over.
    for number in [2, 1, 0] {
        let client = client.on(cluster[number].address);
        let response = balanced(&client, "req-1", &message::call(7, "balanced")).await;
        assert_eq!(response["result"]["content"][0]["text"], "held", "{response}");
    }
    assert_eq!(recorder.calls("balanced").len(), 1);
    // Another id is another call.
    balanced(&client, "req-2", &message::call(7, "balanced")).await;
    assert_eq!(recorder.calls("balanced").len(), 2);

    // Without one, session and JSON-RPC id tell copies of a call that still runs.
    let copies: Vec<_> = (0..3).map(|number| copy(number, "plain", None)).collect();
    for number in 0..3 {
        cluster[number].has_in_flight(1).await;
    }
    second.open();
    for copy in copies {
        let response = copy.await.expect("no panic");
        assert_eq!(response["result"]["content"][0]["text"], "held", "{response}");
    }
    assert_eq!(recorder.calls("plain").len(), 1);
    // Clients start to count anew: what is over is no copy.
    for (number, runs) in [(1, 2), (2, 3)] {
        let client = client.on(cluster[number].address);
        // An answer reaches its client before the group knows that the call is over.
        within("another run of a call with the same id", async {
            while recorder.calls("plain").len() < runs {
                let response = client.call(7, "plain").await;
                assert_eq!(response["result"]["content"][0]["text"], "held", "{response}");
            }
        })
        .await;
        assert_eq!(recorder.calls("plain").len(), runs);
    }
}

#[tokio::test]
async fn a_write_whose_node_was_killed_is_not_run_again_and_a_read_is() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, mut cluster) = start(&[], move |seen| {
        let slow = seen.tool() == "write" || seen.tool() == "test://slow";
        slow.then(|| Reply::after(&held, Reply::json(message::result(seen.id(), ANSWER))))
    })
    .await;
    let client = cluster.client(0).initialized().await;
    let write = message::call(1, "write");
    let read = message::request(2, "resources/read", r#"{"uri":"test://slow"}"#);
    let mut lost = Vec::new();
    for (id, body) in [("w", &write), ("r", &read)] {
        let request = client.request("POST", &[("X-Request-ID", id)], Some(body));
        let mut conn = Conn::open(client.address).await;
        conn.send(request).await;
        lost.push(conn);
    }
    recorder.wait_for("the Write at the server", 1, |seen| seen.tool() == "write").await;
    recorder.wait_for("the Read at the server", 1, |seen| seen.tool() == "test://slow").await;
    cluster[0].kill();
    for conn in &mut lost {
        assert!(conn.answer().await.is_none(), "no answer came from the node that was killed");
    }
    gate.open();
    for number in [1, 2, 1] {
        let client = client.on(cluster[number].address);
        let response = balanced(&client, "w", &write).await;
        is_unknown(&response);
        assert_eq!(response["id"], 1, "{response}");
    }
    assert_eq!(recorder.calls("write").len(), 1);
    let response = balanced(&client.on(cluster[1].address), "r", &read).await;
    assert_eq!(response["id"], 2, "{response}");
    assert!(response.get("result").is_some(), "{response}");
    // The session goes on, and the node that comes back knows what the others decided.
    assert!(client.on(cluster[2].address).call(3, "other").await.get("result").is_some());
    cluster.restart(0).await;
    is_unknown(&balanced(&client, "w", &write).await);
    assert_eq!(recorder.calls("write").len(), 1);
}

/// Another principal's id is another id, and so is the same one over another body.
#[tokio::test]
async fn a_balancers_id_names_nothing_by_itself() {
    let (recorder, cluster) = start(&[KEYS], |_| None).await;
    let mut runs = 0;
    for key in ["alice-key-one", "bob-key-one"] {
        let client = cluster.client(0).with("X-API-Key", key).initialized().await;
        for body in [message::call(1, "write"), message::call(2, "write")] {
            runs += 1;
            for at in [0, 1, 2] {
                let response = balanced(&client.on(cluster[at].address), "same", &body).await;
                assert_eq!(response["result"]["content"][0]["text"], "write done", "{response}");
                assert_eq!(recorder.calls("write").len(), runs);
            }
        }
    }
}

/// Nobody could tell a second sending of it from the first, so no balancer may be tempted to: its
/// response begins before the server has it.
#[tokio::test]
async fn a_write_without_a_name_begins_before_it_is_sent() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, cluster) = start(&[], move |seen| {
        let slow = seen.tool() == "slow";
        slow.then(|| Reply::after(&held, Reply::json(message::result(seen.id(), MODERN_ANSWER))))
    })
    .await;
    let client = cluster.client(0).speaking(MODERN);
    let mut stream = client.post(&message::modern_call(1, "slow")).await.stream();
    assert_eq!(stream.head.status, 200);
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    gate.open();
    let answer = stream.message().await.expect("the answer");
    assert_eq!(answer["id"], 1, "{answer}");
    assert!(answer.get("result").is_some(), "{answer}");

    // With a name it need not.
    let named = client.clone().with("X-Request-ID", "named");
    let answer = named.post(&message::modern_call(2, "slow")).await.answer();
    assert_eq!(answer.json()["id"], 2, "{}", answer.text());
}

/// Its client has left while it waited: what nobody has sent runs when it comes again.
#[tokio::test]
async fn a_write_that_was_never_sent_runs_when_it_comes_again() {
    let gate = Gate::new();
    let recorder = Recorder::gated(&gate).await;
    let settings = format!(
        r#"{{ url: "{}", timeout: 10m, pool: {{ max_connections: 1, queue_timeout: 5m }} }}"#,
        recorder.url()
    );
    let cluster = Setup::new().server("only", &settings).cluster().await;
    let client = cluster.client(0).speaking(MODERN);
    let holds = client.clone();
    let holding = tokio::spawn(async move { holds.call(1, "slow").await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;

    let write = message::modern_call(2, "write");
    let mut conn = Conn::open(cluster[0].address).await;
    conn.send(client.request("POST", &[("X-Request-ID", "w")], Some(&write))).await;
    // It is in the journal before it waits for a connection.
    let waits = r#"holdfast_pool_waiting{server_id="only"}"#;
    cluster[0].comes_to_metric(&format!("{waits} 1")).await;
    drop(conn);
    cluster[0].comes_to_metric(&format!("{waits} 0")).await;
    assert!(recorder.calls("write").is_empty(), "it ran");

    gate.open();
    assert!(holding.await.expect("no panic").get("result").is_some());
    let response = balanced(&client.on(cluster[1].address), "w", &write).await;
    assert!(response.get("result").is_some(), "{response}");
    assert_eq!(recorder.calls("write").len(), 1);
}
