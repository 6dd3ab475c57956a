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

use super::{refused, url};

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

/// A Write of a session, with the key that its execution is known by.
async fn writes(client: &Client, key: &str) -> Value {
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}"}}}}"#);
    let body = message::request(format!("\"{key}\""), "tools/call", &params);
    client.post(&body).await.response().await
}

/// A session that has not called since its server was moved is bound to the old instance, which still runs. Where
/// the new one takes no calls its call is refused, as any other: two instances would take Writes.
#[tokio::test]
async fn keeps_sessions_off_the_old_side_also_where_the_new_one_takes_no_calls() {
    let (a, b) = (Sample::start(&[]).await, Sample::start(&[]).await);
    let gateway = start(&url(&a), &url(&b), "failback_delay: 1h").await;
    let session = Client::legacy(&gateway).initialized().await;
    assert!(writes(&session, "before").await.get("result").is_some());
    let _over = order(&gateway, &["failover", "main", "--to", "b"]);
    until(&gateway, "phase", "secondary_active").await;
    let _held = order(&gateway, &["breaker", "open", "main", "b"]);
    let held = r#"holdfast_breaker_state{server_id="main",instance="b",state="forced_open"}"#;
    gateway.wait_metric(held, |it| it == 1.0).await;
    refused(&Client::modern(&gateway).call(1, "write").await, -31001);
    refused(&writes(&session, "meanwhile").await, -31001);
    let _freed = order(&gateway, &["breaker", "clear", "main", "b"]);
    // Until then, and while few calls try it, each refusal says that the call did not run.
    within("the new instance's answer", async {
        while writes(&session, "after").await.get("result").is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let ran = |it: &Sample| ["before", "meanwhile", "after"].map(|key| it.executions("write", key));
    assert_eq!([ran(&a), ran(&b)], [[1, 0, 0], [0, 0, 1]]);
}

/// The roles are changed in the configuration: what has become a replica takes no Write any more, of sessions
/// that were opened there either, and the new primary takes them at once.
#[tokio::test]
async fn leaves_at_once_what_the_configuration_makes_a_replica() {
    let samples = [Sample::start(&[]).await, Sample::start(&[]).await, Sample::start(&[]).await];
    let setup = |roles: &[&str]| {
        let instance = |(at, role): (usize, &&str)| {
            let (id, url) = (["a", "b", "c"][at], url(&samples[at]));
            format!(r#"{{ id: {id}, role: {role}, url: "{url}" }}"#)
        };
        let instances: Vec<_> = roles.iter().enumerate().map(instance).collect();
        let settings = format!("{{ instances: [ {} ], {HEALTH} }}", instances.join(", "));
        Setup::new().server("main", &settings)
    };
    let mut gateway = setup(&["primary", "secondary", "secondary"]).start().await;
    for id in ["a", "b", "c"] {
        let verdict =
            format!(r#"holdfast_control_instance_verdict{{server="main",instance="{id}"}}"#);
        gateway.wait_metric(&verdict, |verdict| verdict == 0.0).await;
    }
    let session = Client::legacy(&gateway).initialized().await;
    assert!(writes(&session, "first").await.get("result").is_some());
    assert!(gateway.reconfigure(setup(&["replica", "primary", "secondary"])).await);
    let plain = Client::modern(&gateway).call(1, "write").await;
    assert!(plain.get("result").is_some(), "{plain}");
    assert!(writes(&session, "second").await.get("result").is_some());
    until(&gateway, "active", "b").await;
    // Nothing fails over any more, and a session is at the primary all the same.
    assert!(gateway.reconfigure(setup(&["primary", "replica"])).await);
    assert!(writes(&session, "third").await.get("result").is_some());
    let ran = samples.each_ref().map(|it| it.executed("write"));
    for (key, at) in [("first", 0), ("second", 1), ("third", 0)] {
        let counts = ran.each_ref().map(|it| it.get(key).copied().unwrap_or_default());
        let mut wanted = [0; 3];
        wanted[at] = 1;
        assert_eq!(counts, wanted, "{key}");
    }
}

/// Those who waited for a move are more than a class and its queue hold: they are let in one after the other.
#[tokio::test]
async fn lets_in_all_who_waited_though_they_are_more_than_have_room() {
    let (a, b) = (Sample::start(&[]).await, Sample::start(&[]).await);
    let settings = format!(
        "{{ instances: [ {{ id: a, role: primary, url: \"{}\" }}, {{ id: b, role: secondary, url: \"{}\" }} ], \
         {HEALTH} }}",
        url(&a),
        url(&b)
    );
    let setup = Setup::new().section("bulkheads: { user: { concurrency: 2, queue: 2 } }");
    let gateway = setup.server("main", &settings).start().await;
    for id in ["a", "b"] {
        let verdict =
            format!(r#"holdfast_control_instance_verdict{{server="main",instance="{id}"}}"#);
        gateway.wait_metric(&verdict, |verdict| verdict == 0.0).await;
    }
    let client = Client::modern(&gateway);
    let call = |key: String, ms: u32| {
        let (client, meta) = (client.clone(), message::META);
        let arguments = format!(r#"{{"key":"{key}","ms":{ms}}}"#);
        let params = format!(r#"{{"name":"write","arguments":{arguments},{meta}}}"#);
        let body = message::request(format!("\"{key}\""), "tools/call", &params);
        tokio::spawn(async move { client.post(&body).await.response().await })
    };
    // It holds the move at its drain.
    let long = call("long".into(), 2_500);
    within("the call's execution", async {
        while a.executions("write", "long") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let _over = order(&gateway, &["failover", "main", "--to", "b"]);
    until(&gateway, "stage", "drain").await;
    let waiting: Vec<_> = (0..24).map(|number| call(format!("w{number}"), 20)).collect();
    for answer in [vec![long], waiting].into_iter().flatten() {
        let answer = answer.await.expect("no panic");
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(b.executed("write").len(), 24);
}
