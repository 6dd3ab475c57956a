//! The admin port in front of a control plane that only exists here.

use futures_util::future::BoxFuture;
use holdfast_control::{
    EventView, Force, IncidentView, InstanceView, Operated, Order, OrderError, ServerView,
};
use http::StatusCode;

use super::*;
use crate::api::BreakerActionDto;

/// One server that can move; its orders are kept.
#[derive(Default)]
struct Plane {
    ordered: Mutex<Vec<Order>>,
}

impl Operated for Plane {
    fn servers(&self) -> Vec<ServerView> {
        let instance = InstanceView {
            id: "a".to_owned(),
            role: Some("primary"),
            region: Some("east".to_owned()),
            verdict: "degraded",
            votes: "3 of 3 nodes voted".to_owned(),
            score: Some(2.0 / 3.0),
            why: vec!["ping: timed out".to_owned()],
            breaker: "closed",
            in_flight: 7,
            ..InstanceView::default()
        };
        vec![ServerView {
            name: "github".to_owned(),
            verdict: "degraded",
            active: Some("a".to_owned()),
            phase: Some("primary_active"),
            since: Some(1_700_000_000_500),
            generation: 2,
            instances: vec![instance],
            ..ServerView::default()
        }]
    }

    fn events(&self, limit: usize) -> Vec<EventView> {
        let line = |index| EventView {
            index,
            at: 1_700_000_000_000 + index,
            server: "github".to_owned(),
            instance: "a".to_owned(),
            kind: "verdict",
            text: "a is degraded, was healthy".to_owned(),
        };
        [1, 2, 3].into_iter().skip(3_usize.saturating_sub(limit)).map(line).collect()
    }

    fn incidents(&self) -> Vec<IncidentView> {
        vec![IncidentView {
            server: "github".to_owned(),
            instance: "a".to_owned(),
            began: 1_700_000_000_000,
            detected_ms: 900,
            decided_ms: Some(902),
            switched_ms: Some(1_150),
            recovered_ms: None,
            rto_ms: 30_000,
            objective: "open",
            tier_ms: Some(1_000),
            tier: "missed",
            unknown_writes: 3,
            in_doubt_ms: 700,
            rpo_ms: 0,
            rpo: "missed",
            sessions_moved: 40,
        }]
    }

    fn order(&self, order: Order) -> BoxFuture<'_, Result<(), OrderError>> {
        let server = order.server().to_owned();
        let known = vec!["github".to_owned()];
        let answer = match server.as_str() {
            "github" => Ok(()),
            "files" => Err(OrderError::NoSecondary { server }),
            "moving" => {
                let (to, stage) = ("b".to_owned(), "drain".to_owned());
                Err(OrderError::Running { server, to, stage })
            }
            "minority" => Err(OrderError::NoQuorum),
            "slow" => Err(OrderError::TimedOut),
            _ => Err(OrderError::UnknownServer { server, known }),
        };
        self.ordered.lock().unwrap().push(order);
        Box::pin(std::future::ready(answer))
    }

    fn render(&self, out: &mut String) {
        out.push_str("mcp_server_health{server_id=\"github\"} 0.5\n");
    }
}

async fn operated(section: Section) -> (Running, Arc<Plane>) {
    let plane = Arc::new(Plane::default());
    let operated: Arc<dyn Operated> = plane.clone();
    let node = Running::start_with(Fake::new(), section, |admin| admin.operated(operated)).await;
    (node, plane)
}

