//! A server that breaks off in mid-call: resume where it can be resumed, repeat what may be
//! repeated, and otherwise say the truth. Never an empty 200.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::{client_with_tools, start};
use crate::harness::client::{Client, Posted};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::process::free_address;
use crate::harness::recorder::{Gate, Recorder, Reply, Seen, Step};

/// Answers one request in a way that is no answer.
type Break = fn(&Seen) -> Reply;

/// The first call of each tool breaks as `how` says; later ones are answered.
async fn breaking(how: Break) -> (Recorder, Gateway) {
    let broken = AtomicUsize::new(0);
    start("streams: { commit_after: 20ms }", move |seen| {
        let first = seen.rpc() == "tools/call" && broken.fetch_add(1, Ordering::SeqCst) == 0;
        first.then(|| how(seen))
    })
    .await
}

/// The ways to break: before a byte, in a head, in a JSON body, in a stream, after an event, and a
/// stream that ends properly but without the answer.
const WAYS: [(&str, Break); 7] = [
    ("no answer", |_| Reply::Cut),
    ("half a head", |_| Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-".to_vec())),
    ("half a body", |_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"resu"
                .to_vec(),
        )
    }),
    ("an empty body", |_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
        )
    }),
    ("an empty stream, cut", |_| Reply::Stream(vec![Step::Cut])),
    ("a stream cut after an event", |_| half_a_stream()),
    ("a stream that ends without the answer", |_| Reply::Stream(Vec::new())),
];

#[tokio::test]
async fn a_read_is_repeated() {
    for (what, how) in WAYS {
        let (recorder, gateway) = breaking(how).await;
        let client = client_with_tools(&gateway).await;
        let response = client.call(1, "read").await;
        assert_eq!(response["result"]["content"][0]["text"], "read done", "{what}: {response}");
        assert_eq!(response["id"], 1, "{what}");
        assert_eq!(recorder.calls("read").len(), 2, "{what}");
    }
}

/// In the middle of a stream.
fn half_a_stream() -> Reply {
    let note = message::notification("notifications/message", r#"{"level":"info","data":1}"#);
    Reply::Stream(vec![Step::Send(message::event(&note)), Step::Cut])
}

/// Whatever became of it before: three times, and not three times behind each stream that broke off.
#[tokio::test]
async fn a_read_is_sent_three_times_in_all() {
    let sent = AtomicUsize::new(0);
    let (recorder, gateway) = start("streams: { commit_after: 20ms }", move |seen| {
        (seen.tool() == "read").then(|| match sent.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Status(500),
            _ => half_a_stream(),
        })
    })
    .await;
    let client = client_with_tools(&gateway).await;
    outcome_unknown("half a stream", &client.call("\"r\"", "read").await, "r");
    assert_eq!(recorder.calls("read").len(), 3);
}

/// A server that loses its sessions with its streams is no reason to give a Read up.
#[tokio::test]
async fn a_read_whose_stream_broke_goes_on_in_another_session() {
    let sent = AtomicUsize::new(0);
    let (recorder, gateway) = start("streams: { commit_after: 20ms }", move |seen| {
        (seen.tool() == "read").then_some(())?;
        match sent.fetch_add(1, Ordering::SeqCst) {
            0 => Some(half_a_stream()),
            1 => Some(Reply::Status(404)),
            _ => None,
        }
    })
    .await;
    let client = client_with_tools(&gateway).await;
    let response = client.call(1, "read").await;
    assert_eq!(response["result"]["content"][0]["text"], "read done", "{response}");
    assert_eq!(recorder.calls("read").len(), 3);
}

