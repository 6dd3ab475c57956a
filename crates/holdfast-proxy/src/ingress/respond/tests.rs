//! Clients that go, in a cluster whose store may take its time: while the record of their stream is being
//! written, and later.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::Tier;
use holdfast_engine::replicated::{
    Body, ClusterState, Command, ControlCommand, KvCommand, KvEntry, Machine, Origin, Reply,
};
use holdfast_peer::{Peers, Secret, Settings};
use holdfast_store::{BoxFuture, Group, GroupError, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Clustered, Footing};
use crate::{Options, Proxy};

const ME: Origin = Origin { node: 1, generation: 1 };

/// The group, in which no stream is recorded before its gate is open.
struct Gated {
    state: Mutex<(Machine, u64)>,
    open: watch::Sender<bool>,
    /// How many records wait for that, or have.
    records: watch::Sender<usize>,
}

impl Gated {
    fn new() -> Arc<Self> {
        let group = Self {
            state: Mutex::default(),
            open: watch::Sender::new(false),
            records: watch::Sender::new(0),
        };
        group.apply(Body::Control(ControlCommand::Join {
            node: ME.node,
            name: "one".to_owned(),
            peer: String::new(),
            client: String::new(),
            admin: String::new(),
            version: String::new(),
        }));
        Arc::new(group)
    }

    fn apply(&self, body: Body) -> Reply {
        let (machine, index) = &mut *self.state.lock().unwrap();
        *index += 1;
        let (serial, settled_below, now) = (*index, *index, self.time());
        machine.apply(*index, 1, &Command { origin: ME, serial, settled_below, now, body })
    }

    fn members(&self) -> Arc<ClusterState> {
        Arc::new(self.state.lock().unwrap().0.control.clone())
    }

    /// Waits until a record waits.
    async fn is_asked(&self) {
        let mut records = self.records.subscribe();
        soon("a record is written", records.wait_for(|many| *many > 0)).await.unwrap();
    }
}

impl Group for Gated {
    fn propose(&self, command: KvCommand, _: Duration) -> BoxFuture<'_, Result<Reply, GroupError>> {
        Box::pin(async move {
            if matches!(&command, KvCommand::Put { key, .. } if key.starts_with(b"x/")) {
                self.records.send_modify(|many| *many += 1);
                let _ = self.open.subscribe().wait_for(|open| *open).await;
            }
            Ok(self.apply(Body::Kv(command)))
        })
    }

    fn read_index(&self, _: Duration) -> BoxFuture<'_, Result<(), GroupError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn get(&self, key: &[u8]) -> Option<KvEntry> {
        self.state.lock().unwrap().0.kv.get(key, self.time()).cloned()
    }

    fn get_even_past(&self, key: &[u8]) -> Option<KvEntry> {
        self.state.lock().unwrap().0.kv.get_even_past(key).cloned()
    }

    fn due(&self, prefix: &[u8], limit: usize) -> Vec<Bytes> {
        self.state.lock().unwrap().0.kv.due(prefix, self.time(), limit)
    }

    fn time(&self) -> u64 {
        crate::clock::unix_millis()
    }
}

struct Leased;

impl Footing for Leased {
    fn origin(&self) -> Origin {
        ME
    }

    fn has_lease(&self) -> bool {
        true
    }

    fn is_coordinator(&self) -> bool {
        true
    }

    fn hindrance(&self) -> Option<String> {
        None
    }
}

/// A node of a cluster in which nobody else is, and its server, which answers as the test says.
struct World {
    group: Arc<Gated>,
    proxy: Arc<Proxy>,
    /// Each call at the server, as its connection.
    calls: mpsc::UnboundedReceiver<TcpStream>,
    drain: CancellationToken,
    _members: watch::Sender<Arc<ClusterState>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

impl World {
    async fn start(tier: Tier, settings: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (arrived, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let arrived = arrived.clone();
                tokio::spawn(async move {
                    let request = read_until(&mut stream, "}}").await;
                    if request.contains("tools/call") {
                        let _ = arrived.send(stream);
                    }
                });
            }
        });
        let yaml = format!(
            "listen: {{ address: \"127.0.0.1:0\", workers: 1, trusted_proxies: [ \"127.0.0.1/32\" ] }}\n\
             limits: {{ stream_queue: 64KiB }}\n\
             streams: {{ commit_after: 200ms }}\n\
             servers: {{ x: {{ url: \"http://{server}/mcp\", {settings} }} }}"
        );
        let mut config = holdfast_config::parse(&yaml, "test", &|_| None).unwrap();
        // Without the section of a cluster there is one tier.
        config.servers.get_mut("x").unwrap().tier = tier;
        let group = Gated::new();
        let (members, state) = watch::channel(group.members());
        let secret = Secret::new(&"of all nodes together".to_owned().into(), None);
        let settings = Settings::for_failover(Duration::from_secs(5));
        let peers = Peers::new(secret, ME.node, "one".into(), settings, Handle::current()).unwrap();
        let (_, changes) = mpsc::unbounded_channel();
        let (_, frozen) = watch::channel(0);
        let cluster = Clustered {
            state,
            footing: Arc::new(Leased),
            peers,
            changes,
            frozen,
            failover_timeout: Duration::from_secs(5),
        };
        let store = Store::replicated(Arc::clone(&group) as Arc<dyn Group>);
        let options = Options { guard: Vec::new(), store, cluster: Some(cluster) };
        let proxy = Proxy::build(Arc::new(config), options).unwrap();
        let drain = CancellationToken::new();
        proxy.run(drain.clone()).unwrap();
        Self { group, proxy, calls, drain, _members: members }
    }

    /// Sends the call as a balancer does: under the id that it gave it.
    async fn call(&self) -> TcpStream {
        let mut client = TcpStream::connect(self.proxy.local_addr()).await.unwrap();
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write","arguments":{}}}"#;
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nX-Request-ID: one\r\nMCP-Protocol-Version: 2025-11-25\r\n\
             Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.proxy.local_addr(),
            body.len()
        );
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    async fn at_server(&mut self) -> TcpStream {
        soon("the call at the server", self.calls.recv()).await.unwrap()
    }

    /// The client is gone, and the node has seen that. (One that only says that it will send no more is
    /// still there.)
    async fn has_lost(&self, client: TcpStream) {
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let metrics = &self.proxy.node.metrics;
        soon("the client is gone", async {
            while metrics.connections.get() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// The call was taken to its end: whoever sends it again gets the answer, and it ran once.
    async fn is_answered(&mut self) {
        let mut again = self.call().await;
        let answer = read_until(&mut again, "}]}}").await;
        assert!(answer.contains(r#""text":"done""#), "{answer}");
        assert!(self.calls.try_recv().is_err(), "it ran twice");
    }
}

const ANSWER: &str =
    r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"done"}]}}"#;

