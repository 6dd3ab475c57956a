//! API keys make principals; sessions and event ids belong to one and are nothing to another.

use std::collections::BTreeSet;

use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen, Step};
use crate::harness::wire::Conn;

/// SHA-256 of `alice-key-one`, `alice-key-two` and `bob-key-one`.
const KEYS: &str = "auth:
  keys:
    - { principal: alice, sha256: 9ed640183e3b3b77fe8db34e151b54cb8895cdfa4be23c9d56c2f5735a057610 }
    - { principal: alice, sha256: 3a94ebb9d336da8c23f8f4f83dca4d633f521da8b65cc8783726a69304b16146 }
    - { principal: bob, sha256: b714c4186a91a889fe7e99a025340982d5dd0b81e1e0dedf8aab52b45ea50089 }";

async fn start() -> (Recorder, Gateway) {
    let recorder = Recorder::scripted(|seen| {
        let note = message::notification("notifications/x", "{}");
        match (seen.tool().as_str(), seen.method.as_str()) {
            ("slow", _) => Some(Reply::Stream(vec![
                Step::Send(message::event(&note)),
                Step::Wait(Gate::new()),
            ])),
            (_, "GET") => Some(Reply::Stream(vec![Step::Wait(Gate::new())])),
            _ => None,
        }
    })
    .await;
    let gateway = Setup::http(&recorder.url()).section(KEYS).start().await;
    (recorder, gateway)
}

#[tokio::test]
async fn a_key_is_taken_from_either_header() {
    let (recorder, gateway) = start().await;
    for (name, value) in [
        ("Authorization", "Bearer alice-key-one"),
        ("authorization", "bearer alice-key-two"),
        ("X-API-Key", "bob-key-one"),
    ] {
        let client = Client::modern(&gateway).with(name, value);
        assert_eq!(client.call(1, "tool").await["id"], 1, "{name}: {value}");
    }
    for seen in recorder.calls("tool") {
        assert_eq!(seen.header("authorization"), None, "the key is for the gateway");
        assert_eq!(seen.header("x-api-key"), None, "the key is for the gateway");
    }
}

#[tokio::test]
async fn without_a_key_there_is_401() {
    let (recorder, gateway) = start().await;
    let anonymous = Client::modern(&gateway);
    let clients = [
        anonymous.clone(),
        anonymous.clone().with("Authorization", "Bearer nobody"),
        anonymous.clone().with("Authorization", "Basic YWxpY2U6YQ=="),
        anonymous.clone().with("Authorization", "Bearer "),
        anonymous.clone().with("X-API-Key", ""),
        anonymous.clone().with("X-API-Key", "alice-key-on"),
        anonymous
            .with("X-API-Key", "9ed640183e3b3b77fe8db34e151b54cb8895cdfa4be23c9d56c2f5735a057610"),
    ];
    for client in clients {
        for answer in [
            client.post(&message::modern_call(1, "tool")).await.answer(),
            client.post(&message::initialize("2025-11-25")).await.answer(),
            client.get(None).await.answer(),
            client.delete().await,
        ] {
            assert_eq!(answer.status, 401, "{}", answer.text());
            let challenge = answer.header("www-authenticate").expect("a challenge");
            assert!(challenge.starts_with("Bearer"), "{challenge}");
        }
    }
    let upgrade = format!(
        "GET /mcp HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        gateway.address
    );
    let sse = format!(
        "GET /sse HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
        gateway.address
    );
    for request in [upgrade, sse] {
        assert_eq!(Conn::open(gateway.address).await.exchange(request).await.status, 401);
    }
    assert!(recorder.seen().is_empty(), "nothing reached the server");
}

