//! Every fault as its victim sees it.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, End, Server, eventually, server, tool, within};

async fn victim(args: &str) -> (Server, Client) {
    let server = server(args).await;
    let client = server.session("2025-11-25", json!({})).await;
    (server, client)
}

fn write(key: &str) -> Value {
    tool("write", json!({ "key": key }))
}

async fn written(server: &Server, key: &str) -> Value {
    server.get("executions").await["write"][key].clone()
}

#[tokio::test]
async fn statuses_bodies_and_errors() {
    let (server, client) = victim("").await;
    for status in [500, 502, 429, 404, 400] {
        let fault = json!({ "kind": "status", "status": status, "retry_after": 7 });
        server.script(json!({ "tool": "write", "fault": fault })).await;
        let answer = client.post(&write("k")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (status, Some("7")));
    }
    let rpc = json!({ "code": -32600, "message": "Server not initialized", "data": [1] });
    server
        .script(json!({
            "tool": "write", "fault": { "kind": "status", "status": 400, "rpc": rpc.clone() },
        }))
        .await;
    let answer = client.post(&write("k")).await;
    assert_eq!((answer.status, &answer.json()["id"]), (400, &json!(1)));
    assert_eq!(answer.json()["error"], rpc);
    let mut fault = rpc;
    fault["kind"] = "rpc_error".into();
    server.script(json!({ "tool": "write", "fault": fault })).await;
    let answer = client.post(&write("k")).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (200, &json!(-32600)));
    server.script(json!({ "tool": "write", "fault": { "kind": "garbage" } })).await;
    assert!(serde_json::from_slice::<Value>(&client.post(&write("k")).await.body).is_err());

    assert_eq!(written(&server, "k").await, Value::Null, "nothing ran");
    assert!(client.call(&write("k")).await["result"].is_object(), "all are used up");
}

#[tokio::test]
async fn a_connection_ends_before_the_answer() {
    let (server, client) = victim("").await;
    for (kind, error) in
        [("reset", io::ErrorKind::ConnectionReset), ("close", io::ErrorKind::UnexpectedEof)]
    {
        for execute in [false, true] {
            server
                .script(json!({ "tool": "write", "execute": execute, "fault": { "kind": kind } }))
                .await;
            let key = format!("{kind}-{execute}");
            let ended = within(client.open(&write(&key))).await.err().unwrap();
            assert_eq!(ended.kind(), error, "{key}");
            let ran = written(&server, &key).await;
            assert_eq!(ran, if execute { json!(1) } else { Value::Null }, "{key}");
        }
    }
}

#[tokio::test]
async fn a_connection_ends_within_the_answer() {
    for (args, primed) in [("", 0), ("--resumable", 1)] {
        let (server, client) = victim(args).await;
        let mut slow = tool("slow", json!({ "ms": 4, "steps": 4 }));
        slow["params"]["_meta"]["progressToken"] = json!(1);
        for (fault, events, end) in [
            (json!({ "kind": "reset_after_headers" }), 0, End::Reset),
            (json!({ "kind": "reset_after_events", "events": 2 }), 2 + primed, End::Reset),
            (json!({ "kind": "close_after_events", "events": 0 }), primed, End::Complete),
            (json!({ "kind": "close_after_events", "events": 3 }), 3 + primed, End::Complete),
        ] {
            server.script(json!({ "tool": "slow", "fault": fault })).await;
            let answer = client.post(&slow).await;
            assert_eq!((answer.events().len(), &answer.end), (events, &end), "{args} {fault}");
        }
        eventually(async || server.get("executions").await["slow"][""] == 4).await;
    }
}

#[tokio::test]
async fn half_an_answer() {
    let (server, client) = victim("").await;
    let half = json!({ "tool": "write", "times": 2, "fault": { "kind": "half_body" } });
    server.script(half).await;
    let answer = client.post(&write("k")).await;
    let length: usize = answer.header("content-length").unwrap().parse().unwrap();
    assert_eq!((answer.body.len(), answer.end), (length / 2, End::Cut));

    let (server, client) = victim("--answers sse").await;
    server.script(json!({ "tool": "write", "fault": { "kind": "half_body" } })).await;
    let answer = client.post(&write("k")).await;
    assert!(answer.text().starts_with("event: message\ndata: {"), "{}", answer.text());
    assert_eq!((answer.events().len(), answer.end), (0, End::Cut));
}

#[tokio::test]
async fn a_dripping_answer_arrives_whole() {
    for args in ["", "--answers sse"] {
        let (server, client) = victim(args).await;
        let fault = json!({ "kind": "drip", "ms": 1, "bytes": 7 });
        server.script(json!({ "tool": "write", "fault": fault })).await;
        let answer = client.call(&write("k")).await;
        assert_eq!(answer["result"]["structuredContent"]["executions"], 1, "{args}");
    }
}

#[tokio::test]
async fn an_answer_comes_twice_or_to_nobody() {
    let (server, client) = victim("--answers sse").await;
    server.script(json!({ "tool": "write", "fault": { "kind": "twice" } })).await;
    let events = client.post(&write("k")).await.events();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0], events[1]);
    assert_eq!(written(&server, "k").await, 1, "but it ran once");
    server.script(json!({ "tool": "write", "fault": { "kind": "wrong_id" } })).await;
    assert_ne!(client.call(&write("k")).await["id"], 1);
}

