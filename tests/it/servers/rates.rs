//! What an instance takes a minute (`balance.rate`): sessions that are bound to it keep to it too.

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::recorder::Recorder;

use super::refused;

async fn start(rate: &str) -> (Recorder, Gateway) {
    let recorder = Recorder::start().await;
    let settings = format!(
        r#"{{ url: "{}", balance: {{ strategy: rate_aware, rate: {{ {rate} }} }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    (recorder, gateway)
}

/// A turn that is a minute away is not waited for: the call did not run, and is told when to come back.
#[tokio::test]
async fn that_is_used_up_is_said_to_a_session() {
    let (recorder, gateway) = start("per_minute: 1, burst: 4").await;
    // Its initialize is the first of the four.
    let client = Client::legacy(&gateway).initialized().await;
    for id in 1..=3 {
        let answer = client.call(id, "tool").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    for id in 4..=8 {
        refused(&client.call(id, "tool").await, -31003);
    }
    assert_eq!(recorder.calls("tool").len(), 3);
    let rates = r#"holdfast_refused_total{server_id="main",reason="rate"}"#;
    assert_eq!(gateway.metric(rates).await, 5.0);
    let closed = r#"holdfast_breaker_state{server_id="main",instance="1",state="closed"}"#;
    assert_eq!(gateway.metric(closed).await, 1.0);
}

/// One that comes soon is.
#[tokio::test]
async fn that_comes_back_soon_is_waited_for() {
    let (recorder, gateway) = start("per_minute: 600, burst: 1").await;
    let client = Client::legacy(&gateway).initialized().await;
    let calls: Vec<_> = (1..=10)
        .map(|id| {
            let client = client.clone();
            tokio::spawn(async move { client.call(id, "tool").await })
        })
        .collect();
    for call in calls {
        let answer = call.await.expect("no panic");
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(recorder.calls("tool").len(), 10);
}
