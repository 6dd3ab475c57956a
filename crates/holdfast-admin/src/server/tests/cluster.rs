//! The admin port of a node in a cluster that only exists here.

use futures_util::future::BoxFuture;
use holdfast_engine::replicated::MemberState;
use http::StatusCode;

use super::*;
use crate::cluster::{ClusterView, DrainError, Draining, Figures, Load, NodeView, Role};

/// Three nodes: one leads, one follows, one has never been there. The names that were to be drained
/// are kept.
#[derive(Default)]
struct Trio {
    drained: Mutex<Vec<String>>,
    quorum: bool,
    stuck: bool,
}

impl Nodes for Trio {
    fn nodes(&self) -> BoxFuture<'_, ClusterView> {
        if self.stuck {
            return Box::pin(std::future::pending());
        }
        let node = |name: &str, role, state, load| NodeView {
            name: name.to_owned(),
            id: Some(0xff),
            role,
            term: Some(4),
            state,
            generation: u64::from(state.is_some()),
            commit_lag: Some(0),
            last_heard: Some(Duration::from_millis(1500)),
            load,
            version: "0.1.0".to_owned(),
            client: "10.0.0.1:37373".to_owned(),
            admin: String::new(),
        };
        let load = Some(Load { sessions: 250, in_flight: 1, level: Some(Level::Critical) });
        let view = ClusterView {
            me: "gateway-1".to_owned(),
            has_quorum: self.quorum,
            leader: Some("gateway-2".to_owned()),
            term: 4,
            nodes: vec![
                node("gateway-1", Some(Role::Follower), Some(MemberState::Ready), load),
                node("gateway-2", Some(Role::Leader), Some(MemberState::Draining), None),
                node("gateway-3", None, None, None),
            ],
        };
        Box::pin(std::future::ready(view))
    }

    fn drain<'a>(
        &'a self,
        node: &'a str,
        force: bool,
    ) -> BoxFuture<'a, Result<Draining, DrainError>> {
        let answer = match node {
            _ if !self.quorum => Err(DrainError::NoQuorum),
            "gateway-5" if !force => {
                Err(DrainError::Majority { node: node.to_owned(), ready: 1, all: 3 })
            }
            "gateway-1" | "gateway-2" => {
                self.drained.lock().unwrap().push(node.to_owned());
                Ok(Draining { generation: 1, deadline: Duration::from_secs(30) })
            }
            "gateway-3" => Err(DrainError::Gone { node: node.to_owned(), state: "left" }),
            "gateway-4" => Err(DrainError::TimedOut),
            _ => {
                let known = vec!["gateway-1".to_owned(), "gateway-2".to_owned()];
                Err(DrainError::Unknown { node: node.to_owned(), known })
            }
        };
        Box::pin(std::future::ready(answer))
    }

    fn figures(&self) -> Figures {
        Figures { leader: true, term: 4, ready: 1, draining: 1, ..Figures::default() }
    }
}

async fn clustered(trio: Trio, section: Section) -> (Running, Arc<Trio>) {
    let trio = Arc::new(trio);
    let nodes: Arc<dyn Nodes> = trio.clone();
    let running = Running::start_with(Fake::new(), section, |admin| admin.clustered(nodes)).await;
    (running, trio)
}

fn healthy() -> Trio {
    Trio { quorum: true, ..Trio::default() }
}

#[tokio::test]
async fn nodes_are_shown_as_this_one_sees_them() {
    let (node, _) = clustered(healthy(), Section::default()).await;
    let nodes = node.client(None).nodes().await.unwrap();
    assert!(nodes.clustered);
    assert_eq!((nodes.quorum, nodes.term), (Some(true), Some(4)));
    assert_eq!(nodes.leader.as_deref(), Some("gateway-2"));
    let [one, two, three] = nodes.nodes.as_slice() else { panic!("{nodes:?}") };
    assert_eq!((one.role.as_str(), one.state.as_str()), ("follower", "ready"));
    assert_eq!((one.sessions, one.in_flight), (Some(250), Some(1)));
    assert_eq!(one.health.as_deref(), Some("critical"));
    assert_eq!(one.id.as_deref(), Some("00000000000000ff"));
    assert_eq!(one.last_heard_ms, Some(1500));
    assert_eq!((two.role.as_str(), two.state.as_str()), ("leader", "draining"));
    assert_eq!((two.sessions, two.in_flight, &two.health), (None, None, &None));
    assert_eq!((three.role.as_str(), three.state.as_str()), ("unknown", "absent"));
    // The status, and with it the page's feed, has the same.
    assert_eq!(node.client(None).status().await.unwrap().cluster, Some(nodes));
    node.stop().await;
}