#[tokio::test]
async fn servers_are_shown_with_what_was_agreed_on_about_them() {
    let (node, _) = operated(Section::default()).await;
    let servers = node.client(None).servers().await.unwrap().servers;
    let [github, files] = servers.as_slice() else { panic!("{servers:?}") };
    assert_eq!(files.control, None);
    let control = github.control.as_ref().unwrap();
    assert_eq!((control.verdict.as_str(), control.active.as_deref()), ("degraded", Some("a")));
    assert_eq!((control.phase.as_deref(), control.generation), (Some("primary_active"), 2));
    assert_eq!(control.since_unix_s, Some(1_700_000_000));
    let [it] = control.instances.as_slice() else { panic!("{control:?}") };
    assert_eq!((it.role.as_deref(), it.region.as_deref()), (Some("primary"), Some("east")));
    assert_eq!((it.score, it.in_flight, it.breaker.as_str()), (Some(0.667), 7, "closed"));
    let events = node.client(None).audit(2).await.unwrap().events;
    assert_eq!(events.iter().map(|it| it.index).collect::<Vec<_>>(), [2, 3]);
    let incidents = node.client(None).incidents().await.unwrap().incidents;
    assert_eq!((incidents[0].switched_ms, incidents[0].recovered_ms), (Some(1_150), None));
    let it = &incidents[0];
    assert_eq!((it.unknown_writes, it.in_doubt_ms, it.sessions_moved), (3, 700, 40));
    assert_eq!((it.rpo_ms, it.rpo.as_deref()), (Some(0), Some("missed")));
    let metrics = node.get("/metrics").await;
    assert!(metrics.contains("\nmcp_server_health{server_id=\"github\"} 0.5\n"), "{metrics}");
    node.stop().await;
}

#[tokio::test]
async fn orders_are_passed_on_and_refusals_say_why() {
    let (node, plane) = operated(Section::default()).await;
    let client = node.client(None);
    let ordered = client.failover("github", Some("a"), false).await.unwrap();
    assert_eq!((ordered.server.as_str(), ordered.control.generation), ("github", 2));
    client.failback("github", false).await.unwrap();
    client.failover("github", Some("a"), true).await.unwrap();
    client.failback("github", true).await.unwrap();
    client.breaker("github", Some("a"), BreakerActionDto::Close).await.unwrap();
    client.breaker_of_tool("github", "write", BreakerActionDto::Open).await.unwrap();
    let server = || "github".to_owned();
    let expected = [
        Order::FailOver { server: server(), to: Some("a".to_owned()) },
        Order::FailBack { server: server() },
        Order::ForceOver { server: server(), to: "a".to_owned() },
        Order::BackAtOnce { server: server() },
        Order::Breaker { server: server(), instance: Some("a".to_owned()), force: Force::Closed },
        Order::ToolBreaker { server: server(), tool: "write".to_owned(), force: Force::Open },
    ];
    assert_eq!(*plane.ordered.lock().unwrap(), expected);
    let error = client.failover("github", None, true).await.unwrap_err();
    assert!(error.to_string().contains("force needs to"), "{error}");
    for (server, expected, words) in [
        ("gihtub", StatusCode::NOT_FOUND, "did you mean github?"),
        ("files", StatusCode::CONFLICT, "files has no secondary"),
        ("moving", StatusCode::CONFLICT, "on its way to b already (drain)"),
        ("minority", StatusCode::SERVICE_UNAVAILABLE, "no quorum"),
        ("slow", StatusCode::GATEWAY_TIMEOUT, "may be done yet"),
    ] {
        let error = client.failover(server, None, false).await.unwrap_err();
        let ClientError::Refused { status, said, .. } = error else { panic!("{error:?}") };
        assert_eq!(status, expected, "{server}: {said}");
        assert!(said.contains(words), "{said}");
    }
    node.stop().await;
}

#[tokio::test]
async fn only_who_may_can_order() {
    let (node, plane) = operated(with_token()).await;
    let error = node.client(None).failover("github", None, false).await.unwrap_err();
    assert!(matches!(error, ClientError::Unauthorized { .. }), "{error:?}");
    // What a page of another site could send: no JSON by its content type.
    for path in ["/api/failover", "/api/failback", "/api/breaker"] {
        let answer = node
            .raw(&format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Authorization: Bearer 0123456789abcdef\r\nContent-Type: text/plain\r\n\
                 Content-Length: 19\r\n\r\n{{\"server\":\"github\"}}"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 415 "), "{path}: {answer}");
    }
    assert_eq!(plane.ordered.lock().unwrap().len(), 0);
    node.stop().await;
}

#[tokio::test]
async fn a_node_without_its_control_plane_says_that_it_starts() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let error = node.client(None).incidents().await.unwrap_err();
    let ClientError::Refused { status, said, .. } = error else { panic!("{error:?}") };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    node.stop().await;
}
