//! Servers that come and go, and move.

use super::{get, url, write};
use crate::harness::client::Client;
use crate::harness::duplex::Duplex;
use crate::harness::eventually;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::process::is_alive;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen};
use crate::harness::sample::{ExecutionLog, Sample, stdio};
use crate::harness::sse::End;
use crate::harness::wire::Conn;

fn two(one: &Recorder, other: Option<&Recorder>) -> Setup {
    let at = |recorder: &Recorder| format!(r#"{{ url: "{}" }}"#, recorder.url());
    let setup = Setup::new().server("one", &at(one));
    match other {
        Some(other) => setup.server("other", &at(other)),
        None => setup,
    }
}

/// A server that answers the tool `slow` when it is told to.
async fn slow(gate: &Gate) -> Recorder {
    let held = gate.clone();
    Recorder::scripted(move |seen: &Seen| {
        let answer = message::result(seen.id(), r#"{"content":[]}"#);
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::json(answer)))
    })
    .await
}

#[tokio::test]
async fn a_server_that_is_new_is_served_at_once() {
    let (one, other) = (Recorder::start().await, Recorder::start().await);
    let mut gateway = two(&one, None).start().await;
    let client = Client::legacy(&gateway).at("/mcp/other");
    let unknown = client.initialize().await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("there is no server `other`; there is /mcp/one"));
    // A connection that is kept is served by the configuration of its next request.
    let mut kept = Conn::open(gateway.address).await;
    let body = message::initialize(message::LEGACY);
    let ask = client.request("POST", &[], Some(&body));
    assert_eq!(kept.exchange(&ask).await.status, 404);
    assert!(gateway.reconfigure(two(&one, Some(&other))).await);
    assert_eq!(kept.exchange(&ask).await.status, 200);
    let client = client.initialized().await;
    assert!(client.call(1, "tool").await.get("result").is_some());
    assert_eq!(other.calls("tool").len(), 1);
    let status = get(gateway.admin, "/api/servers").await;
    assert!(status.contains("\"other\""), "{status}");
}

/// What runs ends, streams end, sessions end at the server, and who asks again is told.
#[tokio::test]
async fn a_server_that_goes_ends_in_order() {
    let gate = Gate::new();
    let (one, other) = (Recorder::start().await, slow(&gate).await);
    let mut gateway = two(&one, Some(&other)).start().await;
    let client = Client::legacy(&gateway).at("/mcp/other").initialized().await;
    let stays = Client::legacy(&gateway).at("/mcp/one").initialized().await;
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(1, "slow").await });
    other.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    assert!(gateway.reconfigure(two(&one, None)).await);
    let gone = client.post(&message::call("\"late\"", "tool")).await.answer();
    assert_eq!(gone.status, 404);
    assert!(gone.text().contains("there is no server `other`"), "{}", gone.text());
    assert_eq!(gone.json()["id"], "late");
    assert!(stays.call(2, "tool").await.get("result").is_some());
    assert_eq!(other.live_sessions().len(), 1, "its call still runs");
    gate.open();
    let answer = running.await.unwrap();
    assert!(answer.get("result").is_some(), "{answer}");
    other.wait_for("the end of its session", 1, |seen| seen.method == "DELETE").await;
    gateway.wait_metric("holdfast_sessions", |now| now == 1.0).await;
    // Its gauges are gone, and what was counted of it is still there.
    let metrics = get(gateway.admin, "/metrics").await;
    assert!(!metrics.contains("holdfast_server_sessions{server_id=\"other\"}"), "{metrics}");
    assert!(!metrics.contains("holdfast_breaker_state{server_id=\"other\""), "{metrics}");
    assert!(metrics.contains("holdfast_server_connects_total{server_id=\"other\"}"), "{metrics}");
    // It comes back as what it is: new, and counted on.
    let counted = |metrics: &str| {
        let name = "mcp_request_duration_seconds_count{method=\"tools/call\",server_id=\"other\",status=\"ok\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        line.and_then(|count| count.parse::<u64>().ok())
    };
    assert_eq!(counted(&metrics), Some(1));
    assert!(gateway.reconfigure(two(&one, Some(&other))).await);
    assert_eq!(client.post(&message::call(3, "tool")).await.answer().status, 404);
    let again = Client::legacy(&gateway).at("/mcp/other").initialized().await;
    assert!(again.call(4, "tool").await.get("result").is_some());
    assert_eq!(counted(&get(gateway.admin, "/metrics").await), Some(2));
}

/// A call that does not end is not waited for beyond the drain deadline, and its client is told.
#[tokio::test]
async fn a_server_that_goes_is_not_waited_for_for_ever() {
    let never = Gate::new();
    let (one, other) = (Recorder::start().await, slow(&never).await);
    let limited = |other| two(&one, other).listen("drain_deadline: 1s");
    let mut gateway = limited(Some(&other)).start().await;
    let client = Client::legacy(&gateway).at("/mcp/other").initialized().await;
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(1, "slow").await });
    other.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    assert!(gateway.reconfigure(limited(None)).await);
    let answer = running.await.unwrap();
    assert_eq!(answer["error"]["code"], -31002, "{answer}");
    let text = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(text.contains("taken out of the configuration"), "{answer}");
    other.wait_for("the end of its session", 1, |seen| seen.method == "DELETE").await;
}

