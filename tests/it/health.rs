//! What balancers, scrapers and operators ask.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::process::{binary, free_address};
use crate::harness::recorder::{Recorder, Reply, Seen};
use crate::harness::wire::{Answer, Conn};
use crate::harness::within;

async fn get(address: std::net::SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    Conn::open(address).await.exchange(request).await
}

fn check<'a>(body: &'a Value, name: &str) -> &'a Value {
    let checks = body["checks"].as_array().expect("checks");
    checks.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name} in {body}"))
}

async fn start() -> (Recorder, Gateway) {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).listen("health_path: /lb").start().await;
    (recorder, gateway)
}

#[tokio::test]
async fn every_check_has_its_result_and_time() {
    let (_recorder, gateway) = start().await;
    for path in ["/health", "/health/ready", "/lb"] {
        let answer = get(gateway.address, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let body = answer.json();
        assert_eq!(body["status"], "ready", "{path}: {body}");
        for name in ["listener", "session_store", "server:main"] {
            let check = check(&body, name);
            assert_eq!(check["ok"], true, "{check}");
            assert!(check["response_time_ms"].is_number(), "{check}");
        }
    }
    let live = get(gateway.address, "/health/live").await;
    assert_eq!((live.status, live.json()["status"].as_str()), (200, Some("live")));
    assert_eq!(get(gateway.address, "/health/nonsense").await.status, 404);
}

/// One server away makes the node poorer, not useless.
#[tokio::test]
async fn a_server_that_is_away_degrades() {
    let recorder = Recorder::start().await;
    let gateway = Setup::new()
        .server("here", &format!(r#"{{ url: "{}" }}"#, recorder.url()))
        .server("away", &format!(r#"{{ url: "http://{}/mcp" }}"#, free_address()))
        .start()
        .await;
    let answer = get(gateway.address, "/health/ready").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"], "degraded", "{body}");
    assert_eq!(check(&body, "server:here")["ok"], true);
    let away = check(&body, "server:away");
    assert_eq!(away["ok"], false);
    assert!(away["error"].is_string(), "{away}");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let (_recorder, gateway) = start().await;
    let request = format!(
        "HEAD /health/ready HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        gateway.address
    );
    let mut conn = Conn::open(gateway.address).await;
    conn.send(request).await;
    let text = String::from_utf8(conn.rest().await).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let (_recorder, gateway) = start().await;
    let client = Client::legacy(&gateway).initialized().await;
    for id in 0..3 {
        client.call(id, "tool").await;
    }
    let sum = "mcp_request_duration_seconds_count{";
    gateway.wait_metric("holdfast_in_flight", |now| now == 0.0).await;
    let text = get(gateway.admin, "/metrics").await.text();
    let line = text
        .lines()
        .find(|line| line.starts_with(sum) && line.contains("tools/call"))
        .unwrap_or_else(|| panic!("no calls in\n{text}"));
    assert!(line.contains(r#"server_id="main""#) && line.contains(r#"status="ok""#), "{line}");
    assert!(line.ends_with(" 3"), "{line}");
    assert_eq!(gateway.metric("holdfast_sessions").await, 1.0);
    client.delete().await;
    gateway.wait_metric("holdfast_sessions", |now| now == 0.0).await;
    assert!(!text.contains("tool\""), "no client data in labels: {text}");
}

#[tokio::test]
async fn status_asks_the_running_node() {
    let (_recorder, gateway) = start().await;
    Client::modern(&gateway).call(1, "tool").await;
    let status = |format: &str| {
        let admin = gateway.admin.to_string();
        let output =
            Command::new(binary()).args(["status", "--admin", &admin, "-o", format]).output();
        let output = output.expect("start the binary");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = status("table");
    assert!(text.contains("main"), "{text}");
    let report: Value = serde_json::from_str(&status("json")).expect("JSON");
    assert!(report.to_string().contains("\"main\""), "{report}");
}

/// One line per call at debug and none at info.
#[tokio::test]
async fn calls_are_logged_at_debug_only() {
    let (_recorder, gateway) = start().await;
    Client::modern(&gateway).call(1, "needle-tool").await;
    Client::modern(&gateway).call(2, "needle-tool").await;
    let lines = crate::harness::eventually("the log's lines", || {
        let log = gateway.log();
        let lines: Vec<String> =
            log.lines().filter(|line| line.contains("tools/call")).map(str::to_owned).collect();
        (lines.len() >= 2).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("debug")), "{lines:?}");
}

/// A server that is well and refuses connections from here: whoever looks at this node is told.
#[tokio::test]
async fn a_node_of_its_own_says_that_it_cannot_reach_what_another_check_finds_well() {
    let monitor = Recorder::scripted(|_| Some(Reply::json("{}".into()))).await;
    let checks = format!(r#"checks: [ {{ type: http, url: "{}" }} ]"#, monitor.url());
    let settings = format!(
        r#"{{ url: "http://{}/mcp", health: {{ interval: 500ms, {checks} }} }}"#,
        free_address()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    // Whatever the monitor says: nobody gets in.
    let verdict = r#"holdfast_control_instance_verdict{server="main",instance="1"}"#;
    gateway.wait_metric(verdict, |it| it == 2.0).await;
    let reach = |body: &Value| {
        let checks = body["checks"].as_array().expect("checks");
        checks.iter().find(|it| it["name"] == "server:main/reach").cloned()
    };
    assert_eq!(reach(&get(gateway.admin, "/health").await.json()), None);
    let refused = Client::modern(&gateway).call(1, "tool").await;
    assert_eq!(refused["error"]["code"], -31001, "{refused}");
    let unreachable = r#"holdfast_instance_unreachable{server_id="main",instance="1"}"#;
    assert_eq!(gateway.metric(unreachable).await, 1.0);
    let health = get(gateway.admin, "/health").await;
    let found = reach(&health.json()).expect("a check of its own");
    assert_eq!((health.status, &found["ok"]), (200, &Value::Bool(false)), "{found}");
    let error = found["error"].as_str().expect("words");
    assert!(error.ends_with(", and is found unhealthy: look at the server"), "{error}");
}

/// A server of the modern era has no `ping`, and is not asked for one: its first check is as good as the others.
#[tokio::test]
async fn a_server_of_the_modern_era_is_well_from_its_first_check_on() {
    let recorder = Recorder::scripted(|seen| match &*seen.rpc() {
        "initialize" | "ping" => {
            let error = message::error(seen.id(), -32601, "Method not found");
            Some(Reply::refused(404, error))
        }
        _ => None,
    })
    .await;
    let settings = format!(
        r#"{{ url: "{}", health: {{ interval: 500ms, checks: [ {{ type: ping }} ] }} }}"#,
        recorder.url()
    );
    let _gateway = Setup::new().server("main", &settings).start().await;
    let is_check = |seen: &Seen| seen.rpc() == "server/discover";
    // Its session is opened with the first.
    recorder.wait_for("a second check", 3, is_check).await;
    assert!(recorder.rpc("ping").is_empty());
}

/// It is there, and says when it wants to be asked again: neither well nor ill, and it is left alone until then.
#[tokio::test]
async fn a_check_that_is_asked_to_come_later_says_nothing_and_does() {
    let is_busy = Arc::new(AtomicBool::new(false));
    let busy = Arc::clone(&is_busy);
    let recorder = Recorder::scripted(move |seen| {
        let later = vec![("Retry-After".to_owned(), "3600".to_owned())];
        let asks = seen.rpc() == "ping" && busy.load(Ordering::Relaxed);
        asks.then(|| Reply::Json(429, later, String::new()))
    })
    .await;
    let settings = format!(
        r#"{{ url: "{}", health: {{ interval: 500ms, retries: 0, checks: [ {{ type: ping }} ] }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let verdict = r#"holdfast_control_instance_verdict{server="main",instance="1"}"#;
    gateway.wait_metric(verdict, |it| it == 0.0).await;
    is_busy.store(true, Ordering::Relaxed);
    let asked = |recorder: &Recorder| recorder.rpc("ping").len();
    let shown = within("it is shown", async {
        loop {
            let body = get(gateway.admin, "/health").await.json();
            let ping = check(&body, "server:main/ping").clone();
            if ping.get("detail").is_some() {
                return ping;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let told = shown["detail"].as_str().expect("words");
    assert!(shown["ok"] == true && told.starts_with("it asks for fewer calls, for "), "{shown}");
    let before = asked(&recorder);
    // Some rounds go by.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(asked(&recorder), before, "it is asked all the same");
    assert_eq!(gateway.metric(verdict).await, 0.0, "it was found well");
}

/// What was started again with sessions knows nobody who brings none.
#[tokio::test]
async fn a_server_that_comes_to_have_sessions_is_asked_on_one() {
    for status in [400, 404] {
        let has_sessions = Arc::new(AtomicBool::new(false));
        let has = Arc::clone(&has_sessions);
        let recorder = Recorder::scripted(move |seen| {
            let brings_one = seen.header("mcp-session-id").is_some();
            match (&*seen.rpc(), has.load(Ordering::Relaxed)) {
                ("initialize", false) => Some(Reply::json(message::result(
                    seen.id(),
                    r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"r","version":"1"}}"#,
                ))),
                ("initialize", true) => None,
                (_, true) if !brings_one => Some(Reply::refused(status, "who?".to_owned())),
                ("ping", _) => Some(Reply::json(message::result(seen.id(), "{}"))),
                _ => None,
            }
        })
        .await;
        let settings = format!(
            r#"{{ url: "{}", health: {{ interval: 500ms, checks: [ {{ type: ping }} ] }} }}"#,
            recorder.url()
        );
        let _gateway = Setup::new().server("main", &settings).start().await;
        let with = |seen: &Seen, session| {
            seen.rpc() == "ping" && seen.header("mcp-session-id").is_some() == session
        };
        recorder.wait_for("a check without a session", 2, |seen| with(seen, false)).await;
        has_sessions.store(true, Ordering::Relaxed);
        recorder.wait_for("a check with one", 2, |seen| with(seen, true)).await;
    }
}