async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
    let within = tokio::time::timeout(Duration::from_secs(20), it).await;
    within.unwrap_or_else(|_| panic!("not within 20 s: {what}"))
}

/// All that comes, up to this.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut text, mut buffer) = (String::new(), vec![0; 64 * 1024]);
    while !text.contains(end) {
        let many = soon(end, stream.read(&mut buffer)).await.unwrap_or(0);
        if many == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..many]));
    }
    text
}

fn chunk(message: &str) -> String {
    let event = format!("data: {message}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn said(text: &str) -> String {
    let params = format!(r#"{{"level":"info","data":"{text}"}}"#);
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}"#)
}

#[tokio::test]
async fn a_write_whose_answer_is_a_stream_runs_to_its_end_without_its_client() {
    let mut world = World::start(Tier::One, "").await;
    let client = world.call().await;
    let mut server = world.at_server().await;
    let said =
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    server.write_all(format!("{head}{}", chunk(said)).as_bytes()).await.unwrap();
    world.group.is_asked().await;
    world.has_lost(client).await;
    world.group.open.send_replace(true);
    let rest = format!("{}0\r\n\r\n", chunk(ANSWER));
    server.write_all(rest.as_bytes()).await.unwrap();
    world.is_answered().await;
}

#[tokio::test]
async fn a_write_that_is_slow_runs_to_its_end_without_its_client() {
    let mut world = World::start(Tier::One, "").await;
    let client = world.call().await;
    let mut server = world.at_server().await;
    // Its client is promised a stream.
    world.group.is_asked().await;
    world.has_lost(client).await;
    world.group.open.send_replace(true);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    server.write_all(answer.as_bytes()).await.unwrap();
    world.is_answered().await;
}

/// Without the head of a response, a balancer sends the call again: it must not have run.
#[tokio::test]
async fn a_write_that_begins_with_its_response_does_not_run_without_its_client() {
    let mut world = World::start(Tier::Two, "").await;
    let client = world.call().await;
    world.group.is_asked().await;
    world.has_lost(client).await;
    world.group.open.send_replace(true);
    let server = Arc::clone(&world.proxy.node.metrics.servers()[0]);
    soon("it is counted as one that did not run", async {
        while server.traffic().failures == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(world.calls.try_recv().is_err(), "it ran");
}

/// An answer that came in time is kept for its client, for which there is no room in the stream's queue.
#[tokio::test]
async fn an_answer_behind_a_full_queue_is_not_lost_when_the_calls_time_is_over() {
    let mut world = World::start(Tier::One, "timeout: 5s, max_duration: 5s").await;
    world.group.open.send_replace(true);
    let mut client = world.call().await;
    let mut server = world.at_server().await;
    server.write_all(format!("{STREAM}{}", chunk(&said("first"))).as_bytes()).await.unwrap();
    let begun = read_until(&mut client, "first").await;
    let id = begun.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    world.has_lost(client).await;
    let rest = format!("{}{}0\r\n\r\n", chunk(&said(&"x".repeat(100_000))), chunk(ANSWER));
    server.write_all(rest.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut back = TcpStream::connect(world.proxy.local_addr()).await.unwrap();
    let request = format!(
        "GET /mcp HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nLast-Event-ID: {id}\r\n\r\n",
        world.proxy.local_addr()
    );
    back.write_all(request.as_bytes()).await.unwrap();
    let text = read_until(&mut back, "0\r\n\r\n").await;
    assert!(text.contains(ANSWER), "{}", &text[..text.len().min(500)]);
    let traffic = world.proxy.node.metrics.servers()[0].traffic();
    assert_eq!((traffic.calls, traffic.failures), (1, 0));
}
