//! Every limit gives its own clear error, and whoever is within it is not disturbed.

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen, Step};
use crate::harness::sse::End;
use crate::harness::wire::Conn;

async fn start(
    limits: &str,
    script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
) -> (Recorder, Gateway) {
    let recorder = Recorder::scripted(script).await;
    let limits = format!("limits: {{ {limits} }}");
    let gateway = Setup::http(&recorder.url()).section(&limits).start().await;
    (recorder, gateway)
}

/// Our own refusal: 200, the call's id, a word about the limit, and when to come back.
fn overloaded(response: &serde_json::Value, id: &str) {
    assert_eq!(response["error"]["code"], -31003, "{response}");
    assert_eq!(response["id"], id, "{response}");
    assert!(response["error"]["message"].as_str().is_some_and(|it| !it.is_empty()), "{response}");
}

#[tokio::test]
async fn calls_in_flight() {
    let gate = Gate::new();
    let recorder = Recorder::gated(&gate).await;
    let setup = Setup::http(&recorder.url()).section("limits: { in_flight: 2 }");
    let gateway = setup.start().await;
    let client = Client::modern(&gateway);
    let running: Vec<_> = (0..2)
        .map(|id| {
            let client = client.clone();
            tokio::spawn(async move { client.call(id, "slow").await })
        })
        .collect();
    recorder.wait_for("two calls at the server", 2, |seen| seen.tool() == "slow").await;
    overloaded(&client.call("\"third\"", "tool").await, "third");
    assert!(recorder.calls("tool").is_empty());
    gate.open();
    for call in running {
        assert!(call.await.unwrap().get("result").is_some());
    }
    gateway.wait_metric("holdfast_in_flight", |now| now == 0.0).await;
    assert!(client.call(4, "tool").await.get("result").is_some());
}

#[tokio::test]
async fn connections() {
    let (_recorder, gateway) = start("connections: 8", |_| None).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Conn::open(gateway.address).await);
    }
    gateway.wait_metric("holdfast_connections", |now| now == 8.0).await;
    // One more is closed or told so; it does not wait for ever.
    let mut surplus = Conn::open(gateway.address).await;
    let request =
        Client::modern(&gateway).request("POST", &[], Some(&message::modern_call(1, "t")));
    surplus.try_send(&request).await;
    if let Some(answer) = surplus.answer().await {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    assert!(gateway.metric("holdfast_connections_refused_total").await >= 1.0);
    // Those within the limit are served, and room that is made is used.
    assert_eq!(open[0].exchange(&request).await.status, 200);
    open.truncate(4);
    gateway.wait_metric("holdfast_connections", |now| now <= 4.0).await;
    assert_eq!(Client::modern(&gateway).call(2, "tool").await["id"], 2);
}

#[tokio::test]
async fn streams() {
    let (_recorder, gateway) = start("streams: 1", |seen| {
        (seen.method == "GET").then(|| Reply::Stream(vec![Step::Wait(Gate::new())]))
    })
    .await;
    let first = Client::legacy(&gateway).initialized().await;
    let second = Client::legacy(&gateway).initialized().await;
    let stream = first.get(None).await.stream();
    let refused = second.get(None).await.answer();
    assert!([429, 503].contains(&refused.status), "{} {}", refused.status, refused.text());
    assert!(refused.text().contains("stream"), "the limit is named: {}", refused.text());
    // Calls are answered all the same, and the room is used again.
    assert_eq!(second.call(1, "tool").await["id"], 1);
    drop(stream);
    gateway.wait_metric("holdfast_streams", |now| now == 0.0).await;
    assert_eq!(second.get(None).await.stream().head.status, 200);
}

