//! What may come on one client connection, in whatever order: plain requests take a short way through
//! the gateway and all others a long one, and a client cannot tell them apart.

use std::time::Duration;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen, Step};
use crate::harness::wire::Conn;
use crate::harness::within;

/// A call, as bytes that ask for nothing special.
fn call(gateway: &Gateway, id: usize, tool: &str) -> Vec<u8> {
    let body = message::modern_call(id, tool);
    Client::modern(gateway).request("POST", &[], Some(&body)).into_bytes()
}

/// A server whose tool `slow` answers when the gate is opened.
async fn slow(gate: &Gate) -> Recorder {
    let held = gate.clone();
    Recorder::scripted(move |seen| {
        let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::json(answer)))
    })
    .await
}

/// The next answer is the one to the call with this id.
async fn answered(conn: &mut Conn, id: usize) {
    let answer = conn.answer().await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains(&format!("\"id\":{id}")), "{id}: {}", answer.text());
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut conn = Conn::open(gateway.address).await;
    let bytes: Vec<u8> = (1..=20).flat_map(|id| call(&gateway, id, "tool")).collect();
    // Cut anywhere: in heads, in bodies, between two requests.
    for part in bytes.chunks(bytes.len() / 7 + 1) {
        conn.send(part).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for id in 1..=20 {
        answered(&mut conn, id).await;
    }
    assert_eq!(recorder.calls("tool").len(), 20);
}

