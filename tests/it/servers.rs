//! Servers that fail: slow, wrong, half-dead and gone. What their clients see, that no Write runs
//! twice, and that nobody else notices.

mod alone;
mod hash;
mod kinds;
mod measures;
mod moves;
mod nodes;
mod quarantine;
mod rates;
mod replicas;
mod stand_ins;
mod unsent;

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::message;
use crate::harness::sample::Sample;
use crate::harness::wire::Conn;

/// How many calls a test makes that counts successes: few in CI, `HOLDFAST_IT_CALLS` by hand.
fn calls() -> usize {
    std::env::var("HOLDFAST_IT_CALLS").ok().and_then(|it| it.parse().ok()).unwrap_or(600)
}

/// A sample server that meets every call of tools with this fault.
async fn faulty(fault: &str) -> Sample {
    let rule = format!(r#"{{"method":"tools/call","always":true,"fault":{fault}}}"#);
    Sample::start(&["--behaviour", &rule]).await
}

fn url(sample: &Sample) -> String {
    format!("http://{}/mcp", sample.address)
}

/// Two replicas, with further settings of their server.
fn pair(one: &Sample, other: &Sample, settings: &str) -> String {
    format!(
        r#"{{ instances: [ {{ id: a, url: "{}" }}, {{ id: b, url: "{}" }} ]{settings} }}"#,
        url(one),
        url(other)
    )
}

fn write(id: usize, key: &str) -> String {
    let meta = message::META;
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}"}},{meta}}}"#);
    message::request(id, "tools/call", &params)
}

/// The same as a session has it.
fn write_in_session(id: usize, key: &str) -> String {
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}"}}}}"#);
    message::request(id, "tools/call", &params)
}

/// Makes so many Reads over a few connections that are kept; how many had their result, and the first
/// answer that was none.
async fn reads(client: &Client, count: usize) -> (usize, Option<Value>) {
    const CONNECTIONS: usize = 8;
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|worker| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut conn = Conn::open(client.address).await;
                let (mut good, mut bad) = (0, None);
                for number in 0..count.div_ceil(CONNECTIONS) {
                    let id = worker * 1_000_000 + number;
                    let body = message::modern_call(id, "echo");
                    let answer = conn.exchange(client.request("POST", &[], Some(&body))).await;
                    let answer: Value = message_of(&answer.text());
                    assert_eq!(answer["id"], id, "{answer}");
                    match answer.get("result") {
                        Some(_) => good += 1,
                        None => bad = bad.or(Some(answer)),
                    }
                }
                (good, bad)
            })
        })
        .collect();
    let (mut good, mut bad) = (0, None);
    for worker in workers {
        let (some, none) = worker.await.expect("a worker that ends");
        good += some;
        bad = bad.or(none);
    }
    (good, bad)
}

/// A call was refused under this code: it did not run, and is told when to come back.
fn refused(answer: &Value, code: i64) {
    assert_eq!(answer["error"]["code"], code, "{answer}");
    assert_eq!(answer["error"]["data"]["mayHaveRun"], false, "{answer}");
    let wait = answer["error"]["data"]["retryAfterMs"].as_u64();
    assert!(wait.is_some_and(|wait| wait > 0), "{answer}");
}

/// The JSON-RPC message of a response, whether it is JSON or a stream of one event.
fn message_of(text: &str) -> Value {
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(text);
    serde_json::from_str(data).unwrap_or_else(|_| panic!("no message: {text}"))
}
