//! What a server asks of a client in mid-call, and how the client's answers find their way.

use std::sync::Arc;
use std::time::Duration;

use super::start;
use crate::harness::client::Client;
use crate::harness::duplex::Duplex;
use crate::harness::gateway::Setup;
use crate::harness::message::{self, LEGACY};
use crate::harness::recorder::{Feed, Gate, Recorder, Reply, Seen, Step};
use crate::harness::within;

const SAMPLE: &str = r#"{ "jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{"maxTokens":1.0,"messages":[]}}"#;

/// Sampling, elicitation and roots all travel alike: the request on the call's stream, the answer
/// as a POST, byte for byte and to the same session at the server.
#[tokio::test]
async fn a_request_on_the_calls_stream_is_answered() {
    let answered = Gate::new();
    let held = answered.clone();
    let (recorder, gateway) = start("", move |seen| {
        (seen.tool() == "ask").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(SAMPLE)),
                Step::Wait(held.clone()),
                Step::Send(message::event(&message::result(seen.id(), r#"{"content":[]}"#))),
            ])
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.post(&message::call(1, "ask")).await.stream();
    let request = loop {
        let event = stream.next().await.expect("the server's request");
        if let Some(data) = event.data.filter(|data| !data.is_empty()) {
            break data;
        }
    };
    assert_eq!(request, SAMPLE);
    let answer = r#"{"jsonrpc":"2.0","id":0,"result":{ "role":"assistant","n":1.50,"content":{"type":"text","text":"\u00e9"}}}"#;
    let accepted = client.post(answer).await.answer();
    assert_eq!((accepted.status, accepted.body.len()), (202, 0));
    let seen = recorder.wait_for("the answer", 1, |seen| seen.text() == answer).await;
    assert_eq!(seen[0].header("mcp-session-id"), Some("server-session-1"));
    answered.open();
    assert!(stream.message().await.expect("the result").get("result").is_some());
}

/// Ids of servers collide across sessions: the answer goes where its session says.
#[tokio::test]
async fn answers_are_routed_by_session() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("", move |seen| {
        (seen.tool() == "ask").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(SAMPLE)),
                Step::Wait(held.clone()),
                Step::Send(message::event(&message::result(seen.id(), r#"{"content":[]}"#))),
            ])
        })
    })
    .await;
    let clients = [
        Client::legacy(&gateway).initialized().await,
        Client::legacy(&gateway).initialized().await,
    ];
    let mut streams = Vec::new();
    for client in &clients {
        let mut stream = client.post(&message::call(1, "ask")).await.stream();
        stream.find("the request", |it| it["method"] == "sampling/createMessage").await;
        streams.push(stream);
    }
    for (at, client) in clients.iter().enumerate().rev() {
        let answer = message::result(0, &format!(r#"{{"of":{at}}}"#));
        assert_eq!(client.post(&answer).await.answer().status, 202);
        let seen = recorder.wait_for("the answer", 1, |seen| seen.text() == answer).await;
        let session = format!("server-session-{}", at + 1);
        assert_eq!(seen[0].header("mcp-session-id"), Some(session.as_str()));
    }
    gate.open();
    for mut stream in streams {
        assert!(stream.message().await.expect("the result").get("result").is_some());
    }
}

/// An error is an answer too.
#[tokio::test]
async fn a_refusal_reaches_the_server() {
    let (recorder, gateway) = start("", |_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    let refusal = message::error(0, -1, "User rejected sampling request");
    assert_eq!(client.post(&refusal).await.answer().status, 202);
    recorder.wait_for("the refusal", 1, |seen| seen.text() == refusal).await;
}

#[tokio::test]
async fn a_cancellation_reaches_the_server() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start("streams: { commit_after: 10ms }", move |seen| {
        (seen.tool() == "slow").then(|| Reply::after(&held, Reply::Cut))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let stream = client.post(&message::call(77, "slow")).await.stream();
    let cancel = message::notification("notifications/cancelled", r#"{"requestId":77}"#);
    assert_eq!(client.post(&cancel).await.answer().status, 202);
    let seen = recorder
        .wait_for("the cancellation", 1, |seen| seen.rpc() == "notifications/cancelled")
        .await;
    assert_eq!(seen[0].text(), cancel);
    assert_eq!(seen[0].header("mcp-session-id"), Some("server-session-1"));
    drop(stream);
    gate.open();
}

/// A server SHOULD NOT answer what was cancelled: its place is the next call's at once.
#[tokio::test]
async fn a_cancelled_call_holds_nobody_up() {
    let gate = Gate::new();
    let held = gate.clone();
    let (recorder, gateway) = start(
        "streams: { commit_after: 10ms }\nbulkheads: { user: { concurrency: 1, queue: 8 } }",
        move |seen| (seen.tool() == "slow").then(|| Reply::after(&held, Reply::Cut)),
    )
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let stream = client.post(&message::call(77, "slow")).await.stream();
    recorder.wait_for("the call", 1, |seen| seen.tool() == "slow").await;
    let cancel = message::notification("notifications/cancelled", r#"{"requestId":77}"#);
    assert_eq!(client.post(&cancel).await.answer().status, 202);
    let answer = client.call(78, "tool").await;
    assert!(answer.get("result").is_some(), "{answer}");
    drop(stream);
    gate.open();
}

/// Progress arrives as it is made, not with the answer.
#[tokio::test]
async fn progress_arrives_at_once() {
    let gates: Arc<[Gate]> = (0..3).map(|_| Gate::new()).collect();
    let held = Arc::clone(&gates);
    let (_recorder, gateway) = start("", move |seen| {
        if seen.tool() != "slow" {
            return None;
        }
        let mut steps = Vec::new();
        for (number, gate) in held.iter().enumerate() {
            let params = format!(r#"{{"progressToken":"t","progress":{number}}}"#);
            let note = message::notification("notifications/progress", &params);
            steps.extend([Step::Send(message::event(&note)), Step::Wait(gate.clone())]);
        }
        let answer = message::result(seen.id(), r#"{"content":[]}"#);
        steps.push(Step::Send(message::event(&answer)));
        Some(Reply::Stream(steps))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let params = r#"{"name":"slow","arguments":{},"_meta":{"progressToken":"t"}}"#;
    let mut stream = client.post(&message::request(1, "tools/call", params)).await.stream();
    for (number, gate) in gates.iter().enumerate() {
        // The server goes on only when this one has been seen.
        let message = stream.message().await.expect("progress");
        assert_eq!(message["params"]["progress"], number);
        gate.open();
    }
    assert!(stream.message().await.expect("the result").get("result").is_some());
}

/// A ping of the client's is answered, and one of the server's reaches the client.
#[tokio::test]
async fn pings_in_both_directions() {
    let (_recorder, gateway) = start("", |seen| {
        (seen.method == "GET").then(|| {
            let ping = message::event(&message::request(5, "ping", "{}"));
            Reply::Stream(vec![Step::Send(ping), Step::Wait(Gate::new())])
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    assert!(client.ask(1, "ping", "{}").await.get("result").is_some());
    let mut stream = client.get(None).await.stream();
    let ping = stream.find("the server's ping", |message| message["method"] == "ping").await;
    let answer = message::result(&ping["id"], "{}");
    assert_eq!(client.post(&answer).await.answer().status, 202);
}

/// A person may think for longer than a server may be silent: it is waiting, and so does everybody else.
#[tokio::test]
async fn the_time_that_a_client_takes_is_not_its_servers() {
    let answered = Gate::new();
    let held = answered.clone();
    let recorder = Recorder::scripted(move |seen| {
        (seen.tool() == "ask").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(SAMPLE)),
                Step::Wait(held.clone()),
                Step::Send(message::event(&message::result(seen.id(), r#"{"content":[]}"#))),
            ])
        })
    })
    .await;
    let settings = format!(r#"{{ url: "{}", timeout: 4s }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.post(&message::call(1, "ask")).await.stream();
    stream.find("the request", |it| it["method"] == "sampling/createMessage").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(client.post(&message::result(0, "{}")).await.answer().status, 202);
    answered.open();
    let answer = stream.message().await.expect("the result");
    assert!(answer.get("result").is_some(), "{answer}");
}

/// Once it has its answer, its time counts again.
#[tokio::test]
async fn a_server_that_is_silent_after_its_clients_answer_has_failed() {
    let never = Gate::new();
    let recorder = Recorder::scripted(move |seen| {
        let asks = [Step::Send(message::event(SAMPLE)), Step::Wait(never.clone())];
        (seen.tool() == "ask").then(|| Reply::Stream(asks.into()))
    })
    .await;
    let settings = format!(r#"{{ url: "{}", timeout: 2s }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.post(&message::call(1, "ask")).await.stream();
    stream.find("the request", |it| it["method"] == "sampling/createMessage").await;
    assert_eq!(client.post(&message::result(0, "{}")).await.answer().status, 202);
    let answer = stream.message().await.expect("an error");
    assert_eq!(answer["error"]["code"], -31005, "{answer}");
}

const PING: &str = r#"{"jsonrpc":"2.0","id":"p1","method":"ping"}"#;
const PONG: &str = r#"{"jsonrpc":"2.0","id":"p1","result":{}}"#;

/// A client without a session has no part in the one that it is lent: what the server asks there is the gateway's to
/// answer.
#[tokio::test]
async fn what_a_server_asks_in_a_session_that_is_lent_is_answered() {
    let answered = Gate::new();
    let (opens, held) = (answered.clone(), answered);
    let (recorder, gateway) = start("", move |seen| {
        if seen.text().contains(r#""id":0,"error""#) {
            opens.open();
        }
        (seen.tool() == "ask" && seen.header("mcp-session-id").is_some()).then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(PING)),
                Step::Send(message::event(SAMPLE)),
                Step::Wait(held.clone()),
                Step::Send(message::event(&message::result(seen.id(), r#"{"content":[]}"#))),
            ])
        })
    })
    .await;
    let client = Client::legacy(&gateway);
    let answer = client.call(1, "ask").await;
    assert!(answer.get("result").is_some(), "{answer}");
    recorder.wait_for("the answer to the ping", 1, |seen| seen.text() == PONG).await;
    let refused = recorder.wait_for("the refusal", 1, |seen| seen.text().contains("error")).await;
    assert!(refused[0].text().contains("-32601"), "{}", refused[0].text());
    assert!(refused[0].header("mcp-session-id").is_some());
}

/// A server that takes its time over the gateway's answer keeps nobody's place.
#[tokio::test]
async fn an_answer_of_the_gateways_own_holds_no_place() {
    let (asked, never) = (Gate::new(), Gate::new());
    let (opens, waits) = (asked.clone(), asked);
    let (_recorder, gateway) =
        start("bulkheads: { user: { concurrency: 1, queue: 0 } }", move |seen| {
            if seen.text() == PONG {
                opens.open();
                return Some(Reply::after(&never, Reply::Status(202)));
            }
            (seen.tool() == "ask" && seen.header("mcp-session-id").is_some()).then(|| {
                Reply::Stream(vec![
                    Step::Send(message::event(PING)),
                    Step::Wait(waits.clone()),
                    Step::Send(message::event(&message::result(seen.id(), r#"{"content":[]}"#))),
                ])
            })
        })
        .await;
    let client = Client::legacy(&gateway);
    for id in 1..=2 {
        let answer = client.call(id, "ask").await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
}

/// A server that asks whether anybody is there, and takes no answer, costs no more than so many.
#[tokio::test]
async fn the_gateways_own_answers_are_bounded() {
    let (feed, gate) = (Feed::new(), Gate::new());
    let (said, held) = (feed.clone(), gate.clone());
    let (recorder, gateway) = start("", move |seen| {
        if seen.text().contains(r#""result":{}"#) {
            return Some(Reply::after(&held, Reply::Status(202)));
        }
        (seen.method == "GET").then(|| Reply::Stream(vec![Step::Follow(said.clone(), 0)]))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let stream = client.get(None).await.stream();
    drop(stream);
    let answers = || {
        recorder.seen().into_iter().filter(|seen| seen.text().contains(r#""result":{}"#)).count()
    };
    let ping = |id: u32| feed.say(message::event(&PING.replace("p1", &format!("p{id}"))));
    within("an answer for nobody", async {
        while answers() == 0 {
            ping(1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    (2..=300).for_each(ping);
    let before = gateway.metric("holdfast_events_total").await;
    feed.say(message::event(&message::notification("notifications/message", "{}")));
    gateway.wait_metric("holdfast_events_total", |now| now > before).await;
    gate.open();
    let (before, mut id) = (answers(), 301);
    within("an answer, now that they are taken", async {
        while answers() <= before.max(64) {
            ping(id);
            id += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(answers() < 200, "{} answers", answers());
}

/// One that reads its stream answers for itself; where nobody reads it, the gateway says that it is there.
#[tokio::test]
async fn a_ping_is_answered_by_whoever_is_there() {
    let feed = Feed::new();
    let said = feed.clone();
    let (recorder, gateway) = start("", move |seen| {
        (seen.method == "GET").then(|| Reply::Stream(vec![Step::Follow(said.clone(), 0)]))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.get(None).await.stream();
    let ping = |id: usize| {
        let ping = PING.replace("p1", &format!("p{id}"));
        feed.say(message::event_with_id(&format!("e{id}"), &ping));
    };
    ping(1);
    stream.find("the ping", |it| it["method"] == "ping").await;
    assert_eq!(client.post(PONG).await.answer().status, 202);
    recorder.wait_for("its client's answer", 1, |seen| seen.text() == PONG).await;
    drop(stream);
    // Those that come before the client is missed wait for it.
    let last = within("an answer for nobody", async {
        for id in 2.. {
            ping(id);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let pong = PONG.replace("p1", &format!("p{id}"));
            if recorder.seen().iter().any(|seen| seen.text() == pong) {
                return id;
            }
        }
        unreachable!("ids do not end")
    })
    .await;
    // Nor does the server say it again when its stream is opened anew.
    feed.say(String::new());
    let resumed = |seen: &Seen| seen.method == "GET" && seen.header("last-event-id").is_some();
    let resumed = recorder.wait_for("the stream, opened anew", 1, resumed).await;
    assert_eq!(resumed[0].header("last-event-id"), Some(&*format!("e{last}")));
}

/// One that has asked its client something waits for that client: for one that is gone and cannot come back, no longer
/// than it is waited for itself.
#[tokio::test]
async fn nobody_is_waited_for_who_cannot_answer() {
    let never = Gate::new();
    let recorder = Recorder::scripted(move |seen| {
        let asks = [Step::Send(message::event(SAMPLE)), Step::Wait(never.clone())];
        (seen.tool() == "ask").then(|| Reply::Stream(asks.into()))
    })
    .await;
    let settings = format!(r#"{{ url: "{}", timeout: 2s }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    // Streams of this version have no ids to come back with.
    let client = Client::legacy(&gateway).speaking("2025-06-18").initialized().await;
    let mut stream = client.post(&message::call(1, "ask")).await.stream();
    stream.find("the request", |it| it["method"] == "sampling/createMessage").await;
    assert_eq!(stream.last_id, None);
    drop(stream);
    let mut framed = Duplex::websocket(gateway.address, "/mcp").await;
    framed.ask(&message::initialize(LEGACY)).await;
    framed.send(&message::notification("notifications/initialized", "{}")).await;
    framed.send(&message::call(1, "ask")).await;
    while framed.message().await.expect("the request")["method"] != "sampling/createMessage" {}
    drop(framed);
    gateway.wait_metric(r#"holdfast_server_in_flight{server_id="main"}"#, |it| it == 0.0).await;
    let ended = r#"mcp_errors_total{method="tools/call",server_id="main",error_type="timed_out"}"#;
    assert_eq!(gateway.metric(ended).await, 2.0);
}
