//! What a server's health calls for: what is left out while it is poorly, what its own readings and a
//! monitor outside of the cluster change, and who is alarmed.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::process::binary;
use crate::harness::recorder::{Gate, Recorder, Reply};
use crate::harness::sample::Sample;
use crate::harness::wire::Conn;
use crate::harness::within;

use super::url;

/// Checks as often as they may be.
const OFTEN: &str = "interval: 500ms, timeout: 500ms, retries: 0";

/// The text of the series `load`, as it is now.
fn tells(load: &AtomicU32) -> Reply {
    let text = format!("load {}\n", load.load(Ordering::Relaxed));
    Reply::Json(200, Vec::new(), text)
}

async fn asked(gateway: &Gateway, address: std::net::SocketAddr, path: &str) -> Value {
    let host = gateway.admin;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    serde_json::from_str(&Conn::open(address).await.exchange(request).await.text()).expect("JSON")
}

/// A check of `/health`.
async fn check(gateway: &Gateway, name: &str) -> Value {
    let health = asked(gateway, gateway.admin, "/health").await;
    let checks = health["checks"].as_array().expect("checks");
    checks.iter().find(|it| it["name"] == name).cloned().unwrap_or_default()
}

fn servers(gateway: &Gateway) -> String {
    let output = Command::new(binary())
        .args(["servers", "--admin", &gateway.admin.to_string()])
        .output()
        .expect("start the binary");
    String::from_utf8(output.stdout).expect("text")
}

