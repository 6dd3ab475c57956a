//! A tool that fails, met by two of three nodes.

use serde_json::Value;

use super::modern;
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::sample::Sample;
use crate::servers::{refused, url, write};

/// Failures in a row that open a breaker.
const ENOUGH: usize = 5;

/// The third node refuses the tool whose calls it has never seen fail, and nobody refuses any other.
#[tokio::test]
async fn a_tool_that_fails_two_nodes_is_refused_by_all_three_and_no_other_is() {
    let rule = r#"{"method":"tools/call","tool":"write","always":true,"fault":{"kind":"status","status":500}}"#;
    let sample = Sample::start(&["--behaviour", rule]).await;
    let settings = r#"tools: { echo: read }, breaker: { open_for: 1h, per_tool: [write, bump] },
        health: { interval: 1s, timeout: 1s, checks: [ { type: ping } ] }"#;
    let server = format!(r#"{{ url: "{}", {settings} }}"#, url(&sample));
    let cluster = Setup::new().server("main", &server).cluster().await;
    cluster.all_show(&ALL, "main", "well", |it| it["verdict"] == "healthy").await;
    let leader = cluster.coordinator().await;
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
    for at in [leader, other] {
        let client = modern(&cluster, at, "main");
        for number in 0..ENOUGH {
            let answer = client.post(&write(number, &format!("{at}-{number}"))).await;
            let answer = answer.response().await;
            assert!(answer.get("error").is_some(), "{answer}");
            // The instance itself is well.
            let read = client.call(number + 100, "echo").await;
            assert!(read.get("result").is_some(), "{read}");
        }
    }
    let shut = |it: &Value| {
        let kept = it["kept_tools"][0]["kept"].as_str().unwrap_or_default();
        it["kept_tools"][0]["name"] == "write" && kept.starts_with("open for all: ")
    };
    let seen = cluster.all_show(&ALL, "main", "with a tool that is shut for all", shut).await;
    assert_eq!(seen["kept_tools"].as_array().map(Vec::len), Some(1), "{seen}");
    let struck = sample.struck().await;
    for at in ALL {
        let open = r#"holdfast_breaker_state{server_id="main",tool="write",state="open"} 1"#;
        cluster[at].comes_to_metric(open).await;
        let client = modern(&cluster, at, "main");
        let answer = client.post(&write(7, &format!("refused-{at}"))).await.response().await;
        refused(&answer, -31001);
        let reason = answer["error"]["data"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("\"write\"") && reason.contains("breaker.per_tool"), "{answer}");
        let read = client.call(8, "echo").await;
        assert!(read.get("result").is_some(), "{read}");
    }
    assert_eq!(sample.struck().await, struck, "the tool was called");
    let record = cluster.record(third).await;
    let of = |it: &&Value| it["kind"] == "breaker_opened";
    let opened: Vec<&Value> = record.iter().filter(of).collect();
    let [opened] = opened[..] else { panic!("{record:#?}") };
    let text = opened["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("breaker of its tool write open for all: by "), "{opened}");
}
