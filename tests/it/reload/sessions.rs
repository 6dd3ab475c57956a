//! Sessions that are bound to replicas which come and go.

use serde_json::Value;

use super::write;
use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Step};

fn replicas(all: &[(&str, &Recorder)]) -> Setup {
    let one = |(id, recorder): &(&str, &Recorder)| {
        format!(r#"{{ id: {id}, url: "{}" }}"#, recorder.url())
    };
    let all: Vec<String> = all.iter().map(one).collect();
    Setup::new().server("main", &format!("{{ instances: [ {} ] }}", all.join(", ")))
}

fn works(answer: &Value) {
    assert!(answer.get("result").is_some(), "{answer}");
}

/// Whatever is listed before it, a session stays where it is bound.
#[tokio::test]
async fn a_session_stays_at_its_replica_whatever_its_place_is() {
    let (a, b, c) = (Recorder::start().await, Recorder::start().await, Recorder::start().await);
    let mut gateway = replicas(&[("a", &a), ("b", &b)]).start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::legacy(&gateway).initialized().await);
    }
    let bound = (a.live_sessions().len(), b.live_sessions().len());
    assert_eq!(bound.0 + bound.1, 4);
    // Instances stand in the order of their ids.
    let rounds = [
        vec![("0", &c), ("a", &a), ("b", &b)],
        vec![("a", &a), ("aa", &c), ("b", &b)],
        vec![("a", &a), ("b", &b)],
    ];
    for (number, round) in rounds.iter().enumerate() {
        assert!(gateway.reconfigure(replicas(round)).await);
        for client in &clients {
            works(&client.call(number, "tool").await);
        }
    }
    assert_eq!((a.live_sessions().len(), b.live_sessions().len()), bound);
    let called = [&a, &b, &c].map(|recorder| recorder.calls("tool").len());
    assert_eq!(called, [bound.0 * rounds.len(), bound.1 * rounds.len(), 0]);
    assert!(c.rpc("initialize").is_empty());
    assert_eq!(gateway.metric("holdfast_sessions_restored_total").await, 0.0);
}

/// The replica goes: its sessions are opened at another one, under the same id, and the client is told.
#[tokio::test]
async fn a_session_whose_replica_goes_is_opened_at_another() {
    let (a, b) = (Recorder::start().await, Recorder::start().await);
    let mut gateway = replicas(&[("a", &a), ("b", &b)]).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let (stays, goes) = if a.live_sessions().len() == 1 { (&b, &a) } else { (&a, &b) };
    assert!(gateway.reconfigure(replicas(&[("other", stays)])).await);
    let answer = client.post(&write("w", "w", 0)).await.response().await;
    works(&answer);
    assert_eq!(stays.calls("write").len(), 1);
    assert!(goes.calls("write").is_empty());
    assert_eq!(gateway.metric("holdfast_sessions_restored_total").await, 1.0);
    assert!(answer.to_string().contains("stateLost"), "{answer}");
}

/// So is its standing stream, without a call.
#[tokio::test]
async fn a_standing_stream_whose_replica_goes_is_opened_at_another() {
    let speak = |name: &'static str| {
        move |seen: &crate::harness::recorder::Seen| {
            let said = format!(r#"{{"from":"{name}"}}"#);
            let message = message::event(&message::notification("notifications/x", &said));
            (seen.method == "GET")
                .then(|| Reply::Stream(vec![Step::Send(message.clone()), Step::Wait(Gate::new())]))
        }
    };
    let (a, b) = (Recorder::scripted(speak("a")).await, Recorder::scripted(speak("b")).await);
    let mut gateway = replicas(&[("a", &a), ("b", &b)]).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let (stays, goes) =
        if a.live_sessions().len() == 1 { (("b", &b), "a") } else { (("a", &a), "b") };
    let mut stream = client.get(None).await.stream();
    let from = |name: &'static str| {
        move |message: &Value| {
            message["method"] == "notifications/x" && message["params"]["from"] == name
        }
    };
    stream.find("a word of the first", from(goes)).await;
    assert!(gateway.reconfigure(replicas(&[stays])).await);
    stream.find("a word of the other, on the same stream", from(stays.0)).await;
    works(&client.call(1, "tool").await);
}

/// A credential that the configuration has no more is not used any longer, not by a standing stream either.
#[tokio::test]
async fn a_standing_stream_is_asked_for_with_the_headers_of_the_new_configuration() {
    let recorder = Recorder::scripted(|seen| {
        let comment = Step::Send(":\n\n".to_owned());
        (seen.method == "GET").then(|| Reply::Stream(vec![comment, Step::Wait(Gate::new())]))
    })
    .await;
    let setup = |headers: &str| {
        let server = format!(r#"{{ url: "{}", headers: {{ {headers} }} }}"#, recorder.url());
        Setup::new().server("main", &server)
    };
    let mut gateway = setup("X-Old: first, X-Token: first").start().await;
    let client = Client::legacy(&gateway).with("X-Own", "the client's").initialized().await;
    let _stream = client.get(None).await.stream();
    assert!(gateway.reconfigure(setup("X-Token: second")).await);
    let asked = recorder.wait_for("another GET", 2, |seen| seen.method == "GET").await;
    for (asked, token, old) in [(&asked[0], "first", Some("first")), (&asked[1], "second", None)] {
        assert_eq!(asked.header("x-token"), Some(token), "{}", asked.head);
        assert_eq!(asked.header("x-old"), old, "{}", asked.head);
        assert_eq!(asked.header("x-own"), Some("the client's"), "{}", asked.head);
    }
}
