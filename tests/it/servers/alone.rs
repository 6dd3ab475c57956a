//! A server that fails and has nobody beside it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message::{self, META};
use crate::harness::process::binary;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen};
use crate::harness::wire::Conn;
use crate::harness::{eventually, within};

use super::{faulty, refused, url};

/// A server that answers every call of a tool like this.
async fn start(
    settings: &str,
    reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Recorder, Gateway) {
    let recorder =
        Recorder::scripted(move |seen| (!seen.tool().is_empty()).then(|| reply(seen))).await;
    let settings = format!(r#"{{ url: "{}"{settings} }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    (recorder, gateway)
}

/// After five failures in a row nothing reaches it, and clients are told at once when to come back.
#[tokio::test]
async fn is_left_alone_after_five_failures() {
    let (recorder, gateway) = start("", |_| Reply::refused(500, String::new())).await;
    let client = Client::modern(&gateway);
    for id in 0..5 {
        let answer = client.call(id, "tool").await;
        assert_eq!(answer["error"]["code"], -31002, "it was sent, and may have run: {answer}");
    }
    for id in 5..30 {
        refused(&client.call(id, "tool").await, -31001);
    }
    assert_eq!(recorder.calls("tool").len(), 5);
    let open = r#"holdfast_breaker_state{server_id="main",instance="1",state="open"}"#;
    assert_eq!(gateway.metric(open).await, 1.0);
}

/// It has a breaker of its own: the others go on, and everybody is told which one it is.
#[tokio::test]
async fn is_spared_a_tool_that_fails() {
    let reply = |seen: &Seen| match seen.tool().as_str() {
        "ill" => Reply::refused(500, String::new()),
        _ => Reply::json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id())),
    };
    let settings = ", breaker: { per_tool: [ill, well] }, health: { interval: 500ms }";
    let (recorder, gateway) = start(settings, reply).await;
    let client = Client::modern(&gateway);
    for id in 0..5 {
        let answer = client.call(id, "ill").await;
        assert_eq!(answer["error"]["code"], -31002, "{answer}");
        assert!(client.call(id + 100, "well").await.get("result").is_some());
    }
    let answer = client.call(5, "ill").await;
    refused(&answer, -31001);
    let reason = answer["error"]["data"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("\"ill\"") && reason.contains("breaker.per_tool"), "{answer}");
    assert_eq!(recorder.calls("ill").len(), 5);
    assert!(client.call(105, "well").await.get("result").is_some());
    let state = |label: &str, state: &str| {
        format!(r#"holdfast_breaker_state{{server_id="main",{label},state="{state}"}}"#)
    };
    assert_eq!(gateway.metric(&state(r#"tool="ill""#, "open")).await, 1.0);
    assert_eq!(gateway.metric(&state(r#"tool="well""#, "closed")).await, 1.0);
    assert_eq!(gateway.metric(&state(r#"instance="1""#, "closed")).await, 1.0);
    let turned = r#"holdfast_breaker_transitions_total{server_id="main",to="open"}"#;
    assert_eq!(gateway.metric(turned).await, 1.0);
    let request =
        format!("GET /health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.address);
    let shown = Conn::open(gateway.address).await.exchange(request).await.json();
    let checks = shown["checks"].as_array().expect("checks");
    let found = checks.iter().find(|it| it["name"] == "server:main/tool/ill/breaker");
    assert_eq!(found.map(|it| it["ok"] == false), Some(true), "{shown}");
}

/// What an application answers is its own affair.
#[tokio::test]
async fn is_not_judged_by_its_own_errors() {
    let (recorder, gateway) = start("", |seen| {
        let id = seen.id();
        Reply::json(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32000,"message":"no"}}}}"#
        ))
    })
    .await;
    let client = Client::modern(&gateway);
    for id in 0..40 {
        assert_eq!(client.call(id, "tool").await["error"]["code"], -32000);
    }
    assert_eq!(recorder.calls("tool").len(), 40);
}

/// A server that asks for a rest gets it, and nobody takes that for a failure.
#[tokio::test]
async fn gets_the_rest_that_it_asks_for() {
    let sample = faulty(r#"{"kind":"status","status":503,"retry_after":60}"#).await;
    let gateway = Setup::http(&url(&sample)).start().await;
    let client = Client::modern(&gateway);
    refused(&client.call(1, "tool").await, -31003);
    for id in 2..10 {
        refused(&client.call(id, "tool").await, -31003);
    }
    let rests = r#"holdfast_refused_total{server_id="main",reason="back_pressure"}"#;
    assert_eq!(gateway.metric(rests).await, 8.0);
    let closed = r#"holdfast_breaker_state{server_id="main",instance="1",state="closed"}"#;
    assert_eq!(gateway.metric(closed).await, 1.0);
}

/// The head of an answer of so many bytes, and the first half of them.
fn half(seen: &Seen, bytes: usize) -> Vec<u8> {
    let mut half = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n\
         {{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{\"content\":\"",
        seen.id()
    )
    .into_bytes();
    half.resize(half.len() + bytes / 2, b'x');
    half
}

/// Asks for an answer that is passed on as it comes, and gives back the connection after its head.
async fn begun(gateway: &Gateway, id: usize) -> Conn {
    let body = message::modern_call(id, "large");
    let mut conn = Conn::open(gateway.address).await;
    conn.send(Client::modern(gateway).request("POST", &[], Some(&body))).await;
    let head = conn.head().await.expect("a head");
    assert_eq!(head.header("content-type"), Some("application/json"), "{head:?}");
    conn
}

const AS_IT_COMES: &str = "limits: { answer_buffer: 1KiB }";

/// Half an answer is none, also where the half is with the client already.
#[tokio::test]
async fn that_cuts_its_large_answers_is_left_alone() {
    let recorder = Recorder::scripted(|seen| {
        (seen.tool() == "large").then(|| Reply::Raw(half(seen, 100_000)))
    })
    .await;
    let gateway = Setup::http(&recorder.url()).section(AS_IT_COMES).start().await;
    for id in 0..5 {
        assert!(begun(&gateway, id).await.body().await.is_err(), "it was cut");
    }
    refused(&Client::modern(&gateway).call(9, "large").await, -31001);
    assert_eq!(recorder.calls("large").len(), 5);
}

/// Its client is not left waiting, and until then the call is seen where it is.
#[tokio::test]
async fn that_stops_in_the_middle_of_a_large_answer_has_failed() {
    let never = Gate::new();
    let recorder = Recorder::scripted(move |seen| {
        let stops = || Reply::Stops(half(seen, 100_000), never.clone());
        (seen.tool() == "large").then(stops)
    })
    .await;
    let settings = format!(
        r#"{{ url: "{}", timeout: 8s, breaker: {{ consecutive_failures: 3 }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &settings).section(AS_IT_COMES).start().await;
    let mut waiting = Vec::new();
    for id in 1..=3 {
        waiting.push(begun(&gateway, id).await);
    }
    let in_flight = r#"holdfast_instance_in_flight{server_id="main",instance="1"}"#;
    assert_eq!(gateway.metric(in_flight).await, 3.0);
    for conn in &mut waiting {
        assert!(within("the end of half an answer", conn.body()).await.is_err());
    }
    eventually("it is hung up on", || (recorder.abandoned() == 3).then_some(())).await;
    gateway.wait_metric(in_flight, |now| now == 0.0).await;
    refused(&Client::modern(&gateway).call(9, "large").await, -31001);
    let failed = r#"mcp_errors_total{method="tools/call",server_id="main",error_type="timed_out"}"#;
    assert_eq!(gateway.metric(failed).await, 3.0);
}

/// Who writes an answer may count its bytes and never ask for its end, as on a connection that has seen a long request.
#[tokio::test]
async fn that_gives_a_large_answer_has_given_it_with_its_last_byte() {
    let content = "x".repeat(2 * 1024 * 1024);
    let large = format!(r#"{{"content":"{content}","resultType":"complete"}}"#);
    let recorder = Recorder::scripted(move |seen| {
        (seen.tool() == "large").then(|| Reply::json(message::result(seen.id(), &large)))
    })
    .await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let client = Client::modern(&gateway);
    let text = "x".repeat(100 * 1024);
    let arguments = format!(r#"{{"name":"tool","arguments":{{"text":"{text}"}},{META}}}"#);
    let long = message::request(1, "tools/call", &arguments);
    for first in [message::modern_call(1, "tool"), long] {
        let mut conn = Conn::open(gateway.address).await;
        for (body, bytes) in [(first, 50), (message::modern_call(2, "large"), content.len())] {
            conn.send(client.request("POST", &[], Some(&body))).await;
            let answer = conn.answer().await.expect("an answer");
            assert_eq!(answer.status, 200);
            assert!(answer.body.len() > bytes, "{} bytes", answer.body.len());
        }
    }
    let ended = |status: &str| {
        format!(
            r#"mcp_request_duration_seconds_count{{method="tools/call",server_id="main",status="{status}"}}"#
        )
    };
    gateway.wait_metric(&ended("ok"), |it| it == 4.0).await;
    let cancelled = gateway.metrics().await;
    assert!(!cancelled.contains(&ended("cancelled")), "{cancelled}");
}

/// A client that takes its time keeps the server waiting, which need not have that.
#[tokio::test]
async fn that_cuts_what_its_client_does_not_take_is_not_to_blame() {
    let recorder = Recorder::scripted(|seen| {
        (seen.tool() == "large").then(|| Reply::Raw(half(seen, 48 * 1024 * 1024)))
    })
    .await;
    let settings =
        format!(r#"{{ url: "{}", breaker: {{ consecutive_failures: 3 }} }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).section(AS_IT_COMES).start().await;
    let mut waiting = Vec::new();
    for id in 1..=3 {
        waiting.push(begun(&gateway, id).await);
    }
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    for conn in &mut waiting {
        assert!(conn.body().await.is_err(), "it was cut");
    }
    let answer = Client::modern(&gateway).call(2, "other").await;
    assert!(answer.get("result").is_some(), "{answer}");
    let opened = r#"holdfast_breaker_transitions_total{server_id="main",to="open"}"#;
    assert_eq!(gateway.metric(opened).await, 0.0);
}

/// Where it knows users by their own credentials, it limits them one by one. One that has used up its part is told
/// when to come back; the others are served meanwhile. Whoever comes without a credential comes as the gateway.
#[tokio::test]
async fn that_limits_one_user_serves_the_others() {
    let recorder = Recorder::scripted(|seen| {
        let limited = seen.header("authorization") != Some("Bearer bob");
        let asks = ["tools/call", "initialize"].contains(&&*seen.rpc());
        let after = ("Retry-After".to_owned(), "3600".to_owned());
        (limited && asks).then(|| Reply::Json(429, vec![after], String::new()))
    })
    .await;
    let settings = format!(r#"{{ url: "{}", forward_authorization: true }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    let user =
        |name: &str| Client::modern(&gateway).with("Authorization", &format!("Bearer {name}"));
    for id in 1..4 {
        let answer = user("ann").call(id, "write").await;
        refused(&answer, -31003);
        assert_eq!(answer["error"]["data"]["retryAfterMs"], 3_600_000, "{answer}");
        assert!(user("bob").call(id, "write").await.get("result").is_some());
    }
    let opens = |name: &str| {
        let bearer = format!("Bearer {name}");
        Client::legacy(&gateway).with("Authorization", &bearer)
    };
    assert!(opens("ann").initialize().await.json().get("error").is_some());
    opens("bob").initialized().await;
    assert_eq!(recorder.calls("write").len(), 6, "each was asked for");
    let rests = r#"holdfast_refused_total{server_id="main",reason="back_pressure"}"#;
    assert_eq!(gateway.metric(rests).await, 0.0);

    refused(&Client::modern(&gateway).call(9, "write").await, -31003);
    refused(&user("bob").call(9, "write").await, -31003);
    assert_eq!(gateway.metric(rests).await, 1.0);
}

/// One user's part is the same at each instance: a Read that is told to come back later is not tried at the next one.
#[tokio::test]
async fn that_limits_one_user_is_asked_once_for_all_of_its_instances() {
    let server = || {
        Recorder::scripted(|seen| {
            let limited = seen.header("authorization").is_some();
            let after = ("Retry-After".to_owned(), "60".to_owned());
            (limited && seen.tool() == "look").then(|| Reply::Json(429, vec![after], String::new()))
        })
    };
    let (a, b) = (server().await, server().await);
    let settings = format!(
        r#"{{ instances: [ {{ id: a, url: "{}" }}, {{ id: b, url: "{}" }} ], tools: {{ look: read }}, forward_authorization: true }}"#,
        a.url(),
        b.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::modern(&gateway).with("Authorization", "Bearer ann");
    for asked in 1..=4 {
        refused(&client.call(asked, "look").await, -31003);
        assert_eq!(a.calls("look").len() + b.calls("look").len(), asked);
    }
}

/// It comes back carefully: some calls try it, and when they succeed it is open to all.
#[tokio::test]
async fn is_tried_again_and_let_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let settings =
        ", breaker: { open_for: 200ms, max_open_for: 1s, probe_interval: 100ms, ramp_over: 0s }";
    let (_recorder, gateway) = start(settings, move |seen| match is_well.load(Ordering::SeqCst) {
        true => {
            Reply::json(message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#))
        }
        false => Reply::refused(500, String::new()),
    })
    .await;
    let client = Client::modern(&gateway);
    for id in 0..10 {
        client.call(id, "tool").await;
    }
    refused(&client.call(10, "tool").await, -31001);
    well.store(true, Ordering::SeqCst);
    let closed = r#"holdfast_breaker_state{server_id="main",instance="1",state="closed"}"#;
    within("the way back", async {
        let mut id = 100;
        while gateway.metric(closed).await != 1.0 {
            client.call(id, "tool").await;
            id += 1;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    for id in 0..20 {
        let answer = client.call(1000 + id, "tool").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
}

#[tokio::test]
async fn is_not_called_for_one_that_depends_on_it_while_it_is_open() {
    let base = Recorder::scripted(|seen| {
        (!seen.tool().is_empty()).then(|| Reply::refused(500, String::new()))
    })
    .await;
    let top = Recorder::start().await;
    let gateway = Setup::new()
        .server("base", &format!(r#"{{ url: "{}" }}"#, base.url()))
        .server("top", &format!(r#"{{ url: "{}", depends_on: [base] }}"#, top.url()))
        .start()
        .await;
    let client = Client::modern(&gateway).at("/mcp/top");
    assert!(client.call(1, "tool").await.get("result").is_some());
    let failing = Client::modern(&gateway).at("/mcp/base");
    for id in 0..5 {
        failing.call(id, "tool").await;
    }
    let answer = client.call(2, "tool").await;
    refused(&answer, -31004);
    assert!(answer["error"]["message"].as_str().is_some_and(|it| it.contains("base")), "{answer}");
    assert_eq!(top.calls("tool").len(), 1);
}

#[tokio::test]
async fn a_tool_has_its_own_allowance() {
    let settings = ", tools: { dear: { requests_per_minute: 1, burst: 2 } }";
    let (recorder, gateway) = start(settings, |seen| {
        Reply::json(message::result(seen.id(), r#"{"content":[],"resultType":"complete"}"#))
    })
    .await;
    let client = Client::modern(&gateway);
    for id in 0..2 {
        assert!(client.call(id, "dear").await.get("result").is_some());
    }
    refused(&client.call(3, "dear").await, -31003);
    assert!(client.call(4, "cheap").await.get("result").is_some());
    assert_eq!(recorder.calls("dear").len(), 2);
}

/// The operator's word holds whatever the configuration says of breakers.
#[tokio::test]
async fn is_refused_by_an_operator_where_breakers_are_off() {
    let reply = |seen: &Seen| Reply::json(message::result(seen.id(), r#"{"content":[]}"#));
    let (recorder, gateway) = start(", breaker: { enabled: false }", reply).await;
    let client = Client::modern(&gateway);
    let hold = |action: &str| {
        let output = Command::new(binary())
            .args(["breaker", action, "main", "--yes", "--admin", &gateway.admin.to_string()])
            .output()
            .expect("start the binary");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    assert!(client.call(1, "tool").await.get("result").is_some());
    hold("open");
    let state = |state: &str| {
        format!(r#"holdfast_breaker_state{{server_id="main",instance="1",state="{state}"}}"#)
    };
    gateway.wait_metric(&state("forced_open"), |it| it == 1.0).await;
    refused(&client.call(2, "tool").await, -31001);
    assert_eq!(recorder.calls("tool").len(), 1);
    hold("clear");
    gateway.wait_metric(&state("closed"), |it| it == 1.0).await;
    assert!(client.call(3, "tool").await.get("result").is_some());
}

/// A breaker that is open is open no more when the configuration says that there is none.
#[tokio::test]
async fn takes_calls_again_when_its_breaker_is_switched_off() {
    let fails = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&fails);
    let recorder = Recorder::scripted(move |seen: &Seen| {
        let fails = !seen.tool().is_empty() && now.load(Ordering::SeqCst);
        fails.then(|| Reply::refused(500, String::new()))
    })
    .await;
    let setup = |enabled: bool| {
        let settings = format!(
            r#"{{ url: "{}", breaker: {{ enabled: {enabled} }}, health: {{ interval: 500ms }} }}"#,
            recorder.url()
        );
        Setup::new().server("main", &settings)
    };
    let mut gateway = setup(true).start().await;
    let client = Client::modern(&gateway);
    for id in 0..5 {
        client.call(id, "tool").await;
    }
    let state = |state: &str| {
        format!(r#"holdfast_breaker_state{{server_id="main",instance="1",state="{state}"}}"#)
    };
    assert_eq!(gateway.metric(&state("open")).await, 1.0);
    let verdict = r#"holdfast_control_instance_verdict{server="main",instance="1"}"#;
    gateway.wait_metric(verdict, |it| it > 0.0).await;
    fails.store(false, Ordering::SeqCst);
    assert!(gateway.reconfigure(setup(false)).await);
    assert_eq!(gateway.metric(&state("closed")).await, 1.0);
    for id in 10..13 {
        let answer = client.call(id, "tool").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    gateway.wait_metric(verdict, |it| it == 0.0).await;
}
