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
use crate::exchange::{Answer, Guards, Ids, Out, Wanted, answer};
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
                let head = "content-type: application/json\r\nconnection: close";
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

fn read(gateway: &Arc<Gateway>) -> Arc<Call> {
    let server = gateway.server("main").unwrap();
    Arc::new(Call {
        gateway: Arc::clone(gateway),
        server: Arc::clone(server),
        session: None,
        steered_by: 7,
        principal: Principal::named("test"),
        era: Era::Modern,
        method: Method::ToolsCall,
        class: CallClass::Read,
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

/// What a Read comes to whose primary answers 500, and how often both instances were asked; `moves`: with the
/// third time the breaker opens, and the server moves.
async fn asked_three_times(moves: bool) -> (Answer, usize, usize) {
    let node: Arc<Mutex<Option<Arc<Gateway>>>> = Arc::default();
    let hears = Arc::clone(&node);
    let primary = Instance::start(
        "500 Broken",
        "",
        Arc::new(move |times| {
            let gateway = hears.lock().unwrap().clone().unwrap();
            if moves && times == 3 {
                let length = Duration::from_secs(30);
                gateway.fleet.say(0, Some(0), Word::Opened { length, generation: 1 });
                gateway.fleet.route(0, Arc::new(Failover::new("b")));
            }
        }),
    );
    let (primary, secondary) =
        (primary.await, Instance::start("200 OK", ANSWER, Arc::new(|_| {})).await);
    let yaml = format!(
        "listen: {{ address: \"127.0.0.1:0\", workers: 1 }}\nservers: {{ main: {{ instances: [ \
         {{ id: a, role: primary, url: \"{}\" }}, {{ id: b, role: secondary, url: \"{}\" }} ] }} }}",
        primary.url, secondary.url
    );
    let config = holdfast_config::parse(&yaml, "test", &|_| None).unwrap();
    let options = Options { guard: Vec::new(), store: Store::memory(), cluster: None };
    let proxy = Proxy::build(Arc::new(config), options).unwrap();
    let gateway = proxy.current.load_full();
    *node.lock().unwrap() = Some(Arc::clone(&gateway));
    gateway.fleet.route(0, Arc::new(Failover::new("a")));
    let answer = answer::first_answer(read(&gateway)).await;
    (answer, primary.asked(), secondary.asked())
}

#[tokio::test]
async fn a_read_that_failed_at_the_instance_that_is_left_is_sent_once_more_to_the_other() {
    let (answer, primary, secondary) = asked_three_times(true).await;
    assert_eq!((primary, secondary), (3, 1));
    let Answer::Whole(whole) = answer else { panic!("no answer") };
    assert_eq!(whole.body, ANSWER);
}

#[tokio::test]
async fn a_read_that_failed_where_the_server_stays_is_not_sent_again() {
    let (answer, primary, secondary) = asked_three_times(false).await;
    assert_eq!((primary, secondary), (3, 0));
    assert!(
        matches!(answer, Answer::Failed(failure) if failure.kind == FailureKind::OutcomeUnknown)
    );
}
