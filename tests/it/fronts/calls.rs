//! What passes through: calls, streams, WebSockets, a name for each request, and an answer when no
//! node is left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::balancer::{Balancer, Kind, Nodes};
use super::{BOTH, Stack, keyed};
use crate::harness::client::Client;
use crate::harness::duplex::Duplex;
use crate::harness::message::{self, MODERN};
use crate::harness::process::free_address;
use crate::harness::recorder::{Recorder, Reply, Seen};
use crate::harness::wire::Conn;

/// What a balancer takes for a node: it is ready, and does with requests as it is told.
async fn node(script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Recorder {
    Recorder::scripted(move |seen| match seen.method.as_str() {
        "GET" => Some(Reply::Status(200)),
        _ => script(seen),
    })
    .await
}

#[tokio::test]
async fn every_transport_passes() {
    for kind in BOTH {
        let stack = Stack::streaming(kind).await;
        let client = stack.client().await;
        for id in 0..6 {
            let answer = client.call(id, "whoami").await;
            assert!(answer["result"].is_object(), "{kind:?}: {answer}");
        }
        // The session is everywhere, whichever node is asked.
        let counts: Vec<String> = [
            client.call(10, "counter").await,
            client.call(11, "counter").await,
            client.call(12, "counter").await,
        ]
        .iter()
        .map(|answer| answer["result"]["content"][0]["text"].to_string())
        .collect();
        assert_eq!(counts, ["\"1\"", "\"2\"", "\"3\""], "{kind:?}");

        // A primed stream, cut by the client and resumed on whichever node comes next.
        let mut stream = client.post(&keyed(20, "slow", "s", 300)).await.stream();
        let first = stream.next().await.expect("a primed stream");
        let id = first.id.expect("an event id");
        drop(stream);
        let mut resumed = client.get(Some(&id)).await.stream();
        let answer = resumed.find("the answer", |it| it["id"] == 20).await;
        assert!(answer["result"].is_object(), "{kind:?}: {answer}");

        let modern = Client::to(stack.balancer.address).speaking(MODERN);
        let answer = modern.post(&message::modern_call(30, "whoami")).await.response().await;
        assert!(answer["result"].is_object(), "{kind:?}: {answer}");

        for mut duplex in [
            Duplex::websocket(stack.balancer.address, "/mcp").await,
            Duplex::sse(stack.balancer.address, "/sse").await,
        ] {
            let response = duplex.ask(&message::initialize("2024-11-05")).await;
            assert!(response["result"].is_object(), "{kind:?}: {response}");
            duplex.send(&message::notification("notifications/initialized", "{}")).await;
            let answer = duplex.ask(&message::call(1, "whoami")).await;
            assert!(answer["result"].is_object(), "{kind:?}: {answer}");
        }
    }
}

/// By it a node knows that a request came before; a client's own would let one client name another's.
#[tokio::test]
async fn each_request_has_a_name_that_no_client_chooses() {
    for kind in BOTH {
        let node = node(|_| None).await;
        let balancer = Balancer::start(kind, &Nodes::at([node.address; 3])).await;
        let client = Client::to(balancer.address).with("X-Request-ID", "own");
        let opened = client.initialize().await;
        let client = client.in_session(opened.header("mcp-session-id").expect("a session"));
        client.call(1, "write").await;
        client.call(2, "write").await;
        let calls = node.rpc("tools/call");
        let names: Vec<&str> =
            calls.iter().map(|it| it.header("x-request-id").expect("a name")).collect();
        assert_eq!(names.len(), 2, "{kind:?}");
        assert!(names[0] != names[1] && names.iter().all(|it| it.len() >= 32), "{names:?}");
        for call in calls {
            let many =
                call.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id"));
            assert_eq!(many.count(), 1, "{kind:?}: {}", call.head);
            assert_eq!(call.header("host"), Some(balancer.address.to_string().as_str()));
            assert_eq!(call.header("x-forwarded-for"), Some("127.0.0.1"));
        }
    }
}

/// A 502 ends some clients for good.
#[tokio::test]
async fn without_any_node_a_call_gets_an_error_under_its_own_id() {
    for kind in BOTH {
        let nodes = [free_address(), free_address(), free_address()];
        let balancer = Balancer::start(kind, &Nodes::at(nodes)).await;
        let client = Client::to(balancer.address);
        let written = [
            (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"id":1}}"#, "7"),
            (r#"{"method":"tools/call","params":{"id":1},"jsonrpc":"2.0","id":8}"#, "8"),
            (r#"{"jsonrpc":"2.0","id":"a-9","method":"x"}"#, "\"a-9\""),
            (r#"{"id":10,"jsonrpc":"2.0","method":"x","params":{"id":1}}"#, "10"),
            (r#"{ "id": "b/11", "method":"x", "params":{"id":1}, "jsonrpc":"2.0"}"#, "\"b/11\""),
        ];
        for (body, id) in written {
            let answer = client.post(body).await.answer();
            assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text());
            assert_eq!(answer.json()["id"].to_string(), id, "{kind:?}: {}", answer.text());
            assert_eq!(answer.json()["error"]["code"], -31001);
            assert_eq!(answer.json()["error"]["data"]["mayHaveRun"], true);
        }
        // Only an id within the parameters: there is no telling whose it is.
        let answer = client.post(r#"{"method":"x","params":{"id":3},"jsonrpc":"2.0"}"#).await;
        assert!(answer.answer().status >= 502, "{kind:?}");
        // The id of an answer is the server's, and may be that of a call of the client's own.
        for answer in [
            r#"{"jsonrpc":"2.0","id":7,"result":{"id":1}}"#,
            r#"{"result":{"action":"accept"},"jsonrpc":"2.0","id":7}"#,
            r#"{"id":"a","jsonrpc":"2.0","error":{"code":-1,"message":"no"}}"#,
        ] {
            let answer = client.post(answer).await.answer();
            assert!(
                answer.status >= 502 && !answer.text().contains("\"id\":7"),
                "{kind:?}: {answer:?}"
            );
        }
        // To the first question of a modern client an error would be an answer.
        let discover = message::request(1, "server/discover", "{}");
        let mut conn = Conn::open(balancer.address).await;
        conn.send(client.clone().speaking(MODERN).request("POST", &[], Some(&discover))).await;
        let answer = conn.answer().await;
        assert!(answer.is_none_or(|it| it.status >= 502), "{kind:?}");
        // The balancer itself is well.
        let health = "GET /balancer/health HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = Conn::open(balancer.address).await.exchange(health).await;
        assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text());
    }
}

/// A call may find a node gone and then lose both others before one of them is back.
#[tokio::test]
async fn a_call_that_loses_each_node_once_goes_round_again() {
    for kind in BOTH {
        let losses = Arc::new(AtomicUsize::new(0));
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let losses = Arc::clone(&losses);
            let script = move |seen: &Seen| match losses.fetch_add(1, Ordering::Relaxed) {
                0..3 => Some(Reply::Cut),
                _ => Some(Reply::json(message::result(seen.id(), "{}"))),
            };
            nodes.push(node(script).await);
        }
        let addresses = [nodes[0].address, nodes[1].address, nodes[2].address];
        let balancer = Balancer::start(kind, &Nodes::at(addresses)).await;
        let answer = Client::to(balancer.address).post(&message::call(1, "echo")).await.answer();
        assert_eq!(answer.status, 200, "{kind:?}: {}", answer.text());
        assert!(answer.json()["result"].is_object(), "{kind:?}: {}", answer.text());
        // Each attempt was the same request to the nodes.
        let attempts: Vec<Seen> = nodes.iter().flat_map(|it| it.rpc("tools/call")).collect();
        let names: BTreeSet<_> = attempts.iter().map(|it| it.header("x-request-id")).collect();
        assert_eq!((attempts.len(), names.len()), (4, 1), "{kind:?}");
    }
}

/// nginx keeps a body of any size to send it again; HAProxy only what one buffer holds.
#[tokio::test]
async fn how_large_a_request_may_be_to_be_sent_again() {
    for (kind, size, again) in [
        (Kind::Nginx, 2_000_000, true),
        (Kind::HaProxy, 200_000, true),
        (Kind::HaProxy, 300_000, false),
    ] {
        let dead = node(|_| Some(Reply::Cut)).await;
        let alive = node(|seen| Some(Reply::json(message::result(seen.id(), "{}")))).await;
        let balancer =
            Balancer::start(kind, &Nodes::at([dead.address, dead.address, alive.address])).await;
        let client = Client::to(balancer.address);
        let text = "a".repeat(size);
        // Both are tried in turn, so that one of two requests meets the dead ones first.
        let mut answers = Vec::new();
        for id in 1..=3 {
            let params = format!(r#"{{"text":"{text}"}}"#);
            let answer = client.post(&message::request(id, "x", &params)).await.answer();
            answers.push(answer.status == 200 && answer.json()["result"].is_object());
        }
        let sent_again = answers.iter().all(|it| *it);
        assert!(!dead.rpc("x").is_empty(), "{kind:?}: nothing broke");
        assert_eq!(sent_again, again, "{kind:?} with {size}: {answers:?}");
        if !again {
            assert_eq!(dead.rpc("x").len() + alive.rpc("x").len(), 3, "sent once each");
        }
    }
}