#[tokio::test]
async fn sessions_of_one_principal() {
    let (_recorder, gateway) = start("sessions_per_principal: 1", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    overloaded(&Client::legacy(&gateway).initialize().await.json(), "init");
    assert_eq!(client.call(1, "tool").await["id"], 1);
}

#[tokio::test]
async fn requests_per_minute_of_a_principal() {
    let (recorder, gateway) = start("requests_per_minute: 1, burst: 3", |_| None).await;
    let client = Client::modern(&gateway);
    for id in 0..3 {
        assert!(client.call(id, "tool").await.get("result").is_some(), "{id}");
    }
    let refused = client.call("\"fourth\"", "tool").await;
    overloaded(&refused, "fourth");
    let wait = refused["error"]["data"]["retryAfterMs"].as_u64().expect("when to come back");
    assert!((1..=60_000).contains(&wait), "{wait}");
    assert_eq!(recorder.calls("tool").len(), 3);
}

#[tokio::test]
async fn requests_per_minute_of_a_server() {
    let recorder = Recorder::start().await;
    let settings = format!(r#"{{ url: "{}", requests_per_minute: 1, burst: 2 }}"#, recorder.url());
    let other = format!(r#"{{ url: "{}" }}"#, recorder.url());
    let gateway = Setup::new().server("limited", &settings).server("free", &other).start().await;
    let client = Client::modern(&gateway).at("/mcp/limited");
    for id in 0..2 {
        assert!(client.call(id, "limited").await.get("result").is_some(), "{id}");
    }
    overloaded(&client.call("\"third\"", "limited").await, "third");
    assert_eq!(recorder.calls("limited").len(), 2);
    let free = Client::modern(&gateway).at("/mcp/free");
    assert!(free.call(3, "free").await.get("result").is_some());
}

/// Whoever is refused has spent nothing: not of the tool's calls, nor of the server's, nor of its own.
#[tokio::test]
async fn a_call_that_one_limit_refuses_spends_none_of_the_others() {
    let recorder = Recorder::start().await;
    let settings = format!(
        r#"{{ url: "{}", requests_per_minute: 1, burst: 4, tools: {{ rare: {{ requests_per_minute: 1, burst: 1 }} }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new()
        .server("main", &settings)
        .server("free", &format!(r#"{{ url: "{}" }}"#, recorder.url()))
        .section("limits: { requests_per_minute: 1, burst: 5 }")
        .start()
        .await;
    let client = Client::modern(&gateway).at("/mcp/main");
    assert!(client.call(0, "rare").await.get("result").is_some());
    for id in 1..8 {
        let refused = client.call(id, "rare").await;
        overloaded_by(&refused, "this tool");
    }
    for id in 11..14 {
        let answer = client.call(id, "tool").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    for id in 21..24 {
        overloaded_by(&client.call(id, "tool").await, "this server");
    }
    let free = client.at("/mcp/free");
    assert!(free.call(31, "tool").await.get("result").is_some());
    overloaded_by(&free.call(32, "tool").await, "this principal");
    assert_eq!(recorder.calls("rare").len() + recorder.calls("tool").len(), 5);
}

fn overloaded_by(response: &serde_json::Value, limit: &str) {
    assert_eq!(response["error"]["code"], -31003, "{response}");
    assert!(response.to_string().contains(limit), "{response}");
}

/// Clients would take an error of ours on discover for a server of an old era, for good.
#[tokio::test]
async fn discover_is_not_limited() {
    let (_recorder, gateway) = start("requests_per_minute: 1, burst: 1", |_| None).await;
    let client = Client::modern(&gateway);
    for id in 0..5 {
        let params = format!("{{{}}}", message::META);
        let response = client.ask(id, "server/discover", &params).await;
        assert!(response["result"]["supportedVersions"].is_array(), "{response}");
    }
}

/// A reader that does not read is cut off when its queue is full; nobody else notices.
#[tokio::test]
async fn a_slow_reader() {
    let event = message::event(&message::notification(
        "notifications/x",
        &format!(r#"{{"filler":"{}"}}"#, "x".repeat(60 * 1024)),
    ));
    // More than socket buffers and queue hold together.
    let (_recorder, gateway) = start("stream_queue: 64KiB", move |seen| {
        (seen.method == "GET").then(|| {
            let mut steps: Vec<Step> = (0..400).map(|_| Step::Send(event.clone())).collect();
            steps.push(Step::Wait(Gate::new()));
            Reply::Stream(steps)
        })
    })
    .await;
    let slow = Client::legacy(&gateway).initialized().await;
    let quick = Client::legacy(&gateway).initialized().await;
    let mut unread = slow.get(None).await.stream();
    let mut read = quick.get(None).await.stream();
    let mut events = 0;
    while events < 400 {
        let event = read.next().await.expect("the quick reader's stream goes on");
        events += usize::from(event.data.is_some_and(|data| !data.is_empty()));
    }
    gateway.wait_metric("holdfast_slow_readers_total", |many| many >= 1.0).await;
    let end = unread.end().await;
    assert!(matches!(end, End::Cut | End::Clean));
    assert_eq!(slow.call(1, "tool").await["id"], 1, "the session goes on");
}

/// With several servers `/mcp` says where they are.
#[tokio::test]
async fn several_servers_have_paths_of_their_own() {
    let recorder = Recorder::start().await;
    let settings = format!(r#"{{ url: "{}" }}"#, recorder.url());
    let gateway = Setup::new().server("one", &settings).server("two", &settings).start().await;
    for (path, tool) in [("/mcp/one", "first"), ("/mcp/two", "second")] {
        let response = Client::modern(&gateway).at(path).call(1, tool).await;
        assert!(response.get("result").is_some(), "{path}: {response}");
    }
    let merged = Client::modern(&gateway).post(&message::modern_call("\"m\"", "t")).await.answer();
    let text = merged.text();
    assert!(text.contains("/mcp/one") && text.contains("/mcp/two"), "{} {text}", merged.status);
    let unknown =
        Client::modern(&gateway).at("/mcp/three").post(&message::modern_call(1, "t")).await;
    assert_eq!(unknown.answer().status, 404);
    assert_eq!(recorder.calls("t").len(), 0);
}

/// A tool that may change something did not, and may be called again.
fn did_not_run(refused: &serde_json::Value) {
    let data = &refused["error"]["data"];
    assert_eq!(data["mayHaveRun"], false, "{refused}");
    assert!(data["retryAfterMs"].as_u64() > Some(0), "{refused}");
}

#[tokio::test]
async fn connections_to_a_server() {
    let gate = Gate::new();
    let recorder = Recorder::gated(&gate).await;
    let pool = "pool: { max_connections: 2, queue: 3 }";
    let server = format!("{{ url: \"{}\", {pool} }}", recorder.url());
    let gateway = Setup::new().server("main", &server).start().await;
    let client = Client::modern(&gateway);
    let begin = |id: usize, tool: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.call(id, tool).await })
    };
    let running = [begin(0, "slow"), begin(1, "slow")];
    recorder.wait_for("two calls at the server", 2, |seen| seen.tool() == "slow").await;
    let waiting = [begin(2, "tool"), begin(3, "tool"), begin(4, "tool")];
    gateway.wait_metric("holdfast_pool_waiting", |now| now == 3.0).await;
    // One more than may wait is told so at once, and when to come back.
    let refused = client.call("\"sixth\"", "tool").await;
    overloaded(&refused, "sixth");
    did_not_run(&refused);
    assert!(recorder.calls("tool").is_empty());
    gate.open();
    for call in running.into_iter().chain(waiting) {
        let answer = call.await.unwrap();
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert_eq!(recorder.calls("tool").len(), 3);
    assert_eq!(gateway.metric("holdfast_pool_waiting").await, 0.0);
    let refused = r#"holdfast_refused_total{server_id="main",reason="connections"}"#;
    assert_eq!(gateway.metric(refused).await, 1.0);
}

#[tokio::test]
async fn a_call_waits_for_a_connection_no_longer_than_it_may() {
    let gate = Gate::new();
    let recorder = Recorder::gated(&gate).await;
    let pool = "pool: { max_connections: 1, queue_timeout: 100ms }";
    let server = format!("{{ url: \"{}\", {pool} }}", recorder.url());
    let gateway = Setup::new().server("main", &server).start().await;
    let client = Client::modern(&gateway);
    let first = client.clone();
    let running = tokio::spawn(async move { first.call(1, "slow").await });
    recorder.wait_for("a call at the server", 1, |seen| seen.tool() == "slow").await;
    let refused = client.call("\"second\"", "tool").await;
    overloaded(&refused, "second");
    did_not_run(&refused);
    let said = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(said.contains("none was free in time"), "{refused}");
    gate.open();
    assert!(running.await.unwrap().get("result").is_some());
    assert!(client.call(3, "tool").await.get("result").is_some());
}
