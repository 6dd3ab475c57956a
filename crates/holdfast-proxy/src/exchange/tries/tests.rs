//! Calls that are sent again, at servers of the tests' own.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::failover::Failover;
use holdfast_mcp::method::Method;
use holdfast_mcp::version::Era;
use holdfast_store::Store;
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::exchange::headers::ForServer;
use crate::exchange::{Answer, First, Guards, Ids, Out, Sink, Wanted, answer, relay};
use crate::fleet::Word;
use crate::gateway::Gateway;
use crate::principal::Principal;
use crate::{Options, Proxy};

/// One that queued, ran and failed has not waited for a connection all that time.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_sent_may_wait_again_as_long_as_any() {
    let mut tries = Tries::new(std::time::Instant::now(), 0);
    tries.line = Some(InLine::until(Instant::now() + Duration::from_secs(5)));
    tries.goes();
    assert!(tries.line.is_none() && tries.sent == 1);
}

const ASKED: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"look"}}"#;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;

/// An instance that takes a request from each connection, and answers it by its number.
struct Instance {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Instance {
    async fn start(
        status: &'static str,
        body: &'static str,
        hears: Arc<dyn Fn(usize) + Send + Sync>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut request, mut part) = (Vec::new(), [0; 4096]);
                while !request.ends_with(ASKED.as_bytes()) {
                    match stream.read(&mut part).await {
                        Ok(length @ 1..) => request.extend_from_slice(&part[..length]),
                        Ok(0) | Err(_) => break,
                    }
                }
                hears(count.fetch_add(1, SeqCst) + 1);
                let kind = if body.starts_with("data:") {
                    "text/event-stream"
                } else {
                    "application/json"
                };
                let head = format!("content-type: {kind}\r\nconnection: close");
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

fn call(gateway: &Arc<Gateway>, class: CallClass) -> Arc<Call> {
    let server = gateway.server("main").unwrap();
    Arc::new(Call {
        gateway: Arc::clone(gateway),
        server: Arc::clone(server),
        session: None,
        steered_by: 7,
        principal: Principal::named("test"),
        era: Era::Modern,
        method: Method::ToolsCall,
        class,
        ids: Ids::One("1".into()),
        headers: Arc::new(ForServer::once(HeaderMap::new(), server)),
        body: Bytes::from_static(ASKED.as_bytes()),
        takes_stream: false,
        framed: false,
        resumable: false,
        number: 0,
        started: std::time::Instant::now(),
        balancer_id: None,
        again: false,
        told: None,
        key: OnceLock::new(),
        ticket: OnceLock::new(),
        shelf: server.fleet.shelf_of(Some("look")),
        admitted: OnceLock::new(),
        wanted: Wanted::default(),
        out: Out::default(),
        stands_in: false,
        _guards: Guards {
            _node: gateway.metrics.in_flight.enter(),
            _server: server.metrics.in_flight.enter(),
            _session: None,
        },
    })
}

/// A call whose server has a primary and two secondaries. The primary answers 500, and the last one is well.
#[derive(Clone, Copy)]
struct Story {
    class: CallClass,
    /// `retry_budget.attempts`
    attempts: u32,
    /// When it is sent for this time, the breaker of the instance that serves opens, and the server moves to the
    /// next one.
    moves: &'static [usize],
    second_is_well: bool,
    /// What an instance says that is not well.
    fails: (&'static str, &'static str),
}

/// A Read that is sent as often as it may be where it fails, and whose server moves then.
const READ: Story =
    Story { class: CallClass::Read, attempts: 3, moves: &[3], second_is_well: true, fails: BROKEN };

const BROKEN: (&str, &str) = ("500 Broken", "");

/// A stream that ends before its answer.
const ENDS: (&str, &str) =
    ("200 OK", "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n");

/// What it comes to, and how often each instance was asked.
async fn told(story: Story) -> (Answer, [usize; 3]) {
    let (gateway, instances) = world(story).await;
    let answer = answer::first_answer(call(&gateway, story.class)).await;
    (answer, [0, 1, 2].map(|it: usize| instances[it].asked()))
}

/// The last that its client gets where its answers begin to stream, and how often each instance was asked.
async fn relayed(story: Story) -> (Bytes, [usize; 3]) {
    let (gateway, instances) = world(story).await;
    let call = call(&gateway, story.class);
    let first = answer::first_answer(Arc::clone(&call)).await;
    assert!(matches!(first, Answer::Events(_)), "its answer streams");
    let (frames, mut said) = tokio::sync::mpsc::channel(16);
    relay(call, First::Here(first), Sink::Frames(frames)).await;
    let mut last = Bytes::new();
    while let Some(message) = said.recv().await {
        last = message;
    }
    (last, [0, 1, 2].map(|it: usize| instances[it].asked()))
}

async fn world(story: Story) -> (Arc<Gateway>, Vec<Instance>) {
    let node: Arc<Mutex<Option<Arc<Gateway>>>> = Arc::default();
    let (sent, moved) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let hears = {
        let node = Arc::clone(&node);
        Arc::new(move |_| {
            if !story.moves.contains(&(sent.fetch_add(1, SeqCst) + 1)) {
                return;
            }
            let gateway = node.lock().unwrap().clone().unwrap();
            let left = moved.fetch_add(1, SeqCst);
            let length = Duration::from_secs(30);
            gateway.fleet.say(0, Some(left), Word::Opened { length, generation: 1 });
            gateway.fleet.route(0, Arc::new(Failover::new(["b", "c"][left])));
        })
    };
    let mut instances = Vec::new();
    for is_well in [false, story.second_is_well, true] {
        let (status, body) = if is_well { ("200 OK", ANSWER) } else { story.fails };
        instances.push(Instance::start(status, body, Arc::clone(&hears) as _).await);
    }
    let yaml = format!(
        "listen: {{ address: \"127.0.0.1:0\", workers: 1 }}\nretry_budget: {{ attempts: {} }}\n\
         servers: {{ main: {{ instances: [ {{ id: a, role: primary, url: \"{}\" }}, \
         {{ id: b, role: secondary, url: \"{}\" }}, {{ id: c, role: secondary, url: \"{}\" }} ] }} }}",
        story.attempts, instances[0].url, instances[1].url, instances[2].url
    );
    let config = holdfast_config::parse(&yaml, "test", &|_| None).unwrap();
    let options = Options { guard: Vec::new(), store: Store::memory(), cluster: None };
    let proxy = Proxy::build(Arc::new(config), options).unwrap();
    let gateway = proxy.current.load_full();
    *node.lock().unwrap() = Some(Arc::clone(&gateway));
    gateway.fleet.route(0, Arc::new(Failover::new("a")));
    (gateway, instances)
}

/// It is not sent any more, and nobody knows what came of it.
async fn ends(story: Story, asked: [usize; 3]) {
    let (answer, were) = told(story).await;
    assert_eq!(were, asked);
    assert!(
        matches!(answer, Answer::Failed(failure) if failure.kind == FailureKind::OutcomeUnknown)
    );
}

#[tokio::test]
async fn a_read_that_failed_at_the_instance_that_is_left_is_sent_once_more_to_the_other() {
    let (answer, asked) = told(READ).await;
    assert_eq!(asked, [3, 1, 0]);
    let Answer::Whole(whole) = answer else { panic!("no answer") };
    assert_eq!(whole.body, ANSWER);
}

#[tokio::test]
async fn a_read_that_failed_where_the_server_stays_is_not_sent_again() {
    ends(Story { moves: &[], ..READ }, [3, 0, 0]).await;
}

/// Another instance does not know what came of the first sendings.
#[tokio::test]
async fn what_may_have_an_effect_is_not_sent_once_more_for_a_move() {
    ends(Story { class: CallClass::Idempotent, ..READ }, [3, 0, 0]).await;
}

#[tokio::test]
async fn a_read_is_sent_once_more_for_one_move_and_not_for_the_next() {
    ends(Story { moves: &[3, 4], second_is_well: false, ..READ }, [3, 1, 0]).await;
}

#[tokio::test]
async fn a_read_that_is_never_to_be_repeated_is_not_for_a_move_either() {
    ends(Story { attempts: 1, moves: &[1], ..READ }, [1, 0, 0]).await;
}

/// A move is no reason for one more where there is one left in any case.
#[tokio::test]
async fn a_read_that_may_still_be_repeated_is_sent_no_more_often_for_a_move() {
    ends(Story { moves: &[2], second_is_well: false, ..READ }, [2, 1, 0]).await;
}

#[tokio::test]
async fn a_read_whose_streams_broke_at_the_instance_that_is_left_is_sent_once_more_to_the_other() {
    let (last, asked) = relayed(Story { fails: ENDS, ..READ }).await;
    assert_eq!(asked, [3, 1, 0]);
    assert_eq!(last, ANSWER);
    // And not for the next move.
    let again = Story { moves: &[3, 4], second_is_well: false, fails: ENDS, ..READ };
    let (last, asked) = relayed(again).await;
    assert_eq!(asked, [3, 1, 0]);
    assert!(last.windows(6).any(|it| it == b"-31002"), "{last:?}");
}
