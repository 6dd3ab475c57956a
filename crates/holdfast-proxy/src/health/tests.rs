//! The checks against real sockets and commands of this machine.

use std::time::SystemTime;

use holdfast_config::{HttpUrl, Instance};
use holdfast_engine::health::node::Level;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::metrics::Metrics;
use crate::report::{ConfigSummary, Listener, SessionPage, Usage};

fn report() -> Report {
    let gauged = Gauged { now: 1, limit: 10 };
    Report {
        node: "gateway-1".to_owned(),
        version: "0.1.0".to_owned(),
        started: SystemTime::UNIX_EPOCH,
        uptime: Duration::from_secs(90),
        state: NodeState::Ready,
        level: Level::Normal,
        listeners: vec![Listener {
            name: "client",
            address: "127.0.0.1:37373".to_owned(),
            tls: false,
            accepting: true,
        }],
        usage: Usage { connections: gauged, sessions: gauged, streams: gauged, in_flight: gauged },
        servers: Vec::new(),
        config: ConfigSummary::default(),
    }
}

fn http(instances: &[(&str, u16)]) -> Server {
    let instances = instances
        .iter()
        .map(|&(id, port)| {
            let (host, path) = ("127.0.0.1".to_owned(), "/mcp".to_owned());
            Instance::new(id, HttpUrl { tls: false, host, port, path })
        })
        .collect();
    Server::new(Transport::Http { instances })
}

fn nothing(_: &str) -> Vec<Check> {
    Vec::new()
}

fn checker(servers: Vec<(&str, Server)>) -> Checker {
    Checker::new(&servers.into_iter().map(|(name, s)| (name.to_owned(), s)).collect())
}

/// A port that nothing listens on: bound once and given back.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn well() -> Result<(), Trouble> {
    Ok(())
}

fn find<'a>(health: &'a Health, name: &str) -> &'a Check {
    health.checks.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[tokio::test]
async fn a_well_node_is_ready_and_says_what_it_checked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let checker = checker(vec![
        ("web", http(&[("a", port)])),
        ("files", Server::new(Transport::Stdio(Stdio::new("sh")))),
    ]);
    let health = checker.ready(&report(), well(), &[], nothing).await;
    assert_eq!(health.verdict, Verdict::Ready, "{health:?}");
    let names: Vec<&str> = health.checks.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["listener", "session_store", "capacity", "server:files", "server:web"]);
    let text = health.to_json();
    assert!(text.starts_with(r#"{"status":"ready""#), "the verdict comes first: {text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["node"], "gateway-1");
    assert!(body["checks"][3]["response_time_ms"].is_f64(), "{body}");
}

#[tokio::test]
async fn a_dead_server_degrades_and_does_not_unready_the_node() {
    let port = closed_port().await;
    let checker = checker(vec![("web", http(&[("a", port)]))]);
    let health = checker.ready(&report(), well(), &[], nothing).await;
    assert_eq!((health.verdict, health.status()), (Verdict::Degraded, StatusCode::OK));
    let check = find(&health, "server:web");
    assert!(!check.ok && !check.critical);
    assert_eq!(check.detail.as_deref(), Some("connection refused"));
    assert!(!health.to_json().contains("127.0.0.1"), "no address without a credential");
}

#[tokio::test]
async fn one_living_instance_is_enough() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let living = listener.local_addr().unwrap().port();
    let checker = checker(vec![("web", http(&[("a", closed_port().await), ("b", living)]))]);
    let health = checker.ready(&report(), well(), &[], nothing).await;
    assert_eq!(health.verdict, Verdict::Ready);
    assert_eq!(find(&health, "server:web").detail.as_deref(), Some("a: connection refused"));
}

#[tokio::test(start_paused = true)]
async fn results_of_servers_are_kept_for_five_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let checker = checker(vec![("web", http(&[("a", listener.local_addr().unwrap().port())]))]);
    assert!(find(&checker.ready(&report(), well(), &[], nothing).await, "server:web").ok);
    drop(listener);
    tokio::time::advance(Duration::from_secs(3)).await;
    let kept = checker.ready(&report(), well(), &[], nothing).await;
    assert!(find(&kept, "server:web").ok);
    assert!(find(&kept, "server:web").age >= Duration::from_secs(3));
    tokio::time::advance(Duration::from_secs(3)).await;
    let fresh = checker.ready(&report(), well(), &[], nothing).await;
    assert!(!find(&fresh, "server:web").ok);
    assert_eq!(find(&fresh, "server:web").age, Duration::ZERO);
}