#[tokio::test]
async fn one_node_alone_says_so() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let nodes = node.client(None).nodes().await.unwrap();
    assert!(!nodes.clustered);
    assert_eq!(nodes.me, "gateway-1");
    let [only] = nodes.nodes.as_slice() else { panic!("{nodes:?}") };
    assert_eq!((only.name.as_str(), only.role.as_str()), ("gateway-1", "alone"));
    assert_eq!((only.state.as_str(), only.sessions), ("ready", Some(250)));
    assert_eq!(only.client, "127.0.0.1:37373");
    assert!(node.client(None).status().await.unwrap().cluster.is_none());
    let ClientError::Refused { status, said, .. } =
        node.client(None).drain("gateway-1", false).await.unwrap_err()
    else {
        panic!("not refused")
    };
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(said.contains("runs alone"), "{said}");
    assert!(!node.get("/metrics").await.contains("holdfast_cluster_"));
    node.stop().await;
}

#[tokio::test]
async fn a_node_is_drained_by_its_name() {
    let (node, trio) = clustered(healthy(), Section::default()).await;
    let draining = node.client(None).drain("gateway-2", false).await.unwrap();
    assert_eq!((draining.node.as_str(), draining.generation), ("gateway-2", 1));
    assert_eq!(draining.deadline_ms, 30_000);
    for (name, expected, words) in [
        ("gateway-9", StatusCode::NOT_FOUND, "there are gateway-1, gateway-2"),
        ("gateway-3", StatusCode::CONFLICT, "gateway-3 is left already"),
        ("gateway-4", StatusCode::GATEWAY_TIMEOUT, "may drain yet"),
        ("gateway-5", StatusCode::CONFLICT, "without gateway-5 1 of 3 nodes are ready"),
    ] {
        match node.client(None).drain(name, false).await.unwrap_err() {
            ClientError::Refused { status, said, .. } => {
                assert_eq!(status, expected);
                assert!(said.contains(words), "{said}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(*trio.drained.lock().unwrap(), ["gateway-2"]);
    node.stop().await;

    let (node, trio) = clustered(Trio::default(), Section::default()).await;
    let error = node.client(None).drain("gateway-2", false).await.unwrap_err();
    assert!(error.to_string().contains("no quorum"), "{error}");
    assert!(trio.drained.lock().unwrap().is_empty());
    node.stop().await;
}

#[tokio::test]
async fn only_who_may_can_drain() {
    let (node, trio) = clustered(healthy(), with_token()).await;
    for token in [None, Some("0123456789abcdeX")] {
        let error = node.client(token).drain("gateway-2", false).await.unwrap_err();
        assert!(matches!(error, ClientError::Unauthorized { .. }), "{error:?}");
    }
    let body = r#"{"node":"gateway-2"}"#;
    let post = async |more: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "POST /api/drain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer 0123456789abcdef\r\nContent-Length: {length}\r\n{more}\r\n{body}"
        );
        node.raw(&request).await
    };
    let json = "Content-Type: application/json\r\n";
    // What a page of another site can send unasked: forms and text.
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let answer = post(&format!("Content-Type: {kind}\r\n"), body).await;
        assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
    }
    assert!(post("", body).await.starts_with("HTTP/1.1 415"));
    let foreign = post(&format!("{json}Origin: https://evil.example\r\n"), body).await;
    assert!(foreign.starts_with("HTTP/1.1 403"), "{foreign}");
    for wrong in ["", "{}", "[]", r#"{"node":"gateway-2","hurry":true}"#] {
        let answer = post(json, wrong).await;
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("error"), "{wrong}: {answer}");
    }
    let large = format!(r#"{{"node":"{}"}}"#, "x".repeat(5_000));
    assert!(post(json, &large).await.starts_with("HTTP/1.1 413"));
    assert!(node.get("/api/drain").await.starts_with("HTTP/1.1 401"));
    assert!(trio.drained.lock().unwrap().is_empty(), "something was drained");

    assert!(post(json, body).await.starts_with("HTTP/1.1 202"));
    assert_eq!(*trio.drained.lock().unwrap(), ["gateway-2"]);
    node.stop().await;
}

#[tokio::test]
async fn the_metrics_have_the_clusters_behind_the_others() {
    let (node, _) = clustered(healthy(), Section::default()).await;
    let metrics = node.get("/metrics").await;
    assert!(metrics.contains("holdfast_build_info"), "{metrics}");
    assert!(metrics.contains("\nholdfast_cluster_term 4\n"), "{metrics}");
    assert!(metrics.contains("holdfast_cluster_members{state=\"draining\"} 1\n"), "{metrics}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_does_not_say_how_it_is_does_not_hide_the_node() {
    let (node, _) = clustered(Trio { stuck: true, ..healthy() }, Section::default()).await;
    let answer = node.get("/api/nodes").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    let status = node.get("/api/status").await;
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    assert!(!status.contains("\"cluster\""), "{status}");
    node.stop().await;
}
