//! `notifications/cancelled` from a legacy client, wherever its call is.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::client::{Client, Posted};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Step};
use crate::harness::{eventually, within};

/// No call becomes a stream before its time.
const WHOLE: &str = "streams: { commit_after: 20s }";

/// A gateway before a server whose tool `slow` waits for the gate.
async fn start(settings: &str, section: &str) -> (Gate, Recorder, Gateway, Client) {
    let gate = Gate::new();
    let recorder = Recorder::gated(&gate).await;
    let server = format!(r#"{{ url: "{}", {settings} }}"#, recorder.url());
    let gateway =
        Setup::new().server("main", &server).section(WHOLE).section(section).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    (gate, recorder, gateway, client)
}

/// One call at a time.
const ONE: &str = "bulkheads: { user: { concurrency: 1, queue: 5, queue_timeout: 5m } }";

async fn cancel(client: &Client, id: u32) {
    let params = format!(r#"{{"requestId":{id}}}"#);
    let answer = client.post(&message::notification("notifications/cancelled", &params)).await;
    assert_eq!(answer.answer().status, 202);
}

/// What waits is answered, and never runs.
#[tokio::test]
async fn a_call_that_waits_for_its_turn() {
    let pool = "timeout: 10m, pool: { max_connections: 1, queue_timeout: 5m }";
    for (settings, section, waits) in [
        ("timeout: 10m", ONE, r#"holdfast_bulkhead_waiting{server_id="main",class="user"}"#),
        (pool, "limits: {}", "holdfast_pool_waiting"),
    ] {
        let (gate, recorder, gateway, client) = start(settings, section).await;
        let begin = |id: u32, tool: &'static str| {
            let client = client.clone();
            tokio::spawn(async move { client.call(id, tool).await })
        };
        let running = begin(1, "slow");
        recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
        let waiting = begin(2, "write");
        gateway.wait_metric(waits, |now| now == 1.0).await;
        cancel(&client, 2).await;
        let answer = waiting.await.unwrap();
        assert_eq!(answer["error"]["code"], -32800, "{answer}");
        assert_eq!(gateway.metric(waits).await, 0.0);
        gate.open();
        assert!(running.await.unwrap().get("result").is_some());
        assert!(recorder.calls("write").is_empty(), "it ran");
    }
}

/// A way to a server on which connections are not made, and then they are.
struct Way {
    listener: TcpListener,
    server: SocketAddr,
    /// What stands in line before anybody else.
    line: Vec<TcpStream>,
}

impl Way {
    async fn to(server: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bind a free port");
        let listener = socket.listen(1).expect("listen");
        Self { listener, server, line: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// From here on nobody gets through: so many stand in line that the system drops who comes.
    async fn fill(&mut self) {
        let address = self.address();
        let comes = || timeout(Duration::from_millis(300), TcpStream::connect(address));
        while let Ok(came) = comes().await {
            self.line.push(came.expect("somebody listens"));
        }
    }

    /// Lets everybody through, until dropped.
    async fn pass(&mut self) {
        self.line.clear();
        let mut connections = JoinSet::new();
        while let Ok((mut theirs, _)) = self.listener.accept().await {
            let Ok(mut ours) = TcpStream::connect(self.server).await else { return };
            connections.spawn(async move {
                drop(copy_bidirectional(&mut theirs, &mut ours).await);
            });
        }
    }
}

/// What is cancelled while its connection is made is not sent on it.
#[tokio::test]
async fn a_call_that_connects() {
    let recorder = Recorder::start().await;
    let mut way = Way::to(recorder.address).await;
    let settings =
        format!(r#"{{ url: "http://{}/mcp", timeout: 10m, connect_timeout: 30s }}"#, way.address());
    let gateway = Setup::new().server("main", &settings).section(WHOLE).start().await;
    let client = tokio::select! {
        client = Client::legacy(&gateway).initialized() => client,
        () = way.pass() => unreachable!("it listens"),
    };
    way.fill().await;
    let first = client.clone();
    let connecting = tokio::spawn(async move { first.call(1, "write").await });
    let in_flight = r#"holdfast_instance_in_flight{server_id="main",instance="1"}"#;
    gateway.wait_metric(in_flight, |now| now == 1.0).await;
    // What tells the server of it has to connect as well.
    let cancelling = tokio::spawn(async move { cancel(&client, 1).await });
    let runs = r#"holdfast_bulkhead_running{server_id="main",class="user"}"#;
    gateway.wait_metric(runs, |now| now == 0.0).await;
    let (answer, cancelled) = tokio::select! {
        ended = async { tokio::join!(connecting, cancelling) } => ended,
        () = way.pass() => unreachable!("it listens"),
    };
    cancelled.unwrap();
    let answer = answer.unwrap();
    assert_eq!(answer["error"]["code"], -32800, "{answer}");
    assert!(recorder.calls("write").is_empty(), "it ran");
}

/// The server may answer it yet, or never: nobody waits for that.
#[tokio::test]
async fn a_call_that_runs_and_is_no_stream() {
    let (gate, recorder, _gateway, client) = start("timeout: 10m", ONE).await;
    let first = client.clone();
    let running = tokio::spawn(async move { first.call(1, "slow").await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    cancel(&client, 1).await;
    assert!(client.call(2, "other").await.get("result").is_some());
    recorder
        .wait_for("the word at the server", 1, |it| it.rpc() == "notifications/cancelled")
        .await;
    gate.open();
    assert!(running.await.unwrap().get("result").is_some());
}

/// It was sent: that nobody wants its answer says nothing of whether it ran.
#[tokio::test]
async fn a_write_whose_stream_breaks_afterwards() {
    let gate = Gate::new();
    let held = gate.clone();
    let recorder = Recorder::scripted(move |seen| {
        let broken = [Step::Wait(held.clone()), Step::Cut];
        (seen.tool() == "write").then(|| Reply::streamed(seen, broken))
    })
    .await;
    let server = format!(r#"{{ url: "{}" }}"#, recorder.url());
    let gateway = Setup::new().server("main", &server).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let first = client.clone();
    let running = tokio::spawn(async move { first.call(1, "write").await });
    recorder.wait_for("the call at the server", 1, |seen| seen.tool() == "write").await;
    cancel(&client, 1).await;
    gate.open();
    let answer = running.await.unwrap();
    assert_eq!(answer["error"]["code"], -31002, "{answer}");
    assert_eq!(recorder.calls("write").len(), 1);
}

/// As the protocol wants: the server stops, and sends no response. It is hung up on soon, and nothing is held
/// against it.
#[tokio::test]
async fn a_server_that_never_answers_what_was_cancelled_is_none_the_worse() {
    let never = Gate::new();
    let recorder = Recorder::scripted(move |seen| {
        let primed = "id: 1\ndata: \n\n".to_owned();
        let begins = match &*seen.tool() {
            "silent" => return Some(Reply::after(&never, Reply::Status(202))),
            "primes" => vec![Step::Send(primed)],
            "comments" => vec![Step::Send(": still here\n\n".to_owned())],
            "begins" => return Some(Reply::streamed(seen, [Step::Wait(never.clone())])),
            _ => return None,
        };
        Some(Reply::Stream(begins.into_iter().chain([Step::Wait(never.clone())]).collect()))
    })
    .await;
    let server = format!(
        r#"{{ url: "{}", timeout: 20s, breaker: {{ consecutive_failures: 3 }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &server).section(WHOLE).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let tools = ["silent", "comments", "primes", "begins", "silent", "begins"];
    let mut waiting = Vec::new();
    for (id, tool) in (1..).zip(tools) {
        let caller = client.clone();
        let ends = async move {
            match caller.post(&message::call(id, tool)).await {
                Posted::Answer(answer) => vec![answer.json()],
                Posted::Stream(stream) => stream.into_end().await.0,
            }
        };
        waiting.push((tool, tokio::spawn(ends)));
        recorder.wait_for("the call at the server", id, |seen| !seen.tool().is_empty()).await;
        cancel(&client, u32::try_from(id).unwrap()).await;
    }
    eventually("the server is hung up on", || (recorder.abandoned() == tools.len()).then_some(()))
        .await;
    for (tool, ends) in waiting {
        let messages = within("the end of a call", ends).await.unwrap();
        let last = messages.last().map_or(&Value::Null, |it| &it["error"]["code"]);
        match tool {
            "silent" | "comments" => assert_eq!(last, -32800, "{messages:?}"),
            // What its client has seen ends, and it has no use for more.
            _ => assert_eq!(last, &Value::Null, "{messages:?}"),
        }
    }
    gateway.wait_metric("holdfast_instance_in_flight", |now| now == 0.0).await;
    let opened = r#"holdfast_breaker_transitions_total{server_id="main",to="open"}"#;
    assert_eq!(gateway.metric(opened).await, 0.0);
    assert!(client.call(99, "other").await.get("result").is_some());
}
