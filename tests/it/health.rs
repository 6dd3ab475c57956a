//! What balancers, scrapers and operators ask.

use std::process::Command;

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::process::{binary, free_address};
use crate::harness::recorder::Recorder;
use crate::harness::wire::{Answer, Conn};

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