/// What a head means is kept once it has come three times; a server cannot tell.
#[tokio::test]
async fn heads_that_come_again_reach_the_server_as_the_first_did() {
    let recorder = Recorder::start().await;
    let settings = format!("{{ url: {}, headers: {{ X-Configured: yes }} }}", recorder.url());
    let gateway = Setup::new().server("only", &settings).start().await;
    let origin = format!("http://{}", gateway.address);
    let own = [
        ("X-Own", "kept"),
        ("Connection", "keep-alive"),
        ("X-API-Key", "not the server's"),
        ("Origin", &*origin),
    ];
    for is_modern in [true, false] {
        let client = match is_modern {
            true => Client::modern(&gateway),
            false => Client::legacy(&gateway).initialized().await,
        };
        let mut conn = Conn::open(gateway.address).await;
        for id in [1, 22, 333, 4, 55_555, 6] {
            let body = match is_modern {
                true => message::modern_call(id, "tool"),
                false => message::call(id, "tool"),
            };
            conn.send(client.request("POST", &own, Some(&body))).await;
            let answer = conn.answer().await.expect("an answer");
            assert!(answer.text().contains(&format!("\"id\":{id}")), "{}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), Some(&*origin));
            // Nothing of it is kept, and it is no POST.
            if id == 4 {
                let health =
                    format!("GET /health/live HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
                assert_eq!(conn.exchange(health).await.status, 200);
            }
        }
    }
    let calls = recorder.calls("tool");
    assert_eq!(calls.len(), 12);
    for era in calls.chunks(6) {
        let fields = |seen: &Seen| -> Vec<_> {
            let names =
                |(name, _): &&(String, String)| !name.eq_ignore_ascii_case("content-length");
            let mut fields: Vec<_> = seen.headers.iter().filter(names).cloned().collect();
            fields.sort();
            fields
        };
        for seen in era {
            assert_eq!(fields(seen), fields(&era[0]), "{}", seen.head);
            assert_eq!(seen.header("content-length"), Some(&*seen.body.len().to_string()));
            assert_eq!(seen.header("x-configured"), Some("yes"));
            assert_eq!(seen.header("x-own"), Some("kept"));
            assert_eq!(seen.header("x-api-key"), None);
            assert!(seen.header("host").is_some_and(|host| recorder.url().contains(host)));
        }
    }
}

/// A balancer gives each call an id, and traces one, in heads that are else the same.
#[tokio::test]
async fn what_each_request_has_of_its_own_reaches_the_server_with_it() {
    let recorder = Recorder::start().await;
    let settings = format!("{{ url: {}, headers: {{ X-Correlation-ID: ours }} }}", recorder.url());
    let gateway = Setup::new().server("only", &settings).start().await;
    let client = Client::modern(&gateway);
    let mut conn = Conn::open(gateway.address).await;
    // The same one may come again, be longer, or be none.
    let words = ["a", "b", "c-c-c-c", "c-c-c-c", "d", "", "e", "f", "g", "h"];
    for (id, word) in words.into_iter().enumerate() {
        let own = [
            ("X-Request-ID", word),
            ("X-Own", "kept"),
            ("traceparent", word),
            ("X-Correlation-ID", word),
        ];
        let body = message::modern_call(id, "tool");
        conn.send(client.request("POST", &own, Some(&body))).await;
        answered(&mut conn, id).await;
    }
    let seen = recorder.calls("tool");
    let of =
        |name| seen.iter().map(move |seen| seen.header(name).unwrap_or("none")).collect::<Vec<_>>();
    assert_eq!(of("x-request-id"), words);
    assert_eq!(of("traceparent"), words);
    assert_eq!(of("x-correlation-id"), ["ours"; 10]);
    assert_eq!(of("x-own"), ["kept"; 10]);
}

/// What a server's head says is kept once it has come three times; a client cannot tell, and what is said to
/// one is said to no other.
#[tokio::test]
async fn an_answer_has_its_own_head_however_often_another_came_before_it() {
    // The tool says what the head says.
    let recorder = Recorder::scripted(|seen| {
        let tool = seen.tool();
        if tool.is_empty() {
            return None;
        }
        let answer = message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#);
        let fields = [("X-Tool", &*tool), ("X-Hop", "1"), ("Connection", "x-hop")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Some(Reply::Json(if tool == "refused" { 422 } else { 200 }, fields, answer))
    })
    .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let client = Client::modern(&gateway);
    let origin = format!("http://{}", gateway.address);
    let page = [("Origin", &*origin)];
    let mut conn = Conn::open(gateway.address).await;
    let tools = ["a", "a", "a", "a", "b", "a", "refused", "refused", "refused", "refused", "a"];
    for (id, tool) in tools.into_iter().cycle().take(33).enumerate() {
        let asks = if id % 2 == 0 { &page[..] } else { &[] };
        let body = message::modern_call(id, tool);
        conn.send(client.request("POST", asks, Some(&body))).await;
        let answer = conn.answer().await.expect("an answer");
        let status = if tool == "refused" { 422 } else { 200 };
        assert_eq!((answer.status, answer.header("x-tool")), (status, Some(tool)), "{id}");
        assert_eq!(answer.header("x-hop"), None, "{id}");
        let allowed = (id % 2 == 0).then_some(&*origin);
        assert_eq!(answer.header("access-control-allow-origin"), allowed, "{id}");
        assert!(answer.text().contains(&format!("\"id\":{id}")), "{id}: {}", answer.text());
    }
}

/// Whose session a call is of says its own head, and not the one before it.
#[tokio::test]
async fn another_session_on_the_same_connection_is_another_session() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let clients = [
        Client::legacy(&gateway).initialized().await,
        Client::legacy(&gateway).initialized().await,
    ];
    let mut conn = Conn::open(gateway.address).await;
    for (id, at) in [0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 0].into_iter().enumerate() {
        conn.send(clients[at].request("POST", &[], Some(&message::call(id, "tool")))).await;
        answered(&mut conn, id).await;
    }
    let of = |seen: &Seen| seen.header("mcp-session-id").unwrap_or_default().to_owned();
    let seen: Vec<_> = recorder.calls("tool").iter().map(of).collect();
    let (one, two) = (&seen[0], &seen[4]);
    assert_ne!(one, two);
    assert_eq!(seen, [one, one, one, one, two, one, two, two, two, two, one].map(String::as_str));
    let gone = clients[1].delete().await;
    assert_eq!(gone.status, 200);
    let mut last = None;
    for id in 20..25 {
        conn.send(clients[1].request("POST", &[], Some(&message::call(id, "tool")))).await;
        last = conn.answer().await.map(|answer| answer.status);
    }
    assert_eq!(last, Some(404), "a head that came again, of a session that has ended");
}

#[tokio::test]
async fn a_connection_goes_on_after_whatever_was_on_it() {
    let recorder =
        Recorder::scripted(|seen| (seen.tool() == "stream").then(|| Reply::streamed(seen, [])))
            .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send(call(&gateway, 1, "tool")).await;
    answered(&mut conn, 1).await;
    // A stream, and right behind it another call.
    conn.send([call(&gateway, 2, "stream"), call(&gateway, 3, "tool")].concat()).await;
    let stream = conn.answer().await.expect("a stream");
    assert!(
        stream.text().contains("\"level\":\"info\"") && stream.text().contains("\"id\":2"),
        "{}",
        stream.text()
    );
    answered(&mut conn, 3).await;
    let health = format!("GET /health/live HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address);
    assert_eq!(conn.exchange(health).await.status, 200);
    // A body in chunks.
    let body = message::modern_call(4, "tool");
    let whole = String::from_utf8(call(&gateway, 4, "tool")).expect("text");
    let (head, _) = whole.split_once("\r\n\r\n").expect("a head");
    let head: Vec<&str> = head
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("content-length"))
        .collect();
    let chunked = format!(
        "{}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        head.join("\r\n"),
        body.len()
    );
    conn.send(chunked).await;
    answered(&mut conn, 4).await;
    conn.send(call(&gateway, 5, "tool")).await;
    answered(&mut conn, 5).await;
    assert_eq!(recorder.calls("tool").len(), 4);
}

#[tokio::test]
async fn a_body_may_come_late_and_not_too_late() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).listen("body_timeout: 2s").start().await;
    let mut conn = Conn::open(gateway.address).await;
    for (id, wait) in [(1, 0), (2, 50), (3, 700), (4, 50)] {
        let bytes = call(&gateway, id, "tool");
        let (head, body) = bytes.split_at(bytes.len() - 30);
        conn.send(head).await;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        conn.send(body).await;
        answered(&mut conn, id).await;
    }
    let bytes = call(&gateway, 5, "tool");
    conn.send(&bytes[..bytes.len() - 1]).await;
    assert_eq!(conn.answer().await.expect("a refusal").status, 408);
    assert_eq!(recorder.calls("tool").len(), 4);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_while_its_call_runs() {
    let gate = Gate::new();
    let recorder = slow(&gate).await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send(call(&gateway, 1, "slow")).await;
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    drop(conn);
    // A modern client's disconnect cancels its call: the connection to the server is closed.
    gateway.wait_metric("holdfast_in_flight", |now| now == 0.0).await;
    gateway.wait_metric("holdfast_connections", |now| now == 0.0).await;
    gate.open();
}

#[tokio::test]
async fn a_node_that_drains_answers_and_then_closes() {
    let gate = Gate::new();
    let recorder = slow(&gate).await;
    let mut gateway = Setup::http(&recorder.url()).start().await;
    let mut idle = Conn::open(gateway.address).await;
    idle.send(call(&gateway, 1, "tool")).await;
    answered(&mut idle, 1).await;
    let mut busy = Conn::open(gateway.address).await;
    busy.send(call(&gateway, 2, "slow")).await;
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    gateway.terminate();
    idle.closed().await;
    // Every worker has heard of it when the node says so.
    within("the drain", async {
        let ready = format!("GET /health/ready HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.admin);
        while Conn::open(gateway.admin).await.exchange(&ready).await.status != 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    gate.open();
    let answer = busy.answer().await.expect("an answer");
    assert!(answer.text().contains("\"id\":2"), "{}", answer.text());
    let closes = |(name, value): &(String, String)| name == "connection" && value == "close";
    assert!(answer.headers.iter().any(closes), "{:?}", answer.headers);
    busy.closed().await;
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn answers_on_either_way_look_alike() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut conn = Conn::open(gateway.address).await;
    let short = conn.exchange(call(&gateway, 1, "tool")).await;
    // An expectation is nothing that a plain request has.
    let whole = String::from_utf8(call(&gateway, 1, "tool")).expect("text");
    let long = conn.exchange(whole.replacen("\r\n", "\r\nExpect: 100-continue\r\n", 1)).await;
    let names = |headers: &[(String, String)]| {
        let mut names: Vec<String> = headers.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&short.headers), names(&long.headers));
    assert_eq!((short.status, &short.body), (long.status, &long.body));
    let date = |headers: &[(String, String)]| {
        headers.iter().find(|(name, _)| name == "date").map(|(_, value)| value.len())
    };
    assert_eq!((date(&short.headers), date(&long.headers)), (Some(29), Some(29)));
}

/// A client that listens says nothing, and is not idle for that.
#[tokio::test]
async fn a_stream_lasts_longer_than_a_connection_may_be_idle() {
    let gate = Gate::new();
    let held = gate.clone();
    let recorder = Recorder::scripted(move |seen| {
        (seen.tool() == "stream").then(|| Reply::streamed(seen, [Step::Wait(held.clone())]))
    })
    .await;
    let setup = Setup::http(&recorder.url()).listen("header_timeout: 1s");
    let gateway = setup.listen("idle_timeout: 1s").start().await;
    let client = Client::modern(&gateway);
    let mut stream = client.post(&message::modern_call(1, "stream")).await.stream();
    stream.find("the progress", |it| it["method"] == "notifications/message").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    gate.open();
    let answer = stream.find("the answer", |it| it["id"] == 1).await;
    assert!(answer["result"].is_object(), "{answer}");
}

/// A client that asks and does not read costs a connection for as long as one may be idle.
#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_let_go() {
    const LARGE: usize = 24 * 1024 * 1024;
    let recorder = Recorder::scripted(|seen| {
        let text = format!(r#"{{"content":"{}","resultType":"complete"}}"#, "x".repeat(LARGE));
        (seen.tool() == "large").then(|| Reply::json(message::result(seen.id(), &text)))
    })
    .await;
    let gateway = Setup::http(&recorder.url())
        .listen("header_timeout: 1s")
        .listen("idle_timeout: 1s")
        .section("limits: { answer_buffer: 32MiB }")
        .start()
        .await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send(call(&gateway, 1, "large")).await;
    let head = conn.head().await.expect("a head");
    let length = head.header("content-length").and_then(|it| it.parse().ok());
    assert!(length.is_some_and(|length: usize| length > LARGE), "a whole answer: {head:?}");
    gateway.wait_metric("holdfast_connections", |now| now == 0.0).await;
    assert!(conn.body().await.is_err(), "all of it was in buffers");
}