/// At 55 of 100 background calls have a quarter of their room, Reads are answered from what is kept,
/// and everybody else is served; when it is well again, so is all of that.
#[tokio::test]
async fn a_server_that_is_poorly_is_spared_what_can_be_left_out() {
    let load = Arc::new(AtomicU32::new(0));
    let gate = Gate::new();
    let (now, held) = (Arc::clone(&load), gate.clone());
    let recorder = Recorder::scripted(move |seen| match (&*seen.target, &*seen.tool()) {
        ("/load", _) => Some(tells(&now)),
        (_, "report") => {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[],"resultType":"complete"}}}}"#,
                seen.id()
            );
            Some(Reply::after(&held, Reply::json(body)))
        }
        _ => None,
    })
    .await;
    let settings = format!(
        r#"{{ url: "{}", tools: {{ echo: read, report: {{ class: background }} }},
            fallback: {{ cache: {{ ttl: 5m }} }}, health: {{ {OFTEN}, checks: [
              {{ type: ping }},
              {{ type: metric, path: /load, metric: load, good: 0, bad: 100 }} ] }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new()
        .server("main", &settings)
        .section("bulkheads: { background: { concurrency: 4 } }")
        .start()
        .await;
    let client = Client::modern(&gateway);
    let first = client.call(1, "echo").await;
    assert!(first.get("result").is_some(), "{first}");
    let measure = r#"holdfast_server_measure{server_id="main"}"#;
    load.store(90, Ordering::Relaxed);
    gateway.wait_metric(measure, |measure| measure == 2.0).await;
    let verdict = check(&gateway, "server:main/verdict").await;
    let says = verdict["detail"].as_str().unwrap_or_default();
    assert!(says.starts_with("degraded, 55 of 100 (poor); degrade: background"), "{verdict}");
    let shown = servers(&gateway);
    assert!(shown.contains("55 poor"), "{shown}");

    let kept = client.call(2, "echo").await;
    assert_eq!(kept["result"]["_meta"]["io.holdfast/fallback"]["kind"], "cached", "{kept}");
    assert_eq!(recorder.calls("echo").len(), 1);
    let one = tokio::spawn({
        let client = client.clone();
        async move { client.call(3, "report").await }
    });
    within("the first report", async {
        while recorder.calls("report").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let refused = client.call(4, "report").await;
    assert_eq!(refused["error"]["code"], -31003, "{refused}");
    assert_eq!(refused["error"]["data"]["mayHaveRun"], false, "{refused}");
    assert!(refused["error"]["data"]["retryAfterMs"].as_u64().is_some(), "{refused}");
    let reason = refused["error"]["data"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("health.measures.degrade"), "{refused}");
    let count = r#"holdfast_refused_total{server_id="main",reason="degraded"}"#;
    assert_eq!(gateway.metric(count).await, 1.0);
    let served = client.call(5, "tool").await;
    assert!(served.get("result").is_some(), "what people wait for goes on: {served}");

    load.store(0, Ordering::Relaxed);
    gateway.wait_metric(measure, |measure| measure == 0.0).await;
    gate.open();
    let reports = [one.await.expect("no panic"), client.call(6, "report").await];
    assert!(reports.iter().all(|it| it.get("result").is_some()), "{reports:?}");
    let asked = client.call(7, "echo").await;
    assert!(asked["result"]["_meta"]["io.holdfast/fallback"].is_null(), "{asked}");
    assert_eq!(recorder.calls("echo").len(), 2);
}

/// A busy processor takes off what its weight says, is shown, and makes nobody ill by itself.
#[tokio::test]
async fn readings_of_an_instances_own_resources_count() {
    let load = Arc::new(AtomicU32::new(97));
    let now = Arc::clone(&load);
    let recorder =
        Recorder::scripted(move |seen| (seen.target == "/load").then(|| tells(&now))).await;
    let settings = format!(
        r#"{{ url: "{}", health: {{ {OFTEN}, checks: [ {{ type: ping }},
              {{ type: cpu, path: /load, metric: load, full: 100 }} ] }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let health = r#"holdfast_instance_health{server_id="main",instance="1"}"#;
    // 0.3 of the way from 90 to 100 is left: 0.7 of 0.2 of 1.2 are lost, and a tenth of that in the vote.
    gateway.wait_metric(health, |health| (0.83..0.87).contains(&health)).await;
    let calls = check(&gateway, "server:main/calls").await;
    assert_eq!(calls["detail"], "88 of 100, by its cpu of 97 %", "{calls}");
    assert_eq!(calls["ok"], true, "{calls}");
    let cpu = check(&gateway, "server:main/cpu").await;
    assert_eq!(cpu["detail"], "97 % used", "{cpu}");
    let verdict = r#"holdfast_control_instance_verdict{server="main",instance="1"}"#;
    assert_eq!(gateway.metric(verdict).await, 0.0);
}

/// A monitor's word makes an instance degraded and moves nothing; without a word all is as before.
#[tokio::test]
async fn a_monitor_outside_is_one_voice() {
    let (a, b) = (Sample::start(&["--name", "a"]).await, Sample::start(&["--name", "b"]).await);
    let monitor = Recorder::scripted(|seen| match &*seen.target {
        "/probe?of=main.b" => Some(Reply::Status(200)),
        "/probe?of=main.a" => Some(Reply::Status(503)),
        _ => None,
    })
    .await;
    let settings = format!(
        r#"{{ instances: [ {{ id: a, role: primary, url: "{}" }}, {{ id: b, role: secondary, url: "{}" }} ],
            health: {{ {OFTEN}, checks: [ {{ type: ping }}, {{ type: http, name: monitor, external: true,
              url: "http://{}/probe?of={{server}}.{{instance}}" }} ] }} }}"#,
        url(&a),
        url(&b),
        monitor.address
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let verdict =
        |id: &str| format!(r#"holdfast_control_instance_verdict{{server="main",instance="{id}"}}"#);
    gateway.wait_metric(&verdict("a"), |it| it == 1.0).await;
    gateway.wait_metric(&verdict("b"), |it| it == 0.0).await;
    let shown = check(&gateway, "server:main/a/verdict").await;
    assert_eq!(shown["detail"], "degraded, 80 of 100 (good)", "{shown}");
    let said = check(&gateway, "server:main/a/monitor").await;
    assert_eq!(said["ok"], false, "{said}");
    // Its word is believed, and has been acted on if it ever is.
    let seen = asked(&gateway, gateway.admin, "/api/servers").await;
    let control = &seen["servers"][0]["control"];
    assert_eq!((&control["active"], &control["phase"]), (&"a".into(), &"primary_active".into()));
    assert_eq!(control["generation"], 0, "{control}");
    drop(monitor);
    gateway.wait_metric(&verdict("a"), |it| it == 0.0).await;
    let said = check(&gateway, "server:main/a/monitor").await;
    let detail = said["detail"].as_str().unwrap_or_default();
    assert!(said["ok"] == true && detail.starts_with("it says nothing: "), "{said}");
}

/// Below 20 there is a line in the record, once.
#[tokio::test]
async fn an_emergency_is_in_the_record() {
    let mut sample = Sample::start(&[]).await;
    let settings = format!(
        r#"{{ url: "{}", health: {{ {OFTEN}, checks: [ {{ type: ping }} ] }} }}"#,
        url(&sample)
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let measure = r#"holdfast_server_measure{server_id="main"}"#;
    let verdict = r#"holdfast_control_instance_verdict{server="main",instance="1"}"#;
    gateway.wait_metric(verdict, |it| it == 0.0).await;
    sample.kill();
    gateway.wait_metric(measure, |measure| measure == 4.0).await;
    let alarms = async || {
        let record = asked(&gateway, gateway.admin, "/api/audit").await;
        let lines = record["events"].as_array().cloned().unwrap_or_default();
        let text = |it: &Value| it["text"].as_str().unwrap_or_default().to_owned();
        lines.iter().map(text).filter(|it| it.starts_with("emergency: ")).collect::<Vec<_>>()
    };
    within("the alarm", async {
        while alarms().await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(alarms().await, ["emergency: 1 has 0 of 100, bad"]);
}
