//! A tool that hangs and fills its class: the others go on, it is shown, and an answer lets it back.

use std::time::Duration;

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::recorder::{Gate, Recorder, Reply};
use crate::harness::wire::Conn;
use crate::harness::within;

const QUARANTINED: &str = r#"holdfast_bulkhead_quarantined{server_id="main",class="user"}"#;

#[tokio::test]
async fn a_tool_that_hangs_is_set_aside_and_let_back_when_it_answers() {
    let gate = Gate::new();
    let held = gate.clone();
    let recorder = Recorder::scripted(move |seen| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, seen.id());
        (seen.tool() == "hangs").then(|| Reply::after(&held, Reply::json(body)))
    })
    .await;
    let settings = format!(r#"{{ url: "{}", health: {{ interval: 500ms }} }}"#, recorder.url());
    let gateway = Setup::new()
        .server("main", &settings)
        .section("bulkheads: { quarantine: 1s, user: { concurrency: 4, queue: 4 } }")
        .start()
        .await;
    let client = Client::modern(&gateway);
    let call = |id: usize, tool: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.call(id, tool).await })
    };
    let mut hanging: Vec<_> = (1..=4).map(|id| call(id, "hangs")).collect();
    within("four that hang", async {
        while recorder.calls("hangs").len() < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The class is full of them, and this one is served.
    let other = call(5, "tool").await.expect("no panic");
    assert!(other.get("result").is_some(), "{other}");
    assert_eq!(gateway.metric(QUARANTINED).await, 1.0);
    let request =
        format!("GET /health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.address);
    let shown = Conn::open(gateway.address).await.exchange(request).await.json();
    let checks = shown["checks"].as_array().expect("checks");
    let found = checks.iter().find(|it| it["name"] == "server:main/bulkhead/user");
    assert_eq!(found.map(|it| &it["ok"]), Some(&Value::Bool(false)), "{shown}");
    // One more waits in its quarter of the queue, and what comes after that is told.
    hanging.push(call(6, "hangs"));
    let waiting = r#"holdfast_bulkhead_waiting{server_id="main",class="user"}"#;
    gateway.wait_metric(waiting, |waiting| waiting == 1.0).await;
    let refused = call(7, "hangs").await.expect("no panic");
    assert_eq!(refused["error"]["code"], -31003, "{refused}");
    let reason = refused["error"]["data"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("bulkheads.quarantine"), "{refused}");
    let count = r#"holdfast_refused_total{server_id="main",reason="quarantined"}"#;
    assert_eq!(gateway.metric(count).await, 1.0);

    gate.open();
    for one in hanging {
        let answer = one.await.expect("no panic");
        assert!(answer.get("result").is_some(), "{answer}");
    }
    within("it is let back", async {
        while gateway.metric(QUARANTINED).await > 0.0 {
            let answer = client.call(8, "tool").await;
            assert!(answer.get("result").is_some(), "{answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
