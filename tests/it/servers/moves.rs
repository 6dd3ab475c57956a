//! A server on its way from one instance to another: who goes where meanwhile.

use std::process::Command;

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::process::{Process, binary};
use crate::harness::recorder::{Feed, Recorder, Reply, Seen, Step};
use crate::harness::sample::Sample;
use crate::harness::wire::Conn;
use crate::harness::within;

use super::url;

const HEALTH: &str =
    "health: { interval: 500ms, timeout: 500ms, retries: 0, checks: [ { type: connect } ] }";

/// A primary and a secondary, with this `failover`; both are known to be well.
async fn start(a: &str, b: &str, failover: &str) -> Gateway {
    start_with(a, b, failover, "timeout: 300s").await
}

/// The same, with further settings of the server.
pub(super) async fn start_with(a: &str, b: &str, failover: &str, settings: &str) -> Gateway {
    let settings = format!(
        "{{ instances: [ {{ id: a, role: primary, url: \"{a}\" }}, {{ id: b, role: secondary, url: \"{b}\" }} ], \
         {HEALTH}, failover: {{ {failover} }}, {settings} }}"
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    for id in ["a", "b"] {
        let verdict =
            format!(r#"holdfast_control_instance_verdict{{server="main",instance="{id}"}}"#);
        gateway.wait_metric(&verdict, |verdict| verdict == 0.0).await;
    }
    gateway
}

/// Gives an order; the command goes on until the move has ended.
pub(super) fn order(gateway: &Gateway, arguments: &[&str]) -> Process {
    let mut command = Command::new(binary());
    command.args(arguments).args(["--yes", "--admin", &gateway.admin.to_string()]);
    Process::start(&mut command)
}

/// Where the server is with its move.
async fn seen(gateway: &Gateway) -> Value {
    let request = format!(
        "GET /api/servers HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        gateway.admin
    );
    let answer = Conn::open(gateway.admin).await.exchange(request).await;
    let servers: Value = serde_json::from_str(&answer.text()).expect("JSON");
    servers["servers"][0]["control"].clone()
}

pub(super) async fn until(gateway: &Gateway, key: &str, value: &str) {
    within(value, async {
        while seen(gateway).await[key] != value {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Half of the way back, one client's calls without sessions go to both sides, and each session stays
/// at the side at which it was opened.
#[tokio::test]
async fn bit_by_bit_shares_calls_and_keeps_sessions() {
    let a = Sample::start(&["--name", "a"]).await;
    let b = Sample::start(&["--name", "b"]).await;
    let gateway = start(&url(&a), &url(&b), "ramp_step: 0.5, ramp_over: 1h").await;
    let _over = order(&gateway, &["failover", "main", "--to", "b"]);
    until(&gateway, "active", "b").await;
    until(&gateway, "phase", "secondary_active").await;
    let _back = order(&gateway, &["failback", "main"]);
    until(&gateway, "stage", "ramp").await;
    let modern = Client::modern(&gateway);
    let mut at_a = 0;
    for id in 0..60 {
        let answer = modern.call(id, "whoami").await;
        at_a += usize::from(answer["result"]["structuredContent"]["server"] == "a");
    }
    // Chance leaves this once in ten million runs.
    assert!((10..=50).contains(&at_a), "{at_a} of 60 at the new side");
    let mut sides = [0, 0];
    for _ in 0..24 {
        let client = Client::legacy(&gateway).initialized().await;
        let answer = client.call(1, "whoami").await;
        let result = &answer["result"];
        sides[usize::from(result["structuredContent"]["server"] == "a")] += 1;
        assert!(result["_meta"].get("io.holdfast/session").is_none(), "moved at once: {answer}");
    }
    assert!(sides.iter().all(|side| *side > 0), "{sides:?}");
}

fn listening(seen: &Seen, method: &str) -> String {
    let id = seen.id();
    message::event(&message::notification(
        method,
        &format!(r#"{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}"#),
    ))
}

/// A server that acknowledges a listen and then says what its feed says.
async fn told(feed: &Feed) -> Recorder {
    let said = feed.clone();
    Recorder::scripted(move |seen| {
        let acknowledged = listening(seen, "notifications/subscriptions/acknowledged");
        (seen.rpc() == "subscriptions/listen")
            .then(|| Reply::Stream(vec![Step::Send(acknowledged), Step::Follow(said.clone(), 0)]))
    })
    .await
}

/// Nothing waits for the end of a `subscriptions/listen`, and its client hears the new primary.
#[tokio::test]
async fn takes_along_who_listens_and_waits_for_no_end_of_it() {
    let (at_a, at_b) = (Feed::new(), Feed::new());
    let (a, b) = (told(&at_a).await, told(&at_b).await);
    let gateway = start(&a.url(), &b.url(), "drain: 1h").await;
    let params = format!(r#"{{"notifications":{{"toolsListChanged":true}},{}}}"#, message::META);
    let listen = message::request("\"sub\"", "subscriptions/listen", &params);
    let mut stream = Client::modern(&gateway).post(&listen).await.stream();
    let first = stream.message().await.expect("the acknowledgement");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    let _over = order(&gateway, &["failover", "main", "--to", "b"]);
    until(&gateway, "active", "b").await;
    at_b.say(message::event(&message::notification("notifications/b/speaks", "{}")));
    let again = stream.message().await.expect("the stream goes on");
    assert_eq!(again["method"], "notifications/tools/list_changed", "look again: {again}");
    let spoken = stream.message().await.expect("the new primary");
    assert_eq!(spoken["method"], "notifications/b/speaks", "{spoken}");
    let made = [&a, &b].map(|it| it.rpc("subscriptions/listen").len());
    assert_eq!(made, [1, 1]);
    let answer = Client::modern(&gateway).call(2, "write").await;
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(b.calls("write").len(), 1);
}
