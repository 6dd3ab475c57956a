//! Sessions: the gateway's own ids, stable whatever the server forgets, and gone for good when they
//! are gone.

use std::time::Duration;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen};

async fn start(
    section: &str,
    script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
) -> (Recorder, Gateway) {
    let recorder = Recorder::scripted(script).await;
    let gateway = Setup::http(&recorder.url()).section(section).start().await;
    (recorder, gateway)
}

#[tokio::test]
async fn the_session_id_is_the_gateways_own() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway);
    let first = client.initialize().await;
    let second = client.initialize().await;
    let ids: Vec<&str> =
        [&first, &second].iter().map(|it| it.header("mcp-session-id").unwrap()).collect();
    assert_ne!(ids[0], ids[1]);
    for id in &ids {
        assert!(id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        assert!(!recorder.live_sessions().contains(&(*id).to_owned()), "the server's own id: {id}");
    }
    let initialized = client.in_session(ids[0]);
    let answer = initialized.post(&message::call(1, "tool")).await.answer();
    assert!(!answer.headers.iter().any(|(_, value)| value.contains("server-session")));
    let seen = recorder.calls("tool").remove(0);
    assert_eq!(seen.header("mcp-session-id"), Some("server-session-1"));
}

/// Restart, eviction, a deployment: the server answers 404, and the client notices nothing.
#[tokio::test]
async fn a_session_that_the_server_forgot_is_established_again() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    for body in [
        message::request(1, "logging/setLevel", r#"{"level":"warning"}"#),
        message::request(2, "resources/subscribe", r#"{"uri":"test://a"}"#),
        message::request(3, "resources/subscribe", r#"{"uri":"test://b"}"#),
        message::request(4, "resources/unsubscribe", r#"{"uri":"test://a"}"#),
    ] {
        assert!(client.post(&body).await.response().await.get("result").is_some(), "{body}");
    }
    recorder.forget_sessions();
    let before = recorder.seen().len();

    // A Write: the 404 to our session id says that it did not run, so it may be sent once more.
    let response = client.call(5, "write").await;
    assert_eq!(response["result"]["content"][0]["text"], "write done", "{response}");
    assert_eq!(response["id"], 5);

    let after = &recorder.seen()[before..];
    let methods: Vec<String> = after.iter().map(Seen::rpc).collect();
    assert_eq!(methods[0], "tools/call", "{methods:?}");
    assert_eq!(methods[1..3], ["initialize", "notifications/initialized"], "{methods:?}");
    assert_eq!(methods.last().unwrap(), "tools/call", "{methods:?}");
    assert!(methods.contains(&"logging/setLevel".to_owned()), "{methods:?}");
    let subscribed: Vec<String> =
        after.iter().filter(|seen| seen.rpc() == "resources/subscribe").map(Seen::text).collect();
    assert_eq!(subscribed.len(), 1, "what was unsubscribed stays so: {subscribed:?}");
    assert!(subscribed[0].contains("test://b"));
    assert_eq!(recorder.calls("write").len(), 2);
    let sent = recorder.rpc("initialize");
    assert_eq!(sent[0].text(), sent[1].text(), "the client's own initialize is replayed");

    // The same client session goes on, and the new one at the server is used.
    let next = client.call(6, "tool").await;
    assert_eq!(next["id"], 6);
    let seen = recorder.calls("tool").remove(0);
    assert_eq!(seen.header("mcp-session-id"), Some("server-session-2"));
}

/// Some servers say it with 400 and a JSON-RPC error instead of 404.
#[tokio::test]
async fn not_initialized_is_a_lost_session_too() {
    let (recorder, gateway) = start("", |seen| {
        let forgotten = seen.header("mcp-session-id") == Some("server-session-1");
        (forgotten && seen.rpc() == "tools/call").then(|| {
            Reply::refused(
                400,
                message::error("null", -32000, "Bad Request: Server not initialized"),
            )
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let response = client.call(1, "write").await;
    assert_eq!(response["result"]["content"][0]["text"], "write done", "{response}");
    assert_eq!(recorder.rpc("initialize").len(), 2);
}

/// Other refusals are the server's answer and nobody's reason to call again.
#[tokio::test]
async fn other_refusals_are_passed_on() {
    let (recorder, gateway) = start("", |seen| {
        (seen.tool() == "refused").then(|| {
            Reply::refused(400, message::error(seen.id(), -32602, "Session not found in my notes"))
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let response = client.call(1, "refused").await;
    assert_eq!(response["error"]["code"], -32602, "{response}");
    assert_eq!(recorder.calls("refused").len(), 1);
    assert_eq!(recorder.rpc("initialize").len(), 1);
}

/// A server that never keeps a session must not be asked for ever.
#[tokio::test]
async fn a_session_is_established_again_only_once_per_call() {
    let (recorder, gateway) = start("", |seen| {
        (seen.tool() == "write")
            .then(|| Reply::refused(404, message::error("null", -32001, "Session not found")))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let response = client.call(1, "write").await;
    assert!(response.get("error").is_some(), "{response}");
    assert_eq!(response["id"], 1, "{response}");
    assert_eq!(recorder.calls("write").len(), 2);
    assert!(recorder.rpc("initialize").len() <= 3);
}

/// Several calls find the session lost at once: it is established again once for all of them.
#[tokio::test]
async fn calls_at_once_share_one_new_session() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    recorder.forget_sessions();
    let calls = (1..=8).map(|id| {
        let client = client.clone();
        tokio::spawn(async move { client.call(id, "write").await })
    });
    for call in calls.collect::<Vec<_>>() {
        let response = call.await.unwrap();
        assert_eq!(response["result"]["content"][0]["text"], "write done", "{response}");
    }
    recorder.wait_for("superfluous sessions deleted", 0, |_| true).await;
    let live = recorder.live_sessions();
    let deleted = recorder.seen().iter().filter(|seen| seen.method == "DELETE").count();
    let initialized = recorder.rpc("initialize").len();
    assert_eq!(live.len(), 1, "{live:?} live, {initialized} initialized, {deleted} deleted");
}

#[tokio::test]
async fn a_deleted_session_is_404_ever_after() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    let deleted = client.delete().await;
    assert!([200, 204].contains(&deleted.status), "{}", deleted.status);
    let at_server = recorder.wait_for("DELETE at the server", 1, |it| it.method == "DELETE").await;
    assert_eq!(at_server[0].header("mcp-session-id"), Some("server-session-1"));
    for _ in 0..2 {
        assert_eq!(client.post(&message::call(1, "tool")).await.answer().status, 404);
        assert_eq!(
            client.post(&message::notification("notifications/x", "{}")).await.answer().status,
            404
        );
        assert_eq!(client.get(None).await.answer().status, 404);
        assert_eq!(client.delete().await.status, 404);
    }
    assert!(recorder.calls("tool").is_empty());
}

#[tokio::test]
async fn a_session_that_never_was_is_404() {
    let (recorder, gateway) = start("", |_| None).await;
    for id in ["x", "00000000-0000-4000-8000-000000000000", "server-session-1", "../../x"] {
        let client = Client::legacy(&gateway).in_session(id);
        let answer = client.post(&message::call(1, "tool")).await.answer();
        assert_eq!(answer.status, 404, "{id}: {}", answer.text());
        assert!(answer.header("mcp-session-id").is_none());
    }
    assert!(recorder.seen().is_empty());
}

/// Ten seconds are the shortest life there is. An open stream keeps one session alive; the other is
/// over, at the server as well.
#[tokio::test]
async fn unused_sessions_expire_and_used_ones_do_not() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("sessions: { ttl: 10s }", move |seen| {
        let wait = crate::harness::recorder::Step::Wait(held.clone());
        (seen.method == "GET").then(|| Reply::Stream(vec![wait]))
    })
    .await;
    let unused = Client::legacy(&gateway).initialized().await;
    let used = Client::legacy(&gateway).initialized().await;
    let stream = used.get(None).await.stream();

    let deleted = recorder.wait_for("an expiry", 1, |seen| seen.method == "DELETE").await;
    assert_eq!(deleted[0].header("mcp-session-id"), Some("server-session-1"));
    assert_eq!(unused.post(&message::call(1, "tool")).await.answer().status, 404);
    assert_eq!(unused.delete().await.status, 404);

    assert_eq!(used.call(2, "tool").await["id"], 2);
    assert_eq!(recorder.live_sessions(), ["server-session-2"]);
    assert_eq!(gateway.metric("holdfast_sessions_expired_total").await, 1.0);
    drop(stream);
    gate.open();
}

/// Use renews: calls spread over more than one life, and the session still there.
#[tokio::test]
async fn calls_renew_a_session() {
    let (_recorder, gateway) = start("sessions: { ttl: 10s }", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    for id in 0..8 {
        assert_eq!(client.call(id, "tool").await["id"], id);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Some clients (ChatGPT since 2026) call without a session.
#[tokio::test]
async fn legacy_calls_without_a_session_are_served() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway);
    for id in 1..=3 {
        let response = client.call(id, "tool").await;
        assert_eq!(response["result"]["content"][0]["text"], "tool done", "{response}");
    }
    // The first may find out that this server wants a session; the others know.
    let carried = recorder.calls("tool").len();
    assert!((3..=4).contains(&carried), "three calls were carried {carried} times");
    // And after the server has forgotten the session that the gateway holds for them.
    recorder.forget_sessions();
    assert_eq!(client.call(4, "tool").await["id"], 4);
    let listed = client.ask(5, "tools/list", "{}").await;
    assert_eq!(listed["result"]["tools"][0]["name"], "read");
}

/// The protocol has a status for a call that lacks its session, and no words.
#[tokio::test]
async fn a_server_that_gives_sessions_may_refuse_others_in_any_words() {
    for status in [400, 404] {
        let (recorder, gateway) = start("", move |seen| {
            let opens = seen.text().contains("initialize");
            let comes_without = seen.method == "POST" && seen.header("mcp-session-id").is_none();
            let said =
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"who are you?"}}"#;
            (comes_without && !opens).then(|| Reply::Json(status, Vec::new(), said.to_owned()))
        })
        .await;
        // Somebody has been given one.
        let _other = Client::legacy(&gateway).initialized().await;
        let client = Client::legacy(&gateway);
        for id in 1..=2 {
            let response = client.call(id, "tool").await;
            assert_eq!(response["result"]["content"][0]["text"], "tool done", "{response}");
        }
        assert_eq!(recorder.calls("tool").len(), 3, "the first came without, {status}");
    }
}

/// What answers the call by its id has looked at it: such a Write may have run, and is not sent again.
#[tokio::test]
async fn an_answer_with_the_status_of_a_refusal_is_an_answer() {
    for status in [400, 404] {
        let (recorder, gateway) = start("", move |seen| {
            let is_write = seen.tool() == "book" && seen.header("mcp-session-id").is_none();
            let error = r#""error":{"code":-32000,"message":"no such flight"}"#;
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{},{error}}}"#, seen.id());
            is_write.then(|| Reply::Json(status, Vec::new(), answer))
        })
        .await;
        let _other = Client::legacy(&gateway).initialized().await;
        let answer = Client::legacy(&gateway).call(7, "book").await;
        assert_eq!(answer["error"]["message"], "no such flight", "{answer}");
        assert_eq!(recorder.calls("book").len(), 1, "{status}");
    }
}

/// What refuses a call with a session as it did without has not said that it wants one.
#[tokio::test]
async fn a_refusal_that_a_session_does_not_help_against_lends_none_to_the_next_calls() {
    for status in [400, 404] {
        let (recorder, gateway) = start("", move |seen| {
            let said = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}"#;
            (seen.tool() == "bad").then(|| Reply::Json(status, Vec::new(), said.to_owned()))
        })
        .await;
        let _other = Client::legacy(&gateway).initialized().await;
        let client = Client::legacy(&gateway);
        client.post(&message::call(1, "bad")).await.answer();
        let came: Vec<bool> = recorder
            .calls("bad")
            .iter()
            .map(|seen| seen.header("mcp-session-id").is_some())
            .collect();
        assert_eq!(came, [false, true], "{status}");
        next_calls_begin_without_a_session(&client, &recorder, status).await;
    }
}

/// The recorder refuses the first of them, and wants a session indeed.
async fn next_calls_begin_without_a_session(client: &Client, recorder: &Recorder, status: u16) {
    for id in 2..=3 {
        let sent = recorder.calls("tool").len();
        client.call(id, "tool").await;
        let first = recorder.calls("tool").swap_remove(sent);
        assert_eq!(first.header("mcp-session-id").is_some(), id == 3, "{status}, call {id}");
    }
}

/// A server that asks for a session and gives none is not asked for one by everybody from then on.
#[tokio::test]
async fn a_server_that_gives_no_session_is_not_taken_to_want_one() {
    let refused = std::sync::atomic::AtomicBool::new(false);
    let (recorder, gateway) = start("", move |seen| {
        if seen.rpc() == "initialize" {
            let result = r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"t","version":"1"}}"#;
            return Some(Reply::json(message::result(seen.id(), result)));
        }
        if seen.method != "POST" || seen.rpc().starts_with("notifications/") {
            return Some(Reply::Json(202, Vec::new(), String::new()));
        }
        let is_first = !refused.swap(true, std::sync::atomic::Ordering::SeqCst);
        let said = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Mcp-Session-Id header is required"}}"#;
        Some(match is_first {
            true => Reply::Json(400, Vec::new(), said.to_owned()),
            false => Reply::json(message::result(seen.id(), r#"{"content":[]}"#)),
        })
    })
    .await;
    let client = Client::legacy(&gateway);
    for (id, who) in [(1, "a"), (2, "b"), (3, "c")] {
        // The server can tell them apart: none is lent the session of another.
        let answer = client.clone().with("X-Who", who).call(id, "tool").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(recorder.calls("tool").len(), 4, "the first one was refused once");
    assert_eq!(recorder.rpc("initialize").len(), 1, "the first one looked for a session");
}

#[tokio::test]
async fn there_is_a_cap_on_sessions() {
    let (recorder, gateway) =
        start("limits: { sessions: 2, sessions_per_principal: 2 }", |_| None).await;
    let first = Client::legacy(&gateway).initialized().await;
    let _second = Client::legacy(&gateway).initialized().await;
    let refused = Client::legacy(&gateway).initialize().await;
    assert_eq!(refused.status, 200, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], -31003, "{}", refused.text());
    assert_eq!(refused.json()["id"], "init");
    assert!(refused.header("mcp-session-id").is_none());
    assert_eq!(recorder.live_sessions().len(), 2, "no session is left at the server");
    // Those within the cap go on, and one that ends makes room.
    assert_eq!(first.call(1, "tool").await["id"], 1);
    first.delete().await;
    Client::legacy(&gateway).initialized().await;
}

/// The version is part of the session: the header must name it, or a known one.
#[tokio::test]
async fn an_unknown_version_is_refused() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    let before = recorder.seen().len();
    for version in ["1999-01-01", "2025-11-25-draft", "latest"] {
        let request = client.request("POST", &[], Some(&message::call(1, "tool"))).replace(
            "MCP-Protocol-Version: 2025-11-25",
            &format!("MCP-Protocol-Version: {version}"),
        );
        let answer =
            crate::harness::wire::Conn::open(gateway.address).await.exchange(request).await;
        assert_eq!(answer.status, 400, "{version}: {}", answer.text());
    }
    assert_eq!(recorder.seen().len(), before);
}

/// The server may know less than the client asked for: what it says is what is spoken.
#[tokio::test]
async fn the_servers_version_counts() {
    let (recorder, gateway) = start("", |seen| {
        (seen.rpc() == "initialize").then(|| {
            let body = message::result(
                seen.id(),
                r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"old","version":"1"}}"#,
            );
            Reply::Json(200, vec![("Mcp-Session-Id".into(), "theirs".into())], body)
        })
    })
    .await;
    let client = Client::legacy(&gateway);
    let answer = client.initialize().await;
    assert_eq!(answer.json()["result"]["protocolVersion"], "2025-06-18");
    let session = answer.header("mcp-session-id").expect("a session");
    let client = client.speaking("2025-06-18").in_session(session);
    client.post(&message::notification("notifications/initialized", "{}")).await;
    let told = recorder.rpc("notifications/initialized").remove(0);
    assert_eq!(told.header("mcp-protocol-version"), Some("2025-06-18"));
    assert_eq!(told.header("mcp-session-id"), Some("theirs"));
}

/// A session with many subscriptions has to be somewhere else soon.
#[tokio::test]
async fn subscriptions_are_made_again_side_by_side() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("", move |seen| {
        let again = seen.rpc() == "resources/subscribe"
            && seen.header("mcp-session-id") == Some("server-session-2");
        again.then(|| Reply::after(&held, Reply::json(message::result(seen.id(), "{}"))))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    for id in 1..=5 {
        let params = format!(r#"{{"uri":"test://\"{id}","large":"{}"}}"#, "x".repeat(10_000));
        let answer = client.ask(id, "resources/subscribe", &params).await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    recorder.forget_sessions();
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(9, "write").await });
    let seen = recorder
        .wait_for("all of them at once", 10, |seen| seen.rpc() == "resources/subscribe")
        .await;
    gate.open();
    assert!(call.await.unwrap().get("result").is_some());
    let mut ids: Vec<String> = seen[5..].iter().map(Seen::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5, "{ids:?}");
    for (id, again) in (1..).zip(&seen[5..]) {
        let params = format!(r#""params":{{"uri":"test://\"{id}"}}"#);
        assert!(again.text().contains(&params), "no more than what for: {}", again.text());
    }
}

/// Those that are under way count as those that are there.
#[tokio::test]
async fn subscriptions_side_by_side_are_bounded() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("", move |seen| {
        let subscribes = seen.rpc() == "resources/subscribe";
        subscribes.then(|| Reply::after(&held, Reply::json(message::result(seen.id(), "{}"))))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let subscribe = |id: u32| {
        let params = format!(r#"{{"uri":"test://{id}/{}"}}"#, "x".repeat(12_000));
        let client = client.clone();
        tokio::spawn(async move { client.ask(id, "resources/subscribe", &params).await })
    };
    let fit: Vec<_> = (1..=4).map(subscribe).collect();
    recorder.wait_for("all of them", 4, |seen| seen.rpc() == "resources/subscribe").await;
    let answer = subscribe(5).await.unwrap();
    assert_eq!(answer["error"]["code"], -31003, "{answer}");
    gate.open();
    for answer in fit {
        let answer = answer.await.unwrap();
        assert!(answer.get("result").is_some(), "{answer}");
    }
}

/// What a session subscribes to is kept, and said again when it moves: there is an end to that.
#[tokio::test]
async fn subscriptions_are_bounded() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    let subscribe = |id: u32| {
        let params = format!(r#"{{"uri":"test://{id}/{}"}}"#, "x".repeat(12_000));
        let client = &client;
        async move { client.ask(id, "resources/subscribe", &params).await }
    };
    for id in 1..=4 {
        assert!(subscribe(id).await.get("result").is_some());
    }
    let answer = subscribe(5).await;
    assert_eq!(answer["error"]["code"], -31003, "{answer}");
    assert_eq!(answer["error"]["data"]["mayHaveRun"], false, "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|it| it.contains("subscriptions")));
    assert!(subscribe(4).await.get("result").is_some(), "it has that one already");
    let params = format!(r#"{{"uri":"test://1/{}"}}"#, "x".repeat(12_000));
    assert!(client.ask(8, "resources/unsubscribe", &params).await.get("result").is_some());
    assert!(subscribe(5).await.get("result").is_some());
    assert_eq!(recorder.rpc("resources/subscribe").len(), 6);
}
