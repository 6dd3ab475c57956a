//! How a node says that it is not well itself, with limits that any node is beyond, and what the others make
//! of it.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::control::ALL;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::process::binary;
use crate::harness::recorder::Recorder;
use crate::harness::wire::Conn;
use crate::harness::{TempDir, within};

async fn ask(gateway: &Gateway, path: &str) -> (u16, Value) {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.admin);
    let answer = Conn::open(gateway.admin).await.exchange(request).await;
    (answer.status, answer.json())
}

/// Waits until the check of this name fails, and gives back status and body.
async fn failing(gateway: &Gateway, name: &str) -> (u16, Value, Value) {
    within(name, async {
        loop {
            let (status, body) = ask(gateway, "/health/ready").await;
            let checks = body["checks"].as_array().cloned().unwrap_or_default();
            let check = checks.into_iter().find(|it| it["name"] == name && it["ok"] == false);
            if let Some(check) = check {
                return (status, body, check);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// Too many connections are a matter for people: everybody hears of them, and the node stays.
#[tokio::test]
async fn a_level_is_in_health_metrics_nodes_and_the_record_and_goes_again() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url())
        .section("node: { health: { connections: [1, 2, 1000] } }")
        .start()
        .await;
    let open = [Conn::open(gateway.address).await, Conn::open(gateway.address).await];
    let (status, body, check) = failing(&gateway, "node:connections").await;
    assert_eq!((status, body["status"].as_str()), (200, Some("degraded")), "{body}");
    let error = check["error"].as_str().expect("why");
    assert!(error.contains("critical (warning 1, critical 2, emergency 1000)"), "{check}");
    let level = r#"holdfast_control_node_level{reading="connections"}"#;
    assert_eq!(gateway.metric(level).await, 2.0);
    let admin = gateway.admin.to_string();
    let output = Command::new(binary()).args(["nodes", "--admin", &admin, "-o", "json"]).output();
    let nodes: Value = serde_json::from_slice(&output.expect("the binary").stdout).expect("JSON");
    // The machine's processors may be worse off: it runs other tests.
    let health = nodes["nodes"][0]["health"].as_str();
    assert!(matches!(health, Some("critical" | "emergency")), "{nodes}");
    let (_, record) = within("the record", async {
        loop {
            let (status, record) = ask(&gateway, "/api/audit").await;
            if record.to_string().contains("node health: holdfast is ") {
                return (status, record);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(record["events"][0]["text"].as_str().is_some(), "{record}");
    drop(open);
    gateway.wait_metric(level, |level| level == 0.0).await;
}

/// A node alone that is about to fail is better than none.
#[tokio::test]
async fn a_node_alone_stays_ready_without_memory() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url())
        .section("node: { health: { memory: [0.0001, 0.0002, 0.0003] } }")
        .start()
        .await;
    let (status, body, check) = failing(&gateway, "node:memory").await;
    assert_eq!(
        (status, &body["status"], &check["critical"]),
        (200, &"degraded".into(), &false.into())
    );
    assert_eq!(gateway.metric("holdfast_control_node_aside").await, 0.0);
}

/// The coordinator of three is about to fail: another one coordinates, and it takes no new traffic, while what it
/// has goes on.
#[tokio::test]
async fn a_coordinator_without_memory_hands_over_and_steps_aside() {
    let recorder = Recorder::start().await;
    // Each node is beyond the limits that bear its own number, and has those of a node that is well else.
    let mut setup = Setup::http(&recorder.url()).node("health: { memory: [0.97, 0.98, 0.99] }");
    for at in ALL {
        for (limit, value) in [("W", "0.0001"), ("C", "0.0002"), ("E", "0.0003")] {
            setup = setup.variable(at, &format!("OF_{}_{limit}", at + 1), value);
        }
    }
    let cluster = setup.section("reload: { watch: false }").cluster().await;
    let ill = cluster.coordinator().await;
    let others: Vec<usize> = ALL.into_iter().filter(|at| *at != ill).collect();
    let session = cluster.client(ill).initialized().await;
    let number = ill + 1;
    let of = |limit: &str, well: &str| format!("\"${{OF_{number}_{limit}:-{well}}}\"");
    let limits = [of("W", "0.97"), of("C", "0.98"), of("E", "0.99")].join(", ");
    cluster[others[0]].rewrite("0.97, 0.98, 0.99", &limits);
    cluster[others[0]].hang_up();
    let level = r#"holdfast_control_node_level{reading="memory"}"#;
    within("its level", async {
        while cluster[ill].metric(level).await != 3.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    cluster.sees(others[0], ill, "in an emergency", |it| it["health"] == "emergency").await;
    cluster.coordinator_but(ill).await;
    cluster[ill].readiness_becomes(503).await;
    for at in others {
        cluster[at].becomes_ready().await;
        assert_eq!(cluster[at].metric(level).await, 0.0);
    }
    assert_eq!(cluster[ill].readiness().await, Some(503));
    let answer = session.call(1, "tool").await;
    assert!(answer.get("result").is_some(), "{answer}");
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_told_of() {
    let folder = TempDir::new();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
    params.not_after = (std::time::SystemTime::now() + Duration::from_secs(3 * 86_400)).into();
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = params.self_signed(&key).expect("a certificate");
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("write a key");
    std::fs::write(folder.join("cert.pem"), made.pem()).expect("write a certificate");
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url())
        .tls(&folder.join("cert.pem"), &folder.join("key.pem"))
        .start()
        .await;
    let (status, _, check) = failing(&gateway, "node:certificate_expiry").await;
    assert_eq!(status, 200);
    let error = check["error"].as_str().expect("why");
    assert!(error.contains("days until a certificate ends: critical"), "{check}");
    let days =
        gateway.metric(r#"holdfast_control_node_reading{reading="certificate_expiry"}"#).await;
    assert!((2.9..=3.0).contains(&days), "{days}");
}