/// A server that is taken out and put back, as by a rollback, has its sessions still.
#[tokio::test]
async fn a_server_that_comes_back_in_time_keeps_its_sessions() {
    let gate = Gate::new();
    let (one, other) = (Recorder::start().await, slow(&gate).await);
    let mut gateway = two(&one, Some(&other)).start().await;
    let client = Client::legacy(&gateway).at("/mcp/other").initialized().await;
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(1, "slow").await });
    other.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    assert!(gateway.reconfigure(two(&one, None)).await);
    assert!(gateway.reconfigure(two(&one, Some(&other))).await);
    gate.open();
    assert!(running.await.unwrap()["result"].is_object());
    // Nothing is left to wait for: whatever was to end has ended by the last of these.
    for id in 2..12 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let answer = client.call(id, "tool").await;
        assert!(answer["result"].is_object(), "{answer}");
    }
    assert_eq!(other.live_sessions().len(), 1);
}

#[tokio::test]
async fn a_server_at_another_address_has_its_sessions_there_with_their_next_call() {
    let gate = Gate::new();
    let (old, new) = (slow(&gate).await, Recorder::start().await);
    let mut gateway = Setup::http(&old.url()).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let caller = client.clone();
    let running = tokio::spawn(async move { caller.call(1, "slow").await });
    old.wait_for("the call at the server", 1, |seen| seen.tool() == "slow").await;
    assert!(gateway.reconfigure(Setup::http(&new.url())).await);
    assert!(client.call(2, "tool").await.get("result").is_some());
    assert_eq!((old.calls("tool").len(), new.calls("tool").len()), (0, 1));
    assert_eq!(new.rpc("initialize").len(), 1, "its session was opened there");
    let first = &new.seen()[0];
    assert_eq!(first.rpc(), "initialize");
    assert_eq!(first.header("mcp-session-id"), None, "the old server's session is its own");
    gate.open();
    assert!(running.await.unwrap().get("result").is_some(), "it ends where it began");
}

#[tokio::test]
async fn a_process_with_other_arguments_takes_over_from_the_old_one() {
    let log = ExecutionLog::new();
    let settings = |name: &str| stdio(&log, &format!("{name}-{}", std::process::id()));
    let keep = Sample::start(&[]).await;
    let both = |name: &str| {
        Setup::new()
            .server("keep", &format!(r#"{{ url: "{}" }}"#, url(&keep)))
            .server("main", &settings(name))
    };
    let mut gateway = both("before").start().await;
    let client = Client::legacy(&gateway).at("/mcp/main").initialized().await;
    let wrote = async |id: &str| {
        let answer = client.post(&write(id, id, 0)).await.response().await;
        assert!(answer.get("result").is_some(), "{answer}");
        log.pid(id).expect("an execution")
    };
    let first = wrote("first").await;
    let caller = client.clone();
    let running =
        tokio::spawn(
            async move { caller.post(&write("long", "long", 3000)).await.response().await },
        );
    eventually("the long call runs", || log.pid("long")).await;
    assert!(gateway.reconfigure(both("after")).await);
    let second = wrote("second").await;
    assert_ne!(first, second);
    assert!(running.await.unwrap().get("result").is_some(), "it ends in the old process");
    assert_eq!(log.pid("long"), Some(first));
    eventually("the end of the old process", || (!is_alive(first)).then_some(())).await;
    assert_eq!(wrote("third").await, second);
    // Without the server there is no process.
    let keep_only = Setup::new().server("keep", &format!(r#"{{ url: "{}" }}"#, url(&keep)));
    assert!(gateway.reconfigure(keep_only).await);
    eventually("the end of the process", || (!is_alive(second)).then_some(())).await;
}

#[tokio::test]
async fn a_connected_client_is_told_that_its_server_is_gone_and_let_go() {
    let sample = Sample::start(&[]).await;
    let at = format!(r#"{{ url: "{}" }}"#, url(&sample));
    let all = || Setup::new().server("one", &at).server("other", &at);
    for transport in ["websocket", "sse"] {
        let mut gateway = all().start().await;
        let mut client = match transport {
            "sse" => Duplex::sse(gateway.address, "/sse/other").await,
            _ => Duplex::websocket(gateway.address, "/mcp/other").await,
        };
        let answer = client.ask(&message::initialize(message::LEGACY)).await;
        assert!(answer.get("result").is_some(), "{answer}");
        client.send(&message::notification("notifications/initialized", "{}")).await;
        let answer = client.ask(&write("a", "a", 0)).await;
        assert!(answer.get("result").is_some(), "{transport}: {answer}");
        assert!(gateway.reconfigure(Setup::new().server("one", &at)).await);
        while let Some(message) = client.message().await {
            assert!(message.get("id").is_none(), "{transport}: {message}");
        }
        gateway.wait_metric("holdfast_sessions", |now| now == 0.0).await;
    }
}

#[tokio::test]
async fn the_standing_stream_of_a_server_that_goes_ends_cleanly() {
    let (one, other) = (Recorder::start().await, {
        Recorder::scripted(|seen| {
            use crate::harness::recorder::Step;
            (seen.method == "GET").then(|| Reply::Stream(vec![Step::Wait(Gate::new())]))
        })
        .await
    });
    let mut gateway = two(&one, Some(&other)).start().await;
    let client = Client::legacy(&gateway).at("/mcp/other").initialized().await;
    let stream = client.get(None).await.stream();
    other.wait_for("the stream at the server", 1, |seen| seen.method == "GET").await;
    assert!(gateway.reconfigure(two(&one, None)).await);
    let (_, end) = stream.into_end().await;
    assert!(matches!(end, End::Clean), "{end:?}");
    other.wait_for("the end of its session", 1, |seen| seen.method == "DELETE").await;
}