/// Health is for balancers, which have no key.
#[tokio::test]
async fn health_needs_no_key() {
    let (_recorder, gateway) = start().await;
    let request = format!("GET /health/live HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
    assert_eq!(Conn::open(gateway.address).await.exchange(request).await.status, 200);
}

#[tokio::test]
async fn a_session_is_its_principals() {
    let (recorder, gateway) = start().await;
    let plain = Client::legacy(&gateway);
    let alice = plain.clone().with("X-API-Key", "alice-key-one").initialized().await;
    let with_key = |key: &str| plain.clone().with("X-API-Key", key).in_session(alice.session());
    let before = recorder.seen().len();

    let bob = with_key("bob-key-one");
    for answer in [
        bob.post(&message::call(1, "tool")).await.answer(),
        bob.post(&message::notification("notifications/x", "{}")).await.answer(),
        bob.get(None).await.answer(),
        bob.delete().await,
    ] {
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
    assert_eq!(recorder.seen().len(), before, "nothing of it reached the server");

    // Another key of the same owner is the same principal.
    assert_eq!(with_key("alice-key-two").call(2, "tool").await["id"], 2);
    assert_eq!(alice.call(3, "tool").await["id"], 3);
}

#[tokio::test]
async fn an_event_id_is_its_principals() {
    let (_recorder, gateway) = start().await;
    let plain = Client::legacy(&gateway);
    let alice = plain.clone().with("X-API-Key", "alice-key-one").initialized().await;
    let bob = plain.clone().with("X-API-Key", "bob-key-one").initialized().await;
    let mut stream = alice.post(&message::call(1, "slow")).await.stream();
    stream.find("the note", |message| message["method"] == "notifications/x").await;
    let id = stream.last_id.clone().expect("an id");

    assert!((400..=404).contains(&bob.get(Some(&id)).await.answer().status));
    let stolen = bob.in_session(alice.session());
    assert_eq!(stolen.get(Some(&id)).await.answer().status, 404);
    let sessionless = plain.with("X-API-Key", "bob-key-one");
    assert!((400..=405).contains(&sessionless.get(Some(&id)).await.answer().status));

    let resumed = alice.get(Some(&id)).await.stream();
    assert_eq!(resumed.head.status, 200);
}

/// Sessions that the gateway holds for sessionless callers are not shared between principals.
#[tokio::test]
async fn sessionless_calls_are_kept_apart() {
    let (recorder, gateway) = start().await;
    for key in ["alice-key-one", "bob-key-one", "alice-key-two"] {
        Client::legacy(&gateway).with("X-API-Key", key).call(1, "tool").await;
    }
    // The first call of all may go without, to find out that this server wants a session.
    let sessions: Vec<String> = recorder
        .calls("tool")
        .iter()
        .filter_map(|seen| seen.header("mcp-session-id").map(str::to_owned))
        .collect();
    assert_eq!(sessions, ["server-session-1", "server-session-2", "server-session-1"]);
}

/// What one client has logged in by a call, another one that the server can tell from it does not find.
#[tokio::test]
async fn sessionless_clients_that_a_server_tells_apart_share_no_session() {
    let recorder = Recorder::start().await;
    let server = format!(r#"{{ url: "{}", forward_authorization: true }}"#, recorder.url());
    let gateway = Setup::new().server("main", &server).start().await;
    let anonymous = Client::legacy(&gateway);
    // The first call finds out that this server wants a session.
    anonymous.call(0, "first").await;
    let clients = [
        anonymous.clone(),
        anonymous.clone().with("Cookie", "login=ann"),
        anonymous.clone().with("Cookie", "login=bob"),
        anonymous.clone().with("Authorization", "Bearer ann"),
        anonymous.clone().with("Authorization", "Bearer bob"),
    ];
    let user = r#"{"name":"tool","_meta":{"com.example/user":"ann"}}"#;
    for round in 0..3 {
        for client in &clients {
            // That a request is traced makes nobody another one.
            let traced = client.clone().with("traceparent", &format!("00-{round}-1-00"));
            let traced = traced.with("X-Request-ID", &format!("request-{round}"));
            traced.call(round, "tool").await;
        }
        anonymous.ask(round, "tools/call", user).await;
    }
    let sessions: Vec<String> = recorder
        .calls("tool")
        .iter()
        .map(|seen| seen.header("mcp-session-id").expect("a session").to_owned())
        .collect();
    let (first, later) = sessions.split_at(clients.len() + 1);
    let different: BTreeSet<&String> = first.iter().collect();
    assert_eq!(different.len(), first.len(), "{sessions:?}");
    assert_eq!(later, [first, first].concat(), "each has its own again");
}

/// However many clients are told apart, a server has a bounded number of sessions for them, and whoever has
/// called lately finds its own.
#[tokio::test]
async fn sessions_of_sessionless_clients_do_not_pile_up() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let who = |number| Client::legacy(&gateway).with("Cookie", &format!("login={number}"));
    let clients: Vec<Client> = (0..300).map(who).collect();
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(client.call(number, "tool").await["id"], number);
    }
    clients[299].call(300, "again").await;
    clients[0].call(301, "again").await;
    let session = |seen: &Seen| seen.header("mcp-session-id").map(str::to_owned);
    let (before, after) = (recorder.calls("tool"), recorder.calls("again"));
    assert_eq!(session(&after[0]), session(&before[before.len() - 1]));
    assert!(before.iter().all(|it| session(it) != session(&after[1])));
    eventually("an end of what is too many", || {
        (recorder.live_sessions().len() <= 256).then_some(())
    })
    .await;
}

/// What waits for a client that may never come back is no reason to refuse another.
#[tokio::test]
async fn an_idle_session_of_a_sessionless_client_gives_way_at_the_limit() {
    let recorder = Recorder::start().await;
    let limits = "limits: { sessions_per_principal: 2 }";
    let gateway = Setup::http(&recorder.url()).section(limits).start().await;
    for number in 0..6 {
        let client = Client::legacy(&gateway).with("Cookie", &format!("login={}", number % 3));
        let answer = client.call(number, "tool").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(gateway.metric("holdfast_sessions").await, 2.0);
    let own = Client::legacy(&gateway).initialized().await;
    assert!(own.call(7, "tool").await.get("result").is_some());
    assert_eq!(gateway.metric("holdfast_sessions").await, 2.0);
}

#[tokio::test]
async fn without_keys_everybody_is_anonymous_and_the_log_says_so() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    assert_eq!(Client::modern(&gateway).call(1, "tool").await["id"], 1);
    let log = gateway.log();
    assert!(log.contains("anonymous") || log.contains("no API keys"), "{log}");
    let keyed = Setup::http(&recorder.url()).section(KEYS).start().await;
    assert!(!keyed.log().contains("anonymous"), "{}", keyed.log());
    assert!(!keyed.log().contains("alice-key-one"));
}