#[tokio::test]
async fn what_is_the_nodes_own_decides_over_readiness() {
    let checker = checker(Vec::new());
    let lost =
        |critical| async move { Err(Trouble { reason: "connection lost".to_owned(), critical }) };
    let health = checker.ready(&report(), lost(true), &[], nothing).await;
    assert_eq!((health.verdict, health.status().as_u16()), (Verdict::NotReady, 503));
    let body: Value = serde_json::from_str(&health.to_json()).unwrap();
    assert_eq!(body["checks"][1]["error"], "connection lost");

    // What no node has is not this node's own: it goes on, and says so.
    let health = checker.ready(&report(), lost(false), &[], nothing).await;
    assert_eq!((health.verdict, health.status().as_u16()), (Verdict::Degraded, 200));
    let body: Value = serde_json::from_str(&health.to_json()).unwrap();
    assert_eq!(body["checks"][1]["error"], "connection lost");

    let mut deaf = report();
    deaf.listeners[0].accepting = false;
    assert_eq!(checker.ready(&deaf, well(), &[], nothing).await.verdict, Verdict::NotReady);

    let mut draining = report();
    draining.state = NodeState::Draining;
    assert_eq!(checker.ready(&draining, well(), &[], nothing).await.status().as_u16(), 503);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_fails_at_the_deadline() {
    let health = checker(Vec::new()).ready(&report(), std::future::pending(), &[], nothing).await;
    assert_eq!(health.verdict, Verdict::NotReady);
    assert_eq!(find(&health, "session_store").detail.as_deref(), Some("no answer within 800 ms"));
}

#[tokio::test]
async fn a_full_node_is_degraded() {
    let mut full = report();
    full.usage.streams.now = 10;
    let health = checker(Vec::new()).ready(&full, well(), &[], nothing).await;
    assert_eq!(health.verdict, Verdict::Degraded);
    assert_eq!(find(&health, "capacity").detail.as_deref(), Some("full: 10 of 10 streams"));
}

#[test]
fn commands_are_found_as_the_system_would() {
    let path = OsString::from("/nonexistent:/bin");
    assert_eq!(find_command("sh", Some(&path), None), Ok(()));
    assert!(find_command("sh", Some(&OsString::from("/nonexistent")), None).is_err());
    assert!(find_command("sh", None, None).is_err());
    assert_eq!(find_command("/bin/sh", None, None), Ok(()));
    assert_eq!(find_command("./sh", None, Some(Path::new("/bin"))), Ok(()));
    assert_eq!(
        find_command("/etc/passwd", None, None),
        Err("the command is not executable".to_owned())
    );
    assert_eq!(
        find_command("/nonexistent/x", None, None),
        Err("the command: entity not found".to_owned())
    );
}

struct Fake(NodeState);

impl Observed for Fake {
    fn report(&self) -> Report {
        Report { state: self.0, ..report() }
    }
    fn metrics(&self) -> &Metrics {
        unreachable!("health needs no metrics")
    }
    fn draining(&self) -> bool {
        self.0 == NodeState::Draining
    }
    fn sessions(&self, _offset: usize, _limit: usize) -> SessionPage {
        SessionPage::default()
    }
    fn ready(&self) -> HealthFuture<'_> {
        let report = self.report();
        Box::pin(async move { checker(Vec::new()).ready(&report, well(), &[], nothing).await })
    }
}

#[tokio::test]
async fn a_draining_node_lives_but_is_not_ready() {
    let node = Fake(NodeState::Draining);
    let status = async |path| respond(path, &node).await.status().as_u16();
    assert_eq!(status("/health/live").await, 200);
    assert_eq!(status("/health/ready").await, 503);
    assert_eq!(status("/health").await, 503);
    assert_eq!(status("/healthz").await, 404);

    let response = respond("/health/live", &Fake(NodeState::Ready)).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!((&body["status"], &body["uptime_s"]), (&json!("live"), &json!(90)));
    assert!(body.get("checks").is_none());
}

/// What a node finds of itself is shown like any other check, and takes it away only where it says so.
#[tokio::test]
async fn a_nodes_own_readings_degrade_it_or_take_it_away() {
    for (ok, critical, expected) in [
        (true, false, Verdict::Ready),
        (false, false, Verdict::Degraded),
        (false, true, Verdict::NotReady),
    ] {
        let own = check(
            "node:memory".to_owned(),
            critical,
            Duration::ZERO,
            match ok {
                true => Ok(None),
                false => Err("95 % used".to_owned()),
            },
        );
        let health =
            checker(Vec::new()).ready(&report(), well(), std::slice::from_ref(&own), nothing).await;
        assert_eq!((health.verdict, find(&health, "node:memory")), (expected, &own));
    }
}