#[tokio::test]
async fn a_hanging_call_hangs_and_the_others_do_not() {
    let (server, client) = victim("").await;
    server.script(json!({ "tool": "write", "execute": true, "fault": { "kind": "hang" } })).await;
    let call = write("hung");
    let hanging = client.open(&call);
    tokio::pin!(hanging);
    let others = async {
        eventually(async || written(&server, "hung").await == 1).await;
        for _ in 0..20 {
            client.call(&tool("echo", json!({}))).await;
        }
    };
    tokio::select! {
        _ = &mut hanging => panic!("it was answered"),
        () = others => {}
    }
    server.script(json!({ "tool": "write", "fault": { "kind": "delay", "ms": 30 } })).await;
    let begun = std::time::Instant::now();
    client.call(&write("late")).await;
    assert!(begun.elapsed() >= Duration::from_millis(30), "the server held it back so long");
}

#[tokio::test]
async fn a_forgotten_session_is_gone() {
    let (server, client) = victim("").await;
    server.script(json!({ "tool": "write", "fault": { "kind": "forget_session" } })).await;
    for _ in 0..2 {
        let answer = client.post(&write("k")).await;
        assert_eq!((answer.status, &answer.json()["id"]), (404, &json!(1)));
    }
    assert_eq!(written(&server, "k").await, Value::Null);
    let client = server.session("2025-11-25", json!({})).await;
    let mut stream = client.listen(None).await;
    assert_eq!(server.post("forget-sessions", json!({})).await["forgotten"], 1);
    assert_eq!(stream.event().await, None, "its stream has ended");
    assert_eq!(client.post(&write("k")).await.status, 404);
}

#[tokio::test]
async fn streams_and_connections_are_closed_on_demand() {
    let (server, client) = victim("").await;
    for (abrupt, end) in [(false, End::Complete), (true, End::Cut)] {
        let mut stream = client.listen(None).await;
        eventually(async || server.get("sessions").await[0]["listening"] == true).await;
        server.post("close-streams", json!({ "abrupt": abrupt })).await;
        assert_eq!(stream.event().await, None);
        assert_eq!(stream.rest().await.end, end);
        eventually(async || server.get("sessions").await[0]["listening"] == false).await;
    }
    for (reset, end) in [(false, End::Cut), (true, End::Reset)] {
        let stream = client.listen(None).await;
        assert_eq!(stream.status, 200);
        server.post("close-connections", json!({ "reset": reset })).await;
        assert_eq!(stream.rest().await.end, end);
        eventually(async || server.get("sessions").await[0]["listening"] == false).await;
    }
    assert!(client.call(&write("k")).await["result"].is_object(), "the session lives on");
}

#[tokio::test]
async fn get_and_delete_have_faults_of_their_own() {
    let (server, client) = victim("").await;
    server.script(json!({ "method": "GET", "fault": { "kind": "status", "status": 503 } })).await;
    server
        .script(json!({ "method": "DELETE", "fault": { "kind": "status", "status": 405 } }))
        .await;
    assert_eq!(client.listen(None).await.status, 503);
    assert_eq!(client.listen(None).await.status, 200);
    assert_eq!(client.delete().await, 405);
    assert_eq!(client.delete().await, 200);
    let other = super::client::server("--no-get").await;
    let client = other.session("2025-11-25", json!({})).await;
    assert_eq!(client.listen(None).await.status, 405);
    assert_eq!(client.delete().await, 200);
}

#[tokio::test]
async fn a_listener_goes_away_and_comes_back() {
    let (server, client) = victim("").await;
    server.post("refuse", json!({ "ms": 400 })).await;
    eventually(async || {
        let error = tokio::net::TcpStream::connect(client.address).await.err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
    .await;
    eventually(async || client.open(&write("k")).await.is_ok()).await;
}

#[tokio::test]
async fn the_server_can_ask_at_any_time_and_a_reset_forgets_the_past() {
    let (server, client) = victim("").await;
    let mut stream = client.listen(None).await;
    server
        .post("emit", json!({ "method": "ping", "request": true, "session": client.session }))
        .await;
    let asked = stream.message().await;
    assert_eq!(asked["method"], "ping");
    client.post(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": {} })).await;
    assert_eq!(server.get("answers").await[0]["session"], client.session.as_deref().unwrap());
    client.call(&write("k")).await;
    server.script(json!({ "always": true, "fault": { "kind": "reset" } })).await;
    server.post("reset", json!({})).await;
    for endpoint in ["answers", "behaviour", "requests", "cancellations"] {
        assert_eq!(server.get(endpoint).await, json!([]), "{endpoint}");
    }
    assert_eq!(server.get("executions").await, json!({}));
    assert!(client.call(&write("k")).await["result"].is_object(), "sessions stay");
    assert!(server.get("connections").await["open"].as_u64().unwrap() > 0);
}