/// So many repeats at once, and no more, when the streams of many calls break off.
#[tokio::test]
async fn reads_whose_streams_break_are_repeated_within_the_budget() {
    let (gate, seen) = (Gate::new(), Mutex::new(BTreeSet::new()));
    let held = gate.clone();
    let recorder = Recorder::scripted(move |call| {
        (call.tool() == "look").then(|| match seen.lock().unwrap().insert(call.id()) {
            true => half_a_stream(),
            false => {
                let answer = message::result(call.id(), r#"{"content":[]}"#);
                Reply::after(&held, Reply::json(answer))
            }
        })
    })
    .await;
    let settings = format!(
        r#"{{ url: "{}", tools: {{ look: read }}, breaker: {{ enabled: false }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new()
        .server("main", &settings)
        .section("retry_budget: { share: 0, at_least: 3 }")
        .start()
        .await;
    let client = Client::modern(&gateway);
    let calls: Vec<_> = (0..8)
        .map(|id| {
            let client = client.clone();
            tokio::spawn(async move { client.call(id, "look").await })
        })
        .collect();
    let denied = r#"holdfast_repeats_denied_total{server_id="main"}"#;
    gateway.wait_metric(denied, |it| it == 5.0).await;
    assert_eq!(recorder.calls("look").len(), 8 + 3);
    gate.open();
    let mut good = 0;
    for call in calls {
        let answer = call.await.unwrap();
        good += usize::from(answer.get("result").is_some());
    }
    assert_eq!(good, 3);
}

/// A list is a Read by its method.
#[tokio::test]
async fn a_list_is_repeated() {
    let broken = AtomicUsize::new(0);
    let (recorder, gateway) = start("", move |seen| {
        let first = seen.rpc() == "prompts/list" && broken.fetch_add(1, Ordering::SeqCst) == 0;
        first.then_some(Reply::Cut)
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let response = client.ask(1, "prompts/list", "{}").await;
    assert!(response.get("result").is_some(), "{response}");
    assert_eq!(recorder.rpc("prompts/list").len(), 2);
}

#[tokio::test]
async fn a_write_is_never_repeated() {
    for (what, how) in WAYS {
        let (recorder, gateway) = breaking(how).await;
        let client = client_with_tools(&gateway).await;
        let response = client.call("\"w\"", "write").await;
        outcome_unknown(what, &response, "w");
        assert_eq!(recorder.calls("write").len(), 1, "{what}");
    }
}

/// An unknown tool and an unknown method are Writes.
#[tokio::test]
async fn what_is_not_known_is_a_write() {
    let (recorder, gateway) = start("", |seen| {
        (seen.rpc() == "tools/call" || seen.rpc() == "x/unknown").then_some(Reply::Cut)
    })
    .await;
    let client = client_with_tools(&gateway).await;
    outcome_unknown("a tool", &client.call("\"a\"", "never-listed").await, "a");
    outcome_unknown("a method", &client.ask("\"b\"", "x/unknown", "{}").await, "b");
    assert_eq!(recorder.calls("never-listed").len(), 1);
    assert_eq!(recorder.rpc("x/unknown").len(), 1);
}

#[tokio::test]
async fn annotations_do_not_count_where_they_are_not_trusted() {
    let recorder = Recorder::scripted(|seen| (seen.tool() == "read").then_some(Reply::Cut)).await;
    let settings = format!(r#"{{ url: "{}", trust_annotations: false }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = client_with_tools(&gateway).await;
    outcome_unknown("untrusted", &client.call("\"a\"", "read").await, "a");
    assert_eq!(recorder.calls("read").len(), 1);
}

#[tokio::test]
async fn the_configuration_says_what_a_tool_is() {
    let broken = AtomicUsize::new(0);
    let recorder = Recorder::scripted(move |seen| {
        let first = seen.tool() == "query" && broken.fetch_add(1, Ordering::SeqCst) == 0;
        first.then_some(Reply::Cut)
    })
    .await;
    let settings = format!(r#"{{ url: "{}", tools: {{ query: read }} }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let response = client.call(1, "query").await;
    assert!(response.get("result").is_some(), "{response}");
    assert_eq!(recorder.calls("query").len(), 2);
}

/// The modern era: the same rules.
#[tokio::test]
async fn modern_calls_follow_the_same_rules() {
    let first_read = AtomicUsize::new(0);
    let (recorder, gateway) = start("", move |seen| match seen.tool().as_str() {
        "read" => (first_read.fetch_add(1, Ordering::SeqCst) == 0).then_some(Reply::Cut),
        "write" => Some(Reply::Cut),
        _ => None,
    })
    .await;
    let client = Client::modern(&gateway);
    let list = message::request(1, "tools/list", &format!("{{{}}}", message::META));
    client.post(&list).await.response().await;
    let response = client.call(2, "read").await;
    assert_eq!(response["result"]["content"][0]["text"], "read done", "{response}");
    outcome_unknown("modern", &client.call("\"w\"", "write").await, "w");
    assert_eq!(recorder.calls("write").len(), 1);
}

/// A stream with event ids is resumed at the server, whatever the class: nothing is called again.
#[tokio::test]
async fn a_stream_with_ids_is_resumed_at_the_server() {
    let (recorder, gateway) = start("streams: { commit_after: 20ms }", |seen| {
        if seen.tool() == "write" {
            return Some(Reply::Stream(vec![
                Step::Send("id: here-1\nretry: 10\ndata: \n\n".into()),
                Step::Cut,
            ]));
        }
        (seen.header("last-event-id") == Some("here-1")).then(|| {
            let answer = message::result(1, r#"{"content":[{"type":"text","text":"resumed"}]}"#);
            Reply::Stream(vec![Step::Send(message::event_with_id("here-2", &answer))])
        })
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let response = client.call(1, "write").await;
    assert_eq!(response["result"]["content"][0]["text"], "resumed", "{response}");
    assert_eq!(recorder.calls("write").len(), 1);
    let resumed = recorder.wait_for("a resume", 1, |seen| seen.method == "GET").await;
    assert_eq!(resumed[0].header("mcp-session-id"), Some("server-session-1"));
}

/// What runs nothing again takes nothing of the budget.
#[tokio::test]
async fn a_stream_is_resumed_at_the_server_where_nothing_is_repeated() {
    let (recorder, gateway) = start("retry_budget: { attempts: 1, at_least: 0 }", |seen| {
        if seen.tool() == "read" {
            return Some(Reply::Stream(vec![
                Step::Send("id: here-1\nretry: 10\ndata: \n\n".into()),
                Step::Cut,
            ]));
        }
        (seen.header("last-event-id") == Some("here-1")).then(|| {
            let answer = message::result(1, r#"{"content":[{"type":"text","text":"resumed"}]}"#);
            Reply::Stream(vec![Step::Send(message::event_with_id("here-2", &answer))])
        })
    })
    .await;
    let client = client_with_tools(&gateway).await;
    let response = client.call(1, "read").await;
    assert_eq!(response["result"]["content"][0]["text"], "resumed", "{response}");
    assert_eq!(recorder.calls("read").len(), 1);
    assert_eq!(gateway.metric(r#"holdfast_repeats_denied_total{server_id="main"}"#).await, 0.0);
}

/// A server that closes its primed stream on purpose (SEP-1699 polling) is not a broken one: the
/// client polls as it would without a gateway, and the call runs once.
#[tokio::test]
async fn polling_goes_on_until_the_answer() {
    let polls = AtomicUsize::new(0);
    let (recorder, gateway) = start("", move |seen| {
        if seen.tool() == "write" {
            return Some(Reply::Stream(vec![Step::Send("id: p-0\nretry: 10\ndata: \n\n".into())]));
        }
        seen.header("last-event-id")?;
        let number = polls.fetch_add(1, Ordering::SeqCst) + 1;
        let text = match number {
            1 | 2 => format!("id: p-{number}\nretry: 10\ndata: \n\n"),
            _ => message::event_with_id("p-3", &message::result(1, r#"{"content":[]}"#)),
        };
        Some(Reply::Stream(vec![Step::Send(text)]))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    let mut stream = client.post(&message::call(1, "write")).await.stream();
    let response = crate::harness::within("the answer", async {
        loop {
            if let Some(message) = stream.message().await {
                return message;
            }
            let id = stream.last_id.clone().expect("an id to come back with");
            stream = client.get(Some(&id)).await.stream();
        }
    })
    .await;
    assert!(response.get("result").is_some(), "{response}");
    assert_eq!(response["id"], 1);
    assert_eq!(recorder.calls("write").len(), 1);
    let asked: Vec<String> = recorder
        .seen()
        .iter()
        .filter_map(|seen| seen.header("last-event-id").map(str::to_owned))
        .collect();
    assert_eq!(asked, ["p-0", "p-1", "p-2"]);
}

/// When resuming fails as well, the truth is told.
#[tokio::test]
async fn a_resume_that_fails_is_an_unknown_outcome() {
    let (recorder, gateway) = start("", |seen| {
        if seen.tool() == "write" {
            return Some(Reply::Stream(vec![
                Step::Send("id: here-1\nretry: 10\ndata: \n\n".into()),
                Step::Cut,
            ]));
        }
        seen.header("last-event-id").map(|_| Reply::Status(404))
    })
    .await;
    let client = Client::legacy(&gateway).initialized().await;
    outcome_unknown("resume", &client.call("\"w\"", "write").await, "w");
    assert_eq!(recorder.calls("write").len(), 1);
}

/// After a repeat, progress only rises.
#[tokio::test]
async fn progress_does_not_fall_after_a_repeat() {
    let attempts = AtomicUsize::new(0);
    let (_recorder, gateway) = start("streams: { commit_after: 20ms }", move |seen| {
        if seen.tool() != "read" {
            return None;
        }
        let progress = |number: u32| {
            let params = format!(r#"{{"progressToken":"t","progress":{number},"total":9}}"#);
            Step::Send(message::event(&message::notification("notifications/progress", &params)))
        };
        Some(Reply::Stream(match attempts.fetch_add(1, Ordering::SeqCst) {
            0 => vec![progress(1), progress(2), progress(3), Step::Cut],
            _ => vec![
                progress(1),
                progress(2),
                progress(3),
                progress(4),
                Step::Send(message::event(&message::result(seen.id(), r#"{"content":[]}"#))),
            ],
        }))
    })
    .await;
    let client = client_with_tools(&gateway).await;
    let params = r#"{"name":"read","arguments":{},"_meta":{"progressToken":"t"}}"#;
    let body = message::request(1, "tools/call", params);
    let (messages, _) = client.post(&body).await.stream().into_end().await;
    let progress: Vec<f64> =
        messages.iter().filter_map(|it| it["params"]["progress"].as_f64()).collect();
    assert_eq!(progress, [1.0, 2.0, 3.0, 4.0]);
    assert!(messages.last().unwrap().get("result").is_some());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let gateway = Setup::http(&format!("http://{}/mcp", free_address())).start().await;
    let answer = Client::legacy(&gateway).initialize().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    unavailable(&answer.json(), "init");
    unavailable(&Client::modern(&gateway).call("\"m\"", "write").await, "m");
}

/// Answers that are no MCP: HTML from something in between, a 5xx, a redirect.
#[tokio::test]
async fn what_is_no_answer_becomes_one() {
    let replies: [fn() -> Reply; 4] = [
        || {
            Reply::Raw(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_vec())
        },
        || {
            Reply::Raw(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
                    .to_vec(),
            )
        },
        || {
            Reply::Raw(b"HTTP/1.1 302 Found\r\nLocation: http://evil.example.com/\r\nContent-Length: 0\r\n\r\n".to_vec())
        },
        || Reply::Status(500),
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let (recorder, gateway) = start("", move |seen| (seen.tool() == "write").then(reply)).await;
        let client = Client::legacy(&gateway).initialized().await;
        let posted = client.post(&message::call("\"w\"", "write")).await;
        let Posted::Answer(answer) = posted else { panic!("{number}: a stream") };
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
        let response = answer.json();
        assert_eq!(response["id"], "w", "{number}: {response}");
        assert!(response["error"]["code"].as_i64().unwrap() <= -31001, "{number}: {response}");
        assert_eq!(response["error"]["data"]["mayHaveRun"], true, "{number}: {response}");
        assert_eq!(recorder.calls("write").len(), 1, "{number}");
    }
}

/// A silent server is given up on after its time, and the client hears of it.
#[tokio::test]
async fn a_silent_server_times_out() {
    let gate = Gate::new();
    let recorder = Recorder::scripted({
        let gate = gate.clone();
        move |seen| (seen.tool() == "write").then(|| Reply::after(&gate, Reply::Cut))
    })
    .await;
    let settings = format!(r#"{{ url: "{}", timeout: 1s }}"#, recorder.url());
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let response = client.call("\"w\"", "write").await;
    assert_eq!(response["error"]["code"], -31005, "{response}");
    assert_eq!(response["id"], "w");
    assert_eq!(recorder.calls("write").len(), 1);
}

fn outcome_unknown(what: &str, response: &Value, id: &str) {
    assert_eq!(response["error"]["code"], -31002, "{what}: {response}");
    assert_eq!(response["id"], id, "{what}: {response}");
    assert_eq!(response["error"]["data"]["server"], "main", "{what}: {response}");
}

fn unavailable(response: &Value, id: &str) {
    assert_eq!(response["error"]["code"], -31001, "{response}");
    assert_eq!(response["id"], id, "{response}");
}
